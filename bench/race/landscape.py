"""How far a random configuration is from the best: which data sets can decide anything.

Of random configurations of the default space, trained to the end by the expert's loop on one
thread: the quantiles of their best epochs' losses, in times the best of them, and the seconds.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import optuna
import torch

from bench.race.expert import epochs
from bench.race.exported import read
from bench.race.network import suggest
from bench.race.prepare import prepare
from bench.race.progress import quartiles


def measure(name: str, folder: Path, count: int, seed: int = 0) -> dict[str, Any]:
    """Trains ``count`` random configurations on a data set.

    Returns:
        ``best``: the least loss; ``low``, ``middle``, ``high``: quartiles of all losses, divided by
        it; ``seconds``: the median of a trial's.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(1)
    data = read(prepare(name, folder))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    losses, seconds = [], []
    for number in range(count):
        params = suggest(study.ask(), data.facts.batch_sizes)
        torch.manual_seed(number)
        begun = time.thread_time()
        losses.append(min(epochs(params, data), default=math.inf))
        seconds.append(time.thread_time() - begun)
    best = min(losses)
    low, middle, high = (value / best for value in quartiles(losses))
    return {
        "data": name,
        "best": best,
        "low": low,
        "middle": middle,
        "high": high,
        "seconds": quartiles(seconds)[1],
    }
