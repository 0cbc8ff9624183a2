"""The optimizers of a search: torch's kernels, without what `torch.optim` does around them.

For a small network that takes longer than the steps themselves, and its first use imports torch's
compiler, which takes a second before a search has its first result. The steps are torch's to the
last bit where it has a fused kernel and weights are changed each by itself, and up to rounding
elsewhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.9
"""Of SGD; the usual value (Sutskever et al. 2013, ICML, section 2)."""
BETAS = 0.9, 0.999
"""Of Adam, as Kingma and Ba 2015 have them, section 2."""
SMOOTHING = 0.99
"""What RMSprop keeps of the mean square at each step; torch's default, there alpha."""
EPSILON = {"adam": 1e-8, "rmsprop": 1e-8, "adagrad": 1e-10}
"""What is added to the root that a step is divided by; torch's defaults."""
MEMORIES: dict[str, tuple[str | None, str | None]] = {
    "adam": ("exp_avg", "exp_avg_sq"),
    "sgd": ("momentum_buffer", None),
    "rmsprop": (None, "square_avg"),
    "adagrad": (None, "sum"),
}
"""What an optimizer remembers of a weight, as torch names it, by our names of optimizers: a mean of
gradients, and one of their squares."""
COUNTING = ("adam", "adagrad")
"""Those whose kernels want to know how many steps there were."""


@dataclass(frozen=True, eq=False)
class _One:
    """All weights of an optimizer as one, and what it was made of.

    Attributes:
        first: What is remembered of the first weight.
        parts: The gradients.
        weight: (P,) all weights.
        gradient: (P,) all gradients.
        memory: What is remembered of them.
    """

    first: dict[str, Tensor]
    parts: list[Tensor]
    weight: Tensor
    gradient: Tensor
    memory: dict[str, Tensor]


