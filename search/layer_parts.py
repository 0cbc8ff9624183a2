"""What the passes of all recurrent layers have in common: all that is not of one step (compiled).

Shapes are those of `search.layer_passes`.
"""

from __future__ import annotations

from typing import Any

from numba import carray

from search.compiled import Array, Pointer, compiled, multiply
from search.layer_memory import EVEN


@compiled
def see(seen: Array, inputs: Array, w_in: Pointer, bias: Pointer) -> None:
    """Makes (N, G) what the inputs (N, F) come to at all steps."""
    gates, features = seen.shape[1], inputs.shape[1]
    start = carray(bias, gates)
    for r in range(len(seen)):
        for j in range(gates):
            seen[r, j] = start[j]
    multiply(seen, inputs, carray(w_in, (gates, features)), 1, 0, 1)


FEW = 32
"""Columns below which a product is made turned: libraries make one of few columns in a quarter to a
tenth of their pace (`studies/LOG.md`), and one of few rows nearly as quickly as others."""
TILE = 16
"""Rows and columns of what is turned at a time, so that it stays in the nearest cache."""


@compiled
def weigh(driven: Array, gates: int, shown: Array, d_weights: Pointer, room: Pointer) -> None:
    """Makes the gradient of weights that were shown (N, F) and drive (N, G).

    ``driven`` may have more columns, which nobody looks at; ``room`` is for (F, as many).
    """
    columns, features = driven.shape[1], shown.shape[1]
    made = carray(d_weights, (gates, features))
    even = features % EVEN == 0 or features > gates
    if even and columns == gates and features >= min(FEW, gates):
        multiply(made, driven, shown, 0, 1, 0)
        return
    turned = carray(room, (features, columns))
    multiply(turned, shown, driven, 0, 1, 0)
    for g in range(0, gates, TILE):
        for f in range(0, features, TILE):
            for i in range(g, min(g + TILE, gates)):
                for j in range(f, min(f + TILE, features)):
                    made[i, j] = turned[j, i]


@compiled
def widen(weights: Pointer, rows: int, columns: int, high: int, wide: int, room: Pointer) -> Any:
    """Returns (``high``, ``wide``) weights, zeros added, in ``room``; or as they are."""
    given = carray(weights, (rows, columns))
    if high == rows and wide == columns:
        return given
    made = carray(room, (high, wide))
    for i in range(rows):
        for j in range(columns):
            made[i, j] = given[i, j]
        for j in range(columns, wide):
            made[i, j] = 0
    made[rows:] = 0
    return made


@compiled
def add_up(driven: Array, gates: int, counts: Array, d_bias: Pointer, room: Pointer) -> None:
    """Makes the sum over all steps and rows; step by step, so that few roundings add up."""
    total, part = carray(d_bias, gates), carray(room, gates)
    total[:] = 0
    row = 0
    for count in counts:
        part[:] = 0
        for b in range(row, row + count):
            for j in range(gates):
                part[j] += driven[b, j]
        for j in range(gates):
            total[j] += part[j]
        row += count


@compiled
def pass_down(
    driven: Array,
    gates: int,
    w_in: Pointer,
    features: int,
    d_inputs: Pointer,
    wide: int,
    room: Pointer,
) -> None:
    """Makes the gradient of the inputs, (N, ``wide``) of which F columns count; 0 wide: does not.

    What ``driven`` has beyond G columns is 0; ``room`` is for (as many as it has, ``wide``).
    """
    if wide > 0:
        weights = widen(w_in, gates, features, driven.shape[1], wide, room)
        multiply(carray(d_inputs, (len(driven), wide)), driven, weights, 0, 0, 0)
