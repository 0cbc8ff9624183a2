"""Trials a second on a fixed list of configurations, pruning off; and what of it is not training.

The list is random, the same for ours and for plain Optuna, and every trial is trained to its end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tomli_w

from bench.race import products
from bench.race.exported import read
from bench.race.network import suggest
from bench.race.ours import WORKERS
from bench.race.prepare import prepare
from bench.race.runner import ROOT, environment, on_two_cores

NO_STOPPING = {"pruner": "none", "patience": 0, "divergence": False}


@dataclass(frozen=True)
class Throughput:
    """What a list of trials took.

    Attributes:
        whole: Seconds from the start of the process to its end.
        trials: Seconds from the begin of the first trial's training to the end of the last trial.
        working: Seconds from each worker's first to its last, summed; of ours only.
        training: Seconds of training and validation, summed over the workers; of ours only.
        computing: The share of the processor's time that is training and validation, as another
            run of the same list has it; of ours only.
    """

    whole: float
    trials: float
    working: float = 0.0
    training: float = 0.0
    computing: float = 0.0

    @property
    def idle(self) -> float:
        """The share of the workers' time that is not training, imports aside."""
        return 1 - self.training / self.working


def configurations(data: Path, count: int, changes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns random configurations of the default space, with ``changes`` in all of them."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sizes = read(data).facts.batch_sizes
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(20))
    return [{**suggest(study.ask(), sizes), **changes} for _ in range(count)]


def of_ours(data: Path, points: Sequence[Mapping[str, Any]], folder: Path) -> Throughput:
    """Runs the list by `rnn-search run`, as `accounted` does it."""
    file = folder / "listed.toml"
    study = data.with_suffix(".toml").read_text(encoding="utf-8")
    budget = {"budget": {"trials": len(points)}, "stopping": NO_STOPPING}
    file.write_text(study + "\n" + tomli_w.dumps(budget), encoding="utf-8")
    wholes, found = [], []
    for verb in ("run", "processor"):
        url = f"sqlite:///{folder / verb}.db"
        _run("bench.race.accounted", ["enqueue", str(file), url, json.dumps(points)], 1)
        whole, output = _run("bench.race.accounted", [verb, str(file), url], 1)
        wholes.append(whole)
        found.append(json.loads(output.splitlines()[-1]))
    times, work = found
    share = work["training"] / work["all"]
    return Throughput(wholes[0], times["trials"], times["working"], times["training"], share)


def of_plain(data: Path, points: Sequence[Mapping[str, Any]], folder: Path) -> Throughput:
    """Runs the list by plain Optuna, whose study, as ours, is made by a process before."""
    where = [str(data), f"sqlite:///{folder / 'plain.db'}"]
    _run("bench.race.accounted", ["enqueue-plain", *where, json.dumps(points)], 2)
    whole, output = _run("bench.race.accounted", ["plain", *where], 2)
    return Throughput(whole, json.loads(output.splitlines()[-1])["trials"])


def show_throughput(
    folder: Path, sets: Sequence[str], count: int, changes: Mapping[str, Any]
) -> None:
    """Measures each set, ours and plain in turn, and prints a table.

    Args:
        folder: For data and studies.
        sets: Names of data sets.
        count: How many configurations.
        changes: Hyperparameters that are the same in all of them.
    """
    head = "ours, trials a s | plain, trials a s | ratio | imports included | s a trial"
    print(
        f"| | {head} | not training, workers' time | processor's | ratio of products alone |\n"
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|"
    )
    for name in sets:
        data = prepare(name, folder)
        points = configurations(data, count, changes)
        mine = of_ours(data, points, _made(folder / f"{name}-ours"))
        other = of_plain(data, points, _made(folder / f"{name}-plain"))
        # That of two workers who do nothing but the matrix products.
        bound = other.trials / (products.seconds(points, read(data)) / WORKERS)
        ratio, whole = other.trials / mine.trials, other.whole / mine.whole
        print(
            f"| {name} | {count / mine.trials:.2f} | {count / other.trials:.2f} | {ratio:.1f} | "
            f"{whole:.1f} | {mine.training / count:.2f} | {mine.idle:.1%} | "
            f"{1 - mine.computing:.1%} | {bound:.1f} |",
            flush=True,
        )


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _run(module: str, arguments: Sequence[str], threads: int) -> tuple[float, str]:
    """Returns how long a process took and what it printed."""
    begun = time.monotonic()
    done = subprocess.run(
        on_two_cores([sys.executable, "-m", module, *arguments]),
        env=environment(threads, {}),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return time.monotonic() - begun, done.stdout
