"""Odd surroundings of the command line: readers that leave, encodings, width, signals, rights."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console
from test_cli import SLOW_SPACE
from tiny import (
    COMMAND,
    children_of,
    count,
    environment,
    epochs_reported,
    files_of,
    read_json,
    rnn_search,
    start,
    started,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)

from search.arguments import DEFAULT_STORAGE
from search.database import Database
from search.display import ranking_table, studies_table
from search.report import summarize
from search.storage import open_study
from search.terminal import make_console, print_next_commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny study of two trials that has been run."""
    folder = tmp_path_factory.mktemp("user")
    write_study(folder)
    run = rnn_search(folder, "run", "tiny.toml", "--trials", 2, "--workers", 1)
    assert run.returncode == 0, run.stderr
    return folder


def piped(folder: Path, *arguments: str, lines: int) -> subprocess.CompletedProcess[str]:
    """Runs the command with a reader that leaves after some lines."""
    command = " ".join([str(COMMAND), *arguments])
    script = f"{command} | head -{lines}; exit ${{PIPESTATUS[0]}}"
    return subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_a_search_outlives_its_reader(tmp_path: Path) -> None:
    """A run whose standard output is closed after a line trains all of its trials."""
    write_study(tmp_path)
    run = piped(tmp_path, "run", "tiny.toml", "--workers", "1", lines=1)
    assert run.returncode == 0, run.stderr
    assert [trial.state.is_finished() for trial in trials_of(tmp_path)] == [True] * 4


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_a_file_is_no_terminal(folder: Path, name: str, tmp_path: Path) -> None:
    """Whatever a build server's environment says, a file gets plain lines of any width."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    done = subprocess.run(
        [str(COMMAND), "resume", "tiny", "--workers", "1", "--trials", "3"],
        cwd=tmp_path,
        env={**environment(), name: "1", "TERM": "xterm-256color", "COLUMNS": "60"},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert "3 of 3 trials" in done.stdout
    assert " clip" in done.stdout


@pytest.mark.parametrize("encoding", ["latin-1", pytest.param("ascii", marks=pytest.mark.slow)])
def test_an_encoding_that_lacks_the_marks(tmp_path: Path, encoding: str) -> None:
    """What the terminal cannot show is replaced; nothing ends because of it."""
    write_study(tmp_path)
    env = {**environment(), "PYTHONIOENCODING": encoding}
    for arguments in (("run", "tiny.toml", "--workers", "1"), ("show", "tiny")):
        run = subprocess.run(
            [str(COMMAND), *arguments],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert b"<- best" in run.stdout or arguments[0] == "show"


def written_to(file: int, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command with an output that Python writes when there is enough, or at its end."""
    env = environment()
    env.pop("PYTHONUNBUFFERED", None)
    return subprocess.run(
        [str(COMMAND), *arguments],
        cwd=folder,
        env=env,
        stdout=file,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


LITTLE = ("list", "--json")
"""Less than Python writes before its end."""


@pytest.mark.parametrize("arguments", [("show", "tiny"), LITTLE])
def test_a_full_disk_behind_the_output(folder: Path, arguments: tuple[str, ...]) -> None:
    """Output that cannot be written is told in one line, and the command has failed."""
    with Path("/dev/full").open("w") as full:
        run = written_to(full.fileno(), folder, *arguments)
    said = "rnn-search: the output cannot be written: no space left\n"
    assert (run.returncode, run.stderr) == (1, said)


@pytest.mark.parametrize("arguments", [("show", "tiny"), LITTLE, ("--help",)])
def test_a_reader_that_reads_nothing(folder: Path, arguments: tuple[str, ...]) -> None:
    """A reader that has left before anything was written is no failure."""
    reader, writer = os.pipe()
    os.close(reader)
    run = written_to(writer, folder, *arguments)
    os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")


def test_json_outlives_who_reads_the_progress(tmp_path: Path) -> None:
    """If nobody reads the progress any more, the summary is written all the same."""
    write_study(tmp_path)
    reader, writer = os.pipe()
    os.close(reader)
    run = subprocess.run(
        [str(COMMAND), "run", "tiny.toml", "--trials", "1", "--workers", "1", "--json"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=writer,
        text=True,
        timeout=120,
        check=False,
    )
    os.close(writer)
    assert run.returncode == 0
    assert read_json(run.stdout)["trials"]["complete"] == 1


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    """A run whose terminal is closed stops at the next epoch, saves its trial and gives it back."""
    write_study(tmp_path, space=SLOW_SPACE, stopping={"patience": 0})
    window, terminal = pty.openpty()
    run = subprocess.Popen(
        ["setsid", "--ctty", "--wait", str(COMMAND), "run", "tiny.toml", "--workers", "1"],
        cwd=tmp_path,
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        text=True,
    )
    started.append(run)
    os.close(terminal)
    children = []
    try:
        read_until(window, lambda: epochs_reported(tmp_path) >= 5)
        children = children_of(run.pid)
    finally:
        os.close(window)
    wait_for_end(children)
    assert run.wait(60) == 130
    assert count(tmp_path, "rnn_search_leases") == 0
    assert set(files_of(tmp_path)) == {"00000/checkpoint.pt"}


def read_until(window: int, condition: Callable[[], bool]) -> None:
    """Shows what a terminal is to show, which is read and forgotten, until something is so."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        if select.select([window], [], [], 0.01)[0]:
            os.read(window, 4096)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_training(tmp_path: Path, number: signal.Signals) -> None:
    """Whatever asks it to stop while it still reads gets exit code 130 and a line."""
    write_study(tmp_path)
    run = start(tmp_path, "run", "tiny.toml", "--workers", 1)
    # The handler is there as soon as Python runs our code; torch takes a second more.
    wait_for_handler(run.pid)
    run.send_signal(number)
    assert run.wait(60) == 130
    assert "interrupted; run it again to go on" in (tmp_path / "output.txt").read_text()


def test_long_names_of_studies_are_whole(folder: Path) -> None:
    """A terminal breaks them, a pipe has them on one line: never are they cut short."""
    with contextlib.chdir(folder):
        database = Database("sqlite:///studies/studies.db", create=False)
        summary = summarize(open_study(database, "tiny"))
    named = replace(summary, name="sales-2024-store-17-weekly-logarithmic-features-a")
    for width in (60, 80):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(studies_table([named]))
        text = console.export_text()
        assert "…" not in text
        assert "".join(line.split(" ")[0] for line in text.splitlines()[1:]) == named.name
    screen = io.StringIO()
    with contextlib.redirect_stdout(screen):
        make_console(to_stderr=False).print(studies_table([named]))
    assert named.name in screen.getvalue()


def wait_for_handler(pid: int) -> None:
    """Waits until the process catches SIGTERM: bit 14 of the mask that the kernel shows."""

    def caught() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        mask = next(line for line in status.splitlines() if line.startswith("SigCgt"))
        return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    wait_until(caught, "it catches SIGTERM")


def test_a_narrow_table_has_fewer_columns(folder: Path) -> None:
    """On 40 columns the figures are whole; what does not fit is left out."""
    with contextlib.chdir(folder):
        database = Database("sqlite:///studies/studies.db", create=False)
        summary = summarize(open_study(database, "tiny"))
    for width in (40, 60, 120):
        console = Console(width=width, file=io.StringIO(), record=True)
        table, left_out = ranking_table(summary, width)
        console.print(table)
        assert bool(left_out) == (width < 120)
        assert left_out[-1:] in ([], ["clip"])
        text = console.export_text()
        assert "…" not in text
        assert "loss" in text
        assert ("clip" in text) == (width == 120)


def test_the_next_commands_fit_a_narrow_terminal(folder: Path) -> None:
    """What a command is for stands under it where both are too wide for a line, in a file never."""
    with contextlib.chdir(folder):
        stored = open_study(Database(DEFAULT_STORAGE, create=False), "tiny")
        summary = summarize(stored)
    said = {}
    for terminal, width in ((True, 60), (True, 140), (False, 60)):
        file = io.StringIO()
        console = Console(file=file, width=width, force_terminal=terminal, no_color=True)
        print_next_commands(console, stored, DEFAULT_STORAGE, "done", summary)
        said[terminal, width] = [line.rstrip() for line in file.getvalue().splitlines()]
    narrow, why = said[True, 60], "this table again; add a number for one trial"
    at = next(index for index, line in enumerate(narrow) if line.endswith("show tiny"))
    assert narrow[at + 1] == f"      {why}"
    assert max(len(line) for line in narrow) <= 60
    for wide in (said[True, 140], said[False, 60]):
        assert any(" show tiny " in line and line.endswith(f"  {why}") for line in wide)


@pytest.mark.parametrize(
    ("seeds", "which"), [(0, "DIR "), (1, "DIR --winner"), (3, "DIR --ensemble")]
)
def test_what_won_an_evaluation_is_what_to_export(seeds: int, which: str, folder: Path) -> None:
    """After an evaluation the command to export names its winner, and all seeds if there are."""
    with contextlib.chdir(folder):
        stored = open_study(Database(DEFAULT_STORAGE, create=False), "tiny")
        summary = summarize(stored)
    if seeds:
        summary = replace(summary, evaluated={"trial": 0, "seeds": [*range(seeds)]})
    console = Console(file=io.StringIO(), width=140, record=True)
    print_next_commands(console, stored, DEFAULT_STORAGE, "done", summary)
    assert f" export tiny {which}" in console.export_text()


@pytest.mark.slow
def test_the_next_commands_name_the_storage(tmp_path: Path) -> None:
    """The commands to type next work as they are, whatever the storage is called."""
    write_study(tmp_path)
    run = subprocess.run(
        [str(COMMAND), "run", "tiny.toml", "--trials", "1", "--storage", "sqlite:///we ird.db"],
        cwd=tmp_path,
        env={**environment(), "RNN_SEARCH_STORAGE": "sqlite:///other.db"},
        text=True,
        capture_output=True,
        timeout=120,
        check=True,
    )
    line = next(line for line in run.stdout.splitlines() if " show tiny" in line)
    command = line.split("  this table")[0]
    again = subprocess.run(
        ["bash", "-c", f"{command} --json"],
        cwd=tmp_path,
        env={**environment(), "PATH": f"{COMMAND.parent}:{os.environ['PATH']}"},
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert read_json(again.stdout)["trials"]["complete"] == 1


@pytest.mark.slow
def test_an_enqueued_trial_that_cannot_be(tmp_path: Path) -> None:
    """A trial enqueued with a value that is no choice fails, and the study goes on."""
    write_study(tmp_path)
    assert rnn_search(tmp_path, "run", "tiny.toml", "--trials", 1).returncode == 0
    url = f"sqlite:///{tmp_path}/studies/studies.db"
    study = optuna.load_study(study_name="tiny", storage=url)
    study.enqueue_trial({"learning_rate": 0.05, "cell": "foo"})
    run = rnn_search(tmp_path, "run", "tiny.toml", "--trials", 4)
    assert run.returncode == 0, run.stderr
    trials = trials_of(tmp_path)
    assert [trial.state == TrialState.FAIL for trial in trials] == [False, True, False, False]
    assert "do not fit the space" in trials[1].user_attrs["reason"]
    assert all(trial.state.is_finished() for trial in trials)
