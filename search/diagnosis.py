"""A curve of losses → a named finding, its evidence in figures, and what to do next.

Sources: the lesson that DESIGN.md quotes (training error that falls by almost nothing: raise the
learning rate; that jumps: lower it; that grows: diverging) and the symptom lists of BTTackler
(Wang et al. 2024, KDD) and AutoTrainer (Zhang et al. 2021, ICSE): oscillating, exploding and slow
convergence, overfitting. How good the advice is was measured: see `studies/LOG.md`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from search.trial import Curve, Outcome

RATE_STEP = 3.0
"""What advice multiplies or divides a learning rate by: half a decade, as grids usually have it."""

LEAP = 0.2
"""How far above the start, as a share of it, training error must leap to be called too high."""
NOTHING, LITTLE = 0.05, 0.2
"""A range of training error, as a share of its first value: almost nothing, and little."""
NOTHING_VALID = 0.02
"""Almost nothing of validation error, which has no noise of batches and dropout in it."""
STEADY = 0.05
"""Rises, as a share of the range, up to which a curve falls steadily."""
JUMPY_TRAINING, JUMPY_VALIDATION = 0.3, 0.2
"""Rises, as a share of the range, above which a curve jumps."""
FAR_FROM_GOOD = 0.5
"""A lowest loss, as a share of the loss at the start, above which little has been learned."""
OVERFITTED = 0.1
"""A rise of validation error from its best to its end, as a share of its fall until then."""
STILL, OVER = 0.1, 0.02
"""What the last third of the epochs has gained, as a share of the whole fall: a lot, nothing."""
LOST = 0.5
"""The same, whatever training error did: more than half is lost again."""
FEWEST_EPOCHS = 8
"""Epochs before which nothing is said of a curve's end but that it falls: what looked overfitted or
flat after 2 to 6 mostly got better yet (`studies/LOG.md`)."""
PARTS = 12
"""Parts into which losses are divided where there is no other way to tell noise from course."""

ADVICE: dict[str, tuple[str, float | None]] = {
    "diverging": ("lower the learning rate, or clip gradients", 1 / RATE_STEP),
    "too-slow": ("raise the learning rate", RATE_STEP),
    "jumping": ("lower the learning rate", 1 / RATE_STEP),
    "stuck": ("change something else than the rate: it never beat a constant prediction", None),
    "overfitting": ("train fewer epochs, or use dropout, weight decay or fewer units", None),
    "still-falling": ("train more epochs", None),
    "plateau": ("let the learning rate decay, or decay more", None),
    "healthy": ("leave it as it is", None),
    "undecided": ("nothing yet: there are too few losses to judge", None),
}
"""Every finding: what to do, and what to multiply the learning rate by, if that is it."""
TOO_FEW_EPOCHS = ("still-falling", "undecided")


@dataclass(frozen=True)
class Finding:
    """What a curve of losses says.

    Attributes:
        name: A key of `ADVICE`.
        evidence: The figures that it rests on; finite.
        advice: What to do, in words.
        rate_factor: What to multiply the learning rate by; None: leave it.
    """

    name: str
    evidence: Mapping[str, float]
    advice: str
    rate_factor: float | None

    def to_attributes(self) -> dict[str, Any]:
        """Returns it as a trial stores it: plain data by attribute."""
        evidence = dict(self.evidence)
        return {"finding": self.name, "evidence": evidence, "advice": self.advice}


def read_finding(attributes: Mapping[str, Any]) -> Finding | None:
    """Returns the finding that a trial stores; None if it has none, or one not known any more."""
    name = attributes.get("finding")
    if name not in ADVICE:
        return None
    return Finding(name, attributes["evidence"], attributes["advice"], ADVICE[name][1])


def diagnose(
    train_losses: Sequence[float],
    valid_losses: Sequence[float] | None = None,
    batches_per_epoch: int | None = None,
    constant_loss: float | None = None,
    constant_train_loss: float | None = None,
) -> Finding:
    """Says what a curve of losses shows, and what to do about it.

    Nothing depends on the unit of the loss: multiplying every loss by the same positive number
    changes no finding. How much a curve jumps is judged beside how far it falls, so it does not
    depend on what is added to every loss either; "almost nothing" and "far above the start" have
    no meaning but beside the loss itself, whose least value is taken to be 0 or so.

    Args:
        train_losses: The training loss of every batch, or of every epoch; in order.
        valid_losses: The validation loss of every epoch.
        batches_per_epoch: How many of ``train_losses`` make an epoch; None: as many as there are
            for each of ``valid_losses``.
        constant_loss: The validation loss of the best prediction that ignores the inputs.
        constant_train_loss: The training loss of such a prediction; without it the first batch's
            stands for it, which may be luck, or ``constant_loss``, if that is larger.

    Returns:
        The finding; NaN and infinity are ``diverging``.

    Raises:
        ValueError: There is no training loss, or ``batches_per_epoch`` is no number from 1 on.
    """
    if len(train_losses) == 0:
        raise ValueError("train_losses is empty: give the training loss of every batch or epoch")
    if batches_per_epoch is not None:
        batches_per_epoch = _count(batches_per_epoch)
    train = [float(loss) for loss in train_losses]
    valid = [float(loss) for loss in (() if valid_losses is None else valid_losses)]
    broken = _first_not_finite(train) or _first_not_finite(valid)
    if broken:
        return _finding("diverging", not_finite_at=broken)
    per_epoch = batches_per_epoch or max(1, len(train) // max(1, len(valid)))
    return _judge(train, valid, per_epoch, _finite(constant_loss), _finite(constant_train_loss))


def diagnose_trial(
    outcome: Outcome,
    curve: Curve,
    losses: Sequence[float],
    constant_loss: float | None = None,
    constant_train_loss: float | None = None,
) -> Finding | None:
    """Diagnoses a trial that has ended.

    Args:
        outcome: How it ended.
        curve: Its epochs.
        losses: The training loss of every batch of these epochs.
        constant_loss: As for `diagnose`.
        constant_train_loss: As for `diagnose`.

    Returns:
        None if nothing can be said: it failed, ran out of memory, or has not trained an epoch.
    """
    if outcome is Outcome.DIVERGED:
        return _finding("diverging", epochs=len(curve))
    if outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY) or len(curve) == 0:
        return None
    valid = [epoch.valid_loss for epoch in curve.epochs]
    per_epoch = max(1, len(losses) // len(curve))
    train = losses or [epoch.train_loss for epoch in curve.epochs]
    return diagnose(train, valid, per_epoch, constant_loss, constant_train_loss)


def constant_of(attributes: Mapping[str, Any]) -> float | None:
    """Returns the validation loss of the best prediction that ignores the inputs; None: not known.

    Args:
        attributes: What a study stores. An older one has its naive methods only, and of these none
            that does so for a forecast: persistence is one if the network predicts the change.
    """
    known: float | None = attributes.get("constant_loss")
    for name in ("majority", "unigram"):
        if known is None:
            known = attributes["baselines"].get(name, {}).get("loss")
    return _finite(known)


@dataclass(frozen=True)
class _Losses:
    """Finite losses, as they are judged.

    Attributes:
        points: Training loss of every epoch or, if there is one epoch only, of its parts.
        rest: Training loss of the batches of an epoch that has not ended.
        valid: Validation loss of every epoch.
        start: Training loss where nothing is learned yet.
        highest: The highest of all that is known of losses where nothing is learned yet.
        constant: Validation loss of the best constant prediction; None: not known.
    """

    points: list[float]
    rest: list[float]
    valid: list[float]
    start: float
    highest: float
    constant: float | None

    @property
    def valid_start(self) -> float:
        """Validation loss where nothing is learned yet: validation may be easier than training."""
        return self.start if self.constant is None else self.constant

    @property
    def learned(self) -> bool:
        """Whether validation error or, without any, training error has come far."""
        if self.valid:
            return _is_good(self.valid, self.valid_start)
        return _is_good(self.points, self.start)


def _judge(
    train: list[float],
    valid: list[float],
    per_epoch: int,
    constant: float | None,
    constant_train: float | None,
) -> Finding:
    """Judges finite losses."""
    # To 1 or less, by a power of two: sums stay finite, and nothing is rounded.
    constants = [loss for loss in (constant, constant_train) if loss is not None]
    _, exponent = math.frexp(max(map(abs, [*train, *valid, *constants])))
    train, valid = ([math.ldexp(loss, -exponent) for loss in part] for part in (train, valid))
    constant, constant_train = (
        None if loss is None else math.ldexp(loss, -exponent) for loss in (constant, constant_train)
    )
    points = _points(train, per_epoch)
    if len(train) < 3 or len(points) < 2:
        return _finding("undecided", losses=len(train))
    known = [loss for loss in (constant_train, constant) if loss is not None]
    start, highest = max([train[0], *known[:1]]), max([train[0], *known])
    losses = _Losses(points, _rest(train, per_epoch), valid, start, highest, constant)
    return (
        _judge_flat(losses)
        or _judge_height(losses)
        or _judge_fall(losses)
        or _judge_jumps(losses)
        or _judge_end(losses)
    )


def _judge_flat(losses: _Losses) -> Finding | None:
    """Finds validation error that does not move: it has no noise, so nothing else does either.

    Unless training error has fallen far: that is not slow, but learned by heart.
    """
    if len(losses.valid) < 2 or losses.learned or _is_good(losses.points, losses.start):
        return None
    reach = _reach(losses.valid)
    return _finding("too-slow", validation_reach=reach) if reach < NOTHING_VALID else None


def _judge_height(losses: _Losses) -> Finding | None:
    """Finds training error that leaps far above the start, to stay there or to come back.

    Of the batches of an epoch that has not ended all must be up there: one may be noise. What came
    back must have been far above the start of validation, too: half of the others do not jump.
    """
    start, highest = losses.start, losses.highest
    for last in (min(losses.rest, default=start), losses.points[-1]):
        if last - start > LEAP * abs(start):
            return _finding("diverging", above_start=_ratio(last - start, abs(start)))
    leap = _ratio(max(losses.points) - highest, abs(highest))
    return _finding("jumping", above_start=leap) if leap > LEAP else None


def _judge_fall(losses: _Losses) -> Finding | None:
    """Finds error that falls by almost nothing, or by little and ever so steadily.

    What has fallen far in the first epoch already, and by little since, is not slow but done.
    """
    if losses.learned:
        return None
    points, valid = losses.points, losses.valid
    rises = _rises(valid if len(valid) > 1 else points)
    reach, steady = _reach(points), rises < STEADY and points[-1] <= points[0]
    if reach < NOTHING or (reach < LITTLE and steady):
        return _finding("too-slow", reach=reach, rises=rises)
    return None


def _judge_jumps(losses: _Losses) -> Finding | None:
    """Finds error that goes up and down.

    Near its best, validation error goes up and down for all manner of reasons, overfitting among
    them; so it must be far from good as well, beside the highest that is known. While training
    error goes on falling, what validation error rises from its best to its end is overfitting, and
    no jump.
    """
    points, valid = losses.points, losses.valid
    if len(valid) < 2:
        rises = _rises(points)
        return _finding("jumping", rises=rises) if rises > JUMPY_TRAINING else None
    if _is_good(valid, losses.highest) or _reach(valid) < NOTHING_VALID:
        return None
    best = min(valid)
    rises = _rises(valid)
    if points[-1] < _at_share(points, valid.index(best), len(valid)):
        rises -= _ratio(valid[-1] - best, max(valid) - best)
    if rises > JUMPY_VALIDATION:
        to_start = _ratio(best, abs(losses.highest))
        return _finding("jumping", rises=rises, best_to_start=to_start)
    return None


def _judge_end(losses: _Losses) -> Finding:
    """Judges what the number of epochs, the decay and the size of the network decide."""
    points, valid, constant = losses.points, losses.valid, losses.constant
    values = valid if len(valid) > 1 else points
    best = min(values)
    at = values.index(best)
    fall, count = max(values[: at + 1]) - best, len(values)
    evidence = {"best_at": at + 1.0, "of": float(count)}
    gain = _ratio(min(values[: count - max(1, count // 3)]) - best, fall)
    falling, early = at == count - 1 and gain > STILL, 1 < len(valid) < FEWEST_EPOCHS
    if not early and constant is not None and len(valid) > 1 and best >= constant:
        return _finding("stuck", best_to_constant=_ratio(best, constant))
    if falling:
        return _finding("still-falling", last_third=gain, **evidence)
    if early:
        return _finding("undecided", **evidence)
    rise = _ratio(values[-1] - best, fall) if len(valid) > 1 else 0.0
    if rise > OVERFITTED and points[-1] < _at_share(points, at, count):
        return _finding("overfitting", rise=rise, **evidence)
    if rise > LOST:
        return _finding("jumping", rise=rise, **evidence)
    return _finding("plateau" if gain < OVER else "healthy", last_third=gain, **evidence)


def _points(train: list[float], per_epoch: int) -> list[float]:
    """Returns the training loss of every epoch or, if there is one epoch only, of its parts."""
    whole = len(train) // per_epoch
    if per_epoch == 1 or whole < 2:
        if per_epoch == 1 or len(train) <= PARTS:
            return train
        ends = [len(train) * part // PARTS for part in range(PARTS + 1)]
    else:
        ends = [epoch * per_epoch for epoch in range(whole + 1)]
    return [math.fsum(train[a:b]) / (b - a) for a, b in pairwise(ends)]


def _rest(train: list[float], per_epoch: int) -> list[float]:
    """Returns the losses of an epoch that has not ended, of which `_points` says nothing."""
    whole = len(train) // per_epoch
    return train[whole * per_epoch :] if per_epoch > 1 and whole >= 2 else []


def _is_good(values: list[float], start: float) -> bool:
    """Whether the lowest value is below `FAR_FROM_GOOD` of the start; both may be negative."""
    return start - min(values) > (1 - FAR_FROM_GOOD) * abs(start)


def _reach(values: list[float]) -> float:
    """Returns the range of the values as a share of the first."""
    return _ratio(max(values) - min(values), abs(values[0]))


def _rises(values: list[float]) -> float:
    """Returns all that the values rise from one to the next, as a share of their whole range."""
    up = math.fsum(max(0.0, after - before) for before, after in pairwise(values))
    return _ratio(up, max(values) - min(values))


def _at_share(points: list[float], at: int, count: int) -> float:
    """Returns the training loss of the time of the ``at``-th of ``count`` values."""
    return points[max(0, min(len(points) - 1, (at + 1) * len(points) // count - 1))]


def _finding(name: str, **evidence: float) -> Finding:
    advice, factor = ADVICE[name]
    figures = {key: float(f"{value:.4g}") for key, value in evidence.items()}
    return Finding(name, figures, advice, factor)


def _count(batches: int) -> int:
    try:
        count = operator.index(batches)
    except TypeError:
        count = 0
    if count < 1:
        raise ValueError(f"batches_per_epoch must be a whole number from 1 on, not {batches!r}")
    return count


def _finite(loss: float | None) -> float | None:
    return None if loss is None or not math.isfinite(loss) else loss


def _first_not_finite(values: Sequence[float]) -> int:
    """Returns the place, from 1, of the first value that is no number; 0 if there is none."""
    return next((i for i, value in enumerate(values, 1) if not math.isfinite(value)), 0)


LARGEST = 1e9
"""Ratios are shown as this at most, so that they are finite."""


def _ratio(part: float, whole: float) -> float:
    """Returns a ratio of two finite numbers that is finite too."""
    if whole == 0:
        return 0.0 if part == 0 else math.copysign(LARGEST, part)
    return min(max(part / whole, -LARGEST), LARGEST)
