"""Threefry: random numbers by their places in a row, many at once (compiled).

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (SC '11), section 3.2: a number is
20 rounds of additions, rotations and exclusive ors of its place and a key. It passes the tests of
TestU01, and as no number needs the one before it, a processor makes eight together: torch's
generator takes ten times as long to decide what is dropped.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import carray

from search.compiled import Array, Pointer, Words, compiled

_PARITY = np.uint32(0x1BD11BDA)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
"""Of the rounds, four by four; table 4 there, for two words of 32 bits."""


@compiled
def _words(key: int, first: Array, second: Array) -> None:
    """Makes the two words of each of the places from 0 on."""
    mask = np.uint64(0xFFFFFFFF)
    one = np.uint32(np.uint64(key) & mask)
    two = np.uint32(np.uint64(key) >> np.uint64(32))
    keys = (one, two, np.uint32(one ^ two ^ _PARITY))
    for i in range(len(first)):
        a, b = np.uint32(np.uint32(i) + one), two
        for group in range(5):
            for turn in _ROTATIONS[group % 2]:
                a = np.uint32(a + b)
                b = np.uint32((b << np.uint32(turn)) | (b >> np.uint32(32 - turn)))
                b = np.uint32(a ^ b)
            a = np.uint32(a + keys[(group + 1) % 3])
            b = np.uint32(b + keys[(group + 2) % 3] + np.uint32(group + 1))
        first[i], second[i] = a, b


def drop(
    count: int, key: int, share: float, words: Words, values: Pointer, result: Pointer
) -> None:
    """Multiplies each value by 0, with a probability, or else divides it by the others' share.

    Args:
        count: N ≤ 2^33.
        key: On which all that is drawn depends.
        share: The probability, to within 2^-32.
        words: (N + 1) of room.
        values: (N,).
        result: (N,).
    """
    half = (count + 1) // 2
    drawn, was, becomes = carray(words, 2 * half), carray(values, count), carray(result, count)
    _words(key, drawn[:half], drawn[half:])
    least = np.uint32(min(share * 4294967296.0, 4294967295.0))
    factor, nothing = was.dtype.type(1 / (1 - share)), was.dtype.type(0)
    for i in range(count):
        becomes[i] = was[i] * (factor if drawn[i] >= least else nothing)


ENTRIES: list[Callable[..., None]] = [drop]
