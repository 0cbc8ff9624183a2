"""The space of a study: Optuna distributions, one trial's hyperparameters, the starting points.

Optuna is imported inside the functions that need it, because trainers read `HyperParams` from
here and have no use for the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from search.config import StudyConfig
from search.dimensions import HYPERPARAMETERS, Choices, Dimension, Fixed, Range, Value
from search.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

LEARNING_RATES = (0.01, 0.1, 0.001)
"""The first three trials of a study; the lesson's "good starting point" and a decade either side
(Bengio 2012, arXiv 1206.5533, section 3.1, page 9)."""


@dataclass(frozen=True)
class HyperParams:
    """What one network is built and trained with; the names are those of the study file."""

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

    def to_dict(self) -> dict[str, Value]:
        """Returns the hyperparameters by name."""
        return asdict(self)


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
        elif isinstance(dimension, Range) and HYPERPARAMETERS[name].kind is int:
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
        elif HYPERPARAMETERS[name].kind is int:
            ends = int(dimension.low), int(dimension.high)
            values[name] = trial.suggest_int(name, *ends, log=dimension.log)
        else:
            values[name] = trial.suggest_float(
                name, dimension.low, dimension.high, log=dimension.log
            )
    return HyperParams(**values)


def ordered(params: Mapping[str, Any], space: Mapping[str, Dimension]) -> dict[str, Any]:
    """Returns a stored trial's values and the fixed ones, in the study file's order.

    A value is missing if a run was killed before it was drawn.
    """
    fixed = {name: d.value for name, d in space.items() if isinstance(d, Fixed)}
    known = {**fixed, **params}
    return {name: known[name] for name in space if name in known}


def is_inside(value: Value, dimension: Dimension) -> bool:
    """True if a trial with this value could have been proposed from ``dimension``."""
    return _equal(value, dimension.clip(value)) if _like(value, dimension) else False


def starting_points(space: Mapping[str, Dimension]) -> list[dict[str, Value]]:
    """Returns what a study tries first, in order: the lesson's values at three learning rates.

    A value outside its dimension is replaced by the nearest inside; points that become equal by
    this are listed once. Only searched dimensions are named.
    """
    points: list[dict[str, Value]] = []
    for rate in LEARNING_RATES:
        wanted = {name: known.start for name, known in HYPERPARAMETERS.items()}
        wanted["learning_rate"] = rate
        point = {
            name: HYPERPARAMETERS[name].kind(dimension.clip(wanted[name]))
            for name, dimension in space.items()
            if not isinstance(dimension, Fixed)
        }
        if point not in points:
            points.append(point)
    return points


def next_starting_point(
    space: Mapping[str, Dimension], tried: Iterable[Mapping[str, Any]]
) -> dict[str, Value] | None:
    """Returns the first starting point that is not among the ``tried`` parameters, or None."""
    seen = list(tried)
    for point in starting_points(space):
        if not any(same(point, other) for other in seen):
            return point
    return None


def same(point: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """True if ``other`` has every value of ``point``."""
    return all(name in other and _equal(value, other[name]) for name, value in point.items())


def _equal(one: Value, other: Value) -> bool:
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    return math.isclose(one, other, rel_tol=1e-9)


def _like(value: Value, dimension: Dimension) -> bool:
    """True if value and dimension are both words or both numbers."""
    inside = dimension.values[0] if isinstance(dimension, Choices) else dimension.clip(0)
    return isinstance(value, str) == isinstance(inside, str)


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
    notes.append(f"batch sizes limited to the training part of {train_size} examples")
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
        elif before != after:
            found.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return found


def _short(value: object) -> str:
    return "not set" if value is None else str(value)
