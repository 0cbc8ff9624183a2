"""Shapes of the networks, padding that leaks nowhere, and state that is carried."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import hyper, series, sine, text, train
from networks import start as start_run
from torch import Tensor, nn

from search.data.series import SeriesPart
from search.dimensions import CELLS
from search.models import SequenceModel, build, detach, widened
from search.recurrent import State

cells = pytest.mark.parametrize("cell", CELLS)


def network(cell: str, layers: int = 2, *, per_step: bool = False, seed: int = 0) -> SequenceModel:
    """Returns a network of 3 inputs and 4 outputs in double precision, dropout off."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        params = hyper(cell=cell, hidden_layers=layers, hidden_units=5, dropout=0.5)
        return SequenceModel(params, 3, 4, per_step=per_step).double().eval()


def states(state: State) -> tuple[Tensor, ...]:
    """Returns the tensors of a state."""
    return state if isinstance(state, tuple) else (state,)


@cells
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes(cell: str, layers: int) -> None:
    """A network answers (B, O) with a state of (L, B, H), of which an LSTM has two."""
    outputs, state = network(cell, layers)(torch.zeros(7, 9, 3).double())
    assert outputs.shape == (7, 4)
    assert [part.shape for part in states(state)] == [(layers, 7, 5)] * (1 + (cell == "lstm"))


@cells
@pytest.mark.parametrize("layers", [1, 3])
def test_shapes_per_step(cell: str, layers: int) -> None:
    """A network for language answers (B, T, O) to (B, T) indices."""
    indices = torch.arange(14).view(2, 7) % 3
    outputs, state = network(cell, layers, per_step=True)(indices)
    assert outputs.shape == (2, 7, 4)
    assert [part.shape for part in states(state)] == [(layers, 2, 5)] * (1 + (cell == "lstm"))


@cells
def test_the_cell_is_the_one_asked_for(cell: str) -> None:
    """The recurrent layers are torch's own of the cell, with the layers and units asked for."""
    recurrent = network(cell, 3).recurrent
    assert type(recurrent) is {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell]
    assert (recurrent.num_layers, recurrent.hidden_size) == (3, 5)


def test_a_network_fits_its_data() -> None:
    """For each task the network takes the inputs of the data and gives outputs the loss takes."""
    for splits in (sine(), series(), text()):
        batch = next(splits.train.batches(4, None))
        outputs, _ = build(hyper(), splits)(batch.inputs, batch.lengths)
        assert splits.loss(outputs, batch.targets).isfinite()


@settings(max_examples=30)
@given(
    st.sampled_from(CELLS),
    st.lists(st.integers(1, 9), min_size=1, max_size=5),
    st.integers(0, 4),
    st.floats(-1e6, 1e6),
    st.integers(0, 99),
)
def test_padding_reaches_neither_outputs_nor_gradients(
    cell: str, lengths: list[int], extra: int, padding: float, seed: int
) -> None:
    """A padded batch gives what each series gives alone, and padding has and leaves no gradient."""
    generator = torch.Generator().manual_seed(seed)
    alone = [torch.randn(steps, 3, generator=generator).double() for steps in lengths]
    model = network(cell, seed=seed)
    padded = torch.full((len(lengths), max(lengths) + extra, 3), padding).double()
    for row, one in zip(padded, alone, strict=True):
        row[: len(one)] = one
    padded.requires_grad_()

    outputs, _ = model(padded, torch.tensor(lengths))
    outputs.square().sum().backward()
    gradients = [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]
    model.zero_grad()
    expected = torch.cat([model(one[None])[0] for one in alone])
    expected.square().sum().backward()

    torch.testing.assert_close(outputs, expected)
    for gradient, weight in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, weight.grad)
    assert padded.grad is not None
    for row, steps in zip(padded.grad, lengths, strict=True):
        assert not row[steps:].any()
        assert row[:steps].any()


def test_padding_changes_no_training() -> None:
    """A run on series whose padding is filled with rubbish trains to the same bits."""
    splits = series()
    soiled = copy.deepcopy(splits)
    for part in (soiled.train, soiled.valid):
        assert isinstance(part, SeriesPart)
        for row, steps in zip(part.inputs, part.lengths, strict=True):
            row[steps:] = 1e3
    clean, other = start_run(splits, dropout=0.3), start_run(soiled, dropout=0.3)
    assert [epoch.figures for epoch in train(clean, 3)] == [
        epoch.figures for epoch in train(other, 3)
    ]
    assert clean.batch_losses == other.batch_losses


@settings(max_examples=20)
@given(st.sampled_from(CELLS), st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_state_carried_across_chunks_is_one_long_run(cell: str, chunks: list[int]) -> None:
    """A text read in chunks, the detached state carried, gives what it gives in one piece."""
    model = network(cell, per_step=True)
    indices = (torch.arange(2 * sum(chunks)).view(2, -1) * 7) % 3
    whole, last = model(indices)
    pieces, state = [], None
    for chunk in indices.split(chunks, dim=1):
        outputs, state = model(chunk, state=None if state is None else detach(state))
        pieces.append(outputs)
    torch.testing.assert_close(torch.cat(pieces, 1), whole)
    assert state is not None
    for one, other in zip(states(state), states(last), strict=True):
        torch.testing.assert_close(one, other)


@cells
def test_a_detached_state_ends_gradients(cell: str) -> None:
    """No gradient goes through a detached state, whose values stay as they are."""
    _, state = network(cell)(torch.ones(2, 3, 3).double())
    for before, after in zip(states(state), states(detach(state)), strict=True):
        assert before.requires_grad
        assert not after.requires_grad
        assert torch.equal(before, after)


@cells
def test_dropout_acts_in_training_only(cell: str) -> None:
    """With one layer too, dropout changes what a training network answers, and only that."""
    model, inputs = network(cell, 1), torch.ones(4, 3, 3).double()
    assert torch.equal(model(inputs)[0], model(inputs)[0])
    model.train()
    assert not torch.equal(model(inputs)[0], model(inputs)[0])


@cells
@pytest.mark.parametrize("layers", [1, 3])
def test_a_widened_network_computes_the_same(cell: str, layers: int) -> None:
    """Units added to fill 16 stay 0 and change nothing, before and after a step of training."""
    original, inputs = network(cell, layers), torch.randn(7, 9, 3).double()
    for _ in range(2):
        wide = widened(original)
        assert wide.recurrent.hidden_size == 16
        outputs, state = wide.eval()(inputs)
        expected, units = original(inputs)
        torch.testing.assert_close(outputs, expected, rtol=1e-12, atol=1e-12)
        for mine, theirs in zip(states(state), states(units), strict=True):
            assert not mine[..., 5:].any()
            torch.testing.assert_close(mine[..., :5], theirs, rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            for weights in original.parameters():
                weights.add_(torch.randn_like(weights))


def test_a_network_of_full_width_is_not_widened() -> None:
    """A network of 16 units is its own wide network; and so is one that answers every step."""
    params = hyper(hidden_units=16)
    for model in (SequenceModel(params, 3, 4, per_step=False), network("gru", per_step=True)):
        assert widened(model) is model


@cells
def test_a_twin_of_inference_mode_serves_outside(cell: str) -> None:
    """The widened network that inference mode asked for first is of use outside, and the same."""
    model, inputs = network(cell), torch.randn(4, 6, 3).double()
    with torch.inference_mode():
        inside = widened(model).eval()(inputs, None)[0].clone()
    with torch.no_grad():
        assert torch.equal(widened(model).eval()(inputs, None)[0], inside)
