"""Padded series: the parts that a classifying network trains on and is judged by.

Shapes: N series of a part, B minibatch, T steps of the part's longest series, F channels,
K networks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from search.data.splits import IGNORED, Batch, EpochPlan, Part


@dataclass(frozen=True, eq=False)
class SeriesPart(Part):
    """Padded series.

    Attributes:
        inputs: (N, T, F) float32, standardised, 0 after the end of a series.
        lengths: (N,) int64 real steps of each.
        labels: (N,) int64 classes.
    """

    inputs: Tensor
    lengths: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """Number of series N."""
        return len(self.labels)

    @property
    def steps(self) -> int:
        """T of the longest."""
        return self.inputs.shape[1]

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Yields minibatches, each as long as its longest series.

        `Batch.lengths` is None if all series of the part are equally long.
        """
        device = self.inputs.device
        if generator is None:
            order = torch.arange(self.size, device=device)
        else:
            order = torch.randperm(self.size, generator=generator).to(device)
        lengths = self.lengths[order]
        # Asked once an epoch: on a GPU every question costs a synchronisation.
        starts = np.arange(0, self.size, batch_size)
        longest = np.maximum.reduceat(lengths.cpu().numpy(), starts).tolist()
        shortest = int(lengths.min())
        for at, steps in enumerate(longest):
            chosen = order[at * batch_size : (at + 1) * batch_size]
            yield Batch(
                self.inputs[:, :steps].index_select(0, chosen),
                self.labels.index_select(0, chosen),
                None if shortest == self.inputs.shape[1] else self.lengths.index_select(0, chosen),
            )

    def plan(self, batch_size: int, generator: torch.Generator) -> EpochPlan:
        """Returns which series come when, see `Part.plan`."""
        order = torch.randperm(self.size, generator=generator)
        lengths = self.lengths.cpu()[order]
        sizes = tuple((len(part), int(part.max())) for part in torch.split(lengths, batch_size))
        return EpochPlan(order, lengths, batch_size, sizes)

    def cut(self, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (T, K, B, F) inputs and (K, B) classes, see `Part.cut`."""
        return self.inputs[places].permute(2, 0, 1, 3), torch.where(
            counts > 0, self.labels[places], IGNORED
        )

    def to(self, device: torch.device) -> SeriesPart:
        """Returns this part with its tensors on ``device``."""
        return SeriesPart(self.inputs.to(device), self.lengths.to(device), self.labels.to(device))
