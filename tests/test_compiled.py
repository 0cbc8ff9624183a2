"""What compiled code consists of: its functions are the mathematical ones, its products NumPy's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.compiled import Pointer, machine_code, multiply, sigmoid, tanh
from search.object_code import HAS_PRODUCTS

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@precisions
def test_sigmoid_and_tanh(dtype: type[np.floating]) -> None:
    """Both are right to two roundings of 1, wherever they are not yet 0 or 1 and beyond."""
    near = np.linspace(-20, 20, 4001)
    places = np.concatenate([near, [-1e30, -800, -90, 90, 800, 1e30, -np.inf, np.inf]])
    places = places.astype(dtype)
    exact = places.astype(np.float64)
    within = 2 * np.finfo(dtype).eps
    found = np.array([[sigmoid(x), tanh(x)] for x in places])
    with np.errstate(over="ignore"):
        assert np.abs(found[:, 0] - 1 / (1 + np.exp(-exact))).max() <= within
    assert np.abs(found[:, 1] - np.tanh(exact)).max() <= within
    assert np.isnan([sigmoid(dtype(np.nan)), tanh(dtype(np.nan))]).all()


def test_torch_lends_its_products() -> None:
    """On the machines that the tests run on, torch's library of products can be called."""
    assert HAS_PRODUCTS


@precisions
@settings(max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    kept=st.booleans(),
    turn_left=st.booleans(),
    turn_right=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products(
    dtype: type[np.floating],
    sizes: tuple[int, int, int],
    kept: bool,
    turn_left: bool,
    turn_right: bool,
    seed: int,
) -> None:
    """Products of matrices of any size, turned or not, added or not, are NumPy's."""
    chooser = np.random.default_rng(seed)
    rows, inner, columns = sizes
    left = chooser.standard_normal((rows, inner)).astype(dtype)
    right = chooser.standard_normal((inner, columns)).astype(dtype)
    result = chooser.standard_normal((rows, columns)).astype(dtype)
    expected = left @ right + (result if kept else 0)
    multiply(
        result,
        np.ascontiguousarray(left.T) if turn_left else left,
        np.ascontiguousarray(right.T) if turn_right else right,
        int(kept),
        int(turn_left),
        int(turn_right),
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=100 * np.finfo(dtype).eps)


def test_a_result_that_is_not_kept_may_be_no_number() -> None:
    """What stands where a product goes does not matter, as memory may hold anything."""
    result = np.full((2, 2), np.nan, np.float32)
    multiply(result, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 0, 0, 0)
    assert (result == np.eye(2)).all()


def allocates(count: int, values: Pointer) -> None:
    """Needs memory, which Numba's own code would get."""
    values[0] = np.ones(count).sum()


def test_what_cannot_do_without_numba_is_refused() -> None:
    """A function that needs anything of Numba's when it runs ends nothing but the compiling."""
    with pytest.raises(RuntimeError, match=r"compiled code calls \w+, which is Numba's"):
        machine_code([allocates], "float32")
