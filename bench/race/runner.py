"""One race: a process started, timed, ended; its lines read; its winner trained again."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from bench.race.contestants import Contestant
from bench.race.lines import FILE, STARTED
from bench.race.progress import improvements, read_lines
from bench.race.store import Key, Result

ROOT = Path(__file__).parents[2]
CORES = 2
GRACE = 5.0
"""Seconds after the end of a race in which a contestant may end by itself."""
LOOK = 1.0
"""Seconds between two looks at what a contestant's processes have computed."""
PATIENCE = 30.0
"""Seconds between the request to end and the end of a process that does not heed it."""
RETRAINING = 600.0
"""Seconds that retraining a winner may take."""
PACKAGES = ("torch", "optuna", "ray", "neuralforecast", "keras", "keras-tuner", "numpy")


class RaceError(Exception):
    """A contestant failed; the message ends with what it printed last."""


@dataclass(frozen=True)
class Place:
    """Where a contestant runs.

    Attributes:
        contestant: Who.
        data: The exported data.
        folder: Its own, empty.
    """

    contestant: Contestant
    data: Path
    folder: Path

    def command(self, verb: str, options: Mapping[str, object]) -> list[str]:
        """Returns what is run, in namespaces of its own if the contestant needs them."""
        given = {"data": self.data, "folder": self.folder, **options}
        flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        run = [sys.executable, "-m", f"bench.race.{self.contestant.module}", verb, *flags]
        if not self.contestant.own_network or verb != "search":
            return run
        as_root = [] if os.getuid() == 0 else ["--map-root-user"]
        alone = ["unshare", *as_root, "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
        return [*alone, *run]

    def start(self, verb: str, options: Mapping[str, object]) -> subprocess.Popen[bytes]:
        """Starts it, on the first two cores, with its clock and its threads."""
        home = {"HOME": str(self.folder)}  # Ray and Keras keep files there.
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                on_two_cores(self.command(verb, options)),
                cwd=self.folder,
                env=environment(self.contestant.threads, home),
                stdin=subprocess.DEVNULL,
                stdout=output if verb == "search" else subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )

    def said(self) -> str:
        """Returns the end of what it printed."""
        text = (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")
        return text[-2000:]


def on_two_cores(command: Sequence[str]) -> list[str]:
    """Returns the command, bound to the first two cores that this process may use."""
    cores = sorted(os.sched_getaffinity(0))[:CORES]
    return ["taskset", "-c", ",".join(map(str, cores)), *command]


def environment(threads: int, more: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a process that begins now, each part of it so many threads."""
    count = str(threads)
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        STARTED: repr(time.time()),
        **more,
    }


def run_race(contestant: Contestant, data: Path, key: Key, times: int = 3) -> Result:
    """Runs a race and retrains its winner, which is not timed.

    Args:
        contestant: Who.
        data: The exported data.
        key: Which race.
        times: How many seeds the winner is retrained with.

    Raises:
        RaceError: The contestant failed.
    """
    with tempfile.TemporaryDirectory(prefix="race-") as folder:
        place = Place(contestant, data.absolute(), Path(folder))
        busy, begun = _busy(), time.monotonic()
        process = place.start("search", {"seconds": key.seconds, "seed": key.seed})
        in_time, own = wait(process, key.seconds)
        whole = (time.monotonic() - begun) * (psutil.cpu_count() or 1)
        others = max(0.0, (_busy() - busy - own) / whole)
        lines = read_lines(place.folder / FILE, key.seconds)
        better = improvements(lines)
        if in_time and process.returncode != 0:
            raise RaceError(f"{contestant.name} on {key.data}:\n{place.said()}")
        params = better[-1]["params"] if better else None
        return Result(
            key,
            tuple((line["seconds"], line["loss"]) for line in better),
            sum(line["ended"] for line in lines),
            params,
            tuple(retrain(place, params, key.seed, times)) if params else (),
            round(others, 3),
            surroundings(),
        )


def wait(process: subprocess.Popen[bytes], seconds: float) -> tuple[bool, float]:
    """Waits for the end of a race, or brings it about, also if the runner is interrupted.

    Returns:
        True if the process ended by itself; and the processor time, in seconds, of it and all that
        descends from it, as they were last seen.
    """
    used: dict[int, float] = {}
    last = time.monotonic() + seconds + GRACE
    try:
        while time.monotonic() < last:
            used |= processor_times(process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LOOK)
                return True, sum(used.values())
        return False, sum(used.values())
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def processor_times(pid: int) -> dict[int, float]:
    """Returns the seconds that a process and its descendants have computed so far, by number."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for one in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                found[one.pid] = times.user + times.system
    return found


def _busy() -> float:
    """Returns the seconds that all cores together have worked since the machine was started."""
    cores = psutil.cpu_times()
    return float(sum(cores) - cores.idle - cores.iowait - cores.guest - cores.guest_nice)


def retrain(place: Place, params: Any, seed: int, times: int) -> Sequence[float]:
    """Returns the losses of a configuration with so many seeds, by the contestant's own recipe."""
    options = {"params": json.dumps(params), "seed": seed, "times": times}
    process = place.start("retrain", options)
    try:
        output, _ = process.communicate(timeout=RETRAINING)
    except subprocess.TimeoutExpired:
        raise RaceError(
            f"{place.contestant.name}, retraining: not done after {RETRAINING:g} s"
        ) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        raise RaceError(f"{place.contestant.name}, retraining:\n{place.said()}")
    losses: list[float] = json.loads(output.splitlines()[-1])
    return losses


def surroundings() -> dict[str, str]:
    """Returns versions, machine and date."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "cores": str(os.cpu_count()),
        "processor": _processor(),
        "code": done.stdout.strip() or "of no repository",
        **found,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
