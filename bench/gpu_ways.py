"""A training step on a GPU, two ways: torch.nn one by one, and K at once in lanes.

Shapes: K networks, B minibatch, T time, F features, N examples, O outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from search.data.windows import ForecastPart
from search.lane_shapes import shape_of
from search.lanes import Lanes
from search.models import SequenceModel
from search.training import Run

Way = Callable[[], Tensor]
"""A training step; returns the (K,) losses."""


def one_network(run: Run) -> Way:
    """Returns the step of one network with torch's own layers, clipping and kernels of optimizers.

    Its loss stays on the GPU, which is never waited for.
    """
    part = run.splits.train
    assert isinstance(part, ForecastPart)
    inputs, targets = part.inputs(part.starts), part.targets
    model, weights = run.model.train(), list(run.model.parameters())
    assert isinstance(model, SequenceModel)
    places = _places(run, part.size)

    def step() -> Tensor:
        chosen = next(places)
        hidden, _ = model.recurrent(inputs[chosen])
        loss = run.splits.loss(model.head(hidden[:, -1]), targets[chosen])
        run.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(weights, run.params.gradient_clipping)
        run.optimizer.step()
        return loss.detach().unsqueeze(0)

    return step


def in_lanes(runs: Sequence[Run]) -> Way:
    """Returns a step of all runs as a search trains them, losses and norms read and judged."""
    lanes = Lanes(shape_of(runs[0].params), runs[0].splits, roomy=True)
    for run in runs:
        lanes.join(run, lambda *_: None)

    def step() -> Tensor:
        lanes.advance()
        return torch.tensor([run.batch_losses[-1] for run in runs])

    return step


def _places(run: Run, size: int) -> Iterator[Tensor]:
    """Yields the (B,) examples of minibatch after minibatch, as `Run` draws them."""
    while True:
        order = torch.randperm(size, generator=run.order).to(run.device)
        yield from torch.split(order, run.params.batch_size)
