"""The Makefile: what its targets run, with a command in the place of `rnn-search`."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TARGETS = ["search", "resume", "show", "report", "evaluate", "dashboard"]
OURS = ("RNN_SEARCH", "MAKE", "MFLAGS", "STORAGE")
"""How the variables begin that tests are not to inherit."""


def script(path: Path, *lines: str) -> Path:
    """Writes a program."""
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
    return path


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs make, its programs those of ``folder``, with these variables of the environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return subprocess.run(
        ["make", *arguments, f"BIN={folder}", f"READY={folder / 'ready'}"],
        cwd=ROOT,
        env=kept | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which all is set up; its `rnn-search` says its arguments and its storage."""
    (tmp_path / "ready").touch()
    script(tmp_path / "rnn-search", 'echo "$@"', 'echo "$RNN_SEARCH_STORAGE" >&2')
    return tmp_path


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("how", ["environment", "argument"])
def test_no_password_is_passed(folder: Path, target: str, how: str) -> None:
    """A server's URL reaches the command as it is, by its environment, not by its arguments."""
    url = "postgresql://me:ge$heim@host/studies"
    if how == "environment":
        done = make(folder, target, RNN_SEARCH_STORAGE=url)
    else:
        done = make(folder, target, f"STORAGE={url.replace('$', '$$')}")
    assert (done.returncode, done.stderr) == (0, f"{url}\n")
    assert "vowels" in done.stdout or target == "dashboard"
    assert "heim" not in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_is_passed_as_an_option(folder: Path, target: str) -> None:
    """A file of studies is an option, which goes before what the environment has."""
    done = make(folder, target, "STORAGE=sqlite:///a b.db", RNN_SEARCH_STORAGE="sqlite:///c.db")
    assert (done.returncode, done.stderr) == (0, "sqlite:///c.db\n")
    assert done.stdout.endswith("--storage sqlite:///a b.db\n")


def test_options_reach_their_commands(folder: Path) -> None:
    """Trials, time and workers are options of what searches; more of any command goes by ARGS."""
    given = ("STUDY=mine.toml", "TRIALS=9", "TIMEOUT=1h", "WORKERS=3", "ARGS=--trust-code")
    assert make(folder, "search", *given).stdout.split() == [
        *("run", "mine.toml", "--trials", "9", "--timeout", "1h", "--workers", "3", "--trust-code"),
    ]
    evaluate = ["evaluate", "mine.toml", "--workers", "3", "--trust-code"]
    assert make(folder, "evaluate", *given).stdout.split() == evaluate
    assert make(folder, "show", "ARGS=--json").stdout.split() == ["show", "vowels", "--json"]
    assert make(folder, "dashboard", "PORT=99").stdout.split() == ["dashboard", "--port", "99"]


def test_help_names_every_target(folder: Path) -> None:
    """`make` alone prints each target that has a line of help, and needs nothing set up."""
    (folder / "ready").unlink()
    done = make(folder)
    text = (ROOT / "Makefile").read_text()
    targets = [
        line.split(":")[0] for line in text.splitlines() if ":  ##" in line or ")  ##" in line
    ]
    assert len(targets) > 12
    assert [line.split()[1] for line in done.stdout.splitlines()[1:]] == targets
    assert done.returncode == 0


def test_a_half_made_environment_is_made_again(tmp_path: Path) -> None:
    """Where there is a Python without pip, the environment is made anew before anything else."""
    said = tmp_path / "said"
    script(tmp_path / "python", f'echo "python $@" >> {said}', 'test "$3" != --version')
    first = script(tmp_path / "first", f'echo "first $@" >> {said}')
    assert make(tmp_path, "setup", f"PYTHON={first}", "VENV=there").returncode == 0
    lines = said.read_text().splitlines()
    assert lines[1:3] == ["python -m pip --version", "first -m venv there"]
    assert [" install " in line for line in lines[3:5]] == [True, True]
    assert (tmp_path / "ready").exists()


def test_an_older_python_is_refused(tmp_path: Path) -> None:
    """A Python that is too old is named before anything is made."""
    old = script(tmp_path / "old", "exit 1")
    done = make(tmp_path, "search", f"PYTHON={old}")
    assert done.returncode == 2
    assert "needs Python 3.11 or newer; try make PYTHON=python3.11 search" in done.stdout
    assert list(tmp_path.iterdir()) == [old]
