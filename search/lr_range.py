"""The learning-rate range test: a short training whose rate rises until the loss blows up.

After Smith 2017 (Cyclical Learning Rates for Training Neural Networks, WACV, arXiv 1506.01186,
section 3.3): the loss starts to fall at the smallest rate that is of use, falls fastest somewhat
later, and blows up at the largest. What is measured here is the *gain*: how much less a batch
loses than it would have with the untrained network. Some batches are harder than others, by more
than a few steps of training change; in the difference this cancels out.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from search.data.splits import Batch, Splits
from search.dimensions import Dimension, Fixed
from search.gradients import gradients_of
from search.models import Network, build
from search.optimizers import Optimizer
from search.recurrent import State
from search.space import HyperParams, starting_points

LOWEST, HIGHEST = 1e-6, 10.0
"""The rates of the first and the last step."""
STEPS = 100
"""Steps at least: 14 for each decade of the rate. Small data sets take several epochs for them."""
MOST_STEPS = 500
"""Steps at most, however large the data: more only smooth what is smooth already."""
MEMORY = 0.9
"""How much of a step's moving average the next one keeps."""
ONSET = 0.1
"""The share of its largest fall by which the loss must have fallen for a rate to be of use."""
LEAST_FALL = 0.01
"""The share of its start by which the loss must fall, or there is nothing to read."""
BELOW_ONSET = 3.0
"""The suggested range starts so many times below the onset: training that lasts needs less rate
than a test of some hundred steps."""


@dataclass(frozen=True)
class Sweep:
    """One range test.

    Attributes:
        cell: Of the network.
        optimizer: That trained it.
        rates: Learning rate of each step.
        losses: Training loss of each step's batch, before the step.
        smoothed: The start's loss, plus the moving average of what the batches lost more than
            with the untrained network (less, if it learns).
        start: Mean loss of the untrained network over the batches.
        onset: Rate at which the loss has begun to fall; None if it never fell.
        steepest: Rate at which the loss fell fastest per decade; None if it never fell.
        lowest: Rate at which the loss was lowest; None if it never fell.
        divergence: Rate at which the loss is back where it started, after its lowest point, or
            was not finite; None if the highest rate did not bring it there.
    """

    cell: str
    optimizer: str
    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    start: float
    onset: float | None
    steepest: float | None
    lowest: float | None
    divergence: float | None


def sweeps(
    space: Mapping[str, Dimension],
    splits: Splits,
    cells: Sequence[str],
    optimizers: Sequence[str],
    seed: int,
    device: torch.device,
) -> Iterator[Sweep]:
    """Yields the test of each cell with each optimizer; all else is as in a study's first trial.

    Args:
        space: Of the study.
        splits: As in `sweep`.
        cells: Names of cells.
        optimizers: Names of optimizers.
        seed: As in `sweep`.
        device: As in `sweep`.
    """
    fixed = {name: known.value for name, known in space.items() if isinstance(known, Fixed)}
    first = {**starting_points(space)[0], **fixed}
    for cell in cells:
        for optimizer in optimizers:
            params: dict[str, Any] = {**first, "cell": cell, "optimizer": optimizer}
            yield sweep(HyperParams.of(params), splits, seed, device)


