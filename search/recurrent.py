"""RNN, GRU and LSTM layers of one network or of K, whose gradients are derived by hand.

``torch.nn`` records every small operation of every step, and its backward pass repeats each. Here a
layer is one operation to autograd, and each of its passes one call of compiled code
(`search.layer_passes`). The results equal those of `torch.nn`'s modules up to rounding (of a tanh:
of 1, not of its value); how much quicker they come is in ``bench/RESULTS.md``.

All this is for a CPU, where K networks are calculated one after another, so that no number depends
on the others. On a GPU a network alone is torch's own, and K of them are in `search.gpu_layers`.

Shapes: K networks, B minibatch, T time, F inputs of a layer, H hidden, L layers, G = H, 3 H (GRU)
or 4 H (LSTM).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from search.dropout import dropped
from search.layer_memory import Loan, Workspace
from search.object_code import HAS_PRODUCTS, PRECISIONS, run

State = Tensor | tuple[Tensor, Tensor]
"""Hidden state (L, B, H); for LSTM a pair of it and the cell state."""


def recur(
    layers: nn.RNN | nn.LSTM | nn.GRU, inputs: Tensor, state: State | None
) -> tuple[Tensor, State]:
    """Runs recurrent layers of one network over a batch, as calling them would.

    Args:
        layers: ``batch_first``, in one direction, with biases.
        inputs: (B, T, F).
        state: Where the hidden state starts; None for zero.

    Returns:
        (B, T, H) the last layer's hidden state at every step, and the state after the last.
    """
    cell = {"RNN_TANH": "rnn", "GRU": "gru", "LSTM": "lstm"}.get(layers.mode)
    if inputs.device.type != "cpu" or cell is None:
        outputs, last = layers(inputs, state)
        return outputs, last
    steps = inputs.transpose(0, 1)
    if state is None:
        zero = inputs.new_zeros(layers.num_layers, len(inputs), layers.hidden_size)
        starts = (zero, zero) if cell == "lstm" else (zero,)
    else:
        layers.check_forward_args(inputs, state, None)  # type: ignore[arg-type]
        starts = state if isinstance(state, tuple) else (state,)
    ends = []
    for index, weights in enumerate(layers.all_weights):
        if index > 0:
            steps = dropped(steps, layers.dropout, training=layers.training)
        steps, end = run_layer(cell, steps, [start[index] for start in starts], weights)
        ends.append(end)
    last, *cells = (torch.stack(parts) for parts in zip(*ends, strict=True))
    return steps.transpose(0, 1), (last, cells[0]) if cells else last


def run_layer(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of K networks on a CPU; or of one, whose shapes have no K.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        inputs: (T, K, B, F).
        start: (K, B, H) the hidden state; for LSTM also the cell state.
        weights: (K, G, F), (K, G, H), (K, G), (K, G), in the order of `torch.nn`'s module.

    Returns:
        (T, K, B, H) the hidden state at every step, and the state after the last.
    """
    if inputs.dim() == 4:
        parts = zip(*(part.unbind() for part in (*start, *weights)), strict=True)
        states = len(start)
        made = [
            run_layer(cell, own, part[:states], part[states:])
            for own, part in zip(inputs.unbind(1), parts, strict=True)
        ]
        ends = zip(*(end for _, end in made), strict=True)
        return torch.stack([steps for steps, _ in made], 1), tuple(map(torch.stack, ends))
    if not HAS_PRODUCTS or inputs.dtype not in PRECISIONS:
        return _run_torchs(cell, inputs, start, weights)
    _check(cell, inputs, start, weights)
    if cell == "lstm":
        steps, last = _LSTMLayer.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
        return steps, (steps[-1], last)
    layer = _GRULayer if cell == "gru" else _RNNLayer
    steps = layer.apply(inputs, *start, *weights)  # type: ignore[no-untyped-call]
    return steps, (steps[-1],)


