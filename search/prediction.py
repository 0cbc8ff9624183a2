"""`load`: an exported model from its folder, ready to predict, with no study and no database.

Shapes: N series, C classes, n characters, V vocabulary.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from search.config import ClassifyData
from search.data.cards import ClassifyCard, ForecastCard, LanguageCard
from search.data.classification import padded_part
from search.data.labelled import Labelled, read_unlabelled, without_missing
from search.data.language import (
    TextPart,
    encode,
    read_text,
    some_of,
    tally_text,
    text_figures,
)
from search.ensembles import Networks
from search.errors import DataError, RequestError, nearest
from search.forecasts import forecast, table_of
from search.model_files import ModelCard, read_model
from search.models import SequenceModel, require_single
from search.training import one_thread

CHUNK = 1024
"""Characters of a prompt that are read at once."""


def _source(data: object) -> pd.DataFrame | Path:
    """Returns a frame as it is, and of all else the path that it is."""
    if isinstance(data, pd.DataFrame):
        return data
    if not isinstance(data, (str, os.PathLike)):
        raise DataError(
            f"a {type(data).__name__} has no names of columns; give a pandas.DataFrame with those "
            "of the study, or the path of a file"
        )
    return Path(data)


class Model(ABC):
    """A trained network, or an ensemble of them, and how it reads data.

    Attributes:
        card: What `model.json` holds.
        networks: The network, or those of the ensemble, on the CPU.
    """

    def __init__(self, card: ModelCard, networks: Networks) -> None:
        self.card = card
        self.networks = networks

    @abstractmethod
    def predict(self, data: Any) -> Any:
        """Predicts from a frame, or from a file if it is a path; see the task's own class."""


class Forecaster(Model):
    """A model of the task ``forecast``."""

    def predict(self, data: pd.DataFrame | Path | str) -> pd.DataFrame:
        """Forecasts from every window that fits, the one that ends with the last row included.

        Args:
            data: A frame, or the path of a CSV or Parquet file, with the columns of the study's
                features, and its series and time if it had them. Targets need not be there
                unless they are features.

        Returns:
            One row for each series, window and step ahead, see `search.forecasts.table_of`.

        Raises:
            DataError: The data cannot be used; one line with the remedy.
        """
        card = self.card.data
        assert isinstance(card, ForecastCard)
        source = _source(data)
        if isinstance(source, Path) and source.suffix.lower() == ".ts":
            raise DataError(f"{source}: this model forecasts a table; give a CSV or Parquet file")
        with one_thread():
            forecasts = forecast(self.networks, card, self.card.band, source)
        return table_of(forecasts, card)


class Classifier(Model):
    """A model of the task ``classify``."""

    def predict(self, data: pd.DataFrame | Path | str) -> pd.DataFrame:
        """Classifies series.

        Args:
            data: A frame in long form or the path of a CSV or Parquet file, if the study read a
                table; else the path of a ``.ts`` file. Labels need not be there.

        Returns:
            One row for each series: ``series``, its name or number; ``label``, if the data has
            labels; ``class``, the likeliest; and ``p_CLASS``, the probability of each.

        Raises:
            DataError: The data cannot be used, or has a label that is none of the classes.
        """
        card = self.card.data
        assert isinstance(card, ClassifyCard)
        read = self._read(card, _source(data))
        part = padded_part(read, card.classes, np.array(card.mean), np.array(card.scale))
        with one_thread():
            answers = [self.networks.join(one) for one, _ in self.networks.outputs_of(part)]
        outputs = torch.cat(answers)
        shares = functional.softmax(outputs.double(), dim=1).numpy()
        names = [place.removeprefix("series '")[:-1] for place in read.places]
        if card.series is None:
            names = [str(number) for number in range(1, len(names) + 1)]
        columns: dict[str, Any] = {"series": names}
        if any(read.labels):
            columns["label"] = read.labels
        columns["class"] = [card.classes[at] for at in outputs.argmax(1).tolist()]
        for at, name in enumerate(card.classes):
            columns[f"p_{name}"] = shares[:, at]
        return pd.DataFrame(columns)

    def _read(self, card: ClassifyCard, source: Path | pd.DataFrame) -> Labelled:
        name = source if isinstance(source, Path) else Path("the frame")
        is_ts = isinstance(source, Path) and source.suffix.lower() == ".ts"
        if is_ts != (card.series is None):
            if isinstance(source, Path) and not source.exists():
                raise DataError(f"{source} does not exist; check the path")
            wanted = "a .ts file" if card.series is None else "a table (CSV or Parquet)"
            raise DataError(f"{name}: this model was trained on {wanted}; give one of that kind")
        keys = {"series": card.series, "label": card.label, "time": card.time}
        data = ClassifyData.model_validate(
            {"task": "classify", "path": name, "missing": card.missing, **keys}
        )
        read = read_unlabelled(source, data, card.channels, card.time_format)
        labels = [_as_class(label, card.classes) for label in read.labels]
        for label, place in zip(labels, read.places, strict=True):
            if label and label not in card.classes:
                raise DataError(
                    f"{name}, {place}: the label '{label}' is no class of the model"
                    f"{nearest(label, card.classes)} (correct it, or leave the labels out)"
                )
        return without_missing(replace(read, labels=labels), card.missing)


