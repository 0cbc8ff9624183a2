"""A tree-structured Parzen estimator: what to try next, from what was good and what was not.

Bergstra, Bardenet, Bengio, Kégl 2011 (NeurIPS 24, section 4), with the kernels and weights that
Optuna's multivariate `TPESampler` has by default (Watanabe 2023, arXiv 2304.11127): the same
proposals up to rounding, which a test holds it to. It takes a fraction of the time, because it
looks at all kernels at once, and never at a trial: in a search of small networks what proposes
shares the processor with what trains (`studies/LOG.md`).

NumPy, and torch for what NumPy has not, on one thread: the others are the trainers'. Torch is not
imported before something is proposed: who only looks at a study does not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

Array = NDArray[np.float64]

STARTUP = 10
"""Trials that must be over before anything can be learned from them."""
MOST_GOOD = 25
"""No more than so many trials count as good, and a tenth of them all."""
CANDIDATES = 24
"""Points drawn from the good ones' density, of which the one is proposed that is most theirs."""
UNAGED = 25
"""So many of the latest trials have their whole weight; that of earlier ones falls with age."""
NARROWEST = 100
"""A kernel is no narrower than a range's length divided by this, or by one more than there are
kernels if that is less."""
NARROW_CELL = 1e-6
"""Below this part of a kernel's width, a density's difference over a whole number's cell is lost in
rounding, and the density in its middle is as good."""
LEAST = 1e-300
"""Stands for 0, where no number is."""
ROOT_2 = math.sqrt(2.0)
ROOT_2_PI = math.sqrt(2.0 * math.pi)


def good_of(count: int) -> int:
    """Returns how many of so many trials count as good."""
    return min(math.ceil(0.1 * count), MOST_GOOD)


def propose(
    space: Mapping[str, BaseDistribution],
    good: Sequence[Sequence[float]],
    others: Sequence[Sequence[float]],
    seed: int,
) -> dict[str, Any]:
    """Returns the values of all parameters that a trial is to have.

    Args:
        space: What values there are, by name.
        good: Of each good trial the values as `coordinates` gives them; the latest trial last.
        others: The same of all other trials, also of those in training.
        seed: Of what is drawn at random, from 0 to 2**32 - 1.
    """
    from search.training import one_thread

    kinds, random = list(space.values()), np.random.RandomState(seed)
    with one_thread():
        densities = ParzenEstimators(kinds, (good, others))
        points = densities.draw(random, CANDIDATES)
        wanted, avoided = densities.log_densities(points)
    best = points[np.argmax(wanted - avoided)]
    return {
        name: kind.to_external_repr(float(value))
        for (name, kind), value in zip(space.items(), best, strict=True)
    }


def coordinates(
    space: Mapping[str, BaseDistribution], params: Mapping[str, Any]
) -> list[float] | None:
    """Returns a trial's values as numbers, a choice as its place; None: there are no such values.

    Whoever enqueues a trial may give it a number outside the range; it counts as the nearest one.
    """
    try:
        values = [_place(kind, params[name]) for name, kind in space.items()]
    except (KeyError, ValueError):
        return None
    return None if any(map(math.isnan, values)) else values


def _place(kind: BaseDistribution, given: Any) -> float:
    value = kind.to_internal_repr(given)
    if isinstance(kind, FloatDistribution | IntDistribution):
        return float(min(max(value, kind.low), kind.high))
    return float(value)


