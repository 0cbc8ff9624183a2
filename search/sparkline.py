"""The best so far as one line of small bars: how a study has come to where it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

from search.trial import Goal

BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*%#"
"""Eight heights, from low to high; the second for terminals that know no others than ASCII."""
WIDTH = 40
"""Characters that a line has at most."""


def best_so_far(values: Sequence[float | None], goal: Goal) -> list[float]:
    """Returns the best of all values up to each, from the first that there is.

    Args:
        values: The value of every trial, in order; None for one that has none.
        goal: Which values are better.
    """
    best: list[float] = []
    for value in values:
        if value is None or not math.isfinite(value):
            best += best[-1:]
        elif not best or goal.better(value, best[-1]):
            best.append(value)
        else:
            best.append(best[-1])
    return best


def sparkline(values: Sequence[float], encoding: str, width: int = WIDTH) -> str:
    """Writes values as bars, the lowest value as the lowest bar.

    Args:
        values: Finite numbers; if there are more than ``width``, some are left out, evenly, but
            neither the first nor the last.
        encoding: What the line will be written in; decides which bars can be used.
        width: How long the line may be.
    """
    levels = BLOCKS if _can_write(encoding) else PLAIN
    count = min(len(values), width)
    last = len(values) - 1
    shown = [values[round(i * last / max(1, count - 1))] for i in range(count)]
    low, high = min(shown, default=0.0), max(shown, default=0.0)
    # Halved before they are subtracted, so that the difference of two large ones stays finite.
    reach = high / 2 - low / 2
    places = [(value / 2 - low / 2) / reach if reach > 0 else 0.0 for value in shown]
    return "".join(levels[min(7, int(8 * place))] for place in places)


def _can_write(encoding: str) -> bool:
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True
