"""What can be searched: each hyperparameter's kind, limits, default range and starting value.

A dimension of a study file is a range ``{ low, high, log }``, a list of choices, or one fixed
value: ``{ fixed = x }`` or, for all but the learning rate, just ``x``. A network of the user's own
may have entries of its own beside `HYPERPARAMETERS`; what kind they are follows from their values.
"""

from __future__ import annotations

import difflib
import keyword
import math
from dataclasses import dataclass

from search.errors import nearest, shown

Value = bool | int | float | str
LARGEST = 2**53
"""Whole numbers beyond this are not all floats, and samplers compute with floats."""


@dataclass(frozen=True)
class Range:
    """All values from ``low`` to ``high``, both included; ``log``: uniform in the logarithm."""

    low: float
    high: float
    log: bool = False

    def clip(self, value: Value) -> Value:
        """Returns the value of the range that is nearest to ``value``."""
        return min(max(value, self.low), self.high) if not isinstance(value, str) else self.low

    def to_toml(self) -> object:
        """Returns the form in which a study file writes it; ``log`` has no default for all."""
        return {"low": self.low, "high": self.high, "log": self.log}


@dataclass(frozen=True)
class Choices:
    """One of several values."""

    values: tuple[Value, ...]

    def clip(self, value: Value) -> Value:
        """Returns the choice nearest to ``value``; for words the same, else the first."""
        if isinstance(value, str):
            return value if value in self.values else self.values[0]
        return min(self.values, key=lambda choice: abs(_number(choice) - value))

    def to_toml(self) -> object:
        """Returns the form in which a study file writes it."""
        return list(self.values)


@dataclass(frozen=True)
class Fixed:
    """A value that is not searched."""

    value: Value

    def clip(self, value: Value) -> Value:
        """Returns the only value there is."""
        return self.value

    def to_toml(self) -> object:
        """Returns the form in which a study file writes it."""
        return {"fixed": self.value}


Dimension = Range | Choices | Fixed


@dataclass(frozen=True)
class Hyperparameter:
    """What is known of one hyperparameter before any data is seen.

    Attributes:
        kind: The type of its values.
        start: Its value in the first trial of every study.
        default: Where it is searched if the study file is silent; `studies/LOG.md` says why.
        minimum: Smallest value that makes sense.
        above: True if the minimum itself makes no sense.
        below: Values must be less than this.
        allowed: The words that are known, if it is a word.
    """

    kind: type[int] | type[float] | type[str]
    start: Value
    default: Dimension
    minimum: float = 0.0
    above: bool = False
    below: float = math.inf
    allowed: tuple[str, ...] = ()


CELLS = ("rnn", "lstm", "gru")
OPTIMIZERS = ("adam", "sgd", "rmsprop", "adagrad")
DECAYS = ("none", "step", "exponential", "plateau")

HYPERPARAMETERS: dict[str, Hyperparameter] = {
    "learning_rate": Hyperparameter(float, 0.01, Range(1e-4, 1.0, log=True), above=True, below=1e6),
    "batch_size": Hyperparameter(int, 32, Choices((16, 32, 64, 128)), minimum=1),
    "epochs": Hyperparameter(int, 12, Range(4, 36), minimum=1, below=1e6),
    "hidden_layers": Hyperparameter(int, 1, Range(1, 3), minimum=1, below=1e3),
    "hidden_units": Hyperparameter(int, 64, Range(16, 128, log=True), minimum=1, below=1e6),
    "cell": Hyperparameter(str, "lstm", Choices(CELLS), allowed=CELLS),
    "optimizer": Hyperparameter(str, "adam", Choices(OPTIMIZERS), allowed=OPTIMIZERS),
    "decay": Hyperparameter(str, "none", Choices(DECAYS), allowed=DECAYS),
    "dropout": Hyperparameter(float, 0.0, Range(0.0, 0.5), below=1.0),
    "weight_decay": Hyperparameter(float, 0.0, Choices((0.0, 1e-5, 1e-4, 1e-3))),
    "gradient_clipping": Hyperparameter(float, 0.0, Choices((0.0, 1.0, 5.0))),
}
"""In the order in which tables show them. Learning rate 0.01, batch 32, 12 epochs and one layer
are the lesson's own values (Udacity deep learning, RNN hyperparameters; Bengio 2012, section 3)."""


