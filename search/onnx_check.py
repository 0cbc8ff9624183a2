"""`model.onnx`: made, then run by onnxruntime beside PyTorch on several batches and lengths.

Shapes: B batch, T time, F features, O outputs, S networks, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config import OwnModel
from search.data.cards import Card, ClassifyCard, ForecastCard, LanguageCard
from search.data.windows import in_units, standardised
from search.ensembles import Networks
from search.errors import RequestError
from search.intervals import edges
from search.model_files import ONNX, Band, OnnxCard

PACKAGES = ("onnx", "onnxruntime")
TOLERANCE = 1e-4
"""The largest difference that float32 explains, see `OnnxCard.difference`. Measured: 5e-7 at most
on untrained networks of up to 3 layers; on ensembles trained on the examples 4e-7 (vowels), 5e-7
(sunspots) and 6e-6 (shakespeare)."""
BATCHES = (1, 2, 33)
STEPS = (1, 7, 40)
"""Lengths that are tried besides the model's own."""

Array = NDArray[Any]
Runner = Callable[[dict[str, Array]], dict[str, Array]]


def require_onnx(own: OwnModel | None = None) -> None:
    """Checks that ``--onnx`` can be had: for such a network, and with what is installed.

    Args:
        own: The network, if it is the user's own.

    Raises:
        RequestError: It cannot.
    """
    if own is not None:
        raise RequestError(
            f"--onnx writes rnn-search's own networks only, and {own.factory} builds this one; "
            "export without --onnx"
        )
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise RequestError(
            f"--onnx needs {' and '.join(missing)}; install it: pip install 'rnn-search[onnx]'"
        )


def make_onnx(networks: Networks, card: Card, band: Band | None) -> tuple[bytes, OnnxCard]:
    """Returns the content of `model.onnx`, checked against PyTorch, and how it is used.

    Args:
        networks: On the CPU.
        card: How new data is read.
        band: For the intervals of forecasts; None: there are no such outputs.

    Raises:
        RequestError: onnxruntime answers otherwise than PyTorch does.
    """
    # Imports onnx, which is an extra.
    from search.onnx_graph import OPSET, make_graph

    content = make_graph(networks, card, band).SerializeToString(deterministic=True)
    difference = largest_difference(_runner(content), networks, card, band)
    inputs, outputs = _described(networks, card, band)
    return content, OnnxCard(
        sha256=hashlib.sha256(content).hexdigest(),
        opset=OPSET,
        inputs=inputs,
        outputs=outputs,
        difference=difference,
    )


def _runner(content: bytes) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]

    def run(inputs: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, inputs), strict=True))

    return run


@torch.no_grad()
def largest_difference(run: Runner, networks: Networks, card: Card, band: Band | None) -> float:
    """Returns the largest difference between ONNX and PyTorch over batches and lengths.

    Args:
        run: Takes inputs and returns outputs, by name.
        networks: What it must answer like.
        card: How new data is read.
        band: As in the graph.

    Raises:
        RequestError: It is more than `TOLERANCE`, or not a number.
    """
    rng = np.random.default_rng(0)
    worst = 0.0
    for batch in BATCHES:
        for steps in sorted({*STEPS, _own_steps(card)}):
            if isinstance(card, ForecastCard):
                pairs = _forecasts(run, networks, card, band, _values(rng, card, batch, steps))
            elif isinstance(card, ClassifyCard):
                pairs = _classes(run, networks, card, _values(rng, card, batch, steps), rng)
            else:
                codes = rng.integers(card.input_size, size=(batch, 2 * steps))
                pairs = _texts(run, networks, codes, steps)
            found = float(np.max([_apart(*pair) for pair in pairs]))
            if not found <= TOLERANCE:
                raise RequestError(
                    f"{ONNX} would answer otherwise than the network, by {found:.1g} for "
                    f"{batch} x {steps} steps (float32 explains {TOLERANCE:g}); nothing was "
                    "written; export without --onnx"
                )
            worst = max(worst, found)
    return worst


def _own_steps(card: Card) -> int:
    if isinstance(card, ForecastCard):
        return card.window
    return card.sequence_length if isinstance(card, LanguageCard) else STEPS[0]


def _values(
    rng: np.random.Generator, card: ForecastCard | ClassifyCard, batch: int, steps: int
) -> Array:
    """Returns (B, T, F) float64 in the data's units, such as training may have seen."""
    mean, scale = _norms(card)
    return rng.normal(size=(batch, steps, card.input_size)) * scale + mean


def _norms(card: ForecastCard | ClassifyCard) -> tuple[Array, Array]:
    if isinstance(card, ForecastCard):
        return np.array(card.feature_mean), np.array(card.feature_std)
    return np.array(card.mean), np.array(card.scale)


Pairs = Iterator[tuple[Array, Tensor, Array | float]]
"""What ONNX answers, what PyTorch does, and the unit in which their difference counts."""


def _apart(got: Array, wanted: Tensor, unit: Array | float) -> float:
    """Returns the largest difference; not a number if their shapes differ."""
    if got.shape != tuple(wanted.shape):
        return float("nan")
    # numpy's max, unlike Python's, does not lose what is not a number.
    return float((np.abs(got.astype(np.float64) - wanted.double().numpy()) / unit).max())