def _as_class(label: str, classes: Sequence[str]) -> str:
    """Returns the class that a label means: who writes it may write TRUE and 1.0 as True and 1."""
    if label in classes:
        return label
    for alike in (str.casefold, _as_number):
        same = [one for one in classes if alike(one) == alike(label)]
        if len(same) == 1:
            return same[0]
    return label


def _as_number(text: str) -> object:
    try:
        return text if "_" in text else float(text)
    except ValueError:
        return text


class LanguageModel(Model):
    """A model of the task ``language``."""

    def predict(self, data: str | Path) -> dict[str, float]:
        """Judges a text, as the study judged its validation part.

        Args:
            data: The text itself, or the `Path` of a file of UTF-8 text.

        Returns:
            ``nats_per_char`` and ``perplexity`` of every character but the first, characters that
            the model does not know left out.

        Raises:
            DataError: The text has no character to predict, or there is no such file.

        Warns:
            UserWarning: Some characters are left out.
        """
        card, codes = self._codes(data)
        if len(codes) < 2 or bool((codes[1:] == card.output_size).all()):
            place = data if isinstance(data, Path) else "the text"
            raise DataError(
                f"{place} has no character, after its first, that the model knows; give a longer "
                "text in the language of the study's"
            )
        part = TextPart(codes, card.output_size, card.sequence_length)
        with one_thread():
            tallies = [
                tally_text(self.networks.join(outputs), targets)
                for outputs, targets in self.networks.outputs_of(part)
            ]
        total = tallies[0]
        for tally in tallies[1:]:
            total = total + tally
        figures = text_figures(total)
        return {name: figures[name] for name in ("nats_per_char", "perplexity")}

    @torch.no_grad()
    def generate(
        self, prompt: str | Path, length: int, temperature: float = 1.0, seed: int = 0
    ) -> str:
        """Continues a text.

        Args:
            prompt: The text itself, or the `Path` of a file of UTF-8 text.
            length: How many characters to add.
            temperature: Below 1: likelier characters more often; 0: always the likeliest.
            seed: Decides what is drawn; the same seed gives the same text.

        Returns:
            The characters that follow the prompt.

        Raises:
            DataError: The prompt is empty, or there is no such file.
            RequestError: Length or temperature makes no sense.

        Warns:
            UserWarning: The model does not know some of the prompt's characters.
        """
        length, temperature, seed = _drawing(length, temperature, seed)
        card, codes = self._codes(prompt)
        if not len(codes):
            raise DataError("the prompt is empty; give at least one character to continue")
        generator = torch.Generator().manual_seed(seed % 2**63)
        reader, found = _Reader(self.networks, card.sequence_length), list[str]()
        with one_thread():
            logits = reader.read(codes.long())
            for _ in range(length):
                drawn = _draw(logits, temperature, generator)
                found.append(card.vocabulary[drawn])
                logits = reader.read(torch.tensor([drawn]))
        return "".join(found)

    def _codes(self, text: str | Path) -> tuple[LanguageCard, Tensor]:
        card = self.card.data
        assert isinstance(card, LanguageCard)
        if not isinstance(text, (str, Path)):
            raise DataError(f"give a text or the Path of a file, not a {type(text).__name__}")
        written = read_text(text) if isinstance(text, Path) else text
        codes = encode(written, card.vocabulary)
        unknown = {*written} - {*card.vocabulary}
        if unknown:
            count = int((codes == card.output_size).sum())
            warnings.warn(
                f"{text if isinstance(text, Path) else 'the text'}: the model does not know "
                f"{count} of {len(codes)} characters ({some_of(unknown)}); it has learned nothing "
                "of them, and judges none of them",
                stacklevel=3,
            )
        return card, codes


