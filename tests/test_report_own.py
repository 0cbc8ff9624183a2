"""`rnn-search report` of studies with the user's own network, entries and columns, or none."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from made import made_study, made_trial
from optuna.trial import create_trial
from rich.console import Console
from test_entries import entry
from test_report import check_page
from test_storage import ATTRIBUTES
from tiny import tiny_config

from search.certainty import read_certainty
from search.cli import main
from search.dimensions import Dimension, Fixed
from search.display import print_summary
from search.entries import read_entries
from search.evaluation import choose_candidates
from search.notes import study_note, trial_note
from search.report import headline_of, summarize
from search.reporting import report
from search.space_pictures import assign_lanes
from search.storage import create_study
from search.stored_study import LOOKS
from search.trial_files import RESULT

OWN: dict[str, Any] = {
    "model": {"factory": "package.module:build"},
    "space": {
        "kernel_size": {"low": 2, "high": 5},
        "attention": [True, False],
        "gain": {"low": -1.0, "high": 0.0},
        "padding": ["same", "causal"],
        "heads": 4,
    },
}

THEN = "2099-01-01T00:00:00+00:00"
"""After the trials that `made_trial` makes."""


def test_own_network_and_entries(tmp_path: Path) -> None:
    """Own entries have their column, axis and ends; commands say that the code is trusted."""
    config = tiny_config(tmp_path, **OWN)
    params = [
        {"kernel_size": 5, "attention": True, "gain": -1.0, "padding": "same"},
        {"kernel_size": 3, "attention": False, "gain": -0.5, "padding": "causal"},
    ]
    trials = [
        made_trial(config, number, valid=[0.5 + number / 10], params=one)
        for number, one in enumerate(params)
    ]
    report(made_study(tmp_path, trials, **OWN), tmp_path / "out")
    _, written = check_page(tmp_path / "out")
    text = written.replace("\\", "")
    assert "The data that it was trained" not in text, "an earlier version did not store it"
    assert "| attention | gain | heads | kernel_size | padding | finding |" in text
    assert "| yes | -1 | 4 | 5 | same | " in text
    assert "better may lie beyond: gain -1, kernel size 5." in text
    for command in ("run tiny.toml --workers 1 --device cpu", "evaluate tiny", "replay tiny 0"):
        assert f"rnn-search {command} --trust-code\n" in text
    assert "rnn-search export tiny model --trial 0 --trust-code\n" in text
    assert "How much: rnn-search evaluate tiny --trust-code" in text


def test_nothing_is_searched(tmp_path: Path) -> None:
    """A study whose every hyperparameter is fixed has its report, which says so."""
    given = tiny_config(tmp_path).space
    space: dict[str, object] = {name: _one_of(dimension) for name, dimension in given.items()}
    config = tiny_config(tmp_path, space=space)
    assert all(isinstance(dimension, Fixed) for dimension in config.space.values())
    trials = [made_trial(config, number, valid=[0.5 + number / 10]) for number in range(3)]
    report(made_study(tmp_path, trials, space=space), tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "Every hyperparameter is fixed, so there is nothing to compare." in text


def _one_of(dimension: Dimension) -> object:
    return {"fixed": dimension.clip(8)} if not hasattr(dimension, "values") else dimension.values[0]


@pytest.mark.parametrize(
    ("again", "says"),
    [
        ((0.9, 0.8, 0.9), "The search was optimistic"),
        ((0.1, 0.2, 0.1), "The search was not optimistic"),
        ((0.9, 0.3, 0.6), "Whether the search was optimistic, 3 seeds cannot say"),
        ((0.9,), "Whether the search was optimistic, 1 seed cannot say"),
    ],
)
def test_optimism_has_a_direction(again: tuple[float, ...], says: str, tmp_path: Path) -> None:
    """A search was optimistic if its best trial, trained again, is worse beyond seeds' noise."""
    config = tiny_config(tmp_path)
    stored = made_study(tmp_path, [made_trial(config, n, valid=[0.25]) for n in range(2)])
    look = {"time": THEN, "trial": 0, "seeds": [5], "metric": "rmse"}
    stored.study.set_user_attr(LOOKS, [{**look, "mean": 0.5, "std": 0.1, "ensemble": 0.4}])
    for seed, value in enumerate(again):
        folder = stored.folder / "evaluation" / f"0-{seed}"
        folder.mkdir(parents=True)
        figures = f'{{"rmse": {value}}}'
        (folder / RESULT).write_text(f'{{"trial": 0, "outcome": "complete", "figures": {figures}}}')
    sentences = read_certainty(stored, summarize(stored), read_entries(stored)).sentences
    assert f"{says}: its best trial, #0, had a validation rmse of 0.5;" in sentences[1]


