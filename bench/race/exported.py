"""The data of a race as plain tensors, cut and standardised by us, for contestants to train on.

Shapes: N examples, T time, F features, H horizon, R rows of a series.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from search.config import StudyConfig
from search.data.language import TextPart
from search.data.series import SeriesPart
from search.data.splits import IGNORED, Part, Splits
from search.data.windows import ForecastPart, ForecastSplits
from search.dimensions import Choices, Fixed
from search.training import EVALUATION_STREAMS


@dataclass(frozen=True)
class Examples:
    """One part.

    Attributes:
        inputs: (N, T, F) float32; text: (N, T) int64 indices of characters.
        targets: forecast (N, O) float32; classify (N,) int64; text (N, T) int64, `IGNORED` where
            nothing is to be predicted.
        lengths: (N,) int64 real steps of each; None: all T.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Tensor | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of a data set beside its tensors.

    Attributes:
        task: ``forecast``, ``classify`` or ``language``.
        input_size: F, or how many indices of characters there are.
        output_size: Of the network.
        batch_sizes: What is searched.
        streams: Text: the validation part is in batches of so many sequences, each of which goes
            on where the one of the batch before ended, and the training part is in the order of
            the text; 0: examples have nothing to do with each other.
        window: Forecast: T.
        valid_rows: Forecast: how many rows at the end of `Exported.series` are to be forecast.
        scales: Forecast: what an error of each step of the horizon is divided by, in the series'
            units.
    """

    task: str
    input_size: int
    output_size: int
    batch_sizes: tuple[int, ...]
    streams: int = 0
    window: int = 0
    valid_rows: int = 0
    scales: tuple[float, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A data set.

    Attributes:
        facts: See there.
        train: Trained on.
        valid: Its loss is what a race is about.
        series: (R,) float64; forecast: training and validation rows in the data's units.
    """

    facts: Facts
    train: Examples
    valid: Examples
    series: Tensor | None = None


def export(config: StudyConfig, splits: Splits, path: Path) -> None:
    """Writes a study's training and validation part as a safetensors file."""
    text = isinstance(splits.train, TextPart)
    train, valid = _examples(splits.train, 1), _examples(splits.valid, EVALUATION_STREAMS)
    tensors = {"train_inputs": train.inputs, "train_targets": train.targets}
    tensors |= {"valid_inputs": valid.inputs, "valid_targets": valid.targets}
    if train.lengths is not None and valid.lengths is not None:
        tensors |= {"train_lengths": train.lengths, "valid_lengths": valid.lengths}
    window, valid_rows, scales = 0, 0, ()
    if isinstance(splits, ForecastSplits) and len(splits.targets) == 1:
        window, scales = splits.window, tuple(splits.scale.tolist())
        tensors["series"], valid_rows = _series(splits)
    batch_size = config.space["batch_size"]
    assert isinstance(batch_size, (Choices, Fixed))
    values = batch_size.values if isinstance(batch_size, Choices) else (batch_size.value,)
    facts = Facts(
        splits.task,
        splits.input_size,
        splits.output_size,
        tuple(int(value) for value in values),
        EVALUATION_STREAMS if text else 0,
        window,
        valid_rows,
        scales,
    )
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, {"facts": json.dumps(asdict(facts))})


def read(path: Path) -> Exported:
    """Reads what `export` wrote."""
    with safe_open(path, "pt") as file:
        written = json.loads(file.metadata()["facts"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in ("batch_sizes", "scales"):
        written[name] = tuple(written[name])
    parts = [
        Examples(
            tensors[f"{part}_inputs"], tensors[f"{part}_targets"], tensors.get(f"{part}_lengths")
        )
        for part in ("train", "valid")
    ]
    return Exported(Facts(**written), parts[0], parts[1], tensors.get("series"))


def _examples(part: Part, streams: int) -> Examples:
    if isinstance(part, ForecastPart):
        return Examples(part.inputs(part.starts), part.targets)
    if isinstance(part, SeriesPart):
        return Examples(part.inputs, part.labels, part.lengths)
    assert isinstance(part, TextPart)
    return _sequences(part, streams)


def _sequences(part: TextPart, streams: int) -> Examples:
    """Returns the part's chunks, batch after batch of parallel streams; the last are padded."""
    inputs, targets = [], []
    for batch in part.batches(streams, None):
        missing = part.sequence_length - batch.inputs.shape[1]
        inputs.append(torch.nn.functional.pad(batch.inputs, (0, missing)))
        targets.append(torch.nn.functional.pad(batch.targets, (0, missing), value=IGNORED))
    return Examples(torch.cat(inputs), torch.cat(targets))


def _series(splits: ForecastSplits) -> tuple[Tensor, int]:
    """Returns the rows up to the last that validation forecasts, and how many it forecasts."""
    assert isinstance(splits.valid, ForecastPart)
    starts = splits.valid.starts + splits.window
    first, end = int(starts.min()), int(starts.max()) + splits.horizon
    return splits.observed[:end, 0].double(), end - first
