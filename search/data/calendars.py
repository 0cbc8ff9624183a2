"""Calendars: the step of time stamps, found in spite of holes, and how times go on by it.

Shapes: L rows.
"""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Step = str | float | None
"""A regular step as pandas writes it (``MS``, ``B``), or so many months and a day of the month,
which pandas has no name for (``M-15``, ``3M-15``); or seconds between dates, or the difference of
numbers; None: there is none to tell."""

MONTHS = {"M": 1, "Q": 3, "Y": 12}
"""Months of a step by the first letter of pandas' name for it, behind the B of business days."""
ON_A_DAY = re.compile(r"([1-9]\d{0,3})?M-(0[1-9]|[12]\d|3[01])")
NAMED = 24
"""So many stamps tell pandas the name of a calendar without holes."""
LOOKED_AT = 200
"""So many stamps, the last, say whether others go on by the same step."""

QUARTER = re.compile(r"(\d{4})[- ]?[Qq]([1-4])")
WEEK = re.compile(r"(\d{4})[- ]?[Ww](\d{1,2})(?:-?([1-7]))?")
"""A week of ISO 8601, or a day of it; a week is its Monday."""
HEAD = 100
"""Words are taken for such if half of so many, the first, look like it."""

LONGEST = 1e18
"""Nanoseconds since 1970 are numbers, too, and steps of a year among them have 17 digits."""
ALIKE = 0.05
"""Steps are the same if their mean lengths differ by this share at most: 31 days are a month,
which four weeks are not."""

DAY = 86400  # seconds
BEYOND = (OverflowError, pd.errors.OutOfBoundsDatetime, pd.errors.OutOfBoundsTimedelta)
"""What pandas raises for times that it cannot represent."""


def first_days(words: pd.Series[Any]) -> pd.Series[Any]:
    """Returns the first day of each quarter, or of each week of ISO 8601; NaT where it is none."""
    head = words.iloc[:HEAD]
    for form, days in ((QUARTER, _of_quarters), (WEEK, _of_weeks)):
        if 2 * int(head.str.fullmatch(form).sum()) >= len(head):
            return days(words.where(words.str.fullmatch(form)))
    return pd.Series(pd.NaT, words.index, dtype="datetime64[ns]")


def _of_quarters(words: pd.Series[Any]) -> pd.Series[Any]:
    parts = words.str.extract(QUARTER)
    months = parts[1].map({"1": "01", "2": "04", "3": "07", "4": "10"})
    return pd.to_datetime(parts[0] + "-" + months, format="%Y-%m", errors="coerce")


def _of_weeks(words: pd.Series[Any]) -> pd.Series[Any]:
    parts = words.str.extract(WEEK)
    days = parts[0] + "-" + parts[1] + "-" + parts[2].fillna("1")
    return pd.to_datetime(days, format="%G-%V-%u", errors="coerce")


def whole_calendar(index: pd.DatetimeIndex) -> str | None:
    """Returns the calendar that pandas finds, if any: no stamp of it may be missing.

    Business hours count as none: pandas takes hourly stamps for them that lack 16 or 64 in a row.
    """
    found = pd.infer_freq(index) if len(index) > 2 else None
    return None if found == "bh" else found


def monthly_calendar(index: pd.DatetimeIndex) -> str | None:
    """Returns the calendar of months, quarters or years that all stamps lie on, or None.

    Stamps may be missing, but most must follow their neighbour by the usual number of months.

    Args:
        index: (L,), sorted, no instant twice.
    """
    strides = np.diff(12 * index.year.to_numpy() + index.month.to_numpy())
    months = usual(strides)
    if months is None or months < 1 or (strides % months).any():
        return None
    return _on_one_day(index, int(months))


def even_calendar(index: pd.DatetimeIndex) -> str | None:
    """Returns the calendar of weeks, days, hours... that all stamps lie on, or None.

    Stamps may be missing, but most must follow their neighbour by the usual step.

    Args:
        index: (L,), sorted, no instant twice.
    """
    steps = np.diff(index.to_numpy())
    ticks = steps.astype(np.int64)
    step = usual(ticks)
    if step is None or (ticks % int(step)).any():
        return None
    try:
        freq = pd.Timedelta(steps[np.argmin(np.abs(ticks - step))])
        return whole_calendar(pd.date_range(index[0], periods=NAMED, freq=freq))
    except BEYOND:
        return None