class Optimizer:
    """Changes weights by their gradients.

    Args:
        kind: One of `MEMORIES`.
        weights: What is trained; those without a gradient are left as they are.
        rate: The learning rate.
        decay: What of a weight is added to its gradient.
        together: Whether every step changes every weight.

    Attributes:
        rate: The learning rate of the next step.
        state: What is remembered of each weight that has been changed.

    Raises:
        ValueError: There is no such optimizer.
    """

    def __init__(
        self,
        kind: str,
        weights: Iterable[Tensor],
        rate: float,
        decay: float,
        *,
        together: bool = False,
    ) -> None:
        if kind not in MEMORIES:
            raise ValueError(f"unknown optimizer {kind!r}")
        self.rate, self.state = rate, dict[Tensor, dict[str, Tensor]]()
        self._kind, self._decay, self._weights = kind, decay, list(weights)
        self._together = together
        # A kernel takes weights of one kind at once.
        groups = defaultdict[Any, list[Tensor]](list)
        for weight in self._weights:
            groups[weight.device, weight.dtype, _is_plain(weight)].append(weight)
        self._groups = [(group, plain) for (_, _, plain), group in groups.items()]
        self._one: _One | None = None

    def zero_grad(self) -> None:
        """Forgets the gradients."""
        for weight in self._weights:
            weight.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Changes every weight that has a gradient."""
        one = self._as_one() if self._together else None
        if one is not None:
            self._step([one.weight], [one.gradient], [one.memory])
            return
        for group, plain in self._groups:
            weights = [weight for weight in group if weight.grad is not None]
            if not weights:
                continue
            self._remember([weight for weight in weights if weight not in self.state])
            states = [self.state[weight] for weight in weights]
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            if plain:
                self._step(weights, gradients, states)
            else:
                self._step_strange(weights, gradients, states)

    def fresh(self, weight: Tensor, steps: int) -> dict[str, Tensor]:
        """Returns what is remembered of a weight that has never been changed.

        Args:
            weight: The weight.
            steps: How many steps are to be counted all the same.
        """
        state = {
            name: torch.zeros_like(weight, memory_format=torch.contiguous_format)
            for name in MEMORIES[self._kind]
            if name is not None
        }
        if self._kind in COUNTING:
            # A GPU's kernels read it as single precision, whatever it is.
            state["step"] = torch.tensor(steps, dtype=torch.float32, device=weight.device)
        return state

    def _remember(self, weights: Sequence[Tensor]) -> None:
        """Begins to remember weights that have never been changed, as one if that may be."""
        one = joined(weights) if weights and self._together else None
        if one is None:
            self.state |= {weight: self.fresh(weight, 0) for weight in weights}
            return
        whole = self.fresh(one, 0)
        steps = {name: whole.pop(name) for name in ("step",) if name in whole}
        place = 0
        for weight in weights:
            own = slice(place, place := place + weight.numel())
            parts = {name: part[own].view(weight.shape) for name, part in whole.items()}
            self.state[weight] = {**parts, **steps}

    def state_dict(self) -> dict[str, Any]:
        """Returns what is remembered of each weight, by its place among them, as torch does."""
        places = {weight: place for place, weight in enumerate(self._weights)}
        return {"state": {places[weight]: state for weight, state in self.state.items()}}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Goes on from where `state_dict` was taken; `torch.optim`'s will do, too."""
        self.state = {}
        weights = [self._weights[place] for place in saved["state"]]
        self._remember(weights)
        for weight, state in zip(weights, saved["state"].values(), strict=True):
            for name, one in self.state[weight].items():
                if state.get(name) is not None:
                    one.copy_(state[name])

    def _step_strange(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        """Changes weights of a user's own network that kernels would mistake, by way of others."""
        targets = [_real(weight).contiguous() for weight in weights]
        real = [{name: _real(one) for name, one in state.items()} for state in states]
        self._step(targets, [_real(gradient).contiguous() for gradient in gradients], real)
        for weight, target in zip(weights, targets, strict=True):
            _real(weight).copy_(target)

    def _step(
        self, weights: list[Tensor], gradients: list[Tensor], states: list[dict[str, Tensor]]
    ) -> None:
        """Changes weights of one device and dtype, real and in one piece."""
        names = *MEMORIES[self._kind], "step"
        means, squares, steps = ([one[name] for one in states if name in one] for name in names)
        if steps:  # Some weights may count theirs together.
            torch._foreach_add_(list({id(one): one for one in steps}.values()), 1)
        shared: dict[str, Any] = {"lr": self.rate, "weight_decay": self._decay, "maximize": False}
        if self._kind == "adam":
            shared |= {
                "beta1": BETAS[0],
                "beta2": BETAS[1],
                "eps": EPSILON["adam"],
                "amsgrad": False,
            }
            torch._fused_adam_(weights, gradients, means, squares, [], steps, **shared)
        elif self._kind == "sgd":
            # What has no mean of gradients yet has one of zeros, which is the same.
            shared |= {"momentum": MOMENTUM, "dampening": 0.0, "nesterov": False}
            torch._fused_sgd_(weights, gradients, means, is_first_step=False, **shared)
        elif self._kind == "adagrad" and weights[0].device.type == "cpu":
            shared |= {"lr_decay": 0.0, "eps": EPSILON["adagrad"]}
            torch._fused_adagrad_(weights, gradients, squares, steps, **shared)
        else:
            self._divide_by_root(weights, gradients, squares)

    def _as_one(self) -> _One | None:
        """Returns all weights as one, if they, their gradients and what is remembered lie so."""
        gradients = [weight.grad for weight in self._weights]
        known, first = self._one, self._weights[0]
        if (
            known is not None
            and known.first is self.state.get(first)
            and first.data_ptr() == known.weight.data_ptr()
            and all(map(is_, known.parts, gradients))
        ):
            return known
        found = [gradient for gradient in gradients if gradient is not None]
        if len(found) < len(self._weights):
            return None
        self._remember([weight for weight in self._weights if weight not in self.state])
        states = [self.state[weight] for weight in self._weights]
        weight, gradient = joined(self._weights), joined(found)
        memory = {name: joined([one[name] for one in states]) for name in states[0]}
        counts = [one["step"] for one in states if "step" in one]
        if counts and all(one is counts[0] for one in counts):
            memory["step"] = counts[0]
        whole = {name: one for name, one in memory.items() if one is not None}
        if weight is None or gradient is None or len(whole) < len(memory):
            return None
        self._one = _One(states[0], found, weight, gradient, whole)
        return self._one

    def _divide_by_root(
        self, weights: list[Tensor], gradients: list[Tensor], squares: list[Tensor]
    ) -> None:
        """Makes a step of RMSprop, or of Adagrad on a GPU, for which torch has no fused kernel."""
        if self._decay:
            gradients = list(torch._foreach_add(gradients, weights, alpha=self._decay))
        gain = 1.0
        if self._kind == "rmsprop":
            torch._foreach_mul_(squares, SMOOTHING)
            gain = 1 - SMOOTHING
        torch._foreach_addcmul_(squares, gradients, gradients, value=gain)
        roots = list(torch._foreach_sqrt(squares))
        torch._foreach_add_(roots, EPSILON[self._kind])
        torch._foreach_addcdiv_(weights, gradients, roots, value=-self.rate)


def joined(tensors: Sequence[Tensor]) -> Tensor | None:
    """Returns all numbers of tensors as one, if they lie one after another in the same memory.

    Args:
        tensors: At least one.

    Returns:
        A view of their memory; None if they lie otherwise.
    """
    first = tensors[0]
    memory, place = first.untyped_storage().data_ptr(), first.data_ptr()
    for one in tensors:
        same = one.untyped_storage().data_ptr() == memory and one.dtype == first.dtype
        if one.data_ptr() != place or not same or not one.is_contiguous():
            return None
        place += one.nbytes
    return first.detach().as_strided((sum(one.numel() for one in tensors),), (1,))


def gradient_norm(weights: Iterable[Tensor]) -> Tensor:
    """Returns what `torch.nn.utils.get_total_norm` does, in half its time for a small network.

    Args:
        weights: After a backward pass; those that it gave no gradient are left out.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    if not gradients or any(gradient.device.type != "cpu" for gradient in gradients):
        return nn.utils.get_total_norm(gradients)
    norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return norm


def _is_plain(weight: Tensor) -> bool:
    """Says whether torch's fused kernels take the weight for what it is: they know no strides."""
    return weight.is_contiguous() and not weight.is_complex()


def _real(tensor: Tensor) -> Tensor:
    """Returns a view in which a complex number is two real ones, as torch's optimizers see it."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor
