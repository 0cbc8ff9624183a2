"""RNN and GRU layers whose gradients are derived by hand, for training small networks on a CPU.

``torch.nn`` records every small operation of every step, and its backward pass repeats each. Here a
layer is one operation to autograd: one matrix product for all inputs, then per step one for the
state and a few elementwise calls; on the way back what does not depend on the coming gradient is
computed for all steps at once, so that a step is three calls, and the gradients of the weights are
one product each at the end. The weights stay those of `torch.nn`'s module, and the results equal
its own up to rounding; how much quicker they come is in ``bench/RESULTS.md``.

torch's own LSTM is one operation on a CPU already, and its layers on a GPU are; they are used as
they are.

Shapes: B minibatch, T time, F inputs of a layer, H hidden, L layers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

State = Tensor | tuple[Tensor, Tensor]
"""Hidden state (L, B, H); for LSTM a pair of it and the cell state."""


def recur(
    layers: nn.RNN | nn.LSTM | nn.GRU, inputs: Tensor, state: State | None
) -> tuple[Tensor, State]:
    """Runs recurrent layers over a batch, as calling them would.

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
    layer = _GRULayer if isinstance(layers, nn.GRU) else _RNNLayer
    steps = inputs.transpose(0, 1)
    start = state
    if not isinstance(start, Tensor):
        start = inputs.new_zeros(layers.num_layers, len(inputs), layers.hidden_size)
    ends = []
    for index, weights in enumerate(layers.all_weights):
        if index > 0:
            steps = nn.functional.dropout(steps, layers.dropout, layers.training)
        steps = layer.apply(steps, start[index], *weights)  # type: ignore[no-untyped-call]
        ends.append(steps[-1])
    return steps.transpose(0, 1), torch.stack(ends)


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
        """Computes the states.

        Args:
            ctx: Keeps what `backward` needs.
            inputs: (T, B, F).
            start: (B, H).
            w_in: (H, F).
            w_h: (H, H).
            b_in: (H,).
            b_h: (H,).

        Returns:
            (T, B, H).
        """
        driven = _product(inputs, w_in, b_in + b_h)
        states = _states(len(inputs), start)
        state = states.unbind()
        for t, drive in enumerate(driven.unbind()):
            torch.addmm(drive, state[t], w_h.t(), out=state[t + 1]).tanh_()
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, B, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        slopes = (1 - states[1:].square()).unbind()
        before = torch.empty_like(states[1:])  # The gradient at what tanh is taken of.
        d_before = before.unbind()
        d_state = grad[-1]
        for t in range(len(slopes) - 1, -1, -1):
            torch.mul(d_state, slopes[t], out=d_before[t])
            d_state = torch.addmm(grad[t - 1], d_before[t], w_h) if t else d_before[t] @ w_h
        d_in, d_w_in, d_bias = _input_gradients(ctx, before, inputs, w_in)
        d_w_h = _flat(before).t() @ _flat(states[:-1])
        return d_in, d_state, d_w_in, d_w_h, d_bias, d_bias


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
        """Computes the states.

        Args:
            ctx: Keeps what `backward` needs.
            inputs: (T, B, F).
            start: (B, H).
            w_in: (3H, F).
            w_h: (3H, H).
            b_in: (3H,).
            b_h: (3H,).

        Returns:
            (T, B, H).
        """
        gates = _product(inputs, w_in, b_in)
        hidden = start.shape[1]
        states = _states(len(inputs), start)
        recurrent = torch.empty_like(gates)  # W_h h + b_h
        state, from_state = states.unbind(), recurrent.unbind()
        doors, doors_from_state = (part[..., : 2 * hidden].unbind() for part in (gates, recurrent))
        reset, keep, new = (part.unbind() for part in gates.chunk(3, dim=-1))
        new_from_state = recurrent[..., 2 * hidden :].unbind()
        for t in range(len(inputs)):
            torch.addmm(b_h, state[t], w_h.t(), out=from_state[t])
            doors[t].add_(doors_from_state[t]).sigmoid_()
            new[t].addcmul_(reset[t], new_from_state[t]).tanh_()
            torch.lerp(new[t], state[t], keep[t], out=state[t + 1])
        ctx.save_for_backward(inputs, states, gates, recurrent[..., 2 * hidden :], w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, B, H)."""
        inputs, states, gates, new_from_state, w_in, w_h = ctx.saved_tensors
        hidden = states.shape[-1]
        reset, keep, new = gates.chunk(3, dim=-1)
        # What the gradient of the new state is multiplied by for each part of W_h h + b_h.
        slopes = torch.empty_like(gates).view(*gates.shape[:2], 3, hidden)
        to_new = (1 - keep).mul_(1 - new.square())
        torch.mul(to_new * new_from_state, reset * (1 - reset), out=slopes[..., 0, :])
        torch.mul(states[:-1] - new, keep * (1 - keep), out=slopes[..., 1, :])
        torch.mul(to_new, reset, out=slopes[..., 2, :])
        recurrent = torch.empty_like(gates)
        d_states = torch.empty_like(states[1:])
        slope, kept, d_state = slopes.unbind(), keep.unbind(), d_states.unbind()
        d_recurrent = recurrent.unbind()
        d_parts = recurrent.view_as(slopes).unbind()
        d_wide = d_states.unsqueeze(2).unbind()  # (B, 1, H)
        d_state[-1].copy_(grad[-1])
        for t in range(len(slope) - 1, 0, -1):
            torch.mul(d_wide[t], slope[t], out=d_parts[t])
            torch.addcmul(grad[t - 1], d_state[t], kept[t], out=d_state[t - 1])
            d_state[t - 1].addmm_(d_recurrent[t], w_h)
        torch.mul(d_wide[0], slope[0], out=d_parts[0])
        d_start = torch.addmm(d_state[0] * kept[0], d_recurrent[0], w_h)
        d_w_h, d_b_h = _flat(recurrent).t() @ _flat(states[:-1]), _flat(recurrent).sum(0)
        # The gates' own gradients differ in n only, whose part of the state passes through r.
        torch.mul(to_new, d_states, out=recurrent[..., 2 * hidden :])
        d_in, d_w_in, d_b_in = _input_gradients(ctx, recurrent, inputs, w_in)
        return d_in, d_start, d_w_in, d_w_h, d_b_in, d_b_h


def _flat(steps: Tensor) -> Tensor:
    """(T, B, ·) → (TB, ·)."""
    return steps.flatten(0, 1)


def _product(inputs: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """(T, B, F), (O, F), (O,) → (T, B, O), in one product for all steps."""
    return torch.addmm(bias, _flat(inputs), weights.t()).view(*inputs.shape[:2], -1)


def _states(steps: int, start: Tensor) -> Tensor:
    """Returns (T + 1, B, H) of which the first is ``start``, the others to be filled."""
    states = start.new_empty(steps + 1, *start.shape)
    states[0] = start
    return states


def _input_gradients(
    ctx: Any, driven: Tensor, inputs: Tensor, w_in: Tensor
) -> tuple[Tensor | None, Tensor, Tensor]:
    """Returns the gradients of inputs, if wanted, weights and bias of `_product`.

    Args:
        ctx: Knows whether the inputs' gradient is wanted.
        driven: (T, B, O) the gradient of the product.
        inputs: (T, B, F).
        w_in: (O, F).
    """
    flat = _flat(driven)
    d_in = (flat @ w_in).view_as(inputs) if ctx.needs_input_grad[0] else None
    return d_in, flat.t() @ _flat(inputs), flat.sum(0)
