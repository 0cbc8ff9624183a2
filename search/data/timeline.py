"""Time stamps: reading a column of them, their step, and the gaps over which no window may reach.

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

from search.data.calendars import (
    DAY,
    Step,
    anchored,
    duration,
    even_calendar,
    first_days,
    monthly_calendar,
    share_kept,
    usual,
    whole_calendar,
)
from search.errors import DataError

Bools = NDArray[np.bool_]

GAP = 1.5
"""A difference of more than this many median differences is a gap."""

KEPT = 0.5
"""A series keeps a step if more than this share of its stamps do."""

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
FORMS = tuple(date + clock for date in DATES for clock in CLOCKS)
NUMBERS = "numbers"
"""The form of times that are plain numbers."""
CLOCK = r"([01]?\d|2[0-4]):[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[AaPp][Mm])?"
"""A time of day, which is no time without its date."""
OFFSET = r"(\d[T ]\d[\d:.,]*)\s*(?:Z|[+-]\d{1,2}(?::?\d{1,2})?)$"
"""Behind a clock, so that the -31 of 2020-01-31 is none."""
MONTHS = "%m.%Y"
"""The one of `DATES` that is a number, too: 10.2020, which a table has read as 10.202."""
LATEST = 2045
"""A year of two digits is none after this."""
SATURDAY = 5  # days after Monday
COMPACT = (
    *(("%Y%m%d", 1500, 2200), ("%Y%m", 1500, 2200)),
    *(("%Y%m%d%H%M", 1900, 2100), ("%Y%m%d%H%M%S", 1900, 2100), ("%Y%m%d%H", 1900, 2100)),
)
"""Dates written as whole numbers, and the years that they may be of. Seconds since 1970 have as
many digits as the hours of the last form, but not before 2030."""

HEAD = 100
"""Formats are tried on so many stamps before the whole column is parsed with those that fit."""


@dataclass(frozen=True)
class Stamps:
    """The time of each row.

    Attributes:
        instants: (L,) numbers, or date-times without a zone (UTC, if the file gives offsets).
        clock: The same as a clock on the wall shows it; differs only if the file gives offsets.
        form: How they were read, where that could be doubted: one of `FORMS`, or `NUMBERS`; None:
            nobody could read them otherwise.
        zoned: Whether the file gives offsets, be they all zero.
    """

    instants: pd.Index[Any]
    clock: pd.Index[Any]
    form: str | None = None
    zoned: bool = False

    @property
    def dates(self) -> bool:
        """Whether they are dates, not numbers."""
        return isinstance(self.instants, pd.DatetimeIndex)

    def take(self, rows: NDArray[np.intp]) -> Stamps:
        """Returns the stamps of some rows."""
        return Stamps(self.instants[rows], self.clock[rows], self.form, self.zoned)


def parse_times(column: pd.Series[Any], path: Path, form: str | None = None) -> Stamps:
    """Reads a column of time stamps.

    Dates may be ISO 8601, with or without an offset, quarters such as 2020Q1, weeks such as
    2020-W05, or in one of `DATES`; if both day and month may come first, the reading wins that
    leaves the rows in order and evenly spaced. Years of two digits are of the century that leaves
    the rows in order. Whole numbers such as 20200131, 202001 and 202001311200 are dates if all of
    them can be, and numbers such as 10.202 months, see `_are_months`; others (years, epochs,
    counters) stay as they are.

    Args:
        column: (L,), indexed by row number.
        path: The file, for messages.
        form: How other stamps of the same kind were read, see `Stamps`: so are these, if they can
            be; if not, day and month still come in that order, if they can.

    Raises:
        DataError: A stamp is missing or no time, lacks the offset that others have, or is of
            either century; the message names its row.
    """
    absent = column.isna().to_numpy()
    if absent.any():
        row = column.index[int(np.argmax(absent))]
        raise DataError(
            f"{path}: column '{column.name}' has no time in row {row}; give it one, or remove "
            "the row"
        )
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        local = pd.DatetimeIndex(column)
        instants, clock = local.tz_convert("UTC").tz_localize(None), local.tz_localize(None)
        return Stamps(instants, clock, zoned=True)
    if pd.api.types.is_datetime64_any_dtype(column):
        index = pd.DatetimeIndex(column)
        return Stamps(index, index)
    if pd.api.types.is_numeric_dtype(column):
        return _from_numbers(column, path, form)
    return _from_words(column, path, form)


def find_gaps(stamps: Stamps) -> tuple[Bools, str]:
    """Finds where the steps of one series are interrupted.

    There is no gap if pandas finds a regular calendar (months, quarters, business days...), but
    business hours are hours with gaps. Daily stamps without weekends are counted in weekdays, of
    which `HOLIDAYS` in a row may be absent. Otherwise a gap is a difference of more than `GAP`
    times the median difference.

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
        for index in _both(stamps):
            frequency = whole_calendar(index)
            if frequency is not None:
                return gaps, f"regular ({frequency})"
        if only_weekdays(pd.DatetimeIndex(stamps.clock), typical):
            days = stamps.clock.to_numpy().astype("datetime64[D]")
            gaps[1:] = np.busday_count(days[:-1], days[1:]) > 1 + HOLIDAYS
            return gaps, "1 weekday"
    gaps[1:] = steps > GAP * typical
    if not dates:
        return gaps, f"{typical:g}"
    months = next(filter(None, map(monthly_calendar, _both(stamps))), None)
    return gaps, f"regular ({months})" if months else duration(typical)


