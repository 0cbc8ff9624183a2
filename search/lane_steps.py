"""A training step of K networks of one shape: losses, gradients, clipping, optimizers.

It asks nothing of the processor and needs nothing from it but what was written into its tensors
before, which stay where they are. So a CUDA graph can hold the whole step and repeat it, which
spares a GPU the wait for the hundreds of small operations that a step is made of.

Shapes: K networks, P numbers in a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from search.lane_batches import Batches
from search.lane_rows import Rows
from search.steps import Settings, clip, step


@dataclass
class LaneStep:
    """The step of K networks; every call makes one.

    Attributes:
        rows: Where the weights lie.
        table: (1 + MOST, K, P) weights and what the optimizers remember of them.
        batches: The coming minibatches, to be filled before every step.
        settings: How each network is trained.
    """

    rows: Rows
    table: Tensor
    batches: Batches
    settings: Settings
    _gradients: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self._gradients = torch.zeros_like(self.table[0])

    def __call__(self) -> Tensor:
        """Makes a step of every network.

        Returns:
            (2, K) the losses of the minibatches, and the norms of their gradients before clipping.
        """
        views = self.rows.views(self.table[0])
        weights = {name: view.detach().requires_grad_() for name, view in views.items()}
        losses = self.batches.losses(weights)
        found = torch.autograd.grad(losses.sum(), list(weights.values()))
        self.rows.gather(found, self._gradients)
        norms = torch.linalg.vector_norm(self._gradients, dim=1)
        clip(self._gradients, norms, self.settings)
        step(self.table[0], self._gradients, list(self.table[1:]), self.settings)
        return torch.stack([losses.detach(), norms])
