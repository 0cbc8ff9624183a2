"""GRU and LSTM layers of K networks on a GPU, where a step is its product and one kernel more.

A GPU that repeats a recorded step does as many operations a second as it can begin, about one in a
microsecond, whoever they are of: so what counts is how many there are. Torch's own cells have a
kernel each for all that a step does besides the product of the state, forward and backward; with
these a step of a GRU is 5 operations, where `search.recurrent` has 9, and one of an LSTM 4 for 13.

Shapes: K networks, B minibatch, T time, F inputs of a layer, H hidden, G = 3 H (GRU) or 4 H (LSTM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from search import recurrent
from search.layer_products import by_network, gradients, input_gradients, product

aten = torch.ops.aten


def run_layer(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of K networks, on any device; arguments and result as `recurrent.run_layer`'s.

    Elman's network has two operations in a step anyway.
    """
    if inputs.device.type != "cuda" or cell == "rnn":
        return recurrent.run_layer(cell, inputs, start, weights)
    return run_fused(cell, inputs, start, weights)


def run_fused(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of GRU or LSTM with torch's kernels, which are for CUDA only."""
    if cell == "gru":
        steps = _FusedGRU.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
        return steps, (steps[-1],)
    steps, last = _FusedLSTM.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
    return steps, (steps[-1], last)


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
        for gates in product(inputs, w_in, b_in).flatten(1, 2).unbind():
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
        flat = by_network(torch.stack(d_recurrent[::-1]))
        d_w_h, d_b_h = flat.transpose(1, 2) @ by_network(states[:-1]), flat.sum(1)
        flat = by_network(torch.stack(d_gates[::-1]))
        d_in, d_w_in = input_gradients(ctx, flat, inputs, w_in)
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
        for gates in product(inputs, w_in, b_in + b_h).flatten(1, 2).unbind():
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
        d_in, d_w_in, d_w_h, d_bias = gradients(ctx, before, states, inputs, w_in)
        d_cell = d_cell.view_as(d_state)
        return d_in, d_state, d_cell, d_w_in, d_w_h, d_bias, d_bias.clone()
