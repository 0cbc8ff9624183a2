"""The line of bars: what is best so far, and how it is drawn where."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from search.sparkline import BLOCKS, PLAIN, WIDTH, best_so_far, sparkline
from search.trial import Goal

MINIMIZE, MAXIMIZE = Goal(), Goal("accuracy", minimize=False)
values_ = st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=90)


def test_bars_follow_the_values() -> None:
    """The largest value is the highest bar, the smallest the lowest, what is between between."""
    assert sparkline([7, 6, 5, 4, 3, 2, 1, 0], "utf-8") == "█▇▆▅▄▃▂▁"
    assert sparkline([0.5, 0.5], "utf-8") == "▁▁"
    assert sparkline([], "utf-8") == ""


def test_plain_where_the_encoding_has_no_bars() -> None:
    """Where the bars cannot be written there are signs that every encoding has."""
    for encoding in ("ascii", "latin-1"):
        assert sparkline([1, 0], encoding) == "#_"


@given(values_, st.integers(1, 60), st.sampled_from(["utf-8", "ascii"]))
def test_never_too_long(values: list[float], width: int, encoding: str) -> None:
    """Whatever finite values come: a bar for each, or as many as fit, all of one alphabet."""
    line = sparkline(values, encoding, width)
    assert len(line) == min(len(values), width)
    assert set(line) <= set(BLOCKS if encoding == "utf-8" else PLAIN)


def test_a_long_history_keeps_its_ends() -> None:
    """Of more values than fit, the first and the last are always drawn."""
    line = sparkline([9.0, *[5.0] * 500, 0.0], "utf-8")
    assert len(line) == WIDTH
    assert (line[0], line[-1]) == ("█", "▁")


def test_the_best_so_far() -> None:
    """Trials without a value keep the best that there is; before the first there is none."""
    assert best_so_far([None, 3.0, None, 4.0, 2.0, math.nan], MINIMIZE) == [3.0, 3.0, 3.0, 2.0, 2.0]
    assert best_so_far([0.2, 0.1, 0.3], MAXIMIZE) == [0.2, 0.2, 0.3]
    assert best_so_far([None], MINIMIZE) == []
