"""What `init` takes for the class of labelled series, and what it says where it cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from refusing import Refuse
from test_init import data_of, here

from search.init import initiate

__all__ = ["here"]


def recordings(label: list[Any], rows: int = 12, **columns: list[Any]) -> pd.DataFrame:
    """Returns a series for each label, in a column whose name says nothing, and further columns.

    Args:
        label: Of each series.
        rows: Of a series.
        columns: One value for each series.
    """
    series = [at for at in range(len(label)) for _ in range(rows)]
    wave = [float((7 * at * at) % 31) for at in range(len(series))]
    known = {name: [values[at] for at in series] for name, values in columns.items()}
    return pd.DataFrame(
        {
            "rec": [f"r{at}" for at in series],
            "ax": wave,
            **known,
            "what": [label[at] for at in series],
        }
    )


@pytest.mark.parametrize("labels", [[3, 1, 2], [0.5, 2.25, 1.0], [True, False, True]])
@pytest.mark.parametrize("timed", [True, False])
def test_what_is_no_text_is_a_class_if_one_is_asked_for(
    here: Path, labels: list[float], timed: bool
) -> None:
    """The only column that could be the class is it, named or not, and its series no channel."""
    frame = recordings(labels * 8)
    if timed:
        frame.insert(1, "t", list(range(12)) * 24)
    frame["rec"] = frame["rec"].str.removeprefix("r").astype(int)
    frame.to_csv("moves.csv", index=False)
    for targets in ((), ("what",)):
        done = initiate(Path("moves.csv"), task="classify", targets=targets, force=True)
        data = data_of(done.study)
        assert (data["label"], data["series"], data["features"]) == ("what", "rec", ["ax"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"t": list(range(12)) * 24}, True),
        ({}, False),
        ({"year": [*range(2000, 2012)] * 24}, False),
        ({"t": list(range(12)) * 24, "size": [at // 48 for at in range(288)]}, False),
        ({"day": [f"2024-01-{1 + at:02}" for at in range(12)] * 24}, False),
    ],
)
def test_a_class_is_pointed_out_where_there_is_one(
    here: Path, more: dict[str, Any], said: bool
) -> None:
    """Unasked the one column that may be a class is named; where there are dates, it is none."""
    frame = recordings([3, 1, 2] * 8).assign(**more)
    frame.to_csv("moves.csv", index=False)
    hints = [note for note in initiate(Path("moves.csv")).notes if "if it is their class" in note]
    assert bool(hints) == said
    if said:
        assert "'what' is the same in all rows of each 'rec'" in hints[0]
        assert "--task classify --target what" in hints[0]


def test_of_several_columns_the_class_is_asked_for(here: Path, refuse: Refuse) -> None:
    """Where two columns could be the class, both are named, with the option that chooses."""
    frame = recordings([0, 1] * 10, age=[30, 40, 50, 60] * 5)
    files = {"moves.csv": frame.to_csv(index=False)}
    said = ("'age', 'what'; name the class: --target COLUMN", "all rows of each 'rec'")
    refuse(files, said, "init", "moves.csv", "--task", "classify")


def test_series_too_short_to_forecast_may_be_labelled(refuse: Refuse) -> None:
    """What cannot be forecast says which column may be a class, and asks for no lower window."""
    frame = recordings([0, 1] * 10)
    frame.insert(1, "t", list(range(12)) * 20)
    short = frame.drop(index=range(1, 12))
    said = (
        "series 'r0' has 1 rows, fewer than window 1 + horizon 1; no window fits; give it more",
        "if it is their class: --task classify --target what",
    )
    refuse({"moves.csv": short.to_csv(index=False)}, said, "init", "moves.csv")
