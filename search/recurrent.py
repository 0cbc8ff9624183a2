"""RNN, GRU and LSTM layers of K networks at once, whose gradients are derived by hand.

``torch.nn`` records every small operation of every step, and its backward pass repeats each. Here a
layer is one operation to autograd: one matrix product for all inputs, then per step one for the
state and a few elementwise calls; on the way back what does not depend on the coming gradient is
computed for all steps at once, and the gradients of the weights are one product each at the end.
Every product is batched over K networks of one shape, each with weights and inputs of its own, so
that K small networks cost little more calls than one. The results equal those of `torch.nn`'s
modules up to rounding; how much quicker they come is in ``bench/RESULTS.md``.

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
    ours = isinstance(layers, nn.GRU | nn.RNN) and inputs.device.type == "cpu"
    if not ours or not torch.is_grad_enabled():
        outputs, last = layers(inputs, state)
        return outputs, last
    cell = "gru" if isinstance(layers, nn.GRU) else "rnn"
    steps = inputs.transpose(0, 1).unsqueeze(1)
    start = state
    if not isinstance(start, Tensor):
        start = inputs.new_zeros(layers.num_layers, len(inputs), layers.hidden_size)
    ends = []
    for index, weights in enumerate(layers.all_weights):
        if index > 0:
            steps = nn.functional.dropout(steps, layers.dropout, layers.training)
        own = [weight.unsqueeze(0) for weight in weights]
        steps, (end,) = run_layer(cell, steps, [start[index].unsqueeze(0)], own)
        ends.append(end.squeeze(0))
    return steps.squeeze(1).transpose(0, 1), torch.stack(ends)


def run_layer(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of K networks.

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
        state, turned = states.unbind(), w_h.transpose(1, 2)
        for t, drive in enumerate(product(inputs, w_in, b_in + b_h).unbind()):
            torch.baddbmm(drive, state[t], turned, out=state[t + 1]).tanh_()
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        slopes = (1 - states[1:].square()).unbind()
        before = torch.empty_like(states[1:])  # The gradient at what tanh is taken of.
        d_before = before.unbind()
        d_state = grad[-1]
        for t in range(len(slopes) - 1, -1, -1):
            torch.mul(d_state, slopes[t], out=d_before[t])
            d_state = (
                torch.baddbmm(grad[t - 1], d_before[t], w_h) if t else torch.bmm(d_before[t], w_h)
            )
        d_in, d_w_in, d_w_h, d_bias = gradients(ctx, before, states, inputs, w_in)
        return d_in, d_state, d_w_in, d_w_h, d_bias, d_bias.clone()


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
        gates = product(inputs, w_in, b_in)
        hidden = start.shape[-1]
        states = _states(len(inputs), start)
        recurrent = torch.empty_like(gates)  # W_h h + b_h
        state, from_state = states.unbind(), recurrent.unbind()
        doors, doors_from_state = (part[..., : 2 * hidden].unbind() for part in (gates, recurrent))
        reset, keep, new = (part.unbind() for part in gates.chunk(3, dim=-1))
        new_from_state = recurrent[..., 2 * hidden :].unbind()
        bias, turned = b_h.unsqueeze(1), w_h.transpose(1, 2)
        for t in range(len(inputs)):
            torch.baddbmm(bias, state[t], turned, out=from_state[t])
            doors[t].add_(doors_from_state[t]).sigmoid_()
            new[t].addcmul_(reset[t], new_from_state[t]).tanh_()
            torch.lerp(new[t], state[t], keep[t], out=state[t + 1])
        ctx.save_for_backward(inputs, states, gates, recurrent[..., 2 * hidden :], w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, gates, new_from_state, w_in, w_h = ctx.saved_tensors
        hidden = states.shape[-1]
        reset, keep, new = gates.chunk(3, dim=-1)
        # What the gradient of the new state is multiplied by for each part of W_h h + b_h.
        slopes = torch.empty_like(gates).view(*gates.shape[:-1], 3, hidden)
        to_new = (1 - keep).mul_(1 - new.square())
        torch.mul(to_new * new_from_state, reset * (1 - reset), out=slopes[..., 0, :])
        torch.mul(states[:-1] - new, keep * (1 - keep), out=slopes[..., 1, :])
        torch.mul(to_new, reset, out=slopes[..., 2, :])
        recurrent = torch.empty_like(gates)
        d_states = torch.empty_like(states[1:])
        slope, kept, d_state = slopes.unbind(), keep.unbind(), d_states.unbind()
        d_recurrent = recurrent.unbind()
        d_parts = recurrent.view_as(slopes).unbind()
        d_wide = d_states.unsqueeze(-2).unbind()  # (K, B, 1, H)
        d_state[-1].copy_(grad[-1])
        for t in range(len(slope) - 1, 0, -1):
            torch.mul(d_wide[t], slope[t], out=d_parts[t])
            torch.addcmul(grad[t - 1], d_state[t], kept[t], out=d_state[t - 1])
            d_state[t - 1].baddbmm_(d_recurrent[t], w_h)
        torch.mul(d_wide[0], slope[0], out=d_parts[0])
        d_start = torch.baddbmm(d_state[0] * kept[0], d_recurrent[0], w_h)
        flat = by_network(recurrent)
        d_w_h, d_b_h = flat.transpose(1, 2) @ by_network(states[:-1]), flat.sum(1)
        # The gates' own gradients differ in n only, whose part of the state passes through r.
        torch.mul(to_new, d_states, out=recurrent[..., 2 * hidden :])
        flat = by_network(recurrent)
        d_in, d_w_in = input_gradients(ctx, flat, inputs, w_in)
        return d_in, d_start, d_w_in, d_w_h, flat.sum(1), d_b_h


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


def by_network(steps: Tensor) -> Tensor:
    """(T, K, B, ·) → (K, TB, ·)."""
    return steps.transpose(0, 1).flatten(1, 2)


def _by_step(flat: Tensor, inputs: Tensor) -> Tensor:
    """(K, TB, ·) → (T, K, B, ·), with T, K and B of ``inputs``."""
    steps, networks, batch, _ = inputs.shape
    return flat.view(networks, steps, batch, -1).transpose(0, 1)


def product(inputs: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(T, K, B, F), (K, G, F), (K, G) → (T, K, B, G), in one product for all steps."""
    flat = torch.baddbmm(bias.unsqueeze(1), by_network(inputs), weights.transpose(1, 2))
    return _by_step(flat, inputs).contiguous()


