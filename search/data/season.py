"""The season of a series: the lag at which its autocorrelation has a clear peak.

The rule is that of Wang, Smith and Hyndman, "Characteristic-based clustering for time series
data" (2006), section 3.3: take away a regression spline with 3 knots, look at the
autocorrelation up to a third of the length, and take a peak that is positive and at least
`RISE` higher than a trough before it. Five things are added, without which random walks and
white noise are found to have seasons:

* A peak must be significant over all m lags together (Bonferroni), or, at a ``likely`` lag,
  by itself: above ``z sqrt((1 + 2 sum r_i^2) / n)``, Bartlett's bound, as in the seasonality
  test of the M4 competition's benchmarks, but summed only until the autocorrelation has
  vanished or turned negative for the first time: what comes after it is the season itself.
  A peak within a twelfth of a likely lag means that lag.
* Of values that do not vary alike n says nothing of how far chance moves an autocorrelation, see
  `telling_count`. Where they show no season so, they are looked at once more, divided by their
  spread, see `evened`.
* Twice the lag, the autocorrelation must rise again by `RISE`.
* Of a week of days that are alike the day is the season, though the week's peak is the higher.
* Of the peaks that are nearly as high as the highest, the first counts, not simply the first:
  a monthly series may have a small peak at half a year.

Shapes: n values, m lags.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.data.calendars import months_of, offset_of

Floats = NDArray[np.float64]

LEAST = 12
"""Shorter series have no season that could be told from chance."""
LONGEST = 10_080
"""Longer seasons (a week of minutes) are not looked for."""
ALPHA = 0.05
"""How often a season is found where there is none, at most, over all lags together."""
LIKELY_ALPHA = 0.01
"""The same for a lag that the calendar suggests."""
STEADY = 6
"""The spread of a series is looked at over so many parts of it."""
EVENED = 3
"""It is divided by that of so many: a part is then no shorter than a season may be."""
LEAST_SPREAD = 0.01
"""As a share of the whole series': a part that stands still is not made to vary."""
ROUNDING = 4 * float(np.finfo(np.float64).eps)
"""What a value is rounded by, at most, as a share of it."""
SHORTEST = 3
"""Values that jump up and down by turns have a peak at 2."""
RISE = 0.1
"""A peak must be this much higher than the lowest point before it."""
NEARLY = 0.9
"""Two seasons, three seasons... make peaks, too, hardly lower or even higher than the first."""
PART = 0.5
"""Of a week whose days have a clear peak, as a share of its own, the day is the season."""
AROUND = 6
"""Noise may make a peak of its own this part of a season beside the true one."""
STRETCHES_ASKED = 9
"""So many stretches of a table, the longest, are asked for their season."""
SHARE_WANTED = 0.5
"""A season is common if more than this share of the values lie in stretches that have it."""

DAY = 86400  # seconds
CALENDAR = {"W": 52, "D": 7, "B": 5}
"""Steps of a year, or of a week, by the beginning of pandas' name for the step."""
YEAR = {1: 12, 3: 4}
"""Steps of a year, by their months."""


@dataclass(frozen=True)
class Season:
    """A season.

    Attributes:
        steps: Its length.
        strength: The autocorrelation at this lag, of the values without their trend, or of those
            divided by their spread.
    """

    steps: int
    strength: float


