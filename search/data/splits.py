"""What every task hands to training: three parts of examples, and how to judge a prediction.

Shapes: B minibatch, T time, F features, O outputs (forecast: horizon x targets), C classes,
V vocabulary, N examples of a part.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

IGNORED = -100
"""The class index that no loss or figure counts (padding; characters not in the vocabulary)."""


@dataclass(frozen=True)
class Batch:
    """One minibatch, on the device of the part it came from.

    Attributes:
        inputs: (B, T, F) float32, standardised; language: (B, T) int64 indices of characters.
        targets: forecast (B, O) float32, standardised; classify (B,) int64; language (B, T) int64,
            with `IGNORED` where nothing is to be predicted.
        lengths: (B,) int64, how many of the T steps are real; None if all are.
        carries: True if the hidden state goes on from the batch before (consecutive chunks of a
            text), False if it starts from zero.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None
    carries: bool = False


@dataclass(frozen=True)
class EpochPlan:
    """Which examples an epoch's minibatches hold, for `Part.cut` to take them from where they lie.

    Attributes:
        places: (M,) int64 where each row of each minibatch is, one minibatch after another.
        counts: (M,) int64 how many of the T steps of each are real.
        rows: B; the last minibatch may have fewer.
        sizes: Rows and steps of each minibatch that `Part.batches` would yield.
    """

    places: Tensor
    counts: Tensor
    rows: int
    sizes: tuple[tuple[int, int], ...]


class Part(ABC):
    """The training, validation or test part: tensors, indexed; no copies per epoch."""

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of examples N: windows, series, or sequences of characters."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """T of the longest batch there can be."""

    @abstractmethod
    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Yields minibatches that together hold every example once.

        Args:
            batch_size: B; the last batch may be smaller.
            generator: A CPU generator that decides the order; None keeps the stored order, as
                validation does.
        """

    @abstractmethod
    def plan(self, batch_size: int, generator: torch.Generator) -> EpochPlan:
        """Returns which minibatches `batches` would yield, having drawn what it would draw."""

    @abstractmethod
    def cut(self, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Takes minibatches of K networks at once, and asks nothing of the processor for it.

        Args:
            places: (K, B) of a plan.
            counts: (K, B) likewise; 0 for a row that does not count.

        Returns:
            Inputs (T, K, B, F), or (T, K, B) for language; targets (K, B, O), (K, B) or, for
            language, (T, K, B), where classes that do not count are `IGNORED`.
        """

    @abstractmethod
    def to(self, device: torch.device) -> Part:
        """Returns this part with its tensors on ``device``."""


@dataclass(frozen=True)
class Splits(ABC):
    """A data set cut into three parts, standardised with the training part's statistics.

    Attributes:
        task: ``forecast``, ``classify`` or ``language``.
        train: The part that is trained on and that every statistic comes from.
        valid: The part that hyperparameters are chosen by.
        test: The part that only `evaluate` looks at.
        input_size: F, or V + 1 for language (the last index stands for an unknown character).
        output_size: O, C or V.
        fingerprint: Hash of the values and of every option that shaped them.
        notes: One line each, things a person should know (unknown characters, dropped rows...).
        constant_loss: Loss on the training part of the best prediction that ignores the inputs.
        constant_valid_loss: Loss of this prediction on the validation part.
    """

    task: str
    train: Part
    valid: Part
    test: Part
    input_size: int
    output_size: int
    fingerprint: str
    notes: tuple[str, ...]
    constant_loss: float
    constant_valid_loss: float

    @property
    @abstractmethod
    def per_step(self) -> bool:
        """True if the network answers at every step (language), False if only at the last."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss over the predicted targets of a batch; a scalar tensor.

        Args:
            outputs: forecast (B, O); classify (B, C); language (B, T, V).
            targets: As in `Batch.targets`.
        """

    @abstractmethod
    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Loss of every target, 0 where it is `IGNORED`; `loss` is the mean over the others.

        Args:
            outputs: (..., O) of as many networks as there are.
            targets: forecast (..., O), the answer's shape; else (...).
        """

    @abstractmethod
    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Sums over a batch from which `figures` follow; tallies of batches are added up.

        Args:
            outputs: As in `loss`, on the same device as ``targets``.
            targets: As in `Batch.targets`.

        Returns:
            A 1-D float64 tensor whose layout only the task knows (sums of errors and counts; a
            confusion matrix).
        """

    @abstractmethod
    def figures(self, tally: Tensor) -> dict[str, float]:
        """The task's figures from the sum of a part's tallies, in the data's own units.

        Returns:
            By name, ``loss`` first. forecast: loss, rmse, mae (with several targets also
            rmse_NAME and mae_NAME for each). classify: loss, accuracy, macro_f1. language: loss,
            nats_per_char, perplexity.
        """

    @abstractmethod
    def baselines(self, part: str) -> dict[str, dict[str, float]]:
        """Figures of the naive methods on ``"valid"`` or ``"test"``, by name of the method.

        Each is fitted on the training part only. forecast: persistence, seasonal_naive (if a
        season is given), ridge. classify: majority, one_nn. language: unigram, bigram, trigram
        and, if a longer one is better, its like (``5gram``).
        """

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines for `rnn-search check`: what was read, how it was cut, sizes and units."""

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Returns what reads new data the same way, one of `search.data.cards`, as plain JSON."""

    def to(self, device: torch.device) -> Splits:
        """Returns these splits with every part on ``device``."""
        return replace(
            self,
            train=self.train.to(device),
            valid=self.valid.to(device),
            test=self.test.to(device),
        )


def fingerprint(*pieces: object) -> str:
    """Hashes arrays, tensors and plain values to 16 hexadecimal digits.

    Arrays count with their dtype and shape, everything else with its ``repr``; so equal values
    give equal fingerprints on every machine, and no two pieces run into each other.
    """
    digest = hashlib.sha256()
    for piece in pieces:
        array = piece.cpu().numpy() if isinstance(piece, Tensor) else piece
        if isinstance(array, np.ndarray):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        else:
            digest.update(repr(array).encode())
        digest.update(b"\x00")
    return digest.hexdigest()[:16]
