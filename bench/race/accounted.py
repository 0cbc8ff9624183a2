"""Runs a list of configurations and prints, as its last line, what the time went on; as a process.

    python -m bench.race.accounted enqueue STUDY.toml URL POINTS
    python -m bench.race.accounted run STUDY.toml URL
    python -m bench.race.accounted plain DATA URL POINTS

Ours is `rnn-search run` itself, of which two methods note in passing what they are told.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock


def enqueue(study: str, url: str, points: Sequence[Mapping[str, Any]]) -> None:
    """Creates the study with trials that wait to be trained."""
    from search.database import Database
    from search.running import Request, _open_or_create, make_plan

    request = Request(study, url)
    stored = _open_or_create(Database(url, create=True), request, make_plan(request))
    for point in points:
        stored.study.enqueue_trial(dict(point))


def run(study: str, url: str) -> None:
    """Trains them with two workers and prints the seconds of all trials and of their training."""
    from search.cli import main
    from search.display import Progress
    from search.storage import StoredStudy

    noted = {"training": 0.0, "first": 0.0, "last": 0.0}
    started, advanced, finish = Progress.started, Progress.advanced, StoredStudy.finish

    def note_start(self: Any, *arguments: Any) -> None:
        noted["first"] = noted["first"] or time.monotonic()
        started(self, *arguments)

    def note_epoch(self: Any, worker: int, taken: Any, epoch: Any) -> None:
        noted["training"] += epoch.seconds
        advanced(self, worker, taken, epoch)

    def note_end(self: Any, *arguments: Any) -> bool:
        told = finish(self, *arguments)
        noted["last"] = time.monotonic()
        return told

    with (
        mock.patch.object(Progress, "started", note_start),
        mock.patch.object(Progress, "advanced", note_epoch),
        mock.patch.object(StoredStudy, "finish", note_end),
        redirect_stdout(sys.stderr),
    ):
        code = main(["run", study, "--storage", url, "--workers", "2"])
    if code:
        sys.exit(code)
    print(json.dumps({**noted, "trials": noted["last"] - noted["first"]}))


def plain(data: str, url: str, points: Sequence[Mapping[str, Any]]) -> None:
    """Trains them by plain Optuna and prints the seconds of all trials."""
    import optuna

    from bench.race.exported import read
    from bench.race.plain import make_objective

    study = optuna.create_study(storage=url, pruner=optuna.pruners.NopPruner())
    for point in points:
        study.enqueue_trial(dict(point))
    objective = make_objective(read(Path(data)))
    begun = time.monotonic()
    study.optimize(objective, n_trials=len(points))
    print(json.dumps({"trials": time.monotonic() - begun}))


def main() -> None:
    """Reads the command line."""
    verb, where, url, *points = sys.argv[1:]
    listed = json.loads(points[0]) if points else []
    if verb == "run":
        run(where, url)
    else:
        {"enqueue": enqueue, "plain": plain}[verb](where, url, listed)


if __name__ == "__main__":
    main()