def find_season(values: Floats, likely: Iterable[int] = ()) -> Season | None:
    """Finds the season of evenly spaced values.

    The rule is at the head of this file.

    Args:
        values: (n,), none missing.
        likely: Lags that the calendar suggests.

    Returns:
        None if no peak is clear.
    """
    count = len(values)
    if count < LEAST:
        return None
    lags = min(count // 3, LONGEST)
    centred = values - values.mean()
    rest, rounding = without_trend(centred), ROUNDING * float(np.abs(values).max())
    if rest.std() <= max(1e-9 * float(np.abs(centred).max()), rounding):
        return None
    rest /= rest.std()
    likely = [lag for lag in likely if lag <= lags]
    as_it_is = _clear_peak(rest, telling_count(rest), lags, likely)
    return as_it_is or _clear_peak(evened(rest), count, lags, likely)


def _clear_peak(rest: Floats, told: float, lags: int, likely: list[int]) -> Season | None:
    """Finds the lag, of the first ``lags``, that is a season of (n,) values without a trend."""
    r = autocorrelation(rest, min(len(rest) - 1, 2 * lags + 1))
    forgotten = np.abs(r) < 2 / np.sqrt(told)
    memory = int(np.argmax(forgotten | ((r < 0) & (r[1] > 0)))) or len(r)
    spread = float(np.sqrt((1 + 2 * (r[1:memory] ** 2).sum()) / told))
    bounds = np.full(lags + 1, NormalDist().inv_cdf(1 - ALPHA / lags) * spread)
    for lag in likely:
        slack = lag // 12
        near = slice(lag - slack, lag + slack + 1)
        bounds[near] = NormalDist().inv_cdf(1 - LIKELY_ALPHA) * spread
    peaks = [lag for lag in _peaks(r, lags) if r[lag] > bounds[lag] and _comes_again(r, lag)]
    if not peaks:
        return None
    highest = max(r[lag] for lag in peaks)
    lag = next(lag for lag in peaks if r[lag] >= NEARLY * highest)
    lag = max((other for other in peaks if abs(other - lag) <= lag // AROUND), key=lambda k: r[k])
    lag = next((other for other in likely if abs(other - lag) <= other // 12), lag)
    for part in likely:
        tops = [float(r[one]) for one in peaks if abs(one - part) <= part // 12]
        if part < lag and lag % part == 0 and max(tops, default=0.0) >= PART * r[lag]:
            return Season(part, float(r[part]))
    return Season(lag, float(r[lag]))


def telling_count(rest: Floats) -> float:
    """Returns how many values of one spread tell as much about autocorrelation as these do.

    That is ``(sum s_i^2)^2 / sum s_i^4``, s_i^2 the mean square of a part of the series about a
    value: chance moves the autocorrelation of values whose spread grows by as much as that of so
    few. As a mean of few values s_i^2 varies by chance, for which the result is larger by 2 / part.

    Args:
        rest: (n,) about 0, with a standard deviation of 1.
    """
    squares, part = _mean_squares(rest, STEADY)
    told = (1 + 2 / part) * squares.sum() ** 2 / (squares**2).sum()
    return min(float(len(rest)), float(told))


def evened(rest: Floats) -> Floats:
    """Divides each value by the root mean square of a part of the series about it.

    Else the part that varies most, as the end of a series that grows, hides the season of all
    others, and so does one outlier.

    Args:
        rest: (n,) about 0, with a standard deviation of 1.
    """
    squares, _ = _mean_squares(rest, EVENED)
    alike: Floats = rest / np.sqrt(np.maximum(squares, LEAST_SPREAD**2))
    return alike


def _mean_squares(rest: Floats, parts: int) -> tuple[Floats, int]:
    """Returns (n,) the mean square of a part of the series about each value; the part's length."""
    count = len(rest)
    part = max(1, count // parts)
    sums, at = np.concatenate([[0.0], np.cumsum(rest**2)]), np.arange(count)
    low, high = np.maximum(0, at - part // 2), np.minimum(count, at + part - part // 2)
    means: Floats = (sums[high] - sums[low]) / (high - low)
    return means, part


def common_season(stretches: Iterable[Floats], likely: Sequence[int] = ()) -> Season | None:
    """Finds the season of a series with gaps, or of several series alike.

    Of the values in stretches that could show it, which are those that hold it three times, more
    than `SHARE_WANTED` must lie in stretches that do.

    Args:
        stretches: (n,) values each, evenly spaced, none missing.
        likely: Lags that the calendar suggests.

    Returns:
        The season, as the longest stretch that has it has it; None if none is common.
    """
    asked = sorted(stretches, key=len, reverse=True)[:STRETCHES_ASKED]
    found = [(find_season(values, likely), len(values)) for values in asked]
    sizes: Counter[int] = Counter()
    for season, size in found:
        if season is not None:
            sizes[season.steps] += size
    steps = max(sizes, key=lambda one: sizes[one], default=0)
    able = sum(size for _, size in found if size >= max(LEAST, 3 * steps))
    if sizes[steps] <= SHARE_WANTED * able:
        return None
    return next(one for one, _ in found if one is not None and one.steps == steps)


def likely_seasons(step: str | float | None) -> tuple[int, ...]:
    """Returns how many steps make a day, a week or a year, whichever may be a season.

    Args:
        step: Between dates, as `search.data.timeline.find_step` returns it.
    """
    if isinstance(step, str):
        name = step.split("-")[0]
        known = CALENDAR.get(name) or YEAR.get(months_of(step))
        if known is not None:
            return (known,)
        offset = offset_of(step)
        if not isinstance(offset, pd.offsets.Tick):
            return ()
        step = pd.Timedelta(offset).total_seconds()
    if not step or step > DAY:
        return ()
    found = (round(span / step) for span in (DAY, 7 * DAY) if (span / step).is_integer())
    return tuple(steps for steps in found if 2 <= steps <= LONGEST)


def without_trend(values: Floats) -> Floats:
    """Takes away the cubic regression spline with 3 evenly spaced knots.

    Args:
        values: (n,).

    Returns:
        (n,) residuals.
    """
    time = np.linspace(0, 1, len(values))
    powers = [time**power for power in range(4)]
    bends = [np.clip(time - knot, 0, None) ** 3 for knot in (0.25, 0.5, 0.75)]
    basis = np.column_stack([*powers, *bends])
    rest: Floats = values - basis @ np.linalg.lstsq(basis, values, rcond=None)[0]
    return rest


def autocorrelation(values: Floats, lags: int) -> Floats:
    """Returns (lags + 1,) autocorrelations, the first of them 1.

    Args:
        values: (n,), not all equal.
        lags: Fewer than n.
    """
    size = 1 << (2 * len(values) - 1).bit_length()
    spectrum = np.fft.rfft(values - values.mean(), size)
    products = np.fft.irfft(spectrum * np.conj(spectrum), size)[: lags + 1]
    correlations: Floats = products / products[0]
    return correlations


def _peaks(r: Floats, lags: int) -> list[int]:
    """Returns the lags from `SHORTEST` on with a positive peak that rises from a trough."""
    lowest = np.minimum.accumulate(r[1:])  # lowest[k - 1]: of the lags 1 to k
    at = np.arange(SHORTEST, lags + 1)
    high = (r[at] > 0) & (r[at] >= r[at - 1]) & (r[at] > r[at + 1])
    found: list[int] = at[high & (r[at] - lowest[at - 1] >= RISE)].tolist()
    return found


def _comes_again(r: Floats, lag: int) -> bool:
    """Whether the autocorrelation rises again around twice the lag."""
    near = lag // AROUND
    again = float(r[2 * lag - near : 2 * lag + near + 1].max())
    return again > 0 and again - float(r[lag : 2 * lag].min()) >= RISE
