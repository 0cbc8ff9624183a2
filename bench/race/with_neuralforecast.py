"""Contestant: NeuralForecast's AutoLSTM with its Optuna backend, over its own default space.

Only the input size is fixed, to the window that the others see, and the loss is that of the race.
It trains on the series in their own units, as its documentation does; a value of its validation
loss times `_factor` is the race's figure: errors of each step of the horizon are weighted as ours.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from neuralforecast import NeuralForecast
from neuralforecast.auto import AutoLSTM
from neuralforecast.losses.pytorch import MSE
from neuralforecast.models import LSTM

from bench.race.exported import Exported, read
from bench.race.lines import Lines, Race, enter

FOREVER = 100_000
"""Trials: more than a race has time for."""
QUIET = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
    "enable_checkpointing": False,
}


def search(race: Race) -> None:
    """Searches until the race is over; the refit after that is not waited for."""
    _be_quiet()
    data, lines = read(race.data), Lines(race)
    ours = AutoLSTM.get_default_config(h=_horizon(data), backend="optuna")

    def config(trial: optuna.Trial) -> dict[str, Any]:
        return {**ours(trial), "input_size": data.facts.window, **QUIET}

    def write(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        loss = None if trial.value is None else trial.value * _factor(data)
        lines.write(loss, trial.params)

    model = AutoLSTM(
        h=_horizon(data),
        loss=_mse(data),
        config=config,
        search_alg=optuna.samplers.TPESampler(seed=race.seed),
        num_samples=FOREVER,
        time_budget=race.left(),
        backend="optuna",
        callbacks=[write],
    )
    forecast = NeuralForecast(models=[model], freq=1)
    forecast.fit(_frame(data), val_size=data.facts.valid_rows)


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the validation loss after the last step, which is a trial's value."""
    _be_quiet()
    data = read(race.data)
    chosen = {**params, "input_size": data.facts.window, "random_seed": seed, **QUIET}
    model = LSTM(h=_horizon(data), loss=_mse(data), valid_loss=_mse(data), **chosen)
    forecast = NeuralForecast(models=[model], freq=1)
    forecast.fit(_frame(data), val_size=data.facts.valid_rows)
    metrics = forecast.models[0].metrics
    return float(metrics["ptl/val_loss"]) * _factor(data)


def _horizon(data: Exported) -> int:
    return len(data.facts.scales)


def _mse(data: Exported) -> MSE:
    return MSE(horizon_weight=torch.tensor(data.facts.scales).double() ** -2)


def _factor(data: Exported) -> float:
    """NeuralForecast divides by the sum of the weights, the race by the number of steps."""
    return math.fsum(scale**-2 for scale in data.facts.scales) / _horizon(data)


def _frame(data: Exported) -> pd.DataFrame:
    assert data.series is not None
    values = data.series.numpy()
    return pd.DataFrame({"unique_id": "race", "ds": np.arange(len(values)), "y": values})


def _be_quiet() -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


if __name__ == "__main__":
    enter(search, retrain)
