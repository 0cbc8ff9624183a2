"""A table of values in time → `Rows`: in order, gaps found, missing values treated.

Both the study, which cuts the rows into windows, and an exported model read tables with this.

Shapes: L rows, C columns used, S series.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.config import ForecastData
from search.data.cards import ForecastCard
from search.data.tables import is_nested, missing_notes, numbers, treat_missing
from search.data.timeline import Stamps, find_gaps, only_weekdays, parse_times
from search.errors import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FAR, APART = 2**30, 2**33
"""Steps of a gap, at most; steps from series to series, more than is ever looked back."""
EXTREME = 1e12
"""Standardised values beyond this are mistakes, and their squares no longer fit float32 sums."""

CALENDAR = frozenset(("quarter", "month", "week", "weekday", "day", "hour", "minute", "second"))
TIME_NAMES = {"date", "time", "datetime", "timestamp", "ds", "year", "yr", *CALENDAR}
JOINED = (
    ({"year", "yr", "quarter"}, "2020Q1"),
    ({"year", "yr", "month"}, "2020-01"),
    ({"year", "yr", "week"}, "2020-W05"),
    ({"year", "yr", "month", "week", "weekday", "day"}, "2020-01-31"),
)
"""How columns of such names are written in one; all others with the time of day."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are forecast and of those that the network sees."""

    targets: tuple[str, ...]
    features: tuple[str, ...]

    @property
    def used(self) -> list[str]:
        """The C columns that are read."""
        return list(dict.fromkeys(self.targets + self.features))

    @property
    def visible(self) -> bool:
        """Whether the network sees what it forecasts."""
        return set(self.targets) <= set(self.features)

    def places(self, names: tuple[str, ...]) -> list[int]:
        """Returns the positions of some columns among those used."""
        return [self.used.index(name) for name in names]


@dataclass(frozen=True)
class Rows:
    """The rows of a file in order: series by series, each in time, missing values treated.

    Attributes:
        values: (L, C) float64.
        rows: (L,) row numbers in the file.
        places: (L,) position in the series, from 1, rows that are dropped included.
        series: (L,) number of the series.
        names: The series' names; [""] if there is only one.
        sizes: (S,) rows of each of these in the file, those that are dropped included.
        segments: (L,) number of the stretch without a gap; no stretch spans two series.
        slots: (L,) place in time, in steps: it grows by 1 from row to row, over a gap (or a holiday
            of weekdays) by as many as are gone, to the next series by more than any season is long.
        parts: (L,) 0 train, 1 valid, 2 test.
        filled: (L,) whether a value was missing and is interpolated.
        foreseen: (L,) whether it is so from a later row, not only from one before.
        dropped: Row numbers in the file of those that are dropped for want of a value.
        timing: For people: the span and the step of the time stamps.
        stamps: The L times; None if there is no time column.
        notes: What a person should know.
    """

    values: Floats
    rows: Ints
    places: Ints
    series: Ints
    names: list[str]
    sizes: Ints
    segments: Ints
    slots: Ints
    parts: Ints
    filled: NDArray[np.bool_]
    foreseen: NDArray[np.bool_]
    dropped: Ints
    timing: str
    stamps: Stamps | None
    notes: list[str]


def arrange(
    frame: pd.DataFrame, columns: list[str], data: ForecastData, card: ForecastCard | None = None
) -> Rows:
    """Sorts the rows by series and time, and treats gaps and missing values.

    Args:
        frame: As `read_table` returns it, with all columns that are named; the series as names.
        columns: The C columns to read.
        data: Which columns are time and series, what to do about missing values, and the parts of
            each series, over whose borders, as over gaps, nothing is interpolated.
        card: Of the model that rows are new to: times are read as its own were, and a stretch in
            which nothing can be interpolated is dropped. None: they are a study's.

    Raises:
        DataError: A time, series or value is missing or makes no sense.
    """
    codes, names = _series(frame, data.series, path := data.path or Path())
    order, gaps, stamps, timing = _in_time(frame, codes, data, path, card)
    codes, table = codes[order], _table(frame, columns, order, path)
    gaps[1:] |= np.diff(codes) != 0
    runs = list(runs_of(np.cumsum(gaps), _parts(codes, data.split)))
    values, keep = treat_missing(table, data.missing, runs, path, spare=card is not None)
    return Rows(
        values=values[keep],
        rows=table.index.to_numpy(dtype=np.int64)[keep],
        places=_places(codes)[keep],
        series=codes[keep],
        names=names,
        sizes=np.bincount(codes, minlength=len(names)).astype(np.int64),
        # A dropped row raises the count, so that no stretch holds rows from both of its sides.
        segments=(np.cumsum(gaps) + np.cumsum(np.logical_not(keep)))[keep].astype(np.int64),
        slots=_slots(codes, gaps, stamps)[keep],
        parts=_parts(codes[keep], data.split),
        filled=table.isna().any(axis=1).to_numpy()[keep],
        foreseen=_foreseen(table.isna().to_numpy(), runs)[keep],
        dropped=table.index.to_numpy(dtype=np.int64)[np.logical_not(keep)],
        timing=timing,
        stamps=stamps and stamps.take(np.flatnonzero(keep)),
        notes=_no_time_notes(frame, data) + missing_notes(table, data.missing),
    )