def _forecasts(
    run: Runner, networks: Networks, card: ForecastCard, band: Band | None, values: Array
) -> Pairs:
    """Yields forecasts and the ends of their intervals; standard deviations are their unit."""
    inputs = standardised(values, *_norms(card))
    outputs = torch.stack([network(inputs)[0] for network in networks.each])
    shift, scale = (torch.tensor(one, dtype=torch.float64) for one in (card.shift, card.scale))
    places = [card.features.index(name) for name in card.targets if card.anchored]
    last = torch.from_numpy(values[:, -1][:, places])
    centre = in_units(networks.join(outputs), last, shift, scale, card.anchored)
    wanted = {"forecast": centre}
    if band is not None:
        below, above = edges(band, outputs, scale)
        wanted |= {"low": centre + below, "high": centre + above}
    shape = (len(values), card.horizon, len(card.targets))
    units = scale.view(shape[1:]).numpy()
    got = run({"values": values})
    for name, value in wanted.items():
        yield got[name], value.view(shape), units


def _classes(
    run: Runner, networks: Networks, card: ClassifyCard, values: Array, rng: np.random.Generator
) -> Pairs:
    """Yields probabilities of padded series beside those of each series by itself, unpadded."""
    lengths = rng.integers(1, values.shape[1] + 1, size=len(values))
    padded = values.copy()
    for series, length in zip(padded, lengths, strict=True):
        series[length:] = 1e9  # Whatever comes after the last real step must not matter.
    got = run({"values": padded, "lengths": lengths})
    shares = []
    for series, length in zip(values, lengths, strict=True):
        inputs = standardised(series[:length], *_norms(card))[None]
        outputs = torch.stack([network(inputs)[0] for network in networks.each])
        shares.append(networks.join(outputs).double().softmax(-1)[0])
    yield got["probabilities"], torch.stack(shares), 1.0
    yield got["class"], torch.from_numpy(got["probabilities"].argmax(1)), 1.0


def _texts(run: Runner, networks: Networks, codes: Array, cut: int) -> Pairs:
    """Yields log-probabilities and states of texts read in two pieces, the state handed on."""
    logits, states = [], list[tuple[Tensor, ...]]()
    for network in networks.each:
        outputs, state = network(torch.from_numpy(codes))
        logits.append(outputs)
        states.append(state if isinstance(state, tuple) else (state,))
    whole = [torch.cat(one) for one in zip(*states, strict=True)]
    names = ("state", "cell")[: len(whole)]
    carried = {
        name: np.zeros(one.shape, np.float32) for name, one in zip(names, whole, strict=True)
    }
    pieces = []
    for piece in (codes[:, :cut], codes[:, cut:]):
        got = run({"characters": piece, **carried})
        carried = {name: got[f"{name}_out"] for name in names}
        pieces.append(got["log_probabilities"])
    got = {**carried, "logs": np.concatenate(pieces, axis=1)}
    wanted = dict(zip(names, whole, strict=True))
    wanted["logs"] = networks.join(torch.stack(logits)).log_softmax(-1)
    for name, value in wanted.items():
        # These are large where they are of no consequence, and float32 is as exact as they are.
        yield got[name], value, 1 + value.abs().numpy()


def _described(
    networks: Networks, card: Card, band: Band | None
) -> tuple[dict[str, str], dict[str, str]]:
    """Returns what each input and output is."""
    if isinstance(card, ForecastCard):
        values = f"float64 (batch, time, {card.input_size}): {_names(card.features)}"
        shape = f"float64 (batch, {card.horizon}, {len(card.targets)})"
        found = {"forecast": f"{shape}: steps ahead of {_names(card.targets)}, in their units"}
        if band is not None:
            found |= {"low": f"{shape}: where the interval begins", "high": f"{shape}: and ends"}
        return {"values": f"{values}, in their units, trained on {card.window} steps"}, found
    if isinstance(card, ClassifyCard):
        values = (
            f"float64 (batch, time, {card.input_size}): {_names(card.channels)}, in their units"
        )
        inputs = {
            "values": f"{values}, filled up to the longest with anything finite",
            "lengths": "int64 (batch): how many of the steps are real",
        }
        shares = f"float32 (batch, {card.output_size}): of the classes in their order"
        return inputs, {"probabilities": shares, "class": "int64 (batch): place of the likeliest"}
    return _described_text(networks, card)


def _described_text(
    networks: Networks, card: LanguageCard
) -> tuple[dict[str, str], dict[str, str]]:
    from search.onnx_graph import STATES

    params, size = networks.ours[0].params, card.output_size
    rows = params.hidden_layers * len(networks.each)
    shape = f"float32 ({rows}, batch, {params.hidden_units})"
    inputs = {"characters": f"int64 (batch, time): places in the vocabulary; unknown ones: {size}"}
    outputs = {"log_probabilities": f"float32 (batch, time, {size}): of the character after each"}
    for name in STATES[params.cell]:
        inputs[name] = f"{shape}: 0 at the start, then the last {name}_out"
        outputs[f"{name}_out"] = f"{shape}: goes in as {name} to go on"
    return inputs, outputs


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(names) if len(names) <= 20 else f"{', '.join(names[:20])}, ..."
