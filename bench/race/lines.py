"""What a contestant writes: a JSON line for every trial that has ended, by the race's clock.

The clock starts when the runner starts the contestant's process, so imports count.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STARTED = "RACE_STARTED"
"""Environment variable: the time, in seconds since 1970, at which the process was started."""
FILE = "lines.jsonl"


@dataclass(frozen=True)
class Race:
    """What a contestant is asked to do.

    Attributes:
        data: The exported data; beside it lies the study file, with the ending ``.toml``.
        seconds: How long the race is, from the start of the process.
        seed: Decides everything.
        folder: An empty folder of its own.
    """

    data: Path
    seconds: float
    seed: int
    folder: Path

    @property
    def started(self) -> float:
        """When the process was started, in seconds since 1970."""
        return float(os.environ[STARTED])

    def left(self) -> float:
        """Returns the seconds until the end of the race."""
        return self.started + self.seconds - time.time()


class Lines:
    """Appends to the file of a race; several processes may write to it, a line at a time."""

    def __init__(self, race: Race) -> None:
        self._race = race
        self._path = race.folder / FILE
        self._best = math.inf

    def write(
        self,
        loss: float | None,
        params: Mapping[str, Any] | None = None,
        at: float | None = None,
        *,
        ended: bool = True,
    ) -> None:
        """Writes that a trial has ended, or that one in training has got better.

        Args:
            loss: What the contestant would call the trial's value; None: it was pruned or failed.
            params: Its hyperparameters; only kept if nothing before was better.
            at: When, in seconds since 1970; None: now.
            ended: False if the trial goes on.
        """
        seconds = (time.time() if at is None else at) - self._race.started
        line: dict[str, Any] = {"seconds": round(seconds, 3), "ended": ended}
        if loss is not None and loss < self._best:
            self._best = loss
            line |= {"loss": loss, "params": params}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def enter(
    search: Callable[[Race], None],
    retrain: Callable[[Race, Mapping[str, Any], int], float],
    arguments: Sequence[str] | None = None,
) -> None:
    """Is a contestant's command line: ``search`` runs a race, ``retrain`` checks its winner."""
    parser = argparse.ArgumentParser()
    parser.add_argument("verb", choices=("search", "retrain"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--params", type=json.loads)
    parser.add_argument("--times", type=int, default=3, help="seeds to retrain with")
    args = parser.parse_args(arguments)
    race = Race(args.data, args.seconds, args.seed, args.folder)
    if args.verb == "search":
        search(race)
        return
    seeds = range(10_000 + race.seed, 10_000 + race.seed + args.times)
    print(json.dumps([retrain(race, args.params, seed) for seed in seeds]))
