"""A curve of losses → a named finding, its evidence in figures, and what to do next.

Sources: the lesson that DESIGN.md quotes (training error that falls by almost nothing: raise the
learning rate; that jumps: lower it; that grows: diverging) and the symptom lists of BTTackler
(Wang et al. 2024, KDD) and AutoTrainer (Zhang et al. 2021, ICSE): oscillating, exploding and slow
convergence, overfitting. How good the advice is was measured: see `studies/LOG.md`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.trial import Curve, Outcome

RATE_STEP = 3.0
"""What advice multiplies or divides a learning rate by: half a decade, as grids usually have it."""

ADVICE: dict[str, tuple[str, float | None]] = {
    "diverging": ("lower the learning rate, or clip gradients", 1 / RATE_STEP),
    "too-slow": ("raise the learning rate", RATE_STEP),
    "jumping": ("lower the learning rate", 1 / RATE_STEP),
    "stuck": ("change something else than the rate: it never beat a constant prediction", None),
    "overfitting": ("train fewer epochs, or use dropout, weight decay or fewer units", None),
    "still-falling": ("train more epochs", None),
    "plateau": ("let the learning rate decay", None),
    "healthy": ("leave it as it is", None),
    "undecided": ("train longer: there are too few losses to judge", None),
}
"""Every finding: what to do, and what to multiply the learning rate by, if that is it."""


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
) -> Finding:
    """Says what a curve of losses shows, and what to do about it.

    Nothing depends on the unit of the loss: multiplying every loss by the same positive number
    changes no finding. Adding a constant changes only what is judged by "almost nothing", which
    has no meaning but beside the loss itself.

    Args:
        train_losses: The training loss of every batch, or of every epoch; in order.
        valid_losses: The validation loss of every epoch.
        batches_per_epoch: How many of ``train_losses`` make an epoch; None: not known, or one.
        constant_loss: The validation loss of the best prediction that ignores the inputs; needed
            for ``stuck``.

    Returns:
        The finding; NaN and infinity are ``diverging``.

    Raises:
        ValueError: There is no training loss, or ``batches_per_epoch`` is below 1.
    """
    if len(train_losses) == 0:
        raise ValueError("train_losses is empty: give the training loss of every batch or epoch")
    if batches_per_epoch is not None and batches_per_epoch < 1:
        raise ValueError(f"batches_per_epoch must be at least 1, not {batches_per_epoch}")
    train = [float(loss) for loss in train_losses]
    valid = [float(loss) for loss in valid_losses or ()]
    broken = _first_not_finite(train) or _first_not_finite(valid)
    if broken:
        return _finding("diverging", at=broken)
    if len(train) < 3:
        return _finding("undecided", losses=len(train))
    return _judge_training(train) or _judge_validation(valid, constant_loss)


def diagnose_trial(
    outcome: Outcome,
    curve: Curve,
    losses: Sequence[float],
    constant_loss: float | None = None,
) -> Finding | None:
    """Diagnoses a trial that has ended.

    Args:
        outcome: How it ended.
        curve: Its epochs.
        losses: The training loss of every batch of these epochs.
        constant_loss: As for `diagnose`.

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
    return diagnose(train, valid, per_epoch, constant_loss)


def constant_of(baselines: Mapping[str, Mapping[str, float]]) -> float | None:
    """Returns the validation loss of the naive method that ignores the inputs; None: not known.

    Args:
        baselines: Validation figures of the naive methods, by name.
    """
    for name in ("persistence", "majority", "unigram"):
        if "loss" in baselines.get(name, {}):
            return baselines[name]["loss"]
    return None


def _judge_training(train: list[float]) -> Finding | None:
    """Judges what the learning rate decides; None: nothing is wrong with it."""
    count = max(1, len(train) // 5)
    start, end = statistics.median(train[:count]), statistics.median(train[-count:])
    fall, level = start - end, max(abs(start), abs(end))
    bends = [
        abs(after - 2 * here + before) / 2
        for before, here, after in zip(train, train[1:], train[2:], strict=False)
    ]
    bend = statistics.median(bends)
    relative, roughness = _ratio(fall, level), _ratio(bend, abs(fall))
    evidence = {"fall": relative, "roughness": roughness}
    if fall < 0 and -fall > 2 * bend and -relative > 0.1:
        return _finding("diverging", **evidence)
    if abs(relative) < 0.02 and _ratio(bend, level) < 0.02:
        return _finding("too-slow", **evidence)
    if roughness > 0.35:
        return _finding("jumping", **evidence)
    return None


def _judge_validation(valid: list[float], constant_loss: float | None) -> Finding:
    """Judges what the number of epochs and the size of the network decide."""
    if len(valid) < 3:
        return _finding("healthy", epochs=len(valid))
    best = min(valid)
    at = valid.index(best) + 1
    evidence = {"best": best, "best_epoch": at, "epochs": len(valid), "last": valid[-1]}
    if constant_loss is not None and best >= constant_loss:
        return _finding("stuck", constant=constant_loss, **evidence)
    fall = max(valid) - best
    if fall > 0 and valid[-1] - best > 0.1 * fall and at <= 0.7 * len(valid):
        return _finding("overfitting", **evidence)
    third = valid[-max(2, len(valid) // 3)]
    if at == len(valid) and third - best > 0.05 * fall:
        return _finding("still-falling", **evidence)
    if third - best < 0.01 * fall:
        return _finding("plateau", **evidence)
    return _finding("healthy", **evidence)


def _finding(name: str, **evidence: float) -> Finding:
    advice, factor = ADVICE[name]
    figures = {key: float(f"{value:.4g}") for key, value in evidence.items()}
    return Finding(name, figures, advice, factor)


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
