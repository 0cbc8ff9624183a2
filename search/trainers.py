"""Where trials train: processes on this machine that get work and send back one epoch at a time.

Trainers import neither Optuna nor SQLAlchemy and never see the study. Each keeps the checkpoint of
its trial, so that whoever is killed, the trial goes on from its last whole epoch.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from search.data.splits import Splits
from search.errors import FactoryError, TrainerError
from search.factories import Factory, ordinary_path
from search.trial import Decision, Epoch, Outcome
from search.worker import Job, TrialRules, TrialWorker

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What people and machines send to a whole process group; the coordinator alone answers it."""


@dataclass(frozen=True)
class EpochDone:
    """An epoch of a trial is trained, or, after a restart, read from its checkpoint.

    Attributes:
        worker: Which trainer has the trial.
        number: The trial's number.
        epoch: The epoch.
        losses: The training loss of every batch of it.
    """

    worker: int
    number: int
    epoch: Epoch
    losses: tuple[float, ...] = ()


@dataclass(frozen=True)
class TrialEnded:
    """A trial is over, for a reason of its own, or interrupted.

    Attributes:
        worker: Which trainer had it.
        number: The trial's number.
        decision: How it ended and why.
        traceback: Of the exception, if it failed; else empty.
    """

    worker: int
    number: int
    decision: Decision
    traceback: str = ""


@dataclass(frozen=True)
class TrainerDied:
    """A trainer is gone without a word; ``number`` is the trial that it had, if any."""

    worker: int
    number: int | None
    exit_code: int | None


@dataclass(frozen=True)
class TrainerFault:
    """A trainer cannot work: its disk is full, its data cannot be read. The run has to stop."""

    worker: int
    reason: str


Event = EpochDone | TrialEnded | TrainerDied | TrainerFault


@dataclass(frozen=True)
class _Drop:
    """Stop this trial: only its epochs up to this one count; 0: its files are another's now."""

    number: int
    epoch: int


class _Stop:
    """Stop at the end of the epoch, leaving the checkpoint, and exit."""


Order = Job | _Drop | _Stop


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    number: int | None = None
    dropping: int | None = None
    gone: bool = False


class LocalTrainers:
    """Processes on this machine, each with one thread and one trial at a time.

    Args:
        splits: The data; each process gets a copy.
        rules: What ends a trial without looking at others.
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
        self._context = multiprocessing.get_context("spawn")
        # Plain pickle copies the tensors; torch's own way would need /dev/shm, which is small in
        # containers.
        self._setup = (pickle.dumps(splits), rules, device, factory)
        self._stopping = False
        self._workers: list[_Worker] = []
        try:
            for _ in range(workers):
                self._workers.append(self._start())
        except BaseException:  # A second Ctrl-C, too: whoever has been started must not stay.
            self.kill()
            raise

    def __enter__(self) -> LocalTrainers:
        """Returns the trainers, which end with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends every trainer."""
        self.kill()

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
                self._send(index, _Drop(number, epoch))
                worker.number, worker.dropping = None, number

    def abandon(self, number: int) -> None:
        """Ends a trial that is another coordinator's by now, leaving its files alone."""
        self.drop(number, 0)

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the trainers have to say, waiting at most ``timeout`` seconds for a word."""
        alive = [worker.connection for worker in self._workers if not worker.gone]
        ready = wait(alive, timeout)
        for index, worker in enumerate(self._workers):
            if worker.connection not in ready:
                continue
            try:
                number, message = worker.connection.recv()
            except (EOFError, ConnectionError):
                yield self._bury(index)
                continue
            if isinstance(message, str):
                yield TrainerFault(index, message)
            elif message is None:
                worker.dropping = None if worker.dropping == number else worker.dropping
            elif number != worker.number:
                continue  # a late word of a trial that was dropped
            elif isinstance(message[0], Epoch):
                yield EpochDone(index, number, *message)
            else:
                worker.number = None
                yield TrialEnded(index, number, *message)

    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""
        self._stopping = True
        for index in range(len(self._workers)):
            self._send(index, _Stop())

    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training, or dropped with files yet to settle."""
        both = [number for worker in self._workers for number in (worker.number, worker.dropping)]
        return [number for number in both if number is not None]

    def kill(self) -> None:
        """Ends every trainer now; what has a checkpoint goes on from it one day."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.connection.close()

    def _bury(self, index: int) -> TrainerDied:
        worker = self._workers[index]
        worker.gone = True
        worker.process.join(timeout=5)
        worker.process.kill()
        worker.process.join()
        died = TrainerDied(index, worker.number, worker.process.exitcode)
        if not self._stopping:
            worker.connection.close()
            self._workers[index] = self._start()
        worker.number = worker.dropping = None
        return died

    def _send(self, index: int, order: Order) -> None:
        # A dead trainer is noticed by `events`, which also knows what it was doing.
        with contextlib.suppress(ConnectionError):
            self._workers[index].connection.send(order)

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_trainer_main, args=(theirs, *self._setup), daemon=True, name="trainer"
        )
        # Python starts this helper with the first process, and unblocks signals in doing so.
        resource_tracker.ensure_running()
        # The mask is inherited, so a Ctrl-C while the child imports torch cannot end it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            with ordinary_path():
                process.start()
        except OSError as error:
            raise TrainerError(f"a trainer could not be started: {error}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours)


def _trainer_main(
    connection: Connection,
    splits: bytes,
    rules: TrialRules,
    device: str,
    factory: Factory | None,
) -> None:
    """Runs in the trainer's process until the coordinator says stop or is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    target = torch.device(device)
    data: Splits = pickle.loads(splits).to(target)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            if factory is not None:
                factory.import_here()
        except FactoryError as error:
            connection.send((-1, str(error)))
            return
        _Desk(connection, data, rules, target, factory).serve()


