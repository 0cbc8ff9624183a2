"""The steps of torch.optim's optimizers for K networks at once, each with settings of its own.

A network is a row of P numbers, and so are its gradient and what its optimizer remembers; the rows
of one kind of optimizer lie together. What a row becomes depends on that row alone.

Shapes: K networks, P weights of each, with padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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


@dataclass
class Setting:
    """How one network is trained.

    Attributes:
        optimizer: Its name in `MEMORIES`.
        rate: The learning rate.
        weight_decay: Added to the gradient, times the weights.
        clipping: The norm that a gradient is shortened to; 0: none is.
        steps: How many steps have been made.
    """

    optimizer: str
    rate: float
    weight_decay: float
    clipping: float
    steps: int = 0


def clip(gradients: Tensor, norms: Tensor, settings: Sequence[Setting]) -> None:
    """Shortens gradients as `torch.nn.utils.clip_grads_with_norm_` does.

    Args:
        gradients: (K, P), changed in place.
        norms: (K,) their norms.
        settings: Of each network.
    """
    if all(one.clipping == 0 for one in settings):
        return
    limits = norms.new_tensor([one.clipping or torch.inf for one in settings])
    gradients.mul_((limits / (norms + 1e-6)).clamp_(max=1.0).unsqueeze(1))


def step(
    weights: Tensor, gradients: Tensor, memories: Sequence[Tensor], settings: Sequence[Setting]
) -> None:
    """Makes a step of every network.

    Args:
        weights: (K, P), changed in place.
        gradients: (K, P), used up.
        memories: `MOST` of (K, P), 0 before the first step, changed in place.
        settings: Of each network; those of one optimizer side by side.
    """
    if any(one.weight_decay > 0 for one in settings):
        gradients.addcmul_(weights, _column(weights, [one.weight_decay for one in settings]))
    first = 0
    while first < len(settings):
        kind = settings[first].optimizer
        last = first
        while last < len(settings) and settings[last].optimizer == kind:
            settings[last].steps += 1
            last += 1
        rows = slice(first, last)
        kept = [memory[rows] for memory in memories]
        _STEPS[kind](weights[rows], gradients[rows], kept, settings[rows])
        first = last


def _adam(weights: Tensor, g: Tensor, memories: list[Tensor], settings: Sequence[Setting]) -> None:
    """Kingma and Ba 2015, with both moments' biases corrected."""
    mean, square = memories
    one, two = BETAS
    mean.lerp_(g, 1 - one)
    square.mul_(two).addcmul_(g, g, value=1 - two)
    rates = _column(g, [setting.rate / (1 - one**setting.steps) for setting in settings])
    roots = _column(g, [(1 - two**setting.steps) ** 0.5 for setting in settings])
    weights.sub_((mean * rates).div_(square.sqrt().div_(roots).add_(TINY)))


def _sgd(weights: Tensor, g: Tensor, memories: list[Tensor], settings: Sequence[Setting]) -> None:
    """Gradient descent with momentum."""
    velocity = memories[0].mul_(MOMENTUM).add_(g)
    weights.sub_(velocity * _rates(g, settings))


def _rmsprop(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Sequence[Setting]
) -> None:
    """Tieleman and Hinton 2012, lecture 6.5."""
    square = memories[0].mul_(ALPHA).addcmul_(g, g, value=1 - ALPHA)
    weights.sub_((g * _rates(g, settings)).div_(square.sqrt().add_(TINY)))


def _adagrad(
    weights: Tensor, g: Tensor, memories: list[Tensor], settings: Sequence[Setting]
) -> None:
    """Duchi, Hazan and Singer 2011."""
    total = memories[0].addcmul_(g, g)
    weights.sub_((g * _rates(g, settings)).div_(total.sqrt().add_(TINIEST)))


_STEPS = {"adam": _adam, "sgd": _sgd, "rmsprop": _rmsprop, "adagrad": _adagrad}


def _rates(like: Tensor, settings: Sequence[Setting]) -> Tensor:
    return _column(like, [one.rate for one in settings])


def _column(like: Tensor, values: list[float]) -> Tensor:
    """Returns (K, 1)."""
    return like.new_tensor(values).unsqueeze(1)
