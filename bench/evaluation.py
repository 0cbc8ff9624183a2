"""What seeds of one configuration cost together over what they cost one after another: ratios.

    python -m bench.evaluation              the table for RESULTS.md
    python -m bench.evaluation STUDY CELL   one row of it

The retrainings of `rnn-search evaluate`, on one real trainer, checkpoints and all: five seeds of a
configuration in lanes, and one after another. Both ways take turns; what counts is the processor's
time of trainer and coordinator. LSTM and larger networks still train one after another; the table
has what lanes would make of them.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import psutil

from search.data import load_splits
from search.data.splits import Splits
from search.retraining import Retrainer, Retraining
from search.running import Request, make_plan
from search.space import HyperParams, starting_points
from search.trainers import LocalTrainers
from search.trial import Curve, Decision, Epoch, Goal
from search.worker import TrialRules

STUDIES = ("sunspots", "vowels")
CELLS = ("rnn", "gru", "lstm")
UNITS = (16, 32, 48, 64, 128)
SEEDS = 5
TURNS = 3


class Silent:
    """An observer that shows nothing."""

    def started(self, worker: int, retrainings: Sequence[Retraining]) -> None:
        """Retrainings start together."""

    def advanced(self, worker: int, retraining: Retraining, epoch: Epoch) -> None:
        """A retraining has trained an epoch."""

    def ended(self, worker: int, retraining: Retraining, decision: Decision, curve: Curve) -> None:
        """A retraining is over."""

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened."""
        print(line)


class Together(LocalTrainers):
    """Trainers that train everything in lanes."""

    def in_lanes(self, params: HyperParams) -> bool:
        """Says that it can be."""
        return True


class Apart(LocalTrainers):
    """Trainers that train nothing in lanes."""

    def in_lanes(self, params: HyperParams) -> bool:
        """Says that it cannot be."""
        return False


def spent(trainers: LocalTrainers) -> float:
    """Returns the processor's time of this process and its trainer so far, in seconds."""
    times = psutil.Process(trainers._workers[0].process.pid).cpu_times()
    return time.process_time() + times.user + times.system


def retrain(trainers: LocalTrainers, params: HyperParams) -> float:
    """Trains five seeds; returns the processor's time of it, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = [
            Retraining(seed, 0, seed, params, Path(folder) / str(seed)) for seed in range(SEEDS)
        ]
        before = spent(trainers)
        results = Retrainer(trainers, Goal(), Silent(), {}).run(wanted)
        assert len(results) == SEEDS
        return spent(trainers) - before


def points(study: str) -> tuple[Splits, HyperParams]:
    """Returns the data of a study and its first trial, which never diverges."""
    config = make_plan(Request(study, "sqlite:///none.db")).config
    return load_splits(config.data), HyperParams.of(starting_points(config.space)[0])


def gain(splits: Splits, params: HyperParams) -> float:
    """Returns how many times as long five seeds take one after another as together."""
    rules = TrialRules(Goal(), 0, divergence=True)
    ways = [kind(splits, rules, 1, "cpu") for kind in (Together, Apart)]
    with ExitStack() as stack:
        for way in ways:
            stack.enter_context(way)
            retrain(way, params)
        turns = [[retrain(way, params) for way in ways] for _ in range(TURNS)]
    together, apart = (statistics.median(way) for way in zip(*turns, strict=True))
    return float(apart / together)


def main() -> None:
    """Prints the table, or the rows of one study and cell."""
    studies, cells = (sys.argv[1:2], sys.argv[2:3]) if len(sys.argv) > 2 else (STUDIES, CELLS)
    print(f"| {SEEDS} seeds of | cell | " + " | ".join(f"H {units}" for units in UNITS), "|")
    print("|---|---|" + "--:|" * len(UNITS))
    for study, cell in itertools.product(studies, cells):
        splits, first = points(study)
        sizes = [
            HyperParams.of(first.to_dict() | {"cell": cell, "hidden_units": units})
            for units in UNITS
        ]
        gains = " | ".join(f"{gain(splits, params):.2f}" for params in sizes)
        print("|", study, "|", cell, "|", gains, "|", flush=True)


if __name__ == "__main__":
    main()
