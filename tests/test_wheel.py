"""The built wheel works by itself, away from the checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import environment, read_json

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel, built from a copy of the checkout, is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "search", source / "search")
    (source / "studies").mkdir()
    for file in (*ROOT.glob("*.*"), ROOT / "LICENSE", *ROOT.glob("studies/*.toml")):
        if file.is_file():
            shutil.copy(file, source / file.relative_to(ROOT))
    python(source, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    (wheel,) = folder.glob("rnn_search-*.whl")
    target = folder / "installed"
    python(folder, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def python(folder: Path, *arguments: object, path: Path | None = None) -> str:
    """Runs Python in a folder and returns what it printed.

    Args:
        folder: Where.
        arguments: Its arguments.
        path: Comes before the checkout in the list of places that packages are looked for in.
    """
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**environment(), **({"PYTHONPATH": os.fspath(path)} if path else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel_finds_the_shipped_studies(installed: Path, tmp_path: Path) -> None:
    """From a wheel, `run vowels` finds the shipped study and makes `studies/` where it is."""
    where = python(tmp_path, "-c", "import search; print(search.__file__)", path=installed)
    assert Path(where.strip()) == installed / "search" / "__init__.py"
    options = ("--trials", 1, "--timeout", "90s", "--workers", 1, "--json")
    printed = python(tmp_path, "-m", "search", "run", "vowels", *options, path=installed)
    assert read_json(printed)["trials"]["total"] == 1
    assert (tmp_path / "studies" / "studies.db").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["studies"]
    assert not list(installed.rglob("*.db"))


@pytest.mark.slow
def test_wheel_holds_nothing_else(installed: Path) -> None:
    """The wheel installs the package with its studies, and no tests, benchmarks or databases."""
    assert {path.name for path in installed.iterdir()} - {"bin", "__pycache__"} == {
        "search",
        next(path.name for path in installed.glob("rnn_search-*.dist-info")),
    }
    studies = {path.name for path in (installed / "search" / "studies").iterdir()}
    assert studies == {path.name for path in ROOT.glob("studies/*.toml")}
