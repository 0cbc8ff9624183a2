"""The two files that are a model: `model.json`, which says how it reads data, and its weights.

    DIR/model.json              what `ModelCard` holds, plain JSON
    DIR/model.safetensors       the network's weights by parameter name
    DIR/README.md               for people; never read

Neither needs the study it came from, and reading them executes nothing.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.torch import load as read_safetensors
from torch import Tensor

from search.config import OwnModel
from search.data.cards import Card, LanguageCard
from search.errors import DataError
from search.factories import Factory, trust_factory
from search.fields import FactoryName
from search.models import CELLS, Network, SequenceModel
from search.space import HyperParams

FORMAT: Final = 1
"""Rises when an older rnn-search could not read, or would misread, what is written."""
CARD, WEIGHTS, README = "model.json", "model.safetensors", "README.md"
SIZES = ("hidden_layers", "hidden_units")


class Band(BaseModel):
    """How far the actual values lay from the forecasts of the validation part, by quantile.

    Attributes:
        low: (O,) 5 % quantiles of actual minus forecast, in the targets' units, horizon-major.
        high: (O,) 95 % quantiles.
        windows: How many windows they come from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: tuple[FiniteFloat, ...]
    high: tuple[FiniteFloat, ...]
    windows: int


class ModelCard(BaseModel):
    """What `model.json` holds.

    Attributes:
        format: See `FORMAT`.
        study: The study's name.
        trial: Number of the trial.
        epoch: The epoch, from 1, whose weights these are.
        metric: What the study searched by.
        figures: Validation figures at that epoch.
        hyperparameters: What the network was built and trained with.
        data: How new data is read.
        band: For the intervals of forecasts; None if the data was not there any more.
        fingerprint: Of the data that it was trained on.
        versions: Of what it was trained with.
        weights: SHA-256 of `model.safetensors`, in hexadecimal.
        factory: What builds the network, if it is the user's own: ``package.module:function``.
        factory_source: Fingerprint of the file that held it when the network was trained.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1]
    study: str
    trial: int
    epoch: int | None
    metric: str
    figures: dict[str, float]
    hyperparameters: HyperParams
    data: Card
    band: Band | None = None
    fingerprint: str
    versions: dict[str, str]
    weights: str
    factory: FactoryName | None = None
    factory_source: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> ModelCard:
        if self.hyperparameters.cell not in CELLS:
            raise ValueError(
                f"the cell {self.hyperparameters.cell!r} is none of {', '.join(CELLS)}"
            )
        for name in SIZES:
            if getattr(self.hyperparameters, name) < 1:
                raise ValueError(f"{name} is less than 1")
        size = self.data.output_size
        if self.band is not None and not len(self.band.low) == len(self.band.high) == size:
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
    params: HyperParams, data: Card, content: bytes, path: Path, factory: Factory | None = None
) -> Network:
    """Returns the network with the weights of a safetensors file.

    Args:
        params: Decides its shapes, with ``data``.
        data: Decides its shapes, with ``params``.
        content: Of the file.
        path: The file, for messages.
        factory: Builds the network, if it is the user's own.

    Raises:
        DataError: The weights are damaged or of another network.
        NetworkError: The factory raised an exception.
    """
    weights = _tensors(content, path)
    if factory is None:
        # On "meta" nothing is allocated, so that a wrong number of units cannot fill the memory.
        with torch.device("meta"):
            wanted = make_network(params, data).state_dict()
        maker = CARD
    else:
        wanted = make_network(params, data, factory).state_dict()
        maker = f"{CARD} and {factory.name}"
    if _shapes(wanted) != _shapes(weights):
        raise DataError(
            f"{path} holds the weights of another network than {maker} "
            f"describe{'s' if factory is None else ''}; export the model again"
        )
    network = make_network(params, data, factory)
    network.load_state_dict(weights)
    return network.eval()


def read_model(folder: Path, *, trust_code: bool = False) -> tuple[ModelCard, Network]:
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
            "differ); export the model again"
        )
    return card, fill(card.hyperparameters, card.data, content, path, factory)


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
        raise DataError(f"{path} is damaged: no JSON; export the model again") from None
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
        raise DataError(f"{path} is damaged: {key}: {said}; export the model again") from None


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


def _tensors(content: bytes, path: Path) -> dict[str, Tensor]:
    try:
        return read_safetensors(content)
    except (SafetensorError, ValueError, KeyError) as error:
        cause = str(error).splitlines()[0]
        raise DataError(f"{path} is damaged ({cause}); export the model again") from None


def _shapes(weights: Mapping[str, Tensor]) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in weights.items()}
