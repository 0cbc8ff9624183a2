"""Gradients by hand are autograd's: of every cell, task, depth and dropout; so is what clips."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CPU, hyper, series, sine, start, text, train
from torch import Tensor, nn

from search import gradients, head_passes
from search.data.splits import IGNORED, Batch, Splits
from search.dimensions import CELLS, OPTIMIZERS
from search.factories import OwnNetwork
from search.gradients import WIDE, ByAutograd, ByHand, gradients_of
from search.layer_memory import give_up_workspaces
from search.models import SequenceModel, build
from search.object_code import run
from search.training import one_thread

Task = Callable[[], Splits]
TASKS = {"sine": sine, "series": series, "text": text}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Computes as trainers do."""
    with one_thread():
        yield


def wide(batch: Batch) -> Batch:
    """Returns a minibatch in double precision."""
    floats = {
        name: value.double()
        for name, value in (("inputs", batch.inputs), ("targets", batch.targets))
        if value.dtype == torch.float32
    }
    return replace(batch, **floats)


def found(way: Any, model: nn.Module, batches: list[Batch]) -> Iterator[tuple[float, list[Tensor]]]:
    """Yields losses and gradients of minibatches, one after another, as training asks for them."""
    torch.manual_seed(3)
    state: Any = None
    for batch in batches:
        loss, state = way.find(batch, state if batch.carries else None)
        grads = [weight.grad for weight in model.parameters()]
        yield loss, [grad.clone() for grad in grads if grad is not None]


@settings(max_examples=120, deadline=None)
@given(
    task=st.sampled_from(sorted(TASKS)),
    cell=st.sampled_from(CELLS),
    layers=st.integers(1, 3),
    units=st.integers(1, 40),
    dropout=st.sampled_from([0.0, 0.0, 0.3]),
    rows=st.integers(1, 33),
    seed=st.integers(0, 99),
)
def test_by_hand_is_by_autograd(
    task: str, cell: str, layers: int, units: int, dropout: float, rows: int, seed: int
) -> None:
    """Losses and all gradients of minibatches in a row are equal to 1e-11, in double precision."""
    splits = TASKS[task]()
    params = hyper(cell=cell, hidden_layers=layers, hidden_units=units, dropout=dropout)
    torch.manual_seed(seed)
    model = build(params, splits).double().train()
    assert isinstance(model, SequenceModel)
    order = torch.Generator().manual_seed(seed)
    batches = [wide(one) for one in itertools.islice(splits.train.batches(rows, order), 4)]
    theirs = list(found(ByAutograd(model, splits), model, batches))
    mine = list(found(ByHand(model, splits), model, batches))
    assert len(mine) == len(theirs) > 0
    for (loss, grads), (other, others) in zip(mine, theirs, strict=True):
        assert loss == pytest.approx(other, rel=1e-11)
        assert len(grads) == len(others) == len(list(model.parameters()))
        for grad, expected in zip(grads, others, strict=True):
            torch.testing.assert_close(grad, expected, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    task=st.sampled_from(sorted(TASKS)),
    cell=st.sampled_from(CELLS),
    layers=st.integers(1, 2),
    units=st.integers(1, 40),
    rows=st.integers(1, 33),
)
def test_memory_that_nobody_wrote_does_not_count(
    task: str, cell: str, layers: int, units: int, rows: int
) -> None:
    """What is beyond the columns that count, and in workspaces before, may be anything, NaN too."""
    splits = TASKS[task]()
    torch.manual_seed(0)
    model = build(hyper(cell=cell, hidden_layers=layers, hidden_units=units), splits).train()
    assert isinstance(model, SequenceModel)
    batches = list(itertools.islice(splits.train.batches(rows, None), 2))
    usual = list(found(ByHand(model, splits), model, batches))
    give_up_workspaces()
    torch.use_deterministic_algorithms(True)  # All that is empty is filled with NaN then.
    try:
        assert torch.empty(1).isnan()
        spoilt = list(found(ByHand(model, splits), model, batches))
    finally:
        torch.use_deterministic_algorithms(False)
        give_up_workspaces()
    for (loss, grads), (other, others) in zip(usual, spoilt, strict=True):
        assert loss == other
        assert all(map(torch.equal, grads, others))


