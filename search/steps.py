"""The steps of torch.optim's optimizers for K networks at once, each with settings of its own.

A network is a row of P numbers, and so are its gradient and what its optimizer remembers; the rows
of one kind of optimizer lie together. What a row becomes depends on that row alone.

Shapes: K networks, P weights of each, with padding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from search.space import HyperParams
from search.training import MOMENTUM

MEMORIES: dict[str, tuple[str, ...]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer",),
    "rmsprop": ("square_avg",),
    "adagrad": ("sum",),
}
"""What torch's optimizers remember of a weight, as they name it, by our optimizers' names."""
MOST = 2
"""No optimizer remembers more of a weight than this."""
BETAS = 0.9, 0.999
ALPHA = 0.99
"""Of RMSprop, as torch has it; Adam's betas and what is added to roots likewise."""
TINY, TINIEST = 1e-8, 1e-10
"""What is added to roots: by Adam and RMSprop; by Adagrad."""


class Settings:
    """How K networks are trained: tensors, so that a step asks nothing of Python.

    Args:
        params: Of each network; those of one optimizer side by side.
        rates: Their learning rates.
        steps: How many steps each has made.
        like: Of the dtype and device of the weights.

    Attributes:
        rates: (K, 1) float64 the learning rates, changed in place where they decay.
        steps: (K, 1) int64 how many steps have been made.
        weight_decays: (K, 1) what times the weights is added to gradients; None: nothing is.
        limits: (K, 1) the norms that gradients are shortened to; None: none is.
        places: Which rows have an optimizer, by its name in `MEMORIES`.
        corrections: What Adam's moments are divided by, by the number of steps.
    """

    def __init__(
        self,
        params: Sequence[HyperParams],
        rates: Sequence[float],
        steps: Sequence[int],
        like: Tensor,
    ) -> None:
        def column(values: Sequence[float], dtype: torch.dtype = like.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=like.device).unsqueeze(1)

        self.rates, self.steps = column(rates, torch.float64), column(steps, torch.int64)
        decays = [one.weight_decay for one in params]
        self.weight_decays = column(decays) if any(decays) else None
        limits = [one.gradient_clipping or math.inf for one in params]
        self.limits = column(limits) if min(limits) < math.inf else None
        kinds = [one.optimizer for one in params]
        self.corrections = _corrections(like.device)
        firsts = {kind: kinds.index(kind) for kind in kinds}
        self.places = {kind: slice(at, at + kinds.count(kind)) for kind, at in firsts.items()}


def clip(gradients: Tensor, norms: Tensor, settings: Settings) -> None:
    """Shortens gradients as `torch.nn.utils.clip_grads_with_norm_` does.

    Args:
        gradients: (K, P), changed in place.
        norms: (K,) their norms.
        settings: Of the networks.
    """
    if settings.limits is not None:
        gradients.mul_((settings.limits / (norms.unsqueeze(1) + 1e-6)).clamp_(max=1.0))


def step(
    weights: Tensor, gradients: Tensor, memories: Sequence[Tensor], settings: Settings
) -> None:
    """Makes a step of every network.

    Args:
        weights: (K, P), changed in place.
        gradients: (K, P), used up.
        memories: `MOST` of (K, P), 0 before the first step, changed in place.
        settings: Of the networks; counts their steps.
    """
    if settings.weight_decays is not None:
        gradients.addcmul_(weights, settings.weight_decays)
    settings.steps.add_(1)
    for kind, rows in settings.places.items():
        kept = [memory[rows] for memory in memories]
        _STEPS[kind](weights[rows], gradients[rows], kept, settings, rows)


def _adam(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Settings, rows: slice
) -> None:
    """Kingma and Ba 2015, with both moments' biases corrected."""
    mean, square = memories
    one, two = BETAS
    mean.lerp_(g, 1 - one)
    square.mul_(two).addcmul_(g, g, value=1 - two)
    biases, roots = settings.corrections
    steps = settings.steps[rows].clamp(max=len(biases) - 1)
    rates = (settings.rates[rows] / biases[steps]).to(g.dtype)
    weights.sub_((mean * rates).div_(square.sqrt().div_(roots[steps].to(g.dtype)).add_(TINY)))


def _sgd(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Settings, rows: slice
) -> None:
    """Gradient descent with momentum."""
    velocity = memories[0].mul_(MOMENTUM).add_(g)
    weights.sub_(velocity * settings.rates[rows].to(g.dtype))


def _rmsprop(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Settings, rows: slice
) -> None:
    """Tieleman and Hinton 2012, lecture 6.5."""
    square = memories[0].mul_(ALPHA).addcmul_(g, g, value=1 - ALPHA)
    weights.sub_((g * settings.rates[rows].to(g.dtype)).div_(square.sqrt().add_(TINY)))


def _adagrad(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Settings, rows: slice
) -> None:
    """Duchi, Hazan and Singer 2011."""
    total = memories[0].addcmul_(g, g)
    weights.sub_((g * settings.rates[rows].to(g.dtype)).div_(total.sqrt().add_(TINIEST)))


_STEPS = {"adam": _adam, "sgd": _sgd, "rmsprop": _rmsprop, "adagrad": _adagrad}


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
