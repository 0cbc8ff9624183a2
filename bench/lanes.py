"""What K networks at once bring over torch.nn one after another: ratios, on one thread.

    python -m bench.lanes            both tables for RESULTS.md
    python -m bench.lanes --epochs   whole epochs only

Layers: forward and backward pass of one layer. Epochs: a study's first trial with seeds, rates and
optimizers of all kinds, through `Lanes` and, one after another, through `Run` with torch's layers
and with ours; order of batches, loss, optimizer and validation included. All ways take turns, and
the medians of the processor's time that a network costs are compared.

Shapes: K networks, B minibatch, T time, F inputs, H hidden.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from bench.recurrent import OURS, TORCHS, a_run, medians
from search import models
from search.data import load_splits
from search.lane_shapes import shape_of
from search.lanes import Lanes
from search.optimizers import MEMORIES
from search.recurrent import run_layer
from search.running import Request, make_plan
from search.space import HyperParams, starting_points
from search.training import Run

NETWORKS = (1, 4, 16)
SHAPES = ((32, 24, 12, 16), (32, 24, 12, 32), (32, 48, 12, 64))
"""B, T, F, H."""
EPOCHS = (("sunspots", (16, 32, 64), 5), ("vowels", (16, 32, 64), 5), ("shakespeare", (16,), 2))
"""Study, H, turns."""
LAYER_TURNS = 20
Way = Callable[[], object]


def one_layer(cell: str, shape: tuple[int, int, int, int]) -> Way:
    """Returns torch's forward and backward pass of one network."""
    batch, steps, inputs, hidden = shape
    layer = models.CELLS[cell](inputs, hidden, batch_first=True)
    data = torch.randn(batch, steps, inputs)
    return lambda: torch.autograd.grad(
        layer(data)[0][:, -1].square().sum(), list(layer.parameters())
    )


def layers(cell: str, shape: tuple[int, int, int, int], networks: int) -> Way:
    """Returns ours of K networks."""
    batch, steps, inputs, hidden = shape
    like = models.CELLS[cell](inputs, hidden).parameters()
    weights = [torch.randn(networks, *one.shape).mul_(0.1).requires_grad_() for one in like]
    data = torch.randn(steps, networks, batch, inputs)
    start = [torch.zeros(networks, batch, hidden)] * (2 if cell == "lstm" else 1)
    return lambda: torch.autograd.grad(
        run_layer(cell, data, start, weights)[0][-1].square().sum(), weights
    )


def runs(study: str, cell: str, units: int, networks: int, *, ours: bool = True) -> list[Run]:
    """Returns runs of a study's first trial that differ in all but their shape.

    Alone, their gradients are found by hand if they are ours, else by autograd.
    """
    config = make_plan(Request(study, "sqlite:///none.db")).config
    splits = load_splits(config.data)
    changes = {"cell": cell, "hidden_units": units}
    params = HyperParams.of(starting_points(config.space)[0] | changes)
    kinds = list(MEMORIES)
    changed = [
        replace(params, optimizer=kinds[at % 4], learning_rate=0.01 / (1 + at))
        for at in range(networks)
    ]
    return [a_run(one, splits, at, ours=ours) for at, one in enumerate(changed)]


def epoch_alone(run: Run, layers: Mapping[str, Any]) -> Way:
    """Returns an epoch of one run with these layers."""

    def train() -> None:
        with mock.patch.multiple(models, **layers):
            run.advance(lambda *_: None)

    return train


def epoch_together(members: list[Run]) -> Way:
    """Returns an epoch of all."""
    lanes = Lanes(shape_of(members[0].params), members[0].splits)
    for run in members:
        lanes.join(run, lambda *_: None)

    def train() -> None:
        while not lanes.advance():
            pass

    return train


def gains(ways: list[Way], networks: tuple[int, ...], turns: int) -> str:
    """Returns by what each way, of so many networks, is quicker than the first, of one."""
    first, *seconds = medians(ways, turns)
    both = zip(networks, seconds, strict=True)
    return " | ".join(f"{count * first / taken:.2f}" for count, taken in both)


def main() -> None:
    """Prints the tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    heads = " | ".join(f"K {count}" for count in NETWORKS)
    if "--epochs" not in sys.argv:
        print(f"| B, T, F, H | cell | {heads} |\n|---|---|--:|--:|--:|")
        for shape in SHAPES:
            for cell in models.CELLS:
                ways = [one_layer(cell, shape), *(layers(cell, shape, k) for k in NETWORKS)]
                row = gains(ways, NETWORKS, LAYER_TURNS)
                print("|", ", ".join(map(str, shape)), "|", cell, "|", row, "|", flush=True)
    print(f"\n| an epoch of | H | cell | ours alone | {heads} |\n|---|--:|---|--:|--:|--:|--:|")
    for study, sizes, turns in EPOCHS:
        for units, cell in itertools.product(sizes, models.CELLS):
            both = [(TORCHS, runs(study, cell, units, 1, ours=False))]
            both += [(OURS, runs(study, cell, units, 1))]
            ways = [epoch_alone(run, layers) for layers, [run] in both]
            ways += [epoch_together(runs(study, cell, units, count)) for count in NETWORKS]
            row = gains(ways, (1, *NETWORKS), turns)
            print("|", study, "|", units, "|", cell, "|", row, "|", flush=True)


if __name__ == "__main__":
    main()
