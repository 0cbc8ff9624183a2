"""Compiled code: its functions are the mathematical ones, its products NumPy's, and it keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search
from search.compiled import HAS_PRODUCTS, multiply, sigmoid, tanh

precisions = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@precisions
def test_sigmoid_and_tanh(dtype: type[np.floating]) -> None:
    """Both are right to two roundings of 1, wherever they are not yet 0 or 1 and beyond."""
    near = np.linspace(-20, 20, 4001)
    places = np.concatenate([near, [-1e30, -800, -90, 90, 800, 1e30, -np.inf, np.inf]])
    places = places.astype(dtype)
    exact = places.astype(np.float64)
    within = 2 * np.finfo(dtype).eps
    found = np.array([[sigmoid(x), tanh(x)] for x in places])
    with np.errstate(over="ignore"):
        assert np.abs(found[:, 0] - 1 / (1 + np.exp(-exact))).max() <= within
    assert np.abs(found[:, 1] - np.tanh(exact)).max() <= within
    assert np.isnan([sigmoid(dtype(np.nan)), tanh(dtype(np.nan))]).all()


def test_torch_lends_its_products() -> None:
    """On the machines that the tests run on, torch's library of products can be called."""
    assert HAS_PRODUCTS


@precisions
@settings(deadline=None, max_examples=60)
@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 3),
    kept=st.booleans(),
    turn_left=st.booleans(),
    turn_right=st.booleans(),
    seed=st.integers(0, 99),
)
def test_products(
    dtype: type[np.floating],
    sizes: tuple[int, int, int],
    kept: bool,
    turn_left: bool,
    turn_right: bool,
    seed: int,
) -> None:
    """Products of matrices of any size, turned or not, added or not, are NumPy's."""
    chooser = np.random.default_rng(seed)
    rows, inner, columns = sizes
    left = chooser.standard_normal((rows, inner)).astype(dtype)
    right = chooser.standard_normal((inner, columns)).astype(dtype)
    result = chooser.standard_normal((rows, columns)).astype(dtype)
    expected = left @ right + (result if kept else 0)
    multiply(
        result,
        np.ascontiguousarray(left.T) if turn_left else left,
        np.ascontiguousarray(right.T) if turn_right else right,
        int(kept),
        int(turn_left),
        int(turn_right),
    )
    np.testing.assert_allclose(result, expected, rtol=0, atol=100 * np.finfo(dtype).eps)


def test_a_result_that_is_not_kept_may_be_no_number() -> None:
    """What stands where a product goes does not matter, as memory may hold anything."""
    result = np.full((2, 2), np.nan, np.float32)
    multiply(result, np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 0, 0, 0)
    assert (result == np.eye(2)).all()


def test_nowhere_to_keep_it(tmp_path: Path) -> None:
    """Where no folder can be written, it is compiled each time."""
    for part in ("__init__.py", "compiled.py"):
        source = Path(search.__file__).parent / part
        (tmp_path / "search").mkdir(exist_ok=True)
        (tmp_path / "search" / part).write_text(source.read_text())
    for name in ("search/__pycache__", ".cache", "cache"):
        (tmp_path / name).write_text("not a folder")
    surroundings = {
        **{name: value for name, value in os.environ.items() if not name.startswith("NUMBA")},
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": str(tmp_path),
    }
    surroundings.pop("NUMBA_CACHE_DIR", None)
    code = (
        "import numpy, search.compiled as c; assert c.sigmoid(numpy.float32(0)) == 0.5;"
        "print(c.__file__, type(c.sigmoid._cache).__name__)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=surroundings,
        cwd="/",
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(tmp_path / "search" / "compiled.py"), "NullCache"]


def test_nothing_waits_for_the_compiler() -> None:
    """After `make setup` a trainer compiles nothing, whatever it trains, predicts or resumes."""
    ahead = "from search.recurrent import compile_ahead; compile_ahead()"
    code = """
import torch
from networks import sine, series, start, text, train
from search import compiled, layer_passes, threefry

for make in (sine, series, text):
    splits = make()
    for cell in ("rnn", "gru", "lstm"):
        run = start(splits, cell=cell, hidden_layers=2, dropout=0.3, gradient_clipping=1.0)
        train(run, 2)
found = [part for module in (compiled, layer_passes, threefry) for part in vars(module).values()]
used = {part.py_func.__name__: part.stats for part in found if hasattr(part, "stats")}
assert {"gru_back", "lstm_back", "rnn_back", "drop"} <= used.keys()
print(sorted(name for name, stats in used.items() if stats.cache_misses))
"""
    for source in (ahead, code):
        found = subprocess.run(
            [sys.executable, "-c", source],
            check=False,
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            capture_output=True,
            text=True,
        )
        assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


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
from search import compiled, threefry
from search.dropout import dropped
from search.recurrent import compile_ahead, recur
assert not compiled.HAS_PRODUCTS
compile_ahead()
layers, steps = nn.GRU(2, 3, batch_first=True), torch.randn(2, 4, 2)
assert torch.equal(recur(layers, steps, None)[0], layers(steps)[0])
assert 0 < (dropped(torch.ones(99), 0.5, training=True) == 0).sum() < 99
"""
    found = subprocess.run(
        [sys.executable, "-c", code, how],
        check=False,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1" if how == "forbidden" else "0"}
        | {"NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr


def test_a_change_of_one_source_is_a_change_of_all(tmp_path: Path) -> None:
    """What was compiled before a file changed is not used after it, by no other file either."""
    package = tmp_path / "search"
    package.mkdir()
    for part in ("__init__.py", "compiled.py", "threefry.py", "layer_passes.py"):
        source = Path(search.__file__).parent / part
        (package / part).write_text(source.read_text())
    code = (
        "import numpy as np; from search.layer_passes import rnn_there;"
        "one = np.ones((1, 1), np.float32); states = np.zeros((2, 1, 1), np.float32);"
        "rnn_there(one[None], states, one, one, one[0]); print(states[1, 0, 0])"
    )
    surroundings = {name: value for name, value in os.environ.items() if "NUMBA" not in name}
    old, new = "return one - (one + one) /", "return one + one - (one + one) /"
    changed, found = (package / "compiled.py").read_text().replace(old, new), []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code],
            check=False,
            cwd=tmp_path,
            env=surroundings | {"PYTHONPATH": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        found.append(float(done.stdout))
        (package / "compiled.py").write_text(changed)
    assert found[0] == pytest.approx(np.tanh(2.0), abs=1e-6)
    assert found[1] == pytest.approx(1 + np.tanh(2.0), abs=1e-6)
