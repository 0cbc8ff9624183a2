"""RNN, GRU and LSTM layers of one network as operations of autograd, gradients derived by hand.

Each pass, there and back, is one call of compiled code (`search.layer_passes`).

Shapes: B minibatch, T time, N steps of all rows, packed (`search.packing`), F inputs of a layer, H
hidden, G = H, 3 H (GRU) or 4 H (LSTM). Where all rows have all steps, (T, B, ·) may stand for
(N, ·).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from search.layer_memory import Loan, Workspace, even
from search.layer_tapes import Tape
from search.object_code import run
from search.packing import Packing


class CompiledTape(Tape):
    """Of compiled code; to that what autograd's context is.

    Attributes:
        into: As given.
        needs_input_grad: As autograd has it, of the inputs.
        places: As given to `back`.
        saved_tensors: As autograd has them.
    """

    def __init__(self, cell: str, into: Sequence[Tensor], *, wanted: bool) -> None:
        self._cell = cell
        self.into = into
        self.needs_input_grad = (wanted,)
        self.places: Tensor | slice | None = None
        self.saved_tensors: tuple[Tensor, ...] = ()

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keeps tensors, as autograd's context does."""
        self.saved_tensors = tensors

    def there(
        self, inputs: Tensor, packing: Packing, start: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Runs compiled code."""
        features, rows = weights[0].shape[1], packing.rows
        fits = inputs.shape == (packing.total, features) and len(start[0]) == rows
        if not fits or inputs.dtype != weights[0].dtype or start[0].dtype != inputs.dtype:
            _check(self._cell, inputs, packing, start, weights)
        made = _LAYERS[self._cell].forward(self, inputs, packing, *start, *weights)
        return (made[0], [made[1]]) if self._cell == "lstm" else (made, [])

    def back(self, gradient: Tensor, places: Tensor | slice | None = None) -> Tensor | None:
        """Runs compiled code."""
        self.places = places
        grads = (gradient, None) if self._cell == "lstm" else (gradient,)
        made: Tensor | None = _LAYERS[self._cell].backward(self, *grads)[0]
        return made


def run_compiled(
    cell: str,
    inputs: Tensor,
    packing: Packing,
    start: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """Runs one layer of one network by compiled code.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        inputs: (N, F); or (T, B, F), if all rows have all steps.
        packing: Of which steps.
        start: (B, H), one or two.
        weights: Of the layer.

    Returns:
        The state after each step, (N, H) or (T, B, H); and, for LSTM, (B, H) the cells after the
        last, if all rows have all steps.
    """
    _check(cell, inputs, packing, start, weights)
    made = _LAYERS[cell].apply(inputs, packing, *start, *weights)
    return (made[0], [made[1]]) if cell == "lstm" else (made, [])


def _check(
    cell: str,
    inputs: Tensor,
    packing: Packing,
    start: Sequence[Tensor],
    weights: Sequence[Tensor],
) -> None:
    """Compiled code looks at memory without asking whether it is there.

    Raises:
        RuntimeError: Shapes or precisions do not fit together, or there is no step.
    """
    hidden, features = start[0].shape[-1], inputs.shape[-1]
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell] * hidden
    wanted: list[tuple[int, ...]] = [
        (packing.total, features),
        *[(packing.rows, hidden)] * len(start),
    ]
    wanted += [(gates, features), (gates, hidden), (gates,), (gates,)]
    found: list[tuple[int, ...]] = [(math.prod(inputs.shape[:-1]), features)]
    found += [tuple(one.shape) for one in (*start, *weights)]
    if found != wanted or not packing.total:
        raise RuntimeError(f"inputs, states and weights of these shapes do not fit: {found}")
    kinds = {(one.dtype, one.device) for one in (inputs, *start, *weights)}
    if len(kinds) > 1:
        raise RuntimeError(f"inputs, states and weights differ in precision or device: {kinds}")


class _Room(Workspace):
    """Memory of one pass: for each step (B, ·), `widths` times H."""

    widths: tuple[int, ...]

    def __init__(self, like: Tensor, steps: int) -> None:
        rows, hidden = like.shape
        self._parts = tuple(like.new_empty(steps, rows, width * hidden) for width in self.widths)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """All there is."""
        return self._parts


class _StateGradients(_Room):
    """Of the states at all steps, where the layer starts first."""

    def __init__(self, like: Tensor, steps: int) -> None:
        rows, hidden = like.shape
        self._parts = (like.new_empty(steps, rows, even(hidden)),)


class _Gradients:
    """What a layer's way back makes.

    Args:
        ctx: Knows the packing, and whether the gradient of the inputs is wanted.
        inputs: (N, F).
        states: (B + N, H).
        w_in: (G, F).
        w_h: (G, H).
        grad: (N, H) of the states, but those where the layer starts.

    Attributes:
        states: Room for (B + N, H): what is to be passed on, the states' gradients but the first.
        inputs: Of the inputs; None if it is not wanted.
        weights: Of both weights and the biases.
        sizes: Columns of the first two as they lie in memory, of which the last may be no more
            than room; 0 where there are none.
    """

    def __init__(
        self, ctx: Any, inputs: Tensor, states: Tensor, w_in: Tensor, w_h: Tensor, grad: Tensor
    ) -> None:
        rows = ctx.packing.rows
        self._loan = Loan(_StateGradients, states[:rows], ctx.packing.steps + 1)
        [self.states] = self._loan.space.parts
        hidden, features, wide = states.shape[1], inputs.shape[-1], self.states.shape[2]
        flat = self.states.view(-1, wide)
        given = flat[rows : len(states)]
        if isinstance(ctx, CompiledTape) and ctx.places is not None:
            given.zero_()[ctx.places, :hidden] = grad
        else:
            given[:, hidden:] = 0
            given[:, :hidden].view(grad.shape).copy_(grad)
        self._start = flat[:rows, :hidden]
        wanted = ctx.needs_input_grad[0]
        self._inputs = inputs.new_empty(*inputs.shape[:-1], even(features) if wanted else 0)
        self.inputs = self._inputs[..., :features] if wanted else None
        self.sizes = wide, self._inputs.shape[-1]
        self._room = w_in.new_empty(max(even(features), wide), even(len(w_in)))
        if isinstance(ctx, CompiledTape):
            self.weights = list(ctx.into)
        else:
            biases = w_in.new_empty(2, len(w_in))
            self.weights = [torch.empty_like(w_in), torch.empty_like(w_h), *biases]

    def tensors(self, biases: int) -> list[Tensor]:
        """Returns those of the inputs and weights, and of so many biases; and room."""
        return [self._inputs, *self.weights[: 2 + biases], self._room]

    @property
    def start(self) -> Tensor:
        """(B, H) that of the first state."""
        return self._start.clone()


class _RNNLayer(torch.autograd.Function):
    """h' = tanh(W_i x + b_i + W_h h + b_h): Elman's network, as `torch.nn.RNN` has it."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        packing: Packing,
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (N, H); ``ctx`` keeps what `backward` needs."""
        kept = inputs.contiguous(), _states(packing, start), w_in.contiguous(), w_h.contiguous()
        _pass("rnn_there", packing, (), *kept, b_in + b_h)
        ctx.packing = packing
        ctx.save_for_backward(*kept)
        return _steps(packing, *kept[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (N, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        packing, made = ctx.packing, _Gradients(ctx, inputs, states, w_in, w_h, grad)
        seen = inputs, states, packing.befores(states), w_in, w_h
        _pass("rnn_back", packing, made.sizes, *seen, made.states, *made.tensors(1))
        d_w_in, d_w_h, d_bias, other = made.weights
        return made.inputs, None, made.start, d_w_in, d_w_h, d_bias, other.copy_(d_bias)


class _GRUGates(_Room):
    """The gates, n, and the state's part of n."""

    widths = (3, 1, 1)


class _GRUDriven(_Room):
    """The gradients of the state's part of all gates, and of what n is the tanh of."""

    widths = (3, 1)


class _GRULayer(torch.autograd.Function):
    """The gated unit of Cho et al. 2014 in the form of `torch.nn.GRU`.

    r = sigmoid(W_ir x + b_ir + W_hr h + b_hr), z likewise, n = tanh(W_in x + b_in + r (W_hn h +
    b_hn)), h' = (1 - z) n + z h. Gates lie in the order r, z, n in all weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        packing: Packing,
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (N, H); ``ctx`` keeps what `backward` needs."""
        kept = inputs.contiguous(), _states(packing, start), w_in.contiguous(), w_h.contiguous()
        biases = b_in.contiguous(), b_h.contiguous()
        ctx.loan = Loan(_GRUGates, start, packing.steps)
        room = *ctx.loan.space.parts, start.new_empty(len(start), len(w_h))
        _pass("gru_there", packing, (), *kept, *biases, *room)
        ctx.packing = packing
        ctx.save_for_backward(*kept)
        return _steps(packing, *kept[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (N, H)."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        packing, made = ctx.packing, _Gradients(ctx, inputs, states, w_in, w_h, grad)
        loan = Loan(_GRUDriven, states[: packing.rows], packing.steps)
        seen = inputs, states, packing.befores(states), w_in, w_h
        room = *ctx.loan.space.parts, *loan.space.parts, made.states
        _pass("gru_back", packing, made.sizes, *seen, *room, *made.tensors(2))
        return made.inputs, None, made.start, *made.weights


class _LSTMGates(_Room):
    """The gates, and the tanh of the cells."""

    widths = (4, 1)


class _Cells(_Room):
    """The cells, where the layer starts first."""

    widths = (1,)


class _LSTMDriven(_Room):
    """The gradients of what inputs and state come to."""

    widths = (4,)


class _LSTMLayer(torch.autograd.Function):
    """Long short-term memory (Hochreiter and Schmidhuber 1997) in the form of `torch.nn.LSTM`.

    i, f, o = sigmoid(W_. x + b_. + W_h. h + b_h.), g = tanh of the like, c' = f c + i g, h' = o
    tanh(c'). Gates lie in the order i, f, g, o in all weights.
    """

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        packing: Packing,
        start: Tensor,
        start_cell: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the states (N, H) and (B, H) what was last made as cells.

        The latter are those after the last step, if all rows have it. ``ctx`` keeps what is needed.
        """
        steps, rows = packing.steps, packing.rows
        inputs, states = inputs.contiguous(), _states(packing, start)
        w_in, w_h = w_in.contiguous(), w_h.contiguous()
        ctx.packing = packing
        ctx.gates, ctx.cells = Loan(_LSTMGates, start, steps), Loan(_Cells, start, steps + 1)
        [cells] = ctx.cells.space.parts
        cells[0] = start_cell
        seen = inputs, states, cells, w_in, w_h, b_in + b_h
        _pass("lstm_there", packing, (), *seen, *ctx.gates.space.parts)
        ctx.save_for_backward(inputs, states, w_in, w_h)
        last = cells.view(-1, cells.shape[2])[packing.total : packing.total + rows]
        return _steps(packing, inputs, states), last.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward` from those of its two results."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        packing, made = ctx.packing, _Gradients(ctx, inputs, states, w_in, w_h, grad)
        d_cell = states.new_zeros(packing.rows, states.shape[1])
        if d_last is not None:
            d_cell.copy_(d_last)
        loan = Loan(_LSTMDriven, states[: packing.rows], packing.steps)
        seen = inputs, states, packing.befores(states), *ctx.cells.space.parts, w_in, w_h
        room = *ctx.gates.space.parts, *loan.space.parts, made.states, d_cell
        _pass("lstm_back", packing, made.sizes, *seen, *room, *made.tensors(1))
        d_w_in, d_w_h, d_bias, other = made.weights
        return made.inputs, None, made.start, d_cell, d_w_in, d_w_h, d_bias, other.copy_(d_bias)


_LAYERS: dict[str, Any] = {"rnn": _RNNLayer, "gru": _GRULayer, "lstm": _LSTMLayer}


def _states(packing: Packing, start: Tensor) -> Tensor:
    """Returns (B + N, H) of which the first are ``start``, the others to be filled."""
    states = start.new_empty(packing.rows + packing.total, start.shape[1])
    states[: packing.rows] = start
    return states


def _steps(packing: Packing, inputs: Tensor, states: Tensor) -> Tensor:
    """Returns the states after all steps, in the shape of the inputs."""
    return states[packing.rows :].view(*inputs.shape[:-1], states.shape[1])


def _pass(
    name: str,
    packing: Packing,
    more: tuple[int, ...],
    inputs: Tensor,
    states: Tensor,
    *others: Tensor,
) -> None:
    """Runs compiled code over all steps, to which some sizes more are given."""
    sizes = packing.steps, packing.rows, inputs.shape[-1], states.shape[1], packing.total
    run(name, states.dtype, (*sizes, *more), (packing.live, inputs, states, *others))
