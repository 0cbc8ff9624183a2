"""What the columns of an unknown table are for: time, series, class, values; found by looking.

Shapes: L rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.data.clocks import Clock, are_years, find_clocks, words_of
from search.data.rows import CALENDAR, joining
from search.data.tables import is_dressed, is_nested, is_stray, numbers, numeric_columns
from search.data.timeline import CLOCK, HEAD, parse_times
from search.errors import DataError

Ints = NDArray[np.int64]

SERIES_WORDS = frozenset(
    (
        *(
            "id",
            "uid",
            "identifier",
            "series",
            "case",
            "sample",
            "recording",
            "session",
            "run",
            "instance",
        ),
        *("subject", "patient", "person", "user", "customer", "sensor", "device", "machine"),
        *("station", "store", "shop", "item", "sku", "product", "firm", "company", "symbol"),
        *("ticker", "country", "region", "state", "city", "site", "location", "plant", "engine"),
    )
)
LABEL_WORDS = frozenset(
    (
        *("label", "labels", "class", "target", "y", "activity", "gesture", "species", "speaker"),
        *("diagnosis", "outcome", "emotion", "word", "digit"),
    )
)
TARGETS = ("target", "y", "value", "ot", "sales", "demand", "load", "close")
"""Names, in lower case, that are taken for what is forecast before the first column is."""
ID_WORDS = frozenset(("id", "uid", "identifier"))
INDEX_WORDS = frozenset(("index", "idx"))
"""What people call such columns; a name counts as one of these if one of its words is."""

IDENTIFIER = "an identifier, by its name"
MAYBE_TIME = "it could be a time"
"""Why columns of numbers are left out that may be forecast, if the user names them."""

WIDE = r"(?:1[5-9]|20|21)\d\d(?:[-/]?(?:0?[1-9]|1[0-2]|Q[1-4])(?:[-/]\d{1,2})?)?"
"""A column that is named like this holds one time's values: the table lies on its side."""

MOST_CLASSES = 100
LONELY = 0.05
"""Part of the series that may be the only one of their class, as a rare class's may be."""
MOST_IDENTIFIERS = 5
"""So many columns that may tell series apart are tried for one that has a class."""
FEWEST_ROWS = 3
"""Rows that a series has at least, on average."""


@dataclass(frozen=True)
class Roles:
    """What the columns of a table seem to be for.

    Attributes:
        time: The time stamps.
        series: What tells several series apart.
        label: The class, if it is the same in all rows of each series.
        values: Columns of numbers that are none of these, in the order of the table.
        calendar: Columns that together are the time (year and quarter, date and time of day),
            where none is it alone.
        left_out: Columns that could not be used, and why.
    """

    time: str | None
    series: str | None
    label: str | None
    values: tuple[str, ...]
    calendar: tuple[str, ...]
    left_out: dict[str, str]


def find_roles(frame: pd.DataFrame, path: Path, wanted: Collection[str] = ()) -> Roles:
    """Looks at names and values of the columns of a table.

    Time is what can be read as dates and, failing that, a number whose name says so or that counts
    evenly. Where times repeat, series is a column that tells the rows of one time apart; a label
    is looked for only where there are several series, see `_label`.

    Args:
        frame: As `read_table` returns it.
        path: The file, for messages.
        wanted: Columns that the user means to learn: no time, no series, and never left out.

    Raises:
        DataError: The table lies on its side, or the times of several series are mixed.
    """
    _refuse_wide(frame, path)
    nested = [str(name) for name in frame.columns if is_nested(frame[name])]
    whole, frame = frame, frame.drop(columns=nested)
    labels = [name for name in numeric_columns(frame) if words_of(name) & LABEL_WORDS]
    clocks = sorted(find_clocks(frame, path, {*wanted, *labels}), key=lambda one: not one.dated)
    parts = _spread(frame, clocks)
    clocks = [clock for clock in clocks if clock.name not in parts]
    clock, series = _time_and_series(frame, clocks, {*wanted, *parts})
    spread = _calendar(frame, path, wanted, clock, series, parts)
    clock = None if clock and clock.name in spread else clock
    others = [str(one) for one in frame if one not in (clock and clock.name, series, *spread)]
    label, told_by = _label(frame, clock, others, series, {*wanted, *parts, *spread})
    series = series or told_by
    special = {clock.name if clock else None, series, *spread}
    spare = [one.name for one in clocks if not one.repeats and one.name not in special]
    rest = [one for one in (*nested, *others) if one not in {*special, *spare, *wanted}]
    left_out = _unusable(whole, rest, path) | dict.fromkeys(spare, MAYBE_TIME)
    return Roles(
        time=clock.name if clock else None,
        series=series,
        label=label,
        values=tuple(one for one in numeric_columns(frame) if one not in {*special, *left_out}),
        calendar=spread,
        left_out=left_out,
    )


