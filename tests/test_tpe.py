"""The estimator is Optuna's: the same draws, the same densities, and so the same proposals."""

from __future__ import annotations

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
    lows = st.integers(1, 1000) if whole else st.floats(1e-6, 1e3)
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
            for _ in range(draw(st.integers(0, 60)))
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


@settings(max_examples=200, deadline=None)
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


@pytest.mark.parametrize("params", [{"rate": 0.1}, {}, {"cell": "gru", "other": 1}])
def test_a_trial_that_lacks_a_value_is_no_kernel(params: dict[str, Any]) -> None:
    """A trial of somebody's script that has not all parameters has no coordinates."""
    space: Space = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "cell": CategoricalDistribution(("rnn", "gru")),
    }
    assert tpe.coordinates(space, params) is None
    assert tpe.coordinates(space, {"rate": 0.5, "cell": "gru", "more": 3}) == [0.5, 1.0]
