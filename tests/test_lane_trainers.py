"""The trainer of a GPU, here on the CPU: what every trainer promises, with many trials at once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conformance import (
    LONG,
    PARAMS,
    RULES,
    Make,
    TrainersConformance,
    collect,
    epochs_in,
    job,
    make,
    saved_losses,
    shared,
    splits,
)
from tiny import is_alive, wait_until

from search.checkpoints import load_checkpoint
from search.data.splits import Splits
from search.lane_shapes import shape_of
from search.lane_trainers import LaneTrainers
from search.lanes import Lanes
from search.space import HyperParams
from search.stopping import batch_judge
from search.trainers import Event, TrainerDied, Trainers, TrialEnded
from search.training import Run, one_thread
from search.trial import Outcome
from search.trial_files import WEIGHTS
from search.worker import Job

__all__ = ["make", "shared", "splits"]

SEATS = 4


@pytest.fixture(scope="module")
def hire(splits: Splits) -> Make:
    """Starts a new trainer with one seat."""
    return lambda: LaneTrainers(splits, RULES, workers=1, device="cpu")


@pytest.fixture
def crowd(splits: Splits) -> Iterator[LaneTrainers]:
    """A trainer with several seats, ended with the test."""
    with LaneTrainers(splits, RULES, workers=SEATS, device="cpu") as trainers:
        yield trainers


def train_in_lanes(one: Job, splits: Splits, epochs: int) -> Run:
    """Trains the same trial in this process, in lanes of its own."""
    run = Run(one.params, splits, one.seed, RULES.goal, torch.device("cpu"))
    lanes = Lanes(shape_of(one.params), splits)
    lanes.join(run, batch_judge(None, splits.constant_loss))
    with one_thread():
        while len(run.curve) < epochs:
            lanes.advance()
    return run


class TestLaneTrainers(TrainersConformance):
    """One process, of whose seats one is in use."""

    exit_code = -signal.SIGKILL
    train_here = staticmethod(train_in_lanes)

    def pid(self, trainers: Trainers, worker: int) -> int:
        """Returns the id of the process."""
        assert isinstance(trainers, LaneTrainers)
        assert trainers.pid is not None
        return trainers.pid

    def wait_for_weights(self, one: Job) -> None:
        """A trainer writes them where they stay."""
        wait_until((one.folder / WEIGHTS).exists, "the trial to end by itself")


def ends_in(events: list[Event]) -> dict[int, Outcome]:
    """Returns how trials ended, by number."""
    return {e.number: e.decision.outcome for e in events if isinstance(e, TrialEnded)}


def deaths_in(events: list[Event]) -> list[int | None]:
    """Returns whose deaths were told."""
    return [event.number for event in events if isinstance(event, TrainerDied)]


def test_each_of_many_is_itself(crowd: LaneTrainers, splits: Splits, tmp_path: Path) -> None:
    """Trials of all cells and sizes that take each other's seats come to what each does alone."""
    kinds: list[HyperParams] = [
        replace(PARAMS, cell=cell, hidden_layers=layers, dropout=drop, epochs=epochs)
        for cell, layers, drop, epochs in (
            ("gru", 1, 0.0, 5), ("gru", 1, 0.3, 3), ("lstm", 2, 0.2, 2), ("rnn", 1, 0.0, 4),
            ("gru", 1, 0.1, 1), ("lstm", 2, 0.0, 3), ("gru", 1, 0.0, 2),
        )
    ]  # fmt: skip
    left = [job(tmp_path, number, params) for number, params in enumerate(kinds)]
    jobs, events = list(left), []
    while left or crowd.busy():
        for seat in crowd.free():
            if left:
                crowd.start(seat, left.pop(0))
        events += crowd.events(0.1)
    assert ends_in(events) == dict.fromkeys(range(len(kinds)), Outcome.COMPLETE)
    for one in jobs:
        expected = train_in_lanes(one, splits, one.params.epochs).curve.epochs
        mine = epochs_in(events, one.number)
        assert [e.figures for e in mine] == [e.figures for e in expected]
        assert (one.folder / WEIGHTS).exists()


def test_one_that_fails_leaves_the_others(crowd: LaneTrainers, tmp_path: Path) -> None:
    """What diverges, fails or is dropped takes nobody along."""
    wild = replace(PARAMS, learning_rate=1e9, optimizer="sgd")
    crowd.start(0, job(tmp_path, 0, wild))
    crowd.start(1, job(tmp_path, 1, replace(PARAMS, optimizer="nonsense")))
    crowd.start(2, job(tmp_path, 2, LONG))
    crowd.start(3, job(tmp_path, 3, replace(PARAMS, epochs=40)))
    events = collect(crowd, lambda events: len(epochs_in(events, 2)) > 2, "epochs")
    crowd.drop(2, 2)
    events += collect(crowd, lambda _: crowd.busy() == [], "the end")
    assert ends_in(events) == {0: Outcome.DIVERGED, 1: Outcome.FAILED, 3: Outcome.COMPLETE}
    assert len(saved_losses(tmp_path / "2")) * 40 == len(saved_losses(tmp_path / "3")) * 2