def find_step(stamps: Stamps) -> Step:
    """Returns the step of one series, by which its time stamps go on; holes do not matter.

    Args:
        stamps: (L,), sorted, no instant twice.
    """
    raw = np.diff(stamps.instants.to_numpy())
    if not len(raw):
        return None
    if not stamps.dates:
        return float(np.median(raw))
    indices = _both(stamps)
    seconds = float(np.median(raw / np.timedelta64(1, "s")))
    found = next(filter(None, map(whole_calendar, indices)), None)
    if found is None and only_weekdays(indices[1], seconds):
        return "B"
    for look in (monthly_calendar, even_calendar):
        found = found or next(filter(None, map(look, indices)), None)
    return found or seconds


def own_step(stamps: Stamps, step: Step) -> Step:
    """Returns the step by which a new series goes on, which should have a given step.

    It is that step if the series keeps it; else its own, if it is regular; else it cannot tell,
    and goes on by the given step from the day of the month or week of its last stamp.

    Args:
        stamps: (L,), sorted, no instant twice.
        step: Of the series that a model has learned from.
    """
    named = stamps.dates and isinstance(step, str)
    if named and max(share_kept(one, str(step)) for one in _both(stamps)) > KEPT:
        return step
    own = find_step(stamps)
    regular = isinstance(own, str)
    if not stamps.dates:
        regular = isinstance(step, str) or usual(np.diff(stamps.instants.to_numpy())) is not None
    if regular or step is None:
        return own
    return anchored(stamps.clock[-1], step) if isinstance(step, str) else step


def _both(stamps: Stamps) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    return pd.DatetimeIndex(stamps.instants), pd.DatetimeIndex(stamps.clock)


def on_the_wall(stamps: Stamps, step: Step) -> bool:
    """Whether it is the clock on the wall, and not the instants, that keeps a step."""
    if not stamps.dates or not isinstance(step, str):
        return False
    instants, clock = (share_kept(one, step) for one in _both(stamps))
    return clock > instants


def only_weekdays(index: pd.DatetimeIndex, typical: float) -> bool:
    """Says whether stamps, ``typical`` seconds apart, are daily and lie on no weekend."""
    if typical != DAY or not (index.dayofweek < SATURDAY).all():
        return False
    return len((index - index.normalize()).unique()) == 1


def _from_numbers(column: pd.Series[Any], path: Path, form: str | None) -> Stamps:
    # Nanoseconds since 1970 have more digits than a float.
    exact = pd.api.types.is_integer_dtype(column) and int(column.max()) < 2**63
    values = column.to_numpy(dtype=np.int64 if exact else np.float64)
    if form != NUMBERS and _are_months(values, form):
        return _from_words(column.map("{:.4f}".format), path, form)
    index = _as_dates(values, column, path, form)
    return Stamps(index, index, None if isinstance(index, pd.DatetimeIndex) else NUMBERS)


def _as_dates(
    values: NDArray[Any], column: pd.Series[Any], path: Path, form: str | None
) -> pd.Index[Any]:
    """Returns (L,) numbers as the dates that all of them write, or as they are."""
    infinite = np.isinf(values)
    if infinite.any():
        row = column.index[int(np.argmax(infinite))]
        raise DataError(f"{path}: column '{column.name}' is infinite in row {row}; mend the time")
    whole = values.dtype == np.int64
    whole = whole or ((values == np.floor(values)).all() and np.abs(values).max() < 2**53)
    for written, first, end in COMPACT if whole and form != NUMBERS else ():
        power = 10 ** (len(f"{pd.Timestamp(0):{written}}") - 4)
        if ((values > first * power) & (values < end * power)).all():
            words = pd.Series(values).astype(np.int64).astype(str)
            dates = pd.to_datetime(words, format=written, errors="coerce")
            if dates.notna().all():
                return pd.DatetimeIndex(dates)
    index: pd.Index[Any] = pd.Index(values.astype(np.int64) if whole else values)
    return index


@np.errstate(over="ignore", invalid="ignore")
def _are_months(values: NDArray[Any], form: str | None) -> bool:
    """Whether numbers are `MONTHS`, most of them at least.

    If nothing is known of them, several months and a year that is no multiple of 100 must be
    there, which neither prices such as 1.19 and 2.19 have nor counters such as 1.15 and 1.16.
    """
    scaled = np.round(values * 1e4)
    months, years = np.divmod(scaled, 1e4)
    fit = (np.abs(values * 1e4 - scaled) < 1e-6) & (months >= 1) & (months <= 12)
    fit &= (years >= 1500) & (years < 2200)
    if 2 * int(fit.sum()) <= len(values):
        return False
    return form == MONTHS or bool(np.ptp(months[fit]) > 0 and (years[fit] % 100 > 0).any())


