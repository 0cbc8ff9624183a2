"""The times of forecasts: read as the study read its own, going on by the new data's calendar."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import TypeAdapter
from test_predict_refusals import put_model

import search
from search.cli import main
from search.config import ClassifyData, ForecastData
from search.data import load_splits
from search.data.cards import Card
from search.model_files import CARD

MONTHS = pd.date_range("1990-01-01", periods=120, freq="MS")


def write(path: Path, times: Any) -> Path:
    """Writes a table with these times and a wave."""
    wave = np.sin(np.arange(len(times)) / 2).round(4)
    pd.DataFrame({"t": list(times), "y": wave}).to_csv(path, index=False)
    return path


def study(folder: Path, times: Any, window: int = 6) -> Path:
    """Returns a model, never trained, of a study with these times."""
    path = write(folder / "study.csv", times)
    keys = {"target": "y", "time": "t", "window": window, "horizon": 3}
    data = ForecastData.model_validate({"task": "forecast", "path": path, **keys})
    card: Card = TypeAdapter(Card).validate_python(load_splits(data).card())
    return put_model(folder / "model", card)


def after(folder: Path, times: Any) -> list[Any]:
    """Returns the times that are forecast after the last of a new file."""
    said = search.load(folder / "model").predict(write(folder / "new.csv", times))
    assert isinstance(said, pd.DataFrame)
    return said["t"].tolist()[-3:]


@pytest.fixture
def quiet() -> Any:
    """No note is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        yield


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("written", ["%d/%m/%Y", "%d/%m/%Y %H:%M", "%d-%m-%Y", "%d.%m.%y"])
def test_day_and_month_stand_as_in_the_study(tmp_path: Path, written: str) -> None:
    """A year of months, which alone could be twelve days, is read as the study read its years."""
    study(tmp_path, MONTHS.strftime("%d/%m/%Y"))
    expected = list(pd.date_range("2000-01-01", periods=3, freq="MS"))
    assert after(tmp_path, MONTHS[-12:].strftime(written)) == expected


def test_times_in_another_order_are_read_and_said(tmp_path: Path) -> None:
    """Where the study's order of day and month does not fit, the other is taken, with a note."""
    study(tmp_path, pd.date_range("1999-01-01", periods=120).strftime("%d/%m/%Y"))
    new = pd.date_range("2001-01-10", periods=10)
    with pytest.warns(UserWarning, match="can only be read as %m/%d/%Y"):
        assert after(tmp_path, new.strftime("%m/%d/%Y"))[0] == pd.Timestamp("2001-01-20")


def test_a_model_of_before_loads(tmp_path: Path) -> None:
    """A model whose card does not say how times are written reads those that are clear."""
    model = study(tmp_path, MONTHS.strftime("%Y-%m-%d"))
    card = json.loads((model / CARD).read_text())
    del card["data"]["time_format"]
    (model / CARD).write_text(json.dumps(card))
    assert after(tmp_path, MONTHS[-12:].strftime("%Y-%m"))[0] == pd.Timestamp("2000-01-01")


@pytest.mark.usefixtures("quiet")
def test_counters_stay_counters(tmp_path: Path) -> None:
    """Numbers that alone could be months are numbers where the study's were."""
    study(tmp_path, range(200_001, 200_121))
    assert after(tmp_path, range(200_101, 200_110)) == [200_110, 200_111, 200_112]


@pytest.mark.usefixtures("quiet")
def test_a_missing_month_does_not_matter(tmp_path: Path) -> None:
    """A hole in the study, or in the new file, leaves forecasts on the first of the month."""
    study(tmp_path, MONTHS.delete(60))
    expected = list(pd.date_range("2000-01-01", periods=3, freq="MS"))
    assert after(tmp_path, MONTHS) == expected
    assert after(tmp_path, MONTHS[-24:].delete(4)) == expected


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize(
    ("frequency", "new"),
    [
        ("W-SUN", pd.date_range("2021-01-06", periods=13, freq="W-WED")),
        ("MS", pd.date_range("2021-01-15", periods=13, freq=pd.DateOffset(months=1))),
        ("MS", pd.date_range("2021-01-31", periods=13, freq="ME")),
        ("ME", pd.date_range("2021-01-01", periods=13, freq="MS")),
        ("MS", pd.date_range("2021-01-15", periods=13, freq="BME")),
        ("QS", pd.date_range("2021-01-15", periods=13, freq="QE")),
        ("QS-JAN", pd.date_range("2021-01-15", periods=13, freq="QS-FEB")),
        ("YE", pd.date_range("2021-07-04", periods=13, freq=pd.DateOffset(years=1))),
        ("D", pd.date_range("2021-01-15 12:00", periods=13, freq="D")),
        ("B", pd.date_range("2021-01-15", periods=13, freq="B")),
    ],
)
def test_times_keep_their_own_anchor(tmp_path: Path, frequency: str, new: pd.DatetimeIndex) -> None:
    """Forecasts are a step apart on the new data's day of the week, month, quarter or year."""
    study(tmp_path, pd.date_range("1900-01-01", periods=100, freq=frequency))
    assert after(tmp_path, new[:-3]) == new[-3:].tolist()


