"""Runs a list of configurations and prints, as its last line, what the time went on; as a process.

    python -m bench.race.accounted enqueue STUDY.toml URL POINTS
    python -m bench.race.accounted run STUDY.toml URL
    python -m bench.race.accounted processor STUDY.toml URL
    python -m bench.race.accounted enqueue-plain DATA URL POINTS
    python -m bench.race.accounted plain DATA URL

Ours is `rnn-search run` itself, of which two methods note in passing what they are told.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from bench.race.ours import WORKERS
from bench.race.runner import processor_times


def enqueue(study: str, url: str, points: Sequence[Mapping[str, Any]]) -> None:
    """Creates the study with trials that wait to be trained."""
    from search.database import Database
    from search.running import Request, _open_or_create, make_plan

    request = Request(study, url)
    stored = _open_or_create(Database(url, create=True), request, make_plan(request))
    for point in points:
        stored.study.enqueue_trial(dict(point))


def run(study: str, url: str) -> None:
    """Trains them with two workers and prints what the time went on, in seconds.

    ``trials``: from the first epoch's begin to the last trial's end; ``working``: the same of each
    worker, summed, so that one with nothing left to do does not count; ``training``: training and
    validation, summed over both.
    """
    from search.display import Progress

    begun: dict[int, float] = {}
    ended: dict[int, float] = {}
    training = 0.0
    advanced, end = Progress.advanced, Progress.ended

    def note_epoch(self: Any, worker: int, taken: Any, epoch: Any) -> None:
        nonlocal training
        training += epoch.seconds
        # A worker's first epoch comes after its imports.
        begun.setdefault(worker, time.monotonic() - epoch.seconds)
        advanced(self, worker, taken, epoch)

    def note_end(self: Any, worker: int, *arguments: Any) -> None:
        ended[worker] = time.monotonic()
        end(self, worker, *arguments)

    _train(study, url, note_epoch, note_end)
    found = {
        "trials": max(ended.values()) - min(begun.values()),
        "working": sum(ended[worker] - begun[worker] for worker in ended),
        "training": training,
    }
    print(json.dumps(found))


def processor(study: str, url: str) -> None:
    """Trains them with two workers and prints the processor's time, in seconds.

    ``all``: of the coordinator, the trainers and what they are forked from, from the moment when
    the first worker has told its first epoch, which is told at once, to the last trial's end;
    ``training``: of all epochs that were told after it. So the imports of a worker that begins
    later count as no training; what it had trained of an epoch by then counts as all of it.
    """
    from search import processes
    from search.display import Progress

    processes.SERVED.append("bench.race.processor_time")
    begun: dict[int, float] = {}
    used: dict[int, float] = {}  # One that is gone by the end counts as it was last seen.
    training = 0.0
    advanced, end = Progress.advanced, Progress.ended

    def note_epoch(self: Any, worker: int, taken: Any, epoch: Any) -> None:
        nonlocal training
        if begun:
            training += epoch.seconds
        else:
            begun.update(processor_times(os.getpid()))
        advanced(self, worker, taken, epoch)

    def note_end(self: Any, *arguments: Any) -> None:
        end(self, *arguments)
        used.update(processor_times(os.getpid()))

    _train(study, url, note_epoch, note_end)
    whole = sum(seconds - begun.get(number, 0.0) for number, seconds in used.items())
    print(json.dumps({"all": whole, "training": training}))


def _train(study: str, url: str, note_epoch: object, note_end: object) -> None:
    """Trains them with two workers, noting what `Progress` is told."""
    from search.cli import main
    from search.display import Progress

    with (
        mock.patch.object(Progress, "advanced", note_epoch),
        mock.patch.object(Progress, "ended", note_end),
        redirect_stdout(sys.stderr),
    ):
        code = main(["run", study, "--storage", url, "--workers", str(WORKERS)])
    if code:
        sys.exit(code)


def enqueue_plain(_: str, url: str, points: Sequence[Mapping[str, Any]]) -> None:
    """Creates plain Optuna's study with trials that wait to be trained."""
    import optuna

    study = optuna.create_study(study_name="listed", storage=url, pruner=optuna.pruners.NopPruner())
    for point in points:
        study.enqueue_trial(dict(point))


def plain(data: str, url: str) -> None:
    """Trains them by plain Optuna and prints the seconds of all trials."""
    import optuna

    from bench.race.exported import read
    from bench.race.plain import make_objective

    study = optuna.load_study(study_name="listed", storage=url, pruner=optuna.pruners.NopPruner())
    count = len(study.get_trials(deepcopy=False))
    objective = make_objective(read(Path(data)))
    begun = time.monotonic()
    study.optimize(objective, n_trials=count)
    print(json.dumps({"trials": time.monotonic() - begun}))


def main() -> None:
    """Reads the command line."""
    verb, where, url, *points = sys.argv[1:]
    if points:
        makers = {"enqueue": enqueue, "enqueue-plain": enqueue_plain}
        makers[verb](where, url, json.loads(points[0]))
    else:
        {"run": run, "processor": processor, "plain": plain}[verb](where, url)


if __name__ == "__main__":
    main()
