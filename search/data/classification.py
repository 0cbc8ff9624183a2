"""Labelled series: read, cut by class, standardised, padded.

Shapes: N series of a part, B minibatch, T time (Tmax: of the longest series of the part),
F channels, C classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from search.config import ClassifyData
from search.data.cards import ClassifyCard
from search.data.labelled import (
    Labelled,
    check_labels,
    cut,
    in_order,
    read_labelled,
    without_missing,
)
from search.data.series import SeriesPart
from search.data.splits import IGNORED, Splits, fingerprint
from search.errors import DataError

CHUNK_BYTES = 64 * 2**20
"""Size of one block of series in the 1-NN baseline; about four such blocks exist at once."""
TRAIN = "_TRAIN.ts"
OPERATIONS = 3e10
"""Multiplications and additions that the 1-NN baseline may take: about 3 s on one thread."""


@dataclass(frozen=True, eq=False)
class ClassifySplits(Splits):
    """Labelled series in three parts.

    Attributes:
        classes: The C labels, in order; a label's index is its place here.
        channels: The F channels' names.
        mean: (F,) float64, of the training part's real steps, in the data's own units.
        scale: (F,) float64, the standard deviation, 1 for a constant channel.
        source: What was read, for people.
        data: How it was read.
        time_format: Of its time stamps, see `search.data.timeline.Stamps`.
    """

    classes: tuple[str, ...]
    channels: tuple[str, ...]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    source: str
    data: ClassifyData
    time_format: str | None

    @property
    def per_step(self) -> bool:
        """False: the answer comes after the last real step."""
        return False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats of (B, C) logits and (B,) classes."""
        return functional.cross_entropy(outputs, targets, ignore_index=IGNORED)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropies in nats."""
        return functional.cross_entropy(
            outputs.flatten(0, -2), targets.flatten(), ignore_index=IGNORED, reduction="none"
        ).view(targets.shape)

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns (2 + C²,) float64: sum of losses, count, confusion matrix by truth and guess."""
        losses = functional.cross_entropy(
            outputs, targets, ignore_index=IGNORED, reduction="none"
        ).double()
        counted = targets != IGNORED
        cells = torch.where(counted, targets * self.output_size + outputs.argmax(1), 0)
        confusion = losses.new_zeros(self.output_size**2).index_add_(0, cells, counted.double())
        return torch.cat([torch.stack([losses.sum(), counted.sum().double()]), confusion])

    def figures(self, tally: Tensor) -> dict[str, float]:
        """Returns loss (nats), accuracy and macro_f1.

        macro_f1 is the mean F1 over the classes that occur in the truth or among the guesses, as
        scikit-learn's ``f1_score(average="macro")``.
        """
        total, count, *cells = tally.tolist()
        confusion = np.array(cells).reshape(self.output_size, self.output_size)
        return {"loss": total / count if count else math.nan, **_scores(confusion)}

    def baselines(self, part: str) -> dict[str, dict[str, float]]:
        """Figures of ``majority`` and ``one_nn``.

        ``majority`` always guesses the most frequent class of training, the first of several. Its
        loss is that of the classes' shares in training. ``one_nn`` guesses the
        class of the nearest training series, see `nearest_series`; it has no loss.
        """
        chosen = self._part({"valid": "validation", "test": "test"}[part])
        train, labels = self._part("training"), chosen.labels.cpu().numpy()
        trained = train.labels.cpu().numpy()
        majority = np.full(len(labels), np.bincount(trained).argmax())
        nearest = train.labels.cpu()[nearest_series(chosen, train)].numpy()
        return {
            "majority": {
                "loss": _loss_of_shares(trained, labels),
                **_scores(self._confusion(labels, majority)),
            },
            "one_nn": _scores(self._confusion(labels, nearest)),
        }

    def describe(self) -> list[str]:
        """Lines for `rnn-search check`."""
        head = f"{self.source}: {len(self.classes)} classes, {len(self.channels)} channels"
        lines = [head, f"classes: {', '.join(self.classes)}"]
        for name in ("training", "validation", "test"):
            part = self._part(name)
            low, high = int(part.lengths.min()), int(part.lengths.max())
            steps = f"{low} steps" if low == high else f"{low} to {high} steps"
            lines.append(f"{name}: {part.size} series of {steps}")
        return lines

    def card(self) -> dict[str, Any]:
        """Returns a `ClassifyCard` as plain data."""
        card = ClassifyCard(
            task="classify",
            classes=self.classes,
            channels=self.channels,
            mean=self.mean.tolist(),
            scale=self.scale.tolist(),
            series=self.data.series,
            label=self.data.label,
            time=self.data.time,
            missing=self.data.missing,
            time_format=self.time_format,
        )
        return card.model_dump(mode="json")

    def _part(self, name: str) -> SeriesPart:
        part = {"training": self.train, "validation": self.valid, "test": self.test}[name]
        assert isinstance(part, SeriesPart)
        return part

    def _confusion(self, truth: NDArray[np.int64], guess: NDArray[np.int64]) -> NDArray[np.float64]:
        size = self.output_size
        cells = np.bincount(truth * size + guess, minlength=size * size)
        return cells.reshape(size, size).astype(np.float64)


