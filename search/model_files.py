"""The two files that are a model: `model.json`, which says how it reads data, and its weights.

    DIR/model.json              what `ModelCard` holds, plain JSON
    DIR/model.safetensors       weights by parameter name; of an ensemble: by number and name
    DIR/model.onnx              the same network for other programs, if asked for; never read
    DIR/README.md               for people; never read

Neither needs the study it came from, and reading them executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from safetensors.torch import save as write_safetensors
from torch import Tensor

from search.config import OwnModel
from search.data.cards import Card, LanguageCard
from search.ensembles import Networks
from search.errors import DataError
from search.factories import Factory, trust_factory
from search.fields import FactoryName
from search.models import CELLS, Network, SequenceModel
from search.space import HyperParams

FORMAT: Final = 2
"""Rises when an older rnn-search could not read, or would misread, what is written. Format 1 had
single networks only; it is read still."""
CARD, WEIGHTS, ONNX, README = "model.json", "model.safetensors", "model.onnx", "README.md"
AGAIN = "export the model again"
"""The remedy against damaged files."""
Source = Literal["trial", "winner", "ensemble"]
"""Which networks a model is: a trial's own; the best seed of an evaluation's winner; all of its
seeds."""
SIZES = ("hidden_layers", "hidden_units")


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Band(_Plain):
    """How far the actual values lay from the forecasts of the validation part, by quantile.

    Attributes:
        low: (O,) 5 % quantiles of actual minus forecast, horizon-major; in the targets' units, or
            in multiples of a window's own spread if there is ``residual``.
        high: (O,) 95 % quantiles.
        windows: How many windows they come from.
        residual: (O,) root mean square of actual minus forecast, in the targets' units; makes the
            spread, see `search.intervals`. None for a single network.
    """

    low: tuple[FiniteFloat, ...]
    high: tuple[FiniteFloat, ...]
    windows: int
    residual: tuple[Annotated[FiniteFloat, Field(ge=0)], ...] | None = None

    @property
    def share(self) -> float:
        """The share of new values that are to lie within: 0.9, or less if there are few windows."""
        return min(0.9, max(0.0, (self.windows - 1) / (self.windows + 1)))


class Member(_Plain):
    """A network that an evaluation has trained.

    Attributes:
        seed: What it was trained with.
        epoch: Its best epoch, from 1, whose weights these are.
        figures: Validation figures at that epoch.
    """

    seed: int
    epoch: int
    figures: dict[str, float]


class AtTest(_Plain):
    """What the evaluation saw when it looked at the test part.

    Attributes:
        figures: Of just what is exported, a network or the ensemble.
        time: When, in ISO 8601.
        look: Which look it was, from 1; only the first is quite honest.
    """

    figures: dict[str, float]
    time: str
    look: int


class OnnxCard(_Plain):
    """How `model.onnx` is used.

    Attributes:
        sha256: Of the file, in hexadecimal.
        opset: Of ONNX's operators.
        inputs: What each input is: type, shape, meaning.
        outputs: What each output is.
        difference: The largest from the PyTorch networks that onnxruntime showed when it was
            exported: of forecasts, in standard deviations; of probabilities; of their logarithms
            and of states, relative to 1 and their size.
    """

    sha256: str
    opset: int
    inputs: dict[str, str]
    outputs: dict[str, str]
    difference: float


class ModelCard(_Plain):
    """What `model.json` holds.

    Attributes:
        format: See `FORMAT`.
        study: The study's name.
        source: See `Source`.
        trial: Number of the trial whose configuration it is.
        epoch: The epoch, from 1, whose weights these are; None for an ensemble.
        metric: What the study searched by.
        figures: Validation figures of just what is exported; of an ensemble, none if the data was
            not there any more.
        members: The networks, if an evaluation trained them, in the order of their weights.
        test: Figures of the test part, if an evaluation has them.
        hyperparameters: What the network was built and trained with.
        data: How new data is read.
        band: For the intervals of forecasts; None if the data was not there any more.
        fingerprint: Of the data that it was trained on.
        versions: Of what it was trained with.
        weights: SHA-256 of `model.safetensors`, in hexadecimal.
        onnx: How `model.onnx` is used; None: there is none.
        factory: What builds the network, if it is the user's own: ``package.module:function``.
        factory_source: Fingerprint of the file that held it when the network was trained.
    """

    format: Literal[1, 2]
    study: str
    source: Source = "trial"
    trial: int
    epoch: int | None
    metric: str
    figures: dict[str, float]
    members: tuple[Member, ...] = ()
    test: AtTest | None = None
    hyperparameters: HyperParams
    data: Card
    band: Band | None = None
    fingerprint: str
    versions: dict[str, str]
    weights: str
    factory: FactoryName | None = None
    factory_source: str | None = None
    onnx: OnnxCard | None = None

    @property
    def joined(self) -> bool:
        """True for an ensemble, of however many networks."""
        return self.source == "ensemble"

    @model_validator(mode="after")
    def _fits(self) -> ModelCard:
        if self.hyperparameters.cell not in CELLS:
            raise ValueError(
                f"the cell {self.hyperparameters.cell!r} is none of {', '.join(CELLS)}"
            )
        for name in SIZES:
            if getattr(self.hyperparameters, name) < 1:
                raise ValueError(f"{name} is less than 1")
        if not 0 <= self.hyperparameters.dropout <= 1:
            raise ValueError("dropout is not between 0 and 1")
        if self.joined and not self.members:
            raise ValueError("an ensemble has no members")
        if self.band is not None:
            size, arrays = self.data.output_size, (self.band.low, self.band.high)
            if {len(one) for one in (*arrays, self.band.residual or arrays[0])} != {size}:
                raise ValueError(f"band has not {size} entries")
        return self


def make_network(params: HyperParams, data: Card, factory: Factory | None = None) -> Network:
    """Returns an untrained network of the right shapes; torch's generator is left as it was."""
    make = SequenceModel if factory is None else factory.build
    with torch.random.fork_rng(devices=[]):
        return make(
            params,
            data.input_size,
            data.output_size,
            per_step=isinstance(data, LanguageCard),
        )


