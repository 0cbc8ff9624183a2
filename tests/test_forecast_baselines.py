"""What a forecast is compared with: the naive ones and ridge regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forecasting import daily, load

from search.data import forecast_baselines
from search.data.forecast_baselines import fit_ridge, windows_for_ridge


def test_seasonal_naive(tmp_path: Path) -> None:
    """Where every season repeats, seasonal naive errs by nothing, however far ahead."""
    values = np.tile([1.0, 5.0, 2.0, 9.0], 40)
    splits = load(tmp_path, daily(values), time="when", window=2, horizon=6, season=4)
    figures = splits.baselines("valid")
    assert figures["seasonal_naive"]["rmse"] == pytest.approx(0, abs=1e-6)
    assert figures["persistence"]["rmse"] > 1


def test_seasonal_naive_does_not_reach_over_a_gap() -> None:
    """Where last season lies in another stretch, or ahead, an earlier value stands in."""
    observed, segment = np.arange(10.0)[:, None], np.repeat([0, 1], [4, 6])
    first = np.array([6, 9])
    forecast = forecast_baselines.seasonal_naive(observed, segment, first, 4, 3)
    assert forecast[:, :, 0].tolist() == [[5, 4, 5, 5], [6, 7, 8, 6]]


def test_ridge_learns_what_is_linear(tmp_path: Path) -> None:
    """On a noisy sine, which is linear in its past, ridge comes close to the noise."""
    values = 10 * np.sin(np.arange(600) / 5) + np.random.default_rng(0).normal(0, 0.5, 600)
    figures = load(tmp_path, daily(values), time="when", window=30).baselines("test")
    assert figures["ridge"]["rmse"] < 0.65 < figures["persistence"]["rmse"]


def test_ridge_is_the_same_by_windows_as_by_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both decompositions choose one penalty and predict the same, as the normal equations do."""
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(80, 20)), rng.normal(size=(80, 2)), rng.normal(size=(5, 20))
    y += x[:, :2]
    primal = fit_ridge(x, y)(new)
    monkeypatch.setattr(forecast_baselines, "PRIMAL_LIMIT", 1)
    np.testing.assert_allclose(fit_ridge(x, y)(new), primal, atol=1e-9)
    centred = x - x.mean(0)
    solutions = [
        (new - x.mean(0))
        @ np.linalg.solve(
            centred.T @ centred + 80 * strength * np.eye(20), centred.T @ (y - y.mean(0))
        )
        + y.mean(0)
        for strength in forecast_baselines.STRENGTHS
    ]
    assert any(np.allclose(solution, primal, atol=1e-9) for solution in solutions)


@settings(max_examples=30)
@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_ridge_stays_affordable(count: int, inputs: int) -> None:
    """Windows are taken evenly from first to last, and no more than time and memory allow."""
    chosen = windows_for_ridge(count, inputs)
    assert chosen[0] == 0
    assert chosen[-1] == count - 1
    assert len(chosen) <= max(2, 2e7 / inputs)
    steps = np.diff(chosen)
    assert len(steps) == 0 or steps.max() - steps.min() <= 1
