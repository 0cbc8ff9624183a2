"""Decimal signs, thousands and dates in CSV text that could be taken for one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.data.delimited import decode, find_dialect, read_csv
from search.errors import DataError

PATH = Path("table.csv")


@pytest.mark.parametrize("months", [("01.2020", "02.2020"), ("1.2020", "10.2020")])
def test_a_month_has_no_decimal_point(months: tuple[str, str]) -> None:
    """Beside months such as 01.2020, a decimal comma is still found."""
    text = f"Monat;y\n{months[0]};1,5\n{months[1]};2,25\n"
    assert find_dialect(text, PATH) == (";", ",")
    frame = read_csv(text, PATH)
    assert frame["Monat"].tolist() == list(months)
    assert frame["y"].tolist() == [1.5, 2.25]


def test_prices_with_four_decimals_have_a_point() -> None:
    """Numbers that might be months are numbers where no other has a decimal comma."""
    frame = read_csv("day;price\n1;1.2020\n2;10.1999\n", PATH)
    assert frame["price"].tolist() == [1.202, 10.1999]


GERMAN = "Datum;Umsatz;Quote\n01.01.2020;85.210;1,0\n02.01.2020;64.058;5,8\n"


def test_thousands_beside_decimal_commas() -> None:
    """Points in groups of three digits are thousands where decimals have a comma: refused."""
    with pytest.raises(DataError, match=r"'Umsatz' has '85\.210' in row 2.*looks like thousands"):
        read_csv(GERMAN, PATH)


@pytest.mark.parametrize(
    "text",
    [
        "day;level;pair\n1;1.250;1,0\n2;0.125;2,0\n",
        "day;level;pair\n1;85.210;a,b\n2;64.058;c,d\n",
        "day;level;pair\n1;85.210;1,000\n2;64.058;2,000\n",
    ],
)
def test_three_decimals_without_decimal_commas(text: str) -> None:
    """Three decimals are decimals if some number has others, or none must have a comma."""
    assert read_csv(text, PATH)["level"].between(0.1, 90).all()


def test_decimals_about_one_level_are_no_thousands() -> None:
    """Averages of three readings have three decimals, and now and then none: 119 beside 120.333."""
    for rows in ("120.333\n118.667\n119\n", "-120.333\n-118.667\n119\n"):
        frame = read_csv("pressure\n" + rows, PATH)
        assert frame["pressure"].abs().between(118, 121).all()
    for rows in (
        "1.000\n1.237\n998\n",
        "12.345\n980\n120\n",
        "1.204\n120.333\n119\n",
        "1.234.567\n2.345.678\n350\n",
    ):
        with pytest.raises(DataError, match="looks like thousands"):
            read_csv("pressure\n" + rows, PATH)


def test_names_may_have_points_beside_decimal_commas() -> None:
    """A column of names is no number with thousands, whatever stands beside it."""
    assert read_csv(GERMAN, PATH, ["Umsatz"])["Umsatz"].tolist() == ["85.210", "64.058"]


def test_a_header_may_begin_like_an_archive() -> None:
    """Text that begins with PK is text; only the marks of a ZIP archive are refused."""
    assert decode(b"PKW,y\n1,2\n", PATH).startswith("PKW")
    for mark in (b"PK\x03\x04", b"PK\x05\x06"):
        with pytest.raises(DataError, match="is binary"):
            decode(mark + b" and so on", PATH)
