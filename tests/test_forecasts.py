"""What an exported forecasting model makes of rows that are missing, and how it counts them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from test_predict_refusals import FORECAST, put_model
from test_predict_times import after, study

import search
from search.config import ForecastData
from search.data import load_splits
from search.data.cards import Card


def predict(folder: Path, values: dict[str, Any], **keys: Any) -> pd.DataFrame:
    """Returns the forecasts of a model that was never trained, with a window of 3 rows."""
    card = FORECAST.model_copy(
        update={
            "features": ("y",),
            "feature_mean": (0.0,),
            "feature_std": (1.0,),
            "window": 3,
            **keys,
        }
    )
    file = folder / "new.csv"
    pd.DataFrame(values).to_csv(file, index=False)
    said = search.load(put_model(folder / "model", card)).predict(file)
    assert isinstance(said, pd.DataFrame)
    return said


NAN = float("nan")


def test_rows_are_counted_before_they_are_dropped(tmp_path: Path) -> None:
    """Without times, rows are numbered as in the file, those with a missing value included."""
    values = [1.0, 2.0, NAN, 4.0, 5.0, 6.0, 7.0]
    said = predict(tmp_path, {"y": values}, missing="drop")
    assert said["made_from"].tolist() == [6, 6, 7, 7]
    assert said["row"].tolist() == [7, 8, 8, 9]


def test_rows_are_counted_in_each_series(tmp_path: Path) -> None:
    """With several series, too, a dropped row counts, and each series begins with 1."""
    one, two = [NAN, 1.0, 2.0, 3.0], [1.0, 2.0, 3.0, 4.0]
    table = {
        "k": [*"abababab"],
        "y": [value for pair in zip(one, two, strict=True) for value in pair],
    }
    said = predict(tmp_path, table, missing="drop", series="k")
    assert said[["k", "made_from"]].drop_duplicates().to_numpy().tolist() == [
        ["a", 4],
        ["b", 3],
        ["b", 4],
    ]


def test_a_series_that_is_dropped_whole(tmp_path: Path) -> None:
    """Where every row of a series lacks its value, the others are forecast as without it."""
    days = pd.date_range("2026-01-01", periods=5, freq="D").astype(str)
    table = {"k": [*"aaaaabbbbb"], "t": [*days, *days], "y": [NAN] * 5 + [1.0, 2.0, 3.0, 4.0, 5.0]}
    said = predict(tmp_path, table, missing="drop", series="k", time="t", step="D")
    assert set(said["k"]) == {"b"}
    last = said[said["made_from"] == pd.Timestamp("2026-01-05")]
    assert last["t"].tolist() == [*pd.date_range("2026-01-06", periods=2, freq="D")]


def test_no_forecast_is_made_from_what_came_after(tmp_path: Path) -> None:
    """No window ends with a value interpolated from a later one; at the end nothing is later."""
    values = [NAN, NAN, NAN, 3.0, NAN, 5.0, 6.0, NAN, NAN]
    said = predict(tmp_path, {"y": values}, missing="interpolate")
    assert said["made_from"].unique().tolist() == [4, 6, 7, 8, 9]


def test_what_follows_a_gap_is_not_seen_before_it(tmp_path: Path) -> None:
    """Before a gap, as at the end, a missing value takes the one before and looks back."""
    table = {"t": [1, 2, 3, 4, 50, 51, 52], "y": [1.0, 2.0, 3.0, NAN, NAN, 6.0, 7.0]}
    said = predict(tmp_path, table, missing="interpolate", time="t", step=1.0)
    assert said["made_from"].unique().tolist() == [3, 4, 52]


@pytest.mark.parametrize(("count", "which"), [(1, "row"), (3, "3 rows")])
def test_last_rows_that_are_filled_in_are_said(tmp_path: Path, count: int, which: str) -> None:
    """Last rows that repeat an older value, for want of one, are forecast from, with a note."""
    values = [1.0, 2.0, 3.0, 4.0, *[NAN] * count]
    said = f"a value is missing in the last {which}, and the one before stands in"
    with pytest.warns(UserWarning, match=said):
        table = predict(tmp_path, {"y": values}, missing="interpolate")
    assert table["made_from"].max() == 4 + count


def test_last_rows_are_counted_by_what_no_later_row_has(tmp_path: Path) -> None:
    """A row whose value is interpolated to the last one is not among those filled in."""
    table = {"y": [1.0, 2.0, 3.0, 4.0, NAN], "x": [1.0, 2.0, 3.0, NAN, 5.0]}
    keys = {"features": ("y", "x"), "feature_mean": (0.0, 0.0), "feature_std": (1.0, 1.0)}
    with pytest.warns(UserWarning, match="a value is missing in the last row, and"):
        predict(tmp_path, table, missing="interpolate", **keys)


def test_last_rows_that_nothing_is_forecast_from(tmp_path: Path) -> None:
    """Too few since a gap, they are said to be that, and not that a value of theirs stands in."""
    table = {"t": [1, 2, 3, 4, 50, 51], "y": [1.0, 2.0, 3.0, 4.0, 5.0, NAN]}
    with pytest.warns(UserWarning, match=": from the last rows nothing is forecast") as said:
        predict(tmp_path, table, missing="interpolate", time="t", step=1.0)
    assert len(said) == 1


def test_last_rows_that_are_dropped_are_said(tmp_path: Path) -> None:
    """Where the newest rows of some series are dropped, these are named, and how many rows.

    One that nothing at all is forecast for is not among them.
    """
    values = {"a": [1.0, 2.0, 3.0, NAN, NAN], "b": [1.0, 2.0, 3.0, 4.0, NAN], "c": [1.0] * 5}
    values["d"] = [1.0, 2.0, NAN, NAN, NAN]
    table = {
        "k": [*"aaaaabbbbbcccccddddd"],
        "y": [one for series in values.values() for one in series],
    }
    said = "a value is missing in the last rows, up to 2, of 2 series: 'a', 'b', so that nothing"
    nothing = pytest.warns(UserWarning, match="nothing is forecast for series 'd'")
    with nothing, pytest.warns(UserWarning, match=said):
        predict(tmp_path, table, missing="drop", series="k")


@pytest.mark.parametrize("missing", ["interpolate", "drop"])
def test_older_rows_without_a_value_are_no_news(tmp_path: Path, missing: str) -> None:
    """Where the newest rows lack nothing, there is no note."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        predict(tmp_path, {"y": [1.0, NAN, 3.0, 4.0, 5.0]}, missing=missing)


