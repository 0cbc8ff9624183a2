"""Retrainings on real trainers: the same bits whatever happens to a trainer."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from networks import LOSS, hyper, sine

from search.retraining import Result, Retrainer, Retraining
from search.stopping import PRUNERS
from search.trainers import EpochDone, Event, LocalTrainers, TrialEnded
from search.trial import Curve, Decision, Epoch, Outcome
from search.trial_files import LOSSES, RESULT, WEIGHTS
from search.worker import Job, TrialRules

Hire = Callable[[int], LocalTrainers]


class Watcher:
    """An observer that keeps what it is told, and does something after some epochs."""

    def __init__(self, then: Callable[[int, Retraining, Epoch], None] | None = None) -> None:
        self.starts: list[int] = []
        self.lines: list[str] = []
        self.ends: dict[int, Outcome] = {}
        self._then = then

    def started(self, worker: int, retraining: Retraining) -> None:
        """A retraining starts."""
        self.starts.append(retraining.index)

    def advanced(self, worker: int, retraining: Retraining, epoch: Epoch) -> None:
        """A retraining has trained an epoch."""
        if self._then is not None:
            self._then(worker, retraining, epoch)

    def ended(self, worker: int, retraining: Retraining, decision: Decision, curve: Curve) -> None:
        """A retraining is over, or interrupted."""
        self.ends[retraining.index] = decision.outcome

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened."""
        self.lines.append(line)


@pytest.fixture
def hire() -> Iterator[Hire]:
    """Starts so many trainers, which end with the test."""
    # Where others may judge a trial each epoch is told at once, so that a test can act on it.
    rules = TrialRules(LOSS, 0, divergence=True, pruner=PRUNERS["median"])
    with ExitStack() as hired:
        yield lambda count: hired.enter_context(LocalTrainers(sine(), rules, count, "cpu"))


def seeds(folder: Path, count: int, first: int = 0, **changes: Any) -> list[Retraining]:
    """Returns so many retrainings of one configuration."""
    params = hyper(**{"cell": "gru"} | changes)
    return [
        Retraining(at, first, 100 + at, params, folder / str(at))
        for at in range(first, first + count)
    ]


def retrain(
    trainers: LocalTrainers,
    wanted: Sequence[Retraining],
    watcher: Watcher,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Result]:
    """Trains what is wanted."""
    return Retrainer(trainers, LOSS, watcher, {"device": "cpu"}, interrupted).run(wanted)


def kept(results: Sequence[Result]) -> list[tuple[object, ...]]:
    """Returns what came of retrainings, and all that they left, but for times and places."""
    found: list[tuple[object, ...]] = []
    for one in results:
        folder = one.retraining.folder
        assert {file.name for file in folder.iterdir()} == {LOSSES, RESULT, WEIGHTS}
        stored = json.loads((folder / RESULT).read_text()) | {"seconds": 0}
        files = [(folder / name).read_bytes() for name in (LOSSES, WEIGHTS)]
        found.append((one.outcome, one.reason, one.epoch, one.figures, stored, *files))
    return found


def each_alone(
    trainers: LocalTrainers, wanted: Sequence[Retraining], folder: Path
) -> list[tuple[object, ...]]:
    """Returns what comes of each retraining if there is no other."""
    return [
        kept(retrain(trainers, [replace(one, folder=folder / str(one.index))], Watcher()))[0]
        for one in wanted
    ]


def kill(trainers: LocalTrainers, worker: int) -> None:
    """Kills a trainer with -9, if it still lives."""
    trainers._workers[worker].process.kill()


def test_interrupted_seeds_go_on(hire: Hire, tmp_path: Path) -> None:
    """After an interruption all go on from their checkpoints, to what they come to without."""
    wanted = seeds(tmp_path, 4, epochs=60, dropout=0.2)
    seen: list[int] = []
    watcher = Watcher(lambda _worker, _retraining, epoch: seen.append(epoch.index))
    assert retrain(hire(2), wanted, watcher, lambda: 3 in seen) == []
    assert watcher.ends == dict.fromkeys(range(2), Outcome.INTERRUPTED)
    for one in wanted[:2]:
        assert [file.name for file in one.folder.iterdir()] == ["checkpoint.pt"]
    later, trainers = Watcher(), hire(1)
    found = retrain(trainers, wanted, later)
    assert later.starts == [0, 1, 2, 3]
    assert [one.retraining for one in found] == wanted
    assert set(later.ends.values()) == {Outcome.COMPLETE}
    assert kept(found) == each_alone(trainers, wanted, tmp_path / "alone")


