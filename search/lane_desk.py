"""Where the trials of a GPU train: many at once in lanes, each as if it had a trainer of its own.

What `search.desk.Desk` is to a trainer with one trial, this is to one with as many as it has seats.
Trials of one cell and number of layers share lanes. Where memory is too small for so many, fewer
train at once, and the others wait until a lane is free.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from search.data.splits import Splits
from search.desk import Drop, Line, Order, Stop, Teller, of_disk
from search.lane_shapes import shape_of
from search.lanes import Lanes, Result
from search.training import FAULTS, Run, is_lost_device, is_out_of_memory
from search.trial import Decision, Outcome
from search.worker import Job, TrialRules, TrialWorker

Seated = tuple[int, Order]
"""For whom an order is: a seat's number, and the order; what is for all is for seat 0."""


@dataclass
class _Group:
    """Trials of one cell and number of layers.

    Attributes:
        lanes: Where they train.
        most: How many can train there at once.
        waiting: Those that are to train there.
        alone: Those that train without lanes, one after another.
    """

    lanes: Lanes
    most: float = math.inf
    waiting: deque[Run] = field(default_factory=deque)
    alone: deque[Run] = field(default_factory=deque)


class LaneDesk:
    """Where a trainer with many seats works.

    Args:
        connection: To the coordinator, which sends `Seated`.
        splits: The data, on ``device``.
        rules: What ends a trial, and where others judge it.
        device: Where to train.
    """

    def __init__(
        self, connection: Line, splits: Splits, rules: TrialRules, device: torch.device
    ) -> None:
        self._connection = connection
        self._teller = Teller(connection, rules)
        self._splits, self._rules, self._device = splits, rules, device
        self._seats: dict[int, TrialWorker] = {}
        self._training: dict[Run, TrialWorker] = {}
        self._told: dict[Run, int] = {}
        self._groups: dict[tuple[str, int], _Group] = {}
        self._stopping = False

    def serve(self) -> None:
        """Trains whatever it is given until told to stop."""
        try:
            while not self._stopping or self._training:
                if not self._training:
                    self._take(*self._connection.recv())
                while self._connection.poll():
                    self._take(*self._connection.recv())
                for group in self._groups.values():
                    self._let_in(group)
                self._train()
        except OSError as error:
            self._connection.send((-1, of_disk(error)))

    def _take(self, seat: int, order: Order) -> None:
        if isinstance(order, Stop):
            self._stop()
        elif isinstance(order, Drop):
            self._drop(self._seats[seat], order)
        else:
            assert isinstance(order, Job)
            self._start(seat, order)

    def _start(self, seat: int, job: Job) -> None:
        """Begins a trial, or goes on with it from its checkpoint."""
        member = TrialWorker(job, self._splits, self._rules, self._device)
        self._seats[seat] = member
        self._begin(member, 0)

    def _begin(self, member: TrialWorker, told: int, *, alone: bool = False) -> None:
        """Begins a trial of which so many epochs have been told."""
        try:
            run = member.begin()
        except FAULTS as error:
            if self._lacks_memory(error) and self._halve():
                self._begin(member, told, alone=alone)
                return
            member.blame(error)
            self._teller.end(member)
            return
        self._training[run], self._told[run] = member, told
        self._tell(run)
        if member.decision is not None or self._stopping:
            self._end(run)
        else:
            group = self._group(run)
            (group.alone if alone else group.waiting).append(run)

    def _group(self, run: Run) -> _Group:
        shape = shape_of(run.params)
        key = shape.cell, shape.layers
        if key not in self._groups:
            self._groups[key] = _Group(Lanes(shape, self._splits, roomy=True))
        return self._groups[key]

    def _let_in(self, group: _Group) -> None:
        """Lets trials that wait train in lanes, as many as can."""
        while group.waiting and len(group.lanes.runs) < group.most:
            run = group.waiting.popleft()
            try:
                group.lanes.join(run, self._training[run].judge(run))
            except FAULTS as error:
                if not self._lacks_memory(error):
                    group.alone.append(run)
                elif self._make_room():
                    group.waiting.appendleft(run)
                elif group.lanes.runs:
                    group.waiting.appendleft(run)
                    group.most = len(group.lanes.runs)
                else:
                    group.alone.append(run)

    def _train(self) -> None:
        """Trains a batch of every trial in lanes, and an epoch of one that trains without."""
        groups = list(self._groups.values())
        # All are launched before any is waited for, so that a GPU is never without work.
        launched = [one for one in groups if one.lanes.runs and self._worked(one, one.lanes.launch)]
        for group in launched:
            ends: list[tuple[Run, Result]] = []
            self._worked(group, functools.partial(group.lanes.collect, ends))
            for run, result in ends:
                self._settle(run, result)
        for group in groups:
            if group.alone:
                self._train_alone(group.alone[0])
        self._teller.tell_due()

    def _worked(self, group: _Group, train: Callable[[], None]) -> bool:
        """Calls what trains a group; if it fails, brings the group back to its last epochs' ends.

        If memory was too small, half of the trials go on in lanes, and the others wait; else each
        goes on without, so that the one whose fault it is fails by itself.
        """
        try:
            train()
        except FAULTS as error:
            self._retreat(group, cramped=self._lacks_memory(error))
            return False
        return True

    def _retreat(self, group: _Group, *, cramped: bool) -> None:
        runs, spoilt = group.lanes.abandon()
        count = len(runs) + len(spoilt)
        alone = not cramped or count == 1
        if cramped:
            group.most = max(1, count // 2)
        (group.alone if alone else group.waiting).extendleft(reversed(runs))
        self._make_room()
        for run in spoilt:
            self._restart(run, alone=alone)

    def _halve(self) -> bool:
        """Lets half of the largest group wait, or else frees what lanes keep for the next.

        Returns:
            False if there is neither.
        """
        group = max(self._groups.values(), key=lambda one: len(one.lanes.runs), default=None)
        if group is None or not group.lanes.runs:
            return self._make_room()
        self._retreat(group, cramped=True)
        return True

    def _restart(self, run: Run, *, alone: bool) -> None:
        """Begins a trial anew from its checkpoint, after which it comes to the same."""
        told = self._told[run]
        self._begin(self._leave(run), told, alone=alone)

    def _make_room(self) -> bool:
        """Frees what lanes without trials keep for the next; returns False if there are none."""
        idle = [group.lanes for group in self._groups.values() if group.lanes.keeps_room]
        for lanes in idle:
            lanes.abandon()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(idle)

    def _lacks_memory(self, error: BaseException) -> bool:
        """Says whether memory was too small.

        Raises:
            torch.AcceleratorError: The GPU is of no use to this process any more.
        """
        # To break off the recording of a graph for want of memory raises another error.
        causes = [one for one in (error, error.__context__) if one is not None]
        if any(map(is_out_of_memory, causes)):
            return True
        if is_lost_device(error):
            raise error
        return False

    def _train_alone(self, run: Run) -> None:
        """Trains an epoch of a trial without lanes; for want of memory those in lanes are fewer."""
        member = self._training[run]
        result: Result
        try:
            result = run.advance(member.judge(run))
        except FAULTS as error:
            if is_lost_device(error):
                raise
            result = error
        out = isinstance(result, Decision) and result.outcome is Outcome.OUT_OF_MEMORY
        if out and self._halve():
            self._restart(run, alone=True)
        else:
            self._settle(run, result)

    def _settle(self, run: Run, result: Result) -> None:
        """Tells what a trial has come to; it leaves if that is its end."""
        member = self._training[run]
        member.settle(run, result)
        self._tell(run)
        if member.decision is not None or self._stopping:
            self._end(run)

    def _tell(self, run: Run) -> None:
        """Tells a trial's epochs that have not been told."""
        member = self._training[run]
        for epoch in run.curve.epochs[self._told[run] :]:
            self._teller.tell(member, epoch)
        self._told[run] = max(self._told[run], len(run.curve))

    def _end(self, run: Run) -> None:
        self._teller.end(self._leave(run))

    def _leave(self, run: Run) -> TrialWorker:
        """Trains a trial no longer."""
        group = self._group(run)
        for queue in (group.waiting, group.alone):
            if run in queue:
                queue.remove(run)
        group.lanes.leave(run)
        if not (group.lanes.runs or group.waiting or group.alone):
            group.most = math.inf  # Who comes next may be smaller.
        del self._told[run]
        return self._training.pop(run)

    def _stop(self) -> None:
        """Ends what is between two epochs; the others end with theirs."""
        self._stopping = True
        for group in self._groups.values():
            for run in [*group.waiting, *group.alone]:
                self._end(run)

    def _drop(self, member: TrialWorker, order: Drop) -> None:
        """Ends a trial that may have ended by itself meanwhile; the order counts."""
        for run, other in list(self._training.items()):
            if other is member:
                self._leave(run)
        self._teller.drop(member, order.epoch)
