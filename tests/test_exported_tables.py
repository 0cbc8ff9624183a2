"""Tables as Excel, pandas and R write them: what is missing, counts rows, or is a comma."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from search.data.tables import numbers, numeric_columns, read_table
from search.errors import DataError

NAN = float("nan")


def read(folder: Path, text: str) -> dict[str, list[object]]:
    """Reads a table."""
    (folder / "t.csv").write_text(text)
    return read_table(folder / "t.csv").to_dict("list")


@pytest.mark.parametrize(
    ("text", "column", "values"),
    [
        ("day;units\n1;1,5\n2;NA\n3;2,25\n", "units", [1.5, NAN, 2.25]),
        ("day;units\n1;-1,5\n2;-\n3;,25\n", "units", [-1.5, NAN, 0.25]),
        ("version;units\n1.2;1,5\n3.4;2\n", "units", [1.5, 2.0]),
        ("version;units\n1.2;1,5\n3.4;1,500\n", "units", [1.5, 1.5]),
        ('day,units\n1,"1,5"\n2,"2,25"\n', "units", [1.5, 2.25]),
    ],
)
def test_decimal_commas_by_column(
    tmp_path: Path, text: str, column: str, values: list[float]
) -> None:
    """A comma is a decimal sign beside missing values, other columns' points, and in quotes."""
    np.testing.assert_array_equal(read(tmp_path, text)[column], values)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("day;sold\n1;998\n2;-\n3;1.000\n", "column 'sold' has '1.000' in row 4"),
        ("day;sold\n1;998\n2;NA\n3;1.000\n", "column 'sold' has '1.000' in row 4"),
        ("version;sold\n1.2;1,500\n3.4;2,300\n", "column 'sold' has '1,500' in row 2"),
        ("day;units\n1;1,5\n2;x\n3;2,5\n", "column 'units' has 'x' in row 3"),
    ],
)
def test_what_is_no_decimal_comma(tmp_path: Path, text: str, says: str) -> None:
    """Thousands are refused beside markers of missing values, too; else the culprit is named."""
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        numbers(read_table(path), text.partition("\n")[0].split(";")[1], path)


def test_rows_of_delimiters_at_the_end(tmp_path: Path) -> None:
    """What Excel leaves below a table is no row of it; within, it is one without values."""
    assert read(tmp_path, "day,sold\n1,2\n,\n3,4\n,\n ,\n") == {
        "day": [1, pytest.approx(NAN, nan_ok=True), 3],
        "sold": [2, pytest.approx(NAN, nan_ok=True), 4],
    }
    assert len(read(tmp_path, "sold\n1\n\n2\n\n")["sold"]) == 3


@pytest.mark.parametrize("counted", [[0, 1, 3], [5, 2, 9], [0, 1, 0], [1, 2, 1]])
def test_row_numbers_without_a_name(tmp_path: Path, counted: list[int]) -> None:
    """The index of a table that was filtered, sorted or put together is no column of it."""
    rows = "".join(f"{number},{number * 1.5}\n" for number in counted)
    assert list(read(tmp_path, ",temp\n" + rows)) == ["temp"]


@pytest.mark.parametrize(
    "times", [[2001, 2002, 2004], [20200131, 20200229, 20200331], [1577836800, 1577836860]]
)
def test_times_without_a_name(tmp_path: Path, times: list[int]) -> None:
    """An index that may be years, dates or seconds is kept."""
    rows = "".join(f"{number},1.5\n" for number in times)
    assert read(tmp_path, ",temp\n" + rows)["Unnamed"] == times


def test_true_and_false_with_a_missing_one(tmp_path: Path) -> None:
    """A column of true and false is one of numbers, whether or not all are there."""
    read(tmp_path, "promo,open,x\nTrue,TRUE,yes\n,FALSE,no\nFalse,TRUE,yes\n")
    frame = read_table(tmp_path / "t.csv")
    assert numeric_columns(frame) == ["promo", "open"]
    np.testing.assert_array_equal(numbers(frame, "promo", tmp_path), [1, NAN, 0])