def parse_space(written: dict[str, object], *, own: bool) -> dict[str, Dimension]:
    """Reads the whole of ``[space]``.

    Args:
        written: Its keys and what the study file holds for each.
        own: Whether entries beside `HYPERPARAMETERS` are allowed.

    Returns:
        One dimension for each of `HYPERPARAMETERS`, then the user's own entries by name.

    Raises:
        ValueError: A key is unknown, or what it holds makes no sense; names the key.
    """
    others = sorted(name for name in written if name not in HYPERPARAMETERS)
    for name in others:
        if not own:
            near = nearest(name, HYPERPARAMETERS)
            hint = "" if "did you mean" in near else "; others need a [model] factory"
            raise ValueError(f"unknown key '{name}'{near}{hint}")
        _require_own_name(name)
    space: dict[str, Dimension] = {}
    for name in (*HYPERPARAMETERS, *others):
        try:
            if name in written:
                space[name] = parse_dimension(name, written[name])
            else:
                space[name] = HYPERPARAMETERS[name].default
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return space


def parse_dimension(name: str, written: object) -> Dimension:
    """Reads one entry of ``[space]``.

    Args:
        name: A key of `HYPERPARAMETERS`, or the name of an entry of the user's own.
        written: What the study file holds for it.

    Raises:
        ValueError: It makes no sense; the message continues a sentence that names the key.
    """
    if isinstance(written, (Range, Choices, Fixed)):
        return written
    if isinstance(written, dict):
        dimension = _parse_table(name, written)
    elif isinstance(written, (list, tuple)):
        dimension = _parse_choices(name, list(written))
    else:
        dimension = Fixed(_checked(name, written))
    searched = not isinstance(dimension, Fixed) or isinstance(written, dict)
    if name == "learning_rate" and not searched:
        raise ValueError(
            "is the single most important hyperparameter and must always be searched: give "
            "{ low = 1e-4, high = 1.0 }, or write { fixed = x } to fix it all the same"
        )
    return dimension


def _parse_table(name: str, table: dict[str, object]) -> Dimension:
    if set(table) == {"fixed"}:
        return Fixed(_checked(name, table["fixed"]))
    unknown = sorted(set(table) - {"low", "high", "log"})
    if unknown and {"low", "high"} & set(table):
        raise ValueError(f"has '{unknown[0]}', which is none of low, high and log")
    if unknown or not {"low", "high"} <= set(table):
        raise ValueError("must be { low = a, high = b }, a list of choices, or { fixed = x }")
    known = HYPERPARAMETERS.get(name)
    if known is not None and known.kind is str:
        raise ValueError(f"is a word; give a list of {', '.join(known.allowed)}")
    log = table.get("log", name == "learning_rate")
    if not isinstance(log, bool):
        raise ValueError("log must be true or false")
    own = name not in HYPERPARAMETERS
    if own and any(isinstance(table[end], (str, bool)) for end in ("low", "high")):
        raise ValueError("low and high must be numbers; for anything else give a list of choices")
    if log and _finite(table["low"]) <= 0:
        raise ValueError("a logarithmic range needs low > 0")
    ends: list[Value] = [_checked(name, table[end]) for end in ("low", "high")]
    low, high = map(_number, _alike(ends))
    if low >= high:
        raise ValueError(f"low must be less than high, not {low:g} and {high:g}")
    return Range(low, high, log)


def _parse_choices(name: str, values: list[object]) -> Dimension:
    if not values:
        raise ValueError("the list of choices is empty")
    checked = tuple(_alike([_checked(name, value) for value in values]))
    if len(set(checked)) < len(checked):
        raise ValueError("a choice is listed twice")
    return Choices(checked) if len(checked) > 1 else Fixed(checked[0])


