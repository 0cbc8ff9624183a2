"""What a study tries: first the lesson's values, and never anything outside its space."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dimensions import dimensions
from tiny import tiny_config

from search.dimensions import HYPERPARAMETERS, Choices, Dimension, Fixed, Range, Value
from search.errors import ConfigError
from search.space import (
    HyperParams,
    differences,
    distributions,
    fit_to_data,
    is_inside,
    ordered,
    settled,
    starting_points,
    suggest,
    untried,
)

DEFAULT: dict[str, Dimension] = {name: known.default for name, known in HYPERPARAMETERS.items()}
ODD: dict[str, Dimension] = {
    **DEFAULT,
    "learning_rate": Range(0.02, 0.05, log=True),
    "batch_size": Choices((10, 50)),
    "epochs": Range(20, 30),
    "hidden_layers": Fixed(2),
    "cell": Choices(("rnn", "gru")),
    "dropout": Range(0.1, 0.2),
}


@st.composite
def spaces(draw: st.DrawFn) -> dict[str, Dimension]:
    """Draws a space of which any dimension may be odd."""
    return DEFAULT | dict(draw(st.lists(dimensions(), max_size=6)))


def proposals(space: dict[str, Dimension], count: int) -> list[tuple[HyperParams, dict[str, Any]]]:
    """Returns hyperparameters of random trials, each with what Optuna has stored of it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(count)]
    return [(suggest(trial, space), trial.params) for trial in trials]


@settings(max_examples=40)
@given(spaces())
def test_what_is_settled_is_what_optuna_would_store(space: dict[str, Dimension]) -> None:
    """Whole values that fit come to what Optuna stores; with one less, or one wrong, to nothing."""
    for params, stored in proposals(space, 2):
        found = settled(stored, space)
        assert found == stored
        assert {name: type(value) for name, value in found.items()} == {
            name: type(value) for name, value in stored.items()
        }
        assert HyperParams.of(ordered(found, space)) == params
        for name in stored:
            assert settled({key: stored[key] for key in stored if key != name}, space) is None
            assert settled({**stored, name: "nothing"}, space) is None
            for wrong in (-1e9, None, [1], float("nan"), float("inf")):
                assert settled({**stored, name: wrong}, space) is None
            nearly = stored[name] * (1 + 1e-10) if isinstance(stored[name], float) else stored[name]
            if isinstance(space[name], Choices) and nearly != stored[name]:
                assert settled({**stored, name: nearly}, space) is None


def test_the_first_trial_is_the_lessons() -> None:
    """The first point is rate 0.01, batch 32, 12 epochs, one layer; then come 0.1 and 0.001."""
    first, second, third = starting_points(DEFAULT)[:3]
    lesson = {"learning_rate": 0.01, "batch_size": 32, "epochs": 12, "hidden_layers": 1}
    off = {"dropout": 0.0, "weight_decay": 0.0, "gradient_clipping": 0.0}
    assert first.items() >= (lesson | off).items()
    assert second == first | {"learning_rate": 0.1}
    assert third == first | {"learning_rate": 0.001}
    assert list(first) == list(DEFAULT)


def test_the_portfolio_follows_where_it_fits() -> None:
    """Three points with GRU and Adam come after the lesson's; else there are none."""
    points = starting_points(DEFAULT)
    assert len(points) == 6
    assert all((point["cell"], point["optimizer"]) == ("gru", "adam") for point in points[3:])
    for name, value in (("cell", "lstm"), ("optimizer", "sgd")):
        for dimension in (Choices((value,)), Fixed(value)):
            assert len(starting_points(DEFAULT | {name: dimension})) == 3
    assert len(starting_points(DEFAULT | {"cell": Fixed("gru")})) == 6
    assert len(starting_points(DEFAULT | {"heads": Choices((1, 2))})) == 3


def test_starting_points_are_clipped_and_listed_once() -> None:
    """In an odd space the points are the nearest inside it, without those that became equal."""
    points = starting_points(ODD)
    assert [point["learning_rate"] for point in points] == [0.02, 0.05, 0.04, 0.03, 0.02]
    assert all("hidden_layers" not in point for point in points)
    inside = {"batch_size": 50, "epochs": 20, "cell": "rnn", "dropout": 0.1, "hidden_units": 64}
    assert all(point.items() >= inside.items() for point in points[:2])
    assert starting_points(
        {name: Fixed(known.start) for name, known in HYPERPARAMETERS.items()}
    ) == [{}]


