"""A training step on a GPU, three ways: torch.nn one by one, K in lanes, K in one CUDA graph.

Shapes: K networks, B minibatch, T time, F features, N examples, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from search.cohorts import shape_of
from search.data.splits import Splits
from search.data.windows import ForecastPart
from search.lane_batches import Batches
from search.lane_rows import Rows
from search.lane_steps import LaneStep
from search.lanes import Lanes
from search.models import SequenceModel
from search.steps import Settings
from search.training import Run

WARM_UP = 3
"""Steps before a graph is captured, or a clock runs."""

Way = Callable[[], Tensor]
"""A training step; returns the (K,) losses."""


def random_places(count: int, size: int, rows: int, device: torch.device) -> Iterator[Tensor]:
    """Yields the (K, B) examples of minibatch after minibatch, every epoch in new orders."""
    while True:
        yield from torch.split(torch.rand(count, size, device=device).argsort(1), rows, 1)


def places_of(runs: Sequence[Run], device: torch.device) -> Iterator[Tensor]:
    """Yields those of the runs' coming epoch."""
    size = runs[0].splits.train.size
    orders = torch.stack([torch.randperm(size, generator=run.order) for run in runs])
    yield from torch.split(orders.to(device), runs[0].params.batch_size, 1)


def examples(splits: Splits) -> tuple[Tensor, Tensor]:
    """Returns inputs (N, T, F) and targets (N, O) of the training part."""
    part = splits.train
    assert isinstance(part, ForecastPart)
    return part.inputs(part.starts), part.targets


def one_network(run: Run, places: Iterator[Tensor]) -> Way:
    """Returns the step of one network with torch's own layers, clipping and optimizer."""
    inputs, targets = examples(run.splits)
    model, weights = run.model.train(), list(run.model.parameters())
    assert isinstance(model, SequenceModel)

    def step() -> Tensor:
        (chosen,) = next(places)
        hidden, _ = model.recurrent(inputs[chosen])
        loss = run.splits.loss(model.head(hidden[:, -1]), targets[chosen])
        run.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, run.params.gradient_clipping)
        run.optimizer.step()
        return loss.detach().unsqueeze(0)

    return step


def in_lanes(runs: Sequence[Run]) -> Way:
    """Returns a step of all runs in `Lanes`."""
    lanes = Lanes(shape_of(runs[0].params), runs[0].splits)
    for run in runs:
        lanes.join(run, lambda *_: None)

    def step() -> Tensor:
        lanes.advance()
        return torch.tensor([run.batch_losses[-1] for run in runs])

    return step


def lane_step(runs: Sequence[Run], splits: Splits, device: torch.device) -> LaneStep:
    """Returns the step of runs that have not trained yet, those of one optimizer side by side.

    Args:
        runs: On any device.
        splits: On ``device``.
        device: Where the step is made.
    """
    params = [run.params for run in runs]
    shape = shape_of(params[0])
    rows = Rows(shape, runs[0])
    table = torch.stack([rows.read(run) for run in runs], 1).to(device)
    rates = [one.learning_rate for one in params]
    settings = Settings(params, rates, [0] * len(runs), table)
    return LaneStep(rows, table, Batches(shape, splits, params, table), settings)


def whole_step(
    runs: Sequence[Run], splits: Splits, device: torch.device, places: Iterator[Tensor]
) -> Way:
    """Returns the step of all runs' networks, on a GPU as one graph; arguments as `lane_step`."""
    inputs, targets = examples(splits)
    train = lane_step(runs, splits, device)
    batches = train.batches
    windows = inputs.transpose(0, 1).contiguous()
    batches.sizes.fill_(batches.inputs.shape[2])
    chosen = torch.zeros(batches.inputs.shape[1:3], dtype=torch.int64, device=device)

    def everything() -> Tensor:
        taken = windows.index_select(1, chosen.flatten())
        batches.inputs.copy_(taken.view_as(batches.inputs))
        batches.targets.copy_(targets[chosen])
        return train()

    repeat = everything
    if device.type == "cuda":
        repeat = captured(everything, (train.table, train.settings.steps))

    def step() -> Tensor:
        chosen.copy_(next(places))
        return repeat().cpu()[0]

    return step


def captured(step: Way, changed: Sequence[Tensor]) -> Way:
    """Returns a step that a CUDA graph repeats.

    Args:
        step: Tensor code over tensors that stay where they are.
        changed: What the steps that warm up must leave as it is.
    """
    kept = [one.clone() for one in changed]
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    for one, value in zip(changed, kept, strict=True):
        one.copy_(value)

    def repeat() -> Tensor:
        graph.replay()
        return found

    return repeat
