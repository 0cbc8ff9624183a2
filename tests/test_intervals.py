"""How wide the intervals of forecasts are: the ranks of the errors at their ends."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_forecasting import load, noise

from search.data.windows import ForecastPart, ForecastSplits
from search.dimensions import HYPERPARAMETERS, start_of
from search.ensembles import Networks
from search.intervals import _quantiles, band_of, edges
from search.model_files import Band
from search.models import Network, build
from search.space import HyperParams


@pytest.mark.parametrize(
    ("count", "rank"), [(1, 1), (4, 1), (18, 1), (19, 1), (38, 1), (39, 2), (99, 5), (100, 5)]
)
def test_the_ranks_of_the_ends(count: int, rank: int) -> None:
    """They are 0.05 (n + 1), rounded down, from either end; of few errors the extremes."""
    errors = torch.randperm(count, generator=torch.Generator().manual_seed(1)).double() + 1
    low, high = _quantiles(torch.stack([errors, -errors], dim=1))
    assert (low[0], high[0]) == (rank, count + 1 - rank)
    assert (low[1], high[1]) == (rank - count - 1, -rank)


@pytest.mark.parametrize(
    ("windows", "share"), [(1, 0.0), (4, 0.6), (8, 7 / 9), (19, 0.9), (99, 0.9)]
)
def test_few_windows_promise_less(windows: int, share: float) -> None:
    """Between the extremes of n errors lie (n - 1) / (n + 1) of new ones, not nine in ten."""
    assert Band(low=(-1.0,), high=(1.0,), windows=windows).share == pytest.approx(share)


@given(st.integers(19, 400))
def test_nine_new_errors_in_ten_lie_between(count: int) -> None:
    """Of errors that are alike a further one lies below rank k with k / (n + 1), so at most 5 %."""
    low, high = _quantiles(torch.arange(1.0, count + 1, dtype=torch.float64)[:, None])
    below, above = Fraction(int(low[0]), count + 1), Fraction(count + 1 - int(high[0]), count + 1)
    assert below <= Fraction(1, 20)
    assert above <= Fraction(1, 20)
    # One rank further in there would be too many.
    assert below + Fraction(1, count + 1) > Fraction(1, 20)


def level(folder: Path, unit: float = 1.0) -> ForecastSplits:
    """Returns a series that keeps to one value from before its validation part on."""
    values = np.concatenate([0.1 + noise(84), np.full(36, 1.2345678)])
    return load(folder, pd.DataFrame({"y": unit * values}), target="y", window=4)


def untrained(splits: ForecastSplits, seeds: int) -> list[Network]:
    """Returns a network of each seed."""
    starts = {name: start_of(name, one.default) for name, one in HYPERPARAMETERS.items()}
    params = HyperParams.of(starts)
    each = []
    for seed in range(seeds):
        torch.manual_seed(seed)
        each.append(build(params, splits))
    return each


@pytest.mark.parametrize("unit", [1.0, 1000.0])
@pytest.mark.parametrize("seeds", [1, 3])
def test_errors_that_are_all_alike_lie_within(tmp_path: Path, seeds: int, unit: float) -> None:
    """Where every error of the validation part is the same, its rounding puts none outside."""
    splits = level(tmp_path, unit)
    each = untrained(splits, seeds)
    networks = Networks("forecast", tuple(each), joined=seeds > 1)
    part = splits.valid
    assert isinstance(part, ForecastPart)
    inputs = part.starts[-8:, None] + torch.arange(4)
    with torch.no_grad():
        outputs = torch.stack([one(part.values[inputs], None)[0] for one in each])
    below, above = edges(band_of(networks, splits), outputs, splits.scale)
    first = part.starts[-8:] + splits.window
    forecast = splits.shift + splits.scale * networks.join(outputs).double()
    forecast += splits.observed[first - 1] if splits.anchored else 0.0
    actual = splits.observed[first]
    assert (forecast + below <= actual).all()
    assert (actual <= forecast + above).all()
    assert (above - below < 0.05 * splits.scale).all()


def test_an_ensemble_that_was_never_wrong_has_narrow_intervals(tmp_path: Path) -> None:
    """Without errors to go by, an interval reaches a standard deviation of its seeds either way."""
    splits = level(tmp_path)
    part = splits.valid
    assert isinstance(part, ForecastPart)
    each = untrained(splits, 3)
    with torch.no_grad():
        for one in each:
            for weights in one.parameters():
                weights.zero_()
            # The last is the bias of the output.
            weights.copy_(part.targets[0])
    band = band_of(Networks("forecast", tuple(each), joined=True), splits)
    assert band.residual is not None
    assert 0 < band.residual[0] < 1e-5 * float(splits.scale)
    outputs = torch.tensor([1.0, 2.0, 3.0]).reshape(3, 1, 1)
    below, above = edges(band, outputs, splits.scale)
    torch.testing.assert_close((-below, above), (splits.scale[None], splits.scale[None]))
