"""Weights of K networks of one shape as rows of one tensor, and the way there and back.

A row holds every weight of a network widened with zeros, one after another; what the optimizer
remembers of each weight lies at the same place in a row of its own.

Shapes: K networks, P numbers in a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from search.lane_shapes import Shape
from search.models import build, own_part
from search.optimizers import MEMORIES
from search.steps import MOST
from search.training import Run

WHOLE = 32
"""A row's length is a multiple of this, so that elementwise kernels have no remainder, which they
would treat otherwise: at most two registers of 16 float32."""


class Rows:
    """Where the weights of a network lie in its row.

    Args:
        shape: Of the networks.
        run: One of them.

    Attributes:
        shapes: Of each widened weight, by name.
        length: P.
    """

    def __init__(self, shape: Shape, run: Run) -> None:
        self._units = shape.units
        with torch.device("meta"):
            model = build(replace(run.params, hidden_units=shape.units), run.splits)
        self.shapes = {name: weight.shape for name, weight in model.named_parameters()}
        ends = [0, *accumulate(size.numel() for size in self.shapes.values())]
        self._places = list(pairwise(ends))
        self.length = -(-ends[-1] // WHOLE) * WHOLE

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Returns the weights by name, (K, ...) each, as views of (K, P)."""
        return {
            name: rows[:, first:last].view(len(rows), *size)
            for (name, size), (first, last) in zip(self.shapes.items(), self._places, strict=True)
        }

    def gather(self, gradients: Sequence[Tensor], out: Tensor) -> None:
        """Writes the gradients of all weights, in their order, to ``out``, (K, P)."""
        torch.cat([one.flatten(1) for one in gradients], 1, out=out[:, : self._places[-1][1]])

    def read(self, run: Run) -> Tensor:
        """Returns (1 + `MOST`, P): a run's weights and what its optimizer remembers of them."""
        weights = list(run.model.parameters())
        rows = weights[0].new_zeros(1 + MOST, self.length)
        for parts, weight in self._parts(run, rows):
            parts[0].copy_(weight.detach().view(parts[0].shape))
            state = run.optimizer.state.get(weight, {})
            for part, memory in zip(parts[1:], MEMORIES[run.params.optimizer], strict=True):
                if memory is not None and state.get(memory) is not None:
                    part.copy_(state[memory].view(part.shape))
        return rows

    @torch.no_grad()
    def write(self, rows: Tensor, run: Run) -> None:
        """Puts weights and memories, as `read` returns them, back into a run after an epoch.

        If memory is too small for that, nothing of the run has changed.
        """
        states: list[dict[str, Tensor]] = []
        for parts, weight in self._parts(run, rows):
            state = run.optimizer.fresh(weight, len(run.batch_losses))
            for memory, part in zip(MEMORIES[run.params.optimizer], parts[1:], strict=True):
                if memory is not None:
                    state[memory].copy_(part.reshape(weight.shape))
            states.append(state)
        for (parts, weight), state in zip(self._parts(run, rows), states, strict=True):
            weight.view(parts[0].shape).copy_(parts[0])
            run.optimizer.state[weight] = state

    def move(self, rows: Tensor, run: Run, other: Rows) -> Tensor:
        """Returns (1 + `MOST`, P) what a run's rows, laid out as here, are in another layout."""
        moved = rows.new_zeros(1 + MOST, other.length)
        pairs = zip(self._parts(run, rows), other._parts(run, moved), strict=True)
        for (mine, _), (theirs, _) in pairs:
            for part, target in zip(mine, theirs, strict=True):
                target.copy_(part.reshape(target.shape))
        return moved

    def _parts(self, run: Run, rows: Tensor) -> Iterator[tuple[list[Tensor], Tensor]]:
        """Yields each weight of a run and where it lies in each of (1 + `MOST`, P)."""
        units = run.params.hidden_units
        for wide, weight in zip(self.views(rows).values(), run.model.parameters(), strict=True):
            yield [own_part(one, weight.shape, units, self._units) for one in wide], weight
