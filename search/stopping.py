"""When a trial ends early: divergence, plateau, worse than its peers, out of time.

Every rule is pure: what it knows goes in, a `Decision` with its reason, or None, comes out. The
figures that chose the constants are in `studies/LOG.md`.
"""

from __future__ import annotations

import bisect
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from search.trial import Decision, Goal, Outcome


@dataclass(frozen=True)
class Divergence:
    """Ends a trial whose training error grows far beyond what it was at the start.

    The error of a batch jumps about, and adaptive optimizers start with a leap from which most
    recover (RMSprop's first steps are ten times its later ones). So the logarithm of the loss is
    smoothed, in which one wild batch weighs little, and the bar is higher in the first epochs.
    "At the start" is the larger of the first batch's loss and that of the best constant
    prediction, because a network that happens to start well has not diverged while it is as good
    as a constant.

    Attributes:
        factor: How many times the error at the start the smoothed error may be.
        settled_factor: The same, once `settled_epochs` have been trained.
        settled_epochs: Epochs after which a trial should have recovered from its first leaps.
        memory: Share of the smoothed logarithm that is kept at each batch.
    """

    factor: float = 2.5
    settled_factor: float = 1.5
    settled_epochs: int = 2
    memory: float = 0.85

    def start(self, constant_loss: float) -> DivergenceState:
        """Returns the state before the first batch.

        Args:
            constant_loss: Training loss of the best constant prediction.
        """
        return DivergenceState(max(constant_loss, SMALLEST), None)

    def update(
        self, state: DivergenceState, loss: float, gradient_norm: float, epoch: int
    ) -> tuple[DivergenceState, Decision | None]:
        """Judges one batch.

        Args:
            state: What `start` or the last `update` returned.
            loss: The batch's training loss.
            gradient_norm: Norm of its gradient, before clipping.
            epoch: The epoch that the batch belongs to, from 1.

        Returns:
            The next state and, if the trial has diverged, why.
        """
        decision = not_finite(loss, gradient_norm)
        if decision is not None:
            return state, decision
        logarithm = math.log(max(loss, SMALLEST))
        if state.smoothed is None:
            reference = max(state.reference, loss)
            return DivergenceState(reference, math.log(reference)), None
        smoothed = self.memory * state.smoothed + (1 - self.memory) * logarithm
        state = DivergenceState(state.reference, smoothed)
        factor = self.factor if epoch <= self.settled_epochs else self.settled_factor
        if smoothed > math.log(factor * state.reference):
            return state, Decision(
                Outcome.DIVERGED,
                f"the training loss grew to {math.exp(smoothed):.3g}, more than {factor:g} x the "
                f"{state.reference:.3g} of the start",
            )
        return state, None


@dataclass(frozen=True)
class DivergenceState:
    """What `Divergence` remembers.

    Attributes:
        reference: The error at the start.
        smoothed: Logarithm of the error now, smoothed over batches; None before the first.
    """

    reference: float
    smoothed: float | None


SMALLEST = 1e-30
"""Losses below this count as this, so that they have a logarithm."""


def batch_judge(
    rule: Divergence | None,
    constant_loss: float,
    losses: Sequence[float] = (),
    epoch_ends: Sequence[int] = (),
) -> Callable[[float, float, int], Decision | None]:
    """Returns a judge of one trial's batches that remembers for the rule.

    Args:
        rule: None lets a growing error pass; what is not finite always ends a trial.
        constant_loss: Training loss of the best constant prediction.
        losses: Losses of the batches that the trial has behind it already.
        epoch_ends: How many of these had been trained by the end of each epoch.

    Returns:
        A function of a batch's loss, its gradient's norm and its epoch.
    """
    if rule is None:
        return lambda loss, gradient_norm, _epoch: not_finite(loss, gradient_norm)
    state = rule.start(constant_loss)
    for index, loss in enumerate(losses):
        state, _ = rule.update(state, loss, 0.0, 1 + bisect.bisect_right(epoch_ends, index))

    def judge(loss: float, gradient_norm: float, epoch: int) -> Decision | None:
        nonlocal state
        state, decision = rule.update(state, loss, gradient_norm, epoch)
        return decision

    return judge


def not_finite(loss: float, gradient_norm: float) -> Decision | None:
    """Ends a trial whose loss or gradient is infinite or not a number."""
    if not math.isfinite(loss):
        return Decision(Outcome.DIVERGED, "the training loss is not finite")
    if not math.isfinite(gradient_norm):
        return Decision(Outcome.DIVERGED, "the gradient is not finite")
    return None


def out_of_patience(values: Sequence[float], goal: Goal, patience: int) -> Decision | None:
    """Ends a trial, complete, whose value has not become better for ``patience`` epochs.

    Args:
        values: The validation value of every epoch so far.
        goal: Which values are better.
        patience: In epochs; 0 never ends a trial.
    """
    if patience == 0 or len(values) <= patience:
        return None
    before, recent = values[:-patience], values[-patience:]
    best = min(before) if goal.minimize else max(before)
    if any(goal.better(value, best) for value in recent):
        return None
    return Decision(Outcome.COMPLETE, f"no better for {patience} epochs")


