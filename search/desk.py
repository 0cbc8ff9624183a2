"""Where a trainer works, wherever that is: orders come between batches, epochs go out."""

from __future__ import annotations

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


class Line(Protocol):
    """A trainer's end of what connects it with the coordinator, as `Connection` has it."""

    def send(self, message: Any, /) -> None:
        """Sends a trial's number and an epoch, an end, None when dropped, or a fault."""

    def recv(self) -> Any:
        """Waits for an order."""

    def poll(self) -> bool:
        """Says whether an order has come."""


def tell(line: Line, worker: TrialWorker, epoch: Epoch) -> None:
    """Sends an epoch of a trial."""
    line.send((worker.job.number, (epoch, worker.losses(epoch))))


def tell_end(line: Line, worker: TrialWorker) -> None:
    """Leaves the files of a trial that was not dropped as they should be, and says so."""
    if worker.decision is None:
        worker.save()
        line.send((worker.job.number, (INTERRUPTED, "")))
    else:
        worker.finish()
        line.send((worker.job.number, (worker.decision, worker.traceback)))


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
                self._connection.send((self._number, str(error)))
                return

    def _train(self, job: Job) -> None:
        self._number = job.number
        settings = (self._splits, self._rules, self._device, self._look, self._factory)
        worker = TrialWorker(job, *settings)
        self._worker = worker
        for epoch in worker.epochs():
            tell(self._connection, worker, epoch)
            self._look()
            # Epochs of a checkpoint are told to the last, or what is said of the trial is wrong.
            stops = self._stopping and worker.decision is None and worker.is_last(epoch)
            if self._dropped or stops:
                break
        self._look()
        if not self._dropped:
            tell_end(self._connection, worker)

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
        if isinstance(order, Stop):
            self._stopping = True
        elif isinstance(order, Job):
            self._next = order
        elif order.number == self._number:
            self._dropped = order
        elif self._next is not None and order.number == self._next.number:
            self._next = None
            self._connection.send((order.number, None))
