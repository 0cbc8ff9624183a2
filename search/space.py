"""The space of a study: Optuna distributions, one trial's hyperparameters, the starting points.

Optuna is imported inside the functions that need it, because trainers read `HyperParams` from
here and have no use for the rest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from search.config import StudyConfig
from search.dimensions import (
    HYPERPARAMETERS,
    Choices,
    Dimension,
    Fixed,
    Range,
    Value,
    kind_of,
    start_of,
)
from search.errors import ConfigError, nearest

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

LEARNING_RATES = (0.01, 0.1, 0.001)
"""The first three trials of a study; the lesson's "good starting point" and a decade either side
(Bengio 2012, arXiv 1206.5533, section 3.1, page 9)."""

PORTFOLIO: tuple[dict[str, Value], ...] = (
    {"learning_rate": 0.04, "hidden_units": 48, "weight_decay": 1e-5, "gradient_clipping": 1.0},
    {
        "learning_rate": 0.03,
        "hidden_layers": 2,
        "hidden_units": 32,
        "dropout": 0.2,
        "weight_decay": 1e-4,
    },
    {
        "batch_size": 16,
        "hidden_layers": 2,
        "decay": "plateau",
        "dropout": 0.3,
        "weight_decay": 1e-4,
        "gradient_clipping": 1.0,
    },
)
"""What the next three trials have instead of the lesson's values, besides `PORTFOLIO_SHARED`; the
cheapest first. Chosen on tables of learning curves, see `studies/LOG.md`."""
PORTFOLIO_SHARED: dict[str, Value] = {"cell": "gru", "optimizer": "adam", "epochs": 24}


LIMITED = "batch sizes limited"
"""How the note begins on a space that data have limited."""


class Extra(Mapping[str, Value]):
    """The values of a study's own entries in ``[space]``, by name.

    Args:
        values: Pairs of name and value.
    """

    def __init__(self, values: Iterable[tuple[str, Value]]) -> None:
        self._values = dict(values)

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            known = nearest(name, self._values) if self._values else "; it has none of its own"
            raise KeyError(f"[space] has no entry '{name}'{known}")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class HyperParams:
    """What one network is built and trained with; the names are those of the study file.

    Attributes:
        own: Names and values of the study's own entries, by name; see `extra`.
    """

    learning_rate: float
    batch_size: int
    epochs: int
    hidden_layers: int
    hidden_units: int
    cell: str
    optimizer: str
    decay: str
    dropout: float
    weight_decay: float
    gradient_clipping: float
    own: tuple[tuple[str, Value], ...] = ()

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Returns the hyperparameters with these values by name, the study's own among them."""
        known = {name: values[name] for name in values if name in HYPERPARAMETERS}
        own = sorted((name, values[name]) for name in values if name not in HYPERPARAMETERS)
        return cls(**known, own=tuple(own))

    @property
    def extra(self) -> Mapping[str, Value]:
        """The values of the study's own entries in ``[space]``, by name."""
        return Extra(self.own)

    def to_dict(self) -> dict[str, Value]:
        """Returns all values by name, the study's own last; `of` reads them."""
        known = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "own"}
        return known | dict(self.own)


def distributions(space: Mapping[str, Dimension]) -> dict[str, BaseDistribution]:
    """Returns Optuna's distribution of every dimension that is searched, by name."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    made: dict[str, BaseDistribution] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Choices):
            made[name] = CategoricalDistribution(dimension.values)
        elif isinstance(dimension, Range) and kind_of(name, dimension) is int:
            made[name] = IntDistribution(int(dimension.low), int(dimension.high), dimension.log)
        elif isinstance(dimension, Range):
            made[name] = FloatDistribution(dimension.low, dimension.high, dimension.log)
    return made


def suggest(trial: Trial, space: Mapping[str, Dimension]) -> HyperParams:
    """Asks ``trial`` for every searched dimension and fills in the fixed ones."""
    values: dict[str, Any] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Fixed):
            values[name] = dimension.value
        elif isinstance(dimension, Choices):
            values[name] = trial.suggest_categorical(name, dimension.values)
        elif kind_of(name, dimension) is int:
            ends = int(dimension.low), int(dimension.high)
            values[name] = trial.suggest_int(name, *ends, log=dimension.log)
        else:
            values[name] = trial.suggest_float(
                name, dimension.low, dimension.high, log=dimension.log
            )
    return HyperParams.of(values)


def ordered(params: Mapping[str, Any], space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Returns a stored trial's values and the fixed ones, in the study file's order.

    A value is missing if a run was killed before it was drawn.
    """
    fixed = {name: d.value for name, d in space.items() if isinstance(d, Fixed)}
    known = {**fixed, **params}
    return {name: known[name] for name in space if name in known}


def is_inside(value: Value, dimension: Dimension) -> bool:
    """True if a trial with this value could have been proposed from ``dimension``."""
    if not _like(value, dimension):
        return False
    whole = isinstance(dimension, Range) and isinstance(dimension.low, int)
    return _equal(value, dimension.clip(value)) and (not whole or float(value).is_integer())


def fits(params: Mapping[str, Value], space: Mapping[str, Dimension]) -> bool:
    """True if a trial with these values, the fixed ones too, could be one of this space."""
    if params.keys() != space.keys():
        return False
    return all(is_inside(params[name], dimension) for name, dimension in space.items())


