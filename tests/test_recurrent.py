"""Our layers of one network equal torch's own: states and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search import recurrent
from search.dropout import dropped
from search.models import CELLS
from search.recurrent import recur

cells = pytest.mark.parametrize("cell", CELLS)


def make(cell: str, inputs: int = 3, hidden: int = 5, layers: int = 1, **options: Any) -> Any:
    """Returns torch's layers in double precision, and random inputs (4, 7, ``inputs``)."""
    torch.manual_seed(0)
    made = CELLS[cell](inputs, hidden, layers, batch_first=True, **options).double()
    return made, torch.randn(4, 7, inputs, dtype=torch.float64)


def gradients(layers: Any, answers: Any, *leaves: Tensor) -> list[Tensor]:
    """Returns what a loss of all steps and of the last state gives to weights and ``leaves``."""
    hidden, *states = flat(answers)
    weight = torch.linspace(-1, 1, hidden.numel(), dtype=hidden.dtype).view_as(hidden)
    loss = (weight * hidden.square()).sum() + sum(state.pow(3).sum() for state in states)
    return list(torch.autograd.grad(loss, [*layers.parameters(), *leaves]))


def flat(answers: Any) -> list[Tensor]:
    """Returns the states at all steps, the last, and of an LSTM the last cells."""
    hidden, state = answers
    return [hidden, *(state if isinstance(state, tuple) else (state,))]


def begun(cell: str, *shape: int, **options: Any) -> Any:
    """Returns random first states, and the same as layers take them."""
    count = 2 if cell == "lstm" else 1
    made = [torch.randn(shape, dtype=torch.float64, **options) for _ in range(count)]
    return made, tuple(made) if count > 1 else made[0]


