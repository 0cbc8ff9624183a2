"""Reads the .ts files of the UCR and UEA archives: labelled series, one case a line.

Source of the format: www.timeseriesclassification.com and `sktime.datasets`. A header of ``@``
directives ends with ``@data``; in a case ``:`` separates the dimensions and the label, ``,`` the
values; ``?`` or ``NaN`` is a missing value. With ``@timeStamps true`` a value is ``(time,value)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.errors import DataError, nearest

FLAGS = {"timestamps", "missing", "univariate", "equallength"}
"""Directives, in lower case, that are ``true`` or ``false``."""
NUMBERS = {"dimension", "dimensions", "serieslength"}
DIRECTIVES = (
    *("problemName", "timeStamps", "missing", "univariate", "dimension", "dimensions"),
    *("equalLength", "seriesLength", "classLabel", "targetLabel", "data"),
)
OUTSIDE_BRACKETS = re.compile(r":(?![^(]*\))")
STAMPED = re.compile(r"\(([^(),]+),([^(),]+)\)")
STEP_TOLERANCE = 1e-4
"""Relative difference between time steps that still counts as even: written times are rounded."""
UNDECODED = "\ufffd"


@dataclass(frozen=True)
class TsFile:
    """What a .ts file holds.

    Attributes:
        path: The file.
        cases: One (T_i, F) float64 array a case, NaN where a value is missing.
        labels: The class of each case.
        lines: Line of the file on which each case stands, from 1.
        classes: The labels that the header declares, in its order; empty if there are none.
        problem: The data set's name in the header; empty if there is none.
        notes: One line for each thing in the header that the cases contradict.
    """

    path: Path
    cases: list[NDArray[np.float64]]
    labels: list[str]
    lines: list[int]
    classes: tuple[str, ...]
    problem: str
    notes: tuple[str, ...]


@dataclass
class _Header:
    """The directives read so far: flags and numbers by lower-case name; if labels are needed."""

    flags: dict[str, bool] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    problem: str = ""
    labelled: bool = True

    @property
    def dimensions(self) -> int | None:
        """How many dimensions F the header declares; None if it does not say."""
        if self.flags.get("univariate"):
            return 1
        return self.numbers.get("dimensions", self.numbers.get("dimension"))


class _LineError(Exception):
    """What is wrong with one line; `read_ts` adds the file and the line's number."""


def read_ts(path: Path, *, labelled: bool = True) -> TsFile:
    """Reads one .ts file.

    Args:
        path: The file.
        labelled: False lets the header declare no labels; each case then has the label "".

    Raises:
        DataError: It cannot be read, or a line is not what the format asks for; names the line.
    """
    header, steps = _Header(labelled=labelled), list[float]()
    cases, labels, lines = list[NDArray[np.float64]](), list[str](), list[int]()
    number, in_data = 0, False
    try:
        # Old headers have Latin-1 names in their comments; only lines that count must be UTF-8.
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            for number, line in enumerate(file, start=1):
                text = line.strip()
                if not text or text.startswith(("#", "%")):
                    continue
                _require_text(text)
                if in_data:
                    values, label, step = _case(text, header, cases)
                    steps = _same_step(steps, step)
                    cases.append(values)
                    labels.append(label)
                    lines.append(number)
                else:
                    in_data = _directive(text, header)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give a .ts file") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except _LineError as error:
        raise DataError(f"{path}, line {number}: {error}") from None
    _require_cases(path, number, in_data, len(cases))
    notes = _contradictions(path, header, cases, lines)
    return TsFile(path, cases, labels, lines, header.classes or (), header.problem, notes)


def _require_cases(path: Path, lines: int, in_data: bool, cases: int) -> None:
    if not lines:
        raise DataError(f"{path} is empty; it needs a header and cases")
    if not in_data:
        raise DataError(f"{path} has no @data line, so it is cut off or no .ts file")
    if not cases:
        raise DataError(f"{path} has no cases after its @data line; give a file with data")


def _require_text(text: str) -> None:
    if UNDECODED in text:
        raise _LineError("is not UTF-8; convert the file, for example with iconv -t UTF-8")
    if "\0" in text:
        raise _LineError("holds a NUL byte, so this is no text file; give a .ts file")