def _table(
    frame: pd.DataFrame, columns: list[str], order: NDArray[np.intp], path: Path
) -> pd.DataFrame:
    """Returns the (L, C) numbers of some columns, in an order, under their row numbers."""
    values = np.column_stack([numbers(frame, name, path)[order] for name in columns])
    return pd.DataFrame(values, index=frame.index[order], columns=pd.Index(columns))


def _places(codes: Ints) -> Ints:
    """Returns (L,) the position of each row in its series, from 1."""
    return np.concatenate([np.arange(1, 1 + run.stop - run.start) for run in runs_of(codes)])


def _slots(codes: Ints, gaps: NDArray[np.bool_], stamps: Stamps | None) -> Ints:
    """Returns (L,) the place in time of each row, see `Rows`; dropped ones have theirs, too."""
    passed = np.ones(len(codes), dtype=np.int64)
    if stamps is not None:
        for run in runs_of(codes):
            steps = _steps_between(stamps.take(np.arange(run.start, run.stop)), gaps[run])
            passed[run.start + 1 : run.stop] = np.clip(steps, 1, FAR)
    passed[1:][np.diff(codes) != 0] = APART
    slots: Ints = np.cumsum(passed)
    return slots


def _steps_between(stamps: Stamps, gaps: NDArray[np.bool_]) -> Floats:
    """Returns (L - 1,) how many steps lie between the rows of one series; weekdays are counted.

    Args:
        stamps: (L,), sorted, no instant twice.
        gaps: (L,) as `find_gaps` finds them; elsewhere times may be a little early or late.
    """
    passed = np.diff(stamps.instants.to_numpy())
    if stamps.dates and len(passed):
        typical = float(np.median(passed / np.timedelta64(1, "s")))
        if only_weekdays(pd.DatetimeIndex(stamps.clock), typical):
            days = stamps.clock.to_numpy().astype("datetime64[D]")
            return np.busday_count(days[:-1], days[1:]).astype(np.float64)
    if not gaps[1:].any():
        return np.ones(len(passed))
    return np.where(gaps[1:], np.rint(passed / np.median(passed)), 1)


def _foreseen(absent: NDArray[np.bool_], runs: list[slice]) -> NDArray[np.bool_]:
    """Returns (L,) where a value is absent, (L, C), that is known later in the same run."""
    later = np.zeros_like(absent)
    for run in runs:
        later[run] = np.logical_or.accumulate(~absent[run][::-1])[::-1]
    found: NDArray[np.bool_] = np.logical_or.reduce(absent & later, axis=1)
    return found


def _in_time(
    frame: pd.DataFrame, codes: Ints, data: ForecastData, path: Path, card: ForecastCard | None
) -> tuple[NDArray[np.intp], NDArray[np.bool_], Stamps | None, str]:
    """Returns, all (L,), the order of the rows, where gaps lie before them, and their times.

    The last thing returned is a line on the times, for people.
    """
    if data.time is None:
        order = np.argsort(codes, kind="stable")
        nowhere = np.zeros(len(frame), dtype=np.bool_)
        return order, nowhere, None, "none given; rows are evenly spaced"
    stamps = parse_times(frame[data.time], path, card.time_format if card is not None else None)
    order = np.lexsort((stamps.instants.to_numpy(), codes))
    stamps = stamps.take(order)
    _refuse_duplicates(stamps, codes[order], frame.index.to_numpy()[order], data)
    gaps, timing = _gaps(stamps, codes[order])
    return order, gaps, stamps, timing


def _fault_of(column: pd.Series[Any]) -> str:
    """Says why a column is not read as times; nothing if it is."""
    try:
        parse_times(column, Path())
    except DataError as error:
        return str(error).removeprefix(f"{Path()}: ")
    return ""


def _no_time_notes(frame: pd.DataFrame, data: ForecastData) -> list[str]:
    names = [name for name in frame.columns if name.strip().casefold() in TIME_NAMES]
    names = [name for name in names if not is_nested(frame[name])]
    if data.time is not None or not names:
        return []
    series = [] if data.series is None else [data.series]
    once = [name for name in names if not frame.duplicated([*series, name]).any()]
    faults = {name: _fault_of(frame[name]) for name in once}
    times = [name for name in once if not faults[name]]
    if times:
        advice = f"if '{times[0]}' is the time, set time = \"{times[0]}\""
    elif once == names:
        advice = f"if '{once[0]}' is the time: {faults[once[0]]}"
    elif not frame.duplicated([*series, *names]).any():
        advice = joining(names)
    else:
        which = " and ".join(map(repr, names))
        advice = f'if {which} tell the time of several series, name these: series = "COLUMN"'
    return [f"no time column is named, so the rows count as evenly spaced and in order; {advice}"]


