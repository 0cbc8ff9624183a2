"""Which trials can train together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from networks import hyper

from search.cohorts import cohorts, gains_in_lanes, shape_of
from search.space import HyperParams

trials = st.lists(
    st.builds(
        lambda cell, layers, units, rows: hyper(
            cell=cell, hidden_layers=layers, hidden_units=units, batch_size=rows
        ),
        st.sampled_from(["rnn", "gru", "lstm"]),
        st.integers(1, 3),
        st.integers(1, 130),
        st.sampled_from([5, 16, 32, 64, 100]),
    ),
    max_size=30,
)


@given(trials, st.integers(1, 8), st.booleans())
def test_every_trial_is_in_one_cohort(
    params: list[HyperParams], capacity: int, exact: bool
) -> None:
    """Cohorts part the trials, none is too large, and each trial fits into its cohort's shape."""
    found = cohorts(params, capacity, exact=exact)
    assert sorted(at for one in found for at in one.members) == list(range(len(params)))
    for one in found:
        assert 1 <= len(one.members) <= capacity
        assert all(one.shape.holds(params[at]) for at in one.members)


@given(trials, st.integers(1, 8))
def test_an_exact_shape_is_each_members_own(params: list[HyperParams], capacity: int) -> None:
    """Where bits count, no trial is widened for another's sake, whatever others there are."""
    for one in cohorts(params, capacity, exact=True):
        assert {shape_of(params[at]) for at in one.members} == {one.shape}


@given(trials)
def test_as_few_cohorts_as_can_be(params: list[HyperParams]) -> None:
    """With room enough there is a cohort for each shape, or each cell and number of layers."""
    exact, wide = (cohorts(params, 100, exact=exact) for exact in (True, False))
    assert len(exact) == len({shape_of(one) for one in params})
    assert len(wide) == len({(one.cell, one.hidden_layers) for one in params})


def test_shapes_are_rounded_up() -> None:
    """Units and rows are the next multiples of 16."""
    shape = shape_of(hyper(hidden_units=17, batch_size=16))
    assert (shape.units, shape.rows) == (32, 16)


def test_only_small_trials_gain_in_lanes() -> None:
    """What was measured to gain trains in lanes; an LSTM and whatever is larger does not."""
    small = hyper(cell="gru", hidden_units=48, batch_size=32, hidden_layers=1)
    assert gains_in_lanes(small, steps=26, outputs=9)
    assert gains_in_lanes(replace(small, cell="rnn", hidden_units=64), steps=26, outputs=9)
    assert not gains_in_lanes(replace(small, cell="lstm"), steps=26, outputs=9)
    assert not gains_in_lanes(replace(small, hidden_units=49), steps=1, outputs=1)
    assert not gains_in_lanes(replace(small, batch_size=128), steps=24, outputs=1)
    assert not gains_in_lanes(replace(small, hidden_layers=2), steps=26, outputs=1)
    assert not gains_in_lanes(small, steps=1000, outputs=1)
    assert not gains_in_lanes(replace(small, batch_size=16), steps=24, outputs=2000)
