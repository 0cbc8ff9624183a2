"""RNN, GRU and LSTM layers of one network or of K at once, whose gradients are derived by hand.

``torch.nn`` records every small operation of every step, and its backward pass repeats each. Here a
layer is one operation to autograd: one matrix product for all inputs, then per step one or two for
the state and a few elementwise calls; on the way back what does not depend on the coming gradient
is computed for all steps at once, and the gradients of the weights are one product each at the end.
The results equal those of `torch.nn`'s modules up to rounding (of a tanh: of 1, not of its value);
how much quicker they come is in ``bench/RESULTS.md``.

One code is for one network and for K of one shape, each with weights and inputs of its own: its
products are then batched, so that K small networks cost little more calls than one. What counts for
a small network are calls, and so everything is laid out for there to be few, each over memory in
one piece; see also `search.layer_memory`.

A network's numbers do not depend on the others' to the last bit on a CPU, as `search.lanes` needs,
if H and B are multiples of `search.models.ALIGNED`: then no elementwise kernel has a remainder that
it treats otherwise, and a batched product gives each matrix what it would get alone.

A single LSTM is torch's own, which is one operation on a CPU already, and so is any on a GPU, where
K of them are in `search.gpu_layers`.

Shapes: K networks, B minibatch, T time, F inputs of a layer, H hidden, L layers, G = H, 3 H (GRU)
or 4 H (LSTM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from search.layer_memory import Loan, Workspace
from search.layer_products import adding, by_network, gradients, input_gradients, product

State = Tensor | tuple[Tensor, Tensor]
"""Hidden state (L, B, H); for LSTM a pair of it and the cell state."""


def recur(
    layers: nn.RNN | nn.LSTM | nn.GRU, inputs: Tensor, state: State | None
) -> tuple[Tensor, State]:
    """Runs recurrent layers of one network over a batch, as calling them would.

    Args:
        layers: ``batch_first``, in one direction, with biases.
        inputs: (B, T, F).
        state: Where the hidden state starts; None for zero.

    Returns:
        (B, T, H) the last layer's hidden state at every step, and the state after the last.
    """
    if isinstance(layers, nn.LSTM) or inputs.device.type != "cpu":
        outputs, last = layers(inputs, state)
        return outputs, last
    cell = "gru" if isinstance(layers, nn.GRU) else "rnn"
    steps = inputs.transpose(0, 1)
    start = state
    if isinstance(start, Tensor):
        layers.check_forward_args(inputs, start, None)
    else:
        start = inputs.new_zeros(layers.num_layers, len(inputs), layers.hidden_size)
    ends = []
    for index, weights in enumerate(layers.all_weights):
        if index > 0:
            steps = nn.functional.dropout(steps, layers.dropout, layers.training)
        steps, (end,) = run_layer(cell, steps, [start[index]], weights)
        ends.append(end)
    return steps.transpose(0, 1), torch.stack(ends)


def run_layer(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of K networks; or of one, an RNN or GRU, whose shapes have no K.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        inputs: (T, K, B, F).
        start: (K, B, H) the hidden state; for LSTM also the cell state.
        weights: (K, G, F), (K, G, H), (K, G), (K, G), in the order of `torch.nn`'s module.

    Returns:
        (T, K, B, H) the hidden state at every step, and the state after the last.
    """
    if cell == "lstm":
        steps, last = _LSTMLayer.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
        return steps, (steps[-1], last)
    layer = _GRULayer if cell == "gru" else _RNNLayer
    steps = layer.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
    return steps, (steps[-1],)


class _Slopes(Workspace):
    """Room for the way back through Elman's network.

    Attributes:
        slopes: (T, …, B, H) what the gradients of the states are multiplied by.
        driven: (T, …, B, H) the gradients at what tanh is taken of.
    """

    def __init__(self, like: Tensor, steps: int) -> None:
        self.slopes, self.driven = _room(like, steps), _room(like, steps)
        self.views = list(zip(self.slopes.unbind(), self.driven.unbind(), strict=True))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Slopes and gradients."""
        return self.slopes, self.driven


class _RNNLayer(torch.autograd.Function):
    """h' = tanh(W_i x + b_i + W_h h + b_h): Elman's network, as `torch.nn.RNN` has it."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (T, K, B, H); ``ctx`` keeps what `backward` needs."""
        states = _states(len(inputs), start)
        factor = _tanh_factor(start)
        product(inputs, w_in, b_in + b_h, factor, out=states[1:])
        state, turned, add_product = states.unbind(), w_h.mT, adding(start)
        for t in range(len(inputs)):
            add_product(state[t + 1], state[t], turned, alpha=factor)
            _tanh(state[t + 1], factor)
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        steps, add_product = len(inputs), adding(states[0])
        loan = Loan(_Slopes, states[0], steps)
        views, driven = loan.space.views, loan.space.driven[:steps].copy_(grad)
        torch.mul(states[1:], states[1:], out=loan.space.slopes[:steps]).neg_().add_(1)
        for t in range(steps - 1, -1, -1):
            slope, d_state = views[t]
            d_state.mul_(slope)
            if t > 0:
                add_product(views[t - 1][1], d_state, w_h)
        d_in, d_w_in, d_w_h, d_bias = gradients(ctx, driven, states, inputs, w_in)
        return d_in, driven[0] @ w_h, d_w_in, d_w_h, d_bias, d_bias.clone()