def joining(names: Collection[str]) -> str:
    """Says how columns that tell the time together, such as year and quarter, become one."""
    known = {name.strip().casefold() for name in names}
    form = next((form for parts, form in JOINED if known <= parts), "2020-01-31 12:00")
    return (
        f"{' and '.join(map(repr, names))} tell the time together: join them into one column, such "
        f"as {form}, that is named as time"
    )


def _series(frame: pd.DataFrame, column: str | None, path: Path) -> tuple[Ints, list[str]]:
    """Returns (L,) the number of each row's series, and the series' names in that order."""
    if column is None:
        return np.zeros(len(frame), dtype=np.int64), [""]
    absent = frame[column].isna().to_numpy()
    if absent.any():
        row = frame.index[int(np.argmax(absent))]
        raise DataError(f"{path}: column '{column}' names no series in row {row}; fill it in")
    codes, names = pd.factorize(frame[column], sort=True)
    return codes.astype(np.int64), [str(name) for name in names]


def _refuse_duplicates(stamps: Stamps, codes: Ints, rows: NDArray[Any], data: ForecastData) -> None:
    times = stamps.instants.to_numpy()
    twice = (times[1:] == times[:-1]) & (codes[1:] == codes[:-1])
    if not twice.any():
        return
    at = int(np.argmax(twice))
    first, second = sorted((int(rows[at]), int(rows[at + 1])))
    remedy = "remove one"
    if not data.series:
        remedy += ', or name the series: series = "COLUMN" in the study'
    if isinstance(stamps.instants, pd.DatetimeIndex):
        remedy += "; if a clock was put back, write times with their offset from UTC"
    raise DataError(
        f"{data.path}: rows {first} and {second} have the same time {stamps.clock[at]}; {remedy}"
    )


def as_day(time: object) -> str:
    """Writes a time stamp for people, midnight as the day alone."""
    return str(time).removesuffix(" 00:00:00")


def _gaps(stamps: Stamps, codes: Ints) -> tuple[NDArray[np.bool_], str]:
    """Returns (L,) True where a gap lies before the row, and a line on span, step and gaps."""
    gaps = np.zeros(len(codes), dtype=np.bool_)
    steps: dict[str, None] = {}
    for run in runs_of(codes):
        found, step = find_gaps(stamps.take(np.arange(run.start, run.stop)))
        gaps[run] = found
        steps[step] = None
    step = " or ".join(list(steps)[:3]) + (" or others" if len(steps) > 3 else "")
    ends = as_day(stamps.clock.min()), as_day(stamps.clock.max())
    return gaps, f"{' to '.join(ends)}, step {step}, gaps: {int(gaps.sum())}"


def _parts(codes: Ints, shares: tuple[float, float, float]) -> Ints:
    """Cuts each series in time.

    Args:
        codes: (L,) sorted numbers of the series.
        shares: Of training, validation and test.

    Returns:
        (L,) 0 train, 1 valid, 2 test.
    """
    parts = np.empty(len(codes), dtype=np.int64)
    for run in runs_of(codes):
        length = run.stop - run.start
        # Rounded down, but 0.7 + 0.1 of ten rows is eight, whatever the last bit of the sum says.
        cuts = [int(length * share + 1e-9) for share in (shares[0], shares[0] + shares[1])]
        parts[run] = np.searchsorted(cuts, np.arange(length), side="right")
    return parts


def runs_of(*keys: Ints) -> Iterator[slice]:
    """Yields the longest stretches of rows in which every key keeps its value."""
    changes = np.logical_or.reduce([np.diff(key) != 0 for key in keys])
    edges = [0, *(np.flatnonzero(changes) + 1).tolist(), len(keys[0])]
    return (slice(first, last) for first, last in pairwise(edges))


def refuse_extremes(rows: Rows, names: list[str], standardised: Floats, path: Path) -> None:
    """Checks that no value is too far from those of training to compute with.

    Args:
        rows: The rows.
        names: Their C columns.
        standardised: (L, C), the rows' values, standardised.
        path: The file, for messages.

    Raises:
        DataError: One is; names its row.
    """
    extreme = ~(np.abs(standardised) < EXTREME)
    # A spread that overflows makes no standardised value large, so the values themselves count too.
    extreme |= np.abs(rows.values) > np.sqrt(np.finfo(np.float64).max) / EXTREME
    if extreme.any():
        row, column = (int(at[0]) for at in np.nonzero(extreme))
        raise DataError(
            f"{path}: column '{names[column]}' has {rows.values[row, column]:g} in row "
            f"{rows.rows[row]}, too far from the training values to compute with; mend it, set it "
            "to missing, or change the column's unit"
        )
