"""The main promise: interrupted or killed, a study ends as if nothing had happened, bit by bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tiny import (
    PATIENCE,
    children_of,
    count,
    epochs_reported,
    files_of,
    interrupt_when,
    is_alive,
    record,
    servers_of,
    start,
    trainers_of,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)

TRIALS = 12
"""More than TPE's ten random trials, so that its model's proposals are in it, too."""
OPTIONS: dict[str, Any] = {
    "rows": 400,
    "space": {
        "learning_rate": {"low": 1e-4, "high": 1e3},
        "epochs": {"low": 6, "high": 14},
        "hidden_units": {"low": 4, "high": 8},
        "batch_size": [8, 16],
    },
    "keep": 3,
    "budget": {"trials": TRIALS},
}
"""Trials of a second or so: some diverge, some are pruned."""


@dataclass(frozen=True)
class Reference:
    """The study that nothing happened to.

    Attributes:
        trials: What it promises to reproduce of its trials.
        files: Their files.
        epochs: How many epochs it has reported.
    """

    trials: list[dict[str, Any]]
    files: dict[str, bytes]
    epochs: int


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The study, run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    write_study(folder, **OPTIONS)
    assert begin(folder).wait(PATIENCE) == 0, output_of(folder)
    whole = Reference(record(trials_of(folder)), files_of(folder), epochs_reported(folder))
    assert len(whole.trials) == TRIALS
    outcomes = {trial["outcome"] for trial in whole.trials}
    assert outcomes >= {"complete", "diverged"}, "this study does not show enough"
    return whole


def begin(folder: Path) -> subprocess.Popen[str]:
    """Starts a run, or goes on with it, with one worker."""
    return start(folder, "run", "tiny.toml", "--workers", 1, often=True)


def output_of(folder: Path) -> str:
    """Returns what all runs in a folder have printed."""
    return (folder / "output.txt").read_text()


def check_against(reference: Reference, folder: Path) -> None:
    """Runs the study to its end and compares it with the one that nothing happened to."""
    assert begin(folder).wait(PATIENCE) == 0, output_of(folder)
    assert record(trials_of(folder)) == reference.trials
    assert files_of(folder) == reference.files
    assert count(folder, "rnn_search_leases") == 0


def reached(folder: Path, epochs: float) -> Callable[[], bool]:
    """Returns a condition: so many epochs are reported."""
    return lambda: epochs_reported(folder) >= epochs


@pytest.mark.slow
def test_interrupted_study_equals_the_whole(reference: Reference, tmp_path: Path) -> None:
    """A study stopped by Ctrl-C in the middle of a trial equals the uninterrupted one."""
    write_study(tmp_path, **OPTIONS)
    run = begin(tmp_path)
    interrupt_when(run, reached(tmp_path, 0.5 * reference.epochs), signal.SIGINT)
    assert run.wait(PATIENCE) == 130
    check_against(reference, tmp_path)


def kill_at_random(reference: Reference, folder: Path, kills: int, seed: int) -> None:
    """Kills the whole group at random moments, goes on each time, and compares at the end."""
    write_study(folder, **OPTIONS)
    chance = random.Random(seed)
    for kill in range(kills):
        run = begin(folder)
        share = (reference.epochs - epochs_reported(folder)) / (kills - kill + 1)
        children = kill_when(run, random_moment(run, folder, chance, share))
        assert run.wait(PATIENCE) in (-signal.SIGKILL, 0), output_of(folder)
        wait_for_end(children)
    check_against(reference, folder)


def random_moment(
    run: subprocess.Popen[str], folder: Path, chance: random.Random, share: float
) -> Callable[[], bool]:
    """Draws a moment of a run: in start-up, while it asks for a trial, trains it, or tells it.

    Args:
        run: The run.
        folder: Where it runs.
        chance: Draws.
        share: How many epochs it should train before it is killed, on average.
    """
    kind = chance.choice(["started", "asked", "trained", "told"])
    if kind == "started":
        return lambda: len(children_of(run.pid)) >= 2
    if kind == "trained":
        return reached(folder, epochs_reported(folder) + chance.uniform(0.1, 1.5) * share)
    table = {"asked": "trial_params", "told": "trial_user_attributes"}[kind]
    rows = count(folder, table) + chance.randint(1, 25)
    return lambda: count(folder, table) >= rows


def kill_when(run: subprocess.Popen[str], condition: Callable[[], bool]) -> list[int]:
    """Kills a run's whole group at a moment, or does nothing if the run has ended before it."""
    wait_until(lambda: condition() or run.poll() is not None, "the moment to kill")
    children = children_of(run.pid)
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
    return children


def test_killed_study_equals_the_whole(reference: Reference, tmp_path: Path) -> None:
    """A study killed with -9 at three random moments equals the uninterrupted one."""
    kill_at_random(reference, tmp_path, kills=3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_study_killed_often_equals_the_whole(
    reference: Reference, tmp_path: Path, seed: int
) -> None:
    """A study killed with -9 at ten random moments equals the uninterrupted one."""
    kill_at_random(reference, tmp_path, kills=10, seed=seed)


@pytest.mark.slow
def test_killed_coordinator(reference: Reference, tmp_path: Path) -> None:
    """If the coordinator alone is killed its trainers end, and the next run is none the worse."""
    write_study(tmp_path, **OPTIONS)
    run = begin(tmp_path)
    wait_until(reached(tmp_path, 0.3 * reference.epochs), "some epochs")
    children = children_of(run.pid)
    trainers = trainers_of(run.pid)
    run.kill()
    run.wait()
    assert len(trainers) == 1
    wait_for_end(children)
    check_against(reference, tmp_path)


@pytest.mark.slow
def test_killed_server(reference: Reference, tmp_path: Path) -> None:
    """If what trainers are forked from is killed, they train on, and a new one makes the next."""
    write_study(tmp_path, **OPTIONS)
    run = begin(tmp_path)
    wait_until(reached(tmp_path, 0.2 * reference.epochs), "some epochs")
    (trainer,), (server,) = trainers_of(run.pid), servers_of(run.pid)
    os.kill(server, signal.SIGKILL)
    wait_until(reached(tmp_path, 0.6 * reference.epochs), "more epochs")
    assert is_alive(trainer)
    os.kill(trainer, signal.SIGKILL)
    assert run.wait(PATIENCE) == 0, output_of(tmp_path)
    assert output_of(tmp_path).count("a trainer died") == 1
    assert record(trials_of(tmp_path)) == reference.trials
    assert files_of(tmp_path) == reference.files


def test_killed_trainer(reference: Reference, tmp_path: Path) -> None:
    """If a trainer alone is killed, twice, the run goes on with another to the same end."""
    write_study(tmp_path, **OPTIONS)
    run = begin(tmp_path)
    for share in (0.2, 0.6):
        wait_until(reached(tmp_path, share * reference.epochs), "some epochs")
        (trainer,) = trainers_of(run.pid)
        os.kill(trainer, signal.SIGKILL)
    assert run.wait(PATIENCE) == 0, output_of(tmp_path)
    assert "a trainer died" in output_of(tmp_path)
    assert record(trials_of(tmp_path)) == reference.trials
    assert files_of(tmp_path) == reference.files
