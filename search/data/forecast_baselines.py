"""Forecasts that need no network: persistence, seasonal naive, and ridge regression.

Shapes: L rows, N windows, D inputs of a flattened window, H horizon, K targets, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

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


def seasonal_naive(
    observed: Floats, segment: Ints, first: Ints, horizon: int, season: int
) -> Floats:
    """Forecasts the value of a whole number of seasons ago (Hyndman and Athanasopoulos, 5.2).

    Where that lies over a gap or before the start of the series: the last value.

    Args:
        observed: (L, K) targets.
        segment: (L,) stretches without a gap.
        first: (N,) row of each window's first target.
        horizon: H.
        season: Steps of a season.

    Returns:
        (N, H, K).
    """
    ahead = np.arange(horizon)
    source = first[:, None] + ahead - season * (ahead // season + 1)
    last = first[:, None] - 1
    same = (source >= 0) & (segment[np.maximum(source, 0)] == segment[last])
    return observed[np.where(same, source, last)]


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