def _checked(name: str, value: object) -> Value:
    """Returns ``value`` in the hyperparameter's type, or raises ValueError saying what is wrong."""
    known = HYPERPARAMETERS.get(name)
    if known is None:
        return _checked_own(value)
    if known.kind is str:
        if value not in known.allowed:
            raise ValueError(f"{shown(value)} is not one of {', '.join(known.allowed)}")
        return str(value)
    value = _finite(value)
    if known.kind is int and value != int(value):
        raise ValueError(f"{value!r} is not a whole number")
    if value < known.minimum or (known.above and value == known.minimum):
        raise ValueError(f"must be {'above' if known.above else 'at least'} {known.minimum:g}")
    if value >= known.below:
        raise ValueError(f"must be below {known.below:g}")
    return known.kind(value)


def _finite(value: object) -> int | float:
    """Returns a finite number, or raises ValueError saying what is wrong."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is not a number")
    if isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{shown(value)} is not a number")
    if not _is_finite(value):
        raise ValueError("must be finite")
    return value


def _is_finite(value: int | float) -> bool:
    """Whether it is a float other than infinity, as whole numbers beyond 1e308 are not."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _checked_own(value: object) -> Value:
    """Returns the value of an entry of the user's own, whose type is what it was written as."""
    if isinstance(value, (bool, str)):
        return value
    if not isinstance(value, (int, float)):
        raise ValueError(f"{shown(value)} is no number, no word, and neither true nor false")
    if not _is_finite(value) or (isinstance(value, int) and abs(value) > LARGEST):
        raise ValueError("must be finite, and a whole number at most 2^53")
    return value


def _alike(values: list[Value]) -> list[Value]:
    """Returns values of one type: whole numbers beside others become floats.

    Raises:
        ValueError: Numbers, words and truth values are mixed.
    """
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return [float(value) for value in values]
    if len(kinds) > 1:
        raise ValueError("must be all numbers, all words, or true and false, not a mixture")
    return values


def _require_own_name(name: str) -> None:
    """Refuses a name that no entry of the user's own may have.

    Raises:
        ValueError: It is no Python name, or so close to a known one that it is likely a slip.
    """
    if not name.isidentifier() or keyword.iskeyword(name) or len(name) > 40:
        raise ValueError(
            f"'{name}' cannot name an entry of your own; use at most 40 letters, digits and '_', "
            "beginning with a letter"
        )
    close = difflib.get_close_matches(name, HYPERPARAMETERS, n=1, cutoff=0.88)
    if close:
        raise ValueError(
            f"'{name}' is almost '{close[0]}'; correct it, or give your own entry another name"
        )


def kind_of(name: str, dimension: Range) -> type[int] | type[float]:
    """Returns the type of a range's values: that of its ends, if it is the user's own."""
    if name in HYPERPARAMETERS:
        return int if HYPERPARAMETERS[name].kind is int else float
    return int if isinstance(dimension.low, int) else float


def start_of(name: str, dimension: Dimension) -> Value:
    """Returns the value of the first trial.

    Of an entry of the user's own it is the first choice, or the middle of the range: of a
    logarithmic one the geometric middle.
    """
    if name in HYPERPARAMETERS:
        known = HYPERPARAMETERS[name]
        return known.kind(dimension.clip(known.start))
    if isinstance(dimension, Fixed):
        return dimension.value
    if isinstance(dimension, Choices):
        return dimension.values[0]
    low, high = dimension.low, dimension.high
    middle = math.sqrt(low) * math.sqrt(high) if dimension.log else low / 2 + high / 2
    return kind_of(name, dimension)(dimension.clip(middle))


def _number(value: Value) -> float:
    if isinstance(value, str):
        raise TypeError(f"{value!r} is a word where a number was expected")
    return value
