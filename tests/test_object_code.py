"""Compiled code as it is used: made once, kept, and never taken for what it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny import COMMAND, children_of, environment, wait_until, write_study

import search
from search import object_code

SOURCES = ("__init__", "whole_files", *object_code._SOURCES)
STEP = """
import sys
import torch
from search.object_code import run

one, states = torch.ones(1), torch.zeros(2)
live = torch.ones(1, dtype=torch.int64)
run("rnn_there", torch.float32, (1, 1, 1, 1, 1), (live, one, states, one, one, one))
print(states[1].item(), "numba" in sys.modules)
"""
"""Prints the state after one step of Elman's network, and whether anything was compiled for it."""


def run(code: str, *arguments: str, at: Path, **surroundings: str) -> list[str]:
    """Returns what a new Python prints that finds the package at a place."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        check=False,
        env={**others, "PYTHONPATH": str(at), "PYTHONDONTWRITEBYTECODE": "1", **surroundings},
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def step(at: Path, **surroundings: str) -> tuple[float, bool]:
    """Returns what a new Python prints of one step."""
    state, compiled = run(STEP, at=at, **surroundings)
    return float(state), compiled == "True"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Where a package lies of which one function is compiled."""
    (tmp_path / "search").mkdir()
    for name in SOURCES:
        text = (Path(search.__file__).parent / name).with_suffix(".py").read_text()
        start, _, entries = text.partition("\nENTRIES: ")
        if entries:
            text = f"{start}\nENTRIES = [{'rnn_there' if name == 'layer_passes' else ''}]\n"
        (tmp_path / "search" / name).with_suffix(".py").write_text(text)
    return tmp_path


def kept(at: Path) -> list[Path]:
    """Returns the files of machine code that lie somewhere below."""
    return sorted(at.rglob("*.o"))


EXPECTED = pytest.approx(np.tanh(2.0), abs=1e-6)


@pytest.mark.slow
def test_compiled_once(package: Path) -> None:
    """What one process has compiled the next one loads; what is damaged is compiled again."""
    assert step(package) == (EXPECTED, True)
    [file] = kept(package)
    assert file.parent == package / "search/__pycache__"
    file.write_bytes(file.read_bytes()[:-100])
    assert step(package) == (EXPECTED, True)
    assert kept(package) == [file]
    assert step(package) == (EXPECTED, False)


@pytest.mark.slow
def test_a_change_of_one_source_is_a_change_of_all(package: Path) -> None:
    """What was compiled before a file changed is not used after it, by no other file either."""
    assert step(package) == (EXPECTED, True)
    source = package / "search/compiled.py"
    changed = source.read_text().replace("return one - (one + one) /", "return one + one - 2 /")
    source.write_text(changed)
    assert step(package) == (pytest.approx(1 + np.tanh(2.0), abs=1e-6), True)


@pytest.mark.slow
def test_where_it_is_kept(package: Path) -> None:
    """The user's choice comes first, then beside the source, then home; else it works unkept."""
    home = {"HOME": str(package / "home"), "XDG_CACHE_HOME": ""}
    assert step(package, NUMBA_CACHE_DIR=str(package / "chosen"), **home) == (EXPECTED, True)
    assert [file.parent for file in kept(package)] == [package / "chosen"]
    # Root may write anywhere, but not into a file.
    (package / "search/__pycache__").write_text("no folder")
    assert step(package, **home) == (EXPECTED, True)
    assert step(package, **home) == (EXPECTED, False)
    assert (package / "home/.cache/rnn-search") in [file.parent for file in kept(package)]
    nowhere = {**home, "XDG_CACHE_HOME": str(package / "search/__pycache__")}
    assert step(package, **nowhere) == step(package, **nowhere) == (EXPECTED, True)


