"""The steps of torch.optim's optimizers for K networks at once, each with settings of its own.

A network is a row of P numbers, and so are its gradient and what its optimizer remembers. All
optimizers are one formula, whose constants are a network's own, so that no row needs a place among
its like. What a row becomes depends on that row alone.

Shapes: K networks, P weights of each, with padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from search.optimizers import BETAS, EPSILON, MOMENTUM, SMOOTHING
from search.space import HyperParams

MOST = 2
"""No optimizer remembers more of a weight than this."""


@dataclass(frozen=True)
class _Kind:
    """An optimizer: w' = w - rate m / c / (sqrt(v) / d + tiny), with bias corrections c and d.

    Attributes:
        mean: What is kept of the mean m, and what of the gradient comes to it.
        square: What is kept of the mean square v, and what of the gradient's square comes to it.
        tiny: What is added to the root.
        corrected: Whether c and d are other than 1.
    """

    mean: tuple[float, float]
    square: tuple[float, float]
    tiny: float
    corrected: bool = False


KINDS = {
    # Kingma and Ba 2015, both moments' biases corrected.
    "adam": _Kind(
        (BETAS[0], 1 - BETAS[0]), (BETAS[1], 1 - BETAS[1]), EPSILON["adam"], corrected=True
    ),
    # Gradient descent with momentum; the root of nothing, and 1, divide nothing.
    "sgd": _Kind((MOMENTUM, 1.0), (0.0, 0.0), 1.0),
    # Tieleman and Hinton 2012, lecture 6.5.
    "rmsprop": _Kind((0.0, 1.0), (SMOOTHING, 1 - SMOOTHING), EPSILON["rmsprop"]),
    # Duchi, Hazan and Singer 2011.
    "adagrad": _Kind((0.0, 1.0), (1.0, 1.0), EPSILON["adagrad"]),
}
"""Those of `search.optimizers`."""


class Settings:
    """How each of K networks is trained: tensors, so that a step asks nothing of Python.

    Args:
        networks: K; none has settings yet.
        like: Of the dtype and device of the weights.

    Attributes:
        rates: (K, 1) float64 the learning rates.
        steps: (K, 1) int64 how many steps have been made.
    """

    def __init__(self, networks: int, like: Tensor) -> None:
        self.rates = like.new_zeros(networks, 1, dtype=torch.float64)
        self.steps = like.new_zeros(networks, 1, dtype=torch.int64)
        # Weight decay, limit of the norm, then what `_Kind` has: all of one network in a column.
        self._columns = like.new_zeros(len(_COLUMNS), networks, 1)
        self.corrected = like.new_zeros(networks, 1, dtype=torch.bool)
        self.corrections = _corrections(like.device)
        self._columns[-1] = 1.0

    def set(self, at: int, params: HyperParams, rate: float, steps: int) -> None:
        """Takes a network that has made so many steps.

        Args:
            at: Its place.
            params: How it is trained.
            rate: Its learning rate.
            steps: How many steps it has made.
        """
        kind = KINDS[params.optimizer]
        limit = params.gradient_clipping or math.inf
        values = (params.weight_decay, limit, *kind.mean, *kind.square, kind.tiny)
        self._columns[:, at, 0] = self._columns.new_tensor(values)
        self.rates[at], self.steps[at], self.corrected[at] = rate, steps, kind.corrected

    def adopt(self, at: int, other: Settings, place: int) -> None:
        """Takes over the settings of a network that was at ``place`` among others."""
        self._columns[:, at] = other._columns[:, place]
        self.rates[at], self.steps[at] = other.rates[place], other.steps[place]
        self.corrected[at] = other.corrected[place]

    def column(self, name: str) -> Tensor:
        """Returns (K, 1) one of `_COLUMNS`."""
        return self._columns[_COLUMNS.index(name)]


_COLUMNS = ("decay", "limit", "mean", "mean_gain", "square", "square_gain", "tiny")


def clip(gradients: Tensor, norms: Tensor, settings: Settings) -> None:
    """Shortens gradients as `torch.nn.utils.clip_grads_with_norm_` does.

    Args:
        gradients: (K, P), changed in place.
        norms: (K,) their norms.
        settings: Of the networks.
    """
    limits = settings.column("limit") / (norms.unsqueeze(1) + 1e-6)
    gradients.mul_(limits.clamp_(max=1.0))


def step(weights: Tensor, gradients: Tensor, memories: Tensor, settings: Settings) -> None:
    """Makes a step of every network.

    Args:
        weights: (K, P), changed in place.
        gradients: (K, P), used up.
        memories: (`MOST`, K, P), 0 before the first step, changed in place.
        settings: Of the networks; counts their steps.
    """
    mean, square = memories
    column = settings.column
    gradients.addcmul_(weights, column("decay"))
    settings.steps.add_(1)
    biases, roots = settings.corrections
    last = len(biases) - 1
    steps = torch.where(settings.corrected, settings.steps.clamp(max=last), last)
    rates = (settings.rates / biases[steps]).to(gradients.dtype)
    mean.mul_(column("mean")).addcmul_(gradients, column("mean_gain"))
    square.mul_(column("square")).addcmul_(gradients.square(), column("square_gain"))
    divisors = square.sqrt().div_(roots[steps].to(gradients.dtype)).add_(column("tiny"))
    weights.sub_((mean * rates).div_(divisors))


@cache
def _corrections(device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns (N,) what Adam divides its mean by after n steps, and the same of its root.

    A table and not powers of a tensor, whose last bits depend on the place among the others. It
    ends where both are 1.
    """
    one, two = BETAS
    last = math.ceil(-54 / math.log2(two))
    biases = torch.tensor([1 - one**n for n in range(last + 1)], dtype=torch.float64)
    roots = torch.tensor([(1 - two**n) ** 0.5 for n in range(last + 1)], dtype=torch.float64)
    return biases.to(device), roots.to(device)
