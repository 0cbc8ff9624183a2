"""What an epoch costs: processor time of our loop, the expert's and the documentation's, in turns.

One thread, the first starting point but for the cell; validation and optimizer included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from bench.race import expert, plain
from bench.race.exported import Exported, read
from bench.race.network import CELLS, STARTS
from bench.race.prepare import prepare
from search.config import load_config
from search.data import load_splits
from search.data.splits import Splits
from search.layer_choices import OURS
from search.space import HyperParams
from search.stopping import batch_judge
from search.training import Run
from search.trial import Goal

EPOCHS = 4


def show_loops(folder: Path, sets: Sequence[str], rounds: int) -> None:
    """Prints a table: ms an epoch of ours, and the others' in times ours, medians of turns."""
    torch.set_num_threads(1)
    print("| | cell | ours, ms | expert / ours | optuna / ours |\n|---|---|--:|--:|--:|")
    for name in sets:
        path = prepare(name, folder)
        data, splits = read(path), load_splits(load_config(path.with_suffix(".toml")).data)
        for cell in CELLS:
            params = {**STARTS[0], "cell": cell, "epochs": EPOCHS}
            loops = [
                partial(_ours, params, splits),
                partial(_all, expert.epochs, params, data),
                partial(_all, plain.epochs, params, data),
            ]
            mine, *others = _medians(loops, rounds)
            ratios = " | ".join(f"{other / mine:.2f}" for other in others)
            print(f"| {name} | {cell} | {1e3 * mine / EPOCHS:.1f} | {ratios} |", flush=True)


def _medians(loops: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    seconds: list[list[float]] = [[] for _ in loops]
    for loop in loops:  # What is done but once, such as torch's late imports, is not counted.
        loop()
    for _ in range(rounds):
        for loop, taken in zip(loops, seconds, strict=True):
            begun = time.process_time()
            loop()
            taken.append(time.process_time() - begun)
    return [statistics.median(taken) for taken in seconds]


def _all(epochs: Callable[[Any, Any], Iterable[float]], params: Any, data: Exported) -> None:
    list(epochs(params, data))


def _ours(params: dict[str, Any], splits: Splits) -> None:
    run = Run(HyperParams.of(params), splits, 0, Goal(), torch.device("cpu"), layers=OURS)
    judge = batch_judge(None, splits.constant_loss)
    for _ in range(params["epochs"]):
        run.advance(judge)
