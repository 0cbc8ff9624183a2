"""A recurrent layer's way there and back on a CPU, each one call of compiled code.

For a network of a hundred units torch's elementwise operations take longer than its products, and
for one of twenty units its calls longer than both. Here a pass is a product for all inputs, one per
step for the state with all else that a step does, and one for the gradients of each weight.

Shapes: B minibatch (``rows``), T time (``steps``), F inputs of a layer (``features``), H units
(``hidden``), G = H, 3 H (GRU) or 4 H (LSTM). Inputs are (T, B, F); states (T + 1, B, H), of which
the first is where the layer starts, cells and gradients of states likewise; weights (G, F) and
(G, H), biases (G,). The equations are in `search.recurrent`.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import carray

from search.compiled import Array, Pointer, compiled, multiply, sigmoid, tanh
from search.layer_parts import add_up, at_once, by_step, pass_down, see, weigh

# Each loop below writes one array and reads few: a compiler that cannot know that arrays do not
# overlap asks at run time, pair by pair, and does not vectorise where there are many pairs.


def rnn_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    inputs: Pointer,
    states: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    bias: Pointer,
) -> None:
    """Makes the states but the first, by all steps of Elman's network; biases are added up."""
    state, weights = by_step(states, steps + 1, rows, hidden), carray(w_h, (hidden, hidden))
    flat = carray(states, (steps + 1, rows * hidden))
    seen = carray(states, ((steps + 1) * rows, hidden))[rows:]
    see(seen, at_once(inputs, steps, rows, features), w_in, bias)
    for t in range(steps):
        multiply(state[t + 1], state[t], weights, 1, 0, 1)
        after = flat[t + 1]
        for i in range(rows * hidden):
            after[i] = tanh(after[i])


def rnn_back(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    inputs: Pointer,
    states: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    d_states: Pointer,
    d_inputs: Pointer,
    d_w_in: Pointer,
    d_w_h: Pointer,
    d_bias: Pointer,
    part: Pointer,
) -> None:
    """Makes the gradients of all that `rnn_there` was given and has left as it is.

    ``d_states`` are those of the states, each alone: that of the first is made, others are used up.
    ``d_inputs`` is made unless it is nowhere; so are those of the weights and of each bias.
    ``part`` is room for another bias.
    """
    flat, weights = carray(states, (steps + 1, rows * hidden)), carray(w_h, (hidden, hidden))
    d_flat = carray(d_states, (steps + 1, rows * hidden))
    d_state = by_step(d_states, steps + 1, rows, hidden)
    one = weights.dtype.type(1)
    for t in range(steps - 1, -1, -1):
        after, driven = flat[t + 1], d_flat[t + 1]
        for i in range(rows * hidden):
            driven[i] *= one - after[i] * after[i]
        multiply(d_state[t], d_state[t + 1], weights, 1 if t else 0, 0, 0)
    all_driven = carray(d_states, ((steps + 1) * rows, hidden))[rows:]
    weigh(all_driven, at_once(states, steps, rows, hidden), d_w_h)
    weigh(all_driven, at_once(inputs, steps, rows, features), d_w_in)
    add_up(d_state[1:], d_bias, part)
    pass_down(all_driven, w_in, d_inputs, features)


def gru_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    inputs: Pointer,
    states: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    b_in: Pointer,
    b_h: Pointer,
    gates: Pointer,
    new: Pointer,
    from_state: Pointer,
    room: Pointer,
) -> None:
    """Makes the states but the first, by all steps of a gated recurrent unit.

    Weights and biases are of r, z and n. ``gates`` (T, B, 3 H) becomes r, z and the inputs' part of
    n, ``new`` (T, B, H) n, ``from_state`` (T, B, H) the state's part of it; (B, 3 H) is room.
    """
    state, gate = by_step(states, steps + 1, rows, hidden), by_step(gates, steps, rows, 3 * hidden)
    n, from_h = by_step(new, steps, rows, hidden), by_step(from_state, steps, rows, hidden)
    weights, bias = carray(w_h, (3 * hidden, hidden)), carray(b_h, 3 * hidden)
    recurrent = carray(room, (rows, 3 * hidden))
    see(at_once(gates, steps, rows, 3 * hidden), at_once(inputs, steps, rows, features), w_in, b_in)
    for t in range(steps):
        multiply(recurrent, state[t], weights, 0, 0, 1)
        _gru_step(gate[t], n[t], from_h[t], recurrent, bias, state[t], state[t + 1])


@compiled
def _gru_step(
    gate: Array,
    new: Array,
    from_state: Array,
    recurrent: Array,
    bias: Array,
    before: Array,
    after: Array,
) -> None:
    rows, hidden = before.shape
    for b in range(rows):
        for j in range(2 * hidden):
            gate[b, j] = sigmoid(gate[b, j] + recurrent[b, j] + bias[j])
        for j in range(hidden):
            from_state[b, j] = recurrent[b, 2 * hidden + j] + bias[2 * hidden + j]
        for j in range(hidden):
            new[b, j] = tanh(gate[b, 2 * hidden + j] + gate[b, j] * from_state[b, j])
        for j in range(hidden):
            after[b, j] = new[b, j] + gate[b, hidden + j] * (before[b, j] - new[b, j])


