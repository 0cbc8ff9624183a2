"""Contestant: Ray Tune with `OptunaSearch` and ASHA, two trials at once of one thread each.

As Ray's own PyTorch example: the loop of `plain` reports after every epoch, ASHA stops what is
behind. Every reported value counts at once, as ``get_best_result(scope="all")`` would have it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from bench.race.exported import read
from bench.race.lines import Lines, Race, enter
from bench.race.loopback import bring_up
from bench.race.network import MOST_EPOCHS, suggest
from bench.race.plain import epochs

OBJECT_STORE = 100_000_000
"""Bytes; the data of a race is far smaller."""


class _Write(tune.Callback):  # type: ignore[misc]
    """Writes a line for every value that is better, and for every trial that ends."""

    def __init__(self, race: Race) -> None:
        self._lines = Lines(race)
        self._best = float("inf")

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any
    ) -> None:
        """Is called by Ray for every report."""
        if result["loss"] < self._best:
            self._best = result["loss"]
            self._lines.write(result["loss"], trial.config, ended=False)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Is called by Ray for every trial that ends, stopped or not."""
        self._lines.write(None)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
        """Is called by Ray for every trial that fails."""
        self._lines.write(None)


def train(config: dict[str, Any], data: Path) -> None:
    """Is Ray's trainable."""
    torch.set_num_threads(1)
    for loss in epochs(config, read(data)):
        tune.report({"loss": loss})


def search(race: Race) -> None:
    """Searches until the race is over."""
    bring_up()
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    facts = read(race.data).facts
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as place:  # Sockets: a short path.
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=OBJECT_STORE,
            _node_ip_address="127.0.0.1",
            _temp_dir=place,
        )
        tuner = tune.Tuner(
            tune.with_resources(partial(train, data=race.data), {"cpu": 1}),
            tune_config=tune.TuneConfig(
                metric="loss",
                mode="min",
                search_alg=OptunaSearch(
                    partial(_ask, batch_sizes=facts.batch_sizes),
                    metric="loss",
                    mode="min",
                    seed=race.seed,
                ),
                scheduler=ASHAScheduler(max_t=MOST_EPOCHS, grace_period=1),
                num_samples=-1,
                max_concurrent_trials=2,
                time_budget_s=max(1.0, race.left()),
            ),
            run_config=tune.RunConfig(
                storage_path=str(race.folder / "ray"), callbacks=[_Write(race)], verbose=0
            ),
        )
        tuner.fit()
        ray.shutdown()


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the best epoch's loss, as a checkpoint of every epoch would keep it."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return min(epochs(params, read(race.data)))


def _ask(trial: Any, batch_sizes: tuple[int, ...]) -> None:
    suggest(trial, batch_sizes)


if __name__ == "__main__":
    enter(search, retrain)