def _states(steps: int, start: Tensor) -> Tensor:
    """Returns (T + 1, K, B, H) of which the first is ``start``, the others to be filled."""
    states = start.new_empty(steps + 1, *start.shape)
    states[0] = start
    return states


def gradients(
    ctx: Any, driven: Tensor, states: Tensor, inputs: Tensor, w_in: Tensor
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
    """Returns the gradients of inputs, if wanted, of both weights and of the bias.

    Args:
        ctx: Knows whether the inputs' gradient is wanted.
        driven: (T, K, B, G) the gradient of what inputs and states come to together.
        states: (T + 1, K, B, H).
        inputs: (T, K, B, F).
        w_in: (K, G, F).
    """
    flat = by_network(driven)
    d_in, d_w_in = input_gradients(ctx, flat, inputs, w_in)
    return d_in, d_w_in, flat.transpose(1, 2) @ by_network(states[:-1]), flat.sum(1)


def input_gradients(
    ctx: Any, driven: Tensor, inputs: Tensor, w_in: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Returns the gradients of the inputs, if wanted, and the weights of `product`.

    Args:
        ctx: Knows whether the inputs' gradient is wanted.
        driven: (K, TB, G) the gradient of the product.
        inputs: (T, K, B, F).
        w_in: (K, G, F).
    """
    d_in = None
    if ctx.needs_input_grad[0]:
        d_in = _by_step(driven @ w_in, inputs)
    return d_in, driven.transpose(1, 2) @ by_network(inputs)
