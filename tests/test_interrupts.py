"""The command line when its time is up, or somebody interrupts it: once, twice, as it starts."""

from __future__ import annotations

import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from test_cli import SLOW_SPACE
from tiny import (
    SPACE,
    count,
    epochs_reported,
    files_of,
    interrupt_when,
    read_json,
    rnn_search,
    start,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)


@pytest.mark.slow
def test_json_and_timeout(tmp_path: Path) -> None:
    """When time is up a run exits with 0 and one JSON object; its trial goes on at resume."""
    space = {**SPACE, "epochs": 1200, "batch_size": [8]}
    write_study(tmp_path, space=space, stopping={"patience": 0})
    options = ("--timeout", "1s", "--workers", 1, "--json")
    timed = rnn_search(tmp_path, "run", "tiny.toml", *options)
    assert timed.returncode == 0, timed.stderr
    counts = read_json(timed.stdout)["trials"]
    assert (counts["total"], counts["interrupted"], counts["running"]) == (1, 1, 0)
    before = trials_of(tmp_path)[0].params
    resumed = rnn_search(tmp_path, "resume", "tiny", "--timeout", "none", "--trials", 1, "--json")
    assert read_json(resumed.stdout)["trials"]["complete"] == 1
    (trial,) = trials_of(tmp_path)
    assert trial.params == before
    assert list(trial.intermediate_values) == list(range(1, 1201))


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
    ],
)
def test_interrupted_once(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP end a run with 130, its summary, its checkpoints, no process."""
    write_study(tmp_path, space=SLOW_SPACE, stopping={"patience": 0})
    run = start(tmp_path, "run", "tiny.toml", "--workers", 2)
    children = interrupt_when(run, lambda: epochs_reported(tmp_path) >= 5, number)
    assert run.wait(60) == 130
    assert len(children) >= 2
    wait_for_end(children)
    output = (tmp_path / "output.txt").read_text()
    assert "2 interrupted" in output
    assert "Next:" in output
    assert "Traceback" not in output
    assert count(tmp_path, "rnn_search_leases") == 0
    assert set(files_of(tmp_path)) == {f"{n:05d}/checkpoint.pt" for n in range(2)}
    assert all(trial.params for trial in trials_of(tmp_path))


def test_interrupted_twice(tmp_path: Path) -> None:
    """A second Ctrl-C stops at once, even in the middle of a long epoch, and leaves no process."""
    space = {**SPACE, "epochs": 50, "batch_size": [1], "hidden_units": 128, "hidden_layers": 3}
    write_study(tmp_path, rows=20_000, space=space)
    run = start(tmp_path, "run", "tiny.toml", "--workers", 1)
    children = interrupt_when(run, lambda: has_params(tmp_path), signal.SIGINT)
    output = tmp_path / "output.txt"
    interrupt_when(run, lambda: "Ctrl-C again stops at once" in output.read_text(), signal.SIGINT)
    assert run.wait(60) == 130
    wait_for_end(children)
    assert "interrupted; run it again to go on" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert epochs_reported(tmp_path) == 0


def test_hung_up_twice(tmp_path: Path) -> None:
    """A shell and the system may both say that the terminal is closed: the run still ends well."""
    space = {**SPACE, "epochs": 1000, "batch_size": [1]}
    write_study(tmp_path, rows=2_000, space=space, stopping={"patience": 0, "pruner": "none"})
    run = start(tmp_path, "run", "tiny.toml", "--workers", 1)
    children = interrupt_when(run, lambda: epochs_reported(tmp_path) > 0, signal.SIGHUP)
    output = tmp_path / "output.txt"
    wait_until(lambda: "stopping at the next epoch" in output.read_text(), "the first")
    run.send_signal(signal.SIGHUP)
    assert run.wait(60) == 130
    wait_for_end(children)
    assert "1 interrupted" in output.read_text()
    assert count(tmp_path, "rnn_search_leases") == 0
    assert set(files_of(tmp_path)) == {"00000/checkpoint.pt"}


def _more_than(reported: int, folder: Path) -> bool:
    return epochs_reported(folder) > reported


def test_under_nohup(tmp_path: Path) -> None:
    """A run that was started to ignore SIGHUP goes on after it; SIGTERM still ends it well."""
    write_study(tmp_path, space=SLOW_SPACE, stopping={"patience": 0})
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start(tmp_path, "run", "tiny.toml", "--workers", 1)
    finally:
        signal.signal(signal.SIGHUP, before)
    interrupt_when(run, lambda: epochs_reported(tmp_path) > 0, signal.SIGHUP)
    for _ in range(2):
        reported = epochs_reported(tmp_path)
        wait_until(partial(_more_than, reported, tmp_path), "it goes on")
    assert "stopping" not in (tmp_path / "output.txt").read_text()
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 130
    assert "1 interrupted" in (tmp_path / "output.txt").read_text()


def test_a_file_that_is_being_written(tmp_path: Path) -> None:
    """Where nothing trains, Ctrl-C ends a command at once, and half a file of it is removed."""
    script = (
        "import signal, sys; from pathlib import Path\n"
        "from search.processes import signals_answered\n"
        "from search.terminal import leave; from search.whole_files import written_whole\n"
        "with signals_answered(leave), written_whole(Path(sys.argv[1])) as part:\n"
        "    part.write_text('half'); print(part.exists(), flush=True)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "forecasts.csv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (130, "True\n")
    assert list(tmp_path.iterdir()) == []


def has_params(folder: Path) -> bool:
    """Returns whether the first trial has all of its parameters."""
    return count(folder, "trial_params") >= 7


@pytest.mark.parametrize("modules", ["numpy", "torch", "optuna"])
def test_interrupted_during_start_up(tmp_path: Path, modules: str) -> None:
    """Ctrl-C while the command still imports exits with 130, one line and no traceback."""
    write_study(tmp_path)
    run = start(tmp_path, "run", "tiny.toml")
    wait_until(lambda: has_mapped(run, modules), f"the import of {modules}")
    run.send_signal(signal.SIGINT)
    assert run.wait(60) == 130
    output = (tmp_path / "output.txt").read_text()
    assert "Traceback" not in output
    assert "Error" not in output


def has_mapped(process: subprocess.Popen[str], package: str) -> bool:
    """Returns whether a process has a package's compiled code in memory, or has ended."""
    if package == "optuna":
        package = "sqlalchemy"
    maps = Path(f"/proc/{process.pid}/maps")
    return process.poll() is not None or f"/{package}/" in maps.read_text()
