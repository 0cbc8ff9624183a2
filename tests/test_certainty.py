"""What a report says of how sure its answer is, after an evaluation of whatever outcome."""

from __future__ import annotations

import datetime
import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest
from made import made_study, made_trial
from test_report import check_page, here, studied
from tiny import read_json, tiny_config

from search.certainty import read_certainty
from search.cli import main
from search.entries import read_entries
from search.report import summarize
from search.reporting import report
from search.stored_study import LOOKS, StoredStudy
from search.trial_files import RESULT

__all__ = ["here", "studied"]


def retrained(stored: StoredStudy, result: dict[str, Any]) -> None:
    """Writes the result of a retraining, as an evaluation leaves it."""
    folder = stored.folder / "evaluation" / f"{result['trial']}-{result['seed']}"
    folder.mkdir(parents=True)
    (folder / RESULT).write_text(json.dumps(result))


def test_report_after_an_evaluation(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The winner is the answer, with the test figure that was recorded; nothing looks again."""
    options = ["--top", "2", "--seeds", "2", "--workers", "1", "--json"]
    assert main(["evaluate", "tiny", *options]) == 0
    found = read_json(capsys.readouterr().out)
    assert main(["report", "tiny", "--json", "--out", "out"]) == 0
    said = read_json(capsys.readouterr().out)
    assert said["answer"] == found["winner"]
    _, text = check_page(here / "out")
    mean, std = f"{found['test']['mean']:.4g}", f"{found['test']['std']:.4g}"
    assert f"#{found['winner']} of 4 trials, the winner of an evaluation: test rmse {mean}" in text
    assert f"± {std} over 2 seeds" in text
    naive = min(figures["rmse"] for figures in found["test"]["baselines"].values())
    assert re.search(rf"naive method.* (has|with) {naive:.4g}\.", text)
    assert f"{found['valid']['mean']:.4g} ± {found['valid']['std']:.4g}" in text
    assert "rnn-search evaluate tiny --top 2 --seeds 2" in text
    assert main(["show", "tiny"]) == 0
    said = f"Evaluated: #{found['winner']} won; test rmse {mean} ± {std} over 2 seeds"
    assert said in capsys.readouterr().out
    assert main(["evaluate", "tiny", *options]) == 0
    assert read_json(capsys.readouterr().out)["looks"] == found["looks"], "neither has looked again"


def test_trials_after_an_evaluation_are_said(tmp_path: Path) -> None:
    """Whoever goes on after an evaluation reads that its answer knows nothing of that."""
    config = tiny_config(tmp_path)
    trials = [made_trial(config, n, valid=[0.5 - 0.1 * (n == 2)]) for n in range(3)]
    stored = made_study(tmp_path, trials)
    look = {"trial": 1, "seeds": [5], "metric": "rmse", "mean": 0.5, "std": None, "ensemble": 0.5}
    ended = [trial.datetime_complete for trial in stored.trials()]
    for time, said in (
        (ended[1], "1 trial has ended since it began, and the best of all, #2, was not in it"),
        (ended[2], ""),
    ):
        assert time is not None
        when = time.astimezone(datetime.UTC).isoformat()
        stored.study.set_user_attr(LOOKS, [{**look, "time": when}])
        report(stored, tmp_path / "out")
        _, text = check_page(tmp_path / "out")
        assert ("since it began" in text) == bool(said)
        assert said in text
    stored.study.set_user_attr(LOOKS, [{**look, "time": when, "trials": 1}])
    report(stored, tmp_path / "out")
    assert "2 trials have ended since it began, and" in check_page(tmp_path / "out")[1]


def test_retrainings_that_diverged_are_said(tmp_path: Path) -> None:
    """What diverged when it was trained again counts against the search, and is counted."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0, valid=[0.25])])
    look = {
        "time": "2099-01-01T00:00:00+00:00",
        "trial": 0,
        "seeds": [5, 6],
        "candidates": [{"trial": 0, "complete": 2, "failed": 3}],
        "metric": "rmse",
        "mean": 0.375,
        "std": 0.0,
        "ensemble": 0.375,
    }
    stored.study.set_user_attr(LOOKS, [look])
    for seed, code in ((5, "new"), (6, "new"), (7, "old")):
        result = {"trial": 0, "seed": seed, "outcome": "complete", "figures": {"rmse": 0.375}}
        retrained(stored, {**result, "surroundings": {"factory": code}})
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "won an evaluation on 2 seeds, 3 more diverged or failed (2099" in text
    assert "The search was optimistic: its best trial, #0, had a validation rmse of 0.5;" in text
    assert "0.375 on average of 2 seeds, and diverged or failed on 3 seeds." in text
    assert "the same on 2 other seeds (3 more diverged or failed)" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([0.6, 0.7, 0.8], "Whether the search was optimistic, 3 seeds cannot say"),
        ([0.7, 0.8, 0.9], "The search was optimistic"),
        ([0.1, 0.2, 0.3], "The search was not optimistic"),
        ([0.2, 0.3, 0.4], "Whether the search was optimistic, 3 seeds cannot say"),
        ([0.9], "Whether the search was optimistic, 1 seed cannot say"),
    ],
)
def test_optimism_is_judged_beside_the_noise_of_a_mean(
    tmp_path: Path, values: list[float], said: str
) -> None:
    """What the search had must be further from the retrainings' mean than chance explains."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0, valid=[0.25])])
    look = {"time": "2099-01-01T00:00:00+00:00", "trial": 0, "seeds": [*range(len(values))]}
    figures = {"metric": "rmse", "mean": 0.5, "std": 0.25, "ensemble": 0.5, "trials": 1}
    stored.study.set_user_attr(LOOKS, [{**look, **figures}])
    for seed, value in enumerate(values):
        result = {"trial": 0, "seed": seed, "outcome": "complete", "figures": {"rmse": value}}
        retrained(stored, result)
    sentences = read_certainty(stored, summarize(stored), read_entries(stored)).sentences
    mean = statistics.fmean(values)
    had = "its best trial, #0, had a validation rmse of 0.5; trained again it has"
    assert f"{said}: {had} {mean:.4g} on average." in sentences


def test_nothing_is_left_of_the_best(tmp_path: Path) -> None:
    """If the best trial diverges with every other seed, its figure was luck, and that is said."""
    stored = made_study(
        tmp_path, [made_trial(tiny_config(tmp_path), n, valid=[0.25 + n]) for n in range(2)]
    )
    look = {"time": "2099-01-01T00:00:00+00:00", "trial": 1, "seeds": [5], "metric": "rmse"}
    lost = {"trial": 0, "complete": 0, "failed": 3}
    figures = {"mean": 0.5, "std": None, "ensemble": 0.5, "candidates": [lost], "trials": 2}
    stored.study.set_user_attr(LOOKS, [{**look, **figures}])
    earlier = {"study": "old", "time": "then", "metric": "rmse", "mean": 0.75, "trial": 7}
    stored.remember(fork={"study": "old", "taken": 0, "of": 9, "looks": [earlier]})
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "The search was optimistic: its best trial, #0, had a validation rmse of 0.5;" in text
    assert "its 3 retrainings all diverged or failed." in text
    assert "look 2 at the test part; only the first (0.75, #7 of 'old') is quite honest." in text
    assert "since it began" not in text


def test_looks_without_baselines_are_shown(tmp_path: Path) -> None:
    """Evaluations that recorded no baselines of the test part are shown without them."""
    config = tiny_config(tmp_path)
    stored = made_study(tmp_path, [made_trial(config, n) for n in range(2)])
    look = {
        "time": "2026-01-01T00:00:00+00:00",
        "trial": 1,
        "seeds": [5, 6],
        "metric": "rmse",
        "mean": 0.5,
        "std": 0.25,
        "ensemble": 0.4,
    }
    stored.study.set_user_attr(LOOKS, [look, {**look, "mean": 0.75}])
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert (
        "#1 of 2 trials, the winner of an evaluation: test rmse 0.75 ± 0.25 over 2 seeds." in text
    )
    assert "This was look 2 at the test part; only the first (0.5, #1) is quite honest." in text
