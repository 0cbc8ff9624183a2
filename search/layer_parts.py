"""What the passes of all recurrent layers have in common: all that is not of one step (compiled).

Shapes are those of `search.layer_passes`.
"""

from __future__ import annotations

from numba import carray

from search.compiled import Array, Pointer, compiled, multiply


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


@compiled
def weigh(driven: Array, shown: Array, d_weights: Pointer, room: Pointer) -> None:
    """Makes the gradient of weights that were shown (N, F) and drive (N, G).

    ``room`` is for (F, G), if F is below `FEW` and G.
    """
    gates, features = driven.shape[1], shown.shape[1]
    made = carray(d_weights, (gates, features))
    if features >= min(FEW, gates):
        multiply(made, driven, shown, 0, 1, 0)
        return
    turned = carray(room, (features, gates))
    multiply(turned, shown, driven, 0, 1, 0)
    for g in range(gates):
        for f in range(features):
            made[g, f] = turned[f, g]


@compiled
def add_up(driven: Array, counts: Array, d_bias: Pointer, room: Pointer) -> None:
    """Makes the sum over all steps and rows; step by step, so that few roundings add up."""
    gates = driven.shape[1]
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
def pass_down(driven: Array, w_in: Pointer, d_inputs: Pointer, features: int) -> None:
    """Makes the gradient of the inputs, if there is room for it."""
    made = carray(d_inputs, (len(driven), features))
    if made.ctypes.data != 0:
        multiply(made, driven, carray(w_in, (driven.shape[1], features)), 0, 0, 0)