def _from_words(column: pd.Series[Any], path: Path, form: str | None) -> Stamps:
    words = column.astype(str).str.strip()
    instants = pd.to_datetime(words, format="ISO8601", errors="coerce", utc=True)
    if instants.notna().all():
        return _from_iso(words, pd.DatetimeIndex(instants).tz_localize(None), path)
    periods = first_days(words)
    if periods.notna().all():
        index = pd.DatetimeIndex(periods)
        return Stamps(index, index)
    readings = dict(_readings(words, form))
    complete = {one: pd.DatetimeIndex(read) for one, read in readings.items() if read.notna().all()}
    if not complete:
        tried = [instants.dt.tz_localize(None), periods, *readings.values()]
        numbers = pd.to_numeric(words, errors="coerce")  # Of these the one word is at fault.
        tried += [numbers] if numbers.isna().any() else []
        absent = min((one.isna() for one in tried), key=lambda one: int(one.sum()))
        at = int(np.argmax(absent.to_numpy()))
        raise DataError(
            f"{path}: column '{column.name}' has {words.iloc[at]!r} in row {column.index[at]}, "
            "which is no time; write all times in one form, such as 2020-01-31 or "
            "2020-01-31T12:00"
        )
    placed = {one: _in_century(one, index) for one, index in complete.items()}
    possible = {one: index for one, index in placed.items() if index is not None}
    if not possible:
        raise DataError(
            f"{path}: column '{column.name}' has years of two digits, {words.iloc[0]!r} in row "
            f"{column.index[0]} the first, and the rows are in order in no century; write years "
            "with four digits, or sort the rows by time"
        )
    read = form if form in possible else min(possible, key=lambda one: _doubt(one, possible, form))
    return Stamps(possible[read], possible[read], read)


def _from_iso(words: pd.Series[Any], instants: pd.DatetimeIndex, path: Path) -> Stamps:
    """Returns the stamps of ISO 8601, of which all or none have an offset from UTC."""
    clock = words.str.replace(OFFSET, r"\1", regex=True)
    offset = (clock != words).to_numpy()
    if not offset.any():
        return Stamps(instants, instants)
    if not offset.all():
        at = int(np.argmin(offset))
        raise DataError(
            f"{path}: column '{words.name}' has {words.iloc[at]!r} in row {words.index[at]} "
            "without an offset from UTC, which other rows have; write it in all rows or in none"
        )
    read = pd.DatetimeIndex(pd.to_datetime(clock, format="ISO8601"))
    return Stamps(instants, read, zoned=True)


def _in_century(form: str, index: pd.DatetimeIndex) -> pd.DatetimeIndex | None:
    """Returns dates with years of two digits in the century that puts them in order.

    A century may begin with any year, and no year is after `LATEST`. Of several the one with the
    shortest span is meant, of these the latest. Rows in no order, as those of several series may
    be, are in the latest century, if no other has a shorter span; if one has, None is returned.
    """
    if "%y" not in form:
        return index
    short, century = index.year.to_numpy() % 100, pd.DateOffset(years=100)
    old = index.where(index.year < 2000, index - century)
    new = index.where(index.year >= 2000, index + century)
    starts = sorted({0, 100, *short.tolist()}, reverse=True)
    read = [old.where(short >= start, new) for start in starts]
    read = [one for one in read if one.max().year <= LATEST]
    latest = read[0]
    read.sort(key=lambda one: one.max().year - one.min().year)  # Else the latest come first.
    ordered = (one for one in read if one.is_monotonic_increasing or one.is_monotonic_decreasing)
    return next(ordered, read[0] if read[0].equals(latest) else None)


def _readings(words: pd.Series[Any], form: str | None) -> Iterator[tuple[str, pd.Series[Any]]]:
    """Yields the formats that fit at least half of the first stamps, and the column so parsed.

    ``form`` comes first, and alone if it fits all of them.
    """
    head = words.iloc[:HEAD]
    for one in sorted(FORMS, key=lambda one: one != form):
        fits = pd.to_datetime(head, format=one, errors="coerce").notna()
        if 2 * int(fits.sum()) >= len(head):
            parsed = pd.to_datetime(words, format=one, errors="coerce")
            yield one, parsed
            if one == form and parsed.notna().all():
                return


def _doubt(
    one: str, readings: dict[str, pd.DatetimeIndex], form: str | None
) -> tuple[bool, bool, float]:
    """Sorts readings: day and month as in ``form`` first, then the order of the file and even."""
    index = readings[one]
    ordered = index.is_monotonic_increasing or index.is_monotonic_decreasing
    steps = np.diff(index.unique().sort_values().to_numpy()) / np.timedelta64(1, "s")
    unlike = form is not None and day_first(form) not in (None, day_first(one))
    return unlike, not ordered, float(steps.std() / steps.mean()) if len(steps) else 0.0


def day_first(form: str | None) -> bool | None:
    """Whether the day stands before the month in one of `FORMS`, None where neither could."""
    if form is None or "%d" not in form or "%m" not in form:
        return None
    return form.index("%d") < form.index("%m")