def assert_equal(ours: Any, theirs: Any) -> None:
    """Two lists of tensors, or answers of layers, are equal to 1e-9."""
    if isinstance(ours, tuple):
        ours, theirs = flat(ours), flat(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@cells
@settings(max_examples=40)
@given(
    batch=st.integers(1, 5),
    time=st.integers(1, 9),
    inputs=st.integers(1, 4),
    hidden=st.integers(1, 17),
    layers=st.integers(1, 3),
    seed=st.integers(0, 9),
    started=st.booleans(),
)
def test_equals_torch(
    cell: str,
    batch: int,
    time: int,
    inputs: int,
    hidden: int,
    layers: int,
    seed: int,
    started: bool,
) -> None:
    """States, last state and the gradients of weights, inputs and first state are torch's own."""
    torch.manual_seed(seed)
    network = CELLS[cell](inputs, hidden, layers, batch_first=True).double()
    steps = torch.randn(batch, time, inputs, dtype=torch.float64, requires_grad=True)
    states, state = begun(cell, layers, batch, hidden, requires_grad=True)
    start = state if started else None
    leaves = [steps, *states] if started else [steps]
    ours, theirs = recur(network, steps, start), network(steps, start)
    assert_equal(ours, theirs)
    assert_equal(gradients(network, ours, *leaves), gradients(network, theirs, *leaves))


@cells
def test_the_gradient_is_that_of_finite_differences(cell: str) -> None:
    """Without torch's layers as a witness, too, each gradient is what a small step gives."""
    network, steps = make(cell, inputs=2, hidden=3)
    count = 2 if cell == "lstm" else 1

    def run(*tensors: Tensor) -> Tensor:
        inputs, states, weights = tensors[0], tensors[1 : 1 + count], tensors[1 + count :]
        named = weights_of(dict(zip(dict(network.named_parameters()), weights, strict=True)))
        state = states if count > 1 else states[0]
        made = torch.func.functional_call(_Calling(network), named, (inputs, state))
        assert isinstance(made, Tensor)
        return made

    states, _ = begun(cell, 1, 4, 3)
    leaves = [steps, *states, *(weight.detach() for weight in network.parameters())]
    assert torch.autograd.gradcheck(run, [leaf.requires_grad_() for leaf in leaves])


class _Calling(nn.Module):
    """Layers that are run by ours, as a module whose weights can be replaced."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, inputs: Tensor, state: Any) -> Tensor:
        """Returns the states at all steps."""
        return recur(self.layers, inputs, state)[0]


def weights_of(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns them under the names that they have in `_Calling`."""
    return {f"layers.{name}": weight for name, weight in weights.items()}


@cells
def test_dropout_falls_between_layers(cell: str) -> None:
    """What a layer shows the next is dropped, in training; what the last answers is not."""
    network, steps = make(cell, layers=3, dropout=0.4)
    torch.manual_seed(7)
    ours = recur(network, steps, None)
    layers = [CELLS[cell](3 if layer == 0 else 5, 5).double() for layer in range(3)]
    torch.manual_seed(7)
    theirs, ends = steps.transpose(0, 1), []
    for one, weights in zip(layers, network.all_weights, strict=True):
        one.load_state_dict(dict(zip(one.state_dict(), weights, strict=True)))
        theirs, end = one(dropped(theirs, 0.4, training=True) if ends else theirs)
        ends.append(end)
    assert_equal([ours[0]], [theirs.transpose(0, 1)])
    last = ours[1][0] if cell == "lstm" else ours[1]
    assert_equal([last[2]], [(ends[2][0] if cell == "lstm" else ends[2])[0]])
    network.eval()
    assert_equal(recur(network, steps, None), network(steps))


@cells
@pytest.mark.parametrize("optimizer", ["Adam", "SGD", "RMSprop", "Adagrad"])
def test_many_steps_of_training(cell: str, optimizer: str) -> None:
    """After 60 steps of any optimizer the weights are those that torch's own layers come to."""
    network, steps = make(cell, layers=2)
    trained = []
    for run in (recur, lambda layers, inputs, state: layers(inputs, state)):
        mine = copy.deepcopy(network)
        steered = getattr(torch.optim, optimizer)(mine.parameters(), 0.01)
        for step in range(60):
            hidden, _ = run(mine, steps * (1 + step % 3), None)
            loss = (hidden[:, -1] - 0.3).square().mean()
            steered.zero_grad()
            loss.backward()
            steered.step()
        trained.append(list(mine.parameters()))
    assert_equal(*trained)


@cells
def test_each_weight_has_a_gradient_of_its_own(cell: str) -> None:
    """No two gradients share memory: to shorten them in place would shorten those twice."""
    network, steps = make(cell, layers=2)
    loss = recur(network, steps, None)[0].sum()
    loss.backward()  # type: ignore[no-untyped-call]
    places = [
        weight.grad.data_ptr() if weight.grad is not None else 0 for weight in network.parameters()
    ]
    assert len(set(places)) == len(places)


@cells
def test_state_carried_on(cell: str) -> None:
    """A sequence in two pieces, the second from the first's last state, is the whole sequence."""
    network, steps = make(cell, layers=2)
    first, state = recur(network, steps[:, :3], None)
    second, last = recur(network, steps[:, 3:], state)
    assert_equal((torch.cat([first, second], 1), last), recur(network, steps, None))


@cells
def test_inputs_of_any_layout(cell: str) -> None:
    """Inputs and gradients that lie in memory in another order change nothing."""
    network, steps = make(cell)
    turned = steps.transpose(0, 1).contiguous().transpose(0, 1)
    ours, theirs = recur(network, turned, None), network(steps)
    assert_equal(gradients(network, ours), gradients(network, theirs))


@cells
def test_the_same_bits_again(cell: str) -> None:
    """In single precision the same step gives the same bits each time."""
    network, steps = make(cell, hidden=43, layers=2)
    network, steps = network.float(), steps.float()
    one, other = (gradients(network, recur(network, steps, None)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@cells
def test_without_gradients_the_numbers_are_the_same(cell: str) -> None:
    """Validation and prediction compute what training does, to the last bit."""
    network, steps = make(cell, hidden=43, layers=2)
    network, steps = network.float(), steps.float()
    ours = flat(recur(network, steps, None))
    with torch.no_grad():
        theirs = flat(recur(network, steps, None))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@cells
def test_passes_beside_each_other(cell: str) -> None:
    """Passes before others' ways back, and one's way back twice, do not disturb each other."""
    network, steps = make(cell, hidden=6, layers=2)
    parts = (2 * steps[:, :6], steps[:, :3], steps)
    apart = [gradients(network, recur(network, part, None)) for part in parts]
    longer, shorter, again = (recur(network, part, None) for part in parts)
    assert_equal(gradients(network, shorter), apart[1])
    loss, weights = longer[0].square().sum(), list(network.parameters())
    once, twice = (torch.autograd.grad(loss, weights, retain_graph=True) for _ in range(2))
    assert_equal(list(once), list(twice))
    assert_equal(gradients(network, longer), apart[0])
    del longer, loss
    other = recur(network, parts[0], None)
    assert_equal(gradients(network, again), apart[2])
    assert_equal(gradients(network, other), apart[0])


@cells
def test_single_precision(cell: str) -> None:
    """In single precision states and gradients are torch's to a few roundings of 1."""
    network, steps = make(cell, hidden=40, layers=2)
    network, steps = network.float(), steps.float()
    ours, theirs = recur(network, steps, None), network(steps)
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    pairs = zip(gradients(network, ours), gradients(network, theirs), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * other.abs().max().item())


@cells
@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 4, 5), (1, 4, 6)])
def test_a_state_of_another_shape_is_refused(cell: str, shape: tuple[int, ...]) -> None:
    """A state that is not one of these layers and this batch is an error, as torch has it."""
    network, steps = make(cell)
    with pytest.raises(RuntimeError, match=r"Expected hidden.* size"):
        recur(network, steps, begun(cell, *shape)[1])


