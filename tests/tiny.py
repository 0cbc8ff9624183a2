"""A study that trains in seconds, the command line as a process, and a look at what it stored."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import optuna
import psutil
import tomli_w

from search.config import StudyConfig, load_config

COMMAND = Path(sys.executable).with_name("rnn-search")
"""The installed console script."""
OFTEN = Path(__file__).with_name("often.py")
"""The same for trials that are to be killed."""
SPACE: dict[str, object] = {
    "epochs": {"low": 2, "high": 4},
    "hidden_units": {"low": 4, "high": 8},
    "batch_size": [16, 32],
}
started: list[subprocess.Popen[str]] = []
"""Runs that `start` has begun and that nobody has ended yet, as far as is known."""
PATIENCE = 120.0
"""Seconds after which a condition that is polled is taken to be never met."""


def write_series(path: Path, rows: int = 120) -> Path:
    """Writes a sine with a second wave on it as CSV, one column ``y``."""
    values = (math.sin(i / 5) + 0.3 * math.sin(i / 1.7) for i in range(rows))
    path.write_text("y\n" + "".join(f"{value:.6f}\n" for value in values))
    return path


def write_study(
    folder: Path, name: str = "tiny", rows: int = 120, file: str = "", **changes: Any
) -> Path:
    """Writes a study file beside its series.

    Args:
        folder: Where.
        name: The study's name.
        rows: Length of the series.
        file: The study file's name without its ending; empty: the study's name.
        changes: Tables that replace (``space``) or add to what a tiny study has.
    """
    series = write_series(folder / f"series{rows}.csv", rows)
    study: dict[str, Any] = {
        "name": name,
        "data": {"task": "forecast", "path": str(series), "window": 8},
        "space": SPACE,
        "budget": {"trials": 4},
    }
    path = folder / f"{file or name}.toml"
    path.write_text(tomli_w.dumps({**study, **changes}))
    return path


def tiny_config(folder: Path, name: str = "tiny", **changes: Any) -> StudyConfig:
    """Returns the configuration of a tiny study whose files lie in ``folder``."""
    return load_config(write_study(folder, name, **changes))


def environment() -> dict[str, str]:
    """Returns the environment of a child: one thread, no storage of the developer's own."""
    kept = {key: value for key, value in os.environ.items() if key != "RNN_SEARCH_STORAGE"}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}


def rnn_search(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs the console script in ``folder`` and waits for its end."""
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


def start(
    folder: Path, *arguments: object, often: bool = False, apart: bool = False
) -> subprocess.Popen[str]:
    """Starts the console script in ``folder`` as a process group of its own.

    What it prints goes to output.txt there. If it still runs when its test is over, it is killed.

    Args:
        folder: Where it is to run.
        arguments: Its own.
        often: It saves each epoch at once, so that a kill meets something saved.
        apart: What it says on stderr goes to errors.txt.
    """
    command = [sys.executable, str(OFTEN)] if often else [str(COMMAND)]
    more = {"PYTHONPATH": str(OFTEN.parent)} if often else {}
    errors_file = folder / ("errors.txt" if apart else "output.txt")
    with (folder / "output.txt").open("a") as output, errors_file.open("a") as errors:
        run = subprocess.Popen(
            [*command, *map(str, arguments)],
            cwd=folder,
            env=environment() | more,
            stdout=output,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
    started.append(run)
    return run


def kill_started() -> None:
    """Kills the started runs that go on: after a failed test they would hold the cores."""
    while started:
        run = started.pop()
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Polls until the condition holds, and fails with ``what`` if it never does."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


def count(folder: Path, table: str) -> int:
    """Returns how many rows a table of the folder's studies has, from outside and read-only."""
    file = folder / "studies" / "studies.db"
    if not file.exists():
        return 0
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        try:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
        except sqlite3.OperationalError:
            return 0


def epochs_reported(folder: Path) -> int:
    """Returns how many epochs all trials together have reported so far."""
    return count(folder, "trial_intermediate_values")


def wait_for_epoch(folder: Path) -> None:
    """Waits until one more epoch is reported."""
    seen = epochs_reported(folder)
    wait_until(lambda: epochs_reported(folder) > seen, "an epoch")


def interrupt_when(
    process: subprocess.Popen[str], condition: Callable[[], bool], number: signal.Signals
) -> list[int]:
    """Waits for a moment of a run, sends a signal to its group, and returns its children's ids."""
    wait_until(lambda: condition() or process.poll() is not None, "the moment to interrupt")
    assert process.poll() is None, "the run ended before it could be interrupted"
    children = children_of(process.pid)
    os.killpg(process.pid, number)
    return children


def children_of(pid: int) -> list[int]:
    """Returns the ids of a process's children, trainers among them."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def trainers_of(pid: int) -> list[int]:
    """Returns the ids of a coordinator's trainers."""
    return [child.pid for server in servers_of(pid) for child in psutil.Process(server).children()]


def servers_of(pid: int) -> list[int]:
    """Returns the id of what a coordinator's trainers are forked from; empty: there is none."""
    coordinator, found = psutil.Process(pid), []
    for child in coordinator.children():
        # One is forked from the coordinator, another that follows one that died is a new Python.
        line = child.cmdline()
        if line == coordinator.cmdline() or "multiprocessing.forkserver" in " ".join(line):
            found.append(child.pid)
    return found


def is_alive(pid: int) -> bool:
    """Returns whether a process is there and not merely waiting to be reaped."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(pids: Iterable[int]) -> None:
    """Polls until none of the processes is alive."""
    wait_until(lambda: not any(is_alive(pid) for pid in pids), f"the end of {list(pids)}")


def trials_of(folder: Path, name: str = "tiny") -> list[optuna.trial.FrozenTrial]:
    """Returns the trials of a study in the folder's storage, read by Optuna alone."""
    return trials_at(f"sqlite:///{folder / 'studies' / 'studies.db'}", name)


def trials_at(url: str, name: str = "tiny") -> list[optuna.trial.FrozenTrial]:
    """Returns the trials of a study at a URL, read by Optuna alone."""
    storage = optuna.storages.RDBStorage(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        return optuna.load_study(study_name=name, storage=storage).trials
    finally:
        storage.engine.dispose()


def record(trials: Iterable[optuna.trial.FrozenTrial]) -> list[dict[str, Any]]:
    """Returns all that a study promises to reproduce of its trials: everything but times."""
    kept = ("outcome", "reason", "best_epoch", "figures", "curve", "finding", "evidence", "follows")
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": dict(sorted(trial.params.items())),
            "value": trial.value,
            "intermediate": dict(sorted(trial.intermediate_values.items())),
            "constraints": trial.constraints,
            **{name: trial.user_attrs.get(name) for name in kept},
        }
        for trial in trials
    ]


def files_of(folder: Path, name: str = "tiny") -> dict[str, bytes]:
    """Returns the files of a study's trials, by their path within the study's folder."""
    return files_in(folder / "studies" / "studies.trials", name)


def files_in(home: Path, name: str = "tiny") -> dict[str, bytes]:
    """Returns the files of a study's trials below the folder of a database's studies."""
    (place,) = home.glob(f"{name}-*")
    return {
        str(file.relative_to(place)): file.read_bytes()
        for file in sorted(place.rglob("*"))
        if file.is_file()
    }


def read_json(text: str) -> dict[str, Any]:
    """Reads the one JSON object that a command printed."""
    read = json.loads(text)
    assert isinstance(read, dict)
    return read