@pytest.mark.parametrize("most", [0.01, 1e6])
def test_clips_as_torch_does(most: float) -> None:
    """The norm is that of all gradients, and clipping makes them as short as torch makes them."""
    splits = series()
    model = build(hyper(cell="gru", hidden_layers=2), splits).double()
    assert isinstance(model, SequenceModel)
    way, [batch] = ByHand(model, splits), list(splits.train.batches(99, None))
    way.find(wide(batch), None)
    copies = [nn.Parameter(weight.detach().clone()) for weight in model.parameters()]
    for copy, weight in zip(copies, model.parameters(), strict=True):
        copy.grad = None if weight.grad is None else weight.grad.clone()
    norm = nn.utils.clip_grad_norm_(copies, most).item()
    assert way.norm() == pytest.approx(norm, rel=1e-12)
    way.clip(most)
    for copy, weight in zip(copies, model.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, copy.grad, rtol=1e-12, atol=0)


def test_a_target_that_does_not_count() -> None:
    """It has no loss and no gradient; if none counts, all of the head's is 0."""
    splits = text()
    model = build(hyper(), splits).double()
    assert isinstance(model, SequenceModel)
    [batch, *_] = splits.train.batches(8, None)
    targets = batch.targets.clone()
    targets[1], targets[:, 3] = IGNORED, IGNORED
    some, none = (
        replace(batch, targets=targets),
        replace(batch, targets=torch.full_like(targets, IGNORED)),
    )
    (mine, grads), (nothing, zeros) = found(ByHand(model, splits), model, [some, none])
    (theirs, others), (nought, _) = found(ByAutograd(model, splits), model, [some, none])
    assert mine == pytest.approx(theirs, rel=1e-12)
    torch.testing.assert_close(grads, others, rtol=1e-11, atol=1e-12)
    assert nothing == nought == 0
    assert not any(grad.any() for grad in zeros)


@pytest.mark.parametrize("units", [1, 5, 40])
@pytest.mark.parametrize("outputs", [1, 3, 33])
def test_several_outputs(outputs: int, units: int) -> None:
    """Loss and gradients of a forecast of several steps are torch's."""
    torch.manual_seed(outputs)
    leaves = [torch.randn(size).double() for size in ((outputs, units), (outputs,), (9, units))]
    weights, bias, shown = (one.requires_grad_() for one in leaves)
    wanted = torch.randn(9, outputs).double()
    loss = nn.functional.mse_loss(nn.functional.linear(shown, weights, bias), wanted)
    loss.backward()
    made = [torch.full_like(one, 7.0) for one in leaves]
    losses, driven = torch.empty(1, 9).double(), torch.empty(9, outputs).double()
    room = torch.empty(max(units, WIDE), outputs).double()
    given = [one.detach() for one in (shown, weights, bias)]
    tensors = (*given, wanted, *made, losses, driven, room)
    run("squared_error", torch.float64, (9, units, outputs), tensors)
    assert losses.sum().item() / wanted.numel() == pytest.approx(loss.item(), rel=1e-12)
    for mine, leaf in zip(made, leaves, strict=True):
        torch.testing.assert_close(mine, leaf.grad, rtol=1e-10, atol=1e-12)


def test_room_is_enough() -> None:
    """Who gives room to compiled code knows how much it takes."""
    assert head_passes.WIDE == WIDE


def test_what_does_not_fit_is_refused() -> None:
    """A class too large, and a network that was given another precision, are errors, not memory."""
    splits = series()
    model = build(hyper(), splits)
    assert isinstance(model, SequenceModel)
    way, [batch] = ByHand(model, splits), list(splits.train.batches(99, None))
    with pytest.raises(RuntimeError, match="a target is 2, but there are 2 classes"):
        way.find(replace(batch, targets=torch.full_like(batch.targets, 2)), None)
    with pytest.raises(RuntimeError, match="targets of"):
        way.find(replace(batch, targets=batch.targets[:3]), None)
    model.double()
    with pytest.raises(RuntimeError, match="float64"):
        way.find(wide(batch), None)