@cells
@pytest.mark.parametrize(
    "shape", [(4, 7, 2), (4, 7, 4), (4, 0, 3)], ids=["narrow", "wide", "no step"]
)
def test_inputs_of_another_shape_are_refused(cell: str, shape: tuple[int, ...]) -> None:
    """Inputs that are not what the weights are for are an error, and no memory is looked at."""
    network, _ = make(cell)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        recur(network, torch.zeros(shape, dtype=torch.float64), None)


@cells
def test_inputs_of_another_precision_are_refused(cell: str) -> None:
    """Inputs of single precision for weights of double are an error, as in torch."""
    network, steps = make(cell)
    with pytest.raises(RuntimeError, match="differ in precision"):
        recur(network, steps.float(), None)


def test_another_function_than_tanh_is_torchs() -> None:
    """Layers that we have no code for are left to torch."""
    layers, steps = nn.RNN(3, 5, nonlinearity="relu", batch_first=True), torch.randn(4, 7, 3)
    assert_equal(recur(layers, steps, None), layers(steps))


@cells
def test_inference_mode(cell: str) -> None:
    """What ran in inference mode leaves nothing behind that training would stumble over."""
    network, steps = make(cell)
    with torch.inference_mode():
        inside = recur(network, steps, None)[0]
    ours, theirs = recur(network, steps, None), network(steps)
    assert_equal([inside.clone()], [theirs[0]])
    assert_equal(gradients(network, ours), gradients(network, theirs))


@cells
def test_what_is_no_number_stays_none(cell: str) -> None:
    """An infinite weight, as a network that diverges may have, makes answers NaN, as in torch."""
    network, steps = make(cell)
    with torch.no_grad():
        network.weight_hh_l0[0, 0] = torch.inf
        network.weight_hh_l0[0, 1] = -torch.inf
    ours, theirs = flat(recur(network, steps, None)), flat(network(steps))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.isnan(), other.isnan())
    assert ours[0].isnan().any()


@cells
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_what_it_is_compiled_for(
    cell: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where torch keeps its products to itself, or in other precisions, layers are torch's own."""
    if dtype != torch.bfloat16:
        monkeypatch.setattr(recurrent, "HAS_PRODUCTS", False)
    network, steps = make(cell, layers=2)
    network, steps = network.to(dtype), steps.to(dtype)
    ours, theirs = recur(network, steps, None), network(steps)
    for one, other in zip(flat(ours), flat(theirs), strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(gradients(network, ours), gradients(network, theirs), strict=True):
        torch.testing.assert_close(one, other)
