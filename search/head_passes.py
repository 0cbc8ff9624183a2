"""The head of a network and its loss, there and back in one call (compiled).

For a minibatch of a small network, torch's calls for both take longer than what they calculate.

Shapes: N predictions (``rows``), H units (``hidden``), O outputs or classes (``outputs``). Given
are ``shown`` (N, H), what comes to the head, its ``weights`` (O, H) and ``bias`` (O,). Made are
their gradients, ``d_weights``, ``d_bias`` and ``d_shown``, and ``driven`` (N, O), by the outputs.
``room`` is for (max(H, `WIDE`), O).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import carray

from search.compiled import Array, Counts, Pointer, compiled, exponential, multiply
from search.layer_parts import see, weigh

WIDE = 16
"""Columns that are added up beside one another, as a processor does in one go: a sum in their order
would wait for each addition."""


def squared_error(
    rows: int,
    hidden: int,
    outputs: int,
    shown: Pointer,
    weights: Pointer,
    bias: Pointer,
    targets: Pointer,
    d_weights: Pointer,
    d_bias: Pointer,
    d_shown: Pointer,
    losses: Pointer,
    driven: Pointer,
    room: Pointer,
) -> None:
    """Makes ``losses`` (N,), sums of squares, of ``targets`` (N, O); gradients of their mean."""
    made, wanted = carray(driven, (rows, outputs)), carray(targets, (rows, outputs))
    found, seen = carray(losses, rows), carray(shown, (rows, hidden))
    see(made, seen, weights, bias)
    scale = found.dtype.type(2 / (rows * outputs))
    for r in range(rows):
        for j in range(outputs):
            made[r, j] -= wanted[r, j]
        total = found.dtype.type(0)
        for j in range(outputs):
            total += made[r, j] * made[r, j]
        found[r] = total
        for j in range(outputs):
            made[r, j] *= scale
    _go_back(made, seen, weights, d_weights, d_bias, d_shown, room)


def cross_entropy(
    rows: int,
    hidden: int,
    outputs: int,
    shown: Pointer,
    weights: Pointer,
    bias: Pointer,
    targets: Counts,
    d_weights: Pointer,
    d_bias: Pointer,
    d_shown: Pointer,
    losses: Pointer,
    driven: Pointer,
    room: Pointer,
) -> None:
    """Makes ``losses`` (2, N) of ``targets`` (N,), which are classes; below 0 a row does not count.

    A loss is the logarithm of the first and the second; 1 and 0 if the row does not count.
    Gradients are of the mean of those that do.
    """
    made, wanted = carray(driven, (rows, outputs)), carray(targets, rows)
    seen, found = carray(shown, (rows, hidden)), carray(losses, (2, rows))
    part = carray(room, WIDE)
    see(made, seen, weights, bias)
    _put_most_at_one(made, carray(driven, rows * outputs), wanted, found[1], part)
    _share(made, wanted, found, part)
    _go_back(made, seen, weights, d_weights, d_bias, d_shown, room)


@compiled
def _put_most_at_one(made: Array, flat: Array, wanted: Array, behind: Array, part: Array) -> None:
    """Makes exponentials of logits, of which each row's largest is 1, so that none is too large.

    ``behind`` becomes by how much the wanted ones are less than the largest.
    """
    for r in range(len(made)):
        most = _largest(made[r], part)
        behind[r] = most - made[r, max(wanted[r], 0)]
        for j in range(made.shape[1]):
            made[r, j] -= most
    # All at once, for what is left over of a vector takes as long as the vector.
    for i in range(len(flat)):
        flat[i] = exponential(flat[i])


@compiled
def _share(made: Array, wanted: Array, found: Array, part: Array) -> None:
    """Makes sums of exponentials, and gradients of the exponentials."""
    counted = 0
    for r in range(len(made)):
        counted += wanted[r] >= 0
    scale = found.dtype.type(1 / max(counted, 1))
    for r in range(len(made)):
        if wanted[r] >= 0:
            found[0, r] = _sum(made[r], part)
            share = scale / found[0, r]
            for j in range(made.shape[1]):
                made[r, j] *= share
            made[r, wanted[r]] -= scale
        else:
            made[r] = 0
            found[0, r], found[1, r] = 1, 0


@compiled
def _largest(row: Array, part: Array) -> Any:
    part[:] = row[0]
    whole = len(row) // WIDE * WIDE
    for at in range(0, whole, WIDE):
        for i in range(WIDE):
            part[i] = row[at + i] if row[at + i] > part[i] else part[i]
    most = part[0]
    for i in range(WIDE):
        most = part[i] if part[i] > most else most
    for j in range(whole, len(row)):
        most = row[j] if row[j] > most else most
    return most


@compiled
def _sum(row: Array, part: Array) -> Any:
    part[:] = 0
    whole = len(row) // WIDE * WIDE
    for at in range(0, whole, WIDE):
        for i in range(WIDE):
            part[i] += row[at + i]
    total = part[0]
    for i in range(1, WIDE):
        total += part[i]
    for j in range(whole, len(row)):
        total += row[j]
    return total


@compiled
def _go_back(
    driven: Array,
    shown: Array,
    weights: Pointer,
    d_weights: Pointer,
    d_bias: Pointer,
    d_shown: Pointer,
    room: Pointer,
) -> None:
    """Makes all gradients from that of the outputs."""
    rows, outputs = driven.shape
    hidden = shown.shape[1]
    weigh(driven, outputs, shown, d_weights, room)
    total = carray(d_bias, outputs)
    total[:] = 0
    for r in range(rows):
        for j in range(outputs):
            total[j] += driven[r, j]
    multiply(carray(d_shown, (rows, hidden)), driven, carray(weights, (outputs, hidden)), 0, 0, 0)


ENTRIES: list[Callable[..., None]] = [squared_error, cross_entropy]
