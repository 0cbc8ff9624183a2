"""Our optimizers make the steps of `torch.optim`'s."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.optimizers import COUNTING, MEMORIES, MOMENTUM, Optimizer, gradient_norm

RATE = 0.03
TORCHS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda weights, **options: torch.optim.Adam(weights, RATE, fused=True, **options),
    "sgd": lambda weights, **options: torch.optim.SGD(
        weights, RATE, MOMENTUM, fused=True, **options
    ),
    "rmsprop": lambda weights, **options: torch.optim.RMSprop(
        weights, RATE, foreach=True, **options
    ),
    "adagrad": lambda weights, **options: torch.optim.Adagrad(weights, RATE, fused=True, **options),
}
kinds = pytest.mark.parametrize("kind", MEMORIES)


def network() -> nn.Module:
    """Returns weights of several shapes."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 3))


def give_gradients(weights: list[Tensor], step: int) -> None:
    """Gives every weight a gradient that depends on it and on the step."""
    for weight in weights:
        weight.grad = torch.sin(7 * weight.detach() + step)


def pair(kind: str, decay: float = 0.01) -> tuple[Any, ...]:
    """Returns our optimizer and torch's, and the weights of each, which are equal."""
    mine, theirs = network(), network()
    weights, others = list(mine.parameters()), list(theirs.parameters())
    return (
        Optimizer(kind, weights, RATE, decay),
        TORCHS[kind](others, weight_decay=decay),
        weights,
        others,
    )


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_steps_are_torchs(kind: str, decay: float) -> None:
    """After 50 steps with changing rates the weights are torch's to the last bit."""
    ours, torchs, weights, others = pair(kind, decay)
    for step in range(50):
        ours.rate = torchs.param_groups[0]["lr"] = RATE * 0.9 ** (step // 10)
        give_gradients(weights, step)
        give_gradients(others, step)
        ours.step()
        torchs.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, others, strict=True))


@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_adagrad_where_torch_has_no_fused_kernel(decay: float) -> None:
    """On a GPU its steps are made of products and roots, as torch's are there: to the last bit."""
    ours, _, weights, others = pair("adagrad", decay)
    torchs = torch.optim.Adagrad(others, RATE, foreach=True, weight_decay=decay)
    squares = [torch.zeros_like(weight) for weight in weights]
    for step in range(50):
        give_gradients(weights, step)
        give_gradients(others, step)
        with torch.no_grad():
            ours._divide_by_root(weights, [weight.grad for weight in weights], squares)
        torchs.step()
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights, others, strict=True))


@kinds
def test_a_weight_without_a_gradient(kind: str) -> None:
    """It stays as it is; once it has a gradient, its steps are counted from there, as torch's."""
    ours, torchs, weights, others = pair(kind)
    if kind == "sgd":  # Torch's fused one fails if only some weights have a gradient.
        torchs = torch.optim.SGD(others, RATE, MOMENTUM, weight_decay=0.01)
    before = weights[1].detach().clone()
    for step in range(8):
        give_gradients(weights, step)
        give_gradients(others, step)
        if step < 3:
            weights[1].grad = others[1].grad = None
        ours.step()
        torchs.step()
        if step == 2:
            assert torch.equal(weights[1], before)
    torch.testing.assert_close(weights, others, rtol=1e-6, atol=1e-7)
    ours.zero_grad()
    assert all(weight.grad is None for weight in weights)
    at_rest = [weight.detach().clone() for weight in weights]
    ours.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, at_rest, strict=True))


@kinds
@pytest.mark.parametrize("of_torch", [False, True], ids=["ours", "torchs"])
def test_it_goes_on_from_what_was_saved(kind: str, of_torch: bool) -> None:
    """What it remembers can be saved and loaded; so can what `torch.optim` had saved."""
    ours, torchs, weights, others = pair(kind)
    for step in range(6):
        give_gradients(weights, step)
        give_gradients(others, step)
        ours.step()
        torchs.step()
    saved = copy.deepcopy((torchs if of_torch else ours).state_dict())
    taken = [nn.Parameter(weight.detach().clone()) for weight in weights]
    heir = Optimizer(kind, taken, RATE, 0.01)
    heir.load_state_dict(saved)
    for step in range(6, 12):
        give_gradients(weights, step)
        give_gradients(list(taken), step)
        ours.step()
        heir.step()
    assert all(torch.equal(a, b) for a, b in zip(weights, taken, strict=True))


