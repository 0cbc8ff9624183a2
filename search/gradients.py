"""A minibatch's loss and its gradients: by hand for our networks on a CPU, else by autograd.

Autograd's graph, its memory for each gradient, and a call for each weight afterwards take longer
than the layers of a small network. By hand all gradients lie in one piece of memory, which every
minibatch fills anew.

Shapes: B minibatch, T time, N steps of all rows, packed (`search.packing`), F features, H hidden, O
outputs, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from search.data.splits import Batch, Splits
from search.dropout import draw_key, drop
from search.factories import OwnNetwork
from search.layer_choices import TORCHS, Sizes, TorchsTape, choose, may_choose
from search.layer_functions import CompiledTape
from search.layer_tapes import Tape
from search.models import Network, SequenceModel, detach
from search.object_code import HAS_PRODUCTS, PRECISIONS, run
from search.optimizers import gradient_norm, joined
from search.own_modules import blaming
from search.packing import Packing, full, packed

WIDE = 16
"""Numbers of room that the head's pass needs at least; see `search.head_passes`."""
SPARE = 1e-6
"""Added to a norm before clipping divides by it, as `torch.nn.utils.clip_grads_with_norm_` does."""


class Gradients(ABC):
    """What gives a network's weights the gradients of a minibatch's loss.

    Args:
        model: In training.
        splits: The data; the loss is their task's.

    Attributes:
        complete: Whether every weight has a gradient each time.
        layers: Whose layers train, as `search.layer_choices.choose` has it; None before the first
            minibatch, and where there is nothing to choose. Set, it is not asked.
    """

    complete = False
    layers: str | None = None

    @abstractmethod
    def __init__(self, model: Any, splits: Splits) -> None: ...

    @abstractmethod
    def find(self, batch: Batch, state: Any) -> tuple[float, Any]:
        """Puts the gradients where an optimizer looks for them.

        Args:
            batch: The minibatch.
            state: Where the hidden state starts, as this has returned it; None for zero.

        Returns:
            The loss, and the last hidden state, cut off from the past; None where none goes on.
        """

    @abstractmethod
    def norm(self) -> float:
        """Returns the norm of all gradients found (2-norm)."""

    @abstractmethod
    def clip(self, most: float) -> None:
        """Makes all gradients shorter alike, so that their `norm`, asked before, is ``most``."""


def gradients_of(model: Network, splits: Splits) -> Gradients:
    """Returns what finds a network's gradients."""
    if isinstance(model, SequenceModel) and HAS_PRODUCTS:
        weight = model.head.weight
        if weight.device.type == "cpu" and weight.dtype in PRECISIONS:
            return ByHand(model, splits)
    return ByAutograd(model, splits)


class ByAutograd(Gradients):
    """Gradients of any network, anywhere."""

    def __init__(self, model: Network, splits: Splits) -> None:
        self._model, self._splits = model, splits
        self._weights = list(model.parameters())
        self._norm = torch.zeros(())

    def find(self, batch: Batch, state: Any) -> tuple[float, Any]:
        """Calls the network and goes back; nothing is left of the graph, for the next to use."""
        for weight in self._weights:
            weight.grad = None
        model = self._model
        outputs, state = model(batch.inputs, batch.lengths, state)
        # A gradient may be the user's own code, too, and raise whatever it likes.
        own = model.name if isinstance(model, OwnNetwork) else ""
        words = "the loss of its outputs, or the gradient,"
        with blaming(own, words) if own else nullcontext():
            loss = self._splits.loss(outputs, batch.targets)
            loss.backward()  # type: ignore[no-untyped-call]
        return loss.item(), detach(state)

    def norm(self) -> float:
        """Asks torch, once more for `clip`."""
        self._norm = gradient_norm(self._weights)
        return self._norm.item()

    def clip(self, most: float) -> None:
        """Lets torch clip by the norm that was found last."""
        nn.utils.clip_grads_with_norm_(self._weights, most, self._norm)


