"""Series of different lengths: packed whole, and trained to what torch makes of packed ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from search import recurrent
from search.models import ALIGNED, CELLS
from search.packing import full, packed
from search.recurrent import recur, recur_to_ends

cells = pytest.mark.parametrize("cell", CELLS)
ragged = st.lists(st.integers(1, 9), min_size=1, max_size=8)


@given(ragged, st.integers(0, 3))
def test_nothing_is_lost(lengths: list[int], more: int) -> None:
    """Every real step of every row lies in one place, after the step before it."""
    steps = max(lengths) + more
    found = packed(torch.tensor(lengths), steps)
    if min(lengths) == steps:
        assert found is None
        return
    assert found is not None
    assert found.places is not None
    assert found.before is not None
    assert found.ends is not None
    assert found.rows == len(lengths)
    assert found.total == sum(lengths)
    assert found.steps == max(lengths)
    assert found.live.tolist()[: found.steps] == [
        sum(own > t for own in lengths) for t in range(max(lengths))
    ]
    where = [(place // steps, place % steps) for place in found.places.tolist()]
    assert sorted(where) == [(row, t) for row, own in enumerate(lengths) for t in range(own)]
    assert [t for _, t in where] == sorted(t for _, t in where)
    states: list[tuple[int, int]] = [(row, -1) for row, _ in where[: len(lengths)]] + where
    befores = [states[at] for at in found.before.tolist()]
    assert befores == [(row, t - 1) for row, t in where]
    assert [where[at] for at in found.ends.tolist()] == [(r, n - 1) for r, n in enumerate(lengths)]
    assert torch.equal(found.befores(torch.arange(len(states))), found.before)


@given(ragged, st.integers(1, 5))
def test_rows_that_end_together(lengths: list[int], unit: int) -> None:
    """At each step there are as many rows as a unit needs, and the real ones are among them."""
    steps = max(lengths)
    exact, found = packed(torch.tensor(lengths), steps), packed(torch.tensor(lengths), steps, unit)
    if exact is None or found is None:
        assert found is None
        return
    assert found.places is not None
    assert found.ends is not None
    for real, live in zip(exact.live.tolist(), found.live.tolist(), strict=True):
        assert real <= live <= len(lengths)
        assert live % unit == 0 or live == len(lengths)
        assert live - real < unit
    assert len(found.places) == found.total == sum(found.live.tolist())
    where = [(place // steps, place % steps) for place in found.places.tolist()]
    assert len({*where}) == found.total
    assert [where[at] for at in found.ends.tolist()] == [(r, n - 1) for r, n in enumerate(lengths)]


def test_where_all_rows_have_all_steps() -> None:
    """Then they lie step after step, and the states before them likewise."""
    found = full(3, 2)
    assert (found.live.tolist(), found.total) == ([2, 2, 2], 6)
    states = torch.arange(8)
    assert torch.equal(found.befores(states)[: found.total], states[:6])


def make(cell: str, lengths: list[int], hidden: int, layers: int, seed: int) -> Any:
    """Returns layers in double precision, padded inputs and lengths."""
    torch.manual_seed(seed)
    network = CELLS[cell](3, hidden, layers, batch_first=True).double()
    inputs = torch.randn(len(lengths), max(lengths), 3, dtype=torch.float64, requires_grad=True)
    return network, inputs, torch.tensor(lengths)


def torchs(network: Any, inputs: Tensor, lengths: Tensor) -> Tensor:
    """Returns (B, H) what torch makes of packed series."""
    series = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
    state = network(series)[1]
    last: Tensor = (state[0] if isinstance(state, tuple) else state)[-1]
    return last


def gradients(network: nn.Module, ends: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
    """Returns those of all weights and of the inputs."""
    weight = torch.linspace(-1, 1, ends.numel(), dtype=ends.dtype).view_as(ends)
    loss = (weight * ends.square() + ends).sum()
    return torch.autograd.grad(loss, [*network.parameters(), inputs])


@cells
@settings(max_examples=40)
@given(ragged, st.integers(1, 17), st.integers(1, 3), st.integers(0, 9))
def test_equals_torch(cell: str, lengths: list[int], hidden: int, layers: int, seed: int) -> None:
    """States at the ends, and the gradients of weights and inputs, are those of torch."""
    network, inputs, own = make(cell, lengths, hidden, layers, seed)
    ours, theirs = recur_to_ends(network, inputs, own), torchs(network, inputs, own)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    pairs = (gradients(network, ends, inputs) for ends in (ours, theirs))
    for one, other in zip(*pairs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@cells
def test_without_compiled_code(cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where layers are torch's own, the ends are the same."""
    network, inputs, lengths = make(cell, [3, 7, 1], 5, 2, 0)
    ours = recur_to_ends(network, inputs, lengths)
    monkeypatch.setattr(recurrent, "HAS_PRODUCTS", False)
    torch.testing.assert_close(ours, recur_to_ends(network, inputs, lengths))


@cells
@pytest.mark.parametrize("value", [torch.nan, 1e30])
def test_what_is_after_an_end_does_not_matter(cell: str, value: float) -> None:
    """Padding may be anything: not a bit of states and gradients depends on it."""
    network, inputs, lengths = make(cell, [3, 7, 1, 7], 5, 2, 0)
    padding = torch.arange(7) >= lengths[:, None]
    other = inputs.detach().masked_fill(padding[:, :, None], value).requires_grad_()
    ends = [recur_to_ends(network, one, lengths) for one in (inputs, other)]
    assert torch.equal(*ends)
    found = [gradients(network, *both) for both in zip(ends, (inputs, other), strict=True)]
    for one, another in zip(*found, strict=True):
        assert torch.equal(one, another)


@cells
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_series_alone(cell: str, dtype: torch.dtype) -> None:
    """With units and rows in sixteens, a series comes to the same bits in any company."""
    torch.manual_seed(1)
    network = CELLS[cell](12, 32, 2, batch_first=True).to(dtype)
    lengths = torch.randint(1, 30, (160,))
    inputs = torch.randn(160, 29, 12, dtype=dtype)
    with torch.no_grad():
        ends = recur_to_ends(network, inputs, lengths, ALIGNED)
        for chosen in (torch.arange(40, 56), torch.randperm(160)[:48]):
            made = recur_to_ends(network, inputs[chosen], lengths[chosen], ALIGNED)
            assert torch.equal(made, ends[chosen])
        for at in range(0, 160, 7):
            own = inputs[at, : lengths[at]].expand(ALIGNED, -1, -1)
            assert torch.equal(recur(network, own, None)[0][0, -1], ends[at])


@cells
def test_no_number_stays_none(cell: str) -> None:
    """A series with a value that is no number has such an end, and no other has."""
    network, inputs, lengths = make(cell, [3, 7, 2], 5, 2, 0)
    wrong = inputs.detach().clone()
    wrong[0, 1, 0] = torch.nan
    ends = recur_to_ends(network, wrong, lengths)
    assert ends.isnan().any(1).tolist() == [True, False, False]
