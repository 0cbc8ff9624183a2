"""Where trials train: processes on this machine that get work and send back what epochs came to.

Trainers import neither Optuna nor SQLAlchemy and never see the study. Each keeps the checkpoint of
its trial, so that whoever is killed, the trial goes on from an epoch of the last seconds. What all
kinds of trainers promise is `Trainers`; each trainer sits at a `Desk`, wherever that stands, or on
a seat of a `LaneDesk`.
"""

from __future__ import annotations

import contextlib
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from search.data.splits import Splits
from search.desk import Drop, Order, Stop
from search.factories import Factory
from search.trainer_process import READY, Setup, start_process
from search.trial import Decision, Epoch
from search.worker import Job, TrialRules


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a trial is trained, or, after a restart, read from its checkpoint.

    Attributes:
        worker: Which trainer has the trial.
        number: The trial's number.
        epoch: The epoch.
        losses: The training loss of every batch of it.
        surroundings: As of `TrialEnded`.
    """

    worker: int
    number: int
    epoch: Epoch
    losses: tuple[float, ...] = ()
    surroundings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialEnded:
    """A trial is over, for a reason of its own, or interrupted.

    Attributes:
        worker: Which trainer had it.
        number: The trial's number.
        decision: How it ended and why.
        traceback: Of the exception, if it failed; else empty.
        surroundings: What it was computed with that other trials there may not have been.
    """

    worker: int
    number: int
    decision: Decision
    traceback: str = ""
    surroundings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainerDied:
    """A trainer is gone without a word.

    Attributes:
        worker: Which one.
        number: The trial that it had, if it had one.
        exit_code: Of its process, if that is known.
        place: Where it was, if nothing else is known.
        loading: Whether it was not ready yet; the trainers themselves count how often that may be.
    """

    worker: int
    number: int | None
    exit_code: int | None
    place: str = ""
    loading: bool = False

    @property
    def how(self) -> str:
        """What is known of its end."""
        return self.place if self.exit_code is None else f"exit code {self.exit_code}"


@dataclass(frozen=True)
class TrainerFault:
    """A trainer cannot work: its disk is full, its data cannot be read. The run has to stop."""

    worker: int
    reason: str


Event = EpochDone | TrialEnded | TrainerDied | TrainerFault


@dataclass(kw_only=True)
class Worker:
    """What the coordinator's side knows of a trainer: its trials, and one it has yet to let go."""

    number: int | None = None
    dropping: int | None = None
    gone: bool = False


class Trainers(ABC):
    """Trainers of any kinds, each with one trial at a time, as the coordinator sees them."""

    def __enter__(self) -> Trainers:
        """Returns the trainers, which end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends every trainer."""
        self.kill()

    @abstractmethod
    def free(self) -> list[int]:
        """Returns the workers without a trial."""

    @abstractmethod
    def start(self, worker: int, job: Job) -> None:
        """Gives a free worker a trial; it goes on from the trial's checkpoint if there is one."""

    @abstractmethod
    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial whose result is settled as of ``epoch``; nothing more comes from it."""

    def abandon(self, number: int) -> None:
        """Ends a trial that is another coordinator's by now, leaving its files alone."""
        self.drop(number, 0)

    @abstractmethod
    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""

    @abstractmethod
    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training, or dropped with files yet to settle."""

    def surroundings(self, worker: int) -> Mapping[str, str]:
        """Returns what a trainer computes with where that may differ from this machine."""
        del worker
        return {}

    def kind(self, worker: int) -> int:
        """Returns which kind a worker is of, from 0: what is broken breaks one kind alone."""
        del worker
        return 0

    def connections(self) -> list[Connection]:
        """Returns what a word can come by; nothing if that cannot be waited for."""
        return []

    @abstractmethod
    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the trainers have to say, waiting at most ``timeout`` seconds for a word."""

    @abstractmethod
    def kill(self) -> None:
        """Ends every trainer now; what has a checkpoint goes on from it one day."""


