"""Hyperparameters of tiny networks, data of each task for them, and the verbs to train one.

Imports what a trainer imports and no more, so that a test can look at just that.
"""

from __future__ import annotations

import functools
import math
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from search.config import ClassifyData, ForecastData, LanguageData
from search.data.classification import load_classification
from search.data.forecasting import load_forecast
from search.data.language import load_language
from search.data.splits import Splits
from search.space import HyperParams
from search.training import Run
from search.trial import Decision, Epoch, Goal

CPU = torch.device("cpu")
LOSS = Goal()
TINY = HyperParams(
    learning_rate=0.01,
    batch_size=16,
    epochs=4,
    hidden_layers=1,
    hidden_units=6,
    cell="lstm",
    optimizer="adam",
    decay="none",
    dropout=0.0,
    weight_decay=0.0,
    gradient_clipping=0.0,
)


def hyper(**changes: Any) -> HyperParams:
    """Returns the hyperparameters of a tiny network, some of them changed."""
    return replace(TINY, **changes)


@functools.cache
def sine(rows: int = 80) -> Splits:
    """Returns the windows of 8 steps of a sum of two sines."""
    values = (math.sin(row / 5) + 0.3 * math.sin(row / 1.7) for row in range(rows))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sine.csv"
        path.write_text("y\n" + "".join(f"{value:.6f}\n" for value in values))
        return load_forecast(ForecastData(task="forecast", path=path, window=8))


@functools.cache
def series() -> Splits:
    """Returns 40 labelled series of 2 channels and 2 to 8 steps."""
    rng = np.random.default_rng(0)
    rows = ["series,label,a,b"]
    for number in range(40):
        label = "xy"[number % 2]
        for a, b in rng.normal(number % 2, 1, (2 + number % 7, 2)):
            rows.append(f"{number},{label},{a:.4f},{b:.4f}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "series.csv"
        path.write_text("\n".join(rows))
        data = {"task": "classify", "path": path, "series": "series", "label": "label"}
        return load_classification(ClassifyData.model_validate(data))


@functools.cache
def text() -> Splits:
    """Returns a text of 1200 characters, read in sequences of 8."""
    data = {"task": "language", "path": "x", "sequence_length": 8, "split": (0.6, 0.2, 0.2)}
    return load_language(LanguageData.model_validate(data), "the quick brown fox " * 60)


def start(splits: Splits, seed: int = 1, goal: Goal = LOSS, **changes: Any) -> Run:
    """Returns a run that has not trained yet."""
    return Run(hyper(**changes), splits, seed, goal, CPU)


def unjudged(_loss: float, _norm: float, _epoch: int) -> Decision | None:
    """Judges no batch."""
    return None


def train(run: Run, epochs: int) -> list[Epoch]:
    """Trains so many epochs, each of which must be one."""
    done = []
    for _ in range(epochs):
        result = run.advance(unjudged)
        assert isinstance(result, Epoch), result
        done.append(result)
    return done


def figures(epochs: list[Epoch]) -> list[tuple[float, dict[str, float], float]]:
    """Returns what must be reproduced of epochs: all but their duration."""
    return [(epoch.train_loss, epoch.figures, epoch.learning_rate) for epoch in epochs]


def same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Returns whether two sets of weights are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
