"""Series of different lengths, packed: all first steps, all second ones, nothing after the ends.

Rows are sorted by length, so that those which still go on at a step are the first of those that did
at the step before. To calculate what comes after a series' end would take as long as what comes
before it: of the minibatches of nine speakers' vowels that is a third.

Shapes: B minibatch, T time, N steps of all series.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from search.object_code import run


@dataclass(frozen=True)
class Packing:
    """Where which step of which row lies.

    Attributes:
        steps: T.
        rows: B.
        total: N.
        live: (T,) int64 how many rows have a step, and more.
        places: (N,) int64 what lies there, among (B, T) in one piece; None if all rows have all
            steps: they lie one after another then, (T, B).
        before: (N,) int64 where the step before is, if B rows of something else, sorted likewise,
            lie before the first; None likewise.
        ends: (B,) int64 where the last step of each row lies; None likewise.
    """

    steps: int
    rows: int
    total: int
    live: Tensor
    places: Tensor | None = None
    before: Tensor | None = None
    ends: Tensor | None = None

    def befores(self, states: Tensor) -> Tensor:
        """Returns what is before each step.

        Args:
            states: (B + N, ·) what is before the first steps, and what comes of each step.

        Returns:
            Of which the first N are it.
        """
        return states if self.before is None else states.index_select(0, self.before)


@functools.lru_cache(maxsize=64)
def full(steps: int, rows: int) -> Packing:
    """Returns the packing of rows that have all steps."""
    with torch.inference_mode(False):
        live = torch.full((steps,), rows, dtype=torch.int64, device="cpu")
        return Packing(steps, rows, steps * rows, live)


def packed(lengths: Tensor, steps: int, unit: int = 1) -> Packing | None:
    """Returns the packing of rows, or None if all have all steps.

    Args:
        lengths: (B,) on the CPU, from 1.
        steps: T.
        unit: Rows go on beyond their ends until a multiple of so many, or all, end together.
    """
    rows = len(lengths)
    sizes = rows * steps, rows * steps, rows, steps, rows + steps + 1
    made = [torch.empty(size, dtype=torch.int64, device="cpu") for size in sizes]
    places, before, ends, live, room = made
    run("pack", torch.float32, (rows, steps, unit), (lengths.long().contiguous(), *made))
    total, longest = room[:2].tolist()
    if total == rows * steps:
        return None
    return Packing(longest, rows, total, live, places[:total], before[:total], ends)
