"""Text, character by character: parallel streams of consecutive chunks, and n-gram baselines.

Shapes: n characters of a part, B streams, T characters of a chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search.config import LanguageData
from search.data.cards import LanguageCard
from search.data.encodings import read_utf8
from search.data.language_baselines import best_length, ngrams, unigrams
from search.data.splits import IGNORED, Batch, EpochPlan, Part, Splits, fingerprint
from search.errors import DataError

Codes = NDArray[np.int64]

PARTS = ("training", "validation", "test")
SHOWN = 5
"""So many unknown characters are shown in a note."""


@dataclass(frozen=True, eq=False)
class TextPart(Part):
    """Consecutive text, read as B parallel streams.

    Attributes:
        codes: (n,) int32 indices of characters; V stands for an unknown one.
        vocabulary_size: V.
        sequence_length: T.
    """

    codes: Tensor
    vocabulary_size: int
    sequence_length: int

    @property
    def size(self) -> int:
        """Number of whole sequences of T characters."""
        return len(self.codes) // self.sequence_length

    @property
    def steps(self) -> int:
        """The length T of a sequence."""
        return self.sequence_length

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Yields chunks of B streams; together they predict each character but the first, once.

        There are n - 1 pairs of a character and the next. Stream b holds those from
        ``floor(b (n - 1) / B)`` on, so streams differ in length by at most one pair; the shorter
        ones are padded with `IGNORED` in the last column. The character before a stream is the
        first that it reads, so that nothing is left out where streams meet. The hidden state
        goes on from chunk to chunk (truncated backpropagation through time).

        Args:
            batch_size: B, or as many as have T pairs each if that is less.
            generator: Draws by how much the pairs are rotated, so that streams start, and
                gradients are cut, elsewhere in every epoch; None: not at all.
        """
        pairs = len(self.codes) - 1
        offset = 0
        if generator is not None:
            offset = int(torch.randint(pairs, (1,), generator=generator))
        device = self.codes.device
        starts, lengths = (one[:, None] for one in self._streams(batch_size))
        # Before they are moved: on a GPU every question costs a synchronisation.
        shortest, longest = int(lengths.min()), int(lengths.max())
        starts, lengths = starts.to(device), lengths.to(device)
        for first in range(0, longest, self.sequence_length):
            last = min(first + self.sequence_length, longest)
            steps = torch.arange(first, last, device=device)
            at = (starts + (steps + offset)) % pairs
            inputs, targets = self.codes[at].long(), self.codes[at + 1].long()
            targets = targets.masked_fill(targets == self.vocabulary_size, IGNORED)
            if last > shortest:
                targets = targets.masked_fill(steps >= lengths, IGNORED)
            yield Batch(inputs, targets, carries=first > 0)

    def plan(self, batch_size: int, generator: torch.Generator) -> EpochPlan:
        """Returns where each stream's chunks begin, see `Part.plan`."""
        pairs, steps = len(self.codes) - 1, self.sequence_length
        offset = int(torch.randint(pairs, (1,), generator=generator))
        starts, lengths = self._streams(batch_size)
        longest = int(lengths.max())
        firsts = range(0, longest, steps)
        begun = torch.tensor(firsts)[:, None]
        places = (starts + (begun + offset)) % pairs
        counts = (lengths - begun).clamp(0, steps)
        sizes = tuple((len(starts), min(steps, longest - first)) for first in firsts)
        return EpochPlan(places.flatten(), counts.flatten(), len(starts), sizes)

    def cut(self, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (T, K, B) characters and the ones after them, see `Part.cut`."""
        steps = torch.arange(self.sequence_length, device=places.device).view(-1, 1, 1)
        at = (places + steps) % (len(self.codes) - 1)
        inputs, targets = self.codes[at].long(), self.codes[at + 1].long()
        counted = (steps < counts) & (targets != self.vocabulary_size)
        return inputs, torch.where(counted, targets, IGNORED)

    def to(self, device: torch.device) -> TextPart:
        """Returns this part with its tensor on ``device``."""
        return replace(self, codes=self.codes.to(device))

    def _streams(self, batch_size: int) -> tuple[Tensor, Tensor]:
        """Returns at which pair each stream starts, and its length: (B,) each, see `batches`."""
        pairs = len(self.codes) - 1
        streams = max(1, min(batch_size, pairs // self.sequence_length))
        borders = torch.arange(streams + 1) * pairs // streams
        return borders[:-1], borders.diff()


@dataclass(frozen=True, eq=False)
class LanguageSplits(Splits):
    """A text cut in order.

    Attributes:
        vocabulary: The V distinct characters of the training part, by code point; a character's
            index is its place here.
        source: What was read, for people.
    """

    vocabulary: str
    source: str

    @property
    def per_step(self) -> bool:
        """True: every step predicts the character after it."""
        return True

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy in nats, the mean over the targets that count.

        Args:
            outputs: (B, T, V) logits.
            targets: (B, T) int64.
        """
        summed = functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        return summed / (targets != IGNORED).sum().clamp(min=1)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies in nats."""
        return functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(targets.shape)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns (2,) float64: the sum of the losses in nats, and how many there are."""
        return tally_text(outputs, targets)

    def figures(self, tally: Tensor) -> dict[str, float]:
        """Returns loss and nats_per_char, which are the same, and perplexity, ``exp(loss)``."""
        return text_figures(tally)

    def baselines(self, part: str) -> dict[str, dict[str, float]]:
        """Figures of n-gram models of the training part, n = 1, 2, 3, and the n that is best.

        The length that is best, 8 at most, the end of the training part says; above 3 it has a
        name of its own (``5gram``). The unigram adds one to each count; the others are
        interpolated with the next shorter model by Witten and Bell's method (Chen and Goodman
        1998, section 2.4), which has no parameters. The first characters of a part, and those
        after an unknown one, are predicted from as many characters as are known.
        """
        assert isinstance(self.train, TextPart)
        chosen = {"valid": self.valid, "test": self.test}[part]
        assert isinstance(chosen, TextPart)
        train, codes = self.train.codes.cpu().numpy(), chosen.codes.cpu().numpy()
        train, size = train.astype(np.int64), self.output_size
        best = best_length(train, size)
        likelihoods = ngrams(train, codes.astype(np.int64), size, max(best, 3))
        named = {
            "unigram": 1,
            "bigram": 2,
            "trigram": 3,
            **({f"{best}gram": best} if best > 3 else {}),
        }
        return {
            name: _figures(_loss_of(likelihoods[length - 1], codes, size))
            for name, length in named.items()
        }

    def card(self) -> dict[str, Any]:
        """Returns a `LanguageCard` as plain data."""
        assert isinstance(self.train, TextPart)
        card = LanguageCard(
            task="language",
            vocabulary=self.vocabulary,
            sequence_length=self.train.sequence_length,
        )
        return card.model_dump(mode="json")

    def describe(self) -> list[str]:
        """Lines for `rnn-search check`."""
        lines = [
            f"{self.source}: text, {len(self.vocabulary)} distinct characters in the training part"
        ]
        for name, part in zip(PARTS, (self.train, self.valid, self.test), strict=True):
            assert isinstance(part, TextPart)
            lines.append(
                f"{name}: {len(part.codes)} characters, {part.size} sequences of "
                f"{part.sequence_length}"
            )
        return [*lines, "the loss is in nats per character"]


def tally_text(outputs: Tensor, targets: Tensor) -> Tensor:
    """Sums the losses of a batch, see `LanguageSplits.tally`."""
    losses = functional.cross_entropy(
        outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return torch.stack([losses.double().sum(), (targets != IGNORED).sum().double()])


def text_figures(tally: Tensor) -> dict[str, float]:
    """Returns the figures that follow from a sum of tallies, see `LanguageSplits.figures`."""
    total, count = tally.tolist()
    return _figures(total / count if count else math.nan)


def read_text(path: Path) -> str:
    """Reads a whole text, with plain line ends.

    Raises:
        DataError: There is none at ``path``, or it is empty or not UTF-8.
    """
    text = read_utf8(path, None).replace("\r\n", "\n").replace("\r", "\n")
    _require_text(text, str(path))
    return text


def encode(text: str, vocabulary: str) -> Tensor:
    """Returns (n,) int32 indices of a text's characters; V where one is not in the vocabulary."""
    points, known = (
        np.frombuffer(part.encode("utf-32-le", "surrogatepass"), dtype="<u4")
        for part in (text, vocabulary)
    )
    return torch.from_numpy(_encode(points, known).astype(np.int32))


def some_of(characters: Collection[str]) -> str:
    """Returns some characters as they are written in a program, for people."""
    ordered = sorted(characters)
    return ", ".join(map(repr, ordered[:SHOWN])) + (", ..." * (len(ordered) > SHOWN))


def load_language(data: LanguageData, text: str | None = None) -> LanguageSplits:
    """Reads a text and cuts it, in order, into training, validation and test parts.

    Args:
        data: Which file, how much of it, and how it is cut.
        text: The text, if it comes from elsewhere than ``data.path``.

    Raises:
        DataError: The file cannot be read as UTF-8 text, or is too short or too uniform.
    """
    source = str(data.path or data.source or "the text")
    if text is None:
        if data.path is None:
            raise ValueError("load_language needs data.path or a text")
        text = read_utf8(data.path, data.characters)
    notes = []
    if "\r" in text:
        returns = text.count("\r")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
        notes.append(f"{returns} line ends of Windows or old Mac OS were read as plain line ends")
    text = text[: data.characters]
    _require_text(text, source)
    ends = [0, *(round(len(text) * share) for share in np.cumsum(data.split)[:2]), len(text)]
    _require_lengths(np.diff(ends).tolist(), data.sequence_length, len(text), source)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    vocabulary = np.unique(points[: ends[1]])
    if len(vocabulary) == 1:
        raise DataError(
            f"{source}: the training part is all {chr(vocabulary[0])!r}, so there is nothing to "
            "predict; give a text with different characters"
        )
    codes = _encode(points, vocabulary)
    cuts = [codes[start:end] for start, end in pairwise(ends)]
    notes += _unknown_notes(text, cuts, ends, len(vocabulary), source)
    return _splits(data, cuts, "".join(map(chr, vocabulary)), source, notes)


def _splits(
    data: LanguageData, cuts: list[Codes], vocabulary: str, source: str, notes: list[str]
) -> LanguageSplits:
    size = len(vocabulary)
    parts = [
        TextPart(torch.from_numpy(cut.astype(np.int32)), size, data.sequence_length) for cut in cuts
    ]
    shares = np.bincount(cuts[0], minlength=size) / len(cuts[0])
    return LanguageSplits(
        task="language",
        train=parts[0],
        valid=parts[1],
        test=parts[2],
        input_size=size + 1,
        output_size=size,
        fingerprint=fingerprint("language", *cuts, vocabulary, data.sequence_length),
        notes=tuple(notes),
        constant_loss=float(-(shares * np.log(shares)).sum()),
        constant_valid_loss=_loss_of(unigrams(cuts[0], cuts[1], size), cuts[1], size),
        vocabulary=vocabulary,
        source=source,
    )


def _require_text(text: str, source: str) -> None:
    if not text:
        raise DataError(f"{source} is empty; give a text")
    zero = text.find("\0")
    if zero >= 0:
        line = text.count("\n", 0, zero) + 1
        raise DataError(
            f"{source} is binary: character {zero} (in line {line}) is NUL; give text in UTF-8"
        )


def _require_lengths(lengths: list[int], sequence_length: int, total: int, source: str) -> None:
    """Checks that every part has one sequence of T characters and the one that follows it."""
    for name, length in zip(PARTS, lengths, strict=True):
        if length <= sequence_length:
            raise DataError(
                f"{source}: the {name} part has {length} of {total} characters, too few for one "
                f"sequence of {sequence_length} and the character after it; give more text, a "
                "smaller sequence_length, or this part a larger share in split"
            )


def _encode(points: NDArray[np.uint32], vocabulary: NDArray[np.uint32]) -> Codes:
    """Turns code points into indices of the sorted ``vocabulary``, V where a point is not in it."""
    codes = np.searchsorted(vocabulary, points).clip(max=len(vocabulary) - 1)
    return np.where(vocabulary[codes] == points, codes, len(vocabulary)).astype(np.int64)


def _unknown_notes(
    text: str, cuts: list[Codes], ends: list[int], size: int, source: str
) -> list[str]:
    """Counts the characters that training never sees.

    Raises:
        DataError: They are all that a part would have to predict.
    """
    notes = []
    for name, codes, start in zip(PARTS[1:], cuts[1:], ends[1:], strict=False):
        unknown = np.flatnonzero(codes == size)
        if (codes[1:] == size).all():
            raise DataError(
                f"{source}: no character of the {name} part occurs in the training part; "
                "shuffle the documents, or give the training part a larger share in split"
            )
        if len(unknown):
            shown = some_of({text[start + at] for at in unknown})
            notes.append(
                f"of the {name} part {len(unknown)} of {len(codes)} characters never occur in "
                f"training ({shown}); they are read as unknown and not predicted"
            )
    return notes


def _loss_of(likely: NDArray[np.float64], codes: NDArray[Any], size: int) -> float:
    """Returns the loss of what a model gives each character after the first, of those it knows."""
    known = likely[codes[1:] < size]
    return float(-np.log(known).mean()) if len(known) else math.nan


def _figures(loss: float) -> dict[str, float]:
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(loss))
    return {"loss": loss, "nats_per_char": loss, "perplexity": perplexity}
