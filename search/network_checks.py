"""What a network of the user's own must do, tried on a few examples before anything is trained.

Most checks are of mistakes that fail no trial but make its figures worthless: an answer that looks
at padding, at other examples of the batch, or at the characters that it is to predict.

Shapes: B minibatch, T time, F features, O outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from search.data.splits import Batch, Splits
from search.dimensions import HYPERPARAMETERS, Dimension, Fixed
from search.errors import FactoryError, NetworkError
from search.factories import Factory, OwnNetwork
from search.models import build, detach
from search.own_modules import blaming
from search.space import Extra, HyperParams, starting_points

EXAMPLES = 4
"""Size B of the batch that is tried."""
LOOKED_AT = 512
"""Examples among which the shortest and the longest are sought."""
TOLERANCE = 1e-3
"""Share of the largest output by which answers may differ that should be equal: far more than
rounding, far less than what other inputs do."""
STEP = 0.1
"""Length of the step that is trained, so that last weights that begin at 0 hide no mistake."""
OF_THE_NETWORK = ("hidden_layers", "hidden_units", "cell", "dropout")
"""The hyperparameters that only a network reads; training itself reads the others."""


def check_network(
    factory: Factory, space: Mapping[str, Dimension], splits: Splits, device: str
) -> list[str]:
    """Builds the network of a study's first trial and tries it.

    Args:
        factory: Builds it.
        space: Of the study.
        splits: The data, on the CPU.
        device: Where trials will train.

    Returns:
        Notes that a person should read: what is searched but was not read, and a state that does
        not come back.

    Raises:
        FactoryError: It does not do what a network must; one line that says what.
    """
    fixed = {name: one.value for name, one in space.items() if isinstance(one, Fixed)}
    params = _Watched.of({**fixed, **starting_points(space)[0]})
    target = torch.device(device)
    try:
        with torch.random.fork_rng(devices=[target] if target.type == "cuda" else []):
            notes = _check(factory, params, splits, target)
    except (NetworkError, torch.AcceleratorError) as error:
        if "CUDA error: out of memory" in str(error):  # Not the network's fault.
            raise
        said = " ".join(str(error).split())
        if not isinstance(error, NetworkError):  # What a GPU does not recover from.
            said = f"{factory.name}: {said.partition(' CUDA kernel errors')[0]}"
        raise FactoryError(f"{said} (tried with the values of the first trial)") from error
    return [*notes, *_unread(factory.name, params, space)]


def _check(
    factory: Factory, params: HyperParams, splits: Splits, device: torch.device
) -> list[str]:
    count = 2 if splits.per_step else 1
    batches = list(islice(splits.train.batches(EXAMPLES, None), count))
    network, twin = (_built(factory, params, splits) for _ in range(2))
    given = [batch.inputs.clone() for batch in batches]
    for one in (network, twin):
        torch.manual_seed(0)
        _train(one, splits, batches)
    if not all(map(torch.equal, given, (batch.inputs for batch in batches))):
        raise _fault("forward changes its inputs in place: let it work on a copy of them", factory)
    if not _alike(network.state_dict(), twin.state_dict()):
        raise _fault(
            "networks of the same seed differ after the same steps: take every random number "
            "from torch, not from random or numpy",
            factory,
        )
    network.eval()
    with torch.no_grad():
        _check_examples(network, factory, batches[0])
        if splits.per_step:
            _check_steps(network, factory, batches)
        else:
            _check_padding(network, factory, next(splits.train.batches(LOOKED_AT, None)))
    if device.type != "cpu":
        _train(network.to(device), splits, [_moved(batch, device) for batch in batches])
    if not (splits.per_step and network.forgets):
        return []
    return [
        f"what the network of {factory.name} returns beside its outputs does not come back with "
        "the next chunk of the text: forward does not take state"
    ]


def _built(factory: Factory, params: HyperParams, splits: Splits) -> OwnNetwork:
    torch.manual_seed(0)
    network = build(params, splits, factory)
    assert isinstance(network, OwnNetwork)
    if any(is_lazy(weights) for weights in network.parameters()):
        raise _fault("it has lazy parameters; give every layer its sizes", factory)
    if not any(weights.requires_grad for weights in network.parameters()):
        raise _fault("it has no parameters to train", factory)
    for name, one in network.state_dict().items():
        _require_kept(name, one, factory)
    return network


def _require_kept(name: str, one: object, factory: Factory) -> None:
    """Requires that a file can hold what a network has by this name."""
    if not isinstance(one, Tensor):
        raise _fault(f"'{name}' in its state_dict() is no tensor, so cannot be kept", factory)
    try:  # As the weights of the best epoch are.
        copy = one.detach().cpu().clone(memory_format=torch.contiguous_format)
        read_safetensors(write_safetensors({name: copy}))
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise _fault(
            f"'{name}' in its state_dict() cannot be kept: safetensors does not hold {one.dtype}, "
            f"{one.layout}; make it a dense tensor of another type, or a buffer with "
            "persistent=False",
            factory,
        ) from error


def _train(network: OwnNetwork, splits: Splits, batches: list[Batch]) -> None:
    """Trains a step on each batch."""
    network.train()
    state: Any = None
    for batch in batches:
        network.zero_grad()
        outputs, state = network(batch.inputs, batch.lengths, detach(state))
        with blaming(network.name, "the loss of its outputs, or the gradient,"):
            loss = splits.loss(outputs, batch.targets)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            pairs = [(one, one.grad) for one in network.parameters() if one.grad is not None]
            norm = nn.utils.get_total_norm([gradient for _, gradient in pairs])
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise _fault("its loss or gradient is not finite", network)
        if norm == 0:
            raise _fault("no parameter gets a gradient: its outputs depend on none", network)
        with torch.no_grad():
            for weights, gradient in pairs:
                weights.sub_(STEP / norm * gradient)


def _check_examples(network: OwnNetwork, factory: Factory, batch: Batch) -> None:
    """Requires an example's answer to be the same again, and the same without the others."""
    outputs = network(batch.inputs, batch.lengths)[0]
    if not torch.isfinite(outputs).all():
        raise _fault("its outputs are not finite", factory)
    if not _same(outputs, network(batch.inputs, batch.lengths)[0]):
        raise _fault(
            "in eval() it gives the same input different answers: a dropout that does not know "
            "of self.training?",
            factory,
        )
    for row in range(len(outputs)):
        one = slice(row, row + 1)
        lengths = None if batch.lengths is None else batch.lengths[one]
        if not _same(outputs[one], network(batch.inputs[one], lengths)[0]):
            raise _fault(
                "the answer to an example depends on the others in its batch: a layer without "
                "batch_first=True?",
                factory,
            )


