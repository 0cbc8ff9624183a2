"""Trials → how much each hyperparameter matters, with how sure that is.

PED-ANOVA (Watanabe et al. 2023, IJCAI, arXiv 2304.10255): how differently a hyperparameter is
distributed among the best trials and among all. It is computed on many resamples of the trials
(bootstrap), whose spread is shown, and on as many with the values shuffled, which shows what chance
alone would give.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, create_trial

from search.dimensions import Dimension
from search.space import distributions, is_inside

FEWEST = 20
"""Trials without which nothing is computed: fewer than five of them would count as the best."""
FEWEST_GOOD = 5
"""Trials without which there is no best: these neither diverged nor ran out of memory."""
BEST = 10
"""Trials that count as the best, if that is between a tenth and a quarter of all."""
RESAMPLES = 40
MOST = 400
"""Trials of a resample; more would only take longer."""


@dataclass(frozen=True)
class Tried:
    """A configuration and what came of it.

    Attributes:
        params: Values of the searched hyperparameters.
        rank: The smaller the better; infinite: diverged.
    """

    params: Mapping[str, Any]
    rank: float


@dataclass(frozen=True)
class Importance:
    """How much a hyperparameter matters, as a share of what all of them together do.

    Attributes:
        name: Of the hyperparameter.
        low: A twentieth of the resamples are below.
        middle: Their median.
        high: A twentieth of the resamples are above.
        chance: What one in twenty would reach if nothing mattered.
    """

    name: str
    low: float
    middle: float
    high: float
    chance: float

    @property
    def matters(self) -> bool:
        """True if nineteen in twenty resamples give more than chance would."""
        return self.low > self.chance


def importances(
    tried: Sequence[Tried], space: Mapping[str, Dimension], seed: int
) -> list[Importance]:
    """Returns how much each searched hyperparameter matters, the most important first.

    Args:
        tried: Every trial that has trained an epoch, the pruned and the diverged ones too: they
            tell where it is bad.
        space: Of the study; trials outside are left out.
        seed: Of the resamples.

    Returns:
        Nothing if there are fewer than `FEWEST` trials or `FEWEST_GOOD` good ones, or nothing
        distinguishes the best.
    """
    searched = distributions(space)
    inside = inside_of(tried, space)
    good = sum(math.isfinite(one.rank) for one in inside)
    if len(inside) < FEWEST or good < FEWEST_GOOD or not searched:
        return []
    chooser = random.Random(seed)
    found = [_measure(_resample(inside, chooser), searched) for _ in range(RESAMPLES)]
    nothing = [_measure(_resample(_shuffled(inside, chooser), chooser), searched) for _ in found]
    rows = np.array([[one[name] for name in searched] for one in found])  # (resamples, names)
    whole = rows.sum(axis=1, keepdims=True)  # (resamples, 1)
    if not (whole > 0).all():
        return []
    low, middle, high = np.quantile(rows / whole, (0.05, 0.5, 0.95), axis=0)
    noise = np.array([[one[name] for name in searched] for one in nothing])  # (resamples, names)
    chance = np.quantile(noise, 0.95, axis=0) / np.median(whole)
    columns = (low, middle, high, chance)
    made = [
        Importance(name, *(float(column[place]) for column in columns))
        for place, name in enumerate(searched)
    ]
    return sorted(made, key=lambda one: -one.middle)


def inside_of(tried: Sequence[Tried], space: Mapping[str, Dimension]) -> list[Tried]:
    """Returns the trials whose hyperparameters are all within what is searched."""
    searched = distributions(space)
    return [
        one
        for one in tried
        if all(name in one.params and is_inside(one.params[name], space[name]) for name in searched)
    ]


def _resample(tried: Sequence[Tried], chooser: random.Random) -> list[Tried]:
    """Returns as many trials, drawn with replacement."""
    return chooser.choices(tried, k=min(len(tried), MOST))


def _shuffled(tried: Sequence[Tried], chooser: random.Random) -> list[Tried]:
    """Returns the same configurations, each with another's result."""
    ranks = [one.rank for one in tried]
    chooser.shuffle(ranks)
    return [Tried(one.params, rank) for one, rank in zip(tried, ranks, strict=True)]


def _measure(tried: Sequence[Tried], searched: Mapping[str, BaseDistribution]) -> dict[str, float]:
    """Returns PED-ANOVA's divergence by hyperparameter, from 0 on."""
    study = optuna.create_study()
    study.add_trials(_as_trials(tried, searched))
    # What is no good at all is not among the best, however much there is of it.
    count, good = len(tried), sum(math.isfinite(one.rank) for one in tried)
    # Optuna rounds up.
    best = max(min(max(0.1, BEST / count), 0.25, (good - 0.5) / count), 1.5 / count)
    return PedAnovaImportanceEvaluator(target_quantile=best).evaluate(study, list(searched))


def _as_trials(
    tried: Sequence[Tried], searched: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """Returns complete trials whose values are places in the ranking: it needs no more."""
    order = np.argsort(np.argsort([one.rank for one in tried], kind="stable"), kind="stable")
    return [
        create_trial(
            params={name: one.params[name] for name in searched},
            distributions=dict(searched),
            value=float(place),
        )
        for one, place in zip(tried, order, strict=True)
    ]