def _refuse_mixed(clock: Clock, path: Path) -> None:
    if 2 * (int(clock.codes.max()) + 1) <= len(clock.codes):
        raise DataError(
            f"{path}: most times in '{clock.name}' occur more than once, and no column tells the "
            "series apart, so that each has a time but once; make such a column, if need be by "
            "joining two"
        )


def _refuse_wide(frame: pd.DataFrame, path: Path) -> None:
    times = [str(name) for name in frame.columns if re.fullmatch(WIDE, str(name).strip())]
    if len(times) >= 5 and 2 * len(times) > len(frame.columns):
        raise DataError(
            f"{path} has its times as columns ('{times[0]}', '{times[1]}'...); turn it, so that "
            "each row is a time step: pandas.DataFrame.melt"
        )


def _spread(frame: pd.DataFrame, clocks: Iterable[Clock]) -> tuple[str, ...]:
    """Returns the columns that together are the time, such as year and quarter, or none."""
    years = [one.name for one in clocks if one.repeats and are_years(frame[one.name])]
    parts = [
        str(name)
        for name in numeric_columns(frame)
        if words_of(name) and words_of(name) <= CALENDAR and name not in years
    ]
    return (years[0], *parts) if years and parts else ()


def _calendar(
    frame: pd.DataFrame,
    path: Path,
    wanted: Collection[str],
    clock: Clock | None,
    series: str | None,
    parts: tuple[str, ...],
) -> tuple[str, ...]:
    """Returns the columns that together are the time, where no column is it alone.

    ``parts`` are those of `_spread`; beside a date they are columns like others.
    """
    if clock is not None and clock.repeats and series is None:
        return _with_time_of_day(frame, clock, wanted, path) or parts
    return () if clock is not None and clock.dated else parts


def _with_time_of_day(
    frame: pd.DataFrame, date: Clock, wanted: Collection[str], path: Path
) -> tuple[str, ...]:
    """Returns a column of dates that repeat and those of the time of day beside it, or none.

    Raises:
        DataError: The rows are not in the order of both, so that they must be joined; or there is
            no time of day, and most dates repeat.
    """
    parts = [
        str(name)
        for name in frame.columns
        if name not in wanted and _is_time_of_day(frame[name], str(name))
    ]
    if not parts:
        _refuse_mixed(date, path)
        return ()
    spread = tuple(str(name) for name in frame.columns if name in {date.name, *parts})
    days = parse_times(frame[date.name], path).instants
    if frame.duplicated(list(spread)).any() or not days.is_monotonic_increasing:
        raise DataError(f"{path}: {joining(spread)}")
    return spread


def _is_time_of_day(column: pd.Series[Any], name: str) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return bool(words_of(name)) and words_of(name) <= {"hour", "minute", "second"}
    words = column.astype(str).str.strip()
    return bool(column.notna().all() and words.str.fullmatch(CLOCK).all())


def _time_and_series(
    frame: pd.DataFrame, clocks: list[Clock], never: Collection[str]
) -> tuple[Clock | None, str | None]:
    """Returns the best time whose instants occur once, or once in each series of a column."""
    for clock in clocks:
        if not clock.repeats:
            return clock, None
        for name in _identifiers(frame, clock, never):
            return clock, name
    # Dates that repeat are still the time: the reader names the rows and asks for the series.
    return next((clock for clock in clocks if clock.dated), None), None


def _identifiers(frame: pd.DataFrame, clock: Clock | None, never: Collection[str]) -> Iterator[str]:
    """Yields columns that may tell series apart, the likeliest first.

    Such a column is text or whole numbers with at least `FEWEST_ROWS` rows a value; a time occurs
    once in each series, and each stands in one piece unless it is told by the time.
    """
    found = []
    for place, name in enumerate(frame.columns):
        column = frame[name]
        if name in never or (clock and name == clock.name) or not _names_things(column):
            continue
        codes, distinct = pd.factorize(column)
        if not 2 <= len(distinct) <= len(column) / FEWEST_ROWS:
            continue
        in_pieces = int((np.diff(codes) != 0).sum()) + 1 > len(distinct)
        if clock is not None and _repeats(codes.astype(np.int64), clock.codes):
            continue
        if in_pieces and (clock is None or not clock.repeats):
            continue
        hinted = bool(words_of(name) & SERIES_WORDS)
        text = not pd.api.types.is_numeric_dtype(column)
        sizes = np.bincount(codes)
        if hinted or text or not in_pieces or np.ptp(sizes) == 0:
            found.append((not hinted, not text, place, str(name)))
    return (name for *_, name in sorted(found))


def _repeats(one: Ints, other: Ints) -> bool:
    """Whether any pair of codes occurs twice."""
    return len(np.unique(one * (int(other.max()) + 1) + other)) < len(one)


def _names_things(column: pd.Series[Any]) -> bool:
    if not column.notna().all() or pd.api.types.is_bool_dtype(column):
        return False
    if _is_time_of_day(column, str(column.name)):
        return False
    if pd.api.types.is_datetime64_any_dtype(column) or words_of(str(column.name)) & CALENDAR:
        return False
    return not pd.api.types.is_float_dtype(column)


