"""Which columns of an unknown table may be its time: by their values, names and order.

Shapes: L rows.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.data.tables import numeric_columns
from search.data.timeline import HEAD, parse_times
from search.errors import DataError

Ints = NDArray[np.int64]

YEARS = frozenset(("year", "yr", "jahr"))
SURE = frozenset((*YEARS, "date", "time", "datetime", "timestamp", "ds"))
"""Names that mean nothing else: T may be a temperature, and waves have a period."""
TIME_WORDS = frozenset((*SURE, "period", "t", "step", "epoch", "tick"))

FIRST_YEAR, LAST_YEAR = 1500, 2200
EPOCH = 1e8
"""Seconds since 1970 have been more ever since 1973, and durations hardly are."""


@dataclass(frozen=True)
class Clock:
    """A column that may be the time: (L,) codes of its instants, and if it is a calendar's."""

    name: str
    codes: Ints
    dated: bool

    @property
    def repeats(self) -> bool:
        """Whether an instant occurs more than once."""
        return int(self.codes.max()) + 1 < len(self.codes)


def find_clocks(frame: pd.DataFrame, path: Path, never: Collection[str]) -> Iterator[Clock]:
    """Yields the columns that may be the time, those with a telling name first.

    Args:
        frame: As `read_table` returns it.
        path: The file, for messages.
        never: Columns that are something else.

    Raises:
        DataError: There is none, but for a column of dates in which some cell is no date: without
            it rows would count as evenly spaced, and what a last row sums up as data.
    """
    refusal, found = None, False
    named = [name for name in frame.columns if words_of(name) & TIME_WORDS]
    numeric = set(numeric_columns(frame))
    for name in [*named, *frame.columns.difference(pd.Index(named), sort=False)]:
        column = frame[name]
        if name in never or not column.notna().all():
            continue
        if name in numeric and not (numeric - {name}):
            continue  # Something must be left to forecast.
        if name in numeric and not np.isfinite(column).all():
            continue
        dates = False
        try:
            head = parse_times(column.iloc[:HEAD], path).instants
            # What repeats may be names of series that look like years, or what each of them has.
            dates = isinstance(head, pd.DatetimeIndex) and head.is_unique and name not in numeric
            instants = parse_times(column, path).instants
        except DataError as error:
            refusal = refusal or (error if dates else None)
            continue
        if not (isinstance(instants, pd.DatetimeIndex) or counts(column) or _is_told(column)):
            continue
        codes = pd.factorize(instants)[0].astype(np.int64)
        if int(codes.max()) > 0:
            dated, found = isinstance(instants, pd.DatetimeIndex) or are_years(column), True
            yield Clock(str(name), codes, dated)
    if refusal is not None and not found:
        raise refusal


def words_of(name: str) -> set[str]:
    """Returns the words of a column's name: ``storeId`` has store and id."""
    return set(re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()))


def are_years(column: pd.Series[Any]) -> bool:
    """Whether a column holds numbers that are years, by its name, too."""
    numeric = pd.api.types.is_numeric_dtype(column)
    named = bool(words_of(str(column.name)) & YEARS)
    return numeric and named and bool(column.between(FIRST_YEAR, LAST_YEAR).all())


def counts(column: pd.Series[Any]) -> bool:
    """Whether a column of numbers goes up by the same whole number from row to row."""
    if not pd.api.types.is_integer_dtype(column) or len(column) < 2:
        return False
    steps = np.diff(column.to_numpy(dtype=np.int64))
    return bool(steps[0] > 0 and (steps == steps[0]).all())


def _is_told(column: pd.Series[Any]) -> bool:
    """Whether a column of numbers is a time by its name, which its values do not belie.

    What goes up and down by turns is a measurement, such as a ``response_time``, or a time in a
    table whose rows are in no order: if it could be years or seconds since 1970, begins again and
    again, or if its name says nothing but time, as T does of whole numbers alone.
    """
    words = words_of(str(column.name))
    if not words & TIME_WORDS:
        return False
    values = column.to_numpy(dtype=np.float64)
    falls = float((np.diff(values, prepend=values[:1]) < 0).mean())
    if not 0.3 < falls < 0.7:
        return True
    least, most = float(values.min()), float(values.max())
    whole = bool((values == np.floor(values)).all())
    if least >= EPOCH or (words & YEARS and whole and least >= FIRST_YEAR and most <= LAST_YEAR):
        return True
    if (values[1:][np.diff(values) < 0] == least).all():  # It begins again with each short series.
        return True
    return words <= (TIME_WORDS if whole else SURE)