@given(spaces())
def test_starting_points_are_in_the_space(space: dict[str, Dimension]) -> None:
    """Up to six points, all different, each of the right types and inside every dimension."""
    points = starting_points(space)
    assert 1 <= len(points) <= 6
    assert all(points.count(point) == 1 for point in points)
    searched = [name for name in space if not isinstance(space[name], Fixed)]
    for point in points:
        assert list(point) == searched
        for name, value in point.items():
            assert type(value) is HYPERPARAMETERS[name].kind
            assert is_inside(value, space[name])


def next_starting_point(
    space: dict[str, Dimension], tried: Iterable[dict[str, Value]]
) -> dict[str, Value] | None:
    """Returns the first starting point that was not tried."""
    return next(iter(untried(starting_points(space), tried)), None)


@given(spaces())
def test_no_starting_point_comes_twice(space: dict[str, Dimension]) -> None:
    """Asked again and again, with what was tried, each point comes once and in order."""
    tried: list[dict[str, Value]] = []
    while (point := next_starting_point(space, tried)) is not None:
        assert point not in tried
        tried.append(point)
    assert tried == starting_points(space)
    assert next_starting_point(space, reversed(tried)) is None


def test_a_truth_value_is_no_number() -> None:
    """A point with true is not tried by one with 1, which Python takes for the same."""
    for value, other in ((True, 1), (1, True), (False, 0.0), ("1", 1)):
        assert untried([{"x": value}], [{"x": other}]) == [{"x": value}]
        assert untried([{"x": value}], [{"x": value}]) == []


def test_a_point_is_tried_whoever_tried_it() -> None:
    """A point counts as tried among other trials, in another order, and up to rounding."""
    first, second, third = starting_points(DEFAULT)[:3]
    other = first | {"cell": "rnn"}
    again = dict(reversed((first | {"learning_rate": 0.01 * (1 + 1e-15)}).items()))
    assert next_starting_point(DEFAULT, [other]) == first
    assert next_starting_point(DEFAULT, [other, again]) == second
    assert next_starting_point(DEFAULT, [second, first]) == third
    assert next_starting_point(DEFAULT, [{}, {"learning_rate": 0.01}]) == first


@settings(max_examples=40)
@given(spaces())
def test_what_is_suggested_is_inside(space: dict[str, Dimension]) -> None:
    """Suggested values are of the right types and inside; Optuna stores just the searched ones."""
    made = distributions(space)
    assert list(made) == [name for name in space if not isinstance(space[name], Fixed)]
    for params, stored in proposals(space, 5):
        assert stored.keys() == made.keys()
        assert ordered(dict(reversed(stored.items())), space) == params.to_dict()
        assert list(ordered(stored, space)) == list(space)
        for name, value in params.to_dict().items():
            assert type(value) is HYPERPARAMETERS[name].kind
            assert is_inside(value, space[name])
            if name in made:
                assert made[name]._contains(made[name].to_internal_repr(value))


@given(spaces())
def test_starting_points_can_be_suggested(space: dict[str, Dimension]) -> None:
    """Optuna proposes a starting point as it is, and the fixed values come along."""
    for point in starting_points(space):
        params = suggest(optuna.trial.FixedTrial(point), space)
        assert params.to_dict().items() >= point.items()


def test_a_trial_killed_early_is_ordered_all_the_same() -> None:
    """Values that were never drawn are left out, not made up."""
    known = ordered({"epochs": 20, "learning_rate": 0.03}, ODD)
    assert known == {"learning_rate": 0.03, "epochs": 20, "hidden_layers": 2}
    assert list(known) == ["learning_rate", "epochs", "hidden_layers"]


def test_what_a_trial_had_comes_before_what_is_fixed() -> None:
    """A trial whose value is another than the one that is fixed now has had its own."""
    known = ordered({"hidden_layers": 1, "epochs": 20}, ODD)
    assert known == {"epochs": 20, "hidden_layers": 1}