def _label(
    frame: pd.DataFrame,
    clock: Clock | None,
    names: list[str],
    series: str | None,
    never: Collection[str],
) -> tuple[str | None, str | None]:
    """Returns the class and the column of the series that it is constant in, if there is one.

    A class is the same in all rows of a series, takes two or more values, at most `MOST_CLASSES`
    and half as many as there are series, and each at least twice but for `LONELY` of the series.
    Its name must say so, or it must be text in a table without dates: a shop's town is constant,
    too, but nothing to be learned.
    """
    if series is None:
        free = {*never, *(name for name in names if words_of(name) & LABEL_WORDS)}
        candidates = list(_identifiers(frame, clock, free))
    else:
        candidates = [series]
    telling = [name for name in names if words_of(name) & LABEL_WORDS]
    dated = clock is not None and clock.dated
    text = [name for name in names if not pd.api.types.is_numeric_dtype(frame[name])]
    for name in [*telling, *([] if dated else text)]:
        for told_by in candidates:
            if name != told_by and is_label(frame, told_by, name):
                return name, told_by
    return None, None


def possible_labels(
    frame: pd.DataFrame, roles: Roles, label: str | None = None
) -> tuple[str, list[str]]:
    """Returns a column of series, and those that could be their class, whatever they hold.

    Args:
        frame: As `read_table` returns it.
        roles: What its columns seem to be for.
        label: The only column that is looked at; None: all.
    """
    frame = frame[[name for name in frame.columns if not is_nested(frame[name])]]
    apart = {name for name in (roles.time, *roles.calendar) if name is not None}
    likely = [roles.series] if roles.series else _identifiers(frame, None, apart)
    for series in islice(likely, MOST_IDENTIFIERS):
        names = [str(name) for name in frame.columns if name not in {series, *apart}]
        found = [one for one in names if label in (None, one) and is_label(frame, series, one)]
        if found:
            return series, found
    return "", []


def is_label(frame: pd.DataFrame, series: str, label: str) -> bool:
    """Whether a column could be the class of the series, see `_label`."""
    if is_nested(frame[label]) or frame[label].nunique() > MOST_CLASSES:
        return False
    pairs = frame[[series, label]].drop_duplicates()
    if pairs.isna().any(axis=None) or pairs[series].duplicated().any():
        return False
    sizes = pairs[label].value_counts()
    several, lonely = int((sizes >= 2).sum()), int((sizes == 1).sum())
    few = len(sizes) <= min(MOST_CLASSES, len(pairs) // 2)
    return few and several >= 2 and lonely <= LONELY * len(pairs)


def _unusable(frame: pd.DataFrame, names: list[str], path: Path) -> dict[str, str]:
    """Returns the columns that hold no numbers, or none that can be learned from, and why."""
    reasons = {}
    numeric = set(numeric_columns(frame))
    for name in names:
        column = frame[name]
        try:
            numbers(frame, name, path)
        except DataError as error:
            reasons[name] = _what_it_holds(column, str(error))
        if name in numeric and name not in reasons and _is_identifier(column):
            reasons[name] = IDENTIFIER
        if name in numeric and column.nunique() < 2:
            reasons[name] = "always the same" if column.notna().any() else "empty"
    return reasons


def _is_identifier(column: pd.Series[Any]) -> bool:
    """Whether a column of finite numbers is one by its name, which its values do not belie.

    They are whole; those of an index that is no measurement, such as a heat index, do not come
    again or mostly go up by one.
    """
    words, values = words_of(str(column.name)), column.dropna().to_numpy(dtype=np.float64)
    if not words & (ID_WORDS | INDEX_WORDS) or (values != np.floor(values)).any():
        return False
    counted = 2 * int((np.diff(values) == 1).sum()) > len(values)
    return bool(words & ID_WORDS) or counted or len(np.unique(values)) == len(values)


def _what_it_holds(column: pd.Series[Any], refusal: str) -> str:
    """Says why a column is no column of numbers, and none of times: the row, if it nearly is.

    Args:
        column: What was looked at.
        refusal: What `numbers` has to say of it.
    """
    present, name = column.dropna(), str(column.name)
    if is_nested(column):
        return f"lists or records, such as {str(present.iloc[0])[:30]!r}"
    if (at := refusal.find("is infinite in row")) >= 0:
        return refusal[at + len("is ") :].partition(";")[0]
    ending = " where a number should be"
    at_fault = refusal.partition(f"column '{name}' ")[2].partition(ending)[0]
    if is_dressed(column):
        return f"numbers with signs about them, it {at_fault}: write them plainly"
    if is_stray(column):
        return at_fault + ending
    if len(present) < len(column):
        with suppress(DataError):
            parse_times(present.iloc[:HEAD], Path())
            return f"it has times, but none in row {column.index[column.isna()][0]}"
    return f"text, such as {str(present.iloc[0])[:30]!r}"
