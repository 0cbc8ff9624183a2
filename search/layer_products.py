"""The matrix products of recurrent layers that are not of one step: all inputs' and all gradients'.

Every one is of K networks, each with weights of its own, or of one network, whose shapes have no K.

Shapes: K networks, B minibatch, T time, F inputs of a layer, H hidden, G = H, 3 H (GRU) or 4 H
(LSTM).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def by_network(steps: Tensor) -> Tensor:
    """(T, K, B, ·) → (K, TB, ·), or (T, B, ·) → (TB, ·)."""
    return steps.flatten(0, 1) if steps.dim() == 3 else steps.transpose(0, 1).flatten(1, 2)


def _by_step(flat: Tensor, inputs: Tensor) -> Tensor:
    """The way back, with T, K and B of ``inputs``."""
    if inputs.dim() == 3:
        return flat.view(*inputs.shape[:2], -1)
    steps, networks, batch, _ = inputs.shape
    return flat.view(networks, steps, batch, -1).transpose(0, 1)


def product(
    inputs: Tensor, weights: Tensor, bias: Tensor, factor: int = 1, *, out: Tensor | None = None
) -> Tensor:
    """Returns the inputs' part of what a layer's gates see, in one product for all steps.

    Args:
        inputs: (T, K, B, F), or without K.
        weights: (K, G, F).
        bias: (K, G).
        factor: What it is multiplied by.
        out: Where to put it.

    Returns:
        (T, K, B, G), in one piece.
    """
    rows, turned = by_network(inputs), weights.mT
    if inputs.dim() == 4:
        flat = torch.baddbmm(bias.unsqueeze(-2), rows, turned, alpha=factor, beta=factor)
        made = _by_step(flat, inputs)
        return made.contiguous() if out is None else out.copy_(made)
    place = None if out is None else out.flatten(0, 1)
    flat = torch.addmm(bias, rows, turned, alpha=factor, beta=factor, out=place)
    return _by_step(flat, inputs)


def adding(state: Tensor) -> Callable[..., Tensor]:
    """Returns what adds a product of matrices to a tensor: for one network's state, or for K.

    A batched product of one takes up to twice as long (measured with MKL).
    """
    return Tensor.addmm_ if state.dim() == 2 else Tensor.baddbmm_


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
    return d_in, d_w_in, flat.mT @ by_network(states[:-1]), flat.sum(-2)


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
    return d_in, driven.mT @ by_network(inputs)
