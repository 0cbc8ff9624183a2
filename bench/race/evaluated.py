"""What `rnn-search evaluate` is worth after a race: its choice, and the best trial, trained again.

A race's best loss is that of the luckiest seed among a thousand trials. `evaluate` trains the best
few on several seeds and chooses by their mean, in time of its own. Both choices are then trained
again with the same further seeds, as winners of races are.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.race.contestants import CONTESTANTS
from bench.race.lines import FILE
from bench.race.ours import WORKERS, url_of
from bench.race.prepare import prepare
from bench.race.progress import improvements, quartiles, read_lines
from bench.race.runner import Place, environment, on_two_cores, retrain, wait

TIMES = 5
"""Further seeds that each choice is trained with."""


def show_evaluated(folder: Path, sets: Sequence[str], seeds: int, seconds: float) -> None:
    """Prints a line for each data set and seed.

    Args:
        folder: For the data.
        sets: Names of data sets.
        seeds: How many searches of each.
        seconds: Of a search.
    """
    head = "claimed | the best trial again | what evaluate chose again | evaluate, s"
    print(f"| | seed | {head} |\n|---|--:|--:|--:|--:|--:|")
    for name in sets:
        for seed in range(seeds):
            with tempfile.TemporaryDirectory(prefix="race-") as made:
                place = Place(CONTESTANTS["ours"], prepare(name, folder).absolute(), Path(made))
                best = _search(place, seconds, seed)
                begun = time.monotonic()
                chosen = _evaluate(place, name)
                took = time.monotonic() - begun
                again = [
                    quartiles(retrain(place, params, 1_000 + seed, TIMES))[1]
                    for params in (best["params"], chosen)
                ]
            cells = " | ".join(f"{loss:.4g}" for loss in (best["loss"], *again))
            print(f"| {name} | {seed} | {cells} | {took:.0f} |", flush=True)


def _search(place: Place, seconds: float, seed: int) -> dict[str, Any]:
    """Searches for so long and returns loss and params of the best trial."""
    wait(place.start("search", {"seconds": seconds, "seed": seed}), seconds)
    return improvements(read_lines(place.folder / FILE, seconds))[-1]


def _evaluate(place: Place, name: str) -> dict[str, Any]:
    """Returns the hyperparameters that `evaluate` chooses, as it comes."""
    options = [name, "--storage", url_of(place.folder), "--workers", str(WORKERS), "--json"]
    done = subprocess.run(
        on_two_cores([sys.executable, "-m", "search", "evaluate", *options]),
        cwd=place.folder,
        env=environment(1, {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    chosen: dict[str, Any] = json.loads(done.stdout)["params"]
    return chosen
