"""From a study to a folder of files: the weights, what reads new data, and a page for people."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from search.checkpoints import WEIGHTS as KEPT
from search.checkpoints import trial_folder
from search.code_changes import source_of
from search.data import load_splits
from search.data.cards import Card, ClassifyCard, ForecastCard
from search.data.splits import Splits
from search.data.windows import ForecastPart, ForecastSplits
from search.errors import RequestError, RunError, StudyError
from search.factories import trust_factory
from search.model_files import (
    CARD,
    FORMAT,
    README,
    WEIGHTS,
    Band,
    ModelCard,
    card_bytes,
    fill,
)
from search.models import Network
from search.report import TrialLine, find_trial, summarize
from search.space import HyperParams
from search.storage import StoredStudy
from search.training import outputs_of
from search.trial import Outcome

EDGES = (0.05, 0.95)
"""Quantiles of the residuals between which nine forecasts in ten should lie."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes:
        folder: Where.
        card: What `model.json` holds.
        notes: What a person should know.
    """

    folder: Path
    card: ModelCard
    notes: list[str]


def export(
    stored: StoredStudy, folder: Path, number: int | None, *, force: bool, trust_code: bool = False
) -> Export:
    """Writes the best trial's network, or another's, as files that need no study.

    Args:
        stored: The study.
        folder: Where; must not exist or be empty.
        number: Of the trial; None: the best complete one.
        force: Replace an earlier export.
        trust_code: Whether the study's factory may be imported.

    Raises:
        StudyError: There is no such trial, or it keeps no weights.
        RequestError: Something else is at ``folder``.
        FactoryError: The network is the user's own, and cannot be had.
        RunError: The disk is full or not writable.
    """
    require_free(folder, force=force)
    factory = trust_factory(stored.config.model, stored.config.name, trusted=trust_code)
    line = _choose(stored, number)
    content, path = _weights(stored, line)
    splits, why = _data(stored)
    data, params = _card(stored, splits, why), HyperParams.of(line.params)
    network = fill(params, data, content, path, factory)
    card = ModelCard(
        format=FORMAT,
        **_origin(stored, line),
        hyperparameters=params,
        data=data,
        band=band_of(network, splits) if isinstance(splits, ForecastSplits) else None,
        weights=hashlib.sha256(content).hexdigest(),
        factory=factory.name if factory else None,
        factory_source=source_of(stored, line.number) if factory else None,
    )
    _write(folder, {WEIGHTS: content, CARD: card_bytes(card), README: _readme(card).encode()})
    notes = [] if factory is None else factory.changes_since(card.factory_source)
    notes += [f"without intervals: {why}"] if data.task == "forecast" and splits is None else []
    return Export(folder, card, notes)


def _origin(stored: StoredStudy, line: TrialLine) -> dict[str, Any]:
    """Returns what of a model's card tells where it is from."""
    return {
        "study": stored.config.name,
        "trial": line.number,
        "epoch": line.epoch,
        "metric": stored.config.metric,
        "figures": line.figures,
        "fingerprint": stored.attributes["data"],
        "versions": stored.attributes["versions"],
    }


def _card(stored: StoredStudy, splits: Splits | None, why: str) -> Card:
    """Returns what reads new data: what the study has stored, or else what its data gives."""
    written = stored.attributes.get("card")
    if written is None and splits is None:
        raise StudyError(
            f"the study '{stored.config.name}' was made before studies kept what an export needs, "
            f"and its data cannot be read instead ({why}); put the data back, or run it anew"
        )
    card: Card = TypeAdapter(Card).validate_python(written or (splits and splits.card()))
    return card


def band_of(network: Network, splits: ForecastSplits) -> Band:
    """Returns the quantiles `EDGES` of actual minus forecast on the validation part."""
    part = splits.valid
    assert isinstance(part, ForecastPart)
    pairs = list(outputs_of(network, part))
    outputs, targets = (torch.cat(one) for one in zip(*pairs, strict=True))
    # Outputs and targets share anchor and shift, see ForecastSplits.
    off = (targets.double() - outputs.double()) * splits.scale
    low, high = torch.quantile(off, torch.tensor(EDGES, dtype=torch.float64), dim=0).tolist()
    return Band(low=tuple(low), high=tuple(high), windows=part.size)


def require_free(folder: Path, *, force: bool) -> None:
    """Checks that a model may be written to ``folder``.

    Raises:
        RequestError: Something is there that is not an earlier export, or is and not ``force``.
    """
    try:
        found = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RequestError(f"{folder} is a file; give a folder that does not exist yet") from None
    except OSError as error:
        raise RequestError(f"{folder} cannot be used: {error.strerror}; give another") from None
    others = sorted(found - {CARD, WEIGHTS, README})
    if others or (found and CARD not in found):
        name = (others or sorted(found))[0]
        raise RequestError(
            f"{folder} holds other files ('{name}'); give a folder that is empty or does not exist"
        )
    if found and not force:
        raise RequestError(f"{folder} holds an exported model; --force replaces it")


def _choose(stored: StoredStudy, number: int | None) -> TrialLine:
    if number is not None:
        line = find_trial(stored, number)
        if line.outcome != Outcome.COMPLETE:
            raise StudyError(
                f"trial {number} of '{stored.config.name}' is {line.outcome}, not complete, so it "
                f"keeps no weights{_those_that_do(stored)}"
            )
        return line
    best = summarize(stored).best
    if best is None:
        raise StudyError(
            f"the study '{stored.config.name}' has no complete trial yet; run it first"
        )
    return best