class ParzenEstimators:
    """Densities over a space: a kernel for each trial, and one for what is known before all.

    A kernel is a product over the parameters: of a number a normal density cut off at the ends of
    its range, in the logarithm if that is logarithmic, whole numbers taking all that is rounded to
    them; of a choice more than an even share for the trial's own. Its width is the distance to the
    farther of its two neighbours in that parameter, within limits. The last kernel of a density is
    as wide as the space.

    Args:
        kinds: The parameters.
        groups: The trials of each density, (n, parameters), the latest last. All densities are
            computed at once, because a call takes longer than what it computes.
    """

    def __init__(
        self, kinds: Sequence[BaseDistribution], groups: Sequence[Sequence[Sequence[float]]]
    ) -> None:
        tables = [np.asarray(g, dtype=np.float64).reshape(len(g), len(kinds)) for g in groups]
        self._weights = [_weights(len(table)) for table in tables]
        self._log_weights = np.log(np.concatenate(self._weights))
        self._parts: list[_Numbers | _Choices] = [
            (_Choices if isinstance(kind, CategoricalDistribution) else _Numbers).of(
                kind, [table[:, place] for table in tables]
            )
            for place, kind in enumerate(kinds)
        ]

    def draw(self, random: np.random.RandomState, count: int) -> Array:
        """Returns points of the first density, (count, parameters).

        Random numbers are drawn in Optuna's order: for the kernels, the choices, the numbers.
        """
        weights = self._weights[0]
        kernels = random.choice(len(weights), p=weights, size=count)
        points = np.empty((count, len(self._parts)))
        for kind in (_Choices, _Numbers):
            for place, part in enumerate(self._parts):
                if isinstance(part, kind):
                    points[:, place] = part.draw(kernels, random.uniform(size=count))
        return points

    def log_densities(self, points: Array) -> list[Array]:
        """Returns the logarithm of each density at points, (points, parameters)."""
        sums = np.tile(self._log_weights, (len(points), 1))
        for place, part in enumerate(self._parts):
            sums += part.log_density(points[:, place])
        ends = np.cumsum([len(weights) for weights in self._weights])
        return [_log_sum(group) for group in np.split(sums, ends[:-1], axis=1)]


@dataclass(frozen=True)
class _Numbers:
    """The kernels of a number.

    Attributes:
        kind: The number.
        low, high: The ends of what is rounded into its range, in the logarithm if that is so.
        middles, widths: (kernels,), in the same.
    """

    kind: FloatDistribution | IntDistribution
    low: float
    high: float
    middles: Array
    widths: Array

    @classmethod
    def of(cls, kind: BaseDistribution, groups: Sequence[Array]) -> _Numbers:
        assert isinstance(kind, FloatDistribution | IntDistribution)
        half, there = (kind.step or 0.0) / 2, math.log if kind.log else float
        low, high = there(kind.low - half), there(kind.high + half)
        middles: list[Array] = []
        widths: list[Array] = []
        for values in groups:
            its = np.log(values) if kind.log else values
            narrowest = (high - low) / min(NARROWEST, len(its) + 2)
            middles.append(np.append(its, (low + high) / 2))
            its = np.clip(_distances(its, low, high), narrowest, high - low)
            widths.append(np.append(its, high - low))
        return cls(kind, low, high, np.concatenate(middles), np.concatenate(widths))

    def draw(self, kernels: NDArray[np.int64], quantiles: Array) -> Array:
        """Returns a value for each of some kernels, where so much of its density is below."""
        middles, widths = self.middles[kernels], self.widths[kernels]
        below = _normal((self.low - middles) / widths)
        above = _normal((middles - self.high) / widths)
        inside = 1.0 - below - above
        # The smaller of both sides is the one that is precise.
        left, right = below + quantiles * inside, above + (1.0 - quantiles) * inside
        distances = _quantiles(np.minimum(left, right))
        values = middles + np.where(left <= right, widths, -widths) * distances
        if self.kind.log:
            values = np.exp(values)
        if step := self.kind.step:
            values = self.kind.low + np.round((values - self.kind.low) / step) * step
        return np.asarray(np.clip(values, self.kind.low, self.kind.high))

    def log_density(self, points: Array) -> Array:
        """Returns the logarithm of each kernel's density at points, (points, kernels)."""
        if self.kind.step:
            # Whole numbers are few, and so are the kernels about them that differ.
            kernels = self.middles + 1j * self.widths
            kernels, which = np.unique(kernels, return_inverse=True)
            values, where = np.unique(points, return_inverse=True)
            found = self._log_masses(values[:, np.newaxis], kernels.real, kernels.imag)
            return np.asarray(found[where][:, which])
        values = np.log(points) if self.kind.log else points
        distances = (values[:, np.newaxis] - self.middles) / self.widths
        inside = self._inside(self.middles, self.widths)
        return -0.5 * distances**2 - np.log(inside * self.widths * ROOT_2_PI)

    def _log_masses(self, points: Array, middles: Array, widths: Array) -> Array:
        step = self.kind.step or 0.0
        ends, cells = [points - step / 2, points + step / 2], np.full_like(points, step)
        if self.kind.log:
            cells, ends = np.log1p(step / ends[0]), [np.log(end) for end in ends]
        low, high = ((end - middles) / widths for end in ends)
        # Far to the right both are 1; mirrored, they are small and differ.
        mirrored = low + high > 0
        masses = _normal(np.where(mirrored, -low, high)) - _normal(np.where(mirrored, -high, low))
        cells = cells / widths
        with np.errstate(divide="ignore"):  # Nothing of a far kernel is there.
            logs = np.log(masses)
            within = np.log(cells / ROOT_2_PI) - (low + high) ** 2 / 8
        logs = np.where(cells < NARROW_CELL, within, logs)
        return np.asarray(logs - np.log(self._inside(middles, widths)))

    def _inside(self, middles: Array, widths: Array) -> Array:
        """Returns how much of each normal density is not cut off."""
        below = _normal((self.low - middles) / widths)
        return np.asarray(1.0 - below - _normal((middles - self.high) / widths))


