"""The kernels that torch has for CUDA only, written out for a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def gru_cell(gates: Tensor, recurrent: Tensor, state: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """What torch's CUDA kernel of a GRU's step calculates, and what it keeps."""
    ours, theirs = gates.chunk(3, 1), recurrent.chunk(3, 1)
    reset, keep = (torch.sigmoid(ours[at] + theirs[at]) for at in (0, 1))
    new = torch.tanh(ours[2] + reset * theirs[2])
    space = torch.cat([reset, keep, new, state, theirs[2]], 1)
    return new + keep * (state - new), space


def gru_cell_backward(grad: Tensor, space: Tensor, _: bool) -> tuple[Tensor | None, ...]:
    """Its gradients of gates, of the state's part of them, and of the state."""
    reset, keep, new, state, recurrent = space.chunk(5, 1)
    to_new = grad * (1 - keep) * (1 - new * new)
    to_keep = grad * (state - new) * (1 - keep) * keep
    to_reset = to_new * recurrent * (1 - reset) * reset
    gates = torch.cat([to_reset, to_keep, to_new], 1)
    return gates, torch.cat([to_reset, to_keep, to_new * reset], 1), grad * keep, None, None


def lstm_cell(
    gates: Tensor, recurrent: Tensor, cell: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    """What torch's CUDA kernel of an LSTM's step calculates, and what it keeps."""
    let_in, forget, new, let_out = (gates + recurrent).chunk(4, 1)
    let_in, forget, let_out = (torch.sigmoid(one) for one in (let_in, forget, let_out))
    new = torch.tanh(new)
    after = forget * cell + let_in * new
    return let_out * torch.tanh(after), after, torch.cat([let_in, forget, new, let_out], 1)


def lstm_cell_backward(
    grad: Tensor, d_after: Tensor, cell: Tensor, after: Tensor, space: Tensor, _: bool
) -> tuple[Tensor | None, ...]:
    """Its gradients of gates and of the cell state."""
    let_in, forget, new, let_out = space.chunk(4, 1)
    squashed = torch.tanh(after)
    d_cell = d_after + grad * let_out * (1 - squashed * squashed)
    parts = [
        d_cell * new * let_in * (1 - let_in),
        d_cell * cell * forget * (1 - forget),
        d_cell * let_in * (1 - new * new),
        grad * squashed * let_out * (1 - let_out),
    ]
    return torch.cat(parts, 1), d_cell * forget, None


@contextmanager
def cuda_kernels() -> Iterator[None]:
    """Gives them to a CPU."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_thnn_fused_gru_cell", gru_cell, "CPU")
    library.impl("_thnn_fused_gru_cell_backward", gru_cell_backward, "CPU")
    library.impl("_thnn_fused_lstm_cell", lstm_cell, "CPU")
    library.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward, "CPU")
    try:
        yield
    finally:
        library._destroy()
