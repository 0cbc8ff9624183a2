"""RNN, GRU and LSTM layers of one network or of K, whose gradients are derived by hand.

``torch.nn`` records every small operation of every step, and its backward pass repeats each. Here a
layer is one operation to autograd (`search.layer_functions`), and what comes after the end of a
series is not calculated. The results equal those of `torch.nn`'s modules up to rounding (of a tanh:
of 1, not of its value); how much quicker they come is in ``bench/RESULTS.md``.

All this is for a CPU, where K networks are calculated one after another, so that no number depends
on the others. On a GPU a network alone is torch's own, and K of them are in `search.gpu_layers`.

Shapes: K networks, B minibatch, T time, N steps of all rows, F inputs of a layer, H hidden, L
layers, G = H, 3 H (GRU) or 4 H (LSTM).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from search.dropout import dropped
from search.layer_choices import run_torchs
from search.layer_functions import run_compiled
from search.object_code import HAS_PRODUCTS, PRECISIONS, is_missing
from search.packing import full, packed

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
    cell = _CELLS.get(layers.mode)
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


_CELLS = {"RNN_TANH": "rnn", "GRU": "gru", "LSTM": "lstm"}
"""What is calculated here, by what `torch.nn` calls it."""


def recur_to_ends(
    layers: nn.RNN | nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor, unit: int = 1
) -> Tensor:
    """Runs recurrent layers of one network over series of different lengths.

    Args:
        layers: ``batch_first``, in one direction, with biases.
        inputs: (B, T, F); what is after a series' end does not matter.
        lengths: (B,) the real steps of each, from 1.
        unit: Products are of a multiple of so many rows, if B is one, where it matters in what
            numbers a row is.

    Returns:
        (B, H) the last layer's hidden state at the end of each series.
    """
    cell = _CELLS.get(layers.mode)
    ours = inputs.device.type == "cpu" and HAS_PRODUCTS and inputs.dtype in PRECISIONS
    packing = packed(lengths, inputs.shape[1], unit) if ours and cell is not None else None
    if cell is None or packing is None or packing.places is None or packing.ends is None:
        hidden, _ = recur(layers, inputs, None)
        return hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
    steps = inputs.flatten(0, 1).index_select(0, packing.places)
    zero = inputs.new_zeros(len(inputs), layers.hidden_size)
    starts = (zero, zero) if cell == "lstm" else (zero,)
    for index, weights in enumerate(layers.all_weights):
        if index > 0:
            steps = dropped(steps, layers.dropout, training=layers.training)
        steps, _ = run_compiled(cell, steps, packing, starts, weights)
    return steps.index_select(0, packing.ends)


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
        hidden, *last = run_torchs(cell, inputs, start, weights)
        return hidden, tuple(last)
    steps, cells = run_compiled(cell, inputs, full(*inputs.shape[:2]), start, weights)
    return steps, (steps[-1], *cells)


def compile_first(say: Callable[[str], object]) -> None:
    """Compiles what is not kept yet, in a process of its own, having said so.

    Else every trainer would do it by itself, and the user would wait for an epoch without a word.

    Args:
        say: Takes the line that says so.
    """
    if not is_missing():
        return
    say("compiling what networks are calculated with, once on this machine: about a minute")
    # The current folder may have a module `search` of the user's own; of a terminal's Ctrl-C this
    # process hears alone. What fails here will fail in a trainer, and be told.
    code = f"from {__name__} import _compile_for_another; _compile_for_another()"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as made:
        made.wait()


def _compile_for_another() -> None:
    """Compiles unless whoever waits for it is gone, who holds the other end of standard input."""

    def leave() -> None:
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()
    compile_ahead()
    os._exit(0)  # The interpreter would wait for who reads.


def compile_ahead() -> None:
    """Compiles what searches need, if it is not kept yet, so that no first trial waits for it."""
    for make in (nn.RNN, nn.GRU, nn.LSTM):
        layers = make(1, 1, 2, batch_first=True, dropout=0.5)
        recur(layers, torch.zeros(1, 1, 1), None)[0].sum().backward()  # type: ignore[no-untyped-call]