@dataclass(frozen=True)
class _Choices:
    """The kernels of a choice.

    Attributes:
        values: (kernels,), the place of each one's choice; -1: it has none.
        own, other: (kernels,), the shares of its own choice and of each other one.
        count: How many choices there are.
    """

    values: Array
    own: Array
    other: Array
    count: int

    @classmethod
    def of(cls, kind: BaseDistribution, groups: Sequence[Array]) -> _Choices:
        assert isinstance(kind, CategoricalDistribution)
        count = len(kind.choices)
        values: list[Array] = []
        own: list[Array] = []
        other: list[Array] = []
        for its in groups:
            part = 1.0 / (len(its) + 1)
            whole = 1.0 + count * part
            values.append(np.append(its, -1.0))
            own.append(np.full(len(its) + 1, (1.0 + part) / whole))
            other.append(np.append(np.full(len(its), part / whole), 1.0 / count))
        return cls(np.concatenate(values), np.concatenate(own), np.concatenate(other), count)

    def draw(self, kernels: NDArray[np.int64], quantiles: Array) -> Array:
        """Returns a choice for each of some kernels, where so much of its shares is before."""
        own = np.arange(self.count)[:, np.newaxis] == self.values[kernels]
        sums = np.cumsum(np.where(own, self.own[kernels], self.other[kernels]), axis=0)
        # The last of all shares is not needed, and their sum is 1 but for rounding.
        return np.asarray((sums[:-1] < quantiles).sum(axis=0), dtype=np.float64)

    def log_density(self, points: Array) -> Array:
        """Returns the logarithm of each kernel's share of points, (points, kernels)."""
        own = points[:, np.newaxis] == self.values
        return np.where(own, np.log(self.own), np.log(self.other))


def _weights(count: int) -> Array:
    """Returns the weights of so many trials' kernels, the latest last, and then of the wide one."""
    aged = max(0, count - UNAGED)
    ramp = np.linspace(1.0 / max(count, 1), 1.0, num=aged)
    weights = np.concatenate([ramp, np.ones(count - aged + 1)])
    return np.asarray(weights / weights.sum())


def _log_sum(logs: Array) -> Array:
    """Returns the logarithm of a sum over the last axis."""
    largest = logs.max(axis=-1, keepdims=True)
    return np.asarray(np.log(np.exp(logs - largest).sum(axis=-1)) + largest[..., 0])


def _distances(middles: Array, low: float, high: float) -> Array:
    """Returns the distance of each to the farther of its neighbours, or of the ends if alone."""
    if len(middles) < 2:
        return np.maximum(middles - low, high - middles)
    order = np.argsort(middles)
    gaps = np.diff(middles[order])
    farther = np.empty(len(middles))
    farther[order] = np.maximum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps))
    return farther


_quantile = np.frompyfunc(NormalDist().inv_cdf, 1, 1)


def _normal(values: Array) -> Array:
    """Returns how much of the normal distribution is below; where that is little, precisely."""
    import torch

    return np.asarray(torch.special.erfc(torch.from_numpy(values / -ROOT_2)).numpy() / 2)


def _quantiles(shares: Array) -> Array:
    """Returns where so much of the normal distribution is below."""
    return np.asarray(_quantile(np.maximum(shares, LEAST)), dtype=np.float64)
