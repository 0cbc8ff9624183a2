"""How many trials a second a search trains on a GPU, and on all cores of the same machine.

    python -m bench.devices                          on a machine with an NVIDIA GPU
    python -m bench.devices --sets waves --turns 2
    python -m bench.devices --devices cpu            a part of it, anywhere

`rnn-search run` itself, coordinator and database included, on the same random configurations of the
default space, each trained to its end; only their epochs are cut short, alike for all. Devices take
turns; ``all`` is both at once. Trials a second are counted between the ends of the first tenth of
the trials and of nine tenths of them, so that neither imports count nor the last ones, which have
the machine for themselves; beside it stands the whole process, from its start to its end.

Sets: ``waves`` is a made series, 2 000 windows of 50 steps; the others are those of
`bench.data_sets`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import tomli_w

from bench.data_sets import DATA_SETS, write
from bench.race.accounted import enqueue
from bench.waves import write_waves
from search.config import make_config
from search.data import load_splits
from search.machine import choose_workers
from search.space import fit_to_data, suggest

SETS = ("waves", "vowels", "sunspots")
RUN = (sys.executable, "-m", "search", "run")
STOPPING = {"pruner": "none", "patience": 0, "divergence": False}
FIRST, LAST = 0.1, 0.9
"""Parts of the trials between whose ends the clock counts."""


@dataclass(frozen=True)
class Rate:
    """What a list of trials took.

    Attributes:
        steady: Trials a second, neither the first ones nor the last.
        whole: Seconds of the process.
    """

    steady: float
    whole: float


def write_study(name: str, folder: Path, count: int, epochs: int) -> Path:
    """Writes a study and its data; returns the study file."""
    if name == "waves":
        path = write_waves(folder, 2_900)
        data: dict[str, Any] = {"task": "forecast", "path": str(path), "window": 50}
    else:
        data = write(name, folder)
    study = {
        "name": name,
        "data": data,
        "space": {"epochs": epochs},
        "stopping": STOPPING,
        "budget": {"trials": count},
    }
    file = folder / f"{name}.toml"
    file.write_text(tomli_w.dumps(study), encoding="utf-8")
    return file


def configurations(study: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """Returns random configurations of a study's space."""
    config = make_config(study, "bench.devices")
    space = fit_to_data(config, load_splits(config.data).train.size)[0].space
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(20))
    found = []
    for _ in range(count):
        trial = drawn.ask()
        suggest(trial, space)
        found.append(trial.params)
    return found


def run(file: Path, points: Sequence[Mapping[str, Any]], device: str) -> Rate:
    """Trains the list on a device, with as many workers as a run has by itself."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/studies.db"
        enqueue(str(file), url, points)
        begun = time.monotonic()
        subprocess.run(
            [*RUN, str(file), "--storage", url, "--device", device],
            stdout=subprocess.DEVNULL,
            check=True,
        )
        whole = time.monotonic() - begun
        trials = optuna.load_study(study_name=file.stem, storage=url).trials
    ends = sorted(one.datetime_complete for one in trials if one.datetime_complete)
    if len(ends) < len(points):
        raise SystemExit(f"{file.stem} on {device}: {len(ends)} of {len(points)} trials ended")
    first, last = int(FIRST * len(ends)), int(LAST * len(ends))
    return Rate((last - first) / (ends[last] - ends[first]).total_seconds(), whole)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=["waves", *DATA_SETS], default=list(SETS))
    parser.add_argument("--devices", nargs="+", default=["cuda", "cpu", "all"])
    parser.add_argument("--count", type=int, default=96, help="trials")
    parser.add_argument("--epochs", type=int, default=5, help="of each trial")
    parser.add_argument("--turns", type=int, default=2)
    chosen = parser.parse_args()
    print(f"{choose_workers(None)} workers, {os.cpu_count()} cores, {chosen.epochs} epochs a trial")
    print("| | device | trials a second | whole, s |\n|---|---|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.sets:
            file = write_study(name, Path(folder), chosen.count, chosen.epochs)
            points = configurations(tomllib.loads(file.read_text(encoding="utf-8")), chosen.count)
            rates: dict[str, list[Rate]] = {device: [] for device in chosen.devices}
            for _ in range(chosen.turns):
                for device, found in rates.items():
                    found.append(run(file, points, device))
            for device, found in rates.items():
                steady = statistics.median(one.steady for one in found)
                whole = statistics.median(one.whole for one in found)
                print(f"| {name} | {device} | {steady:.2f} | {whole:.1f} |", flush=True)


if __name__ == "__main__":
    main()