@pytest.mark.parametrize(
    ("value", "dimension", "inside"),
    [
        (4, Range(4, 8), True),
        (8, Range(4, 8), True),
        (9, Range(4, 8), False),
        (3.999, Range(4, 8), False),
        (5.5, Range(4, 8), False),
        (5.0, Range(4, 8), True),
        (5.5, Range(4.0, 8.0), True),
        (16, Choices((16, 32)), True),
        (24, Choices((16, 32)), False),
        (0.0, Choices((1e-5, 1e-4)), False),
        ("gru", Choices(("gru", "rnn")), True),
        ("lstm", Choices(("gru", "rnn")), False),
        (0.1, Fixed(0.1), True),
        (0.2, Fixed(0.1), False),
        ("gru", Fixed("gru"), True),
        ("gru", Range(4, 8), False),
        (4, Fixed("gru"), False),
        (4, Choices(("gru", "rnn")), False),
        ("gru", Choices((16, 32)), False),
    ],
)
def test_what_is_inside(value: Value, dimension: Dimension, inside: bool) -> None:
    """Inside is what could have been proposed: ends included, words and numbers apart."""
    assert is_inside(value, dimension) is inside


def test_batch_sizes_are_fitted_to_the_data(tmp_path: Path) -> None:
    """Default batch sizes above the training part are left out, with a note that says so."""
    config = tiny_config(tmp_path, space={})
    same, notes = fit_to_data(config, 128)
    assert (same, notes) == (config, [])
    for size, left in ((127, Choices((16, 32, 64))), (32, Choices((16, 32)))):
        fitted, notes = fit_to_data(config, size)
        assert fitted.space == config.space | {"batch_size": left}
        assert any(str(size) in note for note in notes)
    for size, largest in ((31, 16), (16, 16), (7, 7), (1, 1)):
        fitted, _ = fit_to_data(config, size)
        assert fitted.space["batch_size"] == Fixed(largest)
        assert suggest(optuna.trial.FixedTrial(starting_points(fitted.space)[0]), fitted.space)


@pytest.mark.parametrize("written", [[16, 64], {"low": 8, "high": 64}, 64, {"fixed": 64}])
def test_batch_sizes_of_the_file_are_not_touched(written: object, tmp_path: Path) -> None:
    """A batch size of the study file that is larger than the training part is refused."""
    config = tiny_config(tmp_path, space={"batch_size": written})
    assert fit_to_data(config, 64) == (config, [])
    with pytest.raises(ConfigError, match=r"64 is larger than the training part \(63 examples\)"):
        fit_to_data(config, 63)


@pytest.mark.parametrize(
    ("rate", "note"),
    [
        ({"low": 1e-4, "high": 1.0}, None),
        ([0.01, 0.1], None),
        ({"fixed": 0.003}, "fixed at 0.003"),
        ({"low": 0.02, "high": 1.0}, "do not contain 0.01; starting at 0.02"),
        ([0.001, 0.1], "do not contain 0.01; starting at 0.001"),
    ],
)
def test_learning_rates_without_the_lessons_are_said(
    rate: object, note: str | None, tmp_path: Path
) -> None:
    """A learning rate that is fixed, or a range without 0.01, is allowed but said."""
    _, notes = fit_to_data(tiny_config(tmp_path, space={"learning_rate": rate}), 1000)
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


def test_differences_are_named() -> None:
    """What differs is named by section and key, both ways, and equal configurations have none."""
    old = {"seed": 1, "data": {"window": 8, "path": "a"}, "space": {"epochs": {"low": 1}}}
    new = {"seed": 1, "data": {"window": 9, "path": "a"}, "space": {"epochs": 3}, "metric": "x"}
    assert differences(old, old) == []
    assert differences(old, new) == [
        "[data] window: 8 → 9",
        "metric: not set → x",
        "[space] epochs: {'low': 1} → 3",
    ]
    assert len(differences(new, old)) == 3


def test_an_own_entry_of_another_kind_differs() -> None:
    """Whole numbers and fractions that are equal are not the same entry, of one's own entries."""
    old: dict[str, Any] = {"heads": {"low": 1, "high": 5}, "gate": [True, False], "dropout": 0}
    new: dict[str, Any] = {"heads": {"high": 5.0, "low": 1.0}, "gate": [1, 0], "dropout": 0.0}
    found = differences({"space": old}, {"space": new})
    assert [line.split(":")[0] for line in found] == ["[space] gate", "[space] heads"]
    turned = {"space": {**old, "heads": {"high": 5, "low": 1}}}
    assert differences({"space": old}, turned) == []
