"""The way there and back of LSTM layers on a CPU, as `search.layer_passes` has it of others.

Shapes and arguments are those of `search.layer_passes`.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import carray

from search.compiled import Array, Counts, Pointer, compiled, multiply, sigmoid, tanh
from search.layer_parts import add_up, pass_down, see, weigh, widen


def lstm_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    total: int,
    live: Counts,
    inputs: Pointer,
    states: Pointer,
    cells: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    bias: Pointer,
    gates: Pointer,
    squashed: Pointer,
) -> None:
    """Makes the states and cells but the first, by all steps of long short-term memory.

    Weights and biases, which are added up before, are of i, f, g and o, as are ``gates`` (N, 4 H)
    in the end; ``squashed`` (N, H) becomes the tanh of the cells.
    """
    state, cell = carray(states, (rows + total, hidden)), carray(cells, (rows + total, hidden))
    gate, tanhs = carray(gates, (total, 4 * hidden)), carray(squashed, (total, hidden))
    counts, weights = carray(live, steps), carray(w_h, (4 * hidden, hidden))
    see(gate, carray(inputs, (total, features)), w_in, bias)
    before, first = 0, 0
    for count in counts:
        end, at, last = first + count, rows + first, before + count
        multiply(gate[first:end], state[before:last], weights, 1, 0, 1)
        next_cell, after = cell[at : at + count], state[at : at + count]
        _lstm_step(gate[first:end], cell[before:last], next_cell, tanhs[first:end], after)
        before, first = at, end


@compiled
def _lstm_step(gate: Array, cell: Array, next_cell: Array, squashed: Array, after: Array) -> None:
    rows, hidden = after.shape
    for b in range(rows):
        for j in range(2 * hidden):
            gate[b, j] = sigmoid(gate[b, j])
        for j in range(hidden):
            gate[b, 2 * hidden + j] = tanh(gate[b, 2 * hidden + j])
        for j in range(hidden):
            gate[b, 3 * hidden + j] = sigmoid(gate[b, 3 * hidden + j])
        for j in range(hidden):
            added = gate[b, j] * gate[b, 2 * hidden + j]
            next_cell[b, j] = gate[b, hidden + j] * cell[b, j] + added
        for j in range(hidden):
            squashed[b, j] = tanh(next_cell[b, j])
        for j in range(hidden):
            after[b, j] = gate[b, 3 * hidden + j] * squashed[b, j]


def lstm_back(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    total: int,
    wide: int,
    wide_in: int,
    live: Counts,
    inputs: Pointer,
    states: Pointer,
    befores: Pointer,
    cells: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    gates: Pointer,
    squashed: Pointer,
    d_gates: Pointer,
    d_states: Pointer,
    d_cell: Pointer,
    d_inputs: Pointer,
    d_w_in: Pointer,
    d_w_h: Pointer,
    d_bias: Pointer,
    part: Pointer,
) -> None:
    """As `rnn_back`, of `lstm_there`; ``d_gates`` is room.

    ``d_cell`` (B, H), the gradient of the cells that are the rows' last, becomes that of the first.
    """
    cell, d_state = carray(cells, (rows + total, hidden)), carray(d_states, (rows + total, wide))
    gate, driven = carray(gates, (total, 4 * hidden)), carray(d_gates, (total, 4 * hidden))
    tanhs, d_c = carray(squashed, (total, hidden)), carray(d_cell, (rows, hidden))
    counts, all_gates = carray(live, steps), 4 * hidden
    weights = widen(w_h, all_gates, hidden, all_gates, wide, part)
    _lstm_steps_back(counts, gate, cell, tanhs, d_state, driven, d_c, weights)
    weigh(driven, all_gates, carray(befores, (total, hidden)), d_w_h, part)
    weigh(driven, all_gates, carray(inputs, (total, features)), d_w_in, part)
    add_up(driven, all_gates, counts, d_bias, part)
    pass_down(driven, all_gates, w_in, features, d_inputs, wide_in, part)


@compiled
def _lstm_steps_back(
    counts: Array,
    gate: Array,
    cell: Array,
    tanhs: Array,
    d_state: Array,
    driven: Array,
    d_c: Array,
    weights: Array,
) -> None:
    end, rows = len(gate), len(d_c)
    for t in range(len(counts) - 1, -1, -1):
        at = end - counts[t]
        before = rows + at - counts[t - 1] if t else 0
        last, d_after = before + counts[t], d_state[rows + at : rows + end]
        made = gate[at:end], cell[before:last], tanhs[at:end]
        _lstm_step_back(*made, d_after, driven[at:end], d_c)
        multiply(d_state[before:last], driven[at:end], weights, 1 if t else 0, 0, 0)
        end = at


@compiled
def _lstm_step_back(
    gate: Array, cell: Array, squashed: Array, d_after: Array, driven: Array, d_cell: Array
) -> None:
    rows, hidden = squashed.shape
    one = gate.dtype.type(1)
    for b in range(rows):
        for j in range(hidden):
            slope = one - squashed[b, j] * squashed[b, j]
            d_cell[b, j] += d_after[b, j] * gate[b, 3 * hidden + j] * slope
        for j in range(hidden):
            o = gate[b, 3 * hidden + j]
            driven[b, 3 * hidden + j] = d_after[b, j] * squashed[b, j] * (o - o * o)
        for j in range(hidden):
            i = gate[b, j]
            driven[b, j] = d_cell[b, j] * gate[b, 2 * hidden + j] * (i - i * i)
        for j in range(hidden):
            g = gate[b, 2 * hidden + j]
            driven[b, 2 * hidden + j] = d_cell[b, j] * gate[b, j] * (one - g * g)
        for j in range(hidden):
            f = gate[b, hidden + j]
            driven[b, hidden + j] = d_cell[b, j] * cell[b, j] * (f - f * f)
        for j in range(hidden):
            d_cell[b, j] *= gate[b, hidden + j]


ENTRIES: list[Callable[..., None]] = [lstm_there, lstm_back]
