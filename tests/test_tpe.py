"""The estimator is Optuna's: the same draws, the same densities, and so the same proposals."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator, _ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_gamma, default_weights

from search import tpe

PARAMETERS = _ParzenEstimatorParameters(
    prior_weight=1.0,
    consider_magic_clip=True,
    consider_endpoints=False,
    weights=default_weights,
    multivariate=True,
)
"""What `TPESampler()` gives its estimators."""
Space = dict[str, BaseDistribution]


def ranges(kind: Callable[..., BaseDistribution], log: bool) -> st.SearchStrategy[Any]:
    """Returns ranges of whole or other numbers, short and long ones."""
    whole = kind is IntDistribution
    least = 1 if log else -1000
    lows = st.integers(least, 1000) if whole else st.floats(1e-6 if log else -1e3, 1e3)
    parts = st.integers(0, 10**6) if whole else st.floats(1e-3, 1e6)
    return st.builds(lambda low, part: kind(low, low + part, log=log), lows, parts)


dimensions = st.one_of(
    [ranges(kind, log) for kind in (FloatDistribution, IntDistribution) for log in (False, True)]
    + [st.integers(1, 5).map(lambda count: CategoricalDistribution(tuple(range(count))))]
)


@st.composite
def known(draw: st.DrawFn) -> tuple[Space, np.random.RandomState, list[list[list[float]]]]:
    """Returns a space, a source of random numbers, and two groups of trials, many of them alike."""
    space = {
        str(n): one for n, one in enumerate(draw(st.lists(dimensions, min_size=1, max_size=4)))
    }
    random = np.random.RandomState(draw(st.integers(0, 2**32 - 1)))
    few = draw(st.booleans())
    groups = [
        [
            [
                value_of(kind, random.randint(4) / 3 if few else random.rand())
                for kind in space.values()
            ]
            for _ in range(draw(st.integers(0, 150)))
        ]
        for _ in range(2)
    ]
    return space, random, groups


def value_of(kind: BaseDistribution, share: float) -> float:
    """Returns the value that so much of a range is below, as the estimator wants it."""
    if isinstance(kind, CategoricalDistribution):
        return float(min(int(share * len(kind.choices)), len(kind.choices) - 1))
    assert isinstance(kind, FloatDistribution | IntDistribution)
    value = kind.low + share * (kind.high - kind.low)
    return float(round(value)) if isinstance(kind, IntDistribution) else min(value, kind.high)


def optunas(space: Space, trials: list[list[float]]) -> _ParzenEstimator:
    """Returns Optuna's estimator of the same trials."""
    table = np.array(trials).reshape(len(trials), len(space))
    columns = {name: table[:, place] for place, name in enumerate(space)}
    return _ParzenEstimator(columns, space, PARAMETERS)


@settings(max_examples=200)
@given(known())
def test_draws_and_densities_are_optunas(
    given_: tuple[Space, np.random.RandomState, list[list[list[float]]]],
) -> None:
    """What is drawn, and the densities there of both groups, are those of Optuna's estimators."""
    space, random, groups = given_
    seed = random.randint(2**31)
    ours = tpe.ParzenEstimators(list(space.values()), groups)
    theirs = [optunas(space, trials) for trials in groups]
    points = ours.draw(np.random.RandomState(seed), 24)
    drawn = theirs[0].sample(np.random.RandomState(seed), 24)
    for place, name in enumerate(space):
        np.testing.assert_allclose(points[:, place], drawn[name], rtol=1e-7, err_msg=name)
    for found, density in zip(ours.log_densities(points), theirs, strict=True):
        at = {name: points[:, place] for place, name in enumerate(space)}
        np.testing.assert_allclose(found, density.log_pdf(at), rtol=1e-6, atol=1e-6)


@given(st.integers(0, 2000))
def test_as_many_are_good_as_optuna_takes_for_good(count: int) -> None:
    """Of however many trials, the number that counts as good is Optuna's."""
    assert tpe.good_of(count) == default_gamma(count)


