"""`model.onnx`: any batch and length, in every form, run by onnxruntime beside PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import hyper
from numpy.typing import NDArray
from test_predict_refusals import CLASSIFY, FORECAST, LANGUAGE

from search.data.cards import Card
from search.ensembles import Networks
from search.errors import RequestError
from search.model_files import Band
from search.models import SequenceModel
from search.onnx_check import TOLERANCE, largest_difference, make_onnx, require_onnx
from search.onnx_graph import make_graph

BAND = Band(low=(-1.0, -1.5), high=(1.0, 2.0), windows=9)
Array = NDArray[Any]


def networks(
    card: Card, members: int, cell: str = "lstm", layers: int = 2, seed: int = 0
) -> Networks:
    """Returns networks that were never trained; no members: one that is no ensemble."""
    torch.manual_seed(seed)
    params = hyper(cell=cell, hidden_layers=layers, hidden_units=9, dropout=0.3)
    sizes, per_step = (card.input_size, card.output_size), card.task == "language"
    each = [SequenceModel(params, *sizes, per_step=per_step).eval() for _ in range(members or 1)]
    return Networks(card.task, tuple(each), joined=members > 0)


def session(content: bytes) -> Callable[[dict[str, Array]], dict[str, Array]]:
    """Returns what runs a model."""
    made = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in made.get_outputs()]
    return lambda inputs: dict(zip(names, made.run(None, inputs), strict=True))


@pytest.mark.parametrize("card", [FORECAST, CLASSIFY, LANGUAGE], ids=lambda card: card.task)
@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("members", [0, 1, 3])
def test_every_network_has_its_graph(card: Card, cell: str, layers: int, members: int) -> None:
    """Of each task, cell and depth, alone or together, onnxruntime answers as PyTorch does."""
    band = BAND if card is FORECAST else None
    if band is not None and members:
        band = band.model_copy(update={"residual": (0.5, 0.7)})
    content, described = make_onnx(networks(card, members, cell, layers), card, band)
    assert described.difference < 2e-6
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    operators = [node.op_type for node in model.graph.node]
    # One operator a layer reads all steps: nothing is unrolled.
    assert operators.count(cell.upper()) == layers * (members or 1)
    assert not {"Loop", "Scan", "If"} & set(operators)
    assert {one.name for one in model.graph.input} == described.inputs.keys()
    assert {one.name for one in model.graph.output} == described.outputs.keys()
    for one in model.graph.input:
        axes = [axis.dim_param for axis in one.type.tensor_type.shape.dim]
        assert "batch" in axes
        assert ("time" in axes) == (one.name in ("values", "characters"))


def test_padding_does_not_matter() -> None:
    """A series has the same class and probabilities, whatever fills it up, not even a number."""
    run = session(make_onnx(networks(CLASSIFY, 3), CLASSIFY, None)[0])
    values, lengths = np.random.default_rng(0).normal(size=(4, 9, 1)), np.array([9, 1, 4, 2])
    found = []
    for filling in (0.0, 1e30, np.nan):
        filled = values.copy()
        for series, length in zip(filled, lengths, strict=True):
            series[length:] = filling
        found.append(run({"values": filled, "lengths": lengths})["probabilities"])
    assert (found[0] == found[1]).all()
    assert (found[0] == found[2]).all()
    for at, length in enumerate(lengths):
        alone = {"values": values[at : at + 1, :length], "lengths": lengths[at : at + 1]}
        assert np.allclose(run(alone)["probabilities"], found[0][at], atol=1e-6)


def test_units_are_the_datas_own() -> None:
    """Large values far from zero lose nothing on the way in: they are standardised as float64."""
    far = FORECAST.model_copy(
        update={"feature_mean": (1e9, 1.0), "feature_std": (0.01, 2.0), "scale": (0.01, 0.01)}
    )
    own = networks(FORECAST, 0)
    rng = np.random.default_rng(0)
    # What double precision itself loses of a hundredth, 1e9 away from zero, is 1e-5 of it.
    near = np.round(rng.normal(size=(5, 4, 2)), 2)
    shifted = near * [0.01, 2.0] + [1e9, 1.0]
    one, other = (session(make_onnx(own, card, None)[0]) for card in (FORECAST, far))
    wanted = one({"values": near * [1.0, 2.0] + [0.0, 1.0]})["forecast"] - near[:, -1:, :1]
    found = other({"values": shifted})["forecast"] - shifted[:, -1:, :1]
    shift, scale = np.array(FORECAST.shift), np.array(FORECAST.scale)
    changes = (wanted[:, :, 0] - shift) / scale * 0.01 + shift
    assert np.allclose(found[:, :, 0], changes, atol=1e-6)


@pytest.mark.parametrize("card", [FORECAST, CLASSIFY, LANGUAGE], ids=lambda card: card.task)
def test_another_network_is_refused(card: Card) -> None:
    """The check compares for real: the graph of other weights is no graph of these."""
    for members in (0, 3):
        other = make_graph(networks(card, members), card, None).SerializeToString()
        own = networks(card, members, seed=1)
        with pytest.raises(RequestError, match=r"model\.onnx would answer otherwise") as error:
            largest_difference(session(other), own, card, None)
        assert "\n" not in str(error.value)


def test_a_number_that_is_none_is_refused() -> None:
    """Answers that are not numbers, or have another shape, are never close enough."""
    own = networks(FORECAST, 0)
    good = session(make_onnx(own, FORECAST, None)[0])
    assert largest_difference(good, own, FORECAST, None) < TOLERANCE

    def spoiled(inputs: dict[str, Array]) -> dict[str, Array]:
        return {name: value * np.nan for name, value in good(inputs).items()}

    def cut(inputs: dict[str, Array]) -> dict[str, Array]:
        return {name: value[:, :1] for name, value in good(inputs).items()}

    with pytest.raises(RequestError, match="by nan"):
        largest_difference(spoiled, own, FORECAST, None)
    with pytest.raises(RequestError, match="by nan"):
        largest_difference(cut, own, FORECAST, None)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages the message names the extra that brings them."""
    require_onnx()
    monkeypatch.setattr("search.onnx_check.PACKAGES", ("onnx", "no_such_runtime"))
    with pytest.raises(RequestError, match=r"no_such_runtime; install it: .*rnn-search\[onnx\]"):
        require_onnx()