@pytest.mark.usefixtures("quiet")
def test_one_row_keeps_its_anchor(tmp_path: Path) -> None:
    """The day of a single row, which has no step of its own, is that of its forecasts."""
    study(tmp_path, MONTHS, window=1)
    expected = [pd.Timestamp(2001, month, 15) for month in (6, 7, 8)]
    assert after(tmp_path, ["2001-05-15"]) == expected


def test_another_step_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weeks given to a model of months go on as weeks, and the command says so."""
    model = study(tmp_path, MONTHS)
    new = write(tmp_path / "new.csv", pd.date_range("2021-01-03", periods=6, freq="W-SUN"))
    assert main(["predict", str(model), str(new)]) == 0
    said = capsys.readouterr()
    note = "its rows are 7 days apart, and the model has learned from rows that are 1 month apart"
    assert note in said.err
    assert said.err.count("\n") == 1
    assert said.out.splitlines()[-1].split(",")[2] == "2021-02-28"


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_months_on_the_wall(tmp_path: Path, zone: str) -> None:
    """Months with their offset from UTC go on as months of that place."""
    local = MONTHS.tz_localize(zone)
    study(tmp_path, local.astype(str))
    expected = [pd.Timestamp(2000, month, 1, tz=zone).tz_convert("UTC") for month in (1, 2, 3)]
    assert after(tmp_path, local[-12:].astype(str)) == expected


def test_months_on_the_wall_from_summer(tmp_path: Path) -> None:
    """What follows the last month keeps its offset from UTC, whatever that of the first was."""
    ends = pd.date_range("1990-01-01", periods=120, freq="ME")
    local = ends.tz_localize("Europe/Berlin")
    study(tmp_path, local.astype(str))
    assert after(tmp_path, local[-12:-5].astype(str)) == local[-5:-2].tz_convert("UTC").tolist()


def test_dates_for_a_model_of_counters(tmp_path: Path) -> None:
    """Dates that keep no step go on by one of their own, not by the study's step of its numbers."""
    study(tmp_path, range(120))
    new = pd.Timestamp("2020-01-01") + pd.to_timedelta([0, 2, 5, 9, 11, 14, 18], "D")
    with pytest.warns(UserWarning, match="its rows are 3 days apart"):
        assert after(tmp_path, new)[0] == pd.Timestamp("2020-01-22")


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("written", ["%Y-%m-%dT%H:%MZ", "%Y-%m-%d %H:%M+00:00", None])
def test_utc_is_answered_with_its_offset(tmp_path: Path, written: str | None) -> None:
    """Times that are said to be UTC, in words or by their type, are answered so, not without."""
    days = pd.date_range("2020-01-01", periods=120, tz="UTC")
    model = study(tmp_path, days.strftime(written or "%Y-%m-%dT%H:%MZ"))
    expected = pd.date_range(days[-1], periods=4)[1:].tolist()
    if written is not None:
        assert after(tmp_path, days[-12:].strftime(written)) == expected
        return
    said = search.load(model).predict(pd.DataFrame({"t": days[-12:], "y": np.arange(12.0)}))
    assert isinstance(said, pd.DataFrame)
    assert said["t"].tolist()[-3:] == expected


def test_dates_of_labelled_series_are_read_as_in_the_study(tmp_path: Path) -> None:
    """Rows of a series are in the order of their dates, day or month first as in the study."""
    rows = [
        (f"s{at}", f"{day:02}/{month:02}/2021", "up" if at % 2 else "down", day * at + month)
        for at in range(20)
        for month, day in ((1, 20), (2, 3), (3, 1))
    ]
    frame = pd.DataFrame(rows, columns=["id", "t", "way", "x"])
    frame.to_csv(tmp_path / "study.csv", index=False)
    keys = {"series": "id", "label": "way", "time": "t"}
    data = ClassifyData.model_validate({"task": "classify", "path": tmp_path / "study.csv", **keys})
    card: Card = TypeAdapter(Card).validate_python(load_splits(data).card())
    model = search.load(put_model(tmp_path / "model", card))
    few = frame[frame["t"].str[:2] < "13"]
    whole = model.predict(few.assign(t=pd.to_datetime(few["t"], format="%d/%m/%Y")))
    pd.testing.assert_frame_equal(model.predict(few), whole, check_exact=True)
