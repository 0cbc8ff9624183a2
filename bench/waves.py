"""A made series cut to any size, and plain hyperparameters, for benches that vary sizes.

Shapes: B minibatch, T time, H hidden; N examples of a part.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from search.config import ForecastData
from search.data.forecasting import load_forecast
from search.data.splits import Part
from search.data.windows import ForecastPart, ForecastSplits
from search.space import HyperParams

PLAIN = HyperParams(
    learning_rate=0.01,
    batch_size=32,
    epochs=1_000_000,
    hidden_layers=1,
    hidden_units=32,
    cell="gru",
    optimizer="adam",
    decay="none",
    dropout=0.0,
    weight_decay=0.0,
    gradient_clipping=1.0,
)
"""What the benches change their letters of; it goes on for as long as it is asked to."""


@cache
def waves(
    train: int, valid: int, window: int, dtype: torch.dtype = torch.float32
) -> ForecastSplits:
    """Returns a forecast of two sines added up, one feature, one step ahead.

    Args:
        train: N of the training part.
        valid: N of the validation part.
        window: T.
        dtype: Of the numbers.
    """
    rows = math.ceil(max((train + window) / 0.7, valid / 0.15)) + 10
    with tempfile.TemporaryDirectory() as folder:
        path = write_waves(Path(folder), rows)
        splits = load_forecast(ForecastData(task="forecast", path=path, window=window))
    parts = _first(splits.train, train, dtype), _first(splits.valid, valid, dtype)
    return replace(splits, train=parts[0], valid=parts[1])


def write_waves(folder: Path, rows: int) -> Path:
    """Writes the series, so many rows of it, and returns the file."""
    values = (math.sin(row / 5) + 0.3 * math.sin(row / 1.7) for row in range(rows))
    path = folder / "waves.csv"
    path.write_text("y\n" + "".join(f"{value:.6f}\n" for value in values), encoding="utf-8")
    return path


def _first(part: Part, count: int, dtype: torch.dtype) -> ForecastPart:
    """Returns so many examples of a part."""
    if not isinstance(part, ForecastPart) or part.size < count:
        raise ValueError(f"a part of {part.size} windows, where {count} are wanted")
    targets = part.targets[:count].to(dtype)
    return replace(part, values=part.values.to(dtype), starts=part.starts[:count], targets=targets)
