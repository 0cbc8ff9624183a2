"""A run that a fault of its storage ends: what it may leave, and what the next run makes of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
from tiny import (
    children_of,
    record,
    rnn_search,
    start,
    trainers_of,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)

LONG_ENOUGH = 240.0
"""Seconds in which a run must have ended whatever its storage does; its patience is 90."""
STUDY: dict[str, Any] = {
    "rows": 400,
    "space": {
        "epochs": {"low": 8, "high": 12},
        "hidden_units": {"low": 4, "high": 8},
        "batch_size": [8, 16],
    },
    "budget": {"trials": 5},
}
"""Trials that take a second or two, so that a fault meets one in the middle."""


def reference_of(folder: Path) -> list[dict[str, Any]]:
    """Runs the study in one go and returns what it promises to reproduce."""
    write_study(folder, **STUDY)
    done = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return record(trials_of(folder))


def begin(folder: Path, *options: object) -> subprocess.Popen[str]:
    """Starts a run of the study with one worker, or goes on with it."""
    return start(folder, "run", "tiny.toml", "--workers", 1, *options, often=True)


def output_of(folder: Path) -> str:
    """Returns what all runs that were started in a folder have printed."""
    return (folder / "output.txt").read_text()


def reach(run: subprocess.Popen[str], condition: Callable[[], bool]) -> list[int]:
    """Waits for a moment of a run and returns the ids of its children, trainers among them."""
    wait_until(lambda: condition() or run.poll() is not None, "the moment of the fault")
    assert run.poll() is None, "the run ended before the fault"
    assert trainers_of(run.pid), "nothing is in training"
    return children_of(run.pid)


def require_failure(
    run: subprocess.Popen[str], children: Iterable[int], folder: Path, *says: str
) -> None:
    """Checks that a run has failed with one clear line, its trainers stopped."""
    assert run.wait(LONG_ENOUGH) == 1, output_of(folder)
    wait_for_end(children)
    said = output_of(folder)
    assert "Traceback" not in said
    ours = [line for line in said.splitlines() if line.startswith("rnn-search: ")]
    assert len(ours) == 2, said
    assert ours[1] == "rnn-search: every finished trial is safe; run it again to go on"
    assert any(say in ours[0] for say in says), ours[0]


def finished(trials: Iterable[optuna.trial.FrozenTrial]) -> list[tuple[Any, ...]]:
    """Returns which trials have finished, when, and with what value."""
    return [
        (trial.number, trial.datetime_complete, trial.value)
        for trial in trials
        if trial.state.is_finished()
    ]
