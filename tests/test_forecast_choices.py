"""What `init` chooses for numbers in time: season, target, features, and what to do for gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_init import data_of, here

from search.errors import DataError
from search.init import initiate

__all__ = ["here"]


def weeks(rows: int) -> pd.DataFrame:
    """Returns days, a weekly wave and noise."""
    noise = np.random.default_rng(0).normal(size=(2, rows))
    wave = np.sin(2 * np.pi * np.arange(rows) / 7) + 0.2 * noise[0]
    return pd.DataFrame(
        {"date": pd.date_range("2022-01-01", periods=rows), "y": wave, "x": noise[1]}
    )


def outage() -> pd.DataFrame:
    """Returns such days without four of them, between which two lack their ``x``."""
    frame = weeks(310)
    frame.loc[102:103, "x"] = np.nan
    return frame.drop(index=[100, 101, 104, 105]).reset_index(drop=True)


def init(frame: pd.DataFrame, **options: Any) -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """Writes a table and a study for it; returns its data, the reasons for them, and the notes."""
    frame.to_csv("table.csv", index=False)
    done = initiate(Path("table.csv"), force=True, **options)
    said = done.to_json()
    return data_of(done.study), said["reasons"], said["notes"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("missing", [[], [750], [10], [3, 10, 14, 60, 750, 790]])
def test_a_gap_hides_no_season(missing: list[int]) -> None:
    """Missing days, early or late, leave stretches that are too short to speak of a season."""
    data, _, _ = init(weeks(800).drop(index=missing))
    assert (data["season"], data["window"], data["horizon"]) == (7, 14, 7)


@pytest.mark.usefixtures("here")
def test_the_test_part_has_no_say_in_the_season() -> None:
    """A season is as strong whatever the test part holds, values missing from it included."""
    said = []
    for factor in (1, 1000):
        frame = weeks(200)
        frame.loc[170:, "y"] *= factor
        frame.loc[[180, 185, 190], "y"] = np.nan
        said.append(init(frame)[1]["season"])
    assert "the autocorrelation is" in said[0]
    assert said[0] == said[1]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("name", ["price_index", "heat index", "uvIndex"])
def test_an_index_that_is_measured_is_forecast(name: str) -> None:
    """Numbers with decimals, or that come again, are no identifier, whatever they are called."""
    frame = weeks(200).round(1)
    data, _, notes = init(frame[["date", "y"]].rename(columns={"y": name}))
    assert data["target"] == name
    assert not [note for note in notes if "left out" in note]


@pytest.mark.usefixtures("here")
def test_an_identifier_is_forecast_if_it_is_asked_for() -> None:
    """Where nothing else can be forecast, it says how to ask; what is asked for is not left out."""
    frame = weeks(200)[["date"]].assign(uid=np.random.default_rng(0).permutation(200))
    said = r"the only numbers that vary are 'uid' \(an identifier, by its name\); .*--target COLUMN"
    with pytest.raises(DataError, match=said):
        init(frame)
    data, _, notes = init(frame, targets=("uid",))
    assert data["target"] == "uid"
    assert not [note for note in notes if "left out" in note]


@pytest.mark.usefixtures("here")
def test_what_was_refused_is_no_alternative() -> None:
    """Where interpolation has failed, rows are dropped, and the comment says why."""
    data, reasons, _ = init(outage())
    assert (data["features"], data["missing"]) == (["y", "x"], "drop")
    said = "\"interpolate\" was refused: column 'x' has no value at all in rows"
    assert said in reasons["missing"]
    assert "alternative" not in reasons["missing"]


@pytest.mark.usefixtures("here")
def test_features_that_were_refused_are_not_advised() -> None:
    """Where the other columns can be read in no way, the comment says what was wrong with them."""
    frame = outage().assign(z=np.random.default_rng(1).normal(size=306))
    lacking = [*range(226, 306, 2)]  # No two rows that follow each other are left of the test part.
    frame.loc[lacking[:20], "x"] = np.nan
    frame.loc[lacking[20:], "z"] = np.nan
    data, reasons, _ = init(frame)
    assert "features" not in data
    assert "was refused: column 'x' has no value at all in rows" in reasons["features"]
    assert "could be named" not in reasons["features"]