@pytest.mark.parametrize("written", ["%m.%Y", "%b-%y", "%d.%m.%y"])
def test_months_are_read_as_in_the_study(tmp_path: Path, written: str) -> None:
    """Months that might be numbers, and years of two digits, go on in their own order."""
    months = pd.date_range("1960-01-01", periods=480, freq="MS")
    study(tmp_path, months.strftime(written))
    expected = list(pd.date_range("2000-01-01", periods=3, freq="MS"))
    assert after(tmp_path, months[-24:].strftime(written)) == expected
    assert after(tmp_path, months[:24].strftime(written))[0] == pd.Timestamp("1962-01-01")


def test_a_study_reads_months_in_order(tmp_path: Path) -> None:
    """The rows of a study are in the order of its months, not of the numbers they look like."""
    months = pd.date_range("2001-01-01", periods=60, freq="MS").strftime("%m.%Y")
    values = np.arange(60.0)
    pd.DataFrame({"t": months, "y": values}).to_csv(tmp_path / "s.csv", index=False)
    keys = {"path": tmp_path / "s.csv", "target": "y", "time": "t", "window": 4}
    splits = load_splits(ForecastData.model_validate({"task": "forecast", **keys}))
    assert splits.observed[:, 0].tolist() == values.tolist()
    card: Card = TypeAdapter(Card).validate_python(splits.card())
    assert card.time_format == "%m.%Y"