def _directive(text: str, header: _Header) -> bool:
    """Reads one line of the header; True if it is ``@data``."""
    if not text.startswith("@"):
        raise _LineError(
            "comes before @data but is neither an @ directive nor a # comment; "
            "give the file its header, ending with a line @data"
        )
    name, *values = text[1:].split()
    name = name.lower()
    if name == "data":
        _require_labels(header)
        return True
    if name not in map(str.lower, DIRECTIVES):
        raise _LineError(f"unknown directive '@{name}'{nearest(name, DIRECTIVES)}")
    if name == "targetlabel":
        raise _LineError(
            "@targetLabel marks values for regression; classification needs @classLabel"
        )
    if not values:
        raise _LineError(f"@{name} is given no value; write one after it or remove the line")
    if name in FLAGS:
        header.flags[name] = _flag(name, values)
    elif name in NUMBERS:
        header.numbers[name] = _count(name, values)
    elif name == "classlabel":
        # Without the need for labels, "false" says as much as no directive at all.
        none = [value.lower() for value in values] == ["false"] and not header.labelled
        header.classes = None if none else _declared(values)
    else:
        header.problem = " ".join(values)
    return False


def _require_labels(header: _Header) -> None:
    if header.classes is None and header.labelled:
        raise _LineError(
            "the header has no @classLabel, and classification needs labels; "
            "add @classLabel true and the labels above @data"
        )
    declared = header.numbers.get("dimensions", header.numbers.get("dimension", 1))
    if header.flags.get("univariate") and declared != 1:
        raise _LineError(
            f"the header says @univariate true but @dimensions {declared}; correct one"
        )


def _flag(name: str, values: list[str]) -> bool:
    if len(values) != 1 or values[0].lower() not in ("true", "false"):
        raise _LineError(f"@{name} must be true or false, not '{' '.join(values)}'")
    return values[0].lower() == "true"


def _count(name: str, values: list[str]) -> int:
    if len(values) != 1 or not re.fullmatch(r"[0-9]{1,9}", values[0]) or int(values[0]) < 1:
        raise _LineError(f"@{name} must be a whole number above 0, not '{' '.join(values)}'")
    return int(values[0])


def _declared(values: list[str]) -> tuple[str, ...]:
    if not _flag("classLabel", values[:1]):
        raise _LineError(
            "@classLabel is false, and classification needs labels; give a labelled file"
        )
    if len(values) == 1:
        raise _LineError("@classLabel true must be followed by the labels, separated by blanks")
    return tuple(dict.fromkeys(values[1:]))


def _case(
    text: str, header: _Header, cases: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], str, float | None]:
    """Reads one case.

    Args:
        text: Its line.
        header: The whole header.
        cases: The cases before it, which it must have as many dimensions as.

    Returns:
        Its (T, F) values, its label, and the time between its steps if that is known.
    """
    stamped = header.flags.get("timestamps", False)
    dimensions, label = OUTSIDE_BRACKETS.split(text) if stamped else text.split(":"), ""
    if header.classes is not None:
        label = dimensions.pop().strip()
    if header.classes is not None and label not in header.classes:
        raise _LineError(f"the label '{label}' is not one that @classLabel declares; add it there")
    wanted, source = header.dimensions, "the header declares"
    if wanted is None and cases:
        wanted, source = cases[0].shape[1], "the cases before have"
    if not dimensions or (wanted is not None and len(dimensions) != wanted):
        raise _LineError(
            f"has {len(dimensions)} dimensions where {source} {wanted or 'at least 1'}"
        )
    read = [
        _stamped(part, at) if stamped else (_values(part.split(","), at), None)
        for at, part in enumerate(dimensions, start=1)
    ]
    columns, steps = [values for values, _ in read], [step for _, step in read]
    _require_equal_lengths([len(column) for column in columns])
    if any(step is not None and not _close(step, steps[0] or step) for step in steps):
        raise _LineError(
            "its dimensions have different time steps; resample them to the same times"
        )
    return np.column_stack(columns), label, steps[0]


