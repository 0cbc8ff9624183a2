"""What the matrix products of a trial take alone, one after another by `torch.mm` on one thread.

They are those of networks that are trained one at a time: of all steps' inputs at once, of each
step's state, and of the gradients likewise, into memory that is there already. Left out is all
else: gates, losses, optimizer, order of the examples.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.race.expert import VALID_BATCH
from bench.race.exported import Examples, Exported

GATES = {"rnn": 1, "lstm": 4, "gru": 3}
TURNS = 5


def seconds(points: Sequence[Mapping[str, Any]], data: Exported) -> float:
    """Returns the processor time of one thread that the products of a list of trials take."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return sum(_of_trial(params, data) for params in points)
    finally:
        torch.set_num_threads(threads)


def _of_trial(params: Mapping[str, Any], data: Exported) -> float:
    """Returns the same of one trial: minibatches and validation, times its epochs."""
    epoch = _of_part(params, data, data.train, params["batch_size"], backward=True)
    epoch += _of_part(params, data, data.valid, data.facts.streams or VALID_BATCH, backward=False)
    return float(params["epochs"] * epoch)


def _of_part(
    params: Mapping[str, Any], data: Exported, part: Examples, size: int, *, backward: bool
) -> float:
    """Returns what the batches of a part take; one that is smaller than the others, its share."""
    size = min(size, len(part.targets))
    # A batch is as long as its longest series; this is less.
    steps = part.inputs.shape[1]
    if part.lengths is not None:
        steps = math.ceil(part.lengths.float().mean().item())
    # A text goes on where it was; all else begins with zeros, which are not multiplied.
    text = data.facts.streams > 0
    features = params["hidden_units"] if text else data.facts.input_size
    sizes = size, steps, steps if text else steps - 1
    run = _products(params, features, data.facts.output_size, sizes, backward=backward)
    run()
    times = []
    for _ in range(TURNS):
        begun = time.process_time()
        run()
        times.append(time.process_time() - begun)
    return statistics.median(times) * len(part.targets) / size


def _products(
    params: Mapping[str, Any],
    features: int,
    outputs: int,
    sizes: tuple[int, int, int],
    *,
    backward: bool,
) -> Callable[[], None]:
    """Returns what makes all products of one batch.

    Args:
        params: The network's.
        features: Shown to it at each step.
        outputs: At the last.
        sizes: Rows, steps, and those of the steps that begin with a state.
        backward: Whether gradients are wanted.
    """
    rows, steps, turns = sizes
    units, wide = params["hidden_units"], params["hidden_units"] * GATES[params["cell"]]
    factors: list[tuple[Tensor, Tensor]] = []
    for layer in range(params["hidden_layers"]):
        shown = units if layer else features
        inputs, weights = _random(steps * rows, shown), _random(shown, wide)
        turned, states = _random(units, wide), _random(turns, rows, units)
        gates = _random(steps, rows, wide)
        factors += [(inputs, weights), *((states[step], turned) for step in range(turns))]
        if backward:
            flat = gates.view(-1, wide)
            factors += [(gates[step], turned.T) for step in range(turns)]
            factors += [(flat.T, inputs)]
            factors += [(gates[:turns].view(-1, wide).T, states.view(-1, units))]
            factors += [(flat, weights.T)] if layer else []
    factors.append((_random(rows, units), _random(units, outputs)))
    made = [(left, right, torch.empty(left.shape[0], right.shape[1])) for left, right in factors]

    def run() -> None:
        for left, right, into in made:
            torch.mm(left, right, out=into)

    return run


def _random(*shape: int) -> Tensor:
    return torch.rand(*shape) - 0.5
