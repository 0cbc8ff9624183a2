"""A training step of K networks of one shape: losses, gradients, clipping, optimizers.

It asks nothing of the processor and needs nothing from it but what was written into its tensors
before, which stay where they are. So on a GPU a CUDA graph holds the whole step and repeats it,
which spares the GPU the wait for the hundreds of small operations that a step is made of.

Shapes: K networks, P numbers in a row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from search.lane_batches import Batches
from search.lane_rows import Rows
from search.steps import Settings, clip, step

WARM_UP = 3
"""Steps before a graph is captured, in which libraries set themselves up."""


class LaneStep:
    """The step of K networks; every call makes one.

    Args:
        rows: Where the weights lie.
        table: (1 + MOST, K, P) weights and what the optimizers remember of them.
        batches: The minibatches.
        settings: How each network is trained.

    Attributes:
        rows: As given.
        table: As given.
        batches: As given.
        settings: As given.
    """

    def __init__(self, rows: Rows, table: Tensor, batches: Batches, settings: Settings) -> None:
        self.rows, self.table, self.batches, self.settings = rows, table, batches, settings
        self._gradients = torch.zeros_like(table[0])
        self._repeat: Callable[[], Tensor] | None = None

    def __call__(self) -> Tensor:
        """Makes a step of every network.

        Returns:
            (2, K) the losses of the minibatches, and the norms of their gradients before clipping;
            on a GPU they are there once it has come so far, until the next step.
        """
        if self.table.device.type != "cuda":
            return self._make()
        if self._repeat is None:
            changed = (self.table, self.settings.steps, self.batches.next, self.batches.state)
            self._repeat = _captured(self._make, changed)
        return self._repeat()

    def _make(self) -> Tensor:
        views = self.rows.views(self.table[0])
        weights = {name: view.detach().requires_grad_() for name, view in views.items()}
        losses = self.batches.losses(weights)
        found = torch.autograd.grad(losses.sum(), list(weights.values()))
        self.rows.gather(found, self._gradients)
        norms = torch.linalg.vector_norm(self._gradients, dim=1)
        clip(self._gradients, norms, self.settings)
        step(self.table[0], self._gradients, self.table[1:], self.settings)
        return torch.stack([losses.detach(), norms])


def _captured(make: Callable[[], Tensor], changed: Sequence[Tensor]) -> Callable[[], Tensor]:
    """Returns what a CUDA graph repeats; whoever calls it keeps what ``make`` works on.

    It is recorded on the stream that it is repeated on, because the memory in which matrix products
    work belongs to a stream: graphs of two streams may run at once.

    Args:
        make: Tensor code over tensors that stay where they are.
        changed: What the steps that warm up must leave as it is.
    """
    kept = [one.clone() for one in changed]
    for _ in range(WARM_UP):
        make()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        found = make()
    for one, value in zip(changed, kept, strict=True):
        one.copy_(value)

    def repeat() -> Tensor:
        graph.replay()
        return found

    return repeat
