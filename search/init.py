"""``rnn-search init``: looks at a file, writes a study for it that runs, and says what it found."""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from search.choices import Choice, Proposal, study_text
from search.config import NAME, read_config
from search.data import load_splits
from search.errors import RequestError, RunError, StudyError
from search.proposals import propose
from search.space import fit_to_data
from search.whole_files import written_whole

FOLDER = Path("studies")

REST = """
# What is searched. Everything has a default, which `rnn-search check {name}` prints; a key here
# replaces it: a range, a list or one fixed value.
[space]
# hidden_units = {{ low = 16, high = 128, log = true }}
# cell = ["rnn", "lstm", "gru"]
# batch_size = {{ fixed = 32 }}

[budget]
# So many trials in all; a study that is resumed goes on counting.
trials = 40
# The longest that one run may take; without it, as long as the trials take.
# timeout = "10m"
"""


@dataclass(frozen=True)
class Initiated:
    """What `init` has written.

    Attributes:
        study: The study file.
        name: The study's name.
        proposal: What was found and chosen.
        lines: The data as the study reads it, for people.
        notes: What a person should know.
    """

    study: Path
    name: str
    proposal: Proposal
    lines: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain JSON data."""
        chosen = self.proposal.choices
        return {
            "study": str(self.study),
            "name": self.name,
            "form": self.proposal.form,
            "data": {one.key: one.value for one in chosen if one.value is not None},
            "reasons": {one.key: one.why for one in chosen},
            "read": list(self.lines),
            "notes": list(self.notes),
        }


def initiate(
    path: Path,
    *,
    name: str | None = None,
    task: str | None = None,
    targets: tuple[str, ...] = (),
    force: bool = False,
) -> Initiated:
    """Looks at a file and writes ``studies/NAME.toml``, a study that can be run at once.

    Before anything is written, the text of the study is read back and the data are loaded with it,
    just as ``check`` and ``run`` will.

    Args:
        path: The data.
        name: The study's name; None: the file's.
        task: What to do with the data; None: what suits them.
        targets: Columns to forecast, or the one that is the class.
        force: Replace a file that is there.

    Raises:
        RequestError: There is such a file, or nothing sensible can be written; nothing is.
        RunError: The file cannot be written.
    """
    name = name.removesuffix(".toml") if name is not None else name_for(path)
    _require_name(name)
    study = FOLDER / f"{name}.toml"
    _require_free(study, force)
    proposal = propose(path, task, targets)
    text = study_text(*_words(name, study, proposal))
    config = read_config(text, study)
    splits = load_splits(config.data)
    _, remarks = fit_to_data(config, splits.train.size)
    _write(study, text, force)
    # The data may say the same, and more, of themselves.
    found = (one for one in proposal.notes if not any(one in other for other in splits.notes))
    notes = (*found, *splits.notes, *remarks)
    return Initiated(study, name, proposal, tuple(splits.describe()), notes)


def name_for(path: Path) -> str:
    """Returns a study's name for a file: ``Größe_TRAIN.ts`` gives ``Grosse``."""
    stem = re.sub(r"(?i)(\.(csv|tsv|txt|ts|parquet|pq|gz|md|toml))+$", "", path.name)
    if stem == path.name and re.fullmatch(r"\.[A-Za-z]{1,4}", path.suffix):
        stem = path.stem
    stem = re.sub(r"_(TRAIN|TEST)$", "", stem).replace("ß", "ss")
    plain = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    plain = re.sub(r"\.{2,}", ".", re.sub(r"[^A-Za-z0-9._-]+", "-", plain))
    return plain.strip("-._")[:100] or "study"


def say(done: Initiated, program: str) -> list[str]:
    """Returns what a person is told: what was found, chosen and written, and what comes next."""
    proposal = done.proposal
    lines = [f"{proposal.path}: {proposal.form}"]
    for one in proposal.choices:
        if one.value is not None or one.key in ("time", "season"):
            lines.append(f"  {one.key:<16} {_shown(one.value)}")
    lines += [f"note: {note}" for note in done.notes]
    lines += [f"Wrote {done.study}, with the reasons for all of this.", "", "Next:"]
    for arguments, why in (
        (f"check {done.name}", "what would run"),
        (f"run {done.name}", "search"),
    ):
        lines.append(f"  {program} {arguments:<40}  {why}")
    return [_printable(line) for line in lines]


def _shown(value: object) -> str:
    if value is None:
        return "none found"
    listed = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return listed if len(listed) <= 75 else f"{listed[:72]}..."


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _words(name: str, study: Path, proposal: Proposal) -> tuple[str, Choice, list[Choice], str]:
    where = _written(proposal.path, study)
    how = "Relative to this file" if where != str(proposal.path.resolve()) else "The data"
    data = [Choice("path", where, f"{how}: {proposal.form}.")]
    for one in proposal.choices:
        is_path = one.key == "test_path" and one.value is not None
        data.append(replace(one, value=_written(Path(one.value), study)) if is_path else one)
    # The task stands first, as in every study file; it decides what other keys there are.
    data.sort(key=lambda one: one.key not in ("task", "path"))
    title = (
        f"Written by rnn-search init, which looked at {proposal.path.name}. Change what you know "
        f"better, then: rnn-search check {name}, which prints what would run and trains nothing."
    )
    called = Choice("name", name, "How the study is called in the storage.")
    return title, called, data, REST.format(name=name)


def _written(path: Path, study: Path) -> str:
    """Returns the path of data as a study file has it: relative, if they lie in this folder."""
    whole, here = path.resolve(), Path.cwd().resolve()
    if whole.is_relative_to(here):
        relative = Path(os.path.relpath(whole, study.parent.resolve())).as_posix()
        # What starts with ~ would be read as somebody's home.
        return str(whole) if relative.startswith("~") else relative
    return str(whole)


def _require_name(name: str) -> None:
    if not NAME.fullmatch(name):
        raise RequestError(
            f"--name {name!r}: use up to 100 letters, digits, '-', '_' and '.', beginning with a "
            "letter or digit and without '..'"
        )


def _require_free(study: Path, force: bool) -> None:
    if os.path.lexists(study.parent) and not study.parent.is_dir():
        raise StudyError(f"{study.parent} is no folder, and it is where studies are kept; move it")
    if study.is_dir():
        raise StudyError(f"{study} is a folder; choose another name: --name NAME")
    if os.path.lexists(study) and not force:
        raise StudyError(
            f"{study} is there already; replace it with --force, or choose another name: "
            "--name NAME"
        )


def _write(study: Path, text: str, force: bool) -> None:
    """Writes a file whole or not at all, and never over one that has just appeared."""
    try:
        study.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(study) as part:
            part.write_text(text, encoding="utf-8")
            if not force:
                study.touch(exist_ok=False)
    except FileExistsError:
        raise StudyError(f"{study} has just appeared; replace it with --force") from None
    except OSError as error:
        raise RunError(f"{study} cannot be written: {error.strerror}") from None