def load_classification(data: ClassifyData) -> ClassifySplits:
    """Reads labelled series and cuts them into training, validation and test parts.

    Raises:
        ConfigError: A key of ``[data]`` is missing or does not fit the kind of file.
        DataError: The files cannot be used; the message names file, series, channel and step.
    """
    if data.path is None:
        raise ValueError("load_classification needs data.path; resolve the example first")
    test_path, notes = _test_path(data.path, data.test_path)
    pool = read_labelled(data.path, data, None)
    given = None if test_path is None else read_labelled(test_path, data, pool)
    notes += check_labels(pool, given)
    pool = without_missing(pool, data.missing)
    notes += pool.notes
    if given is None:
        kept, taken = cut(pool, data.test, "test")
        pool, test = pool.take(kept), pool.take(taken)
    else:
        test = without_missing(given, data.missing)
        notes += test.notes
    kept, taken = cut(pool, data.valid, "validation")
    train, valid = pool.take(kept), pool.take(taken)
    notes += _lonely(train, valid) + _repeated(train, valid, test)
    return _splits(data, (train, valid, test), notes)


def _test_path(path: Path, given: Path | None) -> tuple[Path | None, list[str]]:
    """Returns the test file, if there is one, and a note if nobody asked for it."""
    sibling = path.with_name(path.name.removesuffix(TRAIN) + "_TEST.ts")
    if given is not None or not path.name.endswith(TRAIN) or not sibling.exists():
        return given, []
    return sibling, [f"{sibling.name}, beside {path.name}, is the test part"]


def _lonely(train: Labelled, valid: Labelled) -> list[str]:
    """Notes the classes that have a single training series, which validation therefore lacks."""
    known = set(valid.labels)
    return [
        f"class '{label}' has a single series for training and none for validation"
        for label in in_order(train.labels)
        if label not in known
    ]


def _repeated(train: Labelled, valid: Labelled, test: Labelled) -> list[str]:
    """Notes series that are in two parts, down to the last value."""
    in_train, in_valid, in_test = (
        [(one.shape, one.tobytes()) for one in part.values] for part in (train, valid, test)
    )
    trained, seen = set(in_train), {*in_train, *in_valid}
    pairs = (
        ("validation", "training", sum(one in trained for one in in_valid)),
        ("test", "training or validation", sum(one in seen for one in in_test)),
    )
    return [
        f"{count} series of the {part} part also {'is' if count == 1 else 'are'} in {other}"
        for part, other, count in pairs
        if count
    ]


def _splits(
    data: ClassifyData, parts: tuple[Labelled, Labelled, Labelled], notes: list[str]
) -> ClassifySplits:
    train = parts[0]
    classes = in_order(train.labels)
    mean, scale, constant = _statistics(train)
    notes += [f"channel {name} is constant in training and not scaled" for name in constant]
    padded = [padded_part(part, classes, mean, scale) for part in parts]
    compared = _compared(padded[2], padded[0])
    if compared < padded[0].size:
        notes.append(f"1-NN compares with {compared} of {padded[0].size} training series, for time")
    labels = [part.labels.numpy() for part in padded]
    tensors = [tensor for part in padded for tensor in (part.inputs, part.lengths, part.labels)]
    options = (data.valid, data.test, data.missing)
    return ClassifySplits(
        task="classify",
        train=padded[0],
        valid=padded[1],
        test=padded[2],
        input_size=len(train.channels),
        output_size=len(classes),
        fingerprint=fingerprint("classify", *tensors, classes, mean, scale, options),
        notes=tuple(notes),
        constant_loss=_loss_of_shares(labels[0], labels[0]),
        constant_valid_loss=_loss_of_shares(labels[0], labels[1]),
        classes=classes,
        channels=train.channels,
        mean=mean,
        scale=scale,
        source=str(train.path),
        data=data,
        time_format=train.form,
    )


def _loss_of_shares(trained: NDArray[np.int64], labels: NDArray[np.int64]) -> float:
    """Returns the loss on labels of the classes' shares in training, which has every class."""
    counts = np.bincount(trained)
    return float(-np.log(counts[labels] / counts.sum()).mean())


