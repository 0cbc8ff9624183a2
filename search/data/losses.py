"""Losses of a minibatch with their gradients, by torch's own kernels and without a graph.

Shapes: N predictions, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from search.data.splits import IGNORED

_MEAN, _SUM = 1, 2
"""What torch's kernels call what they make of the losses."""


def squared_error(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean squared error, and its gradient by the outputs.

    Args:
        outputs: Any shape.
        targets: Likewise.
    """
    loss = torch.nn.functional.mse_loss(outputs, targets)
    return loss, (outputs - targets).mul_(2 / max(1, outputs.numel()))


def cross_entropy(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the mean over the targets that are not `IGNORED`, in nats, and its gradient.

    Args:
        outputs: (N, C) logits.
        targets: (N,) int64.

    Returns:
        The loss, 0 if no target counts; and (N, C), 0 where the target does not.
    """
    aten = torch.ops.aten
    logs = torch.log_softmax(outputs, 1)
    total, count = aten.nll_loss_forward(logs, targets, None, _SUM, IGNORED)
    one = logs.new_ones(())
    d_logs = aten.nll_loss_backward(one, logs, targets, None, _MEAN, IGNORED, count)
    gradient: Tensor = aten._log_softmax_backward_data(d_logs, logs, 1, logs.dtype)
    return total / count.clamp(min=1), gradient