def _weights(stored: StoredStudy, line: TrialLine) -> tuple[bytes, Path]:
    path = trial_folder(stored.folder, line.number) / KEPT
    try:
        return path.read_bytes(), path
    except FileNotFoundError:
        raise StudyError(
            f"trial {line.number} of '{stored.config.name}' keeps no weights; only the best "
            f"{stored.config.keep} do (keep in the study file){_those_that_do(stored)}"
        ) from None
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}") from None


def _those_that_do(stored: StoredStudy) -> str:
    """Returns the end of a message: the trials that can be exported."""
    kept = [
        str(line.number)
        for line in summarize(stored).ranking
        if (trial_folder(stored.folder, line.number) / KEPT).exists()
    ]
    return f"; --trial can be {', '.join(kept)}" if kept else "; none of its trials does"


def _data(stored: StoredStudy) -> tuple[Splits | None, str]:
    """Returns the data that the study was trained on, or None and why it is not there."""
    try:
        splits = load_splits(stored.config.data)
    except RequestError as error:
        return None, str(error)
    if splits.fingerprint != stored.attributes["data"]:
        return None, (
            f"the data has changed since (fingerprint {stored.attributes['data']} → "
            f"{splits.fingerprint})"
        )
    return splits, ""


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes a folder whole or not at all."""
    with _beside(folder, "part") as part, _beside(folder, "old") as old:
        try:
            part.mkdir(parents=True)
            for name, content in files.items():
                (part / name).write_bytes(content)
            if folder.exists():
                folder.rename(old)
            try:
                part.rename(folder)
            except OSError:
                if old.exists():
                    old.rename(folder)
                raise
        except OSError as error:
            raise RunError(f"{folder} cannot be written: {error.strerror}") from None


@contextmanager
def _beside(folder: Path, ending: str) -> Iterator[Path]:
    """Gives the path of a folder beside another, and removes what is there in the end."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would follow a link)
    path = whole.with_name(f".{whole.name}.{os.getpid()}.{ending}")
    try:
        yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def _readme(card: ModelCard) -> str:
    page = _page(card)
    if card.factory is None:
        return page
    page = page.replace("predict DIR", "predict --trust-code DIR")
    page = page.replace('load("DIR")', 'load("DIR", trust_code=True)')
    return page.replace(
        "## Validation", f"{_own(card.factory, card.factory_source)}\n\n## Validation", 1
    )


def _own(factory: str, source: str | None) -> str:
    module, _, function = factory.partition(":")
    return f"""## The network is your own

It is built by `{function}` of the Python module `{module}`, which is not in here: put it into this
folder, into the one where you work, or install it. `--trust-code` lets it be imported. The file
that it was trained with had a SHA-256 that begins with {source or "(not known)"}."""


def _page(card: ModelCard) -> str:
    figures = "\n".join(f"| {name} | {value:.6g} |" for name, value in card.figures.items())
    params = "\n".join(
        f"| {name} | {value} |" for name, value in card.hyperparameters.to_dict().items()
    )
    return f"""# {card.study}, trial {card.trial}

A recurrent network of the task {card.data.task}, trained by rnn-search. It needs no study and no
database: `pip install rnn-search`, then

{_example(card.data)}

`model.safetensors` holds the weights, `model.json` all else: how data is read and standardised,
the hyperparameters, versions, and a fingerprint of the data ({card.fingerprint}). Neither can run
code when it is loaded.

## Validation

| figure | at epoch {card.epoch} |
|---|---|
{figures}

## Hyperparameters

| name | value |
|---|---|
{params}
"""


def _example(data: Card) -> str:
    if isinstance(data, ForecastCard):
        columns = [data.series, data.time, *data.features]
        return _shown("new.csv", [name for name in columns if name], "forecasts.csv") + (
            f"\n\nEvery {data.window} rows in a row without a gap give forecasts of the next "
            f"{data.horizon} of\n{_listed(data.targets)}; so do the last rows of the file. "
            "`NAME_low` and `NAME_high`\nenclose nine in ten of the validation part's values."
        )
    if isinstance(data, ClassifyCard):
        if data.series is None:
            return _shown("new.ts", [], "classes.csv") + (
                f"\n\nA case has {len(data.channels)} dimensions; the classes are "
                f"{_listed(data.classes)}."
            )
        columns = [data.series, data.time, *data.channels]
        return _shown("new.csv", [name for name in columns if name], "classes.csv") + (
            f"\n\nThe classes are {_listed(data.classes)}."
        )
    return """```
rnn-search predict DIR text.txt                # nats per character and perplexity
rnn-search predict DIR prompt.txt --length 200 --temperature 0.8 --seed 1
```

```python
from pathlib import Path

import search

model = search.load("DIR")
model.predict(Path("text.txt"))                # or the text itself
model.generate("Once upon", length=200, temperature=0.8, seed=1)
```"""


def _shown(file: str, columns: list[str], out: str) -> str:
    has = f"\n`{file}` needs the columns {_listed(columns)}." if columns else ""
    frame = ""
    if columns:
        frame = f'\nframe = pd.read_csv("{file}")[{columns!r}]\nmodel.predict(frame)'
    pandas = "import pandas as pd\n\n" if columns else ""
    return f"""```
rnn-search predict DIR {file} --out {out}
```

```python
{pandas}import search

model = search.load("DIR")
model.predict("{file}"){frame}
```
{has}"""


def _listed(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)
