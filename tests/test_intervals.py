"""How wide the intervals of forecasts are: the ranks of the errors at their ends."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.intervals import _quantiles
from search.model_files import Band


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
