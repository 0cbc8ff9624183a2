"""What every kind of trainers promises."""

from __future__ import annotations

import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import tiny_config, wait_until

from search.checkpoints import load_checkpoint
from search.data import load_splits
from search.data.splits import Splits
from search.space import HyperParams
from search.stopping import batch_judge
from search.trainers import (
    EpochDone,
    Event,
    TrainerDied,
    TrainerFault,
    Trainers,
    TrialEnded,
)
from search.training import Run
from search.trial import Epoch, Goal, Outcome
from search.trial_files import LOSSES, WEIGHTS
from search.worker import Job, TrialRules

Make = Callable[[], Trainers]


PARAMS = HyperParams(0.01, 16, 3, 1, 4, "gru", "adam", "none", 0.1, 0.0, 0.0)


LONG = replace(PARAMS, epochs=100_000)


RULES = TrialRules(Goal(), patience=0, divergence=True)


@pytest.fixture(scope="session")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """A short sine, cut into windows."""
    return load_splits(tiny_config(tmp_path_factory.mktemp("data")).data)


def job(folder: Path, number: int = 0, params: HyperParams = PARAMS) -> Job:
    """Returns the job of one trial, with a folder of its own."""
    return Job(number, params, seed=number, folder=folder / str(number))


def collect(trainers: Trainers, enough: Callable[[list[Event]], bool], what: str) -> list[Event]:
    """Gathers events until there are enough."""
    events: list[Event] = []

    def listen() -> bool:
        events.extend(trainers.events(0.1))
        return enough(events)

    wait_until(listen, what)
    return events


def until_end(trainers: Trainers) -> list[Event]:
    """Gathers events up to and with the end of a trial."""
    return collect(trainers, lambda events: any(isinstance(e, TrialEnded) for e in events), "end")


def epochs_in(events: list[Event], number: int = 0) -> list[Epoch]:
    """Returns a trial's epochs, in the order in which they came, without their times."""
    return [
        replace(event.epoch, seconds=0.0)
        for event in events
        if isinstance(event, EpochDone) and event.number == number
    ]


def train_here(one: Job, splits: Splits, epochs: int) -> Run:
    """Trains the same trial in this process."""
    run = Run(one.params, splits, one.seed, RULES.goal, torch.device("cpu"))
    for _ in range(epochs):
        run.advance(batch_judge(None, splits.constant_loss))
    return run


