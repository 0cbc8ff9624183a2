"""Lanes: K runs trained together, each with settings, order and dropout of its own.

Every lane keeps its `Run`, which at the end of an epoch holds all that was trained: its state is
its checkpoint, and it can go on in any other company, or leave. On one thread of a CPU a lane's
numbers are the same to the last bit whatever lanes there are beside it, and equal up to rounding
those that its run comes to alone by `Run.advance`.

Shapes: K lanes, B rows of a minibatch, H hidden, L layers, P numbers in a row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.cohorts import Shape
from search.data.splits import Batch, Splits
from search.lane_batches import Batches
from search.lane_rows import Rows
from search.lane_steps import LaneStep
from search.models import SequenceModel
from search.steps import MEMORIES, Settings
from search.training import BatchJudge, Run
from search.trial import Decision, Epoch

KINDS = list(MEMORIES)


@dataclass
class _Lane:
    """A run in training.

    Attributes:
        run: The run.
        judge: Judges its batches.
        rate: Its learning rate.
        rows: (1 + MOST, P) its weights and memories while it has no place among the others.
        random: Draws its dropout.
        state: (S, L, B, H) its hidden states, likewise.
        batches: The rest of its epoch, after `batch`.
        batch: The coming one; None between epochs.
        losses: Of the batches of its epoch so far.
        started: When its epoch began.
    """

    run: Run
    judge: BatchJudge
    rate: float
    rows: Tensor
    random: torch.Generator
    state: Tensor | None = None
    batches: Iterator[Batch] = field(default_factory=lambda: iter(()))
    batch: Batch | None = None
    losses: list[float] = field(default_factory=list)
    started: float = 0.0

    def begin(self) -> None:
        """Begins an epoch."""
        self.started, self.losses = time.perf_counter(), []
        self.rate = self.run.set_learning_rate()
        part = self.run.splits.train
        self.batches = part.batches(self.run.params.batch_size, self.run.order)
        self.batch = next(self.batches)


class Lanes:
    """Runs of one shape, in training together.

    Args:
        shape: Into which every run fits; see `search.cohorts`.
        splits: The data, on the device.
    """

    def __init__(self, shape: Shape, splits: Splits) -> None:
        self._shape, self._splits = shape, splits
        self._lanes: list[_Lane] = []
        self._rows: Rows
        self._step: LaneStep

    @property
    def runs(self) -> list[Run]:
        """The runs in training."""
        return [lane.run for lane in self._lanes]

    def join(self, run: Run, judge: BatchJudge) -> None:
        """Adds a run, between two of its epochs; the others go on where they are.

        Args:
            run: Untrained, or as it was at the end of an epoch.
            judge: Called after every batch's backward pass, before its step.

        Raises:
            ValueError: It does not fit into the shape, or its network is the user's own.
        """
        if not isinstance(run.model, SequenceModel):
            raise ValueError("a network of the user's own cannot be trained beside others")
        if not self._shape.holds(run.params):
            raise ValueError(f"{run.params} cannot be trained as {self._shape}")
        if not self._lanes:
            self._rows = Rows(self._shape, run)
        random = torch.Generator()
        random.set_state(run.random["cpu"])
        lane = _Lane(run, judge, run.params.learning_rate, self._rows.read(run), random)
        self._arrange([*self._lanes, lane])

    def leave(self, run: Run) -> None:
        """Lets a run go, which can go on elsewhere if it is between two epochs."""
        self._arrange([lane for lane in self._lanes if lane.run is not run])

    def advance(self) -> list[tuple[Run, Epoch | Decision]]:
        """Trains a batch of every run.

        Returns:
            The runs that have come to the end of an epoch, with it; and those that have left,
            because their judge or their validation ended them, with the reason.
        """
        for at, lane in enumerate(self._lanes):
            if lane.batch is None:
                lane.begin()
                self._step.settings.rates[at] = lane.rate
        decisions = self._train()
        ends: list[tuple[Run, Epoch | Decision]] = []
        stay = []
        for at, (lane, decision) in enumerate(zip(self._lanes, decisions, strict=True)):
            lane.batch = next(lane.batches, None)
            result: Epoch | Decision | None = decision
            if decision is None and lane.batch is None:
                result = self._validate(at, lane)
            if result is not None:
                ends.append((lane.run, result))
            if not isinstance(result, Decision):
                stay.append(lane)
        if len(stay) < len(self._lanes):
            self._arrange(stay)
        return ends

    def _validate(self, at: int, lane: _Lane) -> Epoch | Decision:
        """Ends an epoch: the run gets back what was trained of it."""
        self._rows.write(self._step.table[:, at], lane.run)
        lane.run.random = {**lane.run.random, "cpu": lane.random.get_state()}
        return lane.run.validate(lane.losses, lane.rate, lane.started)

    def _arrange(self, lanes: list[_Lane]) -> None:
        """Gives lanes their places, those of one optimizer side by side."""
        for at, lane in enumerate(self._lanes):
            lane.rows, lane.state = self._step.table[:, at], self._step.batches.state[:, :, at]
        self._lanes = sorted(lanes, key=lambda lane: KINDS.index(lane.run.params.optimizer))
        if not lanes:
            return
        table = torch.stack([lane.rows for lane in self._lanes], 1)
        params = [lane.run.params for lane in self._lanes]
        batches = Batches(self._shape, self._splits, params, table)
        for at, lane in enumerate(self._lanes):
            if lane.state is not None:
                batches.state[:, :, at] = lane.state
        rates = [lane.rate for lane in self._lanes]
        made = [len(lane.run.batch_losses) for lane in self._lanes]
        self._step = LaneStep(self._rows, table, batches, Settings(params, rates, made, table))

    def _train(self) -> list[Decision | None]:
        """Makes a step of every lane, and asks its judge whether it may go on."""
        for at, lane in enumerate(self._lanes):
            assert lane.batch is not None
            self._step.batches.fill(at, lane.batch, lane.random)
        losses, norms = self._step().tolist()
        decisions = []
        for lane, loss, norm in zip(self._lanes, losses, norms, strict=True):
            lane.losses.append(loss)
            lane.run.batch_losses.append(loss)
            decisions.append(lane.judge(loss, norm, len(lane.run.curve) + 1))
        return decisions
