"""How much quicker `search.recurrent` trains than torch's own layers: ratios, from one run.

    python -m bench.recurrent

Prints two tables for RESULTS.md: forward and backward pass of one layer by shape; and whole epochs
of a study's first trial, validation, optimizer and all, on the examples. Both ways take turns, on
one thread, and medians are compared.

Shapes: B minibatch, T time, F inputs, H hidden.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import mock

import torch
from torch import nn

from search import gradients, layer_choices, models
from search.data import load_splits
from search.data.splits import Splits
from search.recurrent import recur, recur_to_ends
from search.running import Request, make_plan
from search.space import HyperParams, starting_points
from search.training import Run
from search.trial import Goal

CELLS = ("rnn", "gru", "lstm")
SHAPES = (
    (32, 24, 12, 16),
    (32, 24, 12, 32),
    (32, 24, 12, 64),
    (16, 24, 12, 110),
    (64, 24, 12, 43),
    (32, 48, 1, 64),
    (128, 24, 1, 16),
    (64, 24, 12, 128),
    (128, 24, 1, 128),
)
"""B, T, F, H."""
TURNS = 40


def torchs_own(layers: nn.Module, inputs: torch.Tensor, state: object) -> object:
    """Runs layers as they are."""
    return layers(inputs, state)


def torchs_own_to_ends(
    layers: nn.Module, inputs: torch.Tensor, lengths: torch.Tensor, _unit: int = 1
) -> torch.Tensor:
    """Runs layers as they are over padded series, and takes the state at the end of each."""
    hidden: torch.Tensor = layers(inputs)[0]
    return hidden[torch.arange(len(hidden)), lengths - 1]


TORCHS: Mapping[str, Any] = {"recur": torchs_own, "recur_to_ends": torchs_own_to_ends}
OURS: Mapping[str, Any] = {"recur": recur, "recur_to_ends": recur_to_ends}
"""What `search.models` runs layers with."""


def a_run(params: HyperParams, splits: Splits, seed: int, *, ours: bool = True) -> Run:
    """Returns an untrained run whose gradients are found by hand, or by autograd."""
    with mock.patch.object(gradients, "HAS_PRODUCTS", ours):
        return Run(params, splits, seed, Goal(), torch.device("cpu"), layers=layer_choices.OURS)


def medians(ways: Sequence[Callable[[], object]], turns: int) -> list[float]:
    """Returns the median seconds of the processor's time of each way, which take turns.

    On a busy machine the clock on the wall would count more of others' work for longer ways.
    """
    seconds: list[list[float]] = [[] for _ in ways]
    for turn in range(turns + 2):
        for way, taken in zip(ways, seconds, strict=True):
            started = time.process_time()
            way()
            if turn >= 2:
                taken.append(time.process_time() - started)
    return [statistics.median(taken) for taken in seconds]


def layer_ratio(cell: str, batch: int, steps: int, inputs: int, hidden: int) -> float:
    """Returns torch's time for a forward and backward pass, in units of ours."""
    layers = models.CELLS[cell](inputs, hidden, batch_first=True)
    data = torch.randn(batch, steps, inputs)

    def passes(run: Callable[..., Any]) -> Callable[[], object]:
        return lambda: run(layers, data, None)[0][:, -1].square().sum().backward()

    theirs, ours = medians([passes(torchs_own), passes(recur)], TURNS)
    return theirs / ours


def epoch_ratio(study: str, cell: str) -> float:
    """Returns an epoch's time with torch's layers and autograd, in units of ours."""
    config = make_plan(Request(study, "sqlite:///none.db")).config
    splits = load_splits(config.data)
    params = HyperParams.of(starting_points(config.space)[0] | {"cell": cell})
    runs = [a_run(params, splits, 0, ours=ours) for ours in (False, True)]

    def epoch(run: Run, layers: Mapping[str, Any]) -> Callable[[], object]:
        def train() -> None:
            with mock.patch.multiple(models, **layers):
                run.advance(lambda *_: None)

        return train

    theirs, ours = medians([epoch(runs[0], TORCHS), epoch(runs[1], OURS)], 5)
    return theirs / ours


def main() -> None:
    """Prints both tables."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print("| B, T, F, H | rnn | gru | lstm |\n|---|--:|--:|--:|")
    for shape in SHAPES:
        ratios = [f"{layer_ratio(cell, *shape):.2f}" for cell in CELLS]
        print("|", ", ".join(map(str, shape)), "|", " | ".join(ratios), "|", flush=True)
    print("\n| an epoch of | rnn | gru | lstm |\n|---|--:|--:|--:|")
    for study in ("sunspots", "vowels", "shakespeare"):
        ratios = [f"{epoch_ratio(study, cell):.2f}" for cell in CELLS]
        print("|", study, "|", " | ".join(ratios), "|", flush=True)


if __name__ == "__main__":
    main()