class OneKind(Trainers):
    """Trainers of one kind, each of which is sent its orders."""

    _workers: Sequence[Worker]

    def free(self) -> list[int]:
        """Returns the workers without a trial."""
        return [
            index
            for index, worker in enumerate(self._workers)
            if worker.number is None and not worker.gone
        ]

    def start(self, worker: int, job: Job) -> None:
        """Gives a free worker a trial; it goes on from the trial's checkpoint if there is one."""
        self._workers[worker].number = job.number
        self._send(worker, job)

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial whose result is settled as of ``epoch``; nothing more comes from it."""
        for index, worker in enumerate(self._workers):
            if worker.number == number:
                self._send(index, Drop(number, epoch))
                worker.number, worker.dropping = None, number

    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""
        for index in range(len(self._workers)):
            self._send(index, Stop())

    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training, or dropped with files yet to settle."""
        both = [number for worker in self._workers for number in (worker.number, worker.dropping)]
        return [number for number in both if number is not None]

    @abstractmethod
    def _send(self, index: int, order: Order) -> None:
        """Sends a trainer an order, also one that is dead: `events` then tells of that."""

    def _read(self, index: int, number: int, message: Any) -> Sequence[Event]:
        """Returns what a `Desk`'s message means; nothing: none that the coordinator waits for."""
        worker = self._workers[index]
        if isinstance(message, str):
            return [TrainerFault(index, message)]
        if message is None:
            worker.dropping = None if worker.dropping == number else worker.dropping
            return []
        # A late word of a trial that was dropped, and may have been started again since.
        if number != worker.number or number == worker.dropping:
            return []
        if isinstance(message, list):
            return [EpochDone(index, number, *told) for told in message]
        worker.number = None
        return [TrialEnded(index, number, *message)]


STARTS = 4
"""Trainers in a row that may die before they are ready, in one worker's place."""


@dataclass(kw_only=True)
class _Process(Worker):
    """A process; whether it was ready, how many in its place were not, and its last trial."""

    process: BaseProcess
    connection: Connection
    ready: bool = False
    deaths: int = 0
    job: Job | None = None


class LocalTrainers(OneKind):
    """Processes on this machine.

    Args:
        splits: The data; each process gets a copy.
        rules: What ends a trial, and where others judge it.
        workers: How many processes.
        device: As torch writes it: ``cpu``, ``cuda:0``.
        factory: Builds the networks, if they are the user's own.
    """

    def __init__(
        self,
        splits: Splits,
        rules: TrialRules,
        workers: int,
        device: str,
        factory: Factory | None = None,
    ) -> None:
        # Plain pickle copies the tensors; torch's own way would need /dev/shm, which is small in
        # containers.
        self._setup = Setup(pickle.dumps(splits), rules, device, factory)
        self._stopping = False
        self._workers: list[_Process] = []
        try:
            for _ in range(workers):
                self._workers.append(self._start())
        except BaseException:  # A second Ctrl-C, too: whoever has been started must not stay.
            self.kill()
            raise

    def start(self, worker: int, job: Job) -> None:
        """Gives a free worker a trial; it goes on from the trial's checkpoint if there is one."""
        self._workers[worker].job = job
        super().start(worker, job)

    def connections(self) -> list[Connection]:
        """Returns what a word can come by."""
        return [worker.connection for worker in self._workers if not worker.gone]

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the trainers have to say, waiting at most ``timeout`` seconds for a word."""
        ready = wait(self.connections(), timeout)
        for index, worker in enumerate(self._workers):
            if worker.connection not in ready:
                continue
            try:
                number, message = worker.connection.recv()
            except (EOFError, OSError):  # The latter within a long message.
                yield from self._bury(index)
                continue
            worker.ready |= (number, message) == READY
            yield from self._read(index, number, message)

    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""
        self._stopping = True
        super().stop()

    def kill(self) -> None:
        """Ends every trainer now; what has a checkpoint goes on from it one day."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _bury(self, index: int) -> Iterator[Event]:
        worker, number = self._workers[index], self._workers[index].number
        worker.gone = True
        worker.process.join(timeout=5)
        worker.process.kill()
        worker.process.join()
        died = TrainerDied(index, number, worker.process.exitcode)
        worker.number = worker.dropping = None
        if self._stopping:
            yield died
            return
        worker.connection.close()
        self._workers[index] = new = self._start()
        if worker.ready:
            yield died
            return
        new.deaths = worker.deaths + 1
        if number is not None and worker.job is not None:
            self.start(index, worker.job)  # It has not reached it.
        if new.deaths < STARTS:
            yield replace(died, number=None, loading=True)
            return
        reason = f"{STARTS} trainers in a row did not live to be ready, the last: {died.how}"
        remedy = "with fewer --workers there is more memory for each"
        yield TrainerFault(index, f"{reason}; {remedy}")

    def _send(self, index: int, order: Order) -> None:
        # A dead trainer is noticed by `events`, which also knows what it was doing.
        with contextlib.suppress(ConnectionError):
            self._workers[index].connection.send(order)

    def _start(self) -> _Process:
        process, connection = start_process(self._setup)
        return _Process(process=process, connection=connection)
