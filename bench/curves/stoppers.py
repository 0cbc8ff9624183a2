"""Rules that end trials early, for `bench.curves.simulation`: ours, and those of others.

Every rule sees a trial's losses so far and what others had reached by the same epoch, no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bench.curves.simulation import Board, Stopper, Trial
from search.stopping import PRUNERS, Pruner
from search.trial import Goal

PEERS = 5
"""No rule that compares with peers ends a trial where there are fewer."""


@dataclass(frozen=True)
class Patience:
    """`search.stopping.out_of_patience`: no better for so many epochs; 0 never ends a trial."""

    epochs: int

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``complete`` when patience is over."""
        values, patience = trial.values, self.epochs
        if patience == 0 or len(values) <= patience:
            return None
        return None if min(values[-patience:]) < min(values[:-patience]) else "complete"


@dataclass(frozen=True)
class AsInSearch:
    """A pruner of `search.stopping`; ``halving`` is that of a study file that says nothing."""

    pruner: Pruner = PRUNERS["halving"]

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` if a search would end the trial."""
        epoch = len(trial.values)
        if not self.pruner.compares(epoch, 1):
            return None
        verdict = self.pruner.judge(trial.values, board.reached(epoch), Goal(), PEERS)
        return None if verdict is None else "pruned"


@dataclass(frozen=True)
class Percentile:
    """Ends a trial that is not among the best share of its peers at the same epoch.

    With a share of one half it is ``median`` of `search.stopping.PRUNERS`, and with Optuna's names
    PercentilePruner on the best values so far.

    Attributes:
        share: Of the peers, how many may be better.
        warmup: Epochs before which no trial is ended.
        peers: Fewer end no trial.
        only: Epochs after which trials are judged; none: every one.
    """

    share: float = 0.5
    warmup: int = 1
    peers: int = PEERS
    only: tuple[int, ...] = ()

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` if the trial is worse than the quantile."""
        epoch = len(trial.values)
        reached = board.reached(epoch)
        if epoch <= self.warmup or len(reached) < self.peers:
            return None
        if self.only and epoch not in self.only:
            return None
        return "pruned" if trial.best > quantile(reached, self.share) else None


@dataclass(frozen=True)
class Everyone:
    """As `Percentile`, among all that are over: those that ended earlier with what they had.

    Attributes:
        share: Of them, how many may be better.
        warmup: Epochs before which no trial is ended.
        peers: Fewer end no trial.
    """

    share: float = 0.5
    warmup: int = 1
    peers: int = PEERS

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` if the trial is worse than the quantile."""
        epoch = len(trial.values)
        if epoch <= self.warmup:
            return None
        over = (one for one in board.trials if one.state != "running" and one.values)
        reached = sorted(min(one.values[:epoch]) for one in over)
        if len(reached) < self.peers:
            return None
        return "pruned" if trial.best > quantile(reached, self.share) else None


@dataclass(frozen=True)
class Narrowing:
    """As `Percentile`, with a share that falls from the first epochs to later ones.

    Attributes:
        first: Share at the first epoch that is judged.
        last: Share from ``by`` on.
        by: The epoch from which on it falls no more; in between it falls with its logarithm.
    """

    first: float = 0.5
    last: float = 0.2
    by: int = 16
    warmup: int = 1

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` if the trial is worse than the quantile of its epoch."""
        epoch = len(trial.values)
        way = min(1.0, math.log(epoch) / math.log(self.by))
        share = self.first + way * (self.last - self.first)
        return Percentile(share, self.warmup).judge(trial, board)


@dataclass(frozen=True)
class Halving:
    """Asynchronous successive halving that stops (Li et al. 2020, MLSys, and Optuna's pruner).

    At each rung a trial goes on only if it is among the best 1 / factor of those that came there.

    Attributes:
        factor: How many times as many epochs the next rung has.
        least: Epochs of the first rung.
    """

    factor: int = 3
    least: int = 1

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` at a rung where the trial is not among the best."""
        epoch = len(trial.values)
        if not is_rung(epoch, self.least, self.factor):
            return None
        reached = board.reached(epoch)
        allowed = max(1, (len(reached) + 1) // self.factor)
        if len(reached) < allowed:
            return None
        return "pruned" if trial.best > reached[allowed - 1] else None


@dataclass(frozen=True)
class Hyperband:
    """Halving with first rungs of 1, 3, 9 … epochs, by turns (Li et al. 2018, JMLR).

    Brackets with a later first rung have fewer trials, as there: each costs about the same.
    """

    factor: int = 3
    most: int = 36
    share: tuple[float, ...] = field(default=(0.53, 0.27, 0.13, 0.07))

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` at a rung of the trial's bracket where it is not among the best."""
        epoch = len(trial.values)
        place = (trial.number * 0.6180339887) % 1.0
        bracket = int(np.searchsorted(np.cumsum(self.share), place))
        least = self.factor ** min(bracket, len(self.share) - 1)
        if not is_rung(epoch, least, self.factor):
            return None
        return Halving(self.factor, least).judge(trial, board)


@dataclass(frozen=True)
class Extrapolation:
    """Ends a trial that will not come near the best by its end if its losses go on like this.

    The lowest loss so far is taken for a power of the epoch; its exponent is fitted to the last
    half of the epochs, made steeper by a margin, and followed to the last one.

    Attributes:
        margin: Factor of the exponent.
        slack: Share above the best loss that still counts as near.
        warmup: Epochs before which no trial is ended.
        last: The epoch that is foreseen.
    """

    margin: float = 2.0
    slack: float = 0.0
    warmup: int = 3
    last: int = 36

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns ``pruned`` if what is foreseen is worse than the study's best."""
        epoch = len(trial.values)
        if epoch <= self.warmup or len(board.reached(1)) < PEERS or trial.best <= 0:
            return None
        half = max(1, epoch // 2)
        earlier = min(trial.values[:half])
        slope = math.log(earlier / trial.best) / math.log(epoch / half)
        last = max(epoch, min(self.last, trial.plan.epochs))
        foreseen = trial.best * (epoch / last) ** (self.margin * slope)
        return "pruned" if foreseen > (1 + self.slack) * board.best else None


@dataclass(frozen=True)
class Both:
    """Ends a trial if one of several rules does; the first that does says how."""

    rules: Sequence[Stopper]

    def judge(self, trial: Trial, board: Board) -> str | None:
        """Returns what the first rule with a verdict says."""
        return next((end for rule in self.rules if (end := rule.judge(trial, board))), None)


def is_rung(epoch: int, least: int, factor: int) -> bool:
    """True if an epoch is ``least`` times a power of ``factor``."""
    rung = least
    while rung < epoch:
        rung *= factor
    return rung == epoch


def quantile(ordered: Sequence[float], share: float) -> float:
    """Returns the quantile of values in order, between two by a straight line, as the median is."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[high] == ordered[low]:
        return ordered[low]
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
