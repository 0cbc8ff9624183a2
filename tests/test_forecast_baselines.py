"""What a forecast is compared with: the naive ones and ridge regression."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
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


def test_seasonal_naive_counts_time_and_not_rows() -> None:
    """Where last season lies in a gap it is the season before; at the start, the last value."""
    observed, slots = np.arange(10.0)[:, None], np.array([0, 1, 2, 3, 6, 7, 8, 9, 10, 11])
    first = np.array([2, 5, 6, 8])
    forecast = forecast_baselines.seasonal_naive(observed, slots, first, 2, 3)
    assert forecast[:, :, 0].tolist() == [[1, 0], [1, 2], [2, 4], [5, 6]]
    ahead = forecast_baselines.seasonal_naive(observed, slots, np.array([2]), 4, 2)
    assert ahead[0, :, 0].tolist() == [0, 1, 0, 1], "what lies ahead is not known"
    assert forecast_baselines.seasonal_naive(observed, slots, first[-1:], 1, 11)[0, 0, 0] == 7


@pytest.mark.parametrize("missing", ["error", "drop"])
def test_a_gap_hides_no_season_from_its_baseline(tmp_path: Path, missing: str) -> None:
    """Of a series that repeats itself each week, days that lack are no reason to err."""
    frame = daily(np.tile([1.0, 5.0, 2.0, 9.0, 3.0, 8.0, 0.0], 60))
    if missing == "drop":
        frame.loc[frame.index[[50, 180, 181, 333]], "y"] = np.nan
    else:
        frame = frame.drop(frame.index[[50, 180, 181, 333, 334, 335]])
    options = {"time": "when", "window": 3, "season": 7, "missing": missing}
    splits = load(tmp_path, frame, **options)
    for part in ("valid", "test"):
        assert splits.baselines(part)["seasonal_naive"]["rmse"] == pytest.approx(0, abs=1e-6)


def test_weekdays_that_lack_do_not_shift_the_week(tmp_path: Path) -> None:
    """Trading days are counted without weekends, over gaps and holidays."""
    when = pd.bdate_range("2020-01-06", periods=300)
    frame = pd.DataFrame({"when": when, "y": np.tile([1.0, 5.0, 2.0, 9.0, 3.0], 60)})
    frame = frame.drop(frame.index[[40, 207, *range(216, 225), 246, 251, 252, 277]])
    splits = load(tmp_path, frame, time="when", window=3, season=5)
    for part in ("valid", "test"):
        assert splits.baselines(part)["seasonal_naive"]["rmse"] == pytest.approx(0, abs=1e-6)


def test_no_season_reaches_into_another_series(tmp_path: Path) -> None:
    """At the start of a series the last value stands in, whatever stands before it in the file."""
    frame = pd.DataFrame({"s": np.repeat(["a", "b"], 40), "y": np.arange(80.0)})
    splits = load(tmp_path, frame, series="s", window=2, season=30)
    slots, at = splits.slots.numpy(), np.array([42])
    forecast = forecast_baselines.seasonal_naive(splits.observed.numpy(), slots, at, 1, 30)
    assert forecast.item() == 41


def test_a_week_stands_beside_a_day_where_it_tells_more(tmp_path: Path) -> None:
    """Hours that differ by weekday have both baselines; those that do not, the day alone."""
    rng, hours = np.random.default_rng(0), np.arange(24 * 7 * 12)
    day = 5 * np.sin(2 * np.pi * hours / 24)
    week = np.where(hours // 24 % 7 < 5, 4.0, 0.0)
    when = pd.date_range("2024-01-01", periods=len(hours), freq="h")
    options = {"time": "when", "window": 24, "horizon": 12, "season": 24}
    for values, names in (
        (day + week, ["seasonal_naive", "seasonal_naive_168"]),
        (day, ["seasonal_naive"]),
    ):
        noisy = values + rng.normal(0, 0.3, len(hours)) + np.cumsum(rng.normal(0, 0.05, len(hours)))
        splits = load(tmp_path, pd.DataFrame({"when": when, "y": noisy}), **options)
        figures = splits.baselines("valid")
        assert [name for name in figures if name.startswith("seasonal")] == names
        if len(names) == 2:
            assert figures[names[1]]["rmse"] < figures[names[0]]["rmse"]
    assert "seasonal_naive" not in load(
        tmp_path, pd.DataFrame({"when": when, "y": day + week}), **{**options, "season": None}
    ).baselines("valid")


def test_ridge_learns_what_is_linear(tmp_path: Path) -> None:
    """On a noisy sine, which is linear in its past, ridge comes close to the noise."""
    values = 10 * np.sin(np.arange(600) / 5) + np.random.default_rng(0).normal(0, 0.5, 600)
    figures = load(tmp_path, daily(values), time="when", window=30).baselines("test")
    assert figures["ridge"]["rmse"] < 0.65 < figures["persistence"]["rmse"]


@pytest.mark.parametrize("part", ["valid", "test"])
def test_ridge_is_fitted_on_training_windows(tmp_path: Path, part: str) -> None:
    """The error of every part is that of a fit on the training part's windows alone."""
    values = 10 * np.sin(np.arange(600) / 5) + np.random.default_rng(0).normal(0, 0.5, 600)
    splits = load(tmp_path, pd.DataFrame({"y": values}), window=30)
    (known,), (told,) = (getattr(splits, name).batches(10**9, None) for name in ("train", part))
    predict = fit_ridge(known.inputs[..., 0].double().numpy(), known.targets.double().numpy())
    errors = predict(told.inputs[..., 0].double().numpy()) - told.targets.double().numpy()
    rmse = float(splits.scale) * float(np.sqrt((errors**2).mean()))
    assert splits.baselines(part)["ridge"]["rmse"] == pytest.approx(rmse, rel=1e-6)
    assert rmse == pytest.approx({"valid": 0.56080, "test": 0.49834}[part], abs=1e-4)


def test_ridge_is_the_same_by_windows_as_by_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both decompositions choose one penalty and predict the same, as the normal equations do."""
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(80, 20)), rng.normal(size=(80, 2)), rng.normal(size=(5, 20))
    y += x[:, :2]
    primal = fit_ridge(x, y)(new)
    monkeypatch.setattr(forecast_baselines, "PRIMAL_LIMIT", 1)
    np.testing.assert_allclose(fit_ridge(x, y)(new), primal, atol=1e-9)
    centred, aims = x - x.mean(0), y - y.mean(0)

    def error(strength: float) -> float:
        """Golub, Heath and Wahba's, as it is written: with the matrix that predicts."""
        hat = centred @ np.linalg.solve(inverted(strength), centred.T)
        return float(((aims - hat @ aims) ** 2).sum() / (79 - np.trace(hat)) ** 2)

    def inverted(strength: float) -> np.ndarray:
        covariance: np.ndarray = centred.T @ centred + 80 * strength * np.eye(20)
        return covariance

    chosen = min(forecast_baselines.STRENGTHS, key=error)
    assert chosen == 0.1
    solution = (new - x.mean(0)) @ np.linalg.solve(inverted(chosen), centred.T @ aims) + y.mean(0)
    np.testing.assert_allclose(primal, solution, atol=1e-9)


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
