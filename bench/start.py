"""How soon a search has its first result: trainers forked from a server, or each a new Python?

    python -m bench.start --turns 7

Starts the study ``sunspots`` with two workers for one trial, in a process of its own, either way
in turn, and counts from the start of the process to the moment at which the trial is told.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna

STUDY = Path(__file__).parent.parent / "studies" / "sunspots.toml"
RUN = """
import sys
from search import processes
processes.FORKS = sys.argv.pop(1) == "forked"
from search.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


def first_result(way: str) -> float:
    """Returns the seconds until the first trial is told."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/start.db"
        options = ["run", str(STUDY), "--trials", "1", "--workers", "2", "--storage", url]
        started = time.time()
        subprocess.run([sys.executable, "-c", RUN, way, *options], check=True, capture_output=True)
        (trial,) = optuna.load_study(study_name="sunspots", storage=url).trials
    if trial.datetime_complete is None:
        raise RuntimeError("the trial did not end")
    return trial.datetime_complete.timestamp() - started


def main() -> None:
    """Reads the command line and prints medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    seconds: dict[str, list[float]] = {"new": [], "forked": []}
    for _ in range(turns):
        for way, taken in seconds.items():
            taken.append(first_result(way))
    new, forked = map(statistics.median, seconds.values())
    print(f"first trial told after {new:.2f} s with new processes, {forked:.2f} s with forked ones")
    print(f"ratio {new / forked:.2f}, of {turns} turns each")


if __name__ == "__main__":
    main()