def gru_back(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    inputs: Pointer,
    states: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    gates: Pointer,
    new: Pointer,
    from_state: Pointer,
    d_gates: Pointer,
    d_new: Pointer,
    d_states: Pointer,
    d_inputs: Pointer,
    d_w_in: Pointer,
    d_w_h: Pointer,
    d_b_in: Pointer,
    d_b_h: Pointer,
    part: Pointer,
) -> None:
    """As `rnn_back`, of `gru_there`; there are two biases, ``d_gates`` and ``d_new`` are room."""
    state, n = by_step(states, steps, rows, hidden), by_step(new, steps, rows, hidden)
    from_h, d_n = by_step(from_state, steps, rows, hidden), by_step(d_new, steps, rows, hidden)
    width, d_state = 3 * hidden, by_step(d_states, steps + 1, rows, hidden)
    gate, driven = by_step(gates, steps, rows, width), by_step(d_gates, steps, rows, width)
    weights = carray(w_h, (width, hidden))
    d_state[0] = 0
    for t in range(steps - 1, -1, -1):
        _gru_step_back(gate, n, from_h, state, driven, d_n, d_state, t)
        multiply(d_state[t], driven[t], weights, 1, 0, 0)
    all_driven = at_once(d_gates, steps, rows, width)
    weigh(all_driven, at_once(states, steps, rows, hidden), d_w_h)
    add_up(driven, d_b_h, part)
    # The gates' own gradients differ in n only, whose part of the state passes through r.
    _put_new(driven, d_n)
    weigh(all_driven, at_once(inputs, steps, rows, features), d_w_in)
    add_up(driven, d_b_in, part)
    pass_down(all_driven, w_in, d_inputs, features)


@compiled
def _gru_step_back(
    gates: Array,
    news: Array,
    from_states: Array,
    states: Array,
    d_gates: Array,
    d_news: Array,
    d_states: Array,
    t: int,
) -> None:
    _, rows, hidden = states.shape
    gate, new, from_state, before = gates[t], news[t], from_states[t], states[t]
    driven, d_new, d_before, d_after = d_gates[t], d_news[t], d_states[t], d_states[t + 1]
    one = gate.dtype.type(1)
    for b in range(rows):
        for j in range(hidden):
            slope = one - new[b, j] * new[b, j]
            d_new[b, j] = d_after[b, j] * (one - gate[b, hidden + j]) * slope
        for j in range(hidden):
            z = gate[b, hidden + j]
            driven[b, hidden + j] = d_after[b, j] * (before[b, j] - new[b, j]) * (z - z * z)
        for j in range(hidden):
            driven[b, 2 * hidden + j] = d_new[b, j] * gate[b, j]
        for j in range(hidden):
            r = gate[b, j]
            driven[b, j] = d_new[b, j] * from_state[b, j] * (r - r * r)
        for j in range(hidden):
            d_before[b, j] += d_after[b, j] * gate[b, hidden + j]


@compiled
def _put_new(driven: Array, d_new: Array) -> None:
    steps, rows, hidden = d_new.shape
    for t in range(steps):
        for b in range(rows):
            for j in range(hidden):
                driven[t, b, 2 * hidden + j] = d_new[t, b, j]


def lstm_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
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

    Weights and biases, which are added up before, are of i, f, g and o, as are ``gates`` (T, B,
    4 H) in the end; ``squashed`` (T, B, H) becomes the tanh of the cells.
    """
    state, cell = by_step(states, steps + 1, rows, hidden), by_step(cells, steps + 1, rows, hidden)
    gate, tanhs = by_step(gates, steps, rows, 4 * hidden), by_step(squashed, steps, rows, hidden)
    weights = carray(w_h, (4 * hidden, hidden))
    see(at_once(gates, steps, rows, 4 * hidden), at_once(inputs, steps, rows, features), w_in, bias)
    for t in range(steps):
        multiply(gate[t], state[t], weights, 1, 0, 1)
        _lstm_step(gate[t], cell[t], cell[t + 1], tanhs[t], state[t + 1])


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
    inputs: Pointer,
    states: Pointer,
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

    ``d_cell`` (B, H), the gradient of the last cell, becomes that of the first.
    """
    cell, d_state = by_step(cells, steps, rows, hidden), by_step(d_states, steps + 1, rows, hidden)
    gate, driven = (
        by_step(gates, steps, rows, 4 * hidden),
        by_step(d_gates, steps, rows, 4 * hidden),
    )
    tanhs, d_c = by_step(squashed, steps, rows, hidden), carray(d_cell, (rows, hidden))
    weights = carray(w_h, (4 * hidden, hidden))
    for t in range(steps - 1, -1, -1):
        _lstm_step_back(gate[t], cell[t], tanhs[t], d_state[t + 1], driven[t], d_c)
        multiply(d_state[t], driven[t], weights, 1 if t else 0, 0, 0)
    all_driven = at_once(d_gates, steps, rows, 4 * hidden)
    weigh(all_driven, at_once(states, steps, rows, hidden), d_w_h)
    weigh(all_driven, at_once(inputs, steps, rows, features), d_w_in)
    add_up(driven, d_bias, part)
    pass_down(all_driven, w_in, d_inputs, features)


@compiled
def _lstm_step_back(
    gate: Array, cell: Array, squashed: Array, d_after: Array, driven: Array, d_cell: Array
) -> None:
    rows, hidden = d_cell.shape
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


ENTRIES: list[Callable[..., None]] = [
    rnn_there,
    rnn_back,
    gru_there,
    gru_back,
    lstm_there,
    lstm_back,
]
