"""Forecasts that need no network: persistence, seasonal naive, and ridge regression.

Shapes: L rows, N windows, D inputs of a flattened window, H horizon, K targets, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COMPARED = 1_000_000
"""So many forecasts tell which season is the better, evenly spaced if there are more."""
SEASONS = 3
"""So many are looked back over a gap."""

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)
"""Ridge penalties per training window, for standardised inputs."""

PRIMAL_LIMIT = 1000
"""Up to so many inputs the covariance is decomposed, beyond it the Gram matrix of the windows."""

WORK = 5e9
"""Multiplications spent on that matrix: well under a second of one core."""


def persistence(observed: Floats, first: Ints, horizon: int) -> Floats:
    """Forecasts that nothing changes.

    Args:
        observed: (L, K) targets.
        first: (N,) row of each window's first target.
        horizon: H.

    Returns:
        (N, H, K) the last value before the forecast, H times.
    """
    return np.repeat(observed[first - 1][:, None], horizon, axis=1)


def seasonal_naive(observed: Floats, slots: Ints, first: Ints, horizon: int, season: int) -> Floats:
    """Forecasts the value of a whole number of seasons ago (Hyndman and Athanasopoulos, 5.2).

    Where there is none, as in a gap, that of another season before, `SEASONS` back at most; where
    none has one, as at the start of a series, the last value.

    Args:
        observed: (L, K) targets.
        slots: (L,) each row's place in time, see `search.data.rows.Rows`.
        first: (N,) row of each window's first target.
        horizon: H.
        season: Steps of a season.

    Returns:
        (N, H, K).
    """
    row = _season_before(slots, first, horizon, season)
    return observed[np.where(row >= 0, row, first[:, None] - 1)]


def _season_before(slots: Ints, first: Ints, horizon: int, season: int) -> Ints:
    """Returns (N, H) the row that `seasonal_naive` takes; -1: there is none."""
    ahead, found = np.arange(horizon), np.full((len(first), horizon), -1, dtype=np.int64)
    wanted = slots[first[:, None] + ahead] - season * (ahead // season)
    for back in range(SEASONS, 0, -1):
        asked = wanted - back * season
        row = np.searchsorted(slots, asked)
        # Where holidays lie ahead, a season before may be ahead, too.
        found = np.where((slots[row] == asked) & (row < first[:, None]), row, found)
    return found


def useful_seasons(
    observed: Floats, slots: Ints, first: Ints, horizon: int, season: int, longer: Iterable[int]
) -> list[int]:
    """Returns the season, and those of whole numbers of it that foresee windows better.

    Args:
        observed: As for `seasonal_naive`.
        slots: As for `seasonal_naive`.
        first: (N,) row of the first target of each window of the training part.
        horizon: H.
        season: Steps of a season.
        longer: Those that the calendar suggests.
    """
    first = first[:: max(1, len(first) * horizon // COMPARED)]
    actual = observed[first[:, None] + np.arange(horizon)]
    usual = _season_before(slots, first, horizon, season)

    def better(steps: int) -> bool:
        row = _season_before(slots, first, horizon, steps)
        both = (usual >= 0) & (row >= 0)  # At the start of a series a week has no forecast yet.
        theirs, mine = (((observed[at] - actual)[both] ** 2).sum() for at in (usual, row))
        return bool(mine < theirs)

    whole = [steps for steps in longer if steps > season and steps % season == 0]
    return [season, *filter(better, whole)]


def windows_for_ridge(count: int, inputs: int) -> Ints:
    """Chooses the training windows that ridge is fitted on: all, or evenly spaced ones.

    Args:
        count: N.
        inputs: D.

    Returns:
        Sorted indices; as many as `WORK` and 160 MB allow.
    """
    limit = (
        WORK / inputs**2 if inputs <= PRIMAL_LIMIT else min(PRIMAL_LIMIT, (WORK / inputs) ** 0.5)
    )
    kept = max(2, min(count, int(limit), int(2e7 / inputs)))
    return np.unique(np.linspace(0, count - 1, kept).astype(np.int64))


def fit_ridge(inputs: Floats, targets: Floats) -> Callable[[Floats], Floats]:
    """Fits ridge regression with an unpenalised intercept, in closed form.

    The penalty is the one of `STRENGTHS` with the least generalised cross-validation error
    (Golub, Heath and Wahba 1979), so that it, too, comes from the training windows alone.

    Args:
        inputs: (N, D).
        targets: (N, O).

    Returns:
        A function from (M, D) inputs to (M, O) predictions.
    """
    centre, mean = inputs.mean(axis=0), targets.mean(axis=0)
    x, y = inputs - centre, targets - mean
    count = len(x)
    primal = x.shape[1] <= PRIMAL_LIMIT
    values, vectors = np.linalg.eigh(x.T @ x if primal else x @ x.T)
    values = np.maximum(values, 0.0)
    rotated = vectors.T @ (x.T @ y if primal else y)

    def error(strength: float) -> float:
        penalty = strength * count
        freedom = count - 1 - float((values / (values + penalty)).sum())
        if freedom < 0.05 * count:  # As good as interpolation: the criterion means nothing there.
            return np.inf
        shrink = (values + 2 * penalty if primal else -(penalty**2)) / (values + penalty) ** 2
        explained = float((shrink[:, None] * rotated**2).sum())
        left = (float((y**2).sum()) if primal else 0.0) - explained
        return left / freedom**2

    penalty = min(STRENGTHS[::-1], key=error) * count
    solved = vectors @ (rotated / (values + penalty)[:, None])
    if primal:
        return lambda new: (new - centre) @ solved + mean
    # Which product comes first matters much if windows, inputs and outputs are many or few.
    return lambda new: np.linalg.multi_dot([new - centre, x.T, solved]) + mean
