"""`rnn-search evaluate` from the command line: figures, looks at the test part, interruptions."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest
from refusing import tree
from tiny import (
    SPACE,
    files_of,
    interrupt_when,
    read_json,
    rnn_search,
    start,
    wait_for_end,
    write_study,
)

from search.cli import main
from search.database import Database
from search.storage import open_study
from search.stored_study import LOOKS, StoredStudy

OPTIONS = ("--top", "2", "--seeds", "3", "--workers", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that has run."""
    folder = tmp_path_factory.mktemp("evaluate")
    write_study(folder, budget={"trials": 5})
    run = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The study in a folder of the test's own, which is the current one."""
    shutil.copytree(folder / "studies", tmp_path / "studies")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    return tmp_path


def opened() -> StoredStudy:
    """Returns the study of the current folder."""
    return open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")


def evaluate(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, Any]:
    """Runs `evaluate --json` in this process."""
    assert main(["evaluate", "tiny", "--json", *OPTIONS, *options]) == 0
    return read_json(capsys.readouterr().out)


def test_evaluation_as_json(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mean and std are those of the seeds, baselines stand beside, the best mean has won."""
    found = evaluate(capsys)
    for part in ("valid", "test"):
        one = found[part]
        assert (one["metric"], len(one["seeds"])) == ("rmse", 3)
        assert one["mean"] == pytest.approx(statistics.mean(one["seeds"]))
        assert one["std"] == pytest.approx(statistics.stdev(one["seeds"]))
        assert {"persistence", "ridge"} <= one["baselines"].keys()
        assert [figures["rmse"] for figures in one["figures"]] == one["seeds"]
    assert found["valid"]["baselines"] == opened().attributes["baselines"]
    assert found["test"]["baselines"] != found["valid"]["baselines"]
    first, second = found["candidates"]
    assert first["params"] != second["params"]
    losses = {
        one["trial"]: statistics.mean(seed["figures"]["loss"] for seed in one["seeds"])
        for one in (first, second)
    }
    assert found["winner"] == min(losses, key=lambda trial: losses[trial])
    best = opened().study.best_trial
    optimism = found["optimism"]
    assert (first["trial"], optimism["trial"]) == (best.number, best.number)
    assert optimism["search"] == best.user_attrs["figures"]["rmse"]
    assert optimism["difference"] == pytest.approx(first["mean"] - optimism["search"])
    assert all((Path(place) / "weights.safetensors").exists() for place in found["weights"])
    assert len(found["weights"]) == 3


def test_a_second_look_is_said_aloud(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each look is recorded in the study, and the second warns; the same again is no other."""
    first = evaluate(capsys)
    before = files_of(copy)
    assert main(["evaluate", "tiny", *OPTIONS]) == 0
    printed = capsys.readouterr().out
    assert "6 of 6 done, 1 worker on cpu" in printed
    assert "WARNING" not in printed
    assert files_of(copy) == before
    assert opened().study.user_attrs[LOOKS] == first["looks"]
    assert main(["evaluate", "tiny", *OPTIONS, "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "WARNING: this was look 2 at the test part" in printed
    assert files_of(copy) == before
    looks = opened().study.user_attrs[LOOKS]
    assert len(looks) == 2
    assert looks[0] == first["looks"][0]
    assert looks[1]["id"] != looks[0]["id"]
    assert (looks[0]["trial"], looks[0]["mean"]) == (first["winner"], first["test"]["mean"])
    assert looks[0]["ensemble"] == first["test"]["ensemble"]
    assert looks[0]["time"] in printed


def test_more_seeds_train_only_those(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With more seeds, those that were trained already are kept as they are."""
    evaluate(capsys, "--seeds", "1")
    before = files_of(copy)
    found = evaluate(capsys)
    after = files_of(copy)
    assert before.items() <= after.items()
    assert len([name for name in after if name.endswith("result.json")]) == 6
    assert len(found["test"]["seeds"]) == 3


def test_the_search_is_left_as_it_was(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Evaluating adds no trial, changes no trial's file, and the study can go on."""
    trials, files = opened().trials(), files_of(copy)
    evaluate(capsys)
    assert opened().trials() == trials
    assert files.items() <= files_of(copy).items()
    assert main(["resume", "tiny", "--trials", "6", "--workers", "1", "--json"]) == 0
    assert read_json(capsys.readouterr().out)["trials"]["total"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "number", "code"),
    [("lstm", signal.SIGINT, 130), ("gru", signal.SIGINT, 130), ("gru", signal.SIGKILL, -9)],
)
def test_interrupted_evaluation_goes_on(
    cell: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    """After Ctrl-C (130) or a kill of all an evaluation goes on to the bits of a whole one.

    Seeds of an LSTM train one after another, those of a GRU together.
    """
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    space = {**SPACE, "epochs": 200, "batch_size": [8], "cell": [cell]}
    write_study(whole, space=space, budget={"trials": 1}, stopping={"patience": 0})
    assert rnn_search(whole, "run", "tiny.toml", "--workers", 1).returncode == 0
    shutil.copytree(whole, cut)
    arguments = ("evaluate", "tiny", "--seeds", 3, "--workers", 2, "--device", "cpu")
    process = start(cut, *arguments, often=True)
    (place,) = (cut / "studies" / "studies.trials").glob("tiny-*")

    def has_checkpoint() -> bool:
        return any((place / "evaluation").glob("*/checkpoint.pt"))

    children = interrupt_when(process, has_checkpoint, number)
    assert process.wait(60) == code
    wait_for_end(children)
    output = (cut / "output.txt").read_text()
    assert ("evaluate again to go on" in output) == (code == 130)
    assert "Traceback" not in output
    assert "Test" not in output
    assert has_checkpoint()
    again = rnn_search(cut, *arguments, "--json")
    reference = rnn_search(whole, *arguments, "--json")
    assert (again.returncode, reference.returncode) == (0, 0), again.stderr
    one, other = read_json(again.stdout), read_json(reference.stdout)
    assert (one["valid"], one["test"]) == (other["valid"], other["test"])
    kept = [
        {name: read for name, read in files_of(place).items() if name.endswith("tensors")}
        for place in (cut, whole)
    ]
    assert kept[0] == kept[1]
    assert not has_checkpoint()


def beside_the_database(folder: Path) -> dict[str, bytes | None]:
    """Returns all that lies in a folder, but what SQLite writes."""
    return {path: read for path, read in tree(folder).items() if "studies.db" not in path}


def test_a_study_without_a_complete_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is nothing to evaluate then: one line, exit 2, and no file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    write_study(tmp_path)
    timed = ["run", "tiny.toml", "--timeout", "0.001s", "--workers", "1", "--json"]
    assert main(timed) == 0
    before = beside_the_database(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", "tiny"]) == 2
    error = capsys.readouterr().err
    assert "no complete trial" in error
    assert len(error.splitlines()) == 1
    assert beside_the_database(tmp_path) == before


def test_requests_that_make_no_sense(
    copy: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown study, changed data and a second evaluation at once are refused with 2."""
    assert main(["evaluate", "tinny"]) == 2
    assert "did you mean 'tiny'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        main(["evaluate", "tiny", "--seeds", "0"])
    assert refused.value.code == 2
    place = opened().folder / "evaluation"
    place.mkdir()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["evaluate", "tiny", *OPTIONS]) == 2
    assert "another evaluation of 'tiny' is under way" in capsys.readouterr().err
    series = folder / "series120.csv"
    before = series.read_text()
    series.write_text(before + "0.5\n")
    try:
        assert main(["evaluate", "tiny", *OPTIONS]) == 2
    finally:
        series.write_text(before)
    assert "fingerprint" in capsys.readouterr().err
    assert json.dumps(opened().study.user_attrs.get(LOOKS)) == "null"