def _require_equal_lengths(lengths: list[int]) -> None:
    for at, length in enumerate(lengths, start=1):
        if length != lengths[0]:
            raise _LineError(
                f"dimension {at} has {length} values but dimension 1 has {lengths[0]}; "
                "all dimensions of a case must be equally long"
            )


def _values(words: list[str], dimension: int) -> list[float]:
    """Turns words into numbers, NaN for ``?``."""
    try:
        if any("_" in word for word in words):  # float() would read 1_0 as 10
            raise ValueError
        return [float(word) for word in words]
    except ValueError:
        return [_value(word.strip(), dimension, step) for step, word in enumerate(words, start=1)]


def _value(word: str, dimension: int, step: int) -> float:
    if word == "?":
        return float("nan")
    try:
        if "_" in word:
            raise ValueError
        return float(word)
    except ValueError:
        raise _LineError(
            f"dimension {dimension}, value {step}: '{word}' is no number; "
            "write a number, or ? for a missing value"
        ) from None


def _stamped(text: str, dimension: int) -> tuple[list[float], float | None]:
    """Reads ``(time,value),(time,value)...``, whose times must be evenly spaced.

    Returns:
        The values, and the time between two steps (seconds for dates); None for a single step.
    """
    pairs = STAMPED.findall(text)
    rebuilt = ",".join(f"({time},{value})" for time, value in pairs)
    if not pairs or re.sub(r"\s", "", rebuilt) != re.sub(r"\s", "", text):
        raise _LineError(
            f"dimension {dimension} is not of the form (time,value),(time,value) that "
            "@timeStamps true announces; correct it or write @timeStamps false"
        )
    values = _values([value for _, value in pairs], dimension)
    times = np.array(_times([time.strip() for time, _ in pairs], dimension))
    if len(times) == 1:
        return values, None
    gaps = np.diff(times)
    rounding = 4 * np.spacing(np.abs(times).max())
    even = (gaps > 0) & (np.abs(gaps - gaps[0]) <= STEP_TOLERANCE * gaps[0] + rounding)
    if not even.all():
        raise _LineError(
            f"dimension {dimension}: the time stamps are not evenly spaced at step "
            f"{int(np.argmin(even)) + 2}; resample the series to even steps"
        )
    return values, float(times[-1] - times[0]) / len(gaps)


def _times(words: list[str], dimension: int) -> list[float]:
    """Turns time stamps, numbers or ISO dates, into numbers (seconds for dates)."""
    try:
        return [float(word) for word in words]
    except ValueError:
        pass
    try:
        dates = [datetime.fromisoformat(word) for word in words]
        return [(date - dates[0]).total_seconds() for date in dates]
    except (ValueError, TypeError):
        raise _LineError(
            f"dimension {dimension}: the time stamps are neither all numbers nor all ISO dates "
            "such as 2005-02-01 00:00:00; rewrite them"
        ) from None


def _close(step: float, other: float) -> bool:
    return math.isclose(step, other, rel_tol=STEP_TOLERANCE)


def _same_step(steps: list[float], step: float | None) -> list[float]:
    """Returns the time steps seen so far, at most one, or raises if ``step`` is another."""
    if step is None:
        return steps
    if steps and not _close(step, steps[0]):
        raise _LineError(
            f"is sampled every {step:g} where the cases before are every {steps[0]:g}; "
            "resample all series to the same time step"
        )
    return steps or [step]


def _contradictions(
    path: Path, header: _Header, cases: Iterable[NDArray[np.float64]], lines: list[int]
) -> tuple[str, ...]:
    """Says where the header is wrong about lengths, which harms nothing but may mean a cut file."""
    lengths = [len(case) for case in cases]
    declared = header.numbers.get("serieslength")
    wanted = declared or lengths[0]
    for length, line in zip(lengths, lines, strict=True):
        if length != wanted and (header.flags.get("equallength") or declared):
            said = f"@seriesLength {declared}" if declared else "@equalLength true"
            return (f"{path}, line {line}: {length} steps, though the header says {said}",)
    return ()
