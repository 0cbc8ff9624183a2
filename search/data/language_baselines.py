"""n-gram models of characters, which a language network must beat.

Shapes: m characters of the training part, n of the part that is judged, V vocabulary.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int64]


def ngrams(train: Codes, codes: Codes, size: int) -> list[NDArray[np.float64]]:
    """Returns three (n - 1,) arrays: what 1-, 2- and 3-gram models give each next character.

    Args:
        train: (m,) indices of the training part, all known.
        codes: (n,) indices of the part that is judged; V is unknown.
        size: V.
    """
    base = size + 1
    unigram = unigrams(train, codes, size)
    pairs, asked = train[:-1] * base + train[1:], codes[:-1] * base + codes[1:]
    bigram = _interpolated(pairs, asked, unigram, base)
    # Before the part's first character stands none: V, which no context of training holds.
    before = np.append(size, codes[:-2])
    triples = pairs[:-1] * base + train[2:]
    trigram = _interpolated(triples, before * base**2 + asked, bigram, base)
    return [unigram, bigram, trigram]


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
