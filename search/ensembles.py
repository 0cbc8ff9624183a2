"""Networks that answer as one: the mean of their outputs, and how far they disagree.

Shapes: S networks, B minibatch, O outputs, C classes, V vocabulary.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from search.data.splits import Part
from search.models import Network, SequenceModel
from search.training import outputs_of


def combine(task: str, outputs: Tensor) -> Tensor:
    """Returns the ensemble's outputs, each the same whatever else there is in its batch.

    Args:
        task: ``forecast``: the mean output; ``classify`` and ``language``: logarithms of the mean
            probabilities, which as logits give these probabilities back.
        outputs: (S, ...) of S networks, classes or characters last.

    Returns:
        (...) of the same type as ``outputs``; computed in float64.
    """
    each = outputs.double()
    if task == "forecast":
        return (_total(each) / len(each)).to(outputs.dtype)
    logs = each.log_softmax(-1)
    largest = logs.amax(0)
    shares = _total((one - largest).exp() for one in logs) / len(logs)
    return (shares.log() + largest).to(outputs.dtype)


def disagreement(outputs: Tensor) -> Tensor:
    """Returns the variance (of S - 1; 0 for one network) of (S, ...) outputs, (...) float64."""
    each = outputs.double()
    if len(each) == 1:
        return torch.zeros_like(each[0])
    mean = _total(each) / len(each)
    return _total((one - mean).square() for one in each) / (len(each) - 1)


def _total(terms: Iterable[Tensor]) -> Tensor:
    """Adds up in order.

    Measured: the order in which ``sum(0)`` adds five or more terms, and so the last bit, depends
    on an element's place in the batch.
    """
    return functools.reduce(operator.add, terms)


@dataclass(frozen=True, eq=False)
class Networks:
    """The networks of a model.

    Attributes:
        task: ``forecast``, ``classify`` or ``language``.
        each: The S networks, on one device.
        joined: True if they answer by `combine`; False for a network by itself.
    """

    task: str
    each: tuple[Network, ...]
    joined: bool

    @property
    def ours(self) -> tuple[SequenceModel, ...]:
        """Those of them whose layers are known: all, unless they are the user's own."""
        return tuple(one for one in self.each if isinstance(one, SequenceModel))

    def join(self, outputs: Tensor) -> Tensor:
        """Returns the (...) answer that (S, ...) outputs make."""
        return combine(self.task, outputs) if self.joined else outputs[0]

    @torch.no_grad()
    def outputs_of(self, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (S, B, ...) outputs and the targets of each batch of a part, dropout off."""
        for pairs in zip(*(outputs_of(network, part) for network in self.each), strict=True):
            yield torch.stack([outputs for outputs, _ in pairs]), pairs[0][1]