@pytest.mark.parametrize("classes", [2, 15, 16, 17, 40, 65, 130])
def test_logits_of_all_sizes(classes: int) -> None:
    """Loss and gradient of few and of many classes, and of logits far apart, are torch's."""
    torch.manual_seed(classes)
    shown, weights = torch.randn(9, 5).double(), 30 * torch.randn(classes, 5).double()
    bias, wanted = torch.randn(classes).double(), torch.randint(classes, (9,))
    leaves = [one.clone().requires_grad_() for one in (weights, bias, shown)]
    logits = nn.functional.linear(leaves[2], leaves[0], leaves[1])
    loss = nn.functional.cross_entropy(logits, wanted)
    loss.backward()
    made = [torch.full_like(one, 7.0) for one in (weights, bias, shown)]
    losses, driven = torch.empty(2, 9).double(), torch.empty(9, classes).double()
    room = torch.empty(21, classes).double()
    tensors = (shown, weights, bias, wanted, *made, losses, driven, room)
    run("cross_entropy", torch.float64, (9, 5, classes), tensors)
    assert (losses[0].log() + losses[1]).mean().item() == pytest.approx(loss.item(), rel=1e-12)
    for mine, leaf in zip(made, leaves, strict=True):
        torch.testing.assert_close(mine, leaf.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("spoilt", [math.nan, math.inf])
def test_what_is_not_finite_is_seen(spoilt: float) -> None:
    """A weight that is not finite gives a loss or a norm that is not, whatever the task."""
    for task in TASKS.values():
        model = build(hyper(), task())
        assert isinstance(model, SequenceModel)
        with torch.no_grad():
            model.head.weight[-1, 0] = spoilt
        way = ByHand(model, task())
        [batch, *_] = task().train.batches(8, None)
        loss, _ = way.find(batch, None)
        assert not (math.isfinite(loss) and math.isfinite(way.norm()))


def test_who_is_trained_how(monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand is what compiled layers can do; a user's network and all else are autograd's."""
    splits = sine()
    model = build(hyper(), splits)
    assert isinstance(gradients_of(model, splits), ByHand)
    assert isinstance(gradients_of(model.to(torch.float16), splits), ByAutograd)
    own = OwnNetwork(nn.Flatten(), "mine:build", 1, per_step=False)
    assert isinstance(gradients_of(own, splits), ByAutograd)
    monkeypatch.setattr(gradients, "HAS_PRODUCTS", False)
    assert isinstance(gradients_of(build(hyper(), splits), splits), ByAutograd)


@pytest.mark.parametrize("task", sorted(TASKS))
def test_a_run_goes_either_way(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole epochs come to the same losses and figures either way, up to single precision."""
    splits = TASKS[task]()
    changes = {"cell": "gru", "hidden_layers": 2, "dropout": 0.2, "gradient_clipping": 0.5}
    by_hand = train(start(splits, **changes), 3)
    monkeypatch.setattr(gradients, "HAS_PRODUCTS", False)
    for mine, theirs in zip(by_hand, train(start(splits, **changes), 3), strict=True):
        assert mine.train_loss == pytest.approx(theirs.train_loss, rel=1e-4)
        assert mine.figures == pytest.approx(theirs.figures, rel=1e-3)


def test_nothing_is_left_of_a_minibatch() -> None:
    """Gradients of one minibatch do not add to those of the next."""
    trained = start(sine())
    assert trained.device == CPU
    way = gradients_of(trained.model, trained.splits)
    [batch, *_] = trained.splits.train.batches(16, None)
    first = [grads for _, grads in found(way, trained.model, [batch, batch])]
    for one, other in zip(*first, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_steps_are_the_same_together(kind: str) -> None:
    """All weights as one, or one after another, with gradients elsewhere: the same steps."""
    changes = {"optimizer": kind, "cell": "gru", "weight_decay": 0.01}
    one, other = (start(series(), **changes) for _ in range(2))
    [batch] = series().train.batches(99, None)
    together, alone = ByHand(one.model, series()), ByHand(other.model, series())
    for turn in range(6):
        for way, trained in ((together, one), (alone, other)):
            way.find(batch, None)
            if trained is other and turn != 3:
                for weight in other.model.parameters():
                    weight.grad = None if weight.grad is None else weight.grad.clone()
            trained.optimizer.step()
    assert one.optimizer._one is not None
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    saved, apart = (run.optimizer.state_dict()["state"] for run in (one, other))
    for place, state in saved.items():
        assert float(state.get("step", 6)) == float(apart[place].get("step", 6)) == 6