class ByHand(Gradients):
    """Gradients of a network of ours on a CPU, derived by hand and equal to autograd's."""

    complete = True

    def __init__(self, model: SequenceModel, splits: Splits) -> None:
        self._model, self._splits = model, splits
        self._weights = list(model.parameters())
        sizes = [weight.numel() for weight in self._weights]
        _join(self._weights)
        self._flat = self._weights[0].detach().new_zeros(sum(sizes))
        parts = zip(torch.split(self._flat, sizes), self._weights, strict=True)
        self._found = [part.view(weight.shape) for part, weight in parts]
        # The first may be an embedding's; the last two are the head's.
        self._embedding = self._found[0] if model.per_step else None
        layers = [slice(at, at + 4) for at in range(int(model.per_step), len(sizes) - 2, 4)]
        self._layers = [(self._weights[one], self._found[one]) for one in layers]
        self._cell = model.params.cell
        self._norm = 0.0

    @torch.no_grad()
    def find(self, batch: Batch, state: Any) -> tuple[float, Any]:
        """Goes there and back through the network, keeping on tapes what the way back needs."""
        model, share = self._model, self._model.params.dropout
        self._check()
        steps, packing, seen = self._steps(batch)
        tapes: list[Tape] = []
        keys: list[int] = []
        last: list[tuple[Tensor, ...]] = []
        starts, kind = self._starts(state, packing.rows, steps), self._kind(batch, packing)
        for (weights, found), start in zip(self._layers, starts, strict=True):
            if tapes and share > 0:
                keys.append(draw_key(None))
                steps = drop(steps, share, keys[-1])
            tapes.append(kind(self._cell, found, wanted=bool(tapes) or model.per_step))
            steps, cells = tapes[-1].there(steps, packing, start, weights)
            if model.per_step:  # A copy, as the states of all steps need not live on.
                last.append((steps[-packing.rows :].clone(), *cells))
        shown: Tensor | slice | None = None
        if not model.per_step:
            shown = slice(-packing.rows, None) if packing.ends is None else packing.ends
        loss, passed = self._head(steps if shown is None else steps[shown], batch.targets)
        self._back(tapes, keys, tapes.pop().back(passed, shown), seen)
        self._give()
        return loss, last or None

    def norm(self) -> float:
        """Takes all gradients as one vector."""
        self._norm = torch.linalg.vector_norm(self._flat).item()
        return self._norm

    def clip(self, most: float) -> None:
        """Clips by the norm that was found last."""
        factor = most / (self._norm + SPARE)
        if factor < 1:
            self._flat.mul_(factor)

    def _check(self) -> None:
        """Compiled code looks at memory without asking what is there.

        Raises:
            RuntimeError: The network has been given another precision or device since.
        """
        weight = self._model.head.weight
        if weight.dtype != self._flat.dtype or weight.device != self._flat.device:
            raise RuntimeError(f"the network's weights are {weight.dtype} on {weight.device} now")

    def _steps(self, batch: Batch) -> tuple[Tensor, Packing, Tensor | None]:
        """Returns (N, F) inputs of the first layer, how they are packed, and (N,) characters."""
        model, inputs = self._model, batch.inputs
        rows, count = inputs.shape[:2]
        if model.embedding is not None:
            seen = inputs.t().reshape(-1)
            return model.embedding.weight.index_select(0, seen), full(count, rows), seen
        packing = None if batch.lengths is None else packed(batch.lengths, count)
        if packing is None or packing.places is None:
            return inputs.transpose(0, 1).reshape(count * rows, -1), full(count, rows), None
        return inputs.flatten(0, 1).index_select(0, packing.places), packing, None

    def _kind(self, batch: Batch, packing: Packing) -> type[Tape]:
        """Returns whose layers train a minibatch: of one network always the same."""
        if batch.lengths is not None:  # Torch's would go on beyond the ends of series.
            return CompiledTape
        hidden = self._model.params.hidden_units
        if self.layers is None and may_choose(self._cell, hidden):
            most = max(own.shape[1] for (own, *_), _ in self._layers)
            sizes = Sizes(packing.rows, packing.steps, most, hidden)
            self.layers = choose(self._cell, sizes, self._flat.dtype)
        return TorchsTape if self.layers == TORCHS else CompiledTape

    def _starts(self, state: Any, rows: int, like: Tensor) -> Sequence[Sequence[Tensor]]:
        """Returns where each layer's state starts; of an LSTM that and its cells."""
        if state is not None:
            return state  # type: ignore[no-any-return]
        zero = like.new_zeros(rows, self._model.recurrent.hidden_size)
        return [(zero,) * (2 if self._cell == "lstm" else 1)] * len(self._layers)

    def _head(self, hidden: Tensor, targets: Tensor) -> tuple[float, Tensor]:
        """Returns the loss, and its gradient by what comes to the head; the head's own is kept."""
        head, share = self._model.head, self._model.params.dropout
        key = draw_key(None) if share > 0 else 0
        shown = drop(hidden, share, key) if share > 0 else hidden
        rows, (outputs, units) = len(shown), head.weight.shape
        entropy = self._splits.task != "forecast"
        losses = shown.new_empty(2 if entropy else 1, rows)
        driven, room = shown.new_empty(rows, outputs), shown.new_empty(max(units, WIDE), outputs)
        passed = torch.empty_like(shown)
        found = *self._found[-2:], passed, losses, driven, room
        wanted = (targets.t() if self._model.per_step else targets).contiguous()
        wanted = wanted.to(torch.int64 if entropy else shown.dtype)
        if wanted.numel() != rows * (1 if entropy else outputs):
            raise RuntimeError(f"{tuple(wanted.shape)} targets of ({rows}, {outputs}) outputs")
        if entropy and int(wanted.max()) >= outputs:
            raise RuntimeError(f"a target is {int(wanted.max())}, but there are {outputs} classes")
        name = "cross_entropy" if entropy else "squared_error"
        kept = shown, head.weight, head.bias, wanted
        run(name, shown.dtype, (rows, units, outputs), (*kept, *found))
        if entropy:
            count = int((wanted >= 0).sum())
            loss = losses[0].log_().add_(losses[1]).sum().item() / max(count, 1)
        else:
            loss = losses.sum().item() / wanted.numel()
        return loss, drop(passed, share, key) if share > 0 else passed

    def _back(
        self, tapes: list[Tape], keys: list[int], passed: Tensor | None, seen: Tensor | None
    ) -> None:
        """Goes back through all layers but the last, to the embedding if there is one."""
        for tape in reversed(tapes):
            assert passed is not None
            if keys:
                passed = drop(passed, self._model.params.dropout, keys.pop())
            passed = tape.back(passed)
        if self._embedding is not None:
            assert passed is not None
            assert seen is not None
            self._embedding.zero_().index_add_(0, seen, passed)

    def _give(self) -> None:
        """Puts the gradients where an optimizer looks for them."""
        for weight, found in zip(self._weights, self._found, strict=True):
            weight.grad = found


@torch.no_grad()
def _join(weights: Sequence[nn.Parameter]) -> None:
    """Moves weights into one piece of memory, which an optimizer changes in one go."""
    if joined(weights) is None:
        whole = torch.cat([weight.flatten() for weight in weights])
        parts = torch.split(whole, [weight.numel() for weight in weights])
        for weight, part in zip(weights, parts, strict=True):
            weight.data = part.view(weight.shape)
