"""The step of K networks: nothing in it but operations on tensors that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from cuda_kernels import cuda_kernels
from networks import hyper, series, sine, start, text
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from search import lane_batches
from search.data.splits import EpochPlan, Splits
from search.dimensions import CELLS
from search.gpu_layers import run_fused
from search.lane_batches import Batches
from search.lane_rows import Rows
from search.lane_shapes import shape_of
from search.lane_steps import LaneStep
from search.optimizers import COUNTING, MEMORIES, Optimizer
from search.steps import Settings, step
from search.training import Run, one_thread

FROM_THE_PROCESSOR = (torch.ops.aten.lift_fresh.default, torch.ops.aten.lift.default)
TO_THE_PROCESSOR = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Computes as trainers do."""
    with one_thread():
        yield


@pytest.fixture
def gpu_layers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Has the layers of a GPU, which are nothing but torch's operations."""
    monkeypatch.setattr(lane_batches, "run_layer", run_fused)
    with cuda_kernels():
        yield


class Recording(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: operations, the memory they work on, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does an operation and notes it, with the very tensors of its arguments and results."""
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def repeat(self) -> None:
        """Does every operation again; its results go to where they were."""
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if old is None:  # A gradient that nobody wants.
                    continue
                same = old.untyped_storage().data_ptr() == new.untyped_storage().data_ptr()
                if not same:
                    old.copy_(new)


def four_runs(splits: Splits, cell: str) -> list[Run]:
    """Returns a run of every optimizer, which differ in all but their shape."""
    changes: list[dict[str, Any]] = [
        {"dropout": 0.3, "weight_decay": 0.01},
        {"gradient_clipping": 0.1, "hidden_units": 9},
        {"batch_size": 11, "learning_rate": 0.001},
        {"dropout": 0.1, "gradient_clipping": 0.5, "hidden_units": 16},
    ]
    both = zip(MEMORIES, changes, strict=True)
    shared: dict[str, Any] = {"cell": cell, "hidden_layers": 2}
    return [
        start(splits, seed, **shared | {"optimizer": kind} | own)
        for seed, (kind, own) in enumerate(both)
    ]


def prepared(splits: Splits, cell: str) -> tuple[LaneStep, Callable[[int], None]]:
    """Returns a step of the four, and what sets minibatches, dropout and rates before each."""
    runs = four_runs(splits, cell)
    shape = shape_of(runs[0].params)
    rows = Rows(shape, runs[0])
    table = torch.stack([rows.read(run) for run in runs], 1)
    settings = Settings(len(runs), table)
    train = LaneStep(rows, table, Batches(shape, splits, 4, table, dropped=True), settings)
    random = [torch.Generator().manual_seed(at) for at in range(len(runs))]
    coming = [_endless(run) for run in runs]
    for at, run in enumerate(runs):
        settings.set(at, run.params, run.params.learning_rate, 0)

    def fill(number: int) -> None:
        for at, run in enumerate(runs):
            plan, batch = next(coming[at])
            if batch == 0:
                train.batches.begin(at, plan)
            if run.params.dropout > 0:
                train.batches.draw(at, plan.sizes[batch], run.params, random[at])
        train.settings.rates.mul_(0.5 if number % 5 == 4 else 1.0)

    return train, fill


def _endless(run: Run) -> Iterator[tuple[EpochPlan, int]]:
    while True:
        plan = run.splits.train.plan(run.params.batch_size, run.order)
        yield from ((plan, batch) for batch in range(len(plan.sizes)))


@pytest.mark.usefixtures("gpu_layers")
@pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recorded_step_repeats(task: Callable[[], Splits], cell: str) -> None:
    """One step's operations, repeated blindly, train on, to the last bit, as further steps do.

    So no learning rate, count of steps, minibatch or hidden state is taken from Python, nothing is
    copied from the processor and no number is waited for: a CUDA graph can hold the step.
    """
    (steps, fill), (other, fill_other) = (prepared(task(), cell) for _ in range(2))
    fill(0)
    fill_other(0)
    with Recording() as recording:
        found = other()
    done = {call[0] for call in recording.calls}
    assert len(done) > 10
    assert done.isdisjoint(FROM_THE_PROCESSOR + TO_THE_PROCESSOR)
    expected = steps()
    for number in range(1, 24):
        assert torch.equal(found, expected)
        assert torch.equal(other.table, steps.table)
        fill(number)
        fill_other(number)
        recording.repeat()
        expected = steps()
    assert other.settings.steps.flatten().tolist() == [24] * 4


@pytest.mark.parametrize("optimizer", MEMORIES)
@pytest.mark.parametrize("made", [0, 30, 5_000, 100_000])
def test_a_step_after_any_number(optimizer: str, made: int) -> None:
    """After so many steps, the next is that of the optimizer of one network, to 1e-12."""
    torch.manual_seed(0)
    module = torch.nn.Linear(7, 1, bias=False).double()
    params = hyper(optimizer=optimizer, learning_rate=0.03, weight_decay=0.01)
    weight = module.weight
    alone = Optimizer(optimizer, [weight], params.learning_rate, params.weight_decay)
    memories = torch.rand(2, 1, 7, dtype=torch.float64)
    kept = zip(MEMORIES[optimizer], memories, strict=True)
    state: dict[str, Tensor] = {name: one.clone() for name, one in kept if name is not None}
    if optimizer in COUNTING:
        state["step"] = torch.tensor(float(made))
    alone.state[weight] = state
    weight.grad = torch.rand(1, 7, dtype=torch.float64)
    ours, gradient = weight.detach().clone(), weight.grad.clone()
    settings = Settings(1, ours)
    settings.set(0, params, params.learning_rate, made)
    step(ours, gradient, memories, settings)
    alone.step()
    torch.testing.assert_close(ours, weight.detach(), rtol=1e-12, atol=1e-12)
