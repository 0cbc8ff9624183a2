"""Dropout (Srivastava et al. 2014, JMLR 15): a share of the values is 0, the others are larger.

What is dropped follows from one number that torch's generator draws, so that a generator's state is
all that a checkpoint needs. On a GPU it is torch's own.

Shapes are any.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from search.object_code import ENABLED, PRECISIONS, run


def dropped(values: Tensor, share: float, *, training: bool) -> Tensor:
    """Returns values with a share of them dropped, if this is training; the same each way back.

    Args:
        values: Their places, row by row, decide which are dropped.
        share: From 0 to below 1.
        training: Whether to drop any.
    """
    if not training or share == 0:
        return values
    if not _is_ours(values):
        return functional.dropout(values, share)
    made: Tensor = _Dropout.apply(values, share, draw_key(None))  # type: ignore[no-untyped-call]
    return made


def noise(like: Tensor, share: float, random: torch.Generator) -> Tensor:
    """Returns what `dropped` multiplies values by, with a generator of its own.

    Args:
        like: Of the shape, precision and device.
        share: From 0 to below 1.
        random: Draws, on the device.
    """
    if not _is_ours(like):
        return torch.empty_like(like).bernoulli_(1 - share, generator=random).div_(1 - share)
    return drop(torch.ones_like(like), share, draw_key(random))


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, share: float, key: int) -> Tensor:
        ctx.drawn = share, key
        return drop(values, share, key)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return drop(grad, *ctx.drawn), None, None


def drop(values: Tensor, share: float, key: int) -> Tensor:
    """Returns what `dropped` does to values, or to their gradient, by a number that was drawn.

    Args:
        values: On a CPU, of a precision in which compiled code calculates.
        share: From 0 to below 1.
        key: As of `draw_key`.
    """
    values = values.detach().contiguous()
    result = torch.empty_like(values)
    words = torch.empty(values.numel() + 1, dtype=torch.int32, device="cpu")
    run("drop", values.dtype, (values.numel(), key, share), (words, values, result))
    return result


def draw_key(random: torch.Generator | None) -> int:
    """Draws the number from which follows what is dropped; None: by torch's own generator."""
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_(generator=random))


def _is_ours(values: Tensor) -> bool:
    return ENABLED and values.device.type == "cpu" and values.dtype in PRECISIONS