def usual(steps: NDArray[Any]) -> float | None:
    """Returns the value that more than half of some numbers have, but for rounding, or None."""
    if not len(steps):
        return None
    middle = np.sort(steps)[len(steps) // 2]
    same = np.isclose(steps.astype(np.float64), float(middle), rtol=1e-5, atol=0)
    return middle.item() if 2 * int(same.sum()) > len(steps) else None


def share_kept(index: pd.DatetimeIndex, step: str) -> float:
    """Returns how many of the last stamps, of 1, are one step after that before them.

    A single stamp keeps a step if it can be reached by it.
    """
    offset, last = offset_of(step), index[-LOOKED_AT:]
    if len(last) == 1:
        last = pd.DatetimeIndex([last[0] - offset, last[0]])
    with warnings.catch_warnings():  # Some calendars know no quicker way than one by one.
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        return float((last[:-1] + offset == last[1:]).mean())


def anchored(last: pd.Timestamp, step: str) -> str:
    """Returns a step of as many months or weeks, on the day of the month or week of a stamp."""
    months, offset = months_of(step), offset_of(step)
    if months:
        return _on_one_day(pd.DatetimeIndex([last]), months, business=False) or step
    if isinstance(offset, pd.offsets.Week):
        return str(offset_of(f"{offset.n}W-{last.day_name()[:3].upper()}").freqstr)
    return step


def go_on(last: Any, step: Step, count: int) -> list[Any]:
    """Returns the ``count`` times that follow ``last``.

    They are NaT or NaN where there is no step, and NaT beyond what pandas can represent.

    Args:
        last: A number, or a date-time without a zone.
        step: As `search.data.timeline.find_step` returns it.
        count: At least 0.

    Raises:
        ValueError: The step is none.
    """
    dates = isinstance(last, pd.Timestamp)
    if step is None:
        return [pd.NaT if dates else float("nan")] * count
    if not dates:
        whole = int(step) if float(step).is_integer() else float(step)
        return [last + at * whole for at in range(1, count + 1)]
    times: list[Any] = [last]
    try:
        while len(times) <= count:
            if isinstance(step, str):
                times.append(times[-1] + offset_of(step))
            else:
                times.append(last + pd.Timedelta(seconds=len(times) * step))
    except BEYOND:
        times += [pd.NaT] * (count + 1 - len(times))
    return times[1:]


def offset_of(step: str) -> Any:
    """Returns what takes a stamp to the next.

    Raises:
        ValueError: It is no step.
    """
    found = ON_A_DAY.fullmatch(step)
    if found:
        return pd.DateOffset(months=int(found[1] or 1), day=int(found[2]))
    try:
        return pd.tseries.frequencies.to_offset(step)
    except (ValueError, *BEYOND):
        raise ValueError(f"'{step}' is no step in time, such as 'MS' or 'D'") from None


def months_of(step: str) -> int:
    """Returns of how many months a step is, 0 if of none."""
    found = ON_A_DAY.fullmatch(step)
    if found:
        return int(found[1] or 1)
    offset = offset_of(step)
    name = re.fullmatch(r"B?([MQY])[SE](-[A-Z]{3})?", offset.name)
    return offset.n * MONTHS[name[1]] if name else 0


def length_of(step: str | float) -> float:
    """Returns the mean length of a step, in seconds or as a difference of numbers; NaN: too long.

    Raises:
        ValueError: It is no step.
    """
    if not isinstance(step, str):
        return step
    first, *_, last = go_on(pd.Timestamp("2000-01-01"), step, 13)
    return float((last - first).total_seconds() / 12)


def check_step(step: Step) -> None:
    """Checks that times go forward by a step.

    Raises:
        ValueError: They do not.
    """
    if step is None:
        return
    forward = not isinstance(step, str) or offset_of(step).n > 0
    if not (forward and 0 < length_of(step) <= LONGEST):
        raise ValueError(f"step {step!r} does not lead forward in time")


def alike(one: str | float, other: str | float) -> bool:
    """Whether two steps have the same length, wherever in a month or week they stand."""
    return abs(length_of(one) - length_of(other)) <= ALIKE * length_of(other)


def say_step(step: str | float, *, dates: bool) -> str:
    """Returns a step in words."""
    if not dates and not isinstance(step, str):
        return f"{step:g}"
    months = months_of(step) if isinstance(step, str) else 0
    if months:
        return f"{months} month{'' if months == 1 else 's'}"
    return "1 weekday" if step == "B" else duration(length_of(step))


def duration(seconds: float) -> str:
    """Returns a time in words."""
    for unit, size in (("day", DAY), ("hour", 3600), ("minute", 60)):
        if seconds >= size:
            return f"{seconds / size:g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:g} s"


def _on_one_day(index: pd.DatetimeIndex, months: int, *, business: bool = True) -> str | None:
    """Returns the calendar of so many months whose day, and hour, all stamps have, or None.

    A single stamp is no sign that the first or last ``business`` day is meant.
    """
    if len((index - index.normalize()).unique()) > 1:
        return None
    plain = (pd.offsets.MonthBegin, pd.offsets.MonthEnd)
    for kind in (*plain, pd.offsets.BMonthBegin, pd.offsets.BMonthEnd)[: 4 if business else 2]:
        if all(kind().is_on_offset(stamp) for stamp in index):
            return whole_calendar(pd.date_range(index[0], periods=NAMED, freq=kind(months)))
    day = int(index.day.max())
    if (index.day == np.minimum(day, index.days_in_month)).all():
        return f"{months if months > 1 else ''}M-{day:02}"
    return None
