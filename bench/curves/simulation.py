"""A study in simulated time: trials whose curves are known, on workers that do not wait.

Nothing is trained. A `Plan` is what a trial will do if nothing stops it; the simulation lets it
happen epoch by epoch, in the order in which two workers would see it, and shows rules and
proposals only what has happened by then.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Plan:
    """A trial as it will be if no rule but divergence ends it.

    Attributes:
        params: Its hyperparameters.
        valid: Validation loss after each epoch.
        seconds: Time of each epoch; one more than losses if it diverges in the middle of one.
        epochs: How many it is asked to train; what rules may know of its future.
        findings: What `search.diagnosis` says after each epoch.
        diverges: Whether it ends as diverged, and not because its epochs are over.
        row: Its row in the table; None: there is none.
    """

    params: dict[str, Any]
    valid: Sequence[float]
    seconds: Sequence[float]
    epochs: int
    findings: Sequence[str] = ()
    diverges: bool = False
    row: int | None = None


@dataclass
class Trial:
    """A trial that has begun.

    Attributes:
        number: From 0, in the order in which trials begin.
        plan: What it will do; only the simulation looks ahead in it.
        values: Validation losses so far.
        best: The lowest of them; infinite before the first.
        state: ``running``, ``complete``, ``pruned`` or ``diverged``.
    """

    number: int
    plan: Plan
    values: list[float] = field(default_factory=list)
    best: float = math.inf
    state: str = "running"

    @property
    def params(self) -> dict[str, Any]:
        """Its hyperparameters."""
        return self.plan.params

    @property
    def finding(self) -> str | None:
        """What its losses so far say."""
        seen = self.plan.findings[: len(self.values)]
        return seen[-1] if seen else None


class Board:
    """What everybody can see of a study: trials so far, and what they had reached by each epoch.

    Attributes:
        trials: By number.
        best: The lowest loss so far.
    """

    def __init__(self) -> None:
        self.trials: list[Trial] = []
        self.best = math.inf
        self._reached: list[list[float]] = []

    def reached(self, epoch: int) -> list[float]:
        """Returns the best values by an epoch, from 1, of all trials that came so far, sorted."""
        return self._reached[epoch - 1] if epoch <= len(self._reached) else []

    def add(self, trial: Trial) -> None:
        """Notes that a trial has come to the end of one more epoch."""
        epoch = len(trial.values)
        while len(self._reached) < epoch:
            self._reached.append([])
        bisect.insort(self._reached[epoch - 1], trial.best)
        self.best = min(self.best, trial.best)


class Proposer(Protocol):
    """Says what is tried next."""

    def propose(self, board: Board) -> Plan | None:
        """Returns the next trial; None: there is none left."""


class Stopper(Protocol):
    """Ends trials early. It is asked before the epoch is added to the board."""

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns the state in which a trial ends after the epoch that it has just done, or None.

        Args:
            trial: Its values so far, the last epoch's included.
            board: What others had reached before this moment.
        """


@dataclass
class Trace:
    """What a study came to.

    Attributes:
        times: When the best loss fell, in seconds since the start.
        bests: What it fell to.
        trials: How many trials ended.
        epochs: How many epochs were trained.
        seconds: Time that all of them took.
    """

    times: list[float] = field(default_factory=list)
    bests: list[float] = field(default_factory=list)
    trials: int = 0
    epochs: int = 0
    seconds: float = 0.0

    def time_to(self, loss: float) -> float:
        """Returns when the best loss was at most ``loss``; infinite if it never was."""
        reached = (t for t, best in zip(self.times, self.bests, strict=True) if best <= loss)
        return next(reached, math.inf)

    def best_at(self, time: float) -> float:
        """Returns the best loss by a time; infinite before the first epoch."""
        index = bisect.bisect_right(self.times, time)
        return self.bests[index - 1] if index else math.inf


def simulate(
    proposer: Proposer,
    stopper: Stopper,
    until: float,
    enough: float = -math.inf,
    workers: int = 2,
) -> Trace:
    """Runs a study.

    Args:
        proposer: Says what is tried.
        stopper: Says what ends early.
        until: In seconds; what happens later is not seen.
        enough: The study ends when its best loss is at most this.
        workers: Trials that train at a time.
    """
    board, trace = Board(), Trace()
    events: list[tuple[float, int, Trial]] = []

    def begin(now: float) -> None:
        plan = proposer.propose(board)
        if plan is not None:
            trial = Trial(len(board.trials), plan)
            board.trials.append(trial)
            heapq.heappush(events, (now + plan.seconds[0], trial.number, trial))

    for _ in range(workers):
        begin(0.0)
    while events and events[0][0] <= until and board.best > enough:
        now, _, trial = heapq.heappop(events)
        trace.seconds += trial.plan.seconds[len(trial.values)]
        _advance(trial, board, stopper, trace, now)
        if trial.state == "running":
            following = trial.plan.seconds[len(trial.values)]
            heapq.heappush(events, (now + following, trial.number, trial))
        else:
            trace.trials += 1
            begin(now)
    return trace


def _advance(trial: Trial, board: Board, stopper: Stopper, trace: Trace, now: float) -> None:
    """Lets a trial have its next epoch, and perhaps end with it or in its midst."""
    if len(trial.values) == len(trial.plan.valid) and trial.plan.diverges:
        trial.state = "diverged"
        return
    value = trial.plan.valid[len(trial.values)]
    trial.values.append(value)
    trial.best = min(trial.best, value)
    trace.epochs += 1
    over = len(trial.values) == len(trial.plan.seconds)
    state = stopper.judge(trial, board)
    if over:
        state = "diverged" if trial.plan.diverges else "complete"
    trial.state = state or "running"
    if trial.best < board.best:
        trace.times.append(now)
        trace.bests.append(trial.best)
    board.add(trial)
