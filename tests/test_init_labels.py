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


def test_true_and_false_are_a_class(here: Path) -> None:
    """They are as text is: nothing to forecast, whatever their column is called."""
    recordings([True, False] * 10).to_csv("moves.csv", index=False)
    data = data_of(initiate(Path("moves.csv")).study)
    assert (data["task"], data["label"], data["series"]) == ("classify", "what", "rec")
    assert data["features"] == ["ax"]


@pytest.mark.parametrize("labels", [[3, 1, 2], [0.5, 2.25, 1.0]])
def test_numbers_are_a_class_if_one_is_asked_for(here: Path, labels: list[float]) -> None:
    """The only column that could be the class is it; unasked it is pointed out."""
    recordings(labels * 8).to_csv("moves.csv", index=False)
    said = initiate(Path("moves.csv")).notes
    assert "'what' is the same in all rows of each 'rec'" in said[-1]
    assert "--task classify --target what" in said[-1]
    Path("studies/moves.toml").unlink()
    data = data_of(initiate(Path("moves.csv"), task="classify").study)
    assert (data["task"], data["label"], data["features"]) == ("classify", "what", ["ax"])


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
