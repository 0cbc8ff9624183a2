"""A minibatch of each of K networks of one shape, through all of them: losses of each.

Whatever is filled up counts for nothing: rows of no example have no loss and hence no gradient, and
steps after the end of a series are never looked at.

Shapes: K networks, B rows of the filled minibatches, b of a network's own, T time, F features,
H hidden units of the widened networks, h of a network's own, L layers, O outputs, M rows of all
minibatches of an epoch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from search.data.splits import IGNORED, EpochPlan, Splits
from search.dropout import noise
from search.gpu_layers import run_layer
from search.lane_shapes import Shape
from search.object_code import HAS_PRODUCTS
from search.packing import Packing, packed
from search.space import HyperParams

WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Batches:
    """The minibatches of every network, one after another, filled up to one shape.

    Args:
        shape: Of the networks.
        splits: The data.
        networks: K.
        like: Of the dtype and device of the weights.
        dropped: Whether any network has dropout.

    Attributes:
        state: (S, L, K, B, H) the hidden state, for LSTM also the cell state, after the last
            batch; S is 1, or 2 for LSTM.
        next: (K, 1) int64 which row of a network's epoch its coming minibatch begins with.

    These tensors stay where they are: what is new is written into them.
    """

    def __init__(
        self, shape: Shape, splits: Splits, networks: int, like: Tensor, *, dropped: bool
    ) -> None:
        self._shape, self._splits = shape, splits
        rows, units, steps = shape.rows, shape.units, splits.train.steps
        # A text's last minibatch is filled up to as many rows as it has streams.
        longest = splits.train.size + 2 * rows + 1
        places = torch.zeros(networks, longest, dtype=torch.int64, device=like.device)
        self._places, self._counts = places, torch.zeros_like(places)
        self._rows, self._ends, self.next = (places.new_zeros(networks, 1) for _ in range(3))
        between = (shape.layers - 1, steps, networks, rows, units)
        self._between = like.new_ones(between) if dropped and shape.layers > 1 else None
        answers = (steps, networks, rows) if splits.per_step else (networks, rows)
        self._before_head = like.new_ones(*answers, units) if dropped else None
        kept = 2 if shape.cell == "lstm" else 1
        self.state = like.new_zeros(kept, shape.layers, networks, rows, units)

    @property
    def drops(self) -> bool:
        """True if networks may have dropout."""
        return self._before_head is not None

    def begin(self, at: int, plan: EpochPlan) -> None:
        """Begins an epoch of a network."""
        length = len(plan.places)
        self._places[at, :length] = plan.places
        self._counts[at, :length] = plan.counts
        self._rows[at], self._ends[at], self.next[at] = plan.rows, length, 0
        self.state[:, :, at].zero_()

    def clear(self, at: int) -> None:
        """Lets a network have no examples, and hence no gradient."""
        self._ends[at] = 0

    def adopt(self, at: int, other: Batches, place: int) -> None:
        """Takes over a network that was at ``place`` among others, in the middle of its epoch."""
        length = min(self._places.shape[1], other._places.shape[1])
        for mine, theirs in (
            (self._places[:, :length], other._places[:, :length]),
            (self._counts[:, :length], other._counts[:, :length]),
            (self._rows, other._rows),
            (self._ends, other._ends),
            (self.next, other.next),
        ):
            mine[at] = theirs[place]
        rows, units = other.state.shape[3:]
        self.state[:, :, at, :rows, :units] = other.state[:, :, place]

    def losses(self, weights: Mapping[str, Tensor]) -> Tensor:
        """Returns (K,) the mean loss of every network's minibatch, and goes on to the next.

        Args:
            weights: Of all networks by name, (K, ...) each, as `SequenceModel` names them.
        """
        inputs, targets, counts = self._take()
        hidden = self._hidden(weights, inputs, counts)
        weight, bias = weights["head.weight"], weights["head.bias"].unsqueeze(1)
        outputs = weight.shape[1]
        if outputs == 1:  # A product with a vector adds up otherwise for one network than for many.
            weight, bias = functional.pad(weight, (0, 0, 0, 1)), functional.pad(bias, (0, 1))
        answers = torch.baddbmm(bias, hidden, weight.transpose(1, 2))[..., :outputs]
        if self._splits.per_step:
            targets = targets.transpose(0, 1).flatten(1)
        losses = self._splits.losses(answers, targets)
        if targets.is_floating_point():
            counted = (counts > 0).unsqueeze(2).expand_as(losses)
        else:
            counted = targets != IGNORED
        summed = (losses * counted).flatten(1).sum(1)
        return summed / counted.flatten(1).sum(1).clamp(min=1)

    def draw(
        self, at: int, size: tuple[int, int], params: HyperParams, random: torch.Generator
    ) -> None:
        """Draws the dropout of a network's coming minibatch.

        On a CPU it is what `SequenceModel` would draw, in its order.

        Args:
            at: The network's place.
            size: Rows and steps of the minibatch.
            params: Of the network.
            random: Draws.
        """
        assert self._before_head is not None
        like = self._before_head
        (rows, steps), units, drop = size, params.hidden_units, params.dropout

        packing = self._packing(at, rows, steps)
        for layer in range(self._shape.layers - 1):
            assert self._between is not None
            target = self._between[layer, :steps, at, :rows, :units]
            if packing is None or packing.places is None:
                target[:] = noise(like.new_empty(steps, rows, units), drop, random)
            else:
                made = noise(like.new_empty(packing.total, units), drop, random)
                target.transpose(0, 1)[packing.places // steps, packing.places % steps] = made
        target = self._of(like, at)
        if self._splits.per_step:
            made = noise(like.new_empty(steps, rows, units), drop, random)
            target[:steps, :rows, :units] = made
        else:
            target[:rows, :units] = noise(like.new_empty(rows, units), drop, random)

    def _packing(self, at: int, rows: int, steps: int) -> Packing | None:
        """Returns how a network alone would pack its coming minibatch; None: not at all."""
        if self._splits.task != "classify" or self.next.device.type != "cpu" or not HAS_PRODUCTS:
            return None
        first = int(self.next[at])
        return packed(self._counts[at, first : first + rows], steps)

    def undraw(self, at: int) -> None:
        """Lets nothing of a network be dropped."""
        if self._between is not None:
            self._between[:, :, at] = 1
        if self._before_head is not None:
            self._of(self._before_head, at).fill_(1)

    def _take(self) -> tuple[Tensor, Tensor, Tensor]:
        """Returns inputs and targets of the coming minibatches, and how many steps count."""
        at = torch.arange(self._shape.rows, device=self.next.device)
        rows = self.next + at
        real = (at < self._rows) & (rows < self._ends)
        rows = torch.where(real, rows, 0)
        places = self._places.gather(1, rows)
        counts = torch.where(real, self._counts.gather(1, rows), 0)
        self.next += self._rows
        return *self._splits.train.cut(places, counts), counts

    def _hidden(self, weights: Mapping[str, Tensor], inputs: Tensor, counts: Tensor) -> Tensor:
        """Returns what the heads see: (K, B, H), or (K, TB, H) if they answer at every step."""
        steps, ends = inputs, []
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
        elif self._splits.task == "forecast":
            steps = steps[-1]
        else:
            last = (counts - 1).clamp(min=0)
            steps = steps.gather(0, last[None, :, :, None].expand(1, *steps.shape[1:]))[0]
        if self._before_head is not None:
            steps = steps * self._before_head
        return steps.transpose(0, 1).flatten(1, 2) if self._splits.per_step else steps

    def _of(self, answers: Tensor, at: int) -> Tensor:
        """Returns a network's part of what there is for every answer."""
        return answers[:, at] if self._splits.per_step else answers[at]
