"""Trainers of two kinds at once: a process beside lanes, here all on the CPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import LONG, PARAMS, RULES, collect, epochs_in, job, splits, train_here
from rich.console import Console
from test_lane_trainers import train_in_lanes
from test_storage import ATTRIBUTES, curve
from tiny import tiny_config, write_study

from search.checkpoints import load_checkpoint, save_checkpoint
from search.coordinator import Coordinator, Ending
from search.crews import Crew
from search.data.splits import Splits
from search.database import Database
from search.desk import Order
from search.display import Progress
from search.errors import RunError, TrainerError
from search.lane_trainers import LaneTrainers
from search.mixed_trainers import MixedTrainers, Part
from search.replay import replay
from search.running import Request, _attributes, make_plan, run_study
from search.stopping import batch_judge
from search.storage import create_study, open_study
from search.trainers import (
    EpochDone,
    Event,
    LocalTrainers,
    OneKind,
    TrainerDied,
    Trainers,
    TrialEnded,
    Worker,
)
from search.training import Run
from search.trial import Decision, Outcome, derive_seed
from search.trial_files import trial_folder
from search.worker import Job, TrialWorker

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
    assert [trainers.kind(worker) for worker in trainers.free()] == [0, 1, 1]
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


def test_what_has_started_ends_if_others_do_not_start(splits: Splits) -> None:
    """If lanes do not start, no process is left behind."""
    begun: list[LocalTrainers] = []

    def hire(*arguments: Any) -> LocalTrainers:
        begun.append(LocalTrainers(*arguments))
        return begun[0]

    def broken(*_: Any) -> LaneTrainers:
        raise TrainerError("no room")

    with pytest.raises(TrainerError, match="no room"):
        Crew(2, "cpu", broken, beside=Crew(1, "cpu", hire)).start(splits, RULES)
    assert [worker.process.is_alive() for worker in begun[0]._workers] == [False]


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


class Idle(OneKind):
    """Trainers that train nothing: a trial ends as it is told to, after an epoch if it completes.

    Args:
        outcome: How each trial ends.
    """

    def __init__(self, outcome: Outcome) -> None:
        self._workers = [Worker()]
        self._decision = Decision(outcome, "so it was told to")

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what becomes of the trial that has been given."""
        (worker,) = self._workers
        number, worker.number = worker.number, None
        if number is None:
            return
        if self._decision.outcome is Outcome.COMPLETE:
            yield EpochDone(0, number, curve(1.0).epochs[0])
        yield TrialEnded(0, number, self._decision)

    def kill(self) -> None:
        """There is nothing to end."""

    def _send(self, index: int, order: Order) -> None:
        """There is nobody to hear of it."""


def test_what_fails_on_one_kind_ends_the_run(tmp_path: Path) -> None:
    """Trials that fail on one kind are no less in a row for those that complete on another."""
    database = Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    stored = create_study(database, tiny_config(tmp_path), ATTRIBUTES)
    kinds = [Part(Idle(outcome), 1, {}) for outcome in (Outcome.COMPLETE, Outcome.FAILED)]
    with pytest.raises(RunError, match="5 trials in a row failed"):
        Coordinator(
            stored, MixedTrainers(kinds), Progress(Console(quiet=True), stored, 99, 2, None), 99
        ).run()
    outcomes = [t.user_attrs.get("outcome") for t in stored.trials() if t.state.is_finished()]
    assert outcomes.count("failed") == 5
    assert outcomes.count("complete") >= 4


def test_a_trial_that_moved_says_so(tmp_path: Path) -> None:
    """A trial that goes on on another device than it began on has both, and replay names them."""
    path = write_study(tmp_path, budget={"trials": 1})
    request = Request(str(path), f"sqlite:///{tmp_path / 'studies.db'}", workers=1, device="cpu")
    plan = make_plan(request)
    stored = create_study(Database(request.storage, create=True), plan.config, _attributes(plan))
    taken = stored.take(1)
    assert taken is not None
    folder = trial_folder(stored.folder, taken.number)
    seed = derive_seed(plan.config.seed, "training", taken.number)
    worker = TrialWorker(
        Job(taken.number, taken.params, seed, folder), plan.splits, RULES, torch.device("cpu")
    )
    stored.report(taken, next(worker.epochs()))
    worker.save()
    saved = load_checkpoint(folder)
    assert saved is not None
    assert saved["devices"] == ["cpu"]
    save_checkpoint(folder, {**saved, "devices": ["cuda"]})
    stored.release(taken)
    run_study(request, plan, Console(quiet=True))
    (trial,) = stored.trials()
    assert trial.user_attrs["surroundings"]["moved"] == "cpu and cuda"
    assert "device: cpu and cuda in turn → one" in "\n".join(replay(stored, 0).lines())


def test_a_state_of_another_device_leaves_this_ones(splits: Splits) -> None:
    """A run goes on with a state that knows nothing of its device's random numbers, or of more."""
    run = Run(PARAMS, splits, 3, RULES.goal, torch.device("cpu"))
    own, state = run.random["cpu"], run.state_dict()
    run.load_state_dict({**state, "random": {"cuda": torch.ones(3)}})
    assert torch.equal(run.random["cpu"], own)
    run.advance(batch_judge(None, splits.constant_loss))
    assert torch.equal(run.state_dict()["random"]["cuda"], torch.ones(3))


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
