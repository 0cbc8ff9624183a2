"""The way there and back of RNN and GRU layers on a CPU, each one call of compiled code.

For a network of a hundred units torch's elementwise operations take longer than its products, and
for one of twenty units its calls longer than both. Here a pass is a product for all inputs, one per
step for the state with all else that a step does, and one for the gradients of each weight.

Shapes: B minibatch (``rows``), T time (``steps``), N steps of all rows (``total``), F inputs of a
layer (``features``), H units (``hidden``), G = H, 3 H (GRU) or 4 H (LSTM). ``live`` (T,) says how
many rows have a step: the first ones, so that inputs (N, F) are those of all first steps, then
those of all second ones (`search.packing`). States are (B + N, H), of which the first are where the
layer starts, cells and gradients of states likewise; ``befores`` (N, H) is the state before each
step; weights (G, F) and (G, H), biases (G,). The equations are in `search.layer_functions`.
"""

from __future__ import annotations

from collections.abc import Callable

from numba import carray

from search.compiled import Array, Counts, Pointer, compiled, multiply, sigmoid, tanh
from search.layer_parts import add_up, pass_down, see, weigh, widen

# Each loop below writes one array and reads few: a compiler that cannot know that arrays do not
# overlap asks at run time, pair by pair, and does not vectorise where there are many pairs. It
# counts from 0, as a place that may be negative would be counted from an array's end.


def rnn_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    total: int,
    live: Counts,
    inputs: Pointer,
    states: Pointer,
    w_in: Pointer,
    w_h: Pointer,
    bias: Pointer,
) -> None:
    """Makes the states but the first, by all steps of Elman's network; biases are added up."""
    state, flat = carray(states, (rows + total, hidden)), carray(states, (rows + total) * hidden)
    counts, weights = carray(live, steps), carray(w_h, (hidden, hidden))
    see(state[rows:], carray(inputs, (total, features)), w_in, bias)
    before, at = 0, rows
    for count in counts:
        multiply(state[at : at + count], state[before : before + count], weights, 1, 0, 1)
        after = flat[at * hidden : (at + count) * hidden]
        for i in range(len(after)):
            after[i] = tanh(after[i])
        before, at = at, at + count


def rnn_back(
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
    ``part`` is room for another bias, and for `search.layer_parts.weigh`.
    """
    state, d_state = carray(states, (rows + total, hidden)), carray(d_states, (rows + total, wide))
    counts, driven = carray(live, steps), d_state[rows:]
    weights = widen(w_h, hidden, hidden, wide, wide, part)
    _rnn_steps_back(counts, state, d_state, weights)
    weigh(driven, hidden, carray(befores, (total, hidden)), d_w_h, part)
    weigh(driven, hidden, carray(inputs, (total, features)), d_w_in, part)
    add_up(driven, hidden, counts, d_bias, part)
    pass_down(driven, hidden, w_in, features, d_inputs, wide_in, part)


@compiled
def _rnn_steps_back(counts: Array, state: Array, d_state: Array, weights: Array) -> None:
    hidden, one, end = state.shape[1], weights.dtype.type(1), len(d_state)
    for t in range(len(counts) - 1, -1, -1):
        at = end - counts[t]
        after, driven = state[at:end], d_state[at:end]
        for b in range(len(after)):
            for j in range(hidden):
                driven[b, j] *= one - after[b, j] * after[b, j]
        before = at - counts[t - 1] if t else 0
        multiply(d_state[before : before + counts[t]], driven, weights, 1 if t else 0, 0, 0)
        end = at


def gru_there(
    steps: int,
    rows: int,
    features: int,
    hidden: int,
    total: int,
    live: Counts,
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

    Weights and biases are of r, z and n. ``gates`` (N, 3 H) becomes r, z and the inputs' part of n,
    ``new`` (N, H) n, ``from_state`` (N, H) the state's part of it; (B, 3 H) is room.
    """
    state, gate = carray(states, (rows + total, hidden)), carray(gates, (total, 3 * hidden))
    n, from_h = carray(new, (total, hidden)), carray(from_state, (total, hidden))
    weights, bias = carray(w_h, (3 * hidden, hidden)), carray(b_h, 3 * hidden)
    recurrent, counts = carray(room, (rows, 3 * hidden)), carray(live, steps)
    see(gate, carray(inputs, (total, features)), w_in, b_in)
    before, first = 0, 0
    for count in counts:
        end, last = first + count, state[before : before + count]
        multiply(recurrent[:count], last, weights, 0, 0, 1)
        after = state[rows + first : rows + end]
        _gru_step(gate[first:end], n[first:end], from_h[first:end], recurrent, bias, last, after)
        before, first = rows + first, end


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
    total: int,
    wide: int,
    wide_in: int,
    live: Counts,
    inputs: Pointer,
    states: Pointer,
    befores: Pointer,
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
    last, n = carray(befores, (total, hidden)), carray(new, (total, hidden))
    from_h, d_n = carray(from_state, (total, hidden)), carray(d_new, (total, hidden))
    gate, driven = carray(gates, (total, 3 * hidden)), carray(d_gates, (total, 3 * hidden))
    d_state, counts = carray(d_states, (rows + total, wide)), carray(live, steps)
    weights = widen(w_h, 3 * hidden, hidden, 3 * hidden, wide, part)
    _gru_steps_back(counts, gate, n, from_h, last, driven, d_n, d_state, weights)
    weigh(driven, 3 * hidden, last, d_w_h, part)
    add_up(driven, 3 * hidden, counts, d_b_h, part)
    _put_new(driven, d_n)
    weigh(driven, 3 * hidden, carray(inputs, (total, features)), d_w_in, part)
    add_up(driven, 3 * hidden, counts, d_b_in, part)
    pass_down(driven, 3 * hidden, w_in, features, d_inputs, wide_in, part)


@compiled
def _gru_steps_back(
    counts: Array,
    gate: Array,
    n: Array,
    from_h: Array,
    last: Array,
    driven: Array,
    d_n: Array,
    d_state: Array,
    weights: Array,
) -> None:
    end, rows = len(n), len(d_state) - len(n)
    d_state[:rows] = 0
    for t in range(len(counts) - 1, -1, -1):
        at = end - counts[t]
        before = rows + at - counts[t - 1] if t else 0
        d_before, d_after = d_state[before : before + counts[t]], d_state[rows + at : rows + end]
        made, d_made = (gate[at:end], n[at:end], from_h[at:end]), (driven[at:end], d_n[at:end])
        _gru_step_back(*made, last[at:end], d_after, *d_made, d_before)
        multiply(d_before, driven[at:end], weights, 1, 0, 0)
        end = at


@compiled
def _gru_step_back(
    gate: Array,
    new: Array,
    from_state: Array,
    before: Array,
    d_after: Array,
    driven: Array,
    d_new: Array,
    d_before: Array,
) -> None:
    rows, hidden = before.shape
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
    """Makes gradients of the inputs' part: other ones of n, whose other part passes through r."""
    rows, hidden = d_new.shape
    for b in range(rows):
        for j in range(hidden):
            driven[b, 2 * hidden + j] = d_new[b, j]


ENTRIES: list[Callable[..., None]] = [rnn_there, rnn_back, gru_there, gru_back]
