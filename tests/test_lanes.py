"""Runs in lanes: equal to torch's one after another, and to the last bit whatever their company."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import figures, same_tensors, series, sine, start, text, train, unjudged

from search import gradients, lane_batches, recurrent
from search.checkpoints import load_checkpoint, save_checkpoint
from search.data.splits import Splits
from search.dimensions import CELLS
from search.lane_shapes import Shape, shape_of
from search.lanes import Lanes
from search.training import BatchJudge, Run, one_thread
from search.trial import Decision, Epoch, Outcome

Task = Callable[[], Splits]
tasks = pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])
cells = pytest.mark.parametrize("cell", CELLS)

MIXED: list[dict[str, Any]] = [
    {"optimizer": "adam", "decay": "step", "dropout": 0.3, "epochs": 7},
    {"optimizer": "sgd", "decay": "plateau", "learning_rate": 0.05, "gradient_clipping": 0.1},
    {"optimizer": "rmsprop", "decay": "exponential", "hidden_units": 16, "weight_decay": 0.01},
    {"optimizer": "adagrad", "batch_size": 11, "hidden_units": 3, "dropout": 0.5},
    {"optimizer": "adam", "batch_size": 7, "weight_decay": 0.1, "gradient_clipping": 0.5},
    {"optimizer": "sgd", "batch_size": 13, "hidden_units": 9, "dropout": 0.1, "epochs": 6},
]
"""One shape, and nothing else in common."""


def mixed(splits: Splits, cell: str, layers: int = 2) -> list[Run]:
    """Returns an untrained run of each of `MIXED`."""
    shared: dict[str, Any] = {"cell": cell, "hidden_layers": layers, "epochs": 5}
    return [start(splits, seed, **shared | own) for seed, own in enumerate(MIXED)]


def finish(lanes: Lanes, waiting: Sequence[Run] = (), judge: BatchJudge = unjudged) -> None:
    """Trains until every run has its epochs; whoever leaves is replaced by one who waits."""
    left = list(waiting)
    while lanes.runs:
        for run, result in lanes.advance():
            assert isinstance(result, Epoch)
            if len(run.curve) == run.params.epochs:
                lanes.leave(run)
                if left:
                    lanes.join(left.pop(), judge)


def alone(run: Run) -> Run:
    """Trains a run in lanes of its own; returns it."""
    lanes = Lanes(shape_of(run.params), run.splits)
    lanes.join(run, unjudged)
    finish(lanes)
    return run


@functools.cache
def each_alone(task: Task, cell: str) -> tuple[Run, ...]:
    """Returns the runs of `mixed`, each trained alone; several tests compare with them."""
    return tuple(alone(run) for run in mixed(task(), cell))


def assert_same_bits(one: Run, other: Run) -> None:
    """All that was trained, and all that decides how it would go on, is the same."""
    assert one.batch_losses == other.batch_losses
    assert figures(list(one.curve.epochs)) == figures(list(other.curve.epochs))
    assert same_tensors(one.best_weights, other.best_weights)
    assert same_tensors(one.model.state_dict(), other.model.state_dict())
    mine, theirs = one.state_dict(), other.state_dict()
    assert torch.equal(mine["order"], theirs["order"])
    assert torch.equal(mine["random"]["cpu"], theirs["random"]["cpu"])
    for key, kept in mine["optimizer"]["state"].items():
        assert same_tensors(kept, theirs["optimizer"]["state"][key])


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Computes as trainers do."""
    with one_thread():
        yield


@pytest.fixture
def double_precision() -> Iterator[None]:
    """New networks are of float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def doubled(splits: Splits) -> Splits:
    """Returns the splits with every number a float64."""

    def part(one: Any) -> Any:
        tensors = {field.name: getattr(one, field.name) for field in fields(one)}
        wide = {
            name: value.double()
            for name, value in tensors.items()
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32
        }
        return replace(one, **wide)

    return replace(
        splits, train=part(splits.train), valid=part(splits.valid), test=part(splits.test)
    )


def assert_close(one: Any, other: Any) -> None:
    """Numbers are equal to 1e-9."""
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@tasks
@cells
@pytest.mark.parametrize(("layers", "compiled"), [(2, False), (2, True), (1, False), (3, False)])
@pytest.mark.usefixtures("double_precision")
def test_equal_to_one_after_another(
    task: Task, cell: str, layers: int, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every loss, weight and figure of many epochs is what torch's modules give, or ours alone."""
    splits = doubled(task())
    monkeypatch.setattr(gradients, "HAS_PRODUCTS", compiled)
    runs, torchs = mixed(splits, cell, layers), mixed(splits, cell, layers)
    lanes = Lanes(shape_of(runs[2].params), splits)
    with monkeypatch.context() as patched:  # What is dropped is by the places of what there is.
        patched.setattr(lane_batches, "HAS_PRODUCTS", compiled)
        for run in runs:
            lanes.join(run, unjudged)
        finish(lanes)
    monkeypatch.setattr(recurrent, "HAS_PRODUCTS", compiled)
    for run in torchs:
        train(run, run.params.epochs)
    for run, theirs in zip(runs, torchs, strict=True):
        assert len(run.batch_losses) == len(theirs.batch_losses)
        assert_close(run.batch_losses, theirs.batch_losses)
        assert_close(dict(run.model.state_dict()), dict(theirs.model.state_dict()))
        for mine, other in zip(run.curve.epochs, theirs.curve.epochs, strict=True):
            assert_close(mine.figures, other.figures)
            assert mine.learning_rate == other.learning_rate


