"""Which trials can train together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from networks import hyper

from search.lane_shapes import shape_of
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


@given(trials)
def test_a_shape_that_holds_all(params: list[HyperParams]) -> None:
    """Each is held by its own shape; a shape with room for others of its kind holds these, too."""
    for one in params:
        own = shape_of(one)
        assert own.holds(one)
        for other in params:
            same = (one.cell, one.hidden_layers) == (other.cell, other.hidden_layers)
            assert own.with_room_for(shape_of(other)).holds(other) == same
            assert own.holds(other) <= same


def test_shapes_are_rounded_up() -> None:
    """Units and rows are the next multiples of 16."""
    shape = shape_of(hyper(hidden_units=17, batch_size=16))
    assert (shape.units, shape.rows) == (32, 16)
