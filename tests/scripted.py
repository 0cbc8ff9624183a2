"""The loop for tests: trainers that do as a script says, in this process, and a real database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tiny import tiny_config

from search.coordinator import Coordinator, Ending
from search.database import Database
from search.diagnosis import Finding
from search.observing import Observer
from search.storage import create_study
from search.stored_study import StoredStudy, Taken
from search.trainers import EpochDone, Event, TrainerDied, TrainerFault, TrialEnded
from search.trial import Curve, Decision, Epoch, Outcome
from search.worker import Job

Script = Callable[[Job], Iterator[Any]]


class ScriptedTrainers:
    """Trainers in this process: each trial says what its script yields, one event a call.

    A script yields losses, and at the end a `Decision`, a `TrainerFault` or ``"dies"``.
    """

    def __init__(self, script: Script, workers: int = 1) -> None:
        self.script = script
        self.jobs: dict[int, Job | None] = dict.fromkeys(range(workers))
        self.said: dict[int, Iterator[Any]] = {}
        self.epochs = dict.fromkeys(range(workers), 0)
        self.started: list[int] = []
        self.dropped: list[tuple[int, int]] = []
        self.stopping = False

    def free(self) -> list[int]:
        """Returns the workers without a trial."""
        return [worker for worker, job in self.jobs.items() if job is None]

    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training."""
        return [job.number for job in self.jobs.values() if job is not None]

    def start(self, worker: int, job: Job) -> None:
        """Begins a trial's script."""
        self.jobs[worker], self.epochs[worker] = job, 0
        self.said[worker] = self.script(job)
        self.started.append(job.number)

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial."""
        self.dropped.append((number, epoch))
        for worker, job in self.jobs.items():
            if job is not None and job.number == number:
                self.jobs[worker] = None

    def abandon(self, number: int) -> None:
        """Ends a trial that is another's."""
        self.drop(number, 0)

    def stop(self) -> None:
        """Interrupts every trial at its next event."""
        self.stopping = True

    def kind(self, _worker: int) -> int:
        """All are of one kind."""
        return 0

    def surroundings(self, worker: int) -> dict[str, str]:
        """Returns where this worker computes, for the trials that it trains."""
        return {"kernels": f"of worker {worker}"}

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields one event of each busy worker."""
        for worker, job in self.jobs.items():
            if job is None:
                continue
            said = next(self.said[worker])
            if self.stopping:
                said = Decision(Outcome.INTERRUPTED, "stopped")
            if isinstance(said, float):
                self.epochs[worker] += 1
                figures = {"loss": said, "rmse": said, "mae": said}
                epoch = Epoch(self.epochs[worker], said, figures, 0.1, 0.1)
                own = {"layers": f"of {worker}"}
                yield EpochDone(worker, job.number, epoch, surroundings=own)
                continue
            if isinstance(said, TrainerFault):
                yield said
                continue
            self.jobs[worker] = None
            if said == "dies":
                yield TrainerDied(worker, job.number, -9)
            else:
                traceback = "Traceback" * (said == FAILED)
                yield TrialEnded(worker, job.number, said, traceback, {"layers": f"of {worker}"})


class Silent(Observer):
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.endings: list[tuple[int, Outcome]] = []
        self.findings: dict[int, Finding | None] = {}

    def ended(
        self,
        worker: int,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        finding: Finding | None = None,
    ) -> None:
        """A trial is over."""
        self.endings.append((taken.number, decision.outcome))
        self.findings[taken.number] = finding

    def say(self, line: str) -> None:
        """Something happened."""
        self.lines.append(line)


COMPLETE = Decision(Outcome.COMPLETE, "trained 4 epochs")


DIVERGED = Decision(Outcome.DIVERGED, "the training loss is not finite")


FAILED = Decision(Outcome.FAILED, "ValueError: no")


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A new study in a new SQLite file."""
    config = tiny_config(tmp_path, space={"epochs": 4}, keep=2)
    database = Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    return create_study(database, config, {"data": "f00d", "baselines": {}, "notes": []})


def run(
    stored: StoredStudy, trainers: ScriptedTrainers, total: int, **options: Any
) -> tuple[Ending, Silent]:
    """Runs a study to its end."""
    observer = Silent()
    ending = Coordinator(stored, trainers, observer, total, **options).run()  # type: ignore[arg-type]
    return ending, observer


def states(stored: StoredStudy) -> list[TrialState]:
    """Returns the states of all trials."""
    return [trial.state for trial in stored.trials()]


def completes(job: Job) -> Iterator[Any]:
    """Four epochs, better in trials with a larger number."""
    yield from [4.0 / (job.number + 1), 3.0 / (job.number + 1), 2.0 / (job.number + 1), 2.5]
    yield COMPLETE


def bad_sixth(job: Job) -> Iterator[Any]:
    """Trials 0 to 4 end at 1.0; later ones are hopeless from the start."""
    for _ in range(4):
        yield 1.0 if job.number < 5 else 9.0
    yield COMPLETE
