"""Tests of `search.data.roles`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from search.data.clocks import words_of
from search.data.roles import Roles, find_roles
from search.errors import DataError

DAYS = [str(day.date()) for day in pd.date_range("2024-01-30", periods=30)]
WAVE = np.sin(np.arange(30)).tolist()


def roles(wanted: tuple[str, ...] = (), **columns: Any) -> Roles:
    """Returns what the columns of a table seem to be for."""
    return find_roles(pd.DataFrame(columns), Path("t.csv"), wanted)


def recordings(**columns: Any) -> pd.DataFrame:
    """Returns twelve series of ten rows, one below the other, and what ``columns`` adds to them."""
    table = {"id": np.repeat(np.arange(12), 10), "x": np.sin(np.arange(120) ** 1.1)}
    return pd.DataFrame({**table, **columns})


@pytest.mark.parametrize(
    ("time", "stamps"),
    [
        ("when", DAYS),
        ("when", [f"{day} 12:00" for day in DAYS]),
        ("when", [int(day.replace("-", "")) for day in DAYS]),
        ("year", list(range(1990, 2020))),
        ("t", [0.1 * step for step in range(30)]),
        ("", list(range(100, 130))),
    ],
)
def test_time(time: str, stamps: list[Any]) -> None:
    """Dates in text or digits, years, and counters are the time, and are not forecast."""
    found = roles(**{time: stamps, "y": WAVE})
    assert (found.time, found.values, found.series) == (time, ("y",), None)


def test_a_duration_is_no_time() -> None:
    """What is called so and goes up and down is a value; it is time if it rises."""
    waits = [(0.2131, 0.0872, 0.4127, 0.1, 0.39)[at % 5] + at / 1e6 for at in range(30)]
    found = roles(request=list(range(1, 31)), response_time=waits)
    assert (found.time, found.values) == ("request", ("response_time",))
    rising = [0.5 * at for at in range(30)]
    assert roles(elapsed_time=rising, y=WAVE).time == "elapsed_time"
    assert roles(time=waits, y=WAVE).time == "time"
    newest_first = [1_600_000_000 - 60 * at for at in range(30)]
    assert roles(unix_time=newest_first, y=WAVE).time == "unix_time"
    mixed = [1_600_000_000 + 60 * (7 * at % 30) for at in range(30)]
    assert roles(unix_time=mixed, y=WAVE).time == "unix_time"


UP_AND_DOWN = [20.5 + (-1) ** at * (1 + at / 100) for at in range(30)]
SHUFFLED = [13 * at % 30 for at in range(30)]


def test_a_measurement_is_no_time() -> None:
    """What goes up and down, such as a temperature T, is a value, however it is called."""
    for waits in ([3000 + 40 * at for at in SHUFFLED], [1500 + 20 * at for at in SHUFFLED]):
        found = roles(date=DAYS, T=UP_AND_DOWN, response_time=waits, y=WAVE)
        assert (found.time, found.left_out) == ("date", {})
        assert found.values == ("T", "response_time", "y")
    found = roles(T=UP_AND_DOWN, P=WAVE)
    assert (found.time, found.values) == (None, ("T", "P"))


@pytest.mark.parametrize(
    ("name", "stamps"),
    [
        ("t", SHUFFLED),
        ("first_year", [1990 + at for at in SHUFFLED]),
        ("unix_time", [1_600_000_000.25 + at for at in SHUFFLED]),
    ],
)
def test_times_in_no_order(name: str, stamps: list[Any]) -> None:
    """Counters, years and seconds since 1970 are the time in whatever order the rows are."""
    assert roles(**{name: stamps, "y": WAVE}).time == name


def test_times_that_begin_again() -> None:
    """In series of three steps a third of a time's steps go back, all of them to its beginning."""
    found = roles(who=[at // 3 for at in range(30)], t=[at % 3 / 10 for at in range(30)], y=WAVE)
    assert (found.time, found.series) == ("t", "who")


def test_year_and_month_beside_a_date() -> None:
    """A date is the time by itself; what else tells of it is shown to the network."""
    stamps = pd.date_range("2023-12-15", periods=30)
    days = stamps.strftime("%Y-%m-%d").tolist()
    parts = {"year": stamps.year.tolist(), "month": stamps.month.tolist()}
    found = roles(date=days, **parts, y=WAVE)
    assert (found.time, found.calendar, found.left_out) == ("date", (), {})
    assert found.values == ("year", "month", "y")
    table = pd.DataFrame({"date": days, **parts, "shop": "a", "y": WAVE})
    both = pd.concat([table, table.assign(shop="b")])
    panel = find_roles(both, Path("t.csv"))
    assert (panel.time, panel.series, panel.calendar) == ("date", "shop", ())


def test_why_a_column_is_no_use() -> None:
    """A word among numbers and a missing time are named with their row."""
    broken = [*map(str, WAVE[:-1]), "x12"]
    found = roles(when=[None, *DAYS[1:]], y=WAVE, z=broken, word=["a", "b", "c"] * 10)
    assert found.left_out == {
        "when": "it has times, but none in row 0",
        "z": "has 'x12' in row 29 where a number should be",
        "word": "text, such as 'a'",
    }


def test_dates_come_before_counters() -> None:
    """Where there are several, the dates are the time; a counter is not forecast either."""
    found = roles(n=list(range(30)), y=WAVE, date=DAYS)
    assert (found.time, found.values) == ("date", ("y",))


def test_a_clock_that_is_not_the_time_is_said() -> None:
    """A counter beside dates is left out, which is said, unless it is what the user wants."""
    columns = {"n": list(range(30)), "y": WAVE, "date": DAYS}
    assert roles(**columns).left_out == {"n": "it could be a time"}
    asked = roles(wanted=("n",), **columns)
    assert (asked.values, asked.left_out) == (("n", "y"), {})


def test_the_only_numbers_are_no_time() -> None:
    """A column that counts is forecast if it is all there is."""
    assert roles(n=list(range(30))).values == ("n",)


def test_what_is_wanted_is_no_time() -> None:
    """A column that the user wants to forecast keeps out of the other roles."""
    found = roles(wanted=("year",), year=list(range(1990, 2020)), y=WAVE)
    assert (found.time, found.values) == (None, ("year", "y"))


def test_year_and_month_together() -> None:
    """A time that is spread over columns is none of them, and no series either."""
    found = roles(
        year=[2000 + at // 12 for at in range(30)], month=[1 + at % 12 for at in range(30)], y=WAVE
    )
    assert (found.time, found.series, found.calendar) == (None, None, ("year", "month"))
    assert found.values == ("y",)


HOURS = {"date": np.repeat(DAYS, 24), "y": np.sin(np.arange(720))}
CLOCKS = [
    ("time", [f"{at % 24:02}:00:00" for at in range(720)]),
    ("Uhrzeit", [f"{at % 24}:30" for at in range(720)]),
    ("time", [f"{(at - 1) % 12 + 1}:00 {'AM' if at % 24 < 12 else 'PM'}" for at in range(720)]),
    ("hour", [at % 24 for at in range(720)]),
]


@pytest.mark.parametrize(("name", "clock"), CLOCKS)
def test_date_and_time_of_day_together(name: str, clock: list[Any]) -> None:
    """Hours in two columns are the time together, and neither tells series apart."""
    found = find_roles(pd.DataFrame({**HOURS, name: clock}), Path("t.csv"))
    assert (found.time, found.series, found.calendar) == (None, None, ("date", name))
    assert found.values == ("y",)


@pytest.mark.parametrize(("name", "clock"), CLOCKS)
def test_dates_and_times_of_day_out_of_order(name: str, clock: list[Any]) -> None:
    """Where the order of the rows is not the time, both columns must be joined, which it says."""
    frame = pd.DataFrame({**HOURS, name: clock})
    twice = pd.concat([frame.assign(shop="a"), frame.assign(shop="b")])
    for table in (frame.iloc[::-1], twice):
        with pytest.raises(DataError, match=f"'date' and '{name}' tell the time together"):
            find_roles(table.reset_index(drop=True), Path("t.csv"))


@pytest.mark.parametrize("name", ["store", "storeId", "k"])
def test_series_of_a_panel(name: str) -> None:
    """Where dates repeat, the column that tells them apart names the series, whatever its name."""
    found = roles(**{"date": DAYS * 3, name: np.repeat([5, 7, 9], 30), "y": WAVE * 3})
    assert (found.time, found.series, found.label) == ("date", name, None)


def test_what_a_shop_has_is_no_class() -> None:
    """A constant of each series is no label in a table with dates."""
    columns = {"date": DAYS * 6, "shop": np.repeat(list("abcdef"), 30), "y": WAVE * 6}
    found = roles(**columns, town=np.repeat(list("PPQQRR"), 30))
    assert (found.series, found.label) == ("shop", None)
    assert list(found.left_out) == ["town"]


def test_mixed_series_without_a_name() -> None:
    """Where dates repeat and only two columns together tell the series apart, it says so."""
    columns = {"date": DAYS * 4, "y": WAVE * 4, "a": ["p", "q"] * 60}
    with pytest.raises(DataError, match=r"t\.csv: most times in 'date'.*joining two"):
        roles(**columns)


@pytest.mark.parametrize("label", ["label", "gesture", "what"])
def test_labelled_recordings(label: str) -> None:
    """Text that is the same in each recording, in classes, is a label by itself."""
    table = recordings(**{label: np.repeat(list("ab"), 60)})
    found = find_roles(table, Path("t.csv"))
    assert (found.series, found.label, found.values) == ("id", label, ("x",))


@pytest.mark.parametrize("count", [{}, {"t": range(60)}], ids=["no time", "a time"])
def test_series_are_not_in_pieces(count: dict[str, Any]) -> None:
    """Text that comes again and again tells no recordings apart where no time does."""
    pieces = {"patient": list("abcdef") * 10, "label": list("xxxyyy") * 10, "y": WAVE * 2}
    found = roles(**count, **pieces)
    assert (found.series, found.label, found.values) == (None, None, ("y",))
    whole = {name: sorted(column) for name, column in pieces.items() if name != "y"}
    found = roles(**count, **whole, y=WAVE * 2)
    assert (found.series, found.label, found.values) == ("patient", "label", ("y",))


def test_numbers_are_a_label_by_name() -> None:
    """Numbers are a class only if the name says so, and then no channel."""
    codes = np.repeat([0, 1], 60)
    found = find_roles(recordings(target=codes), Path("t.csv"))
    assert (found.series, found.label) == ("id", "target")
    assert find_roles(recordings(weight=codes), Path("t.csv")).label is None


@pytest.mark.parametrize(
    "label",
    [
        np.tile(list("ab"), 60),
        np.repeat("a", 120),
        np.repeat(list("abcdefghijkl"), 10),
        np.repeat(list("aaaaaaaaaaab"), 10),
    ],
    ids=["changes", "one", "as many as series", "one series alone"],
)
def test_no_label(label: Any) -> None:
    """What changes within a series, or cannot be split into parts, is no class."""
    assert find_roles(recordings(label=label), Path("t.csv")).label is None


@pytest.mark.parametrize(("alone", "found"), [(1, "what"), (2, None)])
def test_a_rare_class(alone: int, found: str | None) -> None:
    """One series in twenty may be alone in its class; more, and it is no class."""
    kinds = ["a"] * 10 + ["b"] * (10 - alone) + [f"rare {number}" for number in range(alone)]
    frame = pd.DataFrame(
        {"id": np.repeat([f"r{number}" for number in range(20)], 5), "what": np.repeat(kinds, 5)}
    ).assign(x=np.sin(np.arange(100)))
    assert find_roles(frame, Path("t.csv")).label == found


def test_left_out() -> None:
    """Text, constants, infinities, empty columns and identifiers are left out, each with why."""
    found = roles(
        y=WAVE,
        words=["one", "two"] * 15,
        same=[3] * 30,
        far=[np.inf, *WAVE[1:]],
        empty=[np.nan] * 30,
        uid=np.random.default_rng(0).permutation(30),
    )
    assert found.values == ("y",)
    assert found.left_out == {
        "words": "text, such as 'one'",
        "same": "always the same",
        "far": "infinite in row 0",
        "empty": "empty",
        "uid": "an identifier, by its name",
    }


@pytest.mark.parametrize(
    ("name", "values", "identifies"),
    [
        ("price_index", [100.5, 101.0, 100.5] * 10, False),
        ("uv_index", [3, 7, 5] * 10, False),
        ("row_index", SHUFFLED, True),
        ("idx", [*range(10)] * 3, True),
        ("user_id", [5, 5, 7] * 10, True),
        ("id", WAVE, False),
    ],
)
def test_an_identifier_is_whole(name: str, values: list[Any], identifies: bool) -> None:
    """An identifier has no decimals, and an index that comes again without counting is none."""
    found = roles(y=WAVE, **{name: values})
    assert (name in found.left_out, name in found.values) == (identifies, not identifies)


def test_lists_and_records_are_left_out() -> None:
    """Columns of lists or records are left out with why, whatever they are called."""
    nested = {"label": [np.array([1, 2])] * 30, "site": [{"a": 1}] * 30}
    found = roles(date=DAYS, y=WAVE, **nested)
    assert (found.time, found.series, found.label, found.values) == ("date", None, None, ("y",))
    assert found.left_out == {
        "label": "lists or records, such as '[1 2]'",
        "site": "lists or records, such as \"{'a': 1}\"",
    }


def test_a_table_on_its_side() -> None:
    """A table with a column for each year is refused with the way to turn it."""
    years = {str(year): WAVE for year in range(1990, 2000)}
    with pytest.raises(DataError, match=r"its times as columns \('1990', '1991'...\).*melt"):
        roles(country=["a"] * 30, **years)


def test_words_of_a_name() -> None:
    """Words end at spaces, digits, underscores and capitals, in any alphabet."""
    assert words_of("storeId_2 Größe") == {"store", "id", "größe"}