def test_a_trial_comes_back_to_another_seat(crowd: LaneTrainers, tmp_path: Path) -> None:
    """Late words of a trial's life at one seat count for nothing at its next, before or after."""
    for before, after in ((0, 1), (2, 0)):
        crowd.start(before, job(tmp_path, 0, LONG))
        collect(crowd, lambda events: len(epochs_in(events)) >= 3, "three epochs")
        time.sleep(0.6)  # There are words that nobody has heard.
        crowd.abandon(0)
        crowd.start(after, job(tmp_path, 0))
        events = collect(crowd, lambda _: crowd.busy() == [], "the end")
        assert [epoch.index for epoch in epochs_in(events)] == [1, 2, 3]
        assert ends_in(events) == {0: Outcome.COMPLETE}
        assert {event.worker for event in events} == {after}


def test_stopped_all_at_once(crowd: LaneTrainers, tmp_path: Path) -> None:
    """All trials are interrupted, each with a checkpoint of its last epoch."""
    for number in range(SEATS):
        crowd.start(number, job(tmp_path, number, LONG))
    told = collect(
        crowd, lambda events: all(epochs_in(events, at) for at in range(SEATS)), "epochs"
    )
    crowd.stop()
    told += collect(crowd, lambda _: crowd.busy() == [], "the end")
    assert ends_in(told) == dict.fromkeys(range(SEATS), Outcome.INTERRUPTED)
    for number in range(SEATS):
        saved = load_checkpoint(tmp_path / str(number))
        assert saved is not None
        assert len(saved["run"]["curve"]) == len(epochs_in(told, number))


def test_after_a_death_each_is_tried_alone(crowd: LaneTrainers, tmp_path: Path) -> None:
    """Of trials whose trainer died, one trains at a time, so that only the guilty is counted.

    Others wait for that; what is stopped meanwhile was only interrupted.
    """
    for number in range(3):
        crowd.start(number, job(tmp_path, number, LONG))
    collect(crowd, lambda events: all(epochs_in(events, at) for at in range(3)), "epochs")
    assert crowd.pid is not None
    os.kill(crowd.pid, signal.SIGKILL)
    events = collect(crowd, lambda events: len(deaths_in(events)) == 3, "the death")
    assert sorted(number for number in deaths_in(events) if number is not None) == [0, 1, 2]
    for number in range(4):  # The coordinator gives them back to their seats, and one more.
        crowd.start(number, job(tmp_path, number, LONG))
    assert sorted(crowd.busy()) == [0, 1, 2, 3]
    events = collect(crowd, lambda events: len(epochs_in(events, 0)) > 2, "the first alone")
    assert not any(epochs_in(events, at) for at in (1, 2, 3))
    os.kill(crowd.pid, signal.SIGKILL)
    events = collect(crowd, deaths_in, "the second death")
    assert deaths_in(events) == [0]
    crowd.start(0, job(tmp_path, 0, LONG))
    crowd.drop(1, 0)
    crowd.drop(2, 0)
    events = collect(crowd, lambda events: bool(epochs_in(events, 0)), "the first again")
    assert epochs_in(events, 3) == []
    crowd.stop()
    events = collect(crowd, lambda _: crowd.busy() == [], "the end")
    assert ends_in(events) == {0: Outcome.INTERRUPTED, 3: Outcome.INTERRUPTED}


def test_the_innocent_go_on_after_the_last_life_of_one(crowd: LaneTrainers, tmp_path: Path) -> None:
    """If the one that died is not started again, those that wait for their turn get it."""
    for number in range(3):
        crowd.start(number, job(tmp_path, number, LONG))
    collect(crowd, lambda events: all(epochs_in(events, at) for at in range(3)), "epochs")
    assert crowd.pid is not None
    os.kill(crowd.pid, signal.SIGKILL)
    collect(crowd, lambda events: len(deaths_in(events)) == 3, "the death")
    for number in range(3):
        crowd.start(number, job(tmp_path, number, replace(PARAMS, epochs=[10**6, 30, 30][number])))
    collect(crowd, lambda events: bool(epochs_in(events, 0)), "the first alone")
    os.kill(crowd.pid, signal.SIGKILL)
    events = collect(crowd, lambda _: crowd.busy() == [], "the end of the others")
    assert deaths_in(events) == [0]
    assert ends_in(events) == {1: Outcome.COMPLETE, 2: Outcome.COMPLETE}


def test_many_orders_and_many_words(splits: Splits, tmp_path: Path) -> None:
    """Nobody waits for the other to read, though a pipe holds neither all orders nor all words."""
    count = 400
    with LaneTrainers(splits, RULES, workers=count, device="cpu") as trainers:
        for number in range(count):
            trainers.start(number, job(tmp_path, number, replace(PARAMS, epochs=1)))
        events = collect(trainers, lambda _: trainers.busy() == [], "the end")
    assert len(ends_in(events)) == count


def test_killed_means_gone(crowd: LaneTrainers) -> None:
    """kill() ends the process before it returns."""
    pid = crowd.pid
    assert pid is not None
    crowd.kill()
    assert not is_alive(pid)