class _Gates(Workspace):
    """What the way back needs of a GRU's gates.

    Attributes:
        doors: (T, …, B, 2 H) r and z.
        new: (T, …, B, H) n.
        from_state: (T, …, B, H) W_hn h + b_hn.
    """

    def __init__(self, like: Tensor, steps: int) -> None:
        hidden = like.shape[-1]
        self.doors, self.new = _room(like, steps, 2), _room(like, steps)
        self.from_state = _room(like, steps)
        halves = self.doors[..., :hidden].unbind(), self.doors[..., hidden:].unbind()
        self.views = list(zip(*(part.unbind() for part in self.parts), *halves, strict=True))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All there is."""
        return self.doors, self.new, self.from_state


class _GateSlopes(Workspace):
    """Room for the way back through a GRU.

    Attributes:
        slopes: (T, …, B, 3, H) what a state's gradient is multiplied by for each part of W_h h.
        driven: (T, …, B, 3, H) the gradients of those parts.
        d_states: (T, …, B, H) the gradients of the states.
    """

    def __init__(self, like: Tensor, steps: int) -> None:
        size = *like.shape[:-1], 3, like.shape[-1]
        self.slopes, self.driven = like.new_empty(steps, *size), like.new_empty(steps, *size)
        self.d_states = _room(like, steps)
        flat = self.driven.flatten(-2), self.d_states.unsqueeze(-2)
        self.views = list(zip(*(part.unbind() for part in (*self.parts, *flat)), strict=True))

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """Slopes and gradients."""
        return self.slopes, self.driven, self.d_states


class _GRULayer(torch.autograd.Function):
    """The gated unit of Cho et al. 2014 in the form of `torch.nn.GRU`.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h +
    b_hn)), h' = (1 - z) n + z h. Gates lie in the order r, z, n in all weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (T, K, B, H); ``ctx`` keeps what `backward` needs."""
        steps, doors = len(inputs), 2 * start.shape[-1]
        states = _states(steps, start)
        state, add_product, factor = states.unbind(), adding(start), _tanh_factor(start)
        loan = ctx.loan = Loan(_Gates, start, steps)
        gates = loan.space
        bias = b_in[..., :doors] + b_h[..., :doors]
        product(inputs, w_in[..., :doors, :], bias, out=gates.doors[:steps])
        product(inputs, w_in[..., doors:, :], b_in[..., doors:], factor, out=gates.new[:steps])
        gates.from_state[:steps] = b_h[..., doors:].unsqueeze(-2)
        to_doors, to_new = w_h[..., :doors, :].mT, w_h[..., doors:, :].mT
        for t in range(steps):
            door, new, from_state, reset, keep = gates.views[t]
            add_product(door, state[t], to_doors).sigmoid_()
            add_product(from_state, state[t], to_new)
            _tanh(new.addcmul_(reset, from_state, value=factor), factor)
            torch.lerp(new, state[t], keep, out=state[t + 1])
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        steps, add_product = len(inputs), adding(states[0])
        new, gates = ctx.loan.space.new[:steps], ctx.loan.space
        doors = gates.doors[:steps]
        closed = 1 - doors
        (reset, keep), (ajar, kept) = (part.chunk(2, dim=-1) for part in (doors, closed * doors))
        loan = Loan(_GateSlopes, states[0], steps)
        slopes, driven, d_states = (part[:steps] for part in loan.space.parts)
        to_new = (1 - new.square()).mul_(closed.chunk(2, dim=-1)[1])
        torch.mul(to_new * gates.from_state[:steps], ajar, out=slopes[..., 0, :])
        torch.mul(states[:-1] - new, kept, out=slopes[..., 1, :])
        torch.mul(to_new, reset, out=slopes[..., 2, :])
        d_states.copy_(grad)
        for t in range(steps - 1, -1, -1):
            slope, d_parts, d_state, d_recurrent, d_wide = loan.space.views[t]
            torch.mul(d_wide, slope, out=d_parts)
            if t > 0:
                before = loan.space.views[t - 1][2].addcmul_(d_state, gates.views[t][4])
                add_product(before, d_recurrent, w_h)
        d_start = add_product(d_states[0] * keep[0], driven[0].flatten(-2), w_h)
        flat = by_network(driven.flatten(-2))
        d_w_h, d_b_h = flat.mT @ by_network(states[:-1]), flat.sum(-2)
        # The gates' own gradients differ in n only, whose part of the state passes through r.
        torch.mul(to_new, d_states, out=driven[..., 2, :])
        flat = by_network(driven.flatten(-2))
        d_in, d_w_in = input_gradients(ctx, flat, inputs, w_in)
        return d_in, d_start, d_w_in, d_w_h, flat.sum(-2), d_b_h