@kinds
def test_all_weights_as_one_go_back_to_what_was_saved(kind: str) -> None:
    """Who goes back to earlier weights, in the same memory, makes the same steps from there."""
    plain, place, weights = torch.sin(torch.arange(53.0)), 0, []
    gradients = torch.zeros_like(plain)
    for shape in ((5, 7), (5,), (13,)):
        own = slice(place, place := place + math.prod(shape))
        weights.append(nn.Parameter(plain[own].view(shape)))
        weights[-1].grad = gradients[own].view(shape)
    optimizer = Optimizer(kind, weights, RATE, 0.01, together=True)

    def go_on(first: int) -> torch.Tensor:
        for step in range(first, first + 3):
            gradients.copy_(torch.sin(7 * plain + step))
            optimizer.step()
        return plain.clone()

    before = go_on(0)
    saved = copy.deepcopy(optimizer.state_dict())
    after = go_on(3)
    plain.copy_(before)
    optimizer.load_state_dict(saved)
    assert torch.equal(go_on(3), after)
    assert not torch.equal(before, after)


@kinds
def test_weights_of_several_dtypes(kind: str) -> None:
    """A network of the user's own may have weights in single and in double precision."""
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, dtype=torch.float64))]
    optimizer = Optimizer(kind, weights, RATE, 0.0)
    for step in range(3):
        give_gradients(list(weights), step)
        optimizer.step()
    torch.testing.assert_close(weights[0].double(), weights[1], rtol=1e-5, atol=1e-6)
    assert weights[1].dtype == torch.float64
    assert not torch.equal(weights[0], torch.ones(3))


def test_an_unknown_optimizer_is_refused() -> None:
    """No optimizer stands in for one that is not known."""
    with pytest.raises(ValueError, match="lion"):
        Optimizer("lion", [], RATE, 0.0)


def test_the_norm_is_torchs() -> None:
    """The norm of all gradients is what torch says, those left out that are not there."""
    weights = list(network().parameters())
    give_gradients(list(weights), 1)
    weights[2].grad = None
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    assert torch.equal(gradient_norm(weights), nn.utils.get_total_norm(gradients))


@pytest.mark.parametrize("kind", COUNTING)
def test_steps_are_counted_in_single_precision(kind: str) -> None:
    """As torch's kernels on a GPU take them to be, whatever the default is."""
    weight = nn.Parameter(torch.ones(3, dtype=torch.float64))
    torch.set_default_dtype(torch.float64)
    try:
        assert Optimizer(kind, [weight], RATE, 0.0).fresh(weight, 7)["step"].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@kinds
def test_weights_that_are_a_part_of_others(kind: str) -> None:
    """Weights with gaps between them in memory are changed, and nothing in the gaps."""
    base = torch.arange(12.0).view(3, 4)
    strided, plain = nn.Parameter(base[:, ::2]), nn.Parameter(base[:, ::2].clone())
    optimizers = [Optimizer(kind, [weight], RATE, 0.01) for weight in (strided, plain)]
    for step in range(5):
        give_gradients([strided, plain], step)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(strided, plain)
    assert torch.equal(base[:, 1::2], torch.arange(12.0).view(3, 4)[:, 1::2])


@kinds
def test_complex_weights(kind: str) -> None:
    """A complex weight is two real ones, as torch's optimizers see it."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(3, dtype=torch.complex64))
    real = nn.Parameter(torch.view_as_real(weight.detach()).clone())
    optimizers = [Optimizer(kind, [one], RATE, 0.01) for one in (weight, real)]
    for step in range(5):
        give_gradients([real], step)
        assert real.grad is not None
        weight.grad = torch.view_as_complex(real.grad.clone())
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(torch.view_as_real(weight.detach()), real.detach())


def test_what_was_saved_is_not_shared() -> None:
    """Loading copies: who goes on does not change what was saved."""
    first, second = (Optimizer("adam", list(network().parameters()), RATE, 0.0) for _ in range(2))
    give_gradients(first._weights, 0)
    first.step()
    saved = first.state_dict()
    before = copy.deepcopy(saved)
    second.load_state_dict(saved)
    give_gradients(second._weights, 1)
    second.step()
    for place, state in before["state"].items():
        assert all(torch.equal(one, saved["state"][place][name]) for name, one in state.items())
    assert any(not torch.equal(a, b) for a, b in zip(first._weights, second._weights, strict=True))


def test_no_gradient_at_all() -> None:
    """The norm of no gradient is 0."""
    assert gradient_norm(list(network().parameters())) == 0
