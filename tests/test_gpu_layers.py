"""The layers of a GPU, with its kernels written out for a CPU: equal to those of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from cuda_kernels import cuda_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import series, sine, start, text, unjudged

from search import lane_batches
from search.data.splits import Splits
from search.gpu_layers import run_fused
from search.lane_shapes import shape_of
from search.lanes import Lanes
from search.recurrent import run_layer

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> Iterator[None]:
    """Gives a CPU the kernels that torch has for CUDA only."""
    with cuda_kernels():
        yield


@pytest.mark.parametrize("cell", GATES)
@settings(max_examples=40)
@given(
    networks=st.integers(1, 4),
    batch=st.integers(1, 5),
    time=st.integers(1, 7),
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_equal_to_the_layers_of_a_cpu(
    cell: str, networks: int, batch: int, time: int, inputs: int, hidden: int, seed: int
) -> None:
    """States and every gradient, of inputs and starts too, are the same in float64 to 1e-12."""
    torch.manual_seed(seed)
    gates = GATES[cell] * hidden
    shapes = [(networks, gates, inputs), (networks, gates, hidden), *[(networks, gates)] * 2]
    weights = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    kept = 2 if cell == "lstm" else 1
    start = [
        torch.randn(networks, batch, hidden, dtype=torch.float64, requires_grad=True)
        for _ in range(kept)
    ]
    steps = torch.randn(time, networks, batch, inputs, dtype=torch.float64, requires_grad=True)
    found = []
    for run in (run_layer, run_fused):
        states, ends = run(cell, steps, start, weights)
        weight = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).view_as(states)
        loss = (weight * states.square()).sum() + sum(end.pow(3).sum() for end in ends)
        found.append([states, *ends, *torch.autograd.grad(loss, [steps, *start, *weights])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])
@pytest.mark.parametrize("cell", GATES)
def test_runs_in_lanes_train_with_them(
    task: Callable[[], Splits], cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses of two epochs are those of a CPU's layers, also where a text's state goes on."""
    found = []
    for fused in (False, True):
        if fused:
            monkeypatch.setattr(lane_batches, "run_layer", run_fused)
        splits = task()
        runs = [start(splits, seed, cell=cell, hidden_layers=2) for seed in range(3)]
        lanes = Lanes(shape_of(runs[0].params), splits, roomy=True)
        for run in runs:
            lanes.join(run, unjudged)
        while any(len(run.curve) < 2 for run in runs):
            lanes.advance()
        found.append([run.batch_losses for run in runs])
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-4)
