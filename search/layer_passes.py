"""A recurrent layer's way there and back on a CPU, each one call of compiled code.

For a network of a hundred units torch's elementwise operations take longer than its products, and
for one of twenty units its calls longer than both. Here a pass is a product for all inputs, one per
step for the state with all else that a step does, and one for the gradients of each weight.

Shapes: B minibatch, T time, F inputs of a layer, H hidden, G = H, 3 H (GRU) or 4 H (LSTM). Arrays
are in one piece and of one precision; inputs (T, B, F), states (T + 1, B, H), of which the first is
where the layer starts, cells and gradients of states likewise; weights (G, F) and (G, H), biases
(G,). The equations are in `search.recurrent`.
"""

from __future__ import annotations

import numpy as np

from search.compiled import Array, compiled, multiply, sigmoid, tanh

# Each loop below writes one array and reads few: a compiler that cannot know that arrays do not
# overlap asks at run time, pair by pair, and does not vectorise where there are many pairs.


@compiled
def rnn_there(inputs: Array, states: Array, w_in: Array, w_h: Array, bias: Array) -> None:
    """Makes the states after all steps of Elman's network.

    Args:
        inputs: What is shown.
        states: All but the first are made.
        w_in: Of the inputs.
        w_h: Of the state.
        bias: The sum of both.
    """
    steps, rows, hidden = states.shape
    _see(states[1:].reshape((steps - 1) * rows, hidden), inputs, w_in, bias)
    for t in range(steps - 1):
        multiply(states[t + 1], states[t], w_h, 1, 0, 1)
        state = states[t + 1].reshape(-1)
        for i in range(len(state)):
            state[i] = tanh(state[i])


@compiled
def rnn_back(
    inputs: Array,
    states: Array,
    w_in: Array,
    w_h: Array,
    d_states: Array,
    d_inputs: Array,
    d_w_in: Array,
    d_w_h: Array,
    d_bias: Array,
) -> None:
    """Makes the gradients of all that `rnn_there` was given and has left as it is.

    ``d_states`` are those of the states, each alone: that of the first is made, others are used up.
    ``d_inputs`` is made unless it has length 0; so are those of the weights and of each bias.
    """
    one = states.dtype.type(1)
    for t in range(len(inputs) - 1, -1, -1):
        state, driven = states[t + 1].reshape(-1), d_states[t + 1].reshape(-1)
        for i in range(len(state)):
            driven[i] *= one - state[i] * state[i]
        multiply(d_states[t], d_states[t + 1], w_h, 1 if t else 0, 0, 0)
    driven = d_states[1:]
    _weigh(driven, states[:-1], d_w_h)
    _weigh(driven, inputs, d_w_in)
    _sum(driven, d_bias)
    _pass_down(driven, w_in, d_inputs)


@compiled
def gru_there(
    inputs: Array,
    states: Array,
    w_in: Array,
    w_h: Array,
    b_in: Array,
    b_h: Array,
    gates: Array,
    new: Array,
    from_state: Array,
) -> None:
    """Makes the states after all steps of a gated recurrent unit.

    Args:
        inputs: What is shown.
        states: All but the first are made.
        w_in: Of the inputs, of r, z and n.
        w_h: Of the state.
        b_in: Of the inputs.
        b_h: Of the state.
        gates: (T, B, 3 H) becomes r, z and the inputs' part of n.
        new: (T, B, H) becomes n.
        from_state: (T, B, H) becomes the state's part of n.
    """
    steps, rows, _ = inputs.shape
    _see(gates.reshape(steps * rows, len(w_h)), inputs, w_in, b_in)
    recurrent = np.empty((rows, len(w_h)), inputs.dtype)
    for t in range(steps):
        multiply(recurrent, states[t], w_h, 0, 0, 1)
        _gru_step(gates[t], new[t], from_state[t], recurrent, b_h, states[t], states[t + 1])


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


