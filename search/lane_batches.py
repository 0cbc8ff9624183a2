"""A minibatch of each of K networks of one shape, through all of them: losses of each.

Whatever is filled up counts for nothing: rows of no example have no loss and hence no gradient, and
steps after the end of a series are never looked at.

Shapes: K networks, B rows of the filled minibatches, b of a network's own, T time, F features,
H hidden units of the widened networks, h of a network's own, L layers, O outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from search.cohorts import Shape
from search.data.splits import IGNORED, Batch, Splits
from search.recurrent import run_layer
from search.space import HyperParams

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Batches:
    """The coming minibatch of every network, filled up to one shape.

    Args:
        shape: Of the networks.
        splits: The data.
        params: Of each network.
        like: Of the dtype and device of the weights.

    Attributes:
        inputs: (T, K, B, F) the coming minibatches; language: (T, K, B) indices.
        targets: (K, B, O) for a forecast, else indices: (K, B), or (T, K, B) for language.
        sizes: (K, 1) int64 how many of the B rows are a network's own.
        state: (S, L, K, B, H) the hidden state, for LSTM also the cell state, after the last
            batch; S is 1, or 2 for LSTM.

    These tensors stay where they are: what is new is written into them.
    """

    def __init__(
        self, shape: Shape, splits: Splits, params: Sequence[HyperParams], like: Tensor
    ) -> None:
        self._shape, self._splits, self._params = shape, splits, params
        count, rows, units, steps = len(params), shape.rows, shape.units, splits.train.steps
        answers = (steps, count, rows) if splits.per_step else (count, rows)
        numbers = like.new_zeros((), dtype=torch.int64)
        if splits.per_step:
            self.inputs = numbers.new_zeros(answers)
        else:
            self.inputs = like.new_zeros(steps, count, rows, splits.input_size)
        if splits.task == "forecast":
            self.targets = like.new_zeros(*answers, splits.output_size)
        else:
            self.targets = numbers.new_full(answers, IGNORED)
        self.sizes = numbers.new_zeros(count, 1)
        self._filled = [0] * count
        self._last: Tensor | None = None
        dropped = any(one.dropout > 0 for one in params)
        between = (shape.layers - 1, steps, count, rows, units)
        self._between = like.new_ones(between) if dropped and shape.layers > 1 else None
        self._before_head = like.new_ones(*answers, units) if dropped else None
        kept = 2 if shape.cell == "lstm" else 1
        self.state = like.new_zeros(kept, shape.layers, count, rows, units)

    def fill(self, at: int, batch: Batch, random: torch.Generator) -> None:
        """Takes a network's minibatch, and draws its dropout as `SequenceModel` would."""
        size, steps = batch.inputs.shape[:2]
        if size != self._filled[at]:  # To write a number takes as long as a small product.
            self.sizes[at] = self._filled[at] = size
        inputs, targets = self.inputs[:, at], self._of(self.targets, at)
        if (steps, size) != inputs.shape[:2]:
            inputs.zero_()
            targets.fill_(0 if self._splits.task == "forecast" else IGNORED)
        inputs[:steps, :size] = batch.inputs.transpose(0, 1)
        if self._splits.per_step:
            targets[:steps, :size] = batch.targets.t()
        else:
            targets[:size] = batch.targets
        if batch.lengths is not None:
            if self._last is None:
                self._last = torch.zeros_like(self.targets)
            self._last[at, :size] = batch.lengths - 1
        if not batch.carries:
            self.state[:, :, at].zero_()
        if self._params[at].dropout > 0:
            self._draw(at, steps, size, random)

    def losses(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns (K,) the mean loss of every network's minibatch.

        Args:
            weights: Of all networks by name, (K, ...) each, as `SequenceModel` names them.
        """
        hidden = self._hidden(weights)
        weight, bias = weights["head.weight"], weights["head.bias"].unsqueeze(1)
        outputs = weight.shape[1]
        if outputs == 1:  # A product with a vector adds up otherwise for one network than for many.
            weight, bias = functional.pad(weight, (0, 0, 0, 1)), functional.pad(bias, (0, 1))
        answers = torch.baddbmm(bias, hidden, weight.transpose(1, 2))[..., :outputs]
        targets = self.targets
        if self._splits.per_step:
            targets = targets.transpose(0, 1).flatten(1)
        losses = self._splits.losses(answers, targets)
        if targets.is_floating_point():
            counts = torch.arange(targets.shape[1], device=losses.device) < self.sizes
            counted = counts.unsqueeze(2).expand_as(losses)
        else:
            counted = targets != IGNORED
        summed = (losses * counted).flatten(1).sum(1)
        return summed / counted.flatten(1).sum(1).clamp(min=1)

    def _hidden(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns what the heads see: (K, B, H), or (K, TB, H) if they answer at every step."""
        steps, ends = self.inputs, []
        if self._splits.per_step:
            table = weights["embedding.weight"]
            first = torch.arange(len(table), device=table.device).view(-1, 1) * table.shape[1]
            steps = functional.embedding(steps + first, table.flatten(0, 1))
        for layer in range(self._shape.layers):
            if layer > 0 and self._between is not None:
                steps = steps * self._between[layer - 1]
            own = [weights[f"recurrent.{name}_l{layer}"] for name in WEIGHTS]
            steps, end = run_layer(self._shape.cell, steps, list(self.state[:, layer]), own)
            ends.append(torch.stack([one.detach() for one in end]))
        if self._splits.per_step:
            self.state.copy_(torch.stack(ends, 1))
        elif self._last is None:
            steps = steps[-1]
        else:
            steps = steps.gather(0, self._last[None, :, :, None].expand(1, *steps.shape[1:]))[0]
        if self._before_head is not None:
            steps = steps * self._before_head
        return steps.transpose(0, 1).flatten(1, 2) if self._splits.per_step else steps

    def _draw(self, at: int, steps: int, size: int, random: torch.Generator) -> None:
        """Draws what `torch.nn.functional.dropout` would, in its order."""
        units, drop = self._params[at].hidden_units, self._params[at].dropout
        assert self._before_head is not None
        dtype = self._before_head.dtype

        def noise(empty: Tensor) -> Tensor:
            return empty.bernoulli_(1 - drop, generator=random).div_(1 - drop)

        for layer in range(self._shape.layers - 1):
            assert self._between is not None
            made = noise(torch.empty(steps, size, units, dtype=dtype))
            self._between[layer, :steps, at, :size, :units] = made
        target = self._of(self._before_head, at)
        if self._splits.per_step:
            made = noise(torch.empty(steps, size, units, dtype=dtype).transpose(0, 1))
            target[:steps, :size, :units] = made.transpose(0, 1)
        else:
            target[:size, :units] = noise(torch.empty(size, units, dtype=dtype))

    def _of(self, answers: Tensor, at: int) -> Tensor:
        """Returns a network's part of what there is for every answer."""
        return answers[:, at] if self._splits.per_step else answers[at]
