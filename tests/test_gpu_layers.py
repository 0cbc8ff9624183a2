"""The layers of a GPU, with its kernels written out for a CPU: equal to those of a CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import series, sine, start, text, unjudged
from torch import Tensor

from search import lane_batches
from search.cohorts import shape_of
from search.data.splits import Splits
from search.gpu_layers import run_fused
from search.lanes import Lanes
from search.recurrent import run_layer

GATES = {"gru": 3, "lstm": 4}


def gru_cell(gates: Tensor, recurrent: Tensor, state: Tensor, *_: object) -> tuple[Tensor, Tensor]:
    """What torch's CUDA kernel of a GRU's step calculates, and what it keeps."""
    ours, theirs = gates.chunk(3, 1), recurrent.chunk(3, 1)
    reset, keep = (torch.sigmoid(ours[at] + theirs[at]) for at in (0, 1))
    new = torch.tanh(ours[2] + reset * theirs[2])
    space = torch.cat([reset, keep, new, state, theirs[2]], 1)
    return new + keep * (state - new), space


def gru_cell_backward(grad: Tensor, space: Tensor, _: bool) -> tuple[Tensor | None, ...]:
    """Its gradients of gates, of the state's part of them, and of the state."""
    reset, keep, new, state, recurrent = space.chunk(5, 1)
    to_new = grad * (1 - keep) * (1 - new * new)
    to_keep = grad * (state - new) * (1 - keep) * keep
    to_reset = to_new * recurrent * (1 - reset) * reset
    gates = torch.cat([to_reset, to_keep, to_new], 1)
    return gates, torch.cat([to_reset, to_keep, to_new * reset], 1), grad * keep, None, None


def lstm_cell(
    gates: Tensor, recurrent: Tensor, cell: Tensor, *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    """What torch's CUDA kernel of an LSTM's step calculates, and what it keeps."""
    let_in, forget, new, let_out = (gates + recurrent).chunk(4, 1)
    let_in, forget, let_out = (torch.sigmoid(one) for one in (let_in, forget, let_out))
    new = torch.tanh(new)
    after = forget * cell + let_in * new
    return let_out * torch.tanh(after), after, torch.cat([let_in, forget, new, let_out], 1)


def lstm_cell_backward(
    grad: Tensor, d_after: Tensor, cell: Tensor, after: Tensor, space: Tensor, _: bool
) -> tuple[Tensor | None, ...]:
    """Its gradients of gates and of the cell state."""
    let_in, forget, new, let_out = space.chunk(4, 1)
    squashed = torch.tanh(after)
    d_cell = d_after + grad * let_out * (1 - squashed * squashed)
    parts = [
        d_cell * new * let_in * (1 - let_in),
        d_cell * cell * forget * (1 - forget),
        d_cell * let_in * (1 - new * new),
        grad * squashed * let_out * (1 - let_out),
    ]
    return torch.cat(parts, 1), d_cell * forget, None


@pytest.fixture(scope="module", autouse=True)
def _kernels() -> Iterator[None]:
    """Gives a CPU the kernels that torch has for CUDA only."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_thnn_fused_gru_cell", gru_cell, "CPU")
    library.impl("_thnn_fused_gru_cell_backward", gru_cell_backward, "CPU")
    library.impl("_thnn_fused_lstm_cell", lstm_cell, "CPU")
    library.impl("_thnn_fused_lstm_cell_backward_impl", lstm_cell_backward, "CPU")
    yield
    library._destroy()


@pytest.mark.parametrize("cell", GATES)
@settings(deadline=None, max_examples=40)
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
    kept = 1 if cell == "gru" else 2
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