def fill(
    params: HyperParams,
    data: Card,
    content: bytes,
    path: Path,
    members: int = 0,
    factory: Factory | None = None,
    *,
    described_by: str = CARD,
    remedy: str = AGAIN,
) -> Networks:
    """Returns the networks with the weights of a safetensors file.

    Args:
        params: Decides their shapes, with ``data``.
        data: Decides their shapes, with ``params``.
        content: Of the file.
        path: The file, for messages.
        members: How many networks an ensemble has; 0: it is no ensemble but one network.
        factory: Builds them, if they are the user's own.
        described_by: Where ``params`` and ``data`` are from, for messages.
        remedy: Against weights that are damaged or of another network, for messages.

    Raises:
        DataError: The weights are damaged or of another network.
        NetworkError: The factory raised an exception.
    """
    weights = _tensors(content, path, remedy)
    starts = [f"{number}." for number in range(members)] if members else [""]
    wanted = _wanted(params, data, factory) if factory or _fits_in(weights, params) else {}
    whole = {start + name: tensor for start in starts for name, tensor in wanted.items()}
    if not whole or _shapes(whole) != _shapes(weights):
        raise _of_another(path, described_by, factory, remedy)
    _require_finite(weights, factory, path, remedy)
    networks = []
    for start in starts:
        network = make_network(params, data, factory)
        network.load_state_dict({name: weights[start + name] for name in wanted})
        networks.append(network.eval())
    return Networks(data.task, tuple(networks), joined=members > 0)


def _of_another(path: Path, described_by: str, factory: Factory | None, remedy: str) -> DataError:
    makers = f"{described_by} describes"
    if factory is not None:
        makers = f"{described_by} and {factory.name} describe"
    return DataError(f"{path} holds the weights of another network than {makers}; {remedy}")


