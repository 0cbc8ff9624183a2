"""Time stamps: reading a column of them, and finding the gaps over which no window may reach.

Shapes: L rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.errors import DataError

Bools = NDArray[np.bool_]

Step = str | float | None
"""A regular step as pandas writes it (``MS``, ``B``), or seconds between dates, or the difference
of numbers; None: there is none to tell."""

GAP = 1.5
"""A difference of more than this many median differences is a gap."""

HOLIDAYS = 2
"""So many weekdays in a row may be absent from weekday data: 25 and 26 December, Good Friday and
Easter Monday. Were each holiday a gap, no window of more than a month would fit exchange data."""

DATES = (
    *("%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%y", "%m/%d/%y"),
    *("%d/%m/%y", "%d %b %Y", "%d-%b-%Y", "%d-%b-%y", "%b %d, %Y", "%B %d, %Y", "%d %B %Y"),
    *("%b %Y", "%B %Y", "%b-%Y", "%b-%y", "%m/%Y", "%m.%Y", "%Y:%m", "%YM%m"),
    *("%b-%d-%Y", "%Y %b", "%Y-%b"),
)
CLOCKS = ("", " %H:%M", " %H:%M:%S", " %I:%M %p", " %I:%M:%S %p")
OFFSET = r"\s*(?:Z|[+-]\d{2}:?\d{2})$"
QUARTER = r"(\d{4})[- ]?[Qq]([1-4])"

DAY = 86400  # seconds
SATURDAY = 5  # days after Monday

HEAD = 100
"""Formats are tried on so many stamps before the whole column is parsed with those that fit."""


@dataclass(frozen=True)
class Stamps:
    """The time of each row.

    Attributes:
        instants: (L,) numbers, or date-times without a zone (UTC, if the file gives offsets).
        clock: The same as a clock on the wall shows it; differs only if the file gives offsets.
    """

    instants: pd.Index[Any]
    clock: pd.Index[Any]

    def take(self, rows: NDArray[np.intp]) -> Stamps:
        """Returns the stamps of some rows."""
        return Stamps(self.instants[rows], self.clock[rows])


def parse_times(column: pd.Series[Any], path: Path) -> Stamps:
    """Reads a column of time stamps.

    Dates may be ISO 8601, with or without an offset, quarters such as 2020Q1, or in one of
    `DATES`; if both day and month may come first, the reading wins that leaves the rows in order
    and evenly spaced. Whole numbers such as 20200131 and 202001 are dates if all of them can be;
    other numbers (years, epochs, counters) stay as they are.

    Args:
        column: (L,), indexed by row number.
        path: The file, for messages.

    Raises:
        DataError: A stamp is missing or no time; the message names its row.
    """
    absent = column.isna().to_numpy()
    if absent.any():
        row = column.index[int(np.argmax(absent))]
        raise DataError(
            f"{path}: column '{column.name}' has no time in row {row}; give it one, or remove "
            "the row"
        )
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        clock = pd.DatetimeIndex(column)
        return Stamps(clock.tz_convert("UTC").tz_localize(None), clock.tz_localize(None))
    if pd.api.types.is_datetime64_any_dtype(column):
        index: pd.Index[Any] = pd.DatetimeIndex(column)
    elif pd.api.types.is_numeric_dtype(column):
        index = _from_numbers(column.to_numpy(dtype=np.float64), column, path)
    else:
        return _from_words(column, path)
    return Stamps(index, index)


def find_gaps(stamps: Stamps) -> tuple[Bools, str]:
    """Finds where the steps of one series are interrupted.

    There is no gap if pandas finds a regular calendar (months, quarters, business days...). Daily
    stamps without weekends are counted in weekdays, of which `HOLIDAYS` in a row may be absent.
    Otherwise a gap is a difference of more than `GAP` times the median difference.

    Args:
        stamps: (L,), sorted, no instant twice.

    Returns:
        (L,) True where a gap lies before the row; and the step, for people.
    """
    instants = stamps.instants
    gaps: Bools = np.zeros(len(instants), dtype=np.bool_)
    raw = np.diff(instants.to_numpy())
    if not len(raw):
        return gaps, "unknown"
    dates = isinstance(instants, pd.DatetimeIndex)
    steps = raw / np.timedelta64(1, "s") if dates else raw.astype(np.float64)
    typical = float(np.median(steps))
    if dates and np.ptp(steps) > 0:
        # Hours are regular in UTC; days and months, where there is summer time, on the wall.
        for index in (instants, stamps.clock):
            frequency = pd.infer_freq(pd.DatetimeIndex(index)) if len(raw) > 1 else None
            if frequency is not None:
                return gaps, f"regular ({frequency})"
        if _only_weekdays(pd.DatetimeIndex(stamps.clock), typical):
            days = stamps.clock.to_numpy().astype("datetime64[D]")
            gaps[1:] = np.busday_count(days[:-1], days[1:]) > 1 + HOLIDAYS
            return gaps, "1 weekday"
    gaps[1:] = steps > GAP * typical
    return gaps, _duration(typical) if dates else f"{typical:g}"


def find_step(stamps: Stamps) -> Step:
    """Returns the step of one series, by which its time stamps go on.

    Args:
        stamps: (L,), sorted, no instant twice.
    """
    instants = stamps.instants
    raw = np.diff(instants.to_numpy())
    if not len(raw):
        return None
    if not isinstance(instants, pd.DatetimeIndex):
        return float(np.median(raw))
    frequency = pd.infer_freq(instants) if len(raw) > 1 else None
    if frequency is not None:
        return frequency
    seconds = float(np.median(raw / np.timedelta64(1, "s")))
    return "B" if _only_weekdays(pd.DatetimeIndex(stamps.clock), seconds) else seconds


def go_on(last: Any, step: Step, count: int) -> list[Any]:
    """Returns the ``count`` times that follow ``last``, NaT or NaN where there is no step.

    Args:
        last: A number, or a date-time without a zone.
        step: As `find_step` returns it.
        count: At least 0.

    Raises:
        ValueError: The step is none that pandas knows.
    """
    dates = isinstance(last, pd.Timestamp)
    if step is None:
        return [pd.NaT if dates else float("nan")] * count
    if dates and isinstance(step, str):
        offset, times = pd.tseries.frequencies.to_offset(step), [last]
        while len(times) <= count:
            times.append(times[-1] + offset)
        return times[1:]
    steps = range(1, count + 1)
    if dates:
        return [last + pd.Timedelta(seconds=at * float(step)) for at in steps]
    whole = int(step) if float(step).is_integer() else float(step)
    return [last + at * whole for at in steps]


def _only_weekdays(index: pd.DatetimeIndex, typical: float) -> bool:
    midnight = bool((index == index.normalize()).all())
    return typical == DAY and midnight and bool((index.dayofweek < SATURDAY).all())


def _duration(seconds: float) -> str:
    for unit, size in (("day", DAY), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:g} s"


def _from_numbers(values: NDArray[np.float64], column: pd.Series[Any], path: Path) -> pd.Index[Any]:
    infinite = np.isinf(values)
    if infinite.any():
        row = column.index[int(np.argmax(infinite))]
        raise DataError(f"{path}: column '{column.name}' is infinite in row {row}; mend the time")
    whole = (values == np.floor(values)).all() and np.abs(values).max() < 2**53
    for digits, form in ((8, "%Y%m%d"), (6, "%Y%m")):
        low, high = 1500 * 10 ** (digits - 4), 2200 * 10 ** (digits - 4)
        if whole and ((values > low) & (values < high)).all():
            words = pd.Series(values).astype(np.int64).astype(str)
            dates = pd.to_datetime(words, format=form, errors="coerce")
            if dates.notna().all():
                return pd.DatetimeIndex(dates)
    return pd.Index(values.astype(np.int64) if whole else values)


def _from_words(column: pd.Series[Any], path: Path) -> Stamps:
    words = column.astype(str).str.strip()
    instants = pd.to_datetime(words, format="ISO8601", errors="coerce", utc=True)
    if instants.notna().all():
        index = pd.DatetimeIndex(instants).tz_localize(None)
        if not words.str.contains(OFFSET).any():
            return Stamps(index, index)
        clock = words.str.replace(OFFSET, "", regex=True)
        return Stamps(index, pd.DatetimeIndex(pd.to_datetime(clock, format="ISO8601")))
    if words.str.fullmatch(QUARTER).all():
        parts = words.str.extract(QUARTER).astype(int)
        months = parts[0].astype(str) + "-" + (3 * parts[1] - 2).astype(str)
        index = pd.DatetimeIndex(pd.to_datetime(months, format="%Y-%m"))
        return Stamps(index, index)
    readings = [instants.dt.tz_localize(None), *_readings(words)]
    complete = [pd.DatetimeIndex(reading) for reading in readings if reading.notna().all()]
    if not complete:
        best = min(readings, key=lambda reading: int(reading.isna().sum()))
        at = int(np.argmax(best.isna().to_numpy()))
        raise DataError(
            f"{path}: column '{column.name}' has {words.iloc[at]!r} in row {column.index[at]}, "
            "which is no time; write all times in one form, such as 2020-01-31 or "
            "2020-01-31T12:00"
        )
    index = min(complete, key=_disorder)
    return Stamps(index, index)


def _readings(words: pd.Series[Any]) -> Iterator[pd.Series[Any]]:
    """Yields the column parsed with each format that fits at least half of its first stamps."""
    head = words.iloc[:HEAD]
    for date in DATES:
        for clock in CLOCKS:
            fits = pd.to_datetime(head, format=date + clock, errors="coerce").notna()
            if 2 * int(fits.sum()) >= len(head):
                yield pd.to_datetime(words, format=date + clock, errors="coerce")


def _disorder(index: pd.DatetimeIndex) -> tuple[bool, float]:
    """Sorts readings: those in the order of the file first, then the most even."""
    ordered = index.is_monotonic_increasing or index.is_monotonic_decreasing
    steps = np.diff(index.unique().sort_values().to_numpy()) / np.timedelta64(1, "s")
    return not ordered, float(steps.std() / steps.mean()) if len(steps) else 0.0