def test_what_cannot_be_kept_is_not_compiled_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file can be written each trainer compiles by itself, and nobody does in vain."""
    (tmp_path / "file").write_text("no folder")
    for place, missing in (("new/folder", True), ("file", False), ("file/below", False)):
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / place))
        assert object_code.is_missing() == missing


@pytest.mark.slow
def test_a_first_run_compiles_once_and_says_so(tmp_path: Path) -> None:
    """It is said before the first epoch; who is ended meanwhile leaves no compiler behind."""
    write_study(tmp_path)
    kept_in = tmp_path / "kept"
    asked = [str(COMMAND), "run", "tiny.toml", "--trials", "2", "--workers", "2"]
    surroundings = {**environment(), "NUMBA_CACHE_DIR": str(kept_in)}
    options: dict[str, Any] = {"cwd": tmp_path, "env": surroundings, "text": True}
    with subprocess.Popen(
        asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options
    ) as first:
        assert first.stdout is not None
        said = next(line for line in first.stdout if line.startswith("compiling"))
        wait_until(lambda: bool(children_of(first.pid)), "it compiles")
        compilers = children_of(first.pid)
        first.terminate()
    assert first.returncode == 130
    wait_until(lambda: not any(Path(f"/proc/{one}").exists() for one in compilers), "all are gone")
    assert not kept(kept_in)
    again = subprocess.run(asked, capture_output=True, timeout=400, check=True, **options)
    lines = again.stdout.splitlines()
    assert lines.index(said.rstrip()) < next(at for at, it in enumerate(lines) if it[:1] == "[")
    assert [file.name.split("-")[0] for file in kept(kept_in)] == ["float32"]
    third = subprocess.run(
        [*asked[:-4], "--trials", "3"], capture_output=True, timeout=100, check=True, **options
    )
    assert said.rstrip() not in third.stdout


def test_nothing_waits_for_the_compiler() -> None:
    """After `make setup` a trainer compiles nothing, whatever it trains, predicts or resumes."""
    root = Path(search.__file__).parent.parent
    run("from search.recurrent import compile_ahead; compile_ahead()", at=root)
    code = """
import sys
sys.path.append(sys.argv[1])
from networks import sine, series, start, text, train

for make in (sine, series, text):
    splits = make()
    for cell in ("rnn", "gru", "lstm"):
        train(start(splits, cell=cell, hidden_layers=2, dropout=0.3, gradient_clipping=1.0), 2)
from search import object_code
print(object_code._load.cache_info().misses, "numba" in sys.modules)
"""
    assert run(code, str(root / "tests"), at=root) == ["1", "False"]


@pytest.mark.parametrize("how", ["hidden", "forbidden"])
def test_where_there_are_no_products(how: str, tmp_path: Path) -> None:
    """Where torch hides its products, or nothing may be compiled, layers are torch's."""
    code = """
import ctypes, sys
import torch
if sys.argv[1] == "hidden":
    load = ctypes.CDLL
    def hide(name, *rest, **options):
        if "torch" in str(name):
            raise OSError("hidden")
        return load(name, *rest, **options)
    ctypes.CDLL = hide
from torch import nn
from search import object_code
from search.dropout import dropped
from search.recurrent import compile_ahead, recur
from search.surroundings import surroundings
assert not object_code.HAS_PRODUCTS
compile_ahead()
layers, steps = nn.GRU(2, 3, batch_first=True), torch.randn(2, 4, 2)
assert torch.equal(recur(layers, steps, None)[0], layers(steps)[0])
assert 0 < (dropped(torch.ones(99), 0.5, training=True) == 0).sum() < 99
print("numba" in sys.modules, "without Numba" in surroundings("cpu")["kernels"])
"""
    forbidden = {"NUMBA_DISABLE_JIT": "1"} if how == "forbidden" else {}
    root = Path(search.__file__).parent.parent
    found = run(code, how, at=root, NUMBA_CACHE_DIR=str(tmp_path), **forbidden)
    assert found == [str(how == "hidden"), str(how == "forbidden")]
    assert len(kept(tmp_path)) == (how == "hidden")


def test_a_pass_that_fails_says_so(package: Path) -> None:
    """What a compiled function raises is not passed over."""
    source = package / "search/layer_passes.py"
    start = "    before, at = 0, rows"
    text = source.read_text()
    assert text.count(start) == 1
    source.write_text(text.replace(start, f"    if rows > 1:\n        raise ValueError\n{start}"))
    assert step(package) == (EXPECTED, True)
    two_rows = "(1, 1, 1, 1, 1)", "(1, 2, 1, 1, 2)"
    code = STEP.replace(*two_rows).replace("torch.zeros(2)", "torch.zeros(4)")
    code = code.replace('run("', 'try:\n    run("').replace(
        "print(states[1].item(),", "except RuntimeError as error:\n    print(*error.args,"
    )
    assert " ".join(run(code, at=package)) == "rnn_there has failed with (1, 2, 1, 1, 2) False"
