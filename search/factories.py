"""A network of the user's own: the function that builds it, imported only once it is trusted.

A study file names it, ``[model] factory = "package.module:function"``. What it is called with:

    function(params, input_size, output_size, per_step) -> torch.nn.Module

    params       `HyperParams`: ``params.hidden_units``..., and ``params.extra["NAME"]`` for an
                 entry of the user's own in ``[space]``.
    input_size   F; for language V + 1, the number of characters and one for unknown ones.
    output_size  O: forecast horizon x targets; classify C classes; language V characters.
    per_step     True for language, which is answered at every step; False: once a series.

Random numbers must come from torch's generator, which is seeded with the trial's seed. Besides
``inputs`` the module's ``forward`` gets what it names among its parameters:

    inputs       (B, T, F) float32, standardised; for language (B, T) int64 indices.
    lengths      (B,) int64, how many of the T steps are real. What comes after them is padding:
                 neither what it holds nor how much there is may change the answer.
    state        Language only: what it returned for the chunk of text before, cut off from its
                 gradient; None at the start.

It returns its outputs, (B, O) or, per step, (B, T, O): standardised forecasts, or logits. For a
state that goes on it takes ``state`` and returns a pair, ``(outputs, state)``, the state a tensor
or tuples, lists and dicts of tensors. Per step, an answer must not depend on later steps, which
hold what it predicts.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search.config import OwnModel
from search.errors import FactoryError, NetworkError
from search.own_modules import blaming, import_function, require_unchanged
from search.space import HyperParams


@dataclass(frozen=True)
class Factory:
    """A function that builds networks, imported in every process that uses it.

    Attributes:
        name: ``package.module:function``.
        folders: Where the module is looked for, before the places where Python looks.
        source: The first digits of the SHA-256 of the module's file, as it was imported.
    """

    name: str
    folders: tuple[str, ...]
    source: str

    def build(
        self, params: HyperParams, input_size: int, output_size: int, *, per_step: bool
    ) -> OwnNetwork:
        """Returns an untrained network.

        Raises:
            NetworkError: The function raised an exception, or returned no `torch.nn.Module`.
            FactoryError: The module cannot be imported any more.
        """
        function, _ = import_function(self.name, self.folders)
        with blaming(self.name, "building the network"):
            network = function(params, input_size, output_size, per_step)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise NetworkError(f"{self.name} returned a {kind}, not a torch.nn.Module")
        return OwnNetwork(network, self.name, output_size, per_step=per_step)

    def changes_since(self, source: str | None) -> list[str]:
        """Says whether the code is another than the one that a network was trained with.

        Args:
            source: Fingerprint of that one; None if it is not known.
        """
        if source in (None, self.source):
            return []
        return [
            f"the source of {self.name} has changed since this network was trained ({source} → "
            f"{self.source}); it may compute otherwise now"
        ]

    def import_here(self) -> None:
        """Imports the module into this process.

        Raises:
            FactoryError: It cannot be, or is not what it was where the study was read.
        """
        _, source = import_function(self.name, self.folders)
        if source != self.source:
            raise FactoryError(
                f"the source of {self.name} has changed since this run began ({self.source} → "
                f"{source}); run it again to go on with the new one"
            )


class OwnNetwork(nn.Module):
    """A user's module behind the one way in which all networks are called.

    Args:
        network: The user's.
        name: Of its factory, for messages.
        output_size: O.
        per_step: Whether it answers at every step.

    Attributes:
        name: Of its factory.
        network: The user's.
        per_step: Whether it answers at every step.
        forgets: Whether it has returned a state that it does not take, and so does not get back.
    """

    def __init__(self, network: nn.Module, name: str, output_size: int, *, per_step: bool) -> None:
        super().__init__()
        self.network = network
        self.per_step = per_step
        self.name = name
        self.forgets = False
        self._output_size = output_size
        self._takes = _named(network.forward)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        """Runs the network over a batch; for arguments and shapes see this file's beginning.

        Raises:
            NetworkError: It raised an exception, or its outputs have the wrong shape.
        """
        if lengths is None and "lengths" in self._takes:
            size, steps = inputs.shape[:2]
            lengths = torch.full((size,), steps, device=inputs.device)
        given = {"lengths": lengths, "state": state}
        with blaming(self.name, "running the network"):
            answer = self.network(inputs, **{name: given[name] for name in self._takes})
        outputs, state = (
            answer if isinstance(answer, tuple) and len(answer) == 2 else (answer, None)
        )
        wanted = (*inputs.shape[: 1 + self.per_step], self._output_size)
        if not isinstance(outputs, Tensor) or outputs.shape != wanted:
            found = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise NetworkError(
                f"the network of {self.name} answers inputs of shape {tuple(inputs.shape)} with "
                f"{found}; it must return outputs of shape {wanted}, alone or in a pair with a "
                "state"
            )
        if "state" in self._takes:
            return outputs, state
        self.forgets = self.forgets or state is not None
        return outputs, None

    def state_dict(self, *args: Any, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        """Returns the user's module's own, under its own names."""
        return self.network.state_dict(*args, **options)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Loads what `state_dict` returned."""
        return self.network.load_state_dict(state_dict, *args, **options)


def trust_factory(own: OwnModel | None, origin: str, *, trusted: bool) -> Factory | None:
    """Imports a factory, if there is one and it is trusted.

    Args:
        own: What names it; None: there is none.
        origin: Where that stands: a study file, a study, a model.
        trusted: Whether somebody said so.

    Raises:
        FactoryError: It is not trusted, cannot be imported, or its file has changed since this
            process imported it.
    """
    if own is None:
        return None
    here = Path.cwd()
    folders = tuple(str(place) for place in dict.fromkeys([(own.folder or here).absolute(), here]))
    if not trusted:
        module, function = own.factory.split(":")
        raise FactoryError(
            f'{origin}: factory = "{own.factory}" runs code: it imports {module}, looked for in '
            f"{' and '.join(folders)}, and calls {function}. Whoever wrote it can do there "
            "whatever you can, and a file may come from anybody; if you trust it, add --trust-code "
            "(in Python: trust_code=True)"
        )
    require_unchanged(own.factory, folders)
    return Factory(own.factory, folders, import_function(own.factory, folders)[1])


def _named(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Returns which of ``lengths`` and ``state`` a function takes by name."""
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # Compiled code has no signature.
        return ()
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return ("lengths", "state")
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {one.name for one in parameters if one.kind in by_name}
    return tuple(name for name in ("lengths", "state") if name in names)
