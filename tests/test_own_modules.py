"""Modules of users' own: which code a process has of them, and whose the fingerprint is."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from networks import CPU, LOSS, hyper, sine
from own import clean_imports

from search.config import OwnModel
from search.errors import FactoryError
from search.factories import Factory, trust_factory
from search.training import Run
from search.trial import Epoch

pytestmark = pytest.mark.usefixtures("clean_imports")
__all__ = ["clean_imports"]
FIRST = "def build(*all): return 1\n"
SECOND = "def build(*all): return 'two'\n"


def factory_in(folder: Path, name: str = "mynet:build") -> Factory:
    """Returns the factory of a module in a folder, trusted."""
    factory = trust_factory(OwnModel(factory=name, folder=folder), "a test", trusted=True)
    assert factory is not None
    return factory


def fingerprint(content: str) -> str:
    """Returns the fingerprint of a file."""
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def test_a_file_that_has_changed_is_refused(tmp_path: Path) -> None:
    """Python would give the code that it has; what was begun with that goes on."""
    file = tmp_path / "mynet.py"
    file.write_text(FIRST)
    first = factory_in(tmp_path)
    assert first.source == fingerprint(FIRST)
    file.write_text(SECOND)
    said = r"mynet\.py has changed since this Python imported it; .*importlib\.reload"
    with pytest.raises(FactoryError, match=said):
        factory_in(tmp_path)
    first.import_here()
    file.write_text(FIRST)
    assert factory_in(tmp_path) == first


def replace_code(module: ModuleType) -> None:
    """Does what IPython's autoreload may: puts the file's code into the function that is there."""
    assert module.__file__ is not None
    made: dict[str, Callable[..., object]] = {}
    exec(Path(module.__file__).read_text(), made)
    module.build.__code__ = made["build"].__code__


@pytest.mark.parametrize("renew", [importlib.reload, replace_code])
def test_a_module_that_is_made_anew(tmp_path: Path, renew: Callable[[ModuleType], object]) -> None:
    """Reloaded, or its function's code replaced in place, it is that of the file as it is then."""
    file = tmp_path / "mynet.py"
    file.write_text(FIRST)
    factory_in(tmp_path)
    file.write_text(SECOND)
    renew(sys.modules["mynet"])
    assert factory_in(tmp_path).source == fingerprint(SECOND)


def test_a_reload_that_fails(tmp_path: Path) -> None:
    """The function is the one from before, so it does not get the new file's fingerprint."""
    file = tmp_path / "mynet.py"
    file.write_text(FIRST)
    factory_in(tmp_path)
    file.write_text("raise ValueError('not yet')\n" + SECOND)
    with pytest.raises(ValueError, match="not yet"):
        importlib.reload(sys.modules["mynet"])
    with pytest.raises(FactoryError, match="has changed since this Python imported it"):
        factory_in(tmp_path)


def test_a_class_of_another_module_that_is_made_anew(tmp_path: Path) -> None:
    """A reload is seen though what the module names for the factory stays what it was."""
    file = tmp_path / "mynet.py"
    (tmp_path / "layers.py").write_text("class Net: pass\n")
    file.write_text("from layers import Net as build\n")
    factory_in(tmp_path)
    file.write_text(changed := "from layers import Net as build  # mended\n")
    importlib.reload(sys.modules["mynet"])
    assert factory_in(tmp_path).source == fingerprint(changed)


def test_a_function_that_has_been_added(tmp_path: Path) -> None:
    """It is not said to be missing once it is there, but that the file has changed."""
    file = tmp_path / "mynet.py"
    file.write_text("def built(*all): return 1\n")
    with pytest.raises(FactoryError, match="mynet has no 'build'"):
        factory_in(tmp_path)
    file.write_text(FIRST)
    with pytest.raises(FactoryError, match="has changed since this Python imported it"):
        factory_in(tmp_path)
    importlib.reload(sys.modules["mynet"])
    assert factory_in(tmp_path).source == fingerprint(FIRST)


def test_modules_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is typed in, or built into Python, has the fingerprint of nothing."""
    typed = ModuleType("own_typed")
    exec(FIRST, vars(typed))
    monkeypatch.setitem(sys.modules, "own_typed", typed)
    for name in ("own_typed:build", "itertools:count"):
        assert factory_in(tmp_path, name).source == fingerprint("")


def put(folder: Path, name: str, content: str) -> Path:
    """Writes a file, and the folders that it lies in, and returns the first of these."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    return folder


@pytest.mark.parametrize(
    ("file", "factory"),
    [("own_twin.py", "own_twin:build"), ("own_twins/net.py", "own_twins.net:build")],
)
def test_copies_of_a_module(tmp_path: Path, file: str, factory: str) -> None:
    """A copy in another folder, such as a model's, is the same module; another code is not."""
    one, copy = (put(tmp_path / name, file, FIRST) for name in ("one", "copy"))
    other = put(tmp_path / "other", file, SECOND)
    if "/" in file:
        for folder in (one, copy, other):
            put(folder, file.replace("net", "__init__"), "")
    assert factory_in(one, factory).source == factory_in(copy, factory).source
    with pytest.raises(FactoryError, match=r"another module 'own_twins?' .*Python of its own"):
        factory_in(other, factory)


NORMED = """
from torch import nn

class Normed(nn.Module):
    def __init__(self, hidden, inputs, outputs):
        super().__init__()
        self.recurrent = nn.GRU(inputs, hidden, batch_first=True)
        self.norm = nn.BatchNorm1d(hidden)
        self.head = nn.Linear(hidden, outputs)

    def forward(self, inputs, lengths):
        return self.head(self.norm(self.recurrent(inputs)[0][:, -1]))

def build(params, inputs, outputs, per_step):
    return Normed(params.hidden_units, inputs, outputs)
"""


def test_a_last_minibatch_of_one_row_is_left_out_of_batch_norm(tmp_path: Path) -> None:
    """Of one row nothing can be normalised; another network is trained on it, too."""
    (tmp_path / "mynet.py").write_text(NORMED)
    splits = sine()
    rows = splits.train.size - 1
    size = next(size for size in range(2, rows + 1) if rows % size == 0)
    whole = rows // size
    for factory, batches in ((factory_in(tmp_path), whole), (None, whole + 1)):
        run = Run(hyper(batch_size=size), splits, 1, LOSS, CPU, factory)
        assert isinstance(run.advance(lambda *_: None), Epoch)
        assert run.epoch_ends == [batches]
