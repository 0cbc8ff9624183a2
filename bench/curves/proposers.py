"""What a simulated study tries next, from the rows of a table: in random order, or as arranged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.curves.simulation import Board, Plan
from bench.curves.table import EPOCHS, FINDINGS, CurveTable, Floats

LESSON = ((0, 12), (1, 12), (2, 12))
"""Rows and epochs of the starting points of every study."""
FEWEST = 4
"""Epochs that a proposal has at least, as in the default space."""


def plan_of(table: CurveTable, row: int, epochs: int) -> Plan:
    """Returns what a row does if it is asked for so many epochs."""
    until = table.diverged[row]
    diverges = bool(until < epochs)  # Never, if it is NaN.
    whole = int(until) if diverges else epochs
    seconds = table.seconds[row, :whole].tolist()
    if diverges:
        # An epoch that was trained on, or was not, where a search would have ended it.
        share = 1.0 if np.isnan(table.valid[row, whole]) else until - whole
        seconds.append(float(share * table.seconds[row, whole]))
    return Plan(
        params={**table.params[row], "epochs": epochs},
        valid=table.valid[row, :whole].tolist(),
        seconds=seconds,
        epochs=epochs,
        findings=[FINDINGS[index] for index in table.findings[row, :whole]],
        diverges=diverges,
        row=row,
    )


class Rows:
    """Given rows first, then all others in random order.

    Args:
        table: Whose rows.
        seed: Decides the order, and how many epochs each has.
        first: Rows and epochs that come first.
        epochs: How many epochs the others have; None: from 4 to 36, as a sampler draws them.
        key: Orders the next few of the others, the least first; None: they come as they are.
        window: How many are ordered at a time.
        ordered: How many are ordered in all; the rest come as they are.
    """

    def __init__(
        self,
        table: CurveTable,
        seed: int,
        first: Sequence[tuple[int, int]] = LESSON,
        epochs: int | None = None,
        key: Callable[[CurveTable, int], float] | None = None,
        window: int = 20,
        ordered: int = 10**9,
    ) -> None:
        draw = random.Random(seed)
        self._table = table
        taken = {row for row, _ in first}
        rows = [row for row in range(len(table)) if row not in taken and row >= len(LESSON)]
        draw.shuffle(rows)
        if key is not None:
            head = rows[: min(ordered, len(rows))]
            parts = (head[at : at + window] for at in range(0, len(head), window))
            rows[: len(head)] = [
                row for part in parts for row in sorted(part, key=lambda one: key(table, one))
            ]
        drawn = [(row, epochs or draw.randint(FEWEST, EPOCHS)) for row in rows]
        self._queue = [*first, *drawn]
        self._next = 0

    def propose(self, board: Board) -> Plan | None:
        """Returns the next row's plan."""
        if self._next == len(self._queue):
            return None
        row, epochs = self._queue[self._next]
        self._next += 1
        return plan_of(self._table, row, epochs)


def cost(table: CurveTable, row: int) -> float:
    """Returns what a configuration can be expected to cost, from its size alone.

    Batches times steps, in which small networks differ little: what a step costs grows with
    layers, and slowly with units.
    """
    params = table.params[row]
    units = (1 + params["hidden_units"] / 64) * params["hidden_layers"]
    return float(units / params["batch_size"])


@dataclass(frozen=True)
class Portfolio:
    """Configurations that complement one another on several tables.

    Attributes:
        rows: In the order in which they are tried.
        epochs: That each is trained for.
    """

    rows: tuple[int, ...]
    epochs: int

    def first(self) -> list[tuple[int, int]]:
        """Returns the lesson's starting points, then these."""
        return [*LESSON, *((row, self.epochs) for row in self.rows)]


def build_portfolio(
    tables: Iterable[CurveTable], count: int, epochs: int, by_cost: bool = False
) -> Portfolio:
    """Chooses rows greedily: each is the one with which the best of all is best on average.

    Averaged over tables is the regret of the best so far, see `CurveTable.regret`.

    Args:
        tables: Those that it is chosen by, all of the same configurations.
        count: How many rows.
        epochs: For how many epochs each is trained.
        by_cost: Choose what gains most for its time, and not what gains most.
    """
    tables = list(tables)
    least = min(map(len, tables))
    worth = np.stack([_worth(table, least, epochs) for table in tables])
    seconds = np.stack(
        [np.nanmean(t.seconds[:least], axis=1) / np.nanmean(t.seconds) for t in tables]
    ).mean(axis=0)
    now = np.stack([_worth(t, least, 12)[: len(LESSON)].min() for t in tables])
    chosen: list[int] = []
    for _ in range(count):
        gains = (now[:, None] - np.minimum(now[:, None], worth)).mean(axis=0)
        gains[: len(LESSON)] = 0.0
        row = int(np.argmax(gains / seconds if by_cost else gains))
        if gains[row] <= 0:
            break
        chosen.append(row)
        now = np.minimum(now, worth[:, row])
    return Portfolio(tuple(chosen), epochs)


def _worth(table: CurveTable, rows: int, epochs: int) -> Floats:
    """(N,) regret of each row's best loss within so many epochs."""
    whole = np.fmin(np.where(np.isnan(table.diverged), epochs, table.diverged), epochs)
    last = np.floor(whole).astype(int)
    best = table.reached[np.arange(len(table)), np.maximum(last, 1) - 1]
    return table.regret(np.where(last > 0, best, np.inf))[:rows]
