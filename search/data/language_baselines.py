"""n-gram models of characters, which a language network must beat.

Shapes: m characters of the training part, n of the part that is judged, V vocabulary.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]

LONGEST = 8
"""Characters of the longest model, the one that is foreseen included."""
JUDGED, COUNTED = 100_000, 1_000_000
"""Characters that choose a length, at most: seconds of one core."""


def ngrams(train: Codes, codes: Codes, size: int, longest: int) -> list[NDArray[np.float64]]:
    """Returns (n - 1,) arrays: what the models of 1, 2 ... ``longest`` give each next character.

    Args:
        train: (m,) indices of the training part, all known.
        codes: (n,) indices of the part that is judged; V is unknown.
        size: V.
        longest: No more than `longest_ngram` of V.
    """
    base = size + 1
    given = [unigrams(train, codes, size)]
    # Before the part's first character stands none: V, which no context of training holds.
    text = np.concatenate([train, [size], codes])
    keys = text
    for length in range(2, longest + 1):
        keys = np.append(size, keys[:-1]) * base + text
        trained, asked = keys[length - 1 : len(train)], keys[len(train) + 2 :]
        given.append(_interpolated(trained, asked, given[-1], base))
    return given


def longest_ngram(size: int) -> int:
    """Returns how many characters' indices fit into the 63 bits of a key, `LONGEST` at most.

    Args:
        size: V.
    """
    return min(LONGEST, int(62 / math.log2(size + 1)))


def best_length(train: Codes, size: int) -> int:
    """Returns the length whose model foresees the end of the training part best.

    Args:
        train: (m,) indices of the training part; its last tenth, `JUDGED` characters at most, is
            judged by what the others say, the last `COUNTED` of them.
        size: V.

    Returns:
        From 1, the shortest of those that are equally good.
    """
    start = len(train) - min(len(train) // 10, JUDGED)
    fitted, judged = train[max(0, start - COUNTED) : start], train[start:]
    if len(judged) < 2:
        return 1
    given = ngrams(fitted, judged, size, longest_ngram(size))
    losses = [-float(np.log(likely).mean()) for likely in given]
    return 1 + losses.index(min(losses))


def unigrams(train: Codes, codes: Codes, size: int) -> NDArray[np.float64]:
    """Returns (n - 1,): what the shares of training, one added to each count, give a character.

    Args:
        train: As for `ngrams`.
        codes: As for `ngrams`.
        size: V.
    """
    counts = np.append(np.bincount(train, minlength=size), 0) + 1
    given: NDArray[np.float64] = (counts / (len(train) + size))[codes[1:]]
    return given


def _interpolated(
    trained: Codes, asked: Codes, shorter: NDArray[np.float64], base: int
) -> NDArray[np.float64]:
    """Witten-Bell: ``(count(h, c) + kinds(h) shorter(c)) / (count(h) + kinds(h))``.

    ``kinds(h)`` is how many different characters follow the context h in training; a context
    that training never saw leaves the shorter model's answer. Sorted keys stand for the table, so
    memory grows with the text and not with a power of V.

    Args:
        trained: (m,) keys of the training part: context times base plus the next character.
        asked: (n,) keys of the part that is judged.
        shorter: (n,) what the next shorter model gives the same targets.
        base: V + 1.
    """
    if not len(trained):
        return shorter
    keys, counts = np.unique(trained, return_counts=True)
    heads, first = np.unique(keys // base, return_index=True)
    totals = np.add.reduceat(counts, first)
    kinds = np.diff(np.append(first, len(keys)))
    seen, contexts = _looked_up(keys, counts, asked), asked // base
    total, kind = _looked_up(heads, totals, contexts), _looked_up(heads, kinds, contexts)
    return np.where(total > 0, (seen + kind * shorter) / np.maximum(total + kind, 1), shorter)


def _looked_up(keys: Codes, values: Codes, wanted: Codes) -> Codes:
    """Returns the value of each wanted key, 0 where the sorted ``keys`` lack it."""
    at = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)