class TrainersConformance:
    """The promises of trainers of any kind; a subclass supplies two methods, its module `hire`.

    ``make`` makes new trainers with one worker; ``trainers`` may be shared between tests, because
    every test leaves them free.
    """

    exit_code: int | None = None
    """What is known of the end of a trainer that was killed with -9."""

    train_here = staticmethod(train_here)

    @pytest.fixture
    def trainers(self, shared: list[Trainers], hire: Make) -> Trainers:
        """The shared ones, or new ones if the test before has failed to leave them free."""
        if shared[0].busy():
            shared[0].kill()
            shared[0] = hire()
        collect(shared[0], lambda _: shared[0].free() != [], "a free trainer")
        return shared[0]

    def pid(self, trainers: Trainers, worker: int) -> int:
        """Returns the id of a trainer's process."""
        raise NotImplementedError

    def wait_for_weights(self, one: Job) -> None:
        """Waits until a trainer has written the weights of a trial that nobody listens to."""
        raise NotImplementedError

    def test_epochs_equal_a_run_here(
        self, trainers: Trainers, splits: Splits, tmp_path: Path
    ) -> None:
        """The epochs come in order, bit for bit those of a Run here, and then the end."""
        one = job(tmp_path)
        trainers.start(trainers.free()[0], one)
        events = until_end(trainers)
        expected = self.train_here(one, splits, 3)
        assert epochs_in(events) == [replace(e, seconds=0.0) for e in expected.curve.epochs]
        ended = events[-1]
        assert isinstance(ended, TrialEnded)
        assert ended.decision.outcome is Outcome.COMPLETE
        assert (one.folder / LOSSES).exists()
        assert (one.folder / WEIGHTS).exists()

    def test_worker_is_free_before_and_after(self, trainers: Trainers, tmp_path: Path) -> None:
        """A worker is free until it is given a trial, and again once the trial has ended."""
        workers = trainers.free()
        trainers.start(workers[0], job(tmp_path))
        assert trainers.free() == workers[1:]
        assert trainers.busy() == [0]
        until_end(trainers)
        assert trainers.free() == workers
        assert trainers.busy() == []

    def test_trial_after_trial(self, trainers: Trainers, splits: Splits, tmp_path: Path) -> None:
        """What a worker trained before does not change a bit of what it trains next."""
        worker = trainers.free()[0]
        for number in (4, 5):
            one = job(tmp_path, number)
            trainers.start(worker, one)
            losses = [epoch.figures for epoch in epochs_in(until_end(trainers), number)]
            assert losses == [e.figures for e in self.train_here(one, splits, 3).curve.epochs]

    def test_dropped_trial_is_silent(self, trainers: Trainers, tmp_path: Path) -> None:
        """After drop() the worker takes the next trial and nothing more of the old one arrives."""
        worker = trainers.free()[0]
        trainers.start(worker, job(tmp_path, 0, LONG))
        collect(trainers, lambda events: len(epochs_in(events)) >= 3, "three epochs")
        trainers.drop(0, 2)
        assert worker in trainers.free()
        trainers.start(worker, job(tmp_path, 1))
        events = until_end(trainers)
        assert epochs_in(events, 0) == []
        assert [epoch.index for epoch in epochs_in(events, 1)] == [1, 2, 3]
        assert isinstance(events[-1], TrialEnded)
        assert events[-1].number == 1

    def test_dropped_trial_leaves_its_losses(
        self, trainers: Trainers, splits: Splits, tmp_path: Path
    ) -> None:
        """Of a dropped trial the losses stay, up to the epoch that counts, and nothing else."""
        one = job(tmp_path, 0, LONG)
        trainers.start(trainers.free()[0], one)
        collect(trainers, lambda events: len(epochs_in(events)) >= 3, "three epochs")
        trainers.drop(0, 2)
        collect(trainers, lambda _: trainers.busy() == [], "the files to be settled")
        assert [file.name for file in one.folder.iterdir()] == [LOSSES]
        assert saved_losses(one.folder) == self.losses_here(one, splits, 2)

    def test_drop_that_crosses_the_end(
        self, trainers: Trainers, splits: Splits, tmp_path: Path
    ) -> None:
        """A trial that had ended by the time it was dropped leaves the files of a dropped one."""
        one = job(tmp_path)
        trainers.start(trainers.free()[0], one)
        self.wait_for_weights(one)
        trainers.drop(0, 2)
        events = collect(trainers, lambda _: trainers.busy() == [], "the files to be settled")
        assert events == []
        assert [file.name for file in one.folder.iterdir()] == [LOSSES]
        assert saved_losses(one.folder) == self.losses_here(one, splits, 2)

    def test_abandoned_trial_keeps_its_files(self, trainers: Trainers, tmp_path: Path) -> None:
        """abandon() frees the worker and touches nothing: the files are another's by now."""
        one = job(tmp_path, 0, LONG)
        worker = trainers.free()[0]
        trainers.start(worker, one)
        collect(trainers, lambda _: load_checkpoint(one.folder) is not None, "a checkpoint")
        trainers.abandon(0)
        assert worker in trainers.free()
        events = collect(trainers, lambda _: trainers.busy() == [], "the worker to let go")
        assert events == []
        assert load_checkpoint(one.folder) is not None
        assert not (one.folder / LOSSES).exists()

    def test_abandoned_trial_comes_back(self, trainers: Trainers, tmp_path: Path) -> None:
        """Late words of a trial's life that ended count for nothing in its next one there."""
        worker = trainers.free()[0]
        trainers.start(worker, job(tmp_path, 0, LONG))
        collect(trainers, lambda events: len(epochs_in(events)) >= 3, "three epochs")
        time.sleep(0.6)  # There are words that nobody has heard.
        trainers.abandon(0)
        trainers.start(worker, job(tmp_path, 0))
        events = until_end(trainers)
        assert [epoch.index for epoch in epochs_in(events)] == [1, 2, 3]
        assert isinstance(events[-1], TrialEnded)
        assert (events[-1].worker, events[-1].decision.outcome) == (worker, Outcome.COMPLETE)
        assert trainers.busy() == []
        assert {file.name for file in (tmp_path / "0").iterdir()} >= {LOSSES, WEIGHTS}

    def test_stopped_trial_goes_on(
        self,
        make: Make,
        splits: Splits,
        tmp_path: Path,
    ) -> None:
        """stop() interrupts with a checkpoint from which others go on as if nothing had been."""
        one, trainers = job(tmp_path, 0, LONG), make()
        trainers.start(trainers.free()[0], one)
        before = collect(trainers, lambda events: len(epochs_in(events)) >= 2, "two epochs")
        trainers.stop()
        before += until_end(trainers)
        assert isinstance(before[-1], TrialEnded)
        assert before[-1].decision.outcome is Outcome.INTERRUPTED
        seen = len(epochs_in(before))
        saved = load_checkpoint(one.folder)
        assert saved is not None
        assert len(saved["run"]["curve"]) >= seen
        again = replace(one, params=replace(LONG, epochs=len(saved["run"]["curve"]) + 2))
        others = make()
        others.start(others.free()[0], again)
        after = epochs_in(until_end(others))
        expected = self.train_here(again, splits, again.params.epochs)
        assert (
            after == [replace(e, seconds=0.0) for e in expected.curve.epochs[:seen]] + after[seen:]
        )
        assert [e.figures for e in after] == [e.figures for e in expected.curve.epochs]
        assert saved_losses(one.folder) == self.losses_here(again, splits, again.params.epochs)

    def test_stopped_while_it_reads_its_checkpoint(self, make: Make, tmp_path: Path) -> None:
        """A trial stopped before it has trained an epoch more tells all epochs of earlier lives."""
        one, trainers = job(tmp_path, 0, LONG), make()
        trainers.start(trainers.free()[0], one)
        collect(trainers, lambda events: len(epochs_in(events)) >= 5, "five epochs")
        trainers.stop()
        until_end(trainers)
        saved = load_checkpoint(one.folder)
        assert saved is not None
        others = make()
        others.start(others.free()[0], one)
        others.stop()
        said = until_end(others)
        assert len(epochs_in(said)) >= len(saved["run"]["curve"]) >= 5
        assert isinstance(said[-1], TrialEnded)
        assert said[-1].decision.outcome is Outcome.INTERRUPTED

    def test_disk_fault_is_reported(self, make: Make, tmp_path: Path) -> None:
        """A trial's folder that cannot be written is a fault of the place, not of the trial."""
        trainers = make()
        (tmp_path / "0").write_text("in the way")
        trainers.start(trainers.free()[0], job(tmp_path))
        events = collect(
            trainers, lambda events: any(isinstance(e, TrainerFault) for e in events), "a fault"
        )
        fault = events[-1]
        assert isinstance(fault, TrainerFault)
        assert str(tmp_path / "0") in fault.reason
        assert not any(isinstance(event, TrialEnded) for event in events)

    def test_failing_trial_is_told_with_its_traceback(
        self, trainers: Trainers, tmp_path: Path
    ) -> None:
        """An exception in training fails that trial, with its traceback; the worker works on."""
        worker = trainers.free()[0]
        trainers.start(worker, job(tmp_path, 0, replace(PARAMS, optimizer="nonsense")))
        (ended,) = until_end(trainers)
        assert isinstance(ended, TrialEnded)
        assert ended.decision.outcome is Outcome.FAILED
        assert ended.decision.reason == "ValueError: unknown optimizer 'nonsense'"
        assert "Traceback" in ended.traceback
        trainers.start(worker, job(tmp_path, 1))
        assert len(epochs_in(until_end(trainers), 1)) == 3

    def test_diverging_trial_says_so(self, trainers: Trainers, tmp_path: Path) -> None:
        """A trial whose error grows without bounds ends diverged, with its losses on disk."""
        one = job(tmp_path, 0, replace(PARAMS, learning_rate=1e9, optimizer="sgd"))
        trainers.start(trainers.free()[0], one)
        ended = until_end(trainers)[-1]
        assert isinstance(ended, TrialEnded)
        assert ended.decision.outcome is Outcome.DIVERGED
        assert (one.folder / LOSSES).exists()
        assert not (one.folder / WEIGHTS).exists()

    def test_killed_trainer_is_replaced(
        self, trainers: Trainers, splits: Splits, tmp_path: Path
    ) -> None:
        """A killed trainer is reported with its trial; a new one goes on from the checkpoint."""
        one = job(tmp_path, 0, LONG)
        worker = trainers.free()[0]
        trainers.start(worker, one)
        collect(trainers, lambda _: load_checkpoint(one.folder) is not None, "a checkpoint")
        os.kill(self.pid(trainers, worker), signal.SIGKILL)
        died = collect(
            trainers, lambda events: any(isinstance(e, TrainerDied) for e in events), "a death"
        )[-1]
        assert isinstance(died, TrainerDied)
        assert (died.worker, died.number, died.exit_code) == (worker, 0, self.exit_code)
        saved = load_checkpoint(one.folder)
        assert saved is not None
        again = replace(one, params=replace(LONG, epochs=len(saved["run"]["curve"]) + 1))
        collect(trainers, lambda _: worker in trainers.free(), "a successor")
        trainers.start(worker, again)
        figures = [epoch.figures for epoch in epochs_in(until_end(trainers))]
        expected = self.train_here(again, splits, again.params.epochs)
        assert figures == [epoch.figures for epoch in expected.curve.epochs]

    def test_killed_idle_trainer_is_replaced(self, trainers: Trainers, tmp_path: Path) -> None:
        """A trainer that dies with nothing to do is reported without a trial, and replaced."""
        os.kill(self.pid(trainers, 0), signal.SIGKILL)
        (died,) = collect(trainers, lambda events: len(events) > 0, "a death")
        assert isinstance(died, TrainerDied)
        assert (died.worker, died.number, died.exit_code) == (0, None, self.exit_code)
        trainers.start(0, job(tmp_path))
        assert len(epochs_in(until_end(trainers))) == 3

    def losses_here(self, one: Job, splits: Splits, epochs: int) -> list[float]:
        """Returns the training losses of so many epochs trained in this process, in float32."""
        losses = self.train_here(one, splits, epochs).batch_losses
        return list(torch.tensor(losses, dtype=torch.float32).tolist())


def pack(splits: Splits, one: Job) -> str:
    """Writes what a script needs to train a job, and returns where."""
    path = one.folder.with_name("setup")
    path.write_bytes(pickle.dumps((splits, RULES, one)))
    return str(path)


def saved_losses(folder: Path) -> list[float]:
    """Returns the training losses that a trial has left on disk."""
    from safetensors.torch import load_file

    return list(load_file(folder / LOSSES)["train"].tolist())


@pytest.fixture
def make(hire: Make) -> Iterator[Make]:
    """Makes trainers that are killed at the end of the test, so that they take no other's room."""
    with ExitStack() as made:
        yield lambda: made.enter_context(hire())


@pytest.fixture(scope="module")
def shared(hire: Make) -> Iterator[list[Trainers]]:
    """Trainers for one test after another."""
    ones = [hire()]
    yield ones
    ones[0].kill()