def test_a_killed_trainer(hire: Hire, tmp_path: Path) -> None:
    """What trained on a killed trainer goes on from its checkpoint, to the same bits."""
    trainers, wanted = hire(1), seeds(tmp_path, 2, epochs=60)
    killed: list[int] = []

    def then(worker: int, _retraining: Retraining, epoch: Epoch) -> None:
        if epoch.index == 5 and not killed:
            killed.append(worker)
            kill(trainers, worker)

    watcher = Watcher(then)
    found = retrain(trainers, wanted, watcher)
    assert watcher.starts == [0, 1, 0]
    assert watcher.lines == ["a trainer died (exit code -9) with trial 0, seed 100"]
    assert kept(found) == each_alone(trainers, wanted, tmp_path / "alone")


def test_only_the_deadly_one_fails(hire: Hire, tmp_path: Path) -> None:
    """Who takes trainers down fails in the end; those who come after it do not."""
    trainers, wanted = hire(1), seeds(tmp_path, 4, epochs=3)
    wanted[1] = replace(wanted[1], params=replace(wanted[1].params, epochs=100_000))

    def then(worker: int, retraining: Retraining, _epoch: Epoch) -> None:
        if retraining.index == 1:
            kill(trainers, worker)

    watcher = Watcher(then)
    found = retrain(trainers, wanted, watcher)
    failed = found.pop(1)
    assert (failed.outcome, failed.reason) == (
        Outcome.FAILED,
        "took 3 trainers down, the last with exit code -9",
    )
    assert len(watcher.lines) == 3
    innocent = [one for one in wanted if one.index != 1]
    assert kept(found) == each_alone(trainers, innocent, tmp_path / "alone")


def test_too_large_for_the_memory(hire: Hire, tmp_path: Path) -> None:
    """What does not fit the memory ends and is not kept; others train on the same trainer.

    The trainer's address space is limited to what one network of theirs takes, and some more.
    """
    trainers = hire(1)
    retrain(trainers, seeds(tmp_path / "first", 1, batch_size=20_000, epochs=1), Watcher())
    pid = trainers._workers[0].process.pid
    assert pid is not None
    room = psutil.Process(pid).memory_info().vms + 350 * 2**20
    resource.prlimit(pid, resource.RLIMIT_AS, (room, room))
    wanted = [
        *seeds(tmp_path, 1, hidden_units=8000),
        *seeds(tmp_path, 1, first=1, batch_size=20_000, epochs=2),
    ]
    too_large, other = retrain(trainers, wanted, Watcher())
    assert too_large.outcome is Outcome.OUT_OF_MEMORY
    assert not (tmp_path / "0" / RESULT).exists()
    assert kept([other]) == each_alone(hire(1), wanted[1:], tmp_path / "alone")


class Scripted:
    """Two trainers: the second is done first, and all are at their best in the second epoch."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}

    def surroundings(self, worker: int) -> dict[str, str]:
        """Computes with what is here."""
        return {}

    def free(self) -> list[int]:
        """Returns the workers that have nothing to do."""
        return [worker for worker in range(2) if worker not in self.jobs]

    def start(self, worker: int, job: Job) -> None:
        """Takes a retraining."""
        self.jobs[worker] = job

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields the epochs and the end of one retraining."""
        worker = max(self.jobs)
        job = self.jobs.pop(worker)
        for index, loss in enumerate((3.0, 1.0, 2.0), 1):
            figures = {"loss": loss + job.number, "rmse": 10 * loss}
            yield EpochDone(worker, job.number, Epoch(index, 0.5, figures, 0.1, 0.1))
        yield TrialEnded(worker, job.number, Decision(Outcome.COMPLETE, "done"))


def test_the_best_epoch_counts(tmp_path: Path) -> None:
    """A result has number and figures of the best epoch; results come in the order asked for."""
    wanted = seeds(tmp_path, 2)
    retrainer = Retrainer(Scripted(), LOSS, Watcher(), {})  # type: ignore[arg-type]
    results = retrainer.run(wanted)
    assert [one.retraining for one in results] == wanted
    for at, result in enumerate(results):
        assert (result.epoch, result.figures) == (2, {"loss": 1.0 + at, "rmse": 10.0})
        stored = json.loads((result.retraining.folder / RESULT).read_text())
        assert (stored["seed"], stored["epoch"]) == (100 + at, 2)
        assert stored["seconds"] < 60.0
