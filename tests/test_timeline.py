"""Time stamps of many kinds are understood, and only real interruptions are gaps."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.data.calendars import Step, go_on, offset_of, share_kept
from search.data.timeline import NUMBERS, Stamps, find_gaps, find_step, own_step, parse_times
from search.errors import DataError

PATH = Path("table.csv")


def gaps_of(values: object) -> list[int]:
    """Parses a column, sorts it, and returns the positions before which a gap lies."""
    stamps = parse_times(pd.Series(values, name="when"), PATH)
    order = np.argsort(stamps.instants.to_numpy(), kind="stable")
    return np.flatnonzero(find_gaps(stamps.take(order))[0]).tolist()


def dates(start: str, count: int, freq: str) -> pd.DatetimeIndex:
    """Returns a regular calendar."""
    return pd.date_range(start, periods=count, freq=freq)


CALENDARS = {
    "minutes": dates("2020-01-01", 50, "5min").astype(str),
    "days": dates("2020-01-01", 80, "D").strftime("%Y-%m-%d"),
    "weeks": dates("2020-01-01", 40, "W").strftime("%Y%m%d").astype(int),
    "named weeks": dates("2019-03-04", 110, "W-MON").strftime("%G-W%V"),
    "named days of weeks": dates("2020-12-01", 50, "D").strftime("%GW%V-%u"),
    "months": dates("2020-01-01", 40, "MS").strftime("%Y-%m"),
    "month ends": dates("2020-01-01", 40, "ME"),
    "months as numbers": dates("2020-01-01", 40, "MS").strftime("%Y%m").astype(int),
    "months in words": dates("2020-01-01", 40, "MS").strftime("%b %Y"),
    "quarters": dates("2020-01-01", 20, "QS").strftime("%Y-%m-%d"),
    "named quarters": [f"{year}Q{quarter}" for year in (2019, 2020, 2021) for quarter in "1234"],
    "years": list(range(1700, 1760)),
    "year ends": dates("1950-01-01", 30, "YE").strftime("%Y-%m-%d"),
    "business days": dates("2020-01-01", 60, "B").strftime("%Y-%m-%d"),
    "business month ends": dates("2020-01-01", 30, "BME"),
    "German dates": dates("2020-01-01", 40, "D").strftime("%d.%m.%Y"),
    "American dates": dates("2020-01-01", 40, "D").strftime("%m/%d/%Y"),
    "American times": dates("2020-01-01", 40, "h").strftime("%m/%d/%Y %I:%M %p"),
    "British months": dates("2020-01-01", 40, "MS").strftime("%d/%m/%Y"),
    "epochs": (1_600_000_000 + 3600 * np.arange(50)).tolist(),
    "counter": (0.1 * np.arange(30)).tolist(),
    "summer time, hourly": dates("2020-10-20", 200, "h").tz_localize("UTC").tz_convert("CET"),
    "summer time, daily": pd.date_range("2020-03-01", periods=60, freq="D", tz="Europe/Berlin"),
    "local weekdays": pd.date_range("2020-03-02", periods=60, freq="B", tz="Europe/Berlin"),
    "offsets": [
        stamp.isoformat()
        for stamp in pd.date_range("2020-03-28 12:00", periods=40, freq="h", tz="Europe/Berlin")
    ],
    "before 1677": dates("1500-01-01", 40, "YS").strftime("%Y-%m-%d"),
}


@pytest.mark.parametrize("name", CALENDARS)
@pytest.mark.parametrize("step", [1, -1])
def test_regular_calendars_have_no_gap(name: str, step: int) -> None:
    """A regular calendar has no gap, in whichever order the file holds it."""
    assert gaps_of(list(CALENDARS[name])[::step]) == []


@pytest.mark.parametrize("name", sorted(set(CALENDARS) - {"business days"}))
def test_a_missing_stretch_is_a_gap(name: str) -> None:
    """Where a part of a calendar is cut out, there is one gap, just there."""
    whole = list(CALENDARS[name])
    cut = 10 if name == "named quarters" else len(whole) // 2
    assert gaps_of(whole[: cut - 6] + whole[cut:]) == [cut - 6]


def test_holidays_are_no_gap_but_a_week_is() -> None:
    """Weekday data may lack two weekdays in a row; a whole week missing is a gap."""
    days = list(CALENDARS["business days"])
    assert gaps_of(days[:20] + days[22:40] + days[41:]) == []
    assert gaps_of(days[:20] + days[25:]) == [20]


@pytest.mark.parametrize("missing", [15, 16, 17, 64])
def test_an_outage_of_hourly_data_is_a_gap(missing: int) -> None:
    """However long an outage is, hourly data stays hourly, also after its last stamp."""
    hours = dates("2024-01-01", 240, "h")
    hours = hours[:60].append(hours[60 + missing :])
    assert gaps_of(hours) == [60]
    step = find_step(Stamps(hours, hours))
    assert go_on(hours[59], step, 1) == [hours[59] + pd.Timedelta("1h")]


@pytest.mark.parametrize("name", CALENDARS)
def test_a_hole_does_not_change_the_step(name: str) -> None:
    """Where stamps are missing, times go on after the last as if they were there."""
    whole = parse_times(pd.Series(list(CALENDARS[name]), name="when"), PATH)
    count = len(whole.instants)
    holed = whole.take(np.delete(np.arange(count), [count // 4, count // 2, count // 2 + 1]))
    last = whole.clock[-1]
    assert go_on(last, find_step(holed), 13) == go_on(last, find_step(whole), 13)
    found, expected = go_on(whole.clock[-4], find_step(holed), 3), whole.clock[-3:].tolist()
    assert found == (expected if whole.dates else pytest.approx(expected))


@pytest.mark.parametrize(
    ("first", "months", "step"),
    [
        ("2020-01-15", 1, "M-15"),
        ("2020-01-30", 1, "M-30"),
        ("2020-02-10", 3, "3M-10"),
        ("1950-07-04", 12, "12M-04"),
        ("2020-01-15 09:30", 1, "M-15"),
    ],
)
def test_months_from_day_to_day(first: str, months: int, step: str) -> None:
    """Stamps on the same day of a month keep it, also after a hole and a short February."""
    start = pd.Timestamp(first)
    index = pd.DatetimeIndex([start + pd.DateOffset(months=months * at) for at in range(20)])
    assert gaps_of(index) == []
    holed = index.delete([3, 9])
    assert gaps_of(holed) == [3, 8]
    assert find_step(Stamps(holed, holed)) == step
    assert go_on(index[11], step, 8) == index[12:].tolist()


def test_dates_without_a_calendar_go_on_by_their_median() -> None:
    """Where stamps lie on no calendar, the step is the median difference, in seconds."""
    index = pd.DatetimeIndex(["2020-01-01", "2020-01-03", "2020-01-04", "2020-01-09"])
    assert find_step(Stamps(index, index)) == 2 * 86400


@pytest.mark.parametrize(
    ("step", "new", "own"),
    [
        ("MS", dates("2020-01-01", 5, "MS"), "MS"),
        ("B", dates("2024-01-01", 5, "D"), "B"),
        ("BME", dates("2021-04-30", 1, "D"), "BME"),
        ("W-SUN", dates("2020-01-01", 5, "W-WED"), "W-WED"),
        ("W-SUN", dates("2020-01-01", 1, "D"), "W-WED"),
        ("MS", dates("2020-01-15", 1, "D"), "M-15"),
        ("QS-OCT", dates("2020-02-29", 1, "D"), "QE-NOV"),
        ("M-15", dates("2020-01-15", 1, "D"), "M-15"),
        ("D", dates("2020-01-15", 1, "D"), "D"),
        (2678400.0, dates("2020-01-01", 12, "MS"), "MS"),
        (7200.0, pd.DatetimeIndex(["2020-01-01", "2020-01-03", "2020-01-04"]), 7200.0),
        (10.0, pd.Index([5, 9, 13, 30]), 4.0),
        (10.0, pd.Index([5, 9, 30]), 10.0),
        ("MS", pd.Index([1.0, 3.0, 5.0]), 2.0),
        (None, dates("2020-01-01", 5, "MS"), "MS"),
    ],
)
def test_new_stamps_keep_their_own_calendar(step: Step, new: Any, own: Step) -> None:
    """A step that stamps keep is theirs; else their own, and the anchor is always theirs."""
    assert own_step(Stamps(new, new), step) == own


@given(
    step=st.sampled_from(["D", "h", "B", "MS", "ME", "BME", "W-WED", "QS-OCT", "YE", "M-30"]),
    start=st.datetimes(pd.Timestamp("1990-01-01"), pd.Timestamp("2030-01-01")),
    missing=st.sets(st.integers(1, 28)),
)
def test_steps_are_kept_by_as_many_as_one_by_one(step: str, start: Any, missing: set[int]) -> None:
    """The share of stamps one step after that before is that of adding the step to each."""
    times = go_on(pd.Timestamp(start).floor("h"), step, 30)
    index = pd.DatetimeIndex(times).delete(sorted(missing))
    kept = [one + offset_of(step) == other for one, other in itertools.pairwise(index)]
    assert share_kept(index, step) == sum(kept) / len(kept)


def test_business_hours_are_hours_with_gaps() -> None:
    """Every night is a gap in business hours, which an outage could not be told from."""
    hours = dates("2020-01-06 09:00", 24, "bh")
    assert gaps_of(hours) == [8, 16]


def test_a_missing_weekend_day_is_a_gap_in_daily_data() -> None:
    """Data with weekends is counted in days, so that two missing days are a gap."""
    days = list(CALENDARS["days"])
    assert gaps_of(days[:31] + days[33:]) == [31]


def test_day_and_month_are_told_apart() -> None:
    """Where day and month could change places, the reading in even steps wins."""
    monthly = pd.Series(CALENDARS["British months"], name="when")
    assert parse_times(monthly, PATH).instants[1] == pd.Timestamp("2020-02-01")
    daily = pd.Series(dates("2020-01-01", 12, "D").strftime("%m/%d/%Y"), name="when")
    assert parse_times(daily, PATH).instants[1] == pd.Timestamp("2020-01-02")


@pytest.mark.parametrize(
    ("form", "words", "second"),
    [
        ("%d/%m/%Y", ["01/01/2009", "01/02/2009", "01/03/2009"], "2009-02-01"),
        ("%m/%d/%Y", ["01/01/2009", "01/02/2009", "01/03/2009"], "2009-01-02"),
        ("%d/%m/%Y %H:%M", ["01/01/2009", "01/02/2009"], "2009-02-01"),
        ("%d.%m.%Y", ["01-01-2009 10:00", "01-02-2009 10:00"], "2009-02-01 10:00"),
        ("%d/%m/%Y", ["01/01/2009", "01/13/2009"], "2009-01-13"),
        ("%m/%d/%Y", ["2009-01-01", "2009-02-01"], "2009-02-01"),
    ],
)
def test_stamps_are_read_as_those_before(form: str, words: list[str], second: str) -> None:
    """A known order of day and month is kept, in whatever form, unless it does not fit."""
    column = pd.Series(words, name="when")
    assert parse_times(column, PATH, form).instants[1] == pd.Timestamp(second)


def test_numbers_stay_numbers() -> None:
    """What could be dates is read as numbers where it is known that the times are numbers."""
    column = pd.Series([200101, 200102, 200103], name="when")
    assert parse_times(column, PATH).dates
    stamps = parse_times(column, PATH, NUMBERS)
    assert stamps.instants.tolist() == [200101, 200102, 200103]
    assert stamps.form == NUMBERS


@pytest.mark.parametrize("form", ["%Y%m%d%H", "%Y%m%d%H%M", "%Y%m%d%H%M%S"])
def test_compact_stamps(form: str) -> None:
    """Hours, minutes and seconds may stand behind the date without anything between them."""
    hours = dates("2021-01-01", 60, "h")
    stamps = parse_times(pd.Series(hours.strftime(form).astype("int64"), name="when"), PATH)
    assert stamps.instants.equals(hours)


@pytest.mark.parametrize("start", [1_600_000_000, 1_600_000_000_000, 1_600_000_000_000_000])
def test_epochs_are_no_compact_stamps(start: int) -> None:
    """Seconds, milliseconds and microseconds since 1970 stay numbers."""
    assert not parse_times(pd.Series([start, start + 3600], name="when"), PATH).dates


@pytest.mark.parametrize("kind", [np.int64, np.uint64])
def test_nanoseconds_stay_whole(kind: type) -> None:
    """Nanoseconds since 1970, which no float can hold, are read to the last digit."""
    times = [10**18 + 1, 10**18 + 8]
    column = pd.Series(np.array(times, dtype=kind), name="when")
    assert parse_times(column, PATH).instants.tolist() == times


@pytest.mark.parametrize("start", ["2019-05-01", "2020-01-01", "1899-11-01"])
def test_months_with_a_point_are_no_numbers(start: str) -> None:
    """Months such as 10.2020, read as the number 10.202, are months all the same."""
    months = dates(start, 30 if start < "2020" else 12, "MS")
    written = months.strftime("%m.%Y").astype(float)
    stamps = parse_times(pd.Series(written, name="when"), PATH)
    assert stamps.instants.equals(months)
    assert stamps.form == "%m.%Y"
    assert not parse_times(pd.Series(written, name="when"), PATH, NUMBERS).dates
    assert parse_times(pd.Series(written[:1], name="when"), PATH, "%m.%Y").dates


@pytest.mark.parametrize(
    "values",
    [
        (1.15 + 0.0001 * np.arange(600)).round(4),
        [1.19, 2.19, 3.19, 1.19],
        (0.01 * np.arange(400)).round(2),
        [1.1871, 1.1902, 1.1795],
        np.arange(1, 13) + 0.25,
    ],
)
def test_other_numbers_are_no_months(values: Any) -> None:
    """Prices, rates and counters with a point stay the numbers that they are."""
    stamps = parse_times(pd.Series(values, name="when"), PATH)
    assert stamps.instants.tolist() == list(values)


YEARS = {
    "behind": dates("1960-01-01", 480, "MS"),
    "across": dates("1965-03-01", 660, "MS"),
    "before": dates("1931-01-01", 240, "MS"),
    "short": dates("1945-06-01", 18, "MS"),
    "new": dates("2001-01-01", 290, "MS"),
    "leap": pd.DatetimeIndex(["1968-02-29", "1999-12-31", "2000-02-29", "2024-02-29"]),
}


@pytest.mark.parametrize("form", ["%b-%y", "%d.%m.%y"])
@pytest.mark.parametrize("step", [1, -1])
@pytest.mark.parametrize("name", YEARS)
def test_two_digits_are_a_year_in_order(name: str, step: int, form: str) -> None:
    """Years of two digits are of the century that puts the rows in order, and not far ahead."""
    days = YEARS[name][::step]
    column = pd.Series(days.strftime(form), name="when")
    expected = days if "%d" in form else pd.to_datetime(days.strftime("%Y-%m"), format="%Y-%m")
    for known in (None, form):
        assert parse_times(column, PATH, known).instants.tolist() == expected.tolist()


def test_two_digits_in_no_order() -> None:
    """Stacked series keep years of two digits that lie together; others need four digits."""
    series = dates("1970-01-01", 600, "MS")
    column = pd.Series([*series.strftime("%b-%y")] * 2, name="when")
    assert parse_times(column, PATH).instants.tolist() == [*series, *series]
    column = pd.Series([*dates("1940-01-01", 120, "MS").strftime("%b-%y")] * 2, name="when")
    with pytest.raises(DataError, match=r"'Jan-40' in row 0.*write years with four digits"):
        parse_times(column, PATH)


def test_offsets_order_the_hour_that_comes_twice() -> None:
    """When the clocks go back, stamps with offsets stay distinct and in order."""
    words = ["2020-10-25T02:30:00+02:00", "2020-10-25T02:30:00+01:00"]
    instants = parse_times(pd.Series(words, name="when"), PATH).instants
    assert (instants[1] - instants[0]) == pd.Timedelta("1h")


@pytest.mark.parametrize("written", ["+01", "+0100", "+01:00", " +01:00", "+1:00", "+1"])
def test_forms_of_offsets(written: str) -> None:
    """An offset may be given in hours alone, as PostgreSQL writes it, or with one digit."""
    words = [f"2020-01-{day} 00:30:00{written}" for day in (30, 31)]
    stamps = parse_times(pd.Series(words, name="when"), PATH)
    assert stamps.instants[1] == pd.Timestamp("2020-01-30 23:30")
    assert stamps.clock[1] == pd.Timestamp("2020-01-31 00:30")


def test_offsets_in_several_forms() -> None:
    """Each offset is understood as it is written, and taken off the clock on the wall."""
    words = ["2020-01-30 00:30+1:00", "2020-01-31T00:30+01:00", "2020-02-01 00:30Z"]
    stamps = parse_times(pd.Series(words, name="when"), PATH)
    assert [f"{time:%d %H}" for time in stamps.instants] == ["29 23", "30 23", "01 00"]
    assert [f"{time:%d %H}" for time in stamps.clock] == ["30 00", "31 00", "01 00"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2020-01-01T00+01:00", "2020-01-01T01", "2020-01-01"], "in row 3 without an offset"),
        ([1.2020, 2.2021, 13.2021], "'13.2021' in row 4, which is no time"),
        (["2020-01-01", "2020-02-30", "2020-03-01"], "'2020-02-30' in row 3, which is no time"),
        (["01.02.2020", "soon", "03.02.2020"], "'soon' in row 3, which is no time"),
        (["2020-01-01", None, "2020-03-01"], "has no time in row 3"),
        (["1", "x7", "3"], "'x7' in row 3, which is no time"),
        ([1.0, np.inf, 2.0], "is infinite in row 3"),
    ],
)
def test_what_is_no_time(values: list[object], message: str) -> None:
    """A stamp that is no time is quoted with its row."""
    column = pd.Series(values, index=[2, 3, 4], name="when")
    with pytest.raises(DataError, match=message) as caught:
        parse_times(column, PATH)
    assert "table.csv: column 'when'" in str(caught.value)


@given(st.sets(st.integers(1, 97), max_size=20))
def test_gaps_are_where_rows_are_missing(missing: set[int]) -> None:
    """Among numbers in even steps, a gap lies exactly where some are missing."""
    kept = [at for at in range(100) if at not in missing]
    expected = [at for at in range(1, len(kept)) if kept[at] - kept[at - 1] > 1]
    assert gaps_of([float(7 * at) for at in kept]) == expected


def test_one_row_and_two() -> None:
    """A series of one or two rows has no gap."""
    assert gaps_of(["2020-01-01"]) == []
    assert gaps_of(["2020-01-01", "2020-05-01"]) == []


def test_a_week_begins_on_its_monday() -> None:
    """Weeks of ISO 8601 are their Mondays, over the turn of a year too; a week 53 must exist."""
    read = parse_times(pd.Series(["2020-W53", "2021-W01", "2021 w2"], name="week"), PATH)
    assert list(read.instants.strftime("%Y-%m-%d")) == ["2020-12-28", "2021-01-04", "2021-01-11"]


@pytest.mark.parametrize("wrong", ["2021-W53", "2021-W00", "2020Q5", "Total"])
def test_the_week_or_quarter_at_fault_is_named(wrong: str) -> None:
    """Among weeks, or quarters, that of a year which has none, or another word, is at fault."""
    form = "2020Q{}" if "Q" in wrong else "2021-W{:02}"
    words = [*(form.format(at) for at in (1, 2, 3)), wrong, form.format(4)]
    with pytest.raises(DataError, match=f"'{wrong}' in row 5, which is no time"):
        parse_times(pd.Series(words, index=range(2, 7), name="when"), PATH)
