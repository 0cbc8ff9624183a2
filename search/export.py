"""From a study to a folder of files: the weights, what reads new data, and a page for people."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from search.config import OwnModel
from search.data import load_splits
from search.data.cards import Card
from search.data.splits import Splits
from search.data.windows import ForecastSplits
from search.ensembles import Networks
from search.errors import RequestError, RunError, StudyError
from search.factories import Factory, trust_factory
from search.intervals import band_of
from search.looks import evaluate_together
from search.model_files import (
    CARD,
    FORMAT,
    ONNX,
    README,
    WEIGHTS,
    ModelCard,
    Source,
    card_bytes,
    fill,
)
from search.model_page import page
from search.onnx_check import make_onnx, require_onnx
from search.selection import Selection, select
from search.stored_study import StoredStudy
from search.training import one_thread
from search.whole_files import unfinished, written_whole

FILES = (CARD, WEIGHTS, ONNX, README)
"""What a model may consist of; the card, without which it is none, first."""


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

    @property
    def what(self) -> str:
        """What was exported, in a few words."""
        card = self.card
        trial = f"trial {card.trial} of {card.study}"
        if card.source == "trial":
            return trial
        seeds = [str(member.seed) for member in card.members]
        if card.joined:
            return f"the ensemble of {len(seeds)} networks with the configuration of {trial}"
        return f"the network of seed {seeds[0]} with the configuration of {trial}"


def export(
    stored: StoredStudy,
    folder: Path,
    number: int | None = None,
    *,
    source: Source = "trial",
    onnx: bool = False,
    force: bool = False,
    trust_code: bool = False,
) -> Export:
    """Writes a trial's network, or those of the evaluation's winner, as files that need no study.

    Args:
        stored: The study.
        folder: Where; must not exist or be empty, but for the user's own module.
        number: Of the trial, if ``source`` is ``trial``; None: the best complete one.
        source: See `Source`.
        onnx: Write `model.onnx`, too.
        force: Replace an earlier export.
        trust_code: Whether the study's factory may be imported.

    Raises:
        StudyError: There is no such trial or evaluation, or it keeps no weights.
        RequestError: Something else is at ``folder``, or there is no ONNX, or it differs.
        FactoryError: The network is the user's own, and cannot be had.
        RunError: The disk is full or not writable.
    """
    require_free(folder, stored.config.model, force=force)
    if onnx:
        require_onnx(stored.config.model)
    factory = trust_factory(stored.config.model, stored.config.name, trusted=trust_code)
    chosen = select(stored, source, number)
    splits, why = _data(stored)
    with one_thread():
        card, networks = _describe(stored, chosen, _card(stored, splits, why), splits, factory)
        files = {WEIGHTS: chosen.content}
        if onnx:
            files[ONNX], card = _with_onnx(networks, card)
    _write(folder, {**files, CARD: card_bytes(card), README: page(card).encode()})
    return Export(folder, card, _notes(card, factory, splits, why))


def _with_onnx(networks: Networks, card: ModelCard) -> tuple[bytes, ModelCard]:
    """Returns the content of `model.onnx`, and the card that tells how it is used."""
    content, described = make_onnx(networks, card.data, card.band)
    return content, card.model_copy(update={"onnx": described})


def _describe(
    stored: StoredStudy,
    chosen: Selection,
    data: Card,
    splits: Splits | None,
    factory: Factory | None,
) -> tuple[ModelCard, Networks]:
    """Returns the card and the networks."""
    count = len(chosen.members) if chosen.source == "ensemble" else 0
    remedy = "choose another with --trial NUMBER"
    if factory is not None:
        was = f" (fingerprint {chosen.code})" if chosen.code else ""
        remedy = f"put the code back that it was trained with{was}, or {remedy}"
    wanted = (chosen.params, data, chosen.content, chosen.path, count, factory)
    networks = fill(*wanted, described_by=f"the study '{stored.config.name}'", remedy=remedy)
    figures = chosen.figures
    if splits is not None and networks.joined:
        figures = evaluate_together(networks.each, splits, "valid")[1]
    card = ModelCard(
        format=FORMAT,
        study=stored.config.name,
        source=chosen.source,
        trial=chosen.trial,
        epoch=chosen.epoch,
        metric=stored.config.metric,
        figures=figures,
        members=chosen.members,
        test=chosen.test,
        hyperparameters=chosen.params,
        data=data,
        band=band_of(networks, splits) if isinstance(splits, ForecastSplits) else None,
        fingerprint=stored.attributes["data"],
        versions=stored.attributes["versions"],
        weights=hashlib.sha256(chosen.content).hexdigest(),
        factory=factory.name if factory else None,
        factory_source=chosen.code if factory else None,
    )
    return card, networks


def _notes(card: ModelCard, factory: Factory | None, splits: Splits | None, why: str) -> list[str]:
    """Returns what a person should know."""
    notes = [] if factory is None else factory.changes_since(card.factory_source)
    lost = []
    if splits is None:
        lost += ["intervals"] if card.data.task == "forecast" else []
        lost += ["validation figures of the ensemble"] if card.joined else []
    notes += [f"without {' and '.join(lost)}: {why}"] if lost else []
    if card.source != "trial" and card.test is None:
        notes.append("without test figures: the evaluation recorded none of single seeds")
    return notes


def _card(stored: StoredStudy, splits: Splits | None, why: str) -> Card:
    """Returns what reads new data: what the study has stored, or else what its data gives."""
    written = stored.attributes.get("card")
    if written is None and splits is None:
        raise StudyError(
            f"the study '{stored.config.name}' was made before studies kept what an export needs, "
            f"and its data cannot be read instead ({why}); put the data back, or run it anew"
        )
    # What a study of before did not store yet comes from its data.
    whole = {**(splits.card() if splits is not None else {}), **(written or {})}
    card: Card = TypeAdapter(Card).validate_python(whole)
    return card


def require_free(folder: Path, own: OwnModel | None, *, force: bool) -> None:
    """Checks that a model may be written to ``folder``.

    Args:
        folder: Where.
        own: What builds the network, if it is the user's own. Its module may lie there, because the
            model's own page asks for that, and stays.
        force: Replace an earlier export.

    Raises:
        RequestError: Something is there that is not an earlier export, or is and not ``force``.
    """
    try:
        found = {path.name for path in folder.iterdir()} - _module_names(own)
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise RequestError(f"{folder} is a file; give a folder that does not exist yet") from None
    except OSError as error:
        raise RequestError(f"{folder} cannot be used: {error.strerror}; give another") from None
    others = sorted(found - {*FILES})
    if others or (found and CARD not in found):
        name = (others or sorted(found))[0]
        raise RequestError(
            f"{folder} holds other files ('{name}'); give a folder that is empty or does not exist"
        )
    if found and not force:
        raise RequestError(f"{folder} holds an exported model; --force replaces it")


def _module_names(own: OwnModel | None) -> set[str]:
    """Returns what a user's own module may be called in a folder, and what Python puts beside."""
    if own is None:
        return set()
    top = re.split("[.:]", own.factory)[0]
    return {f"{top}.py", top, "__pycache__"}


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
    """Writes a folder whole or not at all, or what a link leads to.

    Where something is mounted, somebody is inside, or the user's own module lies, only the files of
    a model are replaced: each is whole then, and the card comes last.
    """
    folder = Path(os.path.realpath(folder))
    shared = folder.is_dir() and not {path.name for path in folder.iterdir()} <= {*FILES}
    if shared or os.path.ismount(folder) or folder in (Path.cwd(), *Path.cwd().parents):
        _write_inside(folder, files)
        return
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


def _write_inside(folder: Path, files: dict[str, bytes]) -> None:
    try:
        for name in FILES:
            (folder / name).unlink(missing_ok=True)
        for name in sorted(files, key=lambda name: name == CARD):
            with written_whole(folder / name) as part:
                part.write_bytes(files[name])
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror}") from None


@contextmanager
def _beside(folder: Path, ending: str) -> Iterator[Path]:
    """Gives the path of a folder beside another, and removes what is there in the end."""
    whole = Path(os.path.abspath(folder))  # noqa: PTH100  (resolve() would follow a link)
    path = whole.with_name(f".{whole.name}.{os.getpid()}.{ending}")
    try:
        # What is there by the name of ``old`` is the only model until the new one has its name.
        with unfinished(path) if ending == "part" else contextlib.nullcontext():
            yield path
    finally:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)