@compiled
def gru_back(
    inputs: Array,
    states: Array,
    w_in: Array,
    w_h: Array,
    gates: Array,
    new: Array,
    from_state: Array,
    driven: Array,
    d_new: Array,
    d_states: Array,
    d_inputs: Array,
    d_w_in: Array,
    d_w_h: Array,
    d_b_in: Array,
    d_b_h: Array,
) -> None:
    """Makes the gradients of all that `gru_there` was given and has left as it is.

    As `rnn_back`; there are two biases, and (T, B, 3 H) and (T, B, H) of room.
    """
    d_states[0] = 0
    for t in range(len(inputs) - 1, -1, -1):
        _gru_step_back(gates, new, from_state, states, driven, d_new, d_states, t)
        multiply(d_states[t], driven[t], w_h, 1, 0, 0)
    _weigh(driven, states[:-1], d_w_h)
    _sum(driven, d_b_h)
    # The gates' own gradients differ in n only, whose part of the state passes through r.
    _put_new(driven, d_new)
    _weigh(driven, inputs, d_w_in)
    _sum(driven, d_b_in)
    _pass_down(driven, w_in, d_inputs)


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


@compiled
def lstm_there(
    inputs: Array,
    states: Array,
    cells: Array,
    w_in: Array,
    w_h: Array,
    bias: Array,
    gates: Array,
    squashed: Array,
) -> None:
    """Makes the states and cells after all steps of long short-term memory.

    Args:
        inputs: What is shown.
        states: All but the first are made.
        cells: All but the first are made.
        w_in: Of the inputs, of i, f, g and o.
        w_h: Of the state.
        bias: The sum of both.
        gates: (T, B, 4 H) becomes i, f, g and o.
        squashed: (T, B, H) becomes the tanh of the cells.
    """
    steps, rows, _ = inputs.shape
    _see(gates.reshape(steps * rows, len(w_h)), inputs, w_in, bias)
    for t in range(steps):
        multiply(gates[t], states[t], w_h, 1, 0, 1)
        _lstm_step(gates[t], cells[t], cells[t + 1], squashed[t], states[t + 1])


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


@compiled
def lstm_back(
    inputs: Array,
    states: Array,
    cells: Array,
    w_in: Array,
    w_h: Array,
    gates: Array,
    squashed: Array,
    driven: Array,
    d_states: Array,
    d_cell: Array,
    d_inputs: Array,
    d_w_in: Array,
    d_w_h: Array,
    d_bias: Array,
) -> None:
    """Makes the gradients of all that `lstm_there` was given and has left as it is.

    As `rnn_back`; with (T, B, 4 H) of room, and ``d_cell`` (B, H) of the last cell, which becomes
    that of the first.
    """
    for t in range(len(inputs) - 1, -1, -1):
        _lstm_step_back(gates[t], cells[t], squashed[t], d_states[t + 1], driven[t], d_cell)
        multiply(d_states[t], driven[t], w_h, 1 if t else 0, 0, 0)
    _weigh(driven, states[:-1], d_w_h)
    _weigh(driven, inputs, d_w_in)
    _sum(driven, d_bias)
    _pass_down(driven, w_in, d_inputs)


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


@compiled
def _see(seen: Array, inputs: Array, w_in: Array, bias: Array) -> None:
    """Makes (TB, G) what the inputs come to at all steps."""
    for r in range(len(seen)):
        for j in range(len(bias)):
            seen[r, j] = bias[j]
    multiply(seen, inputs.reshape(len(seen), w_in.shape[1]), w_in, 1, 0, 1)


@compiled
def _weigh(driven: Array, shown: Array, d_weights: Array) -> None:
    """Makes the gradient of weights that were shown (T, B, ·) and drive (T, B, G)."""
    steps, rows, gates = driven.shape
    flat = shown.reshape(steps * rows, shown.shape[2])
    multiply(d_weights, driven.reshape(steps * rows, gates), flat, 0, 1, 0)


@compiled
def _sum(driven: Array, total: Array) -> None:
    """Makes the sum over all steps and rows; step by step, so that few roundings add up."""
    steps, rows, gates = driven.shape
    total[:] = 0
    part = np.empty_like(total)
    for t in range(steps):
        part[:] = 0
        for b in range(rows):
            for j in range(gates):
                part[j] += driven[t, b, j]
        for j in range(gates):
            total[j] += part[j]


@compiled
def _pass_down(driven: Array, w_in: Array, d_inputs: Array) -> None:
    """Makes the gradient of the inputs, unless there is no room for it."""
    if len(d_inputs):
        rows = driven.shape[0] * driven.shape[1]
        flat = d_inputs.reshape(rows, w_in.shape[1])
        multiply(flat, driven.reshape(rows, len(w_in)), w_in, 0, 0, 0)
