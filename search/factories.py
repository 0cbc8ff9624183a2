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
    lengths      (B,) int64, how many of the T steps are real. What comes after them is padding,
                 which must not change the answer.
    state        Language only: what it returned for the chunk of text before, cut off from its
                 gradient; None at the start.

It returns its outputs, (B, O) or, per step, (B, T, O): standardised forecasts, or logits. For a
state that goes on it returns a pair, ``(outputs, state)``, the state a tensor or tuples, lists and
dicts of tensors. Per step, an answer must not depend on later steps, which hold what it predicts.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from search.config import OwnModel
from search.errors import FactoryError, NetworkError, nearest
from search.space import HyperParams

DIGITS = 16
"""Hexadecimal digits of a source file's SHA-256 that are kept, as of all our fingerprints."""
_trusted: set[str] = set()
"""Where this process has looked for users' modules."""
_added: set[str] = set()
"""Which of these it has put on ``sys.path``, because they were not there."""


@dataclass(frozen=True)
class Factory:
    """A function that builds networks, imported in every process that uses it.

    Attributes:
        name: ``package.module:function``.
        folders: Where the module is looked for, before the places where Python looks.
        source: The first `DIGITS` of the SHA-256 of the module's file.
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
        source = _source(import_function(self.name, self.folders)[1])
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
    """

    def __init__(self, network: nn.Module, name: str, output_size: int, *, per_step: bool) -> None:
        super().__init__()
        self.network = network
        self.per_step = per_step
        self.name = name
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
        return outputs, state

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
        FactoryError: It is not trusted, or cannot be imported.
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
            "whatever you can, and a file may come from anybody; if you trust it, add --trust-code"
        )
    return Factory(own.factory, folders, _source(import_function(own.factory, folders)[1]))


def import_function(name: str, folders: Sequence[str]) -> tuple[Callable[..., Any], ModuleType]:
    """Imports a function, if it is not imported yet, and returns it.

    Args:
        name: ``package.module:function``.
        folders: Are put on ``sys.path``, first and to stay, as Python does with a script's.

    Returns:
        The function and its module.

    Raises:
        FactoryError: It cannot be imported, or is no function; one line.
    """
    place, _, path = name.partition(":")
    _trusted.update(folders)
    _added.update(folder for folder in folders if folder not in sys.path)
    sys.path[:] = [*folders, *(place for place in sys.path if place not in folders)]
    module = _import_module(name, place, folders)
    _require_own_file(name, module, folders)
    found: Any = module
    for part in path.split("."):
        if not hasattr(found, part):
            known = [one for one in vars(found) if not one.startswith("_")]
            near = nearest(part, known).removeprefix("; ")
            hint = f" ({near})" if near.startswith("did") else ""
            raise FactoryError(f"factory {name}: {place} has no '{part}'{hint}; correct it")
        found = getattr(found, part)
    if not callable(found):
        kind = type(found).__name__
        raise FactoryError(f"factory {name} is a {kind}, not a function; name one")
    return found, module


def _source(module: ModuleType) -> str:
    """Returns the first `DIGITS` of the SHA-256 of a module's file; of nothing if it has none."""
    content = b""
    with contextlib.suppress(OSError, TypeError):
        content = Path(module.__file__).read_bytes()  # type: ignore[arg-type]
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def _import_module(name: str, place: str, folders: Sequence[str]) -> ModuleType:
    before = sys.dont_write_bytecode
    # Nothing is to be left in the user's folder; and Python takes compiled code for new if its
    # source was changed within the same second.
    sys.dont_write_bytecode = True
    try:
        with blaming(name, "importing it"):
            return importlib.import_module(place)
    except NetworkError as error:
        said = str(error)
        missing = error.__cause__
        if isinstance(missing, ModuleNotFoundError) and f"{place}.".startswith(f"{missing.name}."):
            said = (
                f"there is no module '{missing.name}' in {' or '.join(folders)}, nor where Python "
                "looks; put it there, or correct the name"
            )
        raise FactoryError(f"factory {name}: {said.removeprefix(f'{name}: ')}") from error
    finally:
        sys.dont_write_bytecode = before


def _require_own_file(name: str, module: ModuleType, folders: Sequence[str]) -> None:
    """Refuses a module that Python has from elsewhere though the user's folder has one, too."""
    top = re.split("[.:]", name)[0]
    places = [
        Path(folder) / end for folder in folders for end in (f"{top}.py", f"{top}/__init__.py")
    ]
    here = next((place for place in places if place.is_file()), None)
    loaded = getattr(sys.modules.get(top, module), "__file__", None)
    if here is not None and (loaded is None or not here.samefile(loaded)):
        raise FactoryError(
            f"factory {name}: Python has another module '{top}' ({loaded or 'built in'}), "
            f"not {here}; give yours another name"
        )


@contextmanager
def blaming(name: str, doing: str) -> Iterator[None]:
    """Names the user's code as the origin of whatever it raises, with its own words and line.

    What it prints goes to standard error, because standard output may be JSON.

    Raises:
        NetworkError: Caused by the exception; but lack of memory is raised as it is, and so is what
            a GPU does not recover from.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (MemoryError, torch.OutOfMemoryError, torch.AcceleratorError, NetworkError):
        raise
    # The one place where any exception is caught: the code is the user's and may raise whatever
    # it likes, an exit among it. It is raised again, with all it said.
    except (Exception, SystemExit) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise NetworkError(f"{name}: {doing} raised {said}{_line_of(error)}") from error


def _line_of(error: BaseException) -> str:
    """Returns where in the user's own files it was raised, if it was in one of them."""
    ours, found = Path(__file__).parent, ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        theirs = any(file.is_relative_to(folder) for folder in _trusted)
        if theirs and not file.is_relative_to(ours) and "site-packages" not in file.parts:
            found = f" ({file.name}, line {frame.lineno})"
    return found


@contextmanager
def ordinary_path() -> Iterator[None]:
    """Takes the users' folders off ``sys.path`` for a while.

    A process that is started inherits the path, and would find a folder ``search`` of theirs
    before this package.
    """
    before = sys.path[:]
    sys.path[:] = [place for place in sys.path if place not in _added]
    try:
        yield
    finally:
        sys.path[:] = before


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
