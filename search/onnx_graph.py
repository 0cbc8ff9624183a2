"""Networks → an ONNX graph, put together from ONNX's own RNN, LSTM and GRU operators.

torch.onnx's exporters are not used. Measured with torch 2.13.0 and onnxruntime 1.32.0 on 27 cases
(3 cells; 1, 2 and 3 layers; a window, lengths per series, a state in and out): the exporter of
torch.export kept the time axis variable in 6 of them and unrolled plain RNNs step by step; the
older one of TorchScript did in all 27, once lengths were a gather, but is deprecated. The operators
themselves take any batch and length, and need no package but onnx.

Data goes in and comes out in its own units, the standardisation is part of the graph.

Shapes: B batch, T time, F features, L layers, H hidden, S networks, O outputs, Q horizon,
K targets, C classes, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor, nn

from search.data.cards import Card, ClassifyCard, ForecastCard, LanguageCard
from search.ensembles import Networks
from search.model_files import Band
from search.models import SequenceModel

OPSET = 17
"""Of 2022, so that other programs read it; the operators used have hardly changed since."""
IR = 8
"""Version of the file format that belongs to it."""
GATES = {"rnn": (0,), "lstm": (0, 3, 1, 2), "gru": (1, 0, 2)}
"""Where ONNX's gates are among torch's: i o f c of i f g o; z r h of r z n."""
STATES = {"rnn": ("state",), "gru": ("state",), "lstm": ("state", "cell")}
"""Inputs of the hidden state; the outputs that continue it end in ``_out``."""
FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64


class _Graph:
    """The nodes and constants of a graph in the making; values are known by their names."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []

    def constant(self, values: object, kind: type[np.generic]) -> str:
        """Adds a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype=kind), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node with one output."""
        return self.add_many(operator, 1, *inputs, **attributes)[0]

    def add_many(self, operator: str, count: int, *inputs: str, **attributes: Any) -> list[str]:
        """Adds a node with so many outputs."""
        at = len(self.nodes)
        outputs = [f"v{at}_{number}" for number in range(count)]
        self.nodes.append(helper.make_node(operator, inputs, outputs, f"n{at}", **attributes))
        return outputs

    def name(self, value: str, name: str) -> None:
        """Gives a value the name by which it is an output of the graph."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))


def make_graph(networks: Networks, card: Card, band: Band | None) -> ModelProto:
    """Returns the networks, how they answer as one, and the standardisation, as a graph.

    Args:
        networks: On the CPU.
        card: How new data is read.
        band: For the intervals of forecasts; None: there are no such outputs.
    """
    graph = _Graph()
    if isinstance(card, ForecastCard):
        inputs, outputs = _forecast(graph, networks, card, band)
    elif isinstance(card, ClassifyCard):
        inputs, outputs = _classify(graph, networks, card)
    else:
        inputs, outputs = _language(graph, networks, card)
    whole = helper.make_graph(graph.nodes, card.task, inputs, outputs, graph.constants)
    return helper.make_model(
        whole,
        producer_name="rnn-search",
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR,
    )


def _value(name: str, kind: int, *shape: str | int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _forecast(
    graph: _Graph, networks: Networks, card: ForecastCard, band: Band | None
) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    steps = _standardised(graph, card.feature_mean, card.feature_std)
    answers = []
    for network in networks.ours:
        _, last = _recurrent(graph, network, steps)
        answers.append(_head(graph, network, graph.add("Squeeze", last[-1][0], _axes(graph, 0))))
    scale = graph.constant(card.scale, np.float64)
    outputs = graph.add("Cast", graph.add("Mean", *answers), to=DOUBLE)
    outputs = graph.add("Mul", outputs, scale)
    outputs = graph.add("Add", outputs, graph.constant(card.shift, np.float64))
    if card.anchored:
        last_row = graph.add("Gather", "values", graph.constant(-1, np.int64), axis=1)
        places = [card.features.index(name) for name in card.targets]
        observed = graph.add("Gather", last_row, graph.constant(places, np.int64), axis=1)
        repeats = graph.constant([1, card.horizon], np.int64)
        outputs = graph.add("Add", outputs, graph.add("Tile", observed, repeats))
    found = {"forecast": outputs}
    if band is not None:
        spread = _spread(graph, answers, card, band)
        for name, edge in (("low", band.low), ("high", band.high)):
            distance = graph.constant(edge, np.float64)
            distance = distance if spread is None else graph.add("Mul", spread, distance)
            found[name] = graph.add("Add", outputs, distance)
    shape = (card.horizon, len(card.targets))
    for name, value in found.items():
        graph.name(graph.add("Reshape", value, graph.constant((0, *shape), np.int64)), name)
    return (
        [_value("values", DOUBLE, "batch", "time", card.input_size)],
        [_value(name, DOUBLE, "batch", *shape) for name in found],
    )


def _spread(graph: _Graph, answers: Sequence[str], card: ForecastCard, band: Band) -> str | None:
    """Adds the (B, O) spread of the errors, see `search.intervals`; None if it has no part."""
    if band.residual is None:
        return None
    square = graph.constant(np.square(band.residual), np.float64)
    if len(answers) > 1:
        whole = [graph.add("Cast", one, to=DOUBLE) for one in answers]
        count = graph.constant(len(answers), np.float64)
        mean = graph.add("Div", graph.add("Sum", *whole), count)
        off = [graph.add("Sub", one, mean) for one in whole]
        summed = graph.add("Sum", *(graph.add("Mul", one, one) for one in off))
        factor = graph.constant(np.square(card.scale) / (len(answers) - 1), np.float64)
        square = graph.add("Add", graph.add("Mul", summed, factor), square)
    return graph.add("Sqrt", square)


def _classify(
    graph: _Graph, networks: Networks, card: ClassifyCard
) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    steps = _standardised(graph, card.mean, card.scale)
    one = graph.constant(1, np.int64)
    places = graph.add("Unsqueeze", graph.add("Sub", "lengths", one), _axes(graph, 1))
    shares = []
    for network in networks.ours:
        hidden, _ = _recurrent(graph, network, steps)
        # What comes after the last real step is never looked at, so padding does not matter.
        rows = graph.add("Transpose", hidden, perm=[1, 0, 2])
        last = graph.add("GatherND", rows, places, batch_dims=1)
        shares.append(graph.add("Softmax", _head(graph, network, last), axis=1))
    mean = graph.add("Mean", *shares)
    graph.name(mean, "probabilities")
    graph.name(graph.add("ArgMax", mean, axis=1, keepdims=0), "class")
    return (
        [
            _value("values", DOUBLE, "batch", "time", card.input_size),
            _value("lengths", INT64, "batch"),
        ],
        [
            _value("probabilities", FLOAT, "batch", card.output_size),
            _value("class", INT64, "batch"),
        ],
    )


def _language(
    graph: _Graph, networks: Networks, card: LanguageCard
) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    params = networks.ours[0].params
    names, layers = STATES[params.cell], params.hidden_layers
    rows = layers * len(networks.ours)
    states = [_rows_of(graph, name, rows) for name in names]
    logs, last = [], list[list[str]]()
    for number, network in enumerate(networks.ours):
        assert network.embedding is not None
        weights = graph.constant(_array(network.embedding.weight), np.float32)
        steps = graph.add("Gather", weights, graph.add("Transpose", "characters", perm=[1, 0]))
        own = [one[number * layers : (number + 1) * layers] for one in states]
        hidden, found = _recurrent(graph, network, steps, own)
        last += found
        turned = graph.add("Transpose", hidden, perm=[1, 0, 2])
        logs.append(graph.add("LogSoftmax", _head(graph, network, turned), axis=-1))
    graph.name(_log_mean(graph, logs), "log_probabilities")
    for at, name in enumerate(names):
        graph.name(graph.add("Concat", *(one[at] for one in last), axis=0), f"{name}_out")
    shape = (rows, "batch", params.hidden_units)
    return (
        [
            _value("characters", INT64, "batch", "time"),
            *(_value(name, FLOAT, *shape) for name in names),
        ],
        [
            _value("log_probabilities", FLOAT, "batch", "time", card.output_size),
            *(_value(f"{name}_out", FLOAT, *shape) for name in names),
        ],
    )


def _rows_of(graph: _Graph, name: str, count: int) -> list[str]:
    """Cuts a state into so many of (1, B, H)."""
    if count == 1:
        return [name]
    return graph.add_many("Split", count, name, graph.constant([1] * count, np.int64), axis=0)


def _log_mean(graph: _Graph, logs: Sequence[str]) -> str:
    """Adds the logarithm of the mean of probabilities that are given by their logarithms."""
    if len(logs) == 1:
        return logs[0]
    first = _axes(graph, 0)
    stacked = graph.add("Concat", *(graph.add("Unsqueeze", one, first) for one in logs), axis=0)
    summed = graph.add("ReduceLogSumExp", stacked, axes=[0], keepdims=0)
    return graph.add("Sub", summed, graph.constant(math.log(len(logs)), np.float32))


def _axes(graph: _Graph, *axes: int) -> str:
    return graph.constant(axes, np.int64)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().numpy()
    return array


def _standardised(graph: _Graph, mean: Sequence[float], scale: Sequence[float]) -> str:
    """Adds (T, B, F) float32 steps, made from the input ``values``, (B, T, F) in their units."""
    off = graph.add("Sub", "values", graph.constant(mean, np.float64))
    divided = graph.add("Div", off, graph.constant(scale, np.float64))
    steps = graph.add("Cast", divided, to=FLOAT)
    return graph.add("Transpose", steps, perm=[1, 0, 2])


def _recurrent(
    graph: _Graph, network: SequenceModel, steps: str, start: Sequence[Sequence[str]] = ()
) -> tuple[str, list[list[str]]]:
    """Adds the recurrent layers.

    Args:
        graph: Gets them.
        network: Has the weights.
        steps: (T, B, F).
        start: The hidden state, and for LSTM the cell's: for each layer (1, B, H); empty: 0.

    Returns:
        (T, B, H) of the last layer, and every layer's last states, each (1, B, H).
    """
    cell, kinds = network.params.cell, len(STATES[network.params.cell])
    last: list[list[str]] = []
    for layer in range(network.params.hidden_layers):
        first = [one[layer] for one in start]
        # An empty name leaves an input out: here the lengths.
        inputs = [steps, *_weights(graph, network.recurrent, cell, layer), "", *first]
        extra = {"linear_before_reset": 1} if cell == "gru" else {}
        every, *found = graph.add_many(
            cell.upper(),
            1 + kinds,
            *(inputs if first else inputs[:-1]),
            hidden_size=network.params.hidden_units,
            **extra,
        )
        steps = graph.add("Squeeze", every, _axes(graph, 1))
        last.append(found)
    return steps, last


def _weights(graph: _Graph, layers: nn.RNNBase, cell: str, layer: int) -> list[str]:
    """Adds (1, G H, F) and (1, G H, H) weights and (1, 2 G H) biases with ONNX's order of gates."""
    found = {}
    for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        whole = _array(getattr(layers, f"{name}_l{layer}"))
        blocks = np.split(whole, len(GATES[cell]))
        found[name] = np.concatenate([blocks[at] for at in GATES[cell]])[None]
    biases = np.concatenate([found["bias_ih"], found["bias_hh"]], axis=1)
    arrays = (found["weight_ih"], found["weight_hh"], biases)
    return [graph.constant(one, np.float32) for one in arrays]


def _head(graph: _Graph, network: SequenceModel, hidden: str) -> str:
    """Adds the linear layer from H to O, C or V."""
    weights = graph.constant(_array(network.head.weight).T, np.float32)
    summed = graph.add("MatMul", hidden, weights)
    return graph.add("Add", summed, graph.constant(_array(network.head.bias), np.float32))
