"""Trainers of two kinds at once: a process beside lanes, here all on the CPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_lane_trainers import train_in_lanes
from test_trainers import LONG, RULES, collect, epochs_in, job, splits, train_here
from tiny import write_study

from search.checkpoints import load_checkpoint
from search.coordinator import Ending
from search.crews import Crew
from search.data.splits import Splits
from search.database import Database
from search.lane_trainers import LaneTrainers
from search.mixed_trainers import MixedTrainers
from search.running import Request, make_plan, run_study
from search.storage import open_study
from search.trainers import EpochDone, Event, TrainerDied, Trainers, TrialEnded
from search.trial import Outcome

__all__ = ["splits"]

MIXED = Crew(2, "cpu", LaneTrainers, noun="lane", beside=Crew(1, "cpu"))


@pytest.fixture
def trainers(splits: Splits) -> Iterator[Trainers]:
    """A process, which is worker 0, and a trainer with two lanes, ended with the test."""
    with MIXED.start(splits, RULES) as found:
        yield found


def until_free(trainers: Trainers) -> list[Event]:
    """Gathers events until no trial is in training."""
    return collect(trainers, lambda _: not trainers.busy(), "the trials to end")


def test_each_trial_is_trained_by_who_was_given_it(
    trainers: Trainers, splits: Splits, tmp_path: Path
) -> None:
    """Words come with the number of the worker that has the trial, and what each computes with."""
    assert isinstance(trainers, MixedTrainers)
    assert trainers.free() == [0, 1, 2]
    jobs = [job(tmp_path, number) for number in range(3)]
    for worker in (2, 0, 1):
        trainers.start(worker, jobs[worker])
    assert trainers.free() == []
    assert sorted(trainers.busy()) == [0, 1, 2]
    events = until_free(trainers)
    assert all(e.worker == e.number for e in events if isinstance(e, EpochDone | TrialEnded))
    assert [trainers.surroundings(worker).get("lanes") for worker in range(3)] == [
        None,
        "yes",
        "yes",
    ]
    assert trainers.surroundings(0)["device"] == "cpu"
    for one, here in zip(jobs, (train_here, train_in_lanes, train_in_lanes), strict=True):
        expected = [epoch.figures for epoch in here(one, splits, 3).curve.epochs]
        assert [epoch.figures for epoch in epochs_in(events, one.number)] == expected


def test_a_trial_is_dropped_where_it_is(trainers: Trainers, tmp_path: Path) -> None:
    """What is dropped ends, whoever has it, and the others go on."""
    for number in range(3):
        trainers.start(number, job(tmp_path, number, LONG))
    enough = collect(
        trainers,
        lambda events: all(len(epochs_in(events, number)) > 1 for number in range(3)),
        "two epochs of each",
    )
    assert not [e for e in enough if isinstance(e, TrialEnded)]
    for number in (0, 2):
        trainers.drop(number, 1)
    assert trainers.free() == [0, 2]
    after = collect(trainers, lambda events: len(epochs_in(events, 1)) > 1, "more of the other")
    assert {e.number for e in after} == {1}


def test_a_death_is_told_of_the_worker_that_died(trainers: Trainers, tmp_path: Path) -> None:
    """When lanes die, those in them are told, with their workers, and the process goes on."""
    for number in range(3):
        trainers.start(number, job(tmp_path, number, LONG))
    collect(
        trainers,
        lambda _: all(load_checkpoint(tmp_path / str(number)) for number in range(3)),
        "checkpoints",
    )
    assert isinstance(trainers, MixedTrainers)
    lanes = trainers._parts[1].trainers
    assert isinstance(lanes, LaneTrainers)
    assert lanes.pid is not None
    os.kill(lanes.pid, signal.SIGKILL)
    events = collect(
        trainers,
        lambda events: sum(isinstance(e, TrainerDied) for e in events) == 2,
        "both deaths",
    )
    died = [(e.worker, e.number) for e in events if isinstance(e, TrainerDied)]
    assert died == [(1, 1), (2, 2)]
    assert trainers.busy() == [0]
    assert trainers.free() == [1, 2]


def test_all_stop(trainers: Trainers, tmp_path: Path) -> None:
    """Told to stop, trials of both kinds are interrupted with checkpoints."""
    for number in (0, 1):
        trainers.start(number, job(tmp_path, number, LONG))
    collect(
        trainers,
        lambda events: epochs_in(events, 0) != [] != epochs_in(events, 1),
        "an epoch of each",
    )
    trainers.stop()
    ends = [e for e in until_free(trainers) if isinstance(e, TrialEnded)]
    assert {(e.number, e.decision.outcome) for e in ends} == {
        (0, Outcome.INTERRUPTED),
        (1, Outcome.INTERRUPTED),
    }
    assert load_checkpoint(tmp_path / "0") is not None
    assert load_checkpoint(tmp_path / "1") is not None


def test_a_search_by_both(tmp_path: Path) -> None:
    """A search finishes each trial once, and says of each what it was trained on."""
    path = write_study(tmp_path, budget={"trials": 14})
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    plan = replace(make_plan(Request(str(path), url, device="cpu")), crew=MIXED)
    console = Console(record=True, width=200)
    _, ending = run_study(Request(str(path), url), plan, console)
    assert ending is Ending.DONE
    assert "2 lanes on cpu, 1 worker on cpu" in console.export_text()
    trials = open_study(Database(url, create=False), "tiny").trials()
    assert [trial.state.is_finished() for trial in trials] == [True] * 14
    lanes = [trial.user_attrs["surroundings"].get("lanes") for trial in trials]
    assert set(lanes) == {None, "yes"}
    workers = [trial.user_attrs["worker"] for trial in trials]
    assert all(
        (worker == 0) == (where is None) for worker, where in zip(workers, lanes, strict=True)
    )