def _statistics(train: Labelled) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    """Returns (F,) means, (F,) standard deviations (1 if constant), and the constant channels."""
    steps = np.concatenate(train.values)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, scale = steps.mean(axis=0), steps.std(axis=0)
        constant = (np.ptp(steps, axis=0) == 0) | (scale == 0)
    mean[constant] = steps[0, constant]
    broken = ~np.isfinite(scale) & ~constant
    if broken.any():
        name = train.channels[int(np.argmax(broken))]
        raise DataError(f"{train.path}: channel {name} has values too large to scale; divide them")
    if constant.all():
        which = "the only channel is" if len(constant) == 1 else "all channels are"
        raise DataError(
            f"{train.path}: {which} constant in the training part, so that there is nothing to "
            "learn; give other channels or more series"
        )
    names = [
        name for name, is_constant in zip(train.channels, constant, strict=True) if is_constant
    ]
    return mean, np.where(constant, 1.0, scale), names


def padded_part(
    part: Labelled,
    classes: tuple[str, ...],
    mean: NDArray[np.float64],
    scale: NDArray[np.float64],
) -> SeriesPart:
    """Standardises series and pads them with zeros to the longest.

    Args:
        part: The series; a label that is none of the classes becomes `IGNORED`.
        classes: The C labels.
        mean: (F,) of the training part.
        scale: (F,) of the training part.

    Raises:
        DataError: A value is so far from training's that it has no float32.
    """
    lengths = [len(series) for series in part.values]
    inputs = np.zeros((len(lengths), max(lengths), len(mean)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for at, series in enumerate(part.values):
            inputs[at, : len(series)] = (series - mean) / scale
            if not np.isfinite(inputs[at]).all():
                raise DataError(
                    f"{part.path}, {part.places[at]}: a value is too far from those of training "
                    "to be standardised; correct it or remove the series"
                )
    index = {label: at for at, label in enumerate(classes)}
    labels = [index.get(label, IGNORED) for label in part.labels]
    return SeriesPart(torch.from_numpy(inputs), torch.tensor(lengths), torch.tensor(labels))


def _scores(confusion: NDArray[np.float64]) -> dict[str, float]:
    """Returns accuracy and macro F1 of a (C, C) confusion matrix, truth by guess."""
    hits, sizes = np.diag(confusion), confusion.sum(axis=0) + confusion.sum(axis=1)
    present = sizes > 0
    if not present.any():
        return {"accuracy": math.nan, "macro_f1": math.nan}
    f1 = 2 * hits[present] / sizes[present]
    return {"accuracy": float(hits.sum() / confusion.sum()), "macro_f1": float(f1.mean())}


def _compared(part: SeriesPart, train: SeriesPart) -> int:
    """Returns with how many training series 1-NN may compare each of ``part``."""
    steps = min(part.inputs.shape[1], train.inputs.shape[1])
    each = 2 * part.size * steps * part.inputs.shape[2]
    return max(1, min(train.size, int(OPERATIONS / each)))


def nearest_series(part: SeriesPart, train: SeriesPart) -> Tensor:
    """Returns (N,) int64: for each series of ``part`` the training series nearest to it.

    Nearest by Euclidean distance of the standardised series, both padded with zeros, which is the
    training mean: a step that only one of them has counts by how far it is from the mean. If
    there are too many (`OPERATIONS`), only some of the training series are compared, evenly chosen.
    """
    count = _compared(part, train)
    chosen = torch.arange(count) * train.size // count
    asked, known = part.inputs.cpu(), train.inputs.cpu()
    steps = min(asked.shape[1], known.shape[1])
    width = max(asked[0].numel(), known[0].numel())
    rows = min(2048, max(1, CHUNK_BYTES // (8 * width)))
    best = torch.full((part.size,), math.inf, dtype=torch.float64)
    nearest = torch.zeros(part.size, dtype=torch.int64)
    for first in range(0, count, rows):
        block = chosen[first : first + rows]
        series = known[block].double()
        norms, series = series.square().sum(dim=(1, 2)), series[:, :steps].flatten(1)
        for start in range(0, part.size, rows):
            end = start + rows
            # The asked series' own norms would be added to all alike.
            distances = norms - 2 * asked[start:end, :steps].flatten(1).double() @ series.T
            least, at = distances.min(dim=1)
            closer = least < best[start:end]
            nearest[start:end] = torch.where(closer, block[at], nearest[start:end])
            best[start:end] = torch.where(closer, least, best[start:end])
    return nearest
