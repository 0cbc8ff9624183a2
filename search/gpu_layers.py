"""Recurrent layers of K networks on a GPU, where a step is its product and one kernel more.

A GPU that repeats a recorded step does as many operations a second as it can begin, about one in a
microsecond, whoever they are of: so what counts is how many there are. Torch's own cells have a
kernel each for all that a step does besides the product of the state, forward and backward; with
these a step of a GRU is 5 operations, where `search.recurrent` has 9, and one of an LSTM 4 for 13.

Shapes: K networks, B minibatch, T time, F inputs of a layer, H hidden, G = H, 3 H (GRU) or 4 H
(LSTM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from search import recurrent

aten = torch.ops.aten


def run_layer(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of K networks on any device, with arguments as of `recurrent.run_layer`."""
    if inputs.device.type == "cpu":
        return recurrent.run_layer(cell, inputs, start, weights)
    return run_fused(cell, inputs, start, weights)


def run_fused(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer with torch's kernels, of which those of GRU and LSTM are for CUDA only."""
    if cell == "lstm":
        steps, last = _FusedLSTM.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
        return steps, (steps[-1], last)
    layer = _FusedGRU if cell == "gru" else _RNN
    steps = layer.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
    return steps, (steps[-1],)


class _RNN(torch.autograd.Function):
    """What `search.recurrent` calculates for Elman's network."""

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
        states = start.new_empty(len(inputs) + 1, *start.shape)
        states[0] = start
        states[1:] = _product(inputs, w_in, b_in + b_h)
        state, turned = states.unbind(), w_h.transpose(1, 2)
        for t in range(len(inputs)):
            state[t + 1].baddbmm_(state[t], turned).tanh_()
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        slopes = (1 - states[1:].square()).unbind()
        driven = grad.clone(memory_format=torch.contiguous_format)
        d_state = driven.unbind()
        for t in range(len(slopes) - 1, -1, -1):
            d_state[t].mul_(slopes[t])
            if t > 0:
                d_state[t - 1].baddbmm_(d_state[t], w_h)
        d_in, d_w_in, d_w_h, d_bias = _gradients(ctx, driven, states, inputs, w_in)
        return d_in, driven[0] @ w_h, d_w_in, d_w_h, d_bias, d_bias.clone()


class _FusedGRU(torch.autograd.Function):
    """What `search.recurrent` calculates for a GRU."""

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
        bias, turned = b_h.unsqueeze(1), w_h.transpose(1, 2)
        states, spaces = [start], []
        for gates in _product(inputs, w_in, b_in).flatten(1, 2).unbind():
            from_state = torch.baddbmm(bias, states[-1], turned).flatten(0, 1)
            state, space = aten._thnn_fused_gru_cell(gates, from_state, states[-1].flatten(0, 1))
            states.append(state.view_as(start))
            spaces.append(space)
        found = torch.stack(states)
        ctx.save_for_backward(inputs, found, w_in, w_h, *spaces)
        return found[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, K, B, H)."""
        inputs, states, w_in, w_h, *spaces = ctx.saved_tensors
        shape = (*grad.shape[1:3], -1)
        d_state = grad[-1].contiguous()
        d_gates, d_recurrent = [], []
        for t in range(len(spaces) - 1, -1, -1):
            of_gates, of_recurrent, of_state, _, _ = aten._thnn_fused_gru_cell_backward(
                d_state.flatten(0, 1), spaces[t], False
            )
            d_gates.append(of_gates.view(shape))
            d_recurrent.append(of_recurrent.view(shape))
            passed = of_state.view(shape)
            d_state = torch.baddbmm(passed + grad[t - 1] if t else passed, d_recurrent[-1], w_h)
        flat = _by_network(torch.stack(d_recurrent[::-1]))
        d_w_h, d_b_h = flat.transpose(1, 2) @ _by_network(states[:-1]), flat.sum(1)
        flat = _by_network(torch.stack(d_gates[::-1]))
        d_in, d_w_in = _input_gradients(ctx, flat, inputs, w_in)
        return d_in, d_state, d_w_in, d_w_h, flat.sum(1), d_b_h


class _FusedLSTM(torch.autograd.Function):
    """What `search.recurrent` calculates for an LSTM."""

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
        """Returns the states (T, K, B, H) and the last cell state; see `run_layer`."""
        turned = w_h.transpose(1, 2)
        # The start is kept for the way back, by when a text's next batch starts elsewhere.
        states, cells, spaces = [start], [start_cell.flatten(0, 1).clone()], []
        for gates in _product(inputs, w_in, b_in + b_h).flatten(1, 2).unbind():
            from_state = torch.bmm(states[-1], turned).flatten(0, 1)
            state, cell, space = aten._thnn_fused_lstm_cell(gates, from_state, cells[-1])
            states.append(state.view_as(start))
            cells.append(cell)
            spaces.append(space)
        found = torch.stack(states)
        ctx.save_for_backward(inputs, found, w_in, w_h, *cells, *spaces)
        return found[1:], cells[-1].view_as(start).clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward` from those of its two results."""
        inputs, states, w_in, w_h, *kept = ctx.saved_tensors
        steps, shape = len(grad), (*grad.shape[1:3], -1)
        cells, spaces = kept[: steps + 1], kept[steps + 1 :]
        d_state, d_cell = grad[-1].contiguous(), d_last.flatten(0, 1).contiguous()
        d_gates = []
        for t in range(steps - 1, -1, -1):
            of_gates, d_cell, _ = aten._thnn_fused_lstm_cell_backward_impl(
                d_state.flatten(0, 1), d_cell, cells[t], cells[t + 1], spaces[t], False
            )
            d_gates.append(of_gates.view(shape))
            d_state = torch.baddbmm(grad[t - 1], d_gates[-1], w_h) if t else d_gates[-1] @ w_h
        before = torch.stack(d_gates[::-1])
        d_in, d_w_in, d_w_h, d_bias = _gradients(ctx, before, states, inputs, w_in)
        d_cell = d_cell.view_as(d_state)
        return d_in, d_state, d_cell, d_w_in, d_w_h, d_bias, d_bias.clone()


def _by_network(steps: Tensor) -> Tensor:
    """(T, K, B, ·) → (K, TB, ·)."""
    return steps.transpose(0, 1).flatten(1, 2)


def _by_step(flat: Tensor, inputs: Tensor) -> Tensor:
    """The way back, with T, K and B of ``inputs``."""
    steps, networks, batch, _ = inputs.shape
    return flat.view(networks, steps, batch, -1).transpose(0, 1)


def _product(inputs: Tensor, weights: Tensor, bias: Tensor) -> Tensor:
    """Returns the inputs' part of what a layer's gates see, in one product for all steps.

    Args:
        inputs: (T, K, B, F).
        weights: (K, G, F).
        bias: (K, G).

    Returns:
        (T, K, B, G), in one piece.
    """
    flat = torch.baddbmm(bias.unsqueeze(1), _by_network(inputs), weights.transpose(1, 2))
    return _by_step(flat, inputs).contiguous()


def _gradients(
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
    flat = _by_network(driven)
    d_in, d_w_in = _input_gradients(ctx, flat, inputs, w_in)
    return d_in, d_w_in, flat.transpose(1, 2) @ _by_network(states[:-1]), flat.sum(1)


def _input_gradients(
    ctx: Any, driven: Tensor, inputs: Tensor, w_in: Tensor
) -> tuple[Tensor | None, Tensor]:
    """Returns the gradients of the inputs, if wanted, and the weights of `_product`.

    Args:
        ctx: Knows whether the inputs' gradient is wanted.
        driven: (K, TB, G) the gradient of the product.
        inputs: (T, K, B, F).
        w_in: (K, G, F).
    """
    d_in = _by_step(driven @ w_in, inputs) if ctx.needs_input_grad[0] else None
    return d_in, driven.transpose(1, 2) @ _by_network(inputs)
