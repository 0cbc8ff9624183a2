"""A study whose figure is to be large: what is kept, shown, evaluated and exported is the best."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tiny import files_of, read_json, trials_of, write_study

from search.cli import main
from search.database import Database
from search.looks import looks_of
from search.model_files import CARD
from search.storage import open_study
from search.trial_files import WEIGHTS

SPACE: dict[str, Any] = {
    "learning_rate": [0.0001, 0.001, 0.01, 0.1],
    "cell": "gru",
    "hidden_units": [2, 8],
    "hidden_layers": 1,
    "epochs": 3,
    "batch_size": [8],
    "dropout": 0.0,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with such a study, of which one trial's weights are kept."""
    folder = tmp_path_factory.mktemp("maximise")
    rng = np.random.default_rng(0)
    rows = [
        {"take": f"t{number}", "kind": "xyz"[number % 3], "a": a}
        for number in range(120)
        for a in rng.normal(number % 3, 1.0, 4).round(4)
    ]
    pd.DataFrame(rows).to_csv(folder / "takes.csv", index=False)
    data = {"task": "classify", "path": "takes.csv", "series": "take", "label": "kind"}
    more = {"metric": "accuracy", "keep": 1, "stopping": {"pruner": "none"}}
    write_study(folder, data=data, space=SPACE, budget={"trials": 8}, **more)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("RNN_SEARCH_STORAGE", raising=False)
        assert main(["run", "tiny.toml", "--workers", "1", "--json"]) == 0
    return folder


def values_of(folder: Path) -> dict[int, float]:
    """Returns what complete trials came to, by number; they differ."""
    found = {trial.number: float(trial.value) for trial in trials_of(folder) if trial.value}
    assert max(found.values()) > min(found.values()) + 0.1
    return found


def best_of(values: dict[int, float]) -> int:
    """Returns the first trial that came to the largest value."""
    return min(values, key=lambda number: (-values[number], number))


def test_the_largest_is_kept_and_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The best trial has the largest figure, and its weights alone are there."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    values = values_of(folder)
    assert main(["show", "tiny", "--json"]) == 0
    best = read_json(capsys.readouterr().out)["best"]
    assert (best["number"], best["value"]) == (best_of(values), max(values.values()))
    kept = [name for name in files_of(folder) if name.endswith(WEIGHTS)]
    assert kept == [f"{best['number']:05d}/{WEIGHTS}"]
    assert main(["show", "tiny"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.lstrip()[:1] == "#"]
    shown = [float(row.split()[1]) for row in rows]
    assert shown == sorted(shown, reverse=True)


def test_the_largest_is_evaluated_and_exported(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Best configurations are retrained; the best mean wins; its best seed is exported."""
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(["evaluate", "tiny", "--top", "4", "--seeds", "2", "--workers", "1", "--json"]) == 0
    found = read_json(capsys.readouterr().out)
    tried = found["candidates"]
    assert tried[0]["trial"] == best_of(values_of(folder))
    assert [one["search"] for one in tried] == sorted((o["search"] for o in tried), reverse=True)
    means = {
        one["trial"]: statistics.mean(seed["figures"]["accuracy"] for seed in one["seeds"])
        for one in tried
    }
    assert found["winner"] == max(means, key=lambda trial: means[trial])
    assert main(["export", "tiny", "model", "--winner"]) == 0
    card = json.loads((folder / "model" / CARD).read_text())
    seeds = [figures["accuracy"] for figures in found["valid"]["figures"]]
    assert card["figures"]["accuracy"] == max(seeds)


def test_the_last_evaluation_is_exported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After two evaluations an export has the networks of the second, and says that it was that."""
    monkeypatch.chdir(folder)
    before = len(
        looks_of(open_study(Database("sqlite:///studies/studies.db", create=False), "tiny"))
    )
    for seeds in ("1", "3"):
        options = ("--top", "1", "--seeds", seeds, "--workers", "1")
        assert main(["evaluate", "tiny", *options]) == 0
    assert main(["export", "tiny", str(tmp_path / "model"), "--ensemble"]) == 0
    card = json.loads((tmp_path / "model" / CARD).read_text())
    assert (len(card["members"]), card["test"]["look"]) == (3, before + 2)