def test_a_proposal_is_where_the_good_are_and_the_others_are_not() -> None:
    """With the good trials in one corner of a space and the others elsewhere, it is that corner."""
    space: Space = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "units": IntDistribution(16, 128, log=True),
        "cell": CategoricalDistribution(("rnn", "lstm", "gru")),
    }
    random = np.random.RandomState(0)
    good = [[10 ** random.uniform(-2.2, -1.8), random.randint(60, 70), 2.0] for _ in range(10)]
    others = [[10 ** random.uniform(-4, 0), random.randint(16, 128), i % 2] for i in range(90)]
    proposed = [tpe.propose(space, good, others, seed) for seed in range(40)]
    assert sum(one["cell"] == "gru" for one in proposed) >= 36
    assert sum(0.005 < one["rate"] < 0.02 for one in proposed) >= 30
    assert sum(50 < one["units"] < 80 for one in proposed) >= 30
    assert all(isinstance(one["units"], int) for one in proposed)


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("power", [9, 12, 14])
def test_whole_numbers_may_be_many(power: int, log: bool) -> None:
    """In ranges so long that a whole number is nothing in them, densities are those of reals."""
    low, high = 1, 10**power
    random = np.random.RandomState(0)
    trials = [[value_of(IntDistribution(low, high), random.rand())] for _ in range(30)]
    points = np.array([[value_of(IntDistribution(low, high), random.rand())] for _ in range(24)])
    kinds = IntDistribution(low, high, log), FloatDistribution(low - 0.5, high + 0.5, log)
    whole, real = (
        tpe.ParzenEstimators([kind], [trials]).log_densities(points)[0] for kind in kinds
    )
    if log:  # A number's cell is the shorter the larger it is.
        real = real - np.log(points[:, 0])
    np.testing.assert_allclose(whole, real, atol=1e-5)


@pytest.mark.parametrize("outside", [512, 10**9, 1, -5, float("inf")])
def test_a_number_outside_its_range_counts_as_the_nearest(outside: float) -> None:
    """Trials that somebody enqueued with a number out of range lead to its end, not astray."""
    space: Space = {
        "units": IntDistribution(16, 128),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
    }
    random = np.random.RandomState(0)
    others = [[random.randint(16, 129), 10 ** random.uniform(-4, 0)] for _ in range(60)]
    beyond = tpe.coordinates(space, {"units": outside, "rate": 0.01})
    end = 128 if outside > 128 else 16
    assert beyond == [end, 0.01]
    good = [tpe.propose(space, [beyond] * 6, others, seed)["units"] for seed in range(20)]
    assert sum(abs(units - end) < 10 for units in good) >= 15
    bad = [tpe.propose(space, others[:6], [*others[6:], *[beyond] * 6], seed) for seed in range(20)]
    assert len({one["rate"] for one in bad}) == 20


@pytest.mark.parametrize(
    "params",
    [
        {"rate": 0.1},
        {},
        {"cell": "gru", "other": 1},
        {"rate": float("nan"), "cell": "gru"},
        {"rate": 0.1, "cell": "transformer"},
        {"rate": 0.0, "cell": "rnn"},
    ],
)
def test_a_trial_without_such_values_has_no_coordinates(params: dict[str, Any]) -> None:
    """A trial of somebody's script that lacks a value, or has one that cannot be, has none."""
    space: Space = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "cell": CategoricalDistribution(("rnn", "gru")),
    }
    assert tpe.coordinates(space, params) is None
    assert tpe.coordinates(space, {"rate": 0.5, "cell": "gru", "more": 3}) == [0.5, 1.0]


def test_an_estimate_takes_one_thread() -> None:
    """To propose starts no thread beside those that train, in a process that has none yet."""
    code = (
        "import numpy, os, search.training\n"
        "from optuna.distributions import IntDistribution\n"
        "from search import tpe\n"
        "space = {str(n): IntDistribution(1, 10**6) for n in range(5)}\n"
        "trials = numpy.random.RandomState(0).randint(1, 10**6, size=(1000, 5)).tolist()\n"
        "before = os.listdir('/proc/self/task')\n"
        "tpe.propose(space, trials[:25], trials[25:], 0)\n"
        "print(len(os.listdir('/proc/self/task')) - len(before))\n"
    )
    free = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    started = subprocess.check_output([sys.executable, "-c", code], text=True, env=free)
    assert int(started) == 0
