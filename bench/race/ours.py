"""Contestant: `rnn-search run` with two workers on a study file, as a user types it.

The times are those at which trials were told to the database, so what it takes to tell them counts.
"""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.race.lines import Lines, Race, enter

WORKERS = 2
MANY = 1_000_000
"""Trials: more than a race has time for."""


def url_of(folder: Path) -> str:
    """Returns the storage of a race."""
    return f"sqlite:///{folder / 'studies.db'}"


def command(race: Race) -> list[str]:
    """Returns what is run."""
    return [
        *(sys.executable, "-m", "search", "run", str(race.data.with_suffix(".toml"))),
        *("--storage", url_of(race.folder), "--workers", str(WORKERS), "--seed", str(race.seed)),
        *("--trials", str(MANY), "--timeout", f"{race.left():.3f}s"),
    ]


def search(race: Race) -> None:
    """Runs it and, when it has ended, reads what it came to."""
    # The runner ends the whole group; what is left to do here is to read.
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)
    subprocess.run(command(race), check=False)
    _read(race)


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the best epoch's loss; stopping rules are those of the study."""
    import torch

    from search.config import load_config
    from search.data import load_splits
    from search.space import HyperParams
    from search.stopping import batch_judge, out_of_patience
    from search.training import Run
    from search.trial import Decision, Goal

    torch.set_num_threads(1)
    config = load_config(race.data.with_suffix(".toml"))
    splits = load_splits(config.data)
    run = Run(HyperParams.of(params), splits, seed, Goal(), torch.device("cpu"))
    judge, patience = batch_judge(None, splits.constant_loss), config.stopping.patience
    while len(run.curve) < run.params.epochs:
        if isinstance(run.advance(judge), Decision):
            break
        if out_of_patience(run.curve.values(Goal()), Goal(), patience) is not None:
            break
    return min(run.curve.values(Goal()), default=math.inf)


def _read(race: Race) -> None:
    from search.database import Database
    from search.storage import list_studies, open_study

    database = Database(url_of(race.folder), create=False)
    (study,) = list_studies(database)
    lines, told = Lines(race), []
    for trial in open_study(database, study.study_name).trials():
        if trial.state.is_finished() and trial.datetime_complete is not None:
            loss = trial.value if trial.state.name == "COMPLETE" else None
            told.append((trial.datetime_complete.timestamp(), loss, trial.params))
    for at, loss, params in sorted(told, key=lambda one: one[0]):
        lines.write(loss, params, at)


if __name__ == "__main__":
    enter(search, retrain)
