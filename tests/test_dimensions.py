"""What a study file may say of a hyperparameter, and how it is understood."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.dimensions import (
    HYPERPARAMETERS,
    Choices,
    Dimension,
    Fixed,
    Range,
    Value,
    parse_dimension,
)

NUMBERS = [name for name, known in HYPERPARAMETERS.items() if known.kind is not str]
WORDS = [name for name, known in HYPERPARAMETERS.items() if known.kind is str]


def values_of(name: str) -> st.SearchStrategy[Value]:
    """Returns values that make sense for a hyperparameter."""
    known = HYPERPARAMETERS[name]
    if known.kind is str:
        return st.sampled_from(known.allowed)
    top = min(known.below, 1000)
    if known.kind is int:
        return st.integers(int(known.minimum), int(top) - 1)
    return st.floats(known.minimum, top, exclude_min=known.above, exclude_max=True)


@st.composite
def dimensions(draw: st.DrawFn) -> tuple[str, Dimension]:
    """Draws the name of a hyperparameter and a dimension that makes sense for it."""
    name = draw(st.sampled_from(list(HYPERPARAMETERS)))
    values = draw(st.lists(values_of(name), min_size=2, max_size=5, unique=True))
    shapes: list[Dimension] = [Fixed(values[0]), *([Choices(tuple(values))] * (len(values) > 1))]
    if name in NUMBERS:
        numbers = sorted(float(value) for value in values)
        shapes.append(Range(numbers[0], numbers[-1], numbers[0] > 0 and draw(st.booleans())))
    return name, draw(st.sampled_from(shapes))


@given(dimensions())
def test_what_is_written_is_read_again(named: tuple[str, Dimension]) -> None:
    """A dimension in the form of a study file is understood as the same dimension."""
    name, dimension = named
    assert parse_dimension(name, dimension.to_toml()) == dimension


@given(dimensions(), st.floats(-1e3, 1e3) | st.sampled_from(["adam", "lstm", "none"]))
def test_clipping_gives_the_nearest_inside(named: tuple[str, Dimension], wanted: Value) -> None:
    """A clipped value is inside, none inside is nearer, and clipping it again changes nothing."""
    name, dimension = named
    if isinstance(wanted, str) != (name in WORDS):
        return
    clipped = dimension.clip(wanted)
    assert dimension.clip(clipped) == clipped
    if isinstance(dimension, Range):
        assert dimension.low <= clipped <= dimension.high
        assert clipped in (wanted, dimension.low, dimension.high)
        assert clipped == wanted or not dimension.low <= wanted <= dimension.high
    else:
        inside = dimension.values if isinstance(dimension, Choices) else (dimension.value,)
        assert clipped in inside
        if name in WORDS:
            assert clipped == wanted or wanted not in inside
        else:
            assert abs(clipped - wanted) == min(abs(value - wanted) for value in inside)


def test_every_default_makes_sense() -> None:
    """Each default is a searched dimension, which a study file could have given just so."""
    for name, known in HYPERPARAMETERS.items():
        assert not isinstance(known.default, Fixed)
        assert parse_dimension(name, known.default.to_toml()) == known.default
        assert parse_dimension(name, known.default) is known.default
        assert parse_dimension(name, {"fixed": known.start}) == Fixed(known.start)
        assert type(known.start) is known.kind


def test_the_defaults_are_those_of_the_design() -> None:
    """The default space is the design's, its learning rates centred on 0.01."""
    rate = HYPERPARAMETERS["learning_rate"].default
    assert isinstance(rate, Range)
    assert rate.log
    assert math.sqrt(rate.low * rate.high) == pytest.approx(0.01)
    assert HYPERPARAMETERS["batch_size"].default == Choices((16, 32, 64, 128))
    assert HYPERPARAMETERS["epochs"].default == Range(4, 36)
    assert HYPERPARAMETERS["hidden_layers"].default == Range(1, 3)
    assert HYPERPARAMETERS["cell"].default == Choices(("rnn", "lstm", "gru"))
    assert HYPERPARAMETERS["optimizer"].default == Choices(("adam", "sgd", "rmsprop", "adagrad"))
    assert HYPERPARAMETERS["decay"].default == Choices(("none", "step", "exponential", "plateau"))
    starts = {name: known.start for name, known in HYPERPARAMETERS.items()}
    off = {"dropout": 0.0, "weight_decay": 0.0, "gradient_clipping": 0.0}
    assert starts.items() >= off.items()


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("dropout", 0.3, Fixed(0.3)),
        ("dropout", 0, Fixed(0.0)),
        ("cell", "gru", Fixed("gru")),
        ("cell", ["gru"], Fixed("gru")),
        ("batch_size", {"fixed": 8}, Fixed(8)),
        ("batch_size", 8.0, Fixed(8)),
        ("learning_rate", {"low": 1e-3, "high": 0.1}, Range(1e-3, 0.1, log=True)),
        ("learning_rate", {"low": 1e-3, "high": 0.1, "log": False}, Range(1e-3, 0.1)),
        ("hidden_units", {"low": 4, "high": 8}, Range(4, 8)),
        ("learning_rate", [0.01, 0.1], Choices((0.01, 0.1))),
        ("learning_rate", {"fixed": 0.003}, Fixed(0.003)),
    ],
)
def test_what_can_be_written(name: str, written: object, meant: Dimension) -> None:
    """Ranges, lists and fixed values are understood, in the hyperparameter's own type."""
    read = parse_dimension(name, written)
    assert read == meant
    if isinstance(read, Fixed):
        assert type(read.value) is HYPERPARAMETERS[name].kind


