"""Modules of users' own: imported where they are trusted, remembered, blamed for what they raise.

A process imports a module once. So what it has may be older than the file, which `load` and
`Objective` refuse in a notebook: the fingerprint of a network is that of the code which ran.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch

from search.errors import FactoryError, NetworkError, nearest

DIGITS = 16
"""Hexadecimal digits of a source file's SHA-256 that are kept, as of all our fingerprints."""
_trusted: set[str] = set()
"""Where this process has looked for users' modules."""
_added: set[str] = set()
"""Which of these it has put on ``sys.path``, because they were not there."""


def import_function(name: str, folders: Sequence[str]) -> tuple[Callable[..., Any], str]:
    """Imports a function, if it is not imported yet, and returns it.

    Args:
        name: ``package.module:function``.
        folders: Are put on ``sys.path``, first and to stay, as Python does with a script's.

    Returns:
        The function, and the fingerprint of its module's file as it was imported.

    Raises:
        FactoryError: It cannot be imported, or is no function; one line.
    """
    place, _, path = name.partition(":")
    imported = _import(name, folders)
    found: Any = imported.module
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
    return found, imported.source


class _Imported(NamedTuple):
    """A user's module as this process has it, for as long as it is not imported anew.

    Attributes:
        module: The module.
        path: Of a function in it.
        spec: By which it was found: a reload looks again.
        function: What is there: who executes the module again makes another.
        code: Its code, in whose place IPython's autoreload may put another.
        source: Fingerprint of the module's file when it was imported.
    """

    module: ModuleType
    path: str
    spec: object
    function: object
    code: object
    source: str

    @classmethod
    def now(cls, module: ModuleType, path: str) -> _Imported:
        """Returns a module that has just been imported, with what ``path`` leads to in it."""
        return cls(module, path, module.__spec__, *_found(module, path), _fingerprint(module))

    def lasts(self, module: ModuleType) -> bool:
        """Says whether a module is this one still, and has not been reloaded."""
        function, code = _found(module, self.path)
        # A reload that has failed gives the module a new spec, and leaves its functions.
        own = getattr(function, "__module__", None) == module.__name__
        loaded = module is self.module and (own or module.__spec__ is self.spec)
        return loaded and function is self.function and code is self.code


_imported: dict[str, _Imported] = {}
"""Users' modules by name."""


def _import(name: str, folders: Sequence[str]) -> _Imported:
    """Imports the module of a factory, if it is not imported yet."""
    place, _, path = name.partition(":")
    _trusted.update(folders)
    _added.update(folder for folder in folders if folder not in sys.path)
    sys.path[:] = [*folders, *(place for place in sys.path if place not in folders)]
    module = _import_module(name, place, folders)
    _require_own_file(name, module, folders)
    if place not in _imported or not _imported[place].lasts(module):
        _imported[place] = _Imported.now(module, path)
    return _imported[place]


def _found(module: ModuleType, path: str) -> tuple[object, object]:
    """Returns a function and its code; None where there is none."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    function = getattr(found, "__func__", found)  # Each look at a class's method makes another.
    return function, getattr(function, "__code__", None)


def _fingerprint(module: ModuleType) -> str:
    """Returns the first `DIGITS` of the SHA-256 of a module's file; of nothing if it has none."""
    file, content = getattr(module, "__file__", None), b""
    if file is not None:
        with contextlib.suppress(OSError):
            content = Path(file).read_bytes()
    return hashlib.sha256(content).hexdigest()[:DIGITS]


def require_unchanged(name: str, folders: Sequence[str]) -> None:
    """Refuses a module whose file is not any more what this process has imported.

    In a notebook it may be mended and asked for again, and Python would give the old one.
    """
    imported = _import(name, folders)
    if imported.source != _fingerprint(imported.module):
        raise FactoryError(
            f"factory {name}: {imported.module.__file__} has changed since this Python imported "
            "it; restart Python, or importlib.reload the module, to use the new one"
        )


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
    """Refuses a module that Python has from elsewhere though the user's folder has another."""
    top = re.split("[.:]", name)[0]
    places = [
        Path(folder) / end for folder in folders for end in (f"{top}.py", f"{top}/__init__.py")
    ]
    here = next((place for place in places if place.is_file()), None)
    file = getattr(sys.modules.get(top, module), "__file__", None)
    loaded = None if file is None else Path(file)
    if here is None or (loaded is not None and _is_same(here, loaded)):
        return
    theirs = loaded is not None and _is_theirs(loaded)
    raise FactoryError(
        f"factory {name}: Python has another module '{top}' ({loaded or 'built in'}), not {here}; "
        f"{'use this one in a Python of its own' if theirs else 'give yours another name'}"
    )


def _is_same(one: Path, other: Path) -> bool:
    """Says whether two files are modules, or two ``__init__.py`` packages, of the same code."""
    with contextlib.suppress(OSError):
        return one == other or one.samefile(other) or _code_of(one) == _code_of(other)
    return False


def _code_of(place: Path) -> dict[str, bytes]:
    """Returns the files of a module or, if it is the ``__init__.py`` of one, of a package."""
    files = place.parent.rglob("*.py") if place.name == "__init__.py" else [place]
    return {str(file.relative_to(place.parent)): file.read_bytes() for file in files}


def _is_theirs(file: Path) -> bool:
    """Says whether a file is the user's own, and of no package that is installed there."""
    theirs = any(file.is_relative_to(folder) for folder in _trusted)
    others = (Path(__file__).parent, Path(sysconfig.get_path("stdlib")))
    elsewhere = any(file.is_relative_to(folder) for folder in others)
    return theirs and not elsewhere and "site-packages" not in file.parts


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
    found = ""
    for frame in traceback.extract_tb(error.__traceback__):
        file = Path(frame.filename)
        if _is_theirs(file):
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