@pytest.mark.parametrize("std", [None, 0.0])
def test_one_seed_has_no_spread(std: float | None, tmp_path: Path) -> None:
    """An evaluation on one seed is told without a deviation; older ones have recorded none as 0."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0, valid=[0.25])])
    look = {"time": THEN, "trial": 0, "seeds": [5], "metric": "rmse", "mean": 0.5}
    stored.study.set_user_attr(LOOKS, [{**look, "std": std, "ensemble": 0.5}])
    folder = stored.folder / "evaluation" / "0-5"
    folder.mkdir(parents=True)
    figures = '{"rmse": 0.375}'
    (folder / RESULT).write_text(f'{{"trial": 0, "outcome": "complete", "figures": {figures}}}')
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "test rmse 0.5 over 1 seed." in text
    assert f"won an evaluation on 1 seed ({THEN}). Test rmse: 0.5; of one seed" in text
    assert re.search(r"the same on 1 other seed *\| *0.375", text)
    assert "±" not in text


def test_the_look_at_the_test_part_has_its_table(tmp_path: Path) -> None:
    """Seeds' mean and deviation, their ensemble, the baselines; of older looks what there is."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0, valid=[0.25])])
    each = [{"rmse": value, "mae": value / 2} for value in (0.5, 0.7)]
    look = {"time": THEN, "trial": 0, "seeds": [5, 6], "metric": "rmse", "mean": 0.6, "std": 0.1414}
    told = {"figures": {"seeds": each, "ensemble": {"rmse": 0.55, "mae": 0.25}}, "ensemble": 0.55}
    naive = {"baselines": {"seasonal_naive": 0.8}}
    both = {"baseline_figures": {"seasonal_naive": {"rmse": 0.8, "mae": 0.375}}}
    stored.study.set_user_attr(LOOKS, [{**look, **told, **naive, **both}])
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    test = text.partition("Test figures")[2]
    assert re.search(r"#0 on 2 seeds\*\* *\| \*\*0.6 ± 0.1414\*\* *\| \*\*0.3 ± 0.07071", test)
    assert re.search(r"the seeds' ensemble *\| 0.55 *\| 0.25", test)
    assert re.search(r"seasonal naive *\| 0.8 *\| 0.375", test)
    for known, cell in (({**told, **naive}, r"seasonal naive *\| 0.8 *\| *\|"), (naive, None)):
        stored.study.set_user_attr(LOOKS, [{**look, "ensemble": 0.55, **known}])
        report(stored, tmp_path / "out")
        older = check_page(tmp_path / "out")[1].partition("Test figures")[2]
        assert re.search(cell, older) if cell else not older


def test_columns_in_notes_and_tables_are_plain(tmp_path: Path) -> None:
    """What a file's columns and a storage's folders are called is neither Markdown nor markup."""
    figures = {"loss": 0.5, "rmse": 0.5, "rmse_![x](http://there)": 0.5}
    trial = made_trial(tiny_config(tmp_path), 0, valid=[0.5], figures=figures)
    stored = made_study(tmp_path, [trial])
    summary = summarize(stored)
    for note in (study_note(summary), trial_note(summary.ranking[0], "loss", None)):
        assert r"\!\[x\]\(http://there\)" in note
    screen = io.StringIO()
    place = "postgresql://me@there/[old]"
    print_summary(Console(file=screen, width=500), replace(summary, storage=place))
    assert f"forecast, {place})" in screen.getvalue()


def test_choices_and_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    """A choice with dollars is no formula, and a long name is cut short, in the pictures."""
    long = "a_name_of_no_fewer_than_forty_characters"
    model = {"model": {"factory": "package.module:build"}}
    own = {**model, "space": {"sign": ["$_$", "a"], long: {"low": 1, "high": 9}}}
    config = tiny_config(tmp_path, **own)
    trials = [
        made_trial(config, at, valid=[0.5 + at / 10], params={"sign": "$_$", long: 1 + at % 9})
        for at in range(30)
    ]
    report(made_study(tmp_path, trials, **own), tmp_path / "out")
    check_page(tmp_path / "out")