class _LSTMLayer(torch.autograd.Function):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) in the form of `torch.nn.LSTM`.

    i, f, o = sigmoid(W_. x + b_. + W_h. h + b_h.), g = tanh of the like, c' = f c + i g, h' = o
    tanh(c'). Gates lie in the order i, f, g, o in all weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        start_cell: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Computes the hidden states (T, K, B, H) and the last cell state; see `run_layer`."""
        gates = product(inputs, w_in, b_in + b_h)
        hidden = start.shape[-1]
        states, cells = _states(len(inputs), start), _states(len(inputs), start_cell)
        squashed = torch.empty_like(states[1:])  # tanh(c')
        state, cell, tanh, gate = (part.unbind() for part in (states, cells, squashed, gates))
        doors = gates[..., : 2 * hidden].unbind()
        let_in, forget, new, let_out = (part.unbind() for part in gates.chunk(4, dim=-1))
        turned = w_h.transpose(1, 2)
        for t in range(len(inputs)):
            gate[t].baddbmm_(state[t], turned)
            doors[t].sigmoid_()
            new[t].tanh_()
            let_out[t].sigmoid_()
            torch.mul(forget[t], cell[t], out=cell[t + 1]).addcmul_(let_in[t], new[t])
            torch.tanh(cell[t + 1], out=tanh[t])
            torch.mul(let_out[t], tanh[t], out=state[t + 1])
        ctx.save_for_backward(inputs, states, cells, squashed, gates, w_in, w_h)
        return states[1:], cells[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward` from those of its two results."""
        inputs, states, cells, squashed, gates, w_in, w_h = ctx.saved_tensors
        let_in, forget, new, let_out = gates.chunk(4, dim=-1)
        # What the gradients of cell (i, f, g) and hidden state (o) are multiplied by for each gate.
        slopes = torch.empty_like(gates).view(*gates.shape[:-1], 4, -1)
        torch.mul(let_in * (1 - let_in), new, out=slopes[..., 0, :])
        torch.mul(forget * (1 - forget), cells[:-1], out=slopes[..., 1, :])
        torch.mul(let_in, 1 - new.square(), out=slopes[..., 2, :])
        torch.mul(let_out * (1 - let_out), squashed, out=slopes[..., 3, :])
        to_cell = (1 - squashed.square()).mul_(let_out).unbind()
        before = torch.empty_like(gates)
        d_gate, d_parts = before.unbind(), before.view_as(slopes)
        d_three, d_out = d_parts[..., :3, :].unbind(), d_parts[..., 3, :].unbind()
        three, out, kept = slopes[..., :3, :].unbind(), slopes[..., 3, :].unbind(), forget.unbind()
        d_state, d_cell = grad[-1], d_last.clone()
        d_wide = d_cell.unsqueeze(-2)  # (K, B, 1, H)
        for t in range(len(kept) - 1, -1, -1):
            d_cell.addcmul_(d_state, to_cell[t])
            torch.mul(d_wide, three[t], out=d_three[t])
            torch.mul(d_state, out[t], out=d_out[t])
            d_cell.mul_(kept[t])
            d_state = torch.baddbmm(grad[t - 1], d_gate[t], w_h) if t else d_gate[0] @ w_h
        d_in, d_w_in, d_w_h, d_bias = gradients(ctx, before, states, inputs, w_in)
        return d_in, d_state, d_cell, d_w_in, d_w_h, d_bias, d_bias.clone()


def _states(steps: int, start: Tensor) -> Tensor:
    """Returns (T + 1, K, B, H) of which the first is ``start``, the others to be filled."""
    states = _room(start, steps + 1)
    states[0] = start
    return states


def _room(like: Tensor, steps: int, times: int = 1) -> Tensor:
    """(…, H) → (T, …, H), or as many times as wide, to be filled."""
    return like.new_empty(steps, *like.shape[:-1], times * like.shape[-1])


def _tanh_factor(like: Tensor) -> int:
    """Returns by how much the arguments of `_tanh` are larger than those of the tanh."""
    return 2 if like.device.type == "cpu" else 1


def _tanh(arguments: Tensor, factor: int) -> Tensor:
    """Puts tanh(x) in the place of ``factor`` x.

    On a CPU as 2 sigmoid(2 x) - 1, since torch's sigmoid takes a third of its tanh's time.
    """
    if factor == 1:
        return arguments.tanh_()
    return torch.add(_MINUS_ONE, arguments.sigmoid_(), alpha=2, out=arguments)


_MINUS_ONE = torch.tensor(-1.0)