class Peers:
    """The best values that a study's finished trials had reached by each epoch.

    Args:
        goal: Which values are better.
    """

    def __init__(self, goal: Goal) -> None:
        self._goal = goal
        self._reached: list[list[float]] = []

    def add(self, values: Sequence[float]) -> None:
        """Adds a trial that is over.

        Args:
            values: Its validation values, one an epoch.
        """
        for index, best in enumerate(_best_so_far(values, self._goal)):
            if index == len(self._reached):
                self._reached.append([])
            bisect.insort(self._reached[index], best)

    def reached(self, epoch: int, others: Iterable[Sequence[float]] = ()) -> list[float]:
        """Returns what trials had reached by an epoch, if they came so far.

        Args:
            epoch: From 1.
            others: Values of trials that are not over yet.
        """
        known = self._reached[epoch - 1] if epoch <= len(self._reached) else []
        far = (values[:epoch] for values in others if len(values) >= epoch)
        return [*known, *(_best_so_far(values, self._goal)[-1] for values in far)]


@dataclass(frozen=True)
class Pruner:
    """Ends a trial whose best value so far is not among the best of its peers' at the same epoch.

    A peer that was pruned later counts where it has trained, so that the bar is set by all trials
    and not by the survivors alone.

    Attributes:
        factor: Of those that came as far, one in so many may go on: 2 or 3.
        rungs: Whether trials are compared at the first epoch after the warm-up and at those with
            ``factor``, ``factor``², … times as many, or at every one.
    """

    factor: int
    rungs: bool

    def compares(self, epoch: int, warmup: int) -> bool:
        """Says whether trials are compared after an epoch.

        Args:
            epoch: From 1.
            warmup: Epochs that every trial is given first.
        """
        rung = warmup + 1
        while self.rungs and rung < epoch:
            rung *= self.factor
        return epoch == rung if self.rungs else epoch >= rung

    def judge(
        self, values: Sequence[float], reached: Sequence[float], goal: Goal, least: int
    ) -> Decision | None:
        """Judges a trial after an epoch.

        Args:
            values: The trial's validation values so far, one an epoch; at least one.
            reached: The best values of its peers by the same epoch.
            goal: Which values are better.
            least: No trial is pruned with fewer peers than this.
        """
        if len(reached) < least:
            return None
        best, bar = _best_so_far(values, goal)[-1], self._bar(reached, goal)
        if not goal.better(bar, best):
            return None
        which, verb = ("median", "is") if self.factor == 2 else ("best third", "reached")
        peers = f"the {which} of {len(reached)} peers {verb} {bar:.4g}"
        return Decision(Outcome.PRUNED, f"{best:.4g} by epoch {len(values)}; {peers}")

    def _bar(self, reached: Sequence[float], goal: Goal) -> float:
        if self.factor == 2:
            return statistics.median(reached)
        ranked = sorted(reached, reverse=not goal.minimize)
        return ranked[-(-len(ranked) // self.factor) - 1]


PRUNERS = {"halving": Pruner(3, rungs=True), "median": Pruner(2, rungs=False)}
"""By their names in a study file. ``halving``: asynchronous successive halving that stops and never
promotes (Li et al. 2020, MLSys, section 3.3). ``median``: the median rule of Golovin et al. 2017
(Google Vizier, KDD, section 3.2.1), on best values so far on both sides."""


def worse_than_peers(
    pruner: Pruner,
    values: Sequence[float],
    peers: Sequence[Sequence[float]],
    goal: Goal,
    warmup: int,
    least: int,
) -> Decision | None:
    """Judges a trial after its last epoch, if trials are compared there.

    Args:
        pruner: The rule.
        values: The trial's validation values so far, one an epoch.
        peers: The values of other trials, each from its first epoch.
        goal: Which values are better.
        warmup: Epochs that every trial is given first.
        least: No trial is pruned with fewer peers than this at its epoch.
    """
    epoch = len(values)
    if epoch == 0 or not pruner.compares(epoch, warmup):
        return None
    return pruner.judge(values, Peers(goal).reached(epoch, peers), goal, least)


def _best_so_far(values: Sequence[float], goal: Goal) -> list[float]:
    """Returns the best of the first 1, 2, 3 … values; what is not a number is the worst."""
    numbers = (goal.worst if math.isnan(value) else value for value in values)
    return list(itertools.accumulate(numbers, min if goal.minimize else max))


def target_reached(values: Sequence[float | None], goal: Goal, target: float | None) -> str | None:
    """Says why a study is done before it has its trials: a value is good enough.

    Args:
        values: The value of every finished trial; None for one that has none.
        goal: Which values are better.
        target: What is good enough; None: nothing is.

    Returns:
        The reason, or None if the study should go on.
    """
    best = _best(values, goal)
    if best is None or target is None or goal.better(target, best):
        return None
    return f"the best {goal.metric}, {best:.4g}, has reached the target {target:.4g}"


def stagnated(
    values: Sequence[float | None], goal: Goal, stagnation: int | None, along: int = 0
) -> str | None:
    """Says why a study is done before it has its trials: the last ones were all in vain.

    A study without any value has not stagnated: whatever completes will be better.

    Args:
        values: The value of every finished trial in the order in which they finished; None for
            one that has none, because it was pruned, diverged or failed.
        goal: Which values are better.
        stagnation: None of so many trials that finished last was better than the best before
            them; None: any number may be in vain.
        along: So many of them, the first, were taken along from another study: they are what others
            have to be better than, but none of them is in vain here.

    Returns:
        The reason, or None if the study should go on.
    """
    best = _best(values, goal)
    if best is None or stagnation is None:
        return None
    since = len(values) - 1 - max(values.index(best), along - 1)
    if since < stagnation:
        return None
    return f"none of the last {since} trials was better than {goal.metric} {best:.4g}"


def _best(values: Sequence[float | None], goal: Goal) -> float | None:
    known = [value for value in values if value is not None]
    if not known:
        return None
    return min(known) if goal.minimize else max(known)