@pytest.mark.usefixtures("double_precision")
def test_a_shape_of_the_largest() -> None:
    """Widened to the largest of other units and batch sizes, a run is still torch's own."""
    splits = doubled(sine())
    sizes: list[dict[str, Any]] = [
        {"hidden_units": 5, "batch_size": 40},
        {"hidden_units": 40, "batch_size": 10},
    ]
    runs, torchs = ([start(splits, cell="gru", **size) for size in sizes] for _ in range(2))
    shape, other = (shape_of(run.params) for run in runs)
    lanes = Lanes(shape.with_room_for(other), splits)
    for run in runs:
        lanes.join(run, unjudged)
    finish(lanes)
    for run, theirs in zip(runs, torchs, strict=True):
        train(theirs, run.params.epochs)
        assert_close(run.batch_losses, theirs.batch_losses)


GROWING: list[dict[str, Any]] = [
    {"hidden_units": 16, "batch_size": 7, "optimizer": "adam", "weight_decay": 0.1},
    {"hidden_units": 5, "batch_size": 13, "optimizer": "sgd"},
    {"hidden_units": 32, "batch_size": 40, "dropout": 0.3, "optimizer": "rmsprop"},
    {"hidden_units": 9, "batch_size": 11, "dropout": 0.2, "optimizer": "adagrad"},
    {"hidden_units": 48, "batch_size": 64, "optimizer": "adam", "gradient_clipping": 0.1},
    {"hidden_units": 16, "batch_size": 20, "optimizer": "sgd", "dropout": 0.1},
]
"""Some fill their shape, some do not; most need more room than those before."""


@tasks
@cells
@pytest.mark.usefixtures("double_precision")
def test_roomy_lanes_grow_and_are_taken_again(task: Task, cell: str) -> None:
    """Whoever comes, in the middle of others' epochs and to the place of one who left, is torch's.

    The lanes grow by more runs, units, rows and the first dropout, with all that others remember.
    """
    splits = doubled(task())
    shared: dict[str, Any] = {"cell": cell, "hidden_layers": 2, "epochs": 4}
    runs, torchs = (
        [start(splits, seed, **shared | own) for seed, own in enumerate(GROWING)] for _ in range(2)
    )
    lanes = Lanes(shape_of(runs[0].params), splits, roomy=True)
    waiting = list(runs)
    lanes.join(waiting.pop(0), unjudged)
    while lanes.runs:
        for run, result in lanes.advance():
            assert isinstance(result, Epoch)
            if len(run.curve) == 4:
                lanes.leave(run)
        if waiting and (len(waiting) > 2 or len(lanes.runs) < 2):
            lanes.join(waiting.pop(0), unjudged)
    assert waiting == []
    for run, theirs in zip(runs, torchs, strict=True):
        train(theirs, 4)
        assert_close(run.batch_losses, theirs.batch_losses)
        assert_close(dict(run.model.state_dict()), dict(theirs.model.state_dict()))


