"""Where a trainer works, wherever that is: orders come between batches, epochs go out."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from search.data.splits import Splits
from search.factories import Factory
from search.trial import Decision, Epoch, Outcome
from search.worker import Job, TrialRules, TrialWorker


@dataclass(frozen=True)
class Drop:
    """Stop this trial: only its epochs up to this one count; 0: its files are another's now."""

    number: int
    epoch: int


class Stop:
    """Stop at the end of the epoch, leaving the checkpoint, and exit."""


Order = Job | Drop | Stop

INTERRUPTED = Decision(Outcome.INTERRUPTED, "stopped; goes on from its checkpoint")
"""How a trial ends that was in training when its trainer was told to stop."""

TELL_SECONDS = 0.25
"""How long an epoch may wait to be told: as long as the coordinator's bars are not drawn anew."""

Trained = tuple[Epoch, tuple[float, ...], dict[str, str]]
"""An epoch, the training loss of every batch of it, and the trial's surroundings."""


class Line(Protocol):
    """A trainer's end of what connects it with the coordinator, as `Connection` has it."""

    def send(self, message: Any, /) -> None:
        """Sends a trial's number and its news.

        These are a list of `Trained`; a `Decision`, its traceback and its surroundings; None if it
        was dropped; or the text of a fault.
        """

    def recv(self) -> Any:
        """Waits for an order."""

    def poll(self) -> bool:
        """Says whether an order has come."""


class Teller:
    """Tells epochs: at once where trials are compared, the others together, a moment later.

    On two busy cores the coordinator, which wakes to listen, takes the core of who has told, for
    longer than telling takes (`studies/LOG.md`, what is not training).

    Args:
        line: To the coordinator.
        rules: Say which are waited for.
    """

    def __init__(self, line: Line, rules: TrialRules) -> None:
        self._line, self._rules = line, rules
        self._untold: dict[TrialWorker, list[Trained]] = {}
        self._due = 0.0

    def tell(self, worker: TrialWorker, epoch: Epoch) -> None:
        """Tells an epoch of a trial, maybe later; those of a trial keep their order."""
        trained = epoch, worker.losses(epoch), worker.surroundings
        self._untold.setdefault(worker, []).append(trained)
        if self._rules.compares(epoch.index):
            self._send(worker)
        else:
            self.tell_due()

    def tell_due(self) -> None:
        """Tells what has waited; call it often."""
        if self._untold and time.monotonic() >= self._due:
            for worker in list(self._untold):
                self._send(worker)
            self._due = time.monotonic() + TELL_SECONDS

    def end(self, worker: TrialWorker) -> None:
        """Leaves the files of a trial that was not dropped as they should be, and says so."""
        decision, number = worker.decision, worker.job.number
        if decision is None:
            worker.save()
        else:
            worker.finish()
        self._send(worker)
        said = decision or INTERRUPTED, worker.traceback, worker.surroundings
        self._line.send((number, said))

    def drop(self, worker: TrialWorker, epoch: int) -> None:
        """Leaves the files of a trial as of ``epoch``, 0: as they are, and says so."""
        self._untold.pop(worker, None)
        if epoch > 0:
            worker.drop(epoch)
        self._line.send((worker.job.number, None))

    def _send(self, worker: TrialWorker) -> None:
        if worker in self._untold:
            self._line.send((worker.job.number, self._untold[worker]))
            del self._untold[worker]


def try_device(device: torch.device) -> None:
    """Computes a little: a GPU that is too old for this torch takes data, and fails only then.

    Raises:
        RuntimeError: The device cannot compute.
    """
    ones = torch.ones(2, 2, device=device)
    (ones @ ones).sum().item()


def of_disk(error: OSError) -> str:
    """Says in one line which file could not be written, and why."""
    said = error.strerror or str(error)
    remedy = "; make room there" if error.errno == errno.ENOSPC else ""
    return f"{error.filename}: {said}{remedy}" if error.filename else f"{said}{remedy}"


class Desk:
    """Where a trainer works: takes orders between batches, sends epochs."""

    def __init__(
        self,
        connection: Line,
        splits: Splits,
        rules: TrialRules,
        device: torch.device,
        factory: Factory | None,
    ) -> None:
        self._connection = connection
        self._teller = Teller(connection, rules)
        self._splits, self._rules, self._device, self._factory = splits, rules, device, factory
        self._number = -1
        self._worker: TrialWorker | None = None
        self._dropped: Drop | None = None
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
                self._dropped = None
                self._train(job)
                self._settle()
            except OSError as error:
                self._connection.send((self._number, of_disk(error)))
                return

    def _train(self, job: Job) -> None:
        self._number = job.number
        settings = (self._splits, self._rules, self._device, self._look, self._factory)
        worker = TrialWorker(job, *settings)
        self._worker = worker
        for epoch in worker.epochs():
            self._teller.tell(worker, epoch)
            self._look()
            # Epochs of a checkpoint are told to the last, or what is said of the trial is wrong.
            stops = self._stopping and worker.decision is None and worker.is_last(epoch)
            if self._dropped or stops:
                break
        self._look()
        if not self._dropped:
            self._teller.end(worker)

    def _settle(self) -> None:
        """Leaves a dropped trial's files as they should be, and says so."""
        if self._dropped is None or self._worker is None:
            return
        self._teller.drop(self._worker, self._dropped.epoch)
        self._worker = self._dropped = None

    def _look(self) -> Decision | None:
        """Tells what is due and reads what orders have come; a decision ends the trial at once."""
        self._teller.tell_due()
        while self._connection.poll():
            self._take(self._connection.recv())
        return Decision(Outcome.INTERRUPTED, "dropped") if self._dropped else None

    def _take(self, order: Order) -> None:
        if isinstance(order, Stop):
            self._stopping = True
        elif isinstance(order, Job):
            self._next = order
        elif self._next is not None and order.number == self._next.number:
            self._next = None
            self._connection.send((order.number, None))
        elif order.number == self._number:
            self._dropped = order