def sweep(params: HyperParams, splits: Splits, seed: int, device: torch.device) -> Sweep:
    """Trains with a rising rate until the loss is far above its start, or not finite.

    Args:
        params: Whose learning rate, epochs and decay do not matter here.
        splits: The data, on ``device``; only its training part is used.
        seed: Of the initial weights and the order of the batches.
        device: Where to train.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        model = build(params, splits).to(device)
        rates, losses, untrained = _train(model, params, splits, seed)
    return read((params.cell, params.optimizer), rates, losses, untrained)


def _train(
    model: Network, params: HyperParams, splits: Splits, seed: int
) -> tuple[list[float], list[float], list[float]]:
    """Returns each step's rate, its batch's loss, and that batch's loss before all training."""
    frozen, gradients = copy.deepcopy(model).eval(), gradients_of(model, splits)
    settings = params.optimizer, model.parameters(), LOWEST, params.weight_decay
    optimizer = Optimizer(*settings, together=gradients.complete)
    batches = _endless(splits, params.batch_size, torch.Generator().manual_seed(seed))
    rates = schedule(-(-splits.train.size // params.batch_size))
    losses: list[float] = []
    untrained: list[float] = []
    state: Any = None
    before: State | None = None
    for rate, batch in zip(rates, batches, strict=False):
        optimizer.rate = rate
        with torch.no_grad():
            outputs, before = frozen(batch.inputs, batch.lengths, before if batch.carries else None)
            reference = splits.loss(outputs, batch.targets).item()
        loss, state = gradients.find(batch, state if batch.carries else None)
        losses.append(loss)
        untrained.append(reference)
        if not math.isfinite(losses[-1]):
            break
        if params.gradient_clipping > 0:
            gradients.norm()
            gradients.clip(params.gradient_clipping)
        optimizer.step()
    return rates[: len(losses)], losses, untrained


def schedule(batches: int) -> list[float]:
    """Returns the rate of each step: one epoch or two, if that is enough steps and not too many.

    Args:
        batches: How many an epoch has.
    """
    steps = batches if batches >= STEPS else max(2 * batches, STEPS)
    steps = min(steps, MOST_STEPS)
    return [LOWEST * (HIGHEST / LOWEST) ** (step / (steps - 1)) for step in range(steps)]


def _endless(splits: Splits, batch_size: int, order: torch.Generator) -> Iterator[Batch]:
    while True:
        yield from splits.train.batches(batch_size, order)


def read(
    kind: tuple[str, str],
    rates: Sequence[float],
    losses: Sequence[float],
    untrained: Sequence[float],
) -> Sweep:
    """Finds onset, steepest point and divergence; pure.

    Args:
        kind: Cell and optimizer.
        rates: As in `Sweep`.
        losses: As in `Sweep`; the last may be not finite.
        untrained: What the untrained network lost on the same batches.
    """
    finite = [pair for pair in zip(losses, untrained, strict=True) if math.isfinite(pair[0])]
    start = sum(before for _, before in finite) / len(finite)
    excess = smooth([loss - before for loss, before in finite])
    bottom = excess.index(min(excess))
    onset = steepest = lowest = None
    if excess[bottom] < -LEAST_FALL * start:
        first = next(at for at, now in enumerate(excess) if now <= ONSET * excess[bottom])
        onset, lowest = rates[first], rates[bottom]
        slopes = [after - now for now, after in pairwise(excess[: bottom + 1])] or [0.0]
        steepest = rates[slopes.index(min(slopes))]
    else:
        bottom = 0
    end = _back_for_good(excess, bottom, LEAST_FALL * start)
    return Sweep(
        *kind,
        rates=tuple(rates),
        losses=tuple(losses),
        smoothed=tuple(start + now for now in excess),
        start=start,
        onset=onset,
        steepest=steepest,
        lowest=lowest,
        divergence=rates[end] if end < len(rates) else None,
    )


def _back_for_good(excess: list[float], bottom: int, tolerance: float) -> int:
    """Returns the first step from which on all lose more than at the start.

    An average that never fell hovers around the start, within the tolerance.
    """
    below = (at for at in range(len(excess) - 1, bottom, -1) if excess[at] <= tolerance)
    return next(below, bottom) + 1


def suggest_range(sweeps: Sequence[Sweep]) -> tuple[float, float] | None:
    """Returns the rates worth searching, low and high, or None if no test's loss fell.

    From somewhat below the smallest onset to the largest rate of a lowest loss; each rounded
    outwards to one digit. Between that rate and the divergence a network still trains in a test,
    but gets worse.
    """
    onsets = [one.onset for one in sweeps if one.onset is not None]
    lowest = [one.lowest for one in sweeps if one.lowest is not None]
    if not onsets:
        return None
    return _rounded(min(onsets) / BELOW_ONSET, math.floor), _rounded(max(lowest), math.ceil)


def _rounded(rate: float, towards: Callable[[float], int]) -> float:
    power = math.floor(math.log10(rate))
    return float(f"{towards(rate / 10**power)}e{power}")


def smooth(values: Sequence[float]) -> list[float]:
    """Returns the exponential moving average without the bias of its start.

    Kingma and Ba 2015, Adam, section 3.
    """
    average, smoothed = 0.0, []
    for step, value in enumerate(values, start=1):
        average = MEMORY * average + (1 - MEMORY) * value
        smoothed.append(average / (1 - MEMORY**step))
    return smoothed