def settled(given: Mapping[str, Any], space: Mapping[str, Dimension]) -> dict[str, Any] | None:
    """Returns the searched values if they are all given and fit the space, as `suggest` would.

    Returns:
        None if something is missing or does not fit.
    """
    try:
        if not fits(ordered(given, space), space):
            return None
        return {
            name: kind.to_external_repr(kind.to_internal_repr(given[name]))
            for name, kind in distributions(space).items()
        }
    except (ValueError, TypeError, OverflowError):  # No number, or nearly a choice, but not quite.
        return None


def starting_points(space: Mapping[str, Dimension]) -> list[dict[str, Value]]:
    """Returns what a study tries first, in order: the lesson's values, then `PORTFOLIO`.

    The lesson's come at three learning rates; the portfolio where the space has its cell and its
    optimizer, and no entries of the user's own, of which it knows nothing. A value outside its
    dimension is replaced by the nearest inside; points that become equal by this are listed once.
    Only searched dimensions are named. For own entries see `search.dimensions.start_of`.
    """
    changes: list[dict[str, Value]] = [{"learning_rate": rate} for rate in LEARNING_RATES]
    if _suits_portfolio(space):
        changes += [PORTFOLIO_SHARED | point for point in PORTFOLIO]
    points: list[dict[str, Value]] = []
    for change in changes:
        point = {
            name: HYPERPARAMETERS[name].kind(dimension.clip(change[name]))
            if name in change
            else start_of(name, dimension)
            for name, dimension in space.items()
            if not isinstance(dimension, Fixed)
        }
        if point not in points:
            points.append(point)
    return points


def _suits_portfolio(space: Mapping[str, Dimension]) -> bool:
    words = ("cell", "optimizer")
    return space.keys() <= HYPERPARAMETERS.keys() and all(
        name in space and is_inside(PORTFOLIO_SHARED[name], space[name]) for name in words
    )


def untried(
    points: Iterable[dict[str, Value]], tried: Iterable[Mapping[str, Any]]
) -> list[dict[str, Value]]:
    """Returns the starting points, in order, that are not among the ``tried`` parameters."""
    left = list(points)
    for other in tried if left else ():
        left = [point for point in left if not same(point, other)]
    return left


def same(point: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if ``other`` has every value of ``point``."""
    return all(name in other and _equal(value, other[name]) for name, value in point.items())


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, (str, bool)) or isinstance(other, (str, bool)):
        return type(one) is type(other) and one == other
    return math.isclose(one, other, rel_tol=1e-9)


def _like(value: Value, dimension: Dimension) -> bool:
    """True if value and dimension are both words, both truth values or both numbers."""
    inside = dimension.values[0] if isinstance(dimension, Choices) else dimension.clip(0)
    return all(isinstance(value, kind) == isinstance(inside, kind) for kind in (str, bool))


def fit_to_data(config: StudyConfig, train_size: int) -> tuple[StudyConfig, list[str]]:
    """Checks the batch sizes against the size of the training part.

    Args:
        config: The study's configuration.
        train_size: Number of examples in the training part.

    Returns:
        The configuration, with the default batch sizes limited to the training part, and notes
        that a person should read.

    Raises:
        ConfigError: A batch size that the study file gives is larger than the training part.
    """
    notes = _remarks(config.space)
    dimension = config.space["batch_size"]
    largest = _largest(dimension)
    if largest <= train_size:
        return config, notes
    if "batch_size" in config.given:
        raise ConfigError(
            f"study {config.name}: [space] batch_size: {largest} is larger than the training part "
            f"({train_size} examples); use batch sizes up to {train_size}"
        )
    default = HYPERPARAMETERS["batch_size"].default
    values = default.values if isinstance(default, Choices) else ()
    fitting = [size for size in values if not isinstance(size, str) and size <= train_size]
    limited: Dimension = Choices(tuple(fitting))
    if len(fitting) < 2:
        limited = Fixed(fitting[0] if fitting else train_size)
    notes.append(f"{LIMITED} to the training part of {train_size} examples")
    space = {**config.space, "batch_size": limited}
    return config.model_copy(update={"space": space}), notes


def _remarks(space: Mapping[str, Dimension]) -> list[str]:
    rate = space["learning_rate"]
    if isinstance(rate, Fixed):
        return [f"the learning rate is fixed at {rate.value:g}: the one thing best searched is not"]
    if rate.clip(0.01) != 0.01:
        return [f"the learning rates searched do not contain 0.01; starting at {rate.clip(0.01):g}"]
    return []


def _largest(dimension: Dimension) -> int:
    if isinstance(dimension, Range):
        return int(dimension.high)
    values = dimension.values if isinstance(dimension, Choices) else (dimension.value,)
    return max(int(value) for value in values)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names what differs between two resolved configurations, as ``key: old → new``."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        before, after = old.get(key), new.get(key)
        if prefix == "" and isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"[{key}] ")
        elif before != after or (prefix == "[space] " and _kinds_differ(key, before, after)):
            found.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return found


def _kinds_differ(key: str, before: object, after: object) -> bool:
    """Whether equal values of one of the study's own entries mean others: 1 to 5 and 1.0 to 5.0."""
    own = key not in HYPERPARAMETERS
    return own and json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True)


def _short(value: object) -> str:
    return "not set" if value is None else str(value)