def _drawing(length: Any, temperature: Any, seed: Any) -> tuple[int, float, int]:
    """Returns what text is drawn by as Python's own numbers; NumPy's will do, too."""
    with suppress(TypeError, ValueError):
        numbers = index(length), float(temperature), index(seed)
        if numbers[0] >= 1 and 0 <= numbers[1] < float("inf"):
            return numbers
    raise RequestError(
        "length must be a whole number from 1 on, temperature a number from 0 on, and seed a whole "
        "number"
    )


class _Reader:
    """Networks that read a text piece by piece, each with a hidden state of its own.

    Args:
        networks: With dropout off.
        trained: Characters T at once that they were trained with. A network of the user's own may
            not be able to read more or, if it has no state, to make anything of fewer.
    """

    def __init__(self, networks: Networks, trained: int) -> None:
        self._networks = networks
        ours = all(isinstance(network, SequenceModel) for network in networks.each)
        self._most = CHUNK if ours else trained
        self._last = torch.zeros(0, dtype=torch.int64)
        self._states: list[Any] = [None] * len(networks.each)

    def read(self, codes: Tensor) -> Tensor:
        """Returns (V,) float64 logits of the character that follows (n,) int64 indices."""
        self._last = torch.cat([self._last, codes])[-self._most :]
        logits = [self._logits(at, codes) for at in range(len(self._states))]
        return self._networks.join(torch.stack(logits)).double()

    def _logits(self, at: int, codes: Tensor) -> Tensor:
        """Returns the (V,) logits of one of the networks."""
        network = self._networks.each[at]
        for chunk in torch.split(codes, self._most):
            outputs, self._states[at] = network(chunk[None], None, self._states[at])
        if self._states[at] is None:
            outputs, _ = network(self._last[None], None, None)
        logits: Tensor = outputs[0, -1]
        return logits


def load(
    folder: Path | str, *, trust_code: bool = False
) -> Forecaster | Classifier | LanguageModel:
    """Reads a model that ``rnn-search export`` has written; nothing in it is executed.

    Args:
        folder: The folder it is in.
        trust_code: Whether the function that builds the network may be imported and called, if
            the network is the user's own. Its module is looked for in ``folder``, in the current
            folder, and where Python looks.

    Raises:
        DataError: There is none, or it is damaged or of a newer rnn-search; one line.
        ConfigError: Torch's default precision is another than float32.
        FactoryError: The network is the user's own and not trusted, or cannot be imported.
        NetworkError: The function that builds it raised an exception.
    """
    if not isinstance(folder, (str, os.PathLike)):
        raise DataError(f"give the folder of an exported model, not a {type(folder).__name__}")
    require_single()
    card, networks = read_model(Path(folder), trust_code=trust_code)
    if isinstance(card.data, ForecastCard):
        return Forecaster(card, networks)
    if isinstance(card.data, ClassifyCard):
        return Classifier(card, networks)
    return LanguageModel(card, networks)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """Returns the index of a character, drawn by its (V,) logits."""
    if temperature == 0:
        return int(logits.argmax())
    # The largest is taken away first, so that no temperature, however small, overflows.
    shares = functional.softmax((logits - logits.max()) / temperature, dim=0)
    return int(torch.multinomial(shares, 1, generator=generator))
