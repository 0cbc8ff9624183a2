"""Lanes: K runs trained together, each with settings, order and dropout of its own.

Every lane keeps its `Run`, which at the end of an epoch holds all that was trained: its state is
its checkpoint, and it can go on in any other company, or leave. On one thread of a CPU a lane's
numbers are the same to the last bit whatever lanes there are beside it, and equal up to rounding
those that its run comes to alone by `Run.advance`. On a GPU they are equal up to rounding beside
whatever lanes; alone, cuDNN draws another dropout.

Shapes: K lanes, B rows of a minibatch, H hidden, L layers, P numbers in a row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.data.splits import EpochPlan, Splits
from search.lane_batches import Batches
from search.lane_rows import Rows
from search.lane_shapes import Shape, shape_of
from search.lane_steps import LaneStep
from search.models import SequenceModel
from search.steps import MOST, Settings
from search.training import FAULTS, BatchJudge, Run, is_lost_device, is_out_of_memory
from search.trial import Decision, Epoch

Result = Epoch | Decision | Exception
"""What a run has come to: an epoch; why it has ended; or what was raised when it was validated."""


@dataclass(eq=False)
class _Lane:
    """A run in training.

    Attributes:
        run: The run.
        judge: Judges its batches.
        random: Draws its dropout.
        order: What drew the order of its epoch, as it was before.
        plan: Its epoch's minibatches; None between epochs.
        spoilt: Whether it can neither go on nor back, because memory was too small to validate it.
        rate: Its learning rate.
        losses: Of the batches of its epoch so far.
        started: When its epoch began.
    """

    run: Run
    judge: BatchJudge
    random: torch.Generator
    order: Tensor
    plan: EpochPlan | None = None
    rate: float = 0.0
    losses: list[float] = field(default_factory=list)
    started: float = 0.0
    spoilt: bool = False

    def begin(self) -> EpochPlan:
        """Begins an epoch."""
        self.started, self.losses = time.perf_counter(), []
        self.rate = self.run.set_learning_rate()
        self.order = self.run.order.get_state()
        self.plan = self.run.splits.train.plan(self.run.params.batch_size, self.run.order)
        return self.plan


class Lanes:
    """Runs of one shape, in training together.

    Args:
        shape: Into which every run fits; see `search.lane_shapes`. If ``roomy``, of the first.
        splits: The data, on the device.
        roomy: Lanes stay where they are when others come and go, places are left for those to
            come, and the shape grows with whoever needs a larger one: so that what a GPU repeats
            seldom has to be recorded anew. Else no lane is there that is not in training.
    """

    def __init__(self, shape: Shape, splits: Splits, *, roomy: bool = False) -> None:
        self._shape, self._splits, self._roomy = shape, splits, roomy
        self._lanes: list[_Lane | None] = []
        self._step: LaneStep | None = None
        self._found: Tensor | None = None
        self._stream: torch.cuda.Stream | None = None

    @property
    def runs(self) -> list[Run]:
        """The runs in training."""
        return [lane.run for _, lane in self._taken()]

    @property
    def keeps_room(self) -> bool:
        """True if there are places, and no run is in any."""
        return self._step is not None and not self._taken()

    def join(self, run: Run, judge: BatchJudge) -> None:
        """Adds a run, between two of its epochs; the others go on where they are.

        Args:
            run: Untrained, or as it was at the end of an epoch.
            judge: Called after every batch, whose step has been made.

        Raises:
            ValueError: It does not fit into the shape, or its network is the user's own.
        """
        if not isinstance(run.model, SequenceModel):
            raise ValueError("a network of the user's own cannot be trained beside others")
        shape, own = self._shape, shape_of(run.params)
        if self._roomy and (own.cell, own.layers) == (shape.cell, shape.layers):
            shape = shape.with_room_for(own) if self._taken() else own
        if not shape.holds(run.params):
            raise ValueError(f"{run.params} cannot be trained as {shape}")
        random = torch.Generator(run.device)
        random.set_state(run.random[run.device.type])
        lane = _Lane(run, judge, random, run.order.get_state())
        with self._own_stream(run.device):
            self._let_in(lane, shape)

    def _let_in(self, lane: _Lane, shape: Shape) -> None:
        """Gives a lane a place, if there is none by making some."""
        drops = lane.run.params.dropout > 0
        free = [at for at, other in enumerate(self._lanes) if other is None]
        cramped = self._step is None or (drops and not self._step.batches.drops)
        if cramped or not free or shape != self._shape:
            self._arrange(shape, [*(one for _, one in self._taken()), lane], drops=drops)
        else:
            self._enter(self._running, free[0], lane)
            self._lanes[free[0]] = lane

    def leave(self, run: Run) -> None:
        """Lets a run go, which can go on elsewhere if it is between two epochs."""
        with self._own_stream(run.device):
            for at, lane in self._taken():
                if lane.run is run:
                    self._lanes[at] = None
                    self._running.batches.clear(at)
            if not self._roomy:
                self._arrange(self._shape, [lane for _, lane in self._taken()])

    def abandon(self) -> tuple[list[Run], list[Run]]:
        """Lets all runs go, after an exception.

        Returns:
            Those that are as they were at the end of their last epochs; and those that are of no
            use, and have to be made anew from their checkpoints.
        """
        lanes = [lane for _, lane in self._taken()]
        for lane in lanes:
            ends = lane.run.epoch_ends
            del lane.run.batch_losses[ends[-1] if ends else 0 :]
            if lane.plan is not None:
                lane.run.order.set_state(lane.order)
        self._lanes = []
        self._step = None
        self._found = None
        spoilt = [lane.run for lane in lanes if lane.spoilt]
        return [lane.run for lane in lanes if not lane.spoilt], spoilt

    def advance(self) -> list[tuple[Run, Result]]:
        """Trains a batch of every run.

        Returns:
            The runs that have come to the end of an epoch, with it; and those that have left,
            because their judge or their validation ended them, with the reason.
        """
        ends: list[tuple[Run, Result]] = []
        self.launch()
        self.collect(ends)
        return ends

    def launch(self) -> None:
        """Has a batch of every run trained; a GPU is at it when this returns."""
        step = self._running
        with self._own_stream():
            for at, lane in self._taken():
                if lane.plan is None:
                    step.batches.begin(at, lane.begin())
                    step.settings.rates[at] = lane.rate
                params = lane.run.params
                if params.dropout > 0:
                    assert lane.plan is not None
                    size = lane.plan.sizes[len(lane.losses)]
                    step.batches.draw(at, size, params, lane.random)
            self._found = step()

    def collect(self, ends: list[tuple[Run, Result]]) -> None:
        """Waits for what was launched.

        Args:
            ends: What `advance` returns is added to it; if an exception is raised, what there is
                by then.
        """
        with self._own_stream():
            self._collect(ends)

    def _collect(self, ends: list[tuple[Run, Result]]) -> None:
        if self._found is None:  # It was abandoned since.
            return
        losses, norms = self._found.tolist()
        self._found = None
        gone: list[Run] = []
        try:
            for at, lane in self._taken():
                result = self._collect_one(at, lane, losses[at], norms[at])
                if result is not None:
                    ends.append((lane.run, result))
                if isinstance(result, (Decision, Exception)):
                    gone.append(lane.run)
        finally:  # What has ended keeps what it was trained, though another's end is an exception.
            for run in gone:
                self.leave(run)

    def _collect_one(self, at: int, lane: _Lane, loss: float, norm: float) -> Result | None:
        """Takes what a batch has come to; returns the end of the epoch or of the run, if it is."""
        lane.losses.append(loss)
        lane.run.batch_losses.append(loss)
        decision = lane.judge(loss, norm, len(lane.run.curve) + 1)
        assert lane.plan is not None
        if decision is None and len(lane.losses) == len(lane.plan.sizes):
            return self._validate(at, lane)
        return decision

    @property
    def _running(self) -> LaneStep:
        """The step, which is there as soon as a run is."""
        assert self._step is not None
        return self._step

    @contextmanager
    def _own_stream(self, device: torch.device | None = None) -> Iterator[None]:
        """Has a GPU do what follows beside what it does for other lanes, after what it does now."""
        if device is not None and device.type == "cuda":
            if self._stream is None:
                self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(self._stream) if self._stream else nullcontext():
            yield

    def _taken(self) -> list[tuple[int, _Lane]]:
        """Returns the lanes in training, with their places."""
        return [(at, lane) for at, lane in enumerate(self._lanes) if lane is not None]

    def _validate(self, at: int, lane: _Lane) -> Result:
        """Ends an epoch: the run gets back what was trained of it.

        An exception is that run's own, since it has left the others' tensors; but if memory is too
        small, that is for the others' sake.
        """
        step = self._running
        step.rows.write(step.table[:, at], lane.run)
        lane.plan = None
        lane.run.random = {**lane.run.random, lane.run.device.type: lane.random.get_state()}
        try:
            return lane.run.validate(lane.losses, lane.rate, lane.started)
        except FAULTS as error:
            if is_lost_device(error):
                raise
            if is_out_of_memory(error):
                lane.spoilt = True
                raise
            return error

    def _arrange(self, shape: Shape, lanes: Sequence[_Lane], *, drops: bool = False) -> None:
        """Puts lanes in places of their own; if roomy, there is a power of two of these."""
        before, old = self._lanes, self._step
        if not lanes:
            self._lanes, self._step = [], None
            return
        places = len(lanes)
        if self._roomy:
            places = 1 << (places - 1).bit_length()
            drops = drops or (old is not None and old.batches.drops)
        else:
            drops = any(lane.run.params.dropout > 0 for lane in lanes)
        rows = Rows(shape, lanes[0].run)
        weight = next(lanes[0].run.model.parameters()).detach()
        table = weight.new_zeros(1 + MOST, places, rows.length)
        batches = Batches(shape, self._splits, places, table, dropped=drops)
        step = LaneStep(rows, table, batches, Settings(places, table))
        for at, lane in enumerate(lanes):
            if lane in before:
                assert old is not None
                place = before.index(lane)
                table[:, at] = old.rows.move(old.table[:, place], lane.run, rows)
                step.settings.adopt(at, old.settings, place)
                batches.adopt(at, old.batches, place)
            else:
                self._enter(step, at, lane)
        # Not before: where memory is too small for more, the others go on as they are.
        self._shape, self._step = shape, step
        self._lanes = [*lanes, *[None] * (places - len(lanes))]

    def _enter(self, step: LaneStep, at: int, lane: _Lane) -> None:
        """Puts a run that is between two epochs in a place."""
        step.table[:, at] = step.rows.read(lane.run)
        step.settings.set(at, lane.run.params, lane.rate, len(lane.run.batch_losses))
        step.batches.undraw(at)