def _check_padding(network: OwnNetwork, factory: Factory, batch: Batch) -> None:
    """Requires that what comes after a series' last step, and how much, changes nothing."""
    if batch.lengths is None:
        return
    chosen = torch.stack([batch.lengths.argmin(), batch.lengths.argmax()])
    inputs, lengths = batch.inputs[chosen], batch.lengths[chosen]
    padding = torch.arange(inputs.shape[1]) >= lengths[:, None]
    noise = 3 * torch.randn(inputs.shape)
    changed = torch.where(padding[..., None], noise, inputs)
    outputs = network(inputs, lengths)[0]
    if not _same(outputs, network(changed, lengths)[0]):
        raise _fault(
            "padding leaks: what comes after a series' last step changes its answer; forward "
            "must take lengths and heed them",
            factory,
        )
    for row, length in enumerate(lengths.tolist()):
        one = slice(row, row + 1)
        if not _same(outputs[one], network(inputs[one, :length], lengths[one])[0]):
            raise _fault(
                "the answer to a series depends on how far it is padded, and so on the others in "
                "its batch: it must count by lengths, not by the steps of inputs",
                factory,
            )


def _check_steps(network: OwnNetwork, factory: Factory, batches: list[Batch]) -> None:
    """Requires that no step sees later ones, and that a state can go on step by step."""
    inputs = batches[0].inputs
    changed = inputs.clone()
    changed[:, -1] = (changed[:, -1] + 1) % int(inputs.max() + 1)
    outputs, state = network(inputs)
    if not _same(outputs[:, :-1], network(changed)[0][:, :-1]):
        raise _fault(
            "an answer depends on later characters, which it is to predict: the network must be "
            "causal",
            factory,
        )
    for batch in batches[1:]:
        if not torch.isfinite(network(batch.inputs, None, state)[0]).all():
            raise _fault("its outputs are not finite when a state is carried on", factory)
    state = network(inputs[:1])[1]
    network(inputs[:1, :1], None, state)


def _alike(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """True if two networks have the same weights."""
    shapes = [{name: weights.shape for name, weights in each.items()} for each in (one, other)]
    return shapes[0] == shapes[1] and all(_same(one[name], other[name]) for name in one)


def _same(one: Tensor, other: Tensor) -> bool:
    """True if two tensors are equal but for rounding; masks may hold infinities."""
    one, other = one.double(), other.double()
    finite = one[torch.isfinite(one)]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(one, other, rtol=0.0, atol=TOLERANCE * largest, equal_nan=True)


def _moved(batch: Batch, device: torch.device) -> Batch:
    lengths = None if batch.lengths is None else batch.lengths.to(device)
    inputs, targets = batch.inputs.to(device), batch.targets.to(device)
    return replace(batch, inputs=inputs, targets=targets, lengths=lengths)


def _fault(what: str, origin: Factory | OwnNetwork) -> NetworkError:
    return NetworkError(f"the network of {origin.name} cannot be used: {what}")


class _Watched(HyperParams):
    """Hyperparameters that remember which of them have been read, also those copied from them."""

    @property
    def seen(self) -> set[str]:
        """The names of those that have been read."""
        found: set[str] = object.__getattribute__(self, "__dict__").setdefault("_seen", set())
        return found

    def __getattribute__(self, name: str) -> Any:
        if name in HyperParams.__dataclass_fields__:
            self.seen.add(name)
        return super().__getattribute__(name)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The values of the study's own entries, watched likewise."""
        return _WatchedExtra(object.__getattribute__(self, "own"), self.seen)


class _WatchedExtra(Extra):
    """See `_Watched`."""

    def __init__(self, values: tuple[tuple[str, Any], ...], seen: set[str]) -> None:
        super().__init__(values)
        self._seen = seen

    def __getitem__(self, name: str) -> Any:
        self._seen.add(name)
        return super().__getitem__(name)


def _unread(name: str, params: _Watched, space: Mapping[str, Dimension]) -> list[str]:
    """Names what is searched although nothing has read it in all that was tried."""
    seen = set(params.seen)
    searched = [one for one, dimension in space.items() if not isinstance(dimension, Fixed)]
    known = [one for one in searched if one in OF_THE_NETWORK and one not in seen]
    own = [one for one in searched if one not in HYPERPARAMETERS and one not in seen]
    notes = []
    if known:
        fixed = ", ".join(f"{one} = {json.dumps(getattr(params, one))}" for one in known)
        notes.append(
            f"{name} did not read {', '.join(known)}, searched all the same; if it never does, "
            f"fix them in [space]: {fixed}"
        )
    if own and "own" not in seen:  # which `to_dict` reads whole
        notes.append(
            f"{name} did not read {', '.join(own)} of [space], searched all the same; if it never "
            "does, leave them out"
        )
    return notes