def _require_finite(
    weights: Mapping[str, Tensor], factory: Factory | None, path: Path, remedy: str
) -> None:
    # A network of the user's own may hold an infinite mask.
    if factory is None and not all(bool(one.isfinite().all()) for one in weights.values()):
        raise DataError(f"{path} is damaged: not all weights are finite; {remedy}")


def _fits_in(weights: Mapping[str, Tensor], params: HyperParams) -> bool:
    """Whether a file can hold so many layers and units; a wrong number may take hours to build."""
    widest = max((max(tensor.shape, default=0) for tensor in weights.values()), default=0)
    return params.hidden_layers <= len(weights) and params.hidden_units <= widest


def _wanted(params: HyperParams, data: Card, factory: Factory | None) -> dict[str, Tensor]:
    """Returns tensors with the names, shapes and types of one network's weights."""
    if factory is not None:
        return make_network(params, data, factory).state_dict()
    # On "meta" nothing is allocated, so that a wrong number of units cannot fill the memory.
    with torch.device("meta"):
        return make_network(params, data).state_dict()


def joint_weights(each: Sequence[Mapping[str, Tensor]]) -> bytes:
    """Returns the content of an ensemble's safetensors file, which `fill` reads."""
    return write_safetensors(
        {f"{at}.{name}": tensor for at, one in enumerate(each) for name, tensor in one.items()}
    )


def read_model(folder: Path, *, trust_code: bool = False) -> tuple[ModelCard, Networks]:
    """Reads a model.

    Args:
        folder: The folder it is in.
        trust_code: Whether its factory, if it has one, may be imported.

    Raises:
        DataError: There is none, or it is damaged or of a newer rnn-search; one line.
        FactoryError: Its factory is not trusted, or cannot be imported.
        NetworkError: Its factory raised an exception.

    Warns:
        UserWarning: The code of its factory has changed since it was trained.
    """
    card = read_card(folder)
    own = OwnModel(factory=card.factory, folder=folder) if card.factory else None
    factory = trust_factory(own, str(folder / CARD), trusted=trust_code)
    for change in [] if factory is None else factory.changes_since(card.factory_source):
        warnings.warn(change, stacklevel=3)
    path = folder / WEIGHTS
    content = _content(path)
    if hashlib.sha256(content).hexdigest() != card.weights:
        raise DataError(
            f"{path} is damaged, or of another export than {CARD} beside it (their checksums "
            f"differ); {AGAIN}"
        )
    members = len(card.members) if card.joined else 0
    return card, fill(card.hyperparameters, card.data, content, path, members, factory)


def read_card(folder: Path) -> ModelCard:
    """Reads `model.json`.

    Raises:
        DataError: There is none, or it is damaged or of a newer rnn-search; one line.
    """
    path = folder / CARD
    content = _content(path)
    try:
        written = json.loads(content)
    except (ValueError, RecursionError):
        raise DataError(f"{path} is damaged: no JSON; {AGAIN}") from None
    found = written.get("format") if isinstance(written, dict) else None
    if isinstance(found, int) and found > FORMAT:
        raise DataError(
            f"{path} is of format {found} and this rnn-search reads {FORMAT}; upgrade rnn-search"
        )
    try:
        return ModelCard.model_validate(written)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "it"
        said = first["msg"].removeprefix("Value error, ")
        raise DataError(f"{path} is damaged: {key}: {said}; {AGAIN}") from None


def card_bytes(card: ModelCard) -> bytes:
    """Returns the content of `model.json`."""
    plain: Mapping[str, Any] = card.model_dump(mode="json")
    return (json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        if path.parent.is_dir():
            raise DataError(
                f"{path.parent} holds no model: it has no {path.name}; give a folder that "
                "rnn-search export has made"
            ) from None
        raise DataError(
            f"there is no folder {path.parent}; give one that rnn-search export has made"
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from None


def _tensors(content: bytes, path: Path, remedy: str) -> dict[str, Tensor]:
    try:
        return read_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({cause}); {remedy}") from None


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