def _check(cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    """Compiled code looks at memory without asking whether it is there.

    Raises:
        RuntimeError: Shapes or precisions do not fit together, or there is no step.
    """
    rows, hidden = start[0].shape
    steps, gates = len(inputs), {"rnn": 1, "gru": 3, "lstm": 4}[cell] * hidden
    wanted = [(steps, rows, inputs.shape[-1]), *[(rows, hidden)] * len(start)]
    wanted += [(gates, inputs.shape[-1]), (gates, hidden), (gates,), (gates,)]
    found = [tuple(one.shape) for one in (inputs, *start, *weights)]
    if found != wanted or not steps:
        raise RuntimeError(f"inputs, states and weights of these shapes do not fit: {found}")
    kinds = {(one.dtype, one.device) for one in (inputs, *start, *weights)}
    if len(kinds) > 1:
        raise RuntimeError(f"inputs, states and weights differ in precision or device: {kinds}")


def _run_torchs(
    cell: str, inputs: Tensor, start: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Runs one layer of one network as `torch.nn` does."""
    run = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[cell]
    first = [state.unsqueeze(0) for state in start]
    steps, *ends = run(  # type: ignore[operator]
        inputs,
        first if cell == "lstm" else first[0],
        list(weights),
        has_biases=True,
        num_layers=1,
        dropout=0.0,
        train=False,
        bidirectional=False,
        batch_first=False,
    )
    return steps, tuple(end[0] for end in ends)


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

    widths = (1,)


class _Gradients:
    """What a layer's way back makes.

    Args:
        ctx: Knows whether the gradient of the inputs is wanted.
        inputs: (T, B, F).
        w_in: (G, F).
        w_h: (G, H).
        grad: (T, B, H) of the states.

    Attributes:
        states: (T + 1, B, H) what is to be passed on, the states' gradients in all but the first.
        inputs: Of the inputs; None if it is not wanted.
        weights: Of both weights and the biases.
    """

    def __init__(self, ctx: Any, inputs: Tensor, w_in: Tensor, w_h: Tensor, grad: Tensor) -> None:
        steps = len(inputs)
        self._loan = Loan(_StateGradients, grad[0], steps + 1)
        [self.states] = self._loan.space.parts
        self.states[1 : steps + 1] = grad
        wanted = ctx.needs_input_grad[0]
        self._inputs = inputs.new_empty(inputs.shape if wanted else 0)
        self.inputs = self._inputs if wanted else None
        *biases, self._room = w_in.new_empty(3, len(w_in))
        self.weights = [torch.empty_like(w_in), torch.empty_like(w_h), *biases]

    def tensors(self, biases: int) -> list[Tensor]:
        """Returns those of the inputs and weights, and of so many biases; and room for one."""
        return [self._inputs, *self.weights[: 2 + biases], self._room]

    @property
    def start(self) -> Tensor:
        """(B, H) that of the first state."""
        return self.states[0].clone()


class _RNNLayer(torch.autograd.Function):
    """h' = tanh(W_i x + b_i + W_h h + b_h): Elman's network, as `torch.nn.RNN` has it."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (T, B, H); ``ctx`` keeps what `backward` needs."""
        kept = inputs.contiguous(), _states(len(inputs), start), w_in.contiguous(), w_h.contiguous()
        run("rnn_there", _sizes(inputs, start), (*kept, b_in + b_h))
        ctx.save_for_backward(*kept)
        return kept[1][1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, B, H)."""
        inputs, states, w_in, w_h = kept = ctx.saved_tensors
        made = _Gradients(ctx, inputs, w_in, w_h, grad)
        run("rnn_back", _sizes(inputs, states[0]), (*kept, made.states, *made.tensors(1)))
        d_w_in, d_w_h, d_bias, other = made.weights
        return made.inputs, made.start, d_w_in, d_w_h, d_bias, other.copy_(d_bias)


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
        start: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> Tensor:
        """Returns the states (T, B, H); ``ctx`` keeps what `backward` needs."""
        steps = len(inputs)
        kept = inputs.contiguous(), _states(steps, start), w_in.contiguous(), w_h.contiguous()
        biases = b_in.contiguous(), b_h.contiguous()
        ctx.loan = Loan(_GRUGates, start, steps)
        room = *ctx.loan.space.parts, start.new_empty(len(start), len(w_h))
        run("gru_there", _sizes(inputs, start), (*kept, *biases, *room))
        ctx.save_for_backward(*kept)
        return kept[1][1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward`; ``grad`` is (T, B, H)."""
        inputs, states, w_in, w_h = kept = ctx.saved_tensors
        made = _Gradients(ctx, inputs, w_in, w_h, grad)
        loan = Loan(_GRUDriven, grad[0], len(inputs))
        room = *ctx.loan.space.parts, *loan.space.parts, made.states
        run("gru_back", _sizes(inputs, states[0]), (*kept, *room, *made.tensors(2)))
        return made.inputs, made.start, *made.weights


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
        start: Tensor,
        start_cell: Tensor,
        w_in: Tensor,
        w_h: Tensor,
        b_in: Tensor,
        b_h: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Returns the states (T, B, H) and the last cell; ``ctx`` keeps what is needed."""
        steps = len(inputs)
        inputs, states = inputs.contiguous(), _states(steps, start)
        w_in, w_h = w_in.contiguous(), w_h.contiguous()
        ctx.gates, ctx.cells = Loan(_LSTMGates, start, steps), Loan(_Cells, start, steps + 1)
        [cells] = ctx.cells.space.parts
        cells[0] = start_cell
        kept = inputs, states, cells, w_in, w_h, b_in + b_h
        run("lstm_there", _sizes(inputs, start), (*kept, *ctx.gates.space.parts))
        ctx.save_for_backward(inputs, states, w_in, w_h)
        return states[1:], cells[steps].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, d_last: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the arguments of `forward` from those of its two results."""
        inputs, states, w_in, w_h = ctx.saved_tensors
        made = _Gradients(ctx, inputs, w_in, w_h, grad)
        d_cell = d_last.clone(memory_format=torch.contiguous_format)
        loan = Loan(_LSTMDriven, grad[0], len(inputs))
        seen = inputs, states, *ctx.cells.space.parts, w_in, w_h
        room = *ctx.gates.space.parts, *loan.space.parts, made.states, d_cell
        run("lstm_back", _sizes(inputs, states[0]), (*seen, *room, *made.tensors(1)))
        d_w_in, d_w_h, d_bias, other = made.weights
        return made.inputs, made.start, d_cell, d_w_in, d_w_h, d_bias, other.copy_(d_bias)


def _states(steps: int, start: Tensor) -> Tensor:
    """Returns (T + 1, B, H) of which the first is ``start``, the others to be filled."""
    states = start.new_empty(steps + 1, *start.shape)
    states[0] = start
    return states


def _sizes(inputs: Tensor, state: Tensor) -> tuple[int, ...]:
    """Returns T, B, F and H."""
    return *inputs.shape, state.shape[1]


def compile_ahead() -> None:
    """Compiles what searches need, if it is not kept yet, so that no first trial waits for it."""
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        layers = make(1, 1, 2, batch_first=True, dropout=0.5)
        recur(layers, torch.zeros(1, 1, 1), None)[0].sum().backward()  # type: ignore[no-untyped-call]