@tasks
def test_abandoned_lanes_leave_what_the_last_epochs_ended_with(task: Task) -> None:
    """Whoever is let go in the middle of an epoch goes on, in other lanes, as if nothing was."""
    splits = task()
    runs = mixed(splits, "gru")
    lanes = Lanes(shape_of(runs[0].params), splits, roomy=True)
    for run in runs:
        lanes.join(run, unjudged)
    for _ in range(2 + max(runs[4].splits.train.size // run.params.batch_size for run in runs)):
        for run, _ in lanes.advance():
            if len(run.curve) == run.params.epochs:
                lanes.leave(run)
    left = lanes.runs
    assert len(left) > 2
    found, spoilt = lanes.abandon()
    assert (set(found), spoilt) == (set(left), [])
    assert lanes.runs == []
    for run in left:
        assert len(run.batch_losses) == (run.epoch_ends or [0])[-1]
        lanes.join(run, unjudged)
    finish(lanes)
    for run, single in zip(runs, each_alone(task, "gru"), strict=True):
        assert_same_bits(run, single)


@pytest.mark.parametrize("roomy", [False, True])
@tasks
@cells
def test_the_same_bits_in_any_company(task: Task, cell: str, roomy: bool) -> None:
    """A run beside others, who come and go in the middle of its epochs, is the run alone."""
    splits = task()
    runs = mixed(splits, cell)
    lanes = Lanes(shape_of(runs[0].params), splits, roomy=roomy)
    lanes.join(runs[0], unjudged)
    for run in runs[1:4]:
        lanes.advance()  # so that all are at different batches
        lanes.join(run, unjudged)
    finish(lanes, runs[4:])
    for run, single in zip(runs, each_alone(task, cell), strict=True):
        assert_same_bits(run, single)


@pytest.mark.parametrize("units", [16, 48, 64, 100])
@cells
def test_the_same_bits_at_any_size(cell: str, units: int) -> None:
    """Larger networks, whose products take other kernels, do not know their neighbours either."""
    sizes: dict[str, Any] = {"cell": cell, "hidden_units": units, "batch_size": 32, "epochs": 2}
    runs, singles = ([start(sine(200), seed, **sizes) for seed in range(5)] for _ in range(2))
    lanes = Lanes(shape_of(runs[0].params), sine(200))
    for run in runs:
        lanes.join(run, unjudged)
    finish(lanes)
    for run, single in zip(runs, singles, strict=True):
        assert_same_bits(run, alone(single))


@tasks
@cells
def test_interrupted_and_resumed_in_other_company(task: Task, cell: str, tmp_path: Path) -> None:
    """From its checkpoint, in other company, a run goes on to the bits it would have had."""
    splits = task()
    runs = mixed(splits, cell)
    lanes = Lanes(shape_of(runs[0].params), splits)
    for run in runs:
        lanes.join(run, unjudged)
    while any(len(run.curve) < 2 for run in runs):
        for run, _ in lanes.advance():
            if len(run.curve) == 2:
                save_checkpoint(tmp_path / str(runs.index(run)), {"run": run.state_dict()})
    again = mixed(splits, cell)
    for at, run in enumerate(again):
        saved = load_checkpoint(tmp_path / str(at))
        assert saved is not None
        run.load_state_dict(saved["run"])
    for pair in (again[:1], again[1:3], again[3:]):
        others = Lanes(shape_of(runs[0].params), splits)
        for run in pair:
            others.join(run, unjudged)
        finish(others)
    for run, single in zip(again, each_alone(task, cell), strict=True):
        assert_same_bits(run, single)


def test_a_lane_that_diverges_takes_nobody_along() -> None:
    """One whose numbers are not finite, and one that is ended, leave the others' bits as they are.

    What was trained of the ended one up to its last batch is there.
    """

    def judge(loss: float, norm: float, epoch: int) -> Decision | None:
        if math.isfinite(loss) and math.isfinite(norm):
            return None
        return Decision(Outcome.DIVERGED, f"in epoch {epoch}")

    def impatient(_loss: float, _norm: float, epoch: int) -> Decision | None:
        return Decision(Outcome.INTERRUPTED, "enough") if epoch == 2 else None

    runs = mixed(sine(), "rnn")
    lanes = Lanes(shape_of(runs[0].params), sine())
    wild = start(sine(), 9, cell="rnn", hidden_layers=2, optimizer="sgd", learning_rate=1e30)
    brief = start(sine(), 3, cell="rnn", hidden_layers=2)
    for run, own in ((wild, judge), (brief, impatient), *((run, unjudged) for run in runs)):
        lanes.join(run, own)
    ended: dict[str, Decision] = {}
    while lanes.runs:
        for run, result in lanes.advance():
            if isinstance(result, Decision):
                ended[result.reason] = result
            elif len(run.curve) == run.params.epochs:
                lanes.leave(run)
    assert ended.keys() == {"in epoch 1", "enough"}
    assert not math.isfinite(wild.batch_losses[-1])
    assert len(brief.batch_losses) == brief.epoch_ends[0] + 1
    for run, single in zip(runs, each_alone(sine, "rnn"), strict=True):
        assert_same_bits(run, single)


def test_a_lane_goes_on_alone_as_torch_would() -> None:
    """A run that leaves after an epoch can go on by itself, with all its optimizer remembers."""
    for optimizer in ("adam", "sgd", "rmsprop", "adagrad"):
        run, single = (start(sine(), cell="gru", optimizer=optimizer) for _ in range(2))
        lanes = Lanes(shape_of(run.params), sine())
        lanes.join(run, unjudged)
        while len(run.curve) < 2:
            lanes.advance()
        lanes.leave(run)
        train(run, 2)
        train(single, 4)
        torch.testing.assert_close(run.batch_losses, single.batch_losses, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    """A run of another cell, of more layers, units or rows than the shape has is not taken."""
    lanes = Lanes(Shape("gru", 1, 16, 16), sine())
    for change in ({"cell": "rnn"}, {"hidden_layers": 2}, {"hidden_units": 17}, {"batch_size": 17}):
        with pytest.raises(ValueError, match="cannot be trained as"):
            lanes.join(start(sine(), **{"cell": "gru"} | change), unjudged)
    assert lanes.runs == []
