"""Our layers of K networks are torch's one after another, and know nothing of each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_recurrent import assert_equal, cells
from torch import Tensor

from search.models import CELLS
from search.recurrent import run_layer


def networks(cell: str, count: int, sizes: tuple[int, int, int, int]) -> Any:
    """Returns so many networks of one layer, and their inputs (T, K, B, F) and first states."""
    batch, time, inputs, hidden = sizes
    torch.manual_seed(0)
    made = [CELLS[cell](inputs, hidden) for _ in range(count)]
    steps = torch.randn(time, count, batch, inputs)
    return made, steps, [torch.randn(count, batch, hidden) for _ in range(1 + (cell == "lstm"))]


def together(cell: str, made: Any, steps: Tensor, start: list[Tensor]) -> list[Tensor]:
    """Returns states, last states and all gradients of networks run at once, the K in front."""
    weights = [
        torch.stack([getattr(one, name).detach() for one in made])
        for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
    ]
    leaves = [leaf.detach().requires_grad_() for leaf in (*weights, steps, *start)]
    states, ends = run_layer(cell, leaves[4], leaves[5:], leaves[:4])
    loss = _loss(states.transpose(0, 1), ends)
    found = list(torch.autograd.grad(loss.sum(), leaves))
    found[4] = found[4].transpose(0, 1)
    return [states.detach().transpose(0, 1), *(end.detach() for end in ends), *found]


def alone(made: Any, steps: Tensor, start: list[Tensor]) -> list[Tensor]:
    """Returns the same of torch's own modules, one after another."""
    answers = []
    for at, one in enumerate(made):
        leaves = [
            leaf.detach().requires_grad_() for leaf in (steps[:, at], *(s[at] for s in start))
        ]
        first = [leaf.unsqueeze(0) for leaf in leaves[1:]]
        states, ends = one(leaves[0], tuple(first) if len(first) > 1 else first[0])
        ends = [end.squeeze(0) for end in (ends if isinstance(ends, tuple) else (ends,))]
        loss = _loss(states.unsqueeze(0), [end.unsqueeze(0) for end in ends])
        found = torch.autograd.grad(loss.sum(), [*one.parameters(), *leaves])
        answers.append([states, *ends, *found])
    return [torch.stack(parts).detach() for parts in zip(*answers, strict=True)]


def _loss(states: Tensor, ends: Any) -> Tensor:
    """(K, T, B, H) and last states (K, B, H) → (K,)."""
    parts = [states.square(), *(end.pow(3) for end in ends)]
    return torch.stack([part.flatten(1).sum(1) for part in parts]).sum(0)


@cells
@settings(max_examples=30)
@given(
    count=st.integers(1, 5),
    batch=st.integers(1, 5),
    time=st.integers(1, 9),
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 17),
)
def test_k_networks_are_k_of_torchs(
    cell: str, count: int, batch: int, time: int, inputs: int, hidden: int
) -> None:
    """States and all gradients of networks at once are those of torch's modules in turn."""
    torch.set_default_dtype(torch.float64)
    try:
        made, steps, start = networks(cell, count, (batch, time, inputs, hidden))
    finally:
        torch.set_default_dtype(torch.float32)
    assert_equal(together(cell, made, steps, start), alone(made, steps, start))


@cells
@pytest.mark.parametrize("hidden", [16, 48, 64])
@pytest.mark.parametrize("batch", [16, 32])
def test_a_network_does_not_know_its_neighbours(cell: str, hidden: int, batch: int) -> None:
    """Alone, or in any place in any company, a network's numbers are the same to the last bit."""
    count = 9
    made, steps, start = networks(cell, count, (batch, 12, 3, hidden))
    whole = together(cell, made, steps, start)
    for chosen in ([0], [8], [5, 2], [1, 2, 3, 4, 5], list(reversed(range(count)))):
        part = together(
            cell, [made[at] for at in chosen], steps[:, chosen], [one[chosen] for one in start]
        )
        assert all(torch.equal(a, b[chosen]) for a, b in zip(part, whole, strict=True))


def test_weights_of_another_cell_are_refused() -> None:
    """Weights of a GRU are none of an LSTM, whose gates are more."""
    made, steps, start = networks("gru", 2, (3, 4, 5, 6))
    weights = [
        torch.stack(parts) for parts in zip(*(one.parameters() for one in made), strict=True)
    ]
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_layer("lstm", steps, [*start, *start], weights)
