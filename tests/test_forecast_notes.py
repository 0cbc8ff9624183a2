"""What is said of a table that is cut into windows: which would fit, and what fits it badly."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_forecasting import daily, load, noise, walk

from search.errors import DataError


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 38), st.integers(1, 38), st.integers(1, 3))
def test_the_largest_window_that_is_said_to_fit_fits(
    tmp_path: Path, hole: int, other: int, horizon: int
) -> None:
    """Whoever gives that window, as a refusal advises, is not refused for it; one more is."""
    days = np.setdiff1d(np.arange(40), [hole, other])
    frame = pd.DataFrame({"day": days, "y": noise(40)[days]})
    options: dict[str, Any] = {"time": "day", "horizon": horizon, "split": (0.5, 0.25, 0.25)}
    with pytest.raises(DataError) as caught:
        load(tmp_path, frame, target="y", window=100, **options)
    found = re.search(r"the largest window that fits is (\d+)", str(caught.value))
    largest = int(found[1]) if found else 0
    if largest:
        load(tmp_path, frame, target="y", window=largest, **options)
    with pytest.raises(DataError, match="window"):
        load(tmp_path, frame, target="y", window=largest + 1, **options)


def test_a_series_that_is_constant_varies_not_at_all(tmp_path: Path) -> None:
    """Its deviation, which may be a rounding, is compared with nothing."""
    values = np.concatenate([noise(60), np.full(60, 0.1)])
    frame = pd.DataFrame({"who": np.repeat(["a", "b"], 60), "y": values})
    assert load(tmp_path, frame, series="who", target="y", window=4).notes == ()


def test_series_that_vary_otherwise_are_said(tmp_path: Path) -> None:
    """Where one series varies ten times as much as another, what is pooled fits neither."""
    for scale, said in ((5.0, False), (50.0, True)):
        values = np.concatenate([noise(60), scale * noise(60, 1)])
        frame = pd.DataFrame({"who": np.repeat(["a", "b"], 60), "y": values})
        notes = load(tmp_path, frame, series="who", target="y", window=4).notes
        assert any("times as much in series 'b' as in 'a'" in note for note in notes) == said


def test_a_part_that_shows_nothing_is_said(tmp_path: Path) -> None:
    """Where the target stands still in a whole part, the note names both."""
    frame = pd.DataFrame({"y": np.concatenate([noise(84), np.full(36, 1.25)])})
    notes = load(tmp_path, frame, target="y", window=4).notes
    said = "the target 'y' is the same in all rows of the {} part, which tells little"
    assert [any(said.format(part) in note for note in notes) for part in ("valid", "test")] == [
        True,
        True,
    ]
    assert load(tmp_path, frame[:84], target="y", window=4).notes == ()


def test_describe_says_when_the_parts_are(tmp_path: Path) -> None:
    """From when to when; of series that are not equally long also that their parts overlap."""
    one = load(tmp_path, daily(walk(100)), time="when", window=5).describe()
    parts = "train 2020-01-01 to 2020-03-10, valid 2020-03-11 to 2020-03-25"
    assert f"{parts}, test 2020-03-26 to 2020-04-09" in one
    assert not any("each series is cut" in line for line in one)
    alike, late = daily(walk(100)).assign(s="a"), daily(walk(50)).assign(s="b")
    late["when"] = alike["when"].to_numpy()[50:]
    frame = pd.concat([alike, late])
    text = "\n".join(load(tmp_path, frame, time="when", series="s", window=5).describe())
    said = "each series is cut by its own length: train 2020-01-01 to 2020-03-25, valid 2020-03-11"
    assert said in text
    assert "some train up to 2020-03-25 while others are judged from 2020-03-11 on" in text
    frame = pd.concat([alike, alike.assign(s="b")])
    again = load(tmp_path, frame, time="when", series="s", window=5).describe()
    assert f"{parts}, test 2020-03-26 to 2020-04-09" in again