@pytest.mark.parametrize(
    ("name", "written", "why"),
    [
        ("learning_rate", 0.01, "must always be searched"),
        ("learning_rate", [0.01], "must always be searched"),
        ("learning_rate", {"low": 0, "high": 1}, "logarithmic range needs low > 0"),
        ("learning_rate", {"fixed": 0}, "above 0"),
        ("epochs", {"low": 5, "high": 5}, "low must be less than high"),
        ("epochs", {"low": 9, "high": 5}, "low must be less than high"),
        ("epochs", {"low": 0, "high": 5}, "at least 1"),
        ("epochs", {"low": 1.5, "high": 5}, "not a whole number"),
        ("epochs", {"low": 1, "hi": 5}, "has 'hi', which is none of low"),
        ("epochs", {"high": 5}, "must be"),
        ("epochs", {}, "must be"),
        ("epochs", {"fixed": 3, "low": 1}, "has 'fixed', which is none of low"),
        ("epochs", {"low": 1, "high": 5, "log": 1}, "true or false"),
        ("epochs", "many", "not a number"),
        ("epochs", True, "not a number"),
        ("epochs", None, "not a number"),
        ("dropout", 1.0, "below 1"),
        ("dropout", {"low": 0.0, "high": 0.5, "log": True}, "low > 0"),
        ("dropout", math.nan, "not a number"),
        ("weight_decay", math.inf, "finite"),
        ("weight_decay", {"fixed": 10**400}, "finite"),
        ("epochs", {"low": 1, "high": -(10**400)}, "finite"),
        ("own", [1, 10**400], "must be finite, and a whole number at most 2\\^53"),
        ("own", {"low": 1, "high": 10**400, "log": True}, "must be finite"),
        ("own", {"low": 10**400, "high": 1, "log": True}, "must be finite"),
        ("weight_decay", -1e-3, "at least 0"),
        ("batch_size", [], "empty"),
        ("batch_size", [16, 16], "twice"),
        ("batch_size", [16, "32"], "not a number"),
        ("cell", "LSTM", "not one of rnn, lstm, gru"),
        ("cell", {"low": 1, "high": 2}, "is a word"),
        ("cell", 3, "not one of"),
        ("optimizer", ["adam", "lion"], "'lion' is not one of"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, written: object, why: str) -> None:
    """What cannot be searched is refused, on one line that says why."""
    with pytest.raises(ValueError, match=why) as caught:
        parse_dimension(name, written)
    assert "\n" not in str(caught.value)