def test_a_study_of_another_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study whose configuration or name nobody here understands is named beside the others."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0)])
    other = stored.config.model_copy(update={"name": "newer"})
    newer = create_study(stored.database, other, ATTRIBUTES)
    newer.remember(config={**other.resolved(), "shape": "of a newer version"})
    optuna.copy_study(
        from_study_name="tiny",
        from_storage=stored.database.storage,
        to_storage=stored.database.storage,
        to_study_name="twin",
    )
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    output, errors = capsys.readouterr()
    assert "tiny" in output
    first, second = errors.splitlines()
    assert first.startswith("rnn-search: not shown: study newer in ")
    assert "unknown key 'shape'" in first
    assert "the study 'twin' in" in second
    assert "is 'tiny' under another name" in second
    assert main(["resume", "twin"]) == 2
    assert "under another name" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [True, False])
def test_a_trial_of_a_script(
    whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What somebody's own Optuna script has added is shown as far as it goes, and the best."""
    config = tiny_config(tmp_path)
    ours = made_trial(config, 0, valid=[0.5])
    kept = {name: value for name, value in ours.params.items() if whole or name == "epochs"}
    kept["epochs"] = 2
    theirs = create_trial(
        value=0.1, params=kept, distributions={name: ours.distributions[name] for name in kept}
    )
    stored = made_study(tmp_path, [ours])
    stored.study.add_trial(theirs)
    monkeypatch.chdir(tmp_path)
    assert main(["show", "tiny"]) == 0
    assert re.search(r"#1 +0\.1|#1 +-", capsys.readouterr().out)
    assert main(["show", "tiny", "1"]) == 0
    assert main(["list"]) == 0
    assert re.search(r"tiny .* #1 +rmse -", capsys.readouterr().out)
    report(stored, tmp_path / "out")
    check_page(tmp_path / "out")
    assert [one.trial for one in choose_candidates(stored, 3)] == ([1, 0] if whole else [0])


def test_a_fork_is_not_made_again_by_its_file(tmp_path: Path) -> None:
    """The report of a fork says whose trials it has, and not that it can be had from nothing."""
    along = made_trial(tiny_config(tmp_path), 0, seconds=9000.0, forked_from=["first", 0])
    stored = made_study(tmp_path, [along])
    stored.remember(fork={"study": "first", "taken": 1, "of": 3})
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert "It began with 1 trial of 'first'" in text.replace("\\", "")
    assert "from nothing" not in text
    assert "Not counted: what 1 trial taken along had cost before." in text
    assert "No trial of its own is over yet." in text


@pytest.mark.parametrize(
    ("keep", "looked", "option"),
    [(5, False, "--trial 0"), (5, True, "--ensemble"), (0, True, "--ensemble"), (0, False, "")],
)
def test_the_export_that_is_offered_is_possible(
    keep: int, looked: bool, option: str, tmp_path: Path
) -> None:
    """It is the winner's networks after an evaluation, else the trial's, if they are kept."""
    stored = made_study(tmp_path, [made_trial(tiny_config(tmp_path), 0)], keep=keep)
    look = {"time": THEN, "trial": 0, "seeds": [5], "metric": "rmse"}
    if looked:
        stored.study.set_user_attr(LOOKS, [{**look, "mean": 0.5, "std": 0.1, "ensemble": 0.4}])
    report(stored, tmp_path / "out")
    _, text = check_page(tmp_path / "out")
    assert (f"rnn-search export tiny model {option}\n" in text) is bool(option)
    assert ("rnn-search export" in text) is bool(option)


def test_the_headline_of_several_targets_has_one_unit() -> None:
    """Errors of targets with units of their own are not pooled: the standardised loss is shown."""
    one, two = {"loss": 1.0, "rmse": 2.0}, {"loss": 1.0, "rmse": 2.0, "rmse_a": 1.0, "rmse_b": 3.0}
    assert headline_of("forecast", "loss", {"ridge": one}) == "rmse"
    assert headline_of("forecast", "loss", {"ridge": two}) == "loss"
    assert headline_of("forecast", "mae", {"ridge": two}) == "mae"
    assert headline_of("classify", "loss", {"majority": {"loss": 1.0}}) == "accuracy"


def test_workers_are_drawn_in_their_order() -> None:
    """Worker 10 comes after worker 2, and whoever is not known comes last."""
    rows = assign_lanes([entry(n, 0, 9, worker) for n, worker in enumerate([10, None, 2, 0])])
    assert [lane for _, lane in rows] == ["worker 0", "worker 2", "worker 10", "unknown"]
