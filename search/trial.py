"""The vocabulary of a trial: epochs, the curve they make, how it ended and why.

Everything here is frozen and plain: it crosses process borders, is stored as JSON, and knows
neither torch nor Optuna.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """How a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


GAP = "the epochs of a curve are numbered 1, 2, 3 without a gap"
INFEASIBLE = (Outcome.DIVERGED, Outcome.OUT_OF_MEMORY)
"""Ends that the sampler must learn to keep away from, by a constraint on the trial: it ranks a
merely pruned trial by how far it got."""


@dataclass(frozen=True)
class Decision:
    """The end of a trial, with its reason.

    Raises:
        ValueError: The reason is empty.
    """

    outcome: Outcome
    reason: str

    def __post_init__(self) -> None:
        if not self.reason.strip():
            raise ValueError("a decision needs a reason")


@dataclass(frozen=True)
class Epoch:
    """What one epoch of one trial gave.

    Attributes:
        index: 1 for the first epoch.
        train_loss: Mean loss of the epoch's batches, as trained on (with dropout).
        figures: The validation figures by name, ``loss`` among them.
        learning_rate: The rate that the epoch was trained with, after decay.
        seconds: Wall time of training and validation.
    """

    index: int
    train_loss: float
    figures: dict[str, float]
    learning_rate: float
    seconds: float

    @property
    def valid_loss(self) -> float:
        """The validation loss."""
        return self.figures["loss"]


@dataclass(frozen=True)
class Goal:
    """What is searched for: a validation figure, and whether small or large is better."""

    metric: str = "loss"
    minimize: bool = True

    def better(self, one: float, other: float) -> bool:
        """True if ``one`` is strictly better than ``other``."""
        return one < other if self.minimize else one > other

    def merit(
        self, number: int, value: float | None, figures: Mapping[str, float]
    ) -> tuple[float, float, int]:
        """Returns what complete trials are sorted by, the best first.

        Args:
            number: The trial's.
            value: The searched figure of its best epoch.
            figures: All of that epoch's: of several with the same accuracy that with the least loss
                is the best; then the first.
        """
        sign = 1 if self.minimize else -1
        return sign * (value or 0.0), figures.get("loss", 0.0), number

    @property
    def worst(self) -> float:
        """What every value is better than."""
        return math.inf if self.minimize else -math.inf


@dataclass(frozen=True)
class Curve:
    """The epochs of one trial, in order from the first."""

    epochs: tuple[Epoch, ...] = ()

    def __post_init__(self) -> None:
        if [epoch.index for epoch in self.epochs] != list(range(1, len(self.epochs) + 1)):
            raise ValueError(GAP)

    def __len__(self) -> int:
        return len(self.epochs)

    @property
    def seconds(self) -> float:
        """Seconds of training and validation."""
        return sum(epoch.seconds for epoch in self.epochs)

    def then(self, epoch: Epoch) -> Curve:
        """Returns the curve with one epoch more."""
        if epoch.index != len(self) + 1:
            raise ValueError(GAP)
        longer = Curve()
        # Past the check of all epochs: it would make each of 10 000 dearer than the one before.
        object.__setattr__(longer, "epochs", (*self.epochs, epoch))
        return longer

    def until(self, index: int) -> Curve:
        """Returns the curve up to and with epoch ``index``."""
        return Curve(self.epochs[:index])

    def values(self, goal: Goal) -> list[float]:
        """Returns the searched figure of every epoch."""
        return [epoch.figures[goal.metric] for epoch in self.epochs]

    def best(self, goal: Goal) -> Epoch | None:
        """Returns the best epoch; None if no value is finite.

        Of several, as an accuracy has them, it is the first of those with the least loss.
        """
        best: Epoch | None = None
        for epoch in self.epochs:
            value = epoch.figures[goal.metric]
            if not math.isfinite(value):
                continue
            highest = math.nan if best is None else best.figures[goal.metric]
            equal = best is not None and value == highest and epoch.valid_loss < best.valid_loss
            if best is None or goal.better(value, highest) or equal:
                best = epoch
        return best

    def compact(self) -> dict[str, list[float | None]]:
        """Returns the training and validation losses for storage; JSON has no NaN, so None."""
        return {
            "train": [_finite(epoch.train_loss) for epoch in self.epochs],
            "valid": [_finite(epoch.valid_loss) for epoch in self.epochs],
        }


def derive_seed(study_seed: int, purpose: str, number: int) -> int:
    """Returns the seed of one trial for one purpose, from 0 to 2**31 - 1.

    Args:
        study_seed: The study's seed.
        purpose: ``"training"``, ``"proposal"`` or ``"evaluation"``; each has its own sequence.
        number: The trial's number; for an evaluation the seed's place among its seeds.
    """
    digest = hashlib.sha256(f"{study_seed}/{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _finite(value: float) -> float | None:
    return float(f"{value:.7g}") if math.isfinite(value) else None
