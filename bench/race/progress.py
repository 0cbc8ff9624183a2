"""The best loss so far as a function of time, of one race and of many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Improvements = Sequence[tuple[float, float]]
"""Seconds and loss, each better than the one before."""


def read_lines(path: Path, seconds: float) -> list[dict[str, Any]]:
    """Returns the lines of a race that were written in time, by their time.

    A last line without its end is of a process that was ended while it wrote, and is left out.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return sorted(
        (line for line in lines if line["seconds"] <= seconds), key=lambda line: line["seconds"]
    )


def improvements(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the lines whose loss is better than all before, whichever process wrote them."""
    found: list[dict[str, Any]] = []
    for line in lines:
        loss = line.get("loss")
        if loss is not None and math.isfinite(loss) and (not found or loss < found[-1]["loss"]):
            found.append(line)
    return found


def best_at(curve: Improvements, seconds: float) -> float:
    """Returns the best loss at a moment; infinite: there is none yet."""
    return min((loss for at, loss in curve if at <= seconds), default=math.inf)


def time_to(curve: Improvements, loss: float) -> float:
    """Returns when a loss was reached; infinite: never."""
    return min((at for at, reached in curve if reached <= loss), default=math.inf)


def times_to_final(ours: Sequence[Improvements], theirs: Sequence[Improvements]) -> list[float]:
    """Returns when ours reached what theirs had at the end, for every pair of seeds.

    Where theirs had nothing, it is when ours had anything; infinite: never.
    """
    ends = [best_at(curve, math.inf) for curve in theirs]
    return [time_to(curve, end) for curve, end in product(ours, ends)]


def half_in_time(
    ours: Sequence[Improvements], theirs: Sequence[Improvements], seconds: float
) -> list[str]:
    """Returns for each pair of one seed if ours had theirs' last loss in half the time."""
    times = [
        time_to(mine, best_at(other, math.inf)) for mine, other in zip(ours, theirs, strict=True)
    ]
    return ["half" if at <= seconds / 2 else "later" if at < math.inf else "never" for at in times]


def ever_ahead(
    theirs: Improvements, ours: Sequence[Improvements], after: float, seconds: float
) -> int:
    """Returns of how many of ours a race of theirs was ahead at some moment after ``after``."""
    at = [one for one in moments(seconds) if one > after]
    return sum(any(best_at(theirs, one) < best_at(mine, one) for one in at) for mine in ours)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns lower quartile, median and upper quartile, each one of the values.

    Infinite ones have no mean, so nothing is interpolated; of an even number of values the median
    is the worse one, and of few the outer ones are what is further out.
    """
    ordered = sorted(values)
    last = len(ordered) - 1
    places = math.floor(0.25 * last), math.ceil(0.5 * last), math.ceil(0.75 * last)
    low, middle, high = (ordered[place] for place in places)
    return low, middle, high


def moments(seconds: float, count: int = 200, first: float = 1.0) -> NDArray[np.float64]:
    """Returns moments from ``first`` to ``seconds``, evenly spaced in the logarithm."""
    return np.geomspace(first, seconds, count)


def median_curve(
    curves: Sequence[Improvements], at: Iterable[float]
) -> list[tuple[float, float, float]]:
    """Returns the quartiles of the best loss so far at each moment."""
    return [quartiles([best_at(curve, moment) for curve in curves]) for moment in at]


def last_behind(
    ours: Sequence[Improvements], theirs: Sequence[Improvements], seconds: float
) -> float:
    """Returns the last moment at which our median is worse than theirs; 0: never."""
    at = moments(seconds)
    pairs = zip(at, median_curve(ours, at), median_curve(theirs, at), strict=True)
    return max((float(moment) for moment, mine, other in pairs if mine[1] > other[1]), default=0.0)


def ratios(
    ours: Sequence[Improvements], theirs: Sequence[Improvements], at: Iterable[float]
) -> list[float]:
    """Returns our best loss over theirs at each moment, the median of all pairs of seeds.

    Where they have none yet it is 0, where we alone have none infinite; neither has any: 1.
    """
    pairs = list(product(ours, theirs))
    return [
        quartiles([_ratio(best_at(mine, one), best_at(other, one)) for mine, other in pairs])[1]
        for one in at
    ]


def _ratio(mine: float, other: float) -> float:
    if mine == other:
        return 1.0
    return 0.0 if math.isinf(other) else mine / other