class _Desk:
    """A trainer's end of the pipe: takes orders between batches, sends epochs."""

    def __init__(
        self,
        connection: Connection,
        splits: Splits,
        rules: TrialRules,
        device: torch.device,
        factory: Factory | None,
    ) -> None:
        self._connection = connection
        self._splits, self._rules, self._device, self._factory = splits, rules, device, factory
        self._number = -1
        self._worker: TrialWorker | None = None
        self._dropped: _Drop | None = None
        self._next: Job | None = None
        self._stopping = False

    def serve(self) -> None:
        """Trains one job after another until told to stop."""
        while True:
            try:
                # The end of a trial and the order to drop it may cross; the order counts.
                while self._next is None and not self._stopping:
                    self._take(self._connection.recv())
                    self._settle()
                if self._next is None:
                    return
                job, self._next = self._next, None
                self._train(job)
                self._settle()
            except OSError as error:
                self._connection.send((self._number, str(error)))
                return

    def _train(self, job: Job) -> None:
        self._number, self._dropped = job.number, None
        settings = (self._splits, self._rules, self._device, self._look, self._factory)
        worker = TrialWorker(job, *settings)
        self._worker = worker
        for epoch in worker.epochs():
            self._connection.send((job.number, (epoch, worker.losses(epoch))))
            self._look()
            if self._dropped or (self._stopping and worker.decision is None):
                break
        self._look()
        if self._dropped:
            return
        if worker.decision is None:
            worker.save()
            self._connection.send((job.number, (_INTERRUPTED, "")))
        else:
            worker.finish()
            self._connection.send((job.number, (worker.decision, worker.traceback)))

    def _settle(self) -> None:
        """Leaves a dropped trial's files as they should be, and says so."""
        if self._dropped is None or self._worker is None:
            return
        if self._dropped.epoch > 0:
            self._worker.drop(self._dropped.epoch)
        self._connection.send((self._number, None))
        self._worker = self._dropped = None

    def _look(self) -> Decision | None:
        """Reads what orders have come; a decision means that the trial ends at once."""
        while self._connection.poll():
            self._take(self._connection.recv())
        return Decision(Outcome.INTERRUPTED, "dropped") if self._dropped else None

    def _take(self, order: Order) -> None:
        if isinstance(order, _Stop):
            self._stopping = True
        elif isinstance(order, Job):
            self._next = order
        elif order.number == self._number:
            self._dropped = order
        elif self._next is not None and order.number == self._next.number:
            self._next = None
            self._connection.send((order.number, None))


_INTERRUPTED = Decision(Outcome.INTERRUPTED, "stopped; goes on from its checkpoint")


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
