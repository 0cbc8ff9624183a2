"""How soon a search has its first result, by where its trainers come from.

    python -m bench.start --turns 7
    python -m bench.start --turns 7 --cores 1

Starts the study ``sunspots`` with two workers for one trial, in a process of its own, each way in
turn, and counts from the start of the process to the moment at which the trial is told. Trainers
are forked from a server that is forked from the coordinator ("forked", as it is), from a server
that is a new Python ("served"), or each is a new Python ("new").
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import optuna

STUDY = Path(__file__).parent.parent / "studies" / "sunspots.toml"
WAYS = ("forked", "served", "new")
RUN = """
import sys
from search import processes
way = sys.argv.pop(1)
processes.FORKS = way != "new"
if way == "served":
    processes.HEAVY = ("sys",)
from search.cli import main
if __name__ == "__main__":
    sys.exit(main())
"""


def first_result(way: str, cores: set[int]) -> float:
    """Returns the seconds until the first trial is told."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/start.db"
        options = ["run", str(STUDY), "--trials", "1", "--workers", "2", "--storage", url]
        started = time.time()
        subprocess.run(
            [sys.executable, "-c", RUN, way, *options],
            check=True,
            capture_output=True,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        )
        (trial,) = optuna.load_study(study_name="sunspots", storage=url).trials
    if trial.datetime_complete is None:
        raise RuntimeError("the trial did not end")
    return trial.datetime_complete.timestamp() - started


def main() -> None:
    """Reads the command line and prints medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--cores", type=int, help="of those there are; all, unless it is given")
    arguments = parser.parse_args()
    cores = {*sorted(os.sched_getaffinity(0))[: arguments.cores]}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(arguments.turns):
        for way, taken in seconds.items():
            taken.append(first_result(way, cores))
    forked = statistics.median(seconds[WAYS[0]])
    for way, taken in seconds.items():
        middle = statistics.median(taken)
        shown = " ".join(f"{one:.2f}" for one in taken)
        print(
            f"{way}: first trial told after {middle:.2f} s, ratio {middle / forked:.2f} ({shown})"
        )


if __name__ == "__main__":
    main()
