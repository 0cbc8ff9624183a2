"""Where each step of series of different lengths goes when they are packed (compiled).

A minibatch of a small network takes less than a millisecond, of which a dozen calls of NumPy are a
tenth.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import carray

from search.compiled import Array, Counts, compiled


def pack(
    rows: int,
    steps: int,
    unit: int,
    lengths: Counts,
    places: Counts,
    before: Counts,
    ends: Counts,
    live: Counts,
    room: Counts,
) -> None:
    """Makes what `search.packing.Packing` consists of, of the first N places.

    Lengths under 1 count as 1, those over T as T. ``room`` is for B + T + 1, of which the first two
    become N and how many steps there are.
    """
    own, last, counts = carray(lengths, rows), carray(ends, rows), carray(live, steps)
    order, rank = carray(room, rows + steps + 1)[:rows], carray(room, rows + steps + 1)[rows:]
    _sort(own, order, rank, counts)
    # Before a row of some length come those that are longer, and go on after so many steps.
    for t in range(steps):
        counts[t] = min((counts[t] + unit - 1) // unit * unit, rows)
    where, earlier = carray(places, rows * steps), carray(before, rows * steps)
    begin, end, longest = 0, 0, 0
    for t in range(steps):
        for k in range(counts[t]):
            where[end + k], earlier[end + k] = order[k] * steps + t, begin + k
            if t == min(max(own[order[k]], 1), steps) - 1:
                last[order[k]] = end + k
        begin, end = rows + end, end + counts[t]
        longest += counts[t] > 0
    carray(room, 2)[0], carray(room, 2)[1] = end, longest


@compiled
def _sort(lengths: Array, order: Array, rank: Array, longer: Array) -> None:
    """Makes the rows' order, the longest first, and how many are longer than each length from 0."""
    steps = len(longer)
    rank[:] = 0
    for length in lengths:
        rank[min(max(length, 1), steps)] += 1
    ahead = 0
    for length in range(steps, -1, -1):
        ahead, rank[length] = ahead + rank[length], ahead
    for length in range(steps):
        longer[length] = rank[length]
    for row in range(len(lengths)):
        length = min(max(lengths[row], 1), steps)
        order[rank[length]] = row
        rank[length] += 1


ENTRIES: list[Callable[..., None]] = [pack]
