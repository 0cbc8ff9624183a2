"""Gradients by hand are autograd's: of every cell, task, depth and dropout; so is what clips."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CPU, hyper, series, sine, start, text, train
from torch import Tensor, nn

from search import gradients
from search.data.losses import cross_entropy
from search.data.splits import IGNORED, Batch, Splits
from search.dimensions import CELLS
from search.factories import OwnNetwork
from search.gradients import ByAutograd, ByHand, gradients_of
from search.models import SequenceModel, build
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


def test_losses_that_do_not_count() -> None:
    """A target that does not count has no loss and no gradient; if none counts, all is 0."""
    outputs = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([1, IGNORED, 3, IGNORED, 0])
    loss = nn.functional.cross_entropy(outputs, targets, ignore_index=IGNORED)
    loss.backward()
    mine, gradient = cross_entropy(outputs.detach(), targets)
    assert mine.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(gradient, outputs.grad, rtol=1e-12, atol=1e-15)
    nothing, flat = cross_entropy(outputs.detach(), torch.full((5,), IGNORED))
    assert nothing.item() == 0
    assert not flat.any()


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
    run = start(sine())
    assert run.device == CPU
    way, [batch, *_] = gradients_of(run.model, run.splits), list(run.splits.train.batches(16, None))
    first = [grads for _, grads in found(way, run.model, [batch, batch])]
    for one, other in zip(*first, strict=True):
        assert torch.equal(one, other)
