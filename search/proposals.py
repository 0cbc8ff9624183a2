"""A file → a study that suits it: what kind of file it is, and what follows from that."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from search.choices import Choice, Proposal
from search.config import ClassifyData, LanguageData
from search.data.classification import load_classification
from search.data.clocks import are_years
from search.data.delimited import decode, read_csv
from search.data.labelled import Labelled, read_labelled
from search.data.language import TextPart, load_language, read_text
from search.data.roles import FEWEST_ROWS, Roles, find_roles, is_label, possible_labels
from search.data.tables import (
    describe_form,
    is_words,
    numbers,
    numeric_columns,
    read_table,
    require_columns,
)
from search.data.timeline import parse_times
from search.errors import DataError, RequestError
from search.forecast_choices import forecast_choices, left_out_notes

TABLES = (".csv", ".tsv", ".tab", ".psv", ".parquet", ".pq", ".gz")
FOREIGN = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), "JSON"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "a spreadsheet"),
    **dict.fromkeys((".arff", ".tsf"), "a format of its own"),
}
"""Endings of files that hold tables which are not read as they are."""
NUMBERS = r"[-+0-9.,;|\seE]*[0-9][-+0-9.,;|\seE]*"
LOOKED_AT = 200
"""So many lines of a text decide whether it is a table."""

MOST_CHARACTERS = 1_000_000
SHORT = 20_000
LENGTHS = (64, 32, 16, 8)
"""Characters of a sequence, the first that leaves enough sequences."""
ENOUGH_SEQUENCES = 10


def propose(path: Path, task: str | None = None, targets: tuple[str, ...] = ()) -> Proposal:
    """Looks at a file and chooses a study for it.

    Args:
        path: The file.
        task: ``forecast``, ``classify`` or ``language``; None: what suits the file.
        targets: Columns to forecast, or the one that is the class.

    Raises:
        RequestError: Nothing sensible can be chosen; one line with the remedy.
    """
    _require_file(path, task)
    is_ts = path.suffix.lower() == ".ts"
    if is_ts or task == "language" or (task is None and not _is_table(path)):
        if targets:
            raise RequestError(f"--target names a column of a table, and {path} is read as none")
        if is_ts and task == "forecast":
            raise RequestError(f"{path} holds labelled series; use --task classify")
        return _propose_ts(path) if is_ts and task != "language" else _propose_text(path)
    frame = _read(path)
    names = _columns(targets, frame, path)
    roles = find_roles(frame, path, names)
    if roles.series is not None:
        frame = read_table(path, (roles.series,))  # As the study will: 01 is not 1.
    form = f"{len(frame)} rows, {len(frame.columns)} columns, {describe_form(path)}"
    if task != "forecast" and (label := _label(frame, roles, names, task, path)) is not None:
        choices, notes = _classify_choices(frame, path, roles, label)
    else:
        choices, notes = _forecast_choices(frame, path, roles, names, task)
    return Proposal(path, form, tuple(choices), tuple(notes))


def _read(path: Path) -> pd.DataFrame:
    """Reads a table; of what is none by its name it is said that it may be text."""
    try:
        return read_table(path)
    except DataError as error:
        if path.suffix.lower() in TABLES:
            raise
        raise DataError(f"{error}; or learn its characters: --task language") from None


def _require_file(path: Path, task: str | None) -> None:
    if path.is_dir():
        raise RequestError(f"{path} is a folder; give one data file")
    try:
        exists = path.exists()
        str(path.resolve()).encode()
    except UnicodeEncodeError:
        raise RequestError(
            f"{str(path)!a}: the path is no UTF-8, so that no study file can hold it; "
            "rename the file"
        ) from None
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise RequestError(f"{path} does not exist; give a CSV, Parquet, .ts or text file")
    kind = FOREIGN.get(path.suffix.lower())
    if kind is not None and task != "language":
        raise RequestError(
            f"{path} is {kind}, which is not read; export it as CSV or Parquet, or learn its "
            "characters: --task language"
        )


def _is_table(path: Path) -> bool:
    """Whether a file is a table by its name, or because its first lines are one of numbers."""
    if path.suffix.lower() in TABLES:
        return True
    try:
        with path.open("rb") as file:
            head = b"".join(islice(file, LOOKED_AT))[: 1 << 20]
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}") from None
    if head[:4] == b"PAR1" or head[:2] == b"\x1f\x8b":
        return True
    try:
        text = decode(head, path)
        frame = read_csv(text, path)
        # Where the first line of prose has the most commas, the last columns are empty.
        if frame[numeric_columns(frame)].notna().any(axis=None):
            return True
    except DataError:
        text = head.decode(errors="replace")
    # What is hardly more than numbers is a table without a header, or one cut by blanks; its
    # reader says so.
    lines = [line for line in text.splitlines() if line.strip()]
    return 2 * sum(re.fullmatch(NUMBERS, line) is not None for line in lines) > len(lines)


def _columns(given: Iterable[str], frame: pd.DataFrame, path: Path) -> tuple[str, ...]:
    """Returns the columns that are meant: a name, or several with commas between them."""
    names = []
    for one in given:
        parts = [one] if one in frame.columns else [part.strip() for part in one.split(",")]
        names += [part for part in parts if part]
    require_columns(frame, names, path)
    return tuple(dict.fromkeys(names))


def _label(
    frame: pd.DataFrame, roles: Roles, targets: tuple[str, ...], task: str | None, path: Path
) -> tuple[str, str] | None:
    """Returns label and series if the table is to be classified, None if it is to be forecast."""
    named = targets[0] if len(targets) == 1 else None
    series = roles.series
    # As the study will read it: null is a class like others, and no missing number.
    worded = read_table(path, (series, named)) if named and series else frame
    if named not in (None, series) and series and is_label(worded, series, named):
        text = named not in numeric_columns(frame)
        if task == "classify" or text or named == roles.label:
            return named, series
    if not targets and roles.label is not None and series is not None:
        return roles.label, series
    if task == "classify" and len(targets) < 2:
        told_by, possible = possible_labels(frame, roles, named)
        if len(possible) == 1:
            return possible[0], told_by
        if possible:
            raise RequestError(
                f"{path} has several columns that are the same in all rows of each '{told_by}': "
                f"{', '.join(map(repr, possible))}; name the class: --target COLUMN"
            )
    is_text = named is not None and is_words(frame[named])
    if task == "classify" or (task is None and is_text):
        what = f"'{named}' is the same" if named else "another column is the same"
        words = f", and '{named}' is text, which cannot be forecast" if task is None else ""
        raise RequestError(
            f"{path} cannot be classified{words}: there is no column of series, of {FEWEST_ROWS} "
            f"rows each or more, in all rows of which {what}, with two classes or more and two "
            "series or more of each; a table to classify has one row a time step. Other series "
            "are for a study file, which says series and label under [data]"
        )
    return None


def _forecast_choices(
    frame: pd.DataFrame, path: Path, roles: Roles, targets: tuple[str, ...], task: str | None
) -> tuple[list[Choice], list[str]]:
    """Chooses a forecast, and says which column could have been a class if nobody has chosen."""
    hint = "" if task or targets else _class_hint(frame, path, roles)
    try:
        choices, notes = forecast_choices(frame, path, roles, targets)
    except DataError as error:
        raise DataError(f"{error}; {hint}") if hint else error from None
    return choices, [*notes, *([hint] if hint else [])]


def _class_hint(frame: pd.DataFrame, path: Path, roles: Roles) -> str:
    """Says which column may be a class; of series with dates something is mostly constant."""
    if roles.series is None or roles.time is None or roles.calendar:
        return ""
    time = frame[roles.time]
    series, possible = ("", []) if are_years(time) else possible_labels(frame, roles)
    if len(possible) != 1 or parse_times(time, path).dates:
        return ""
    return (
        f"'{possible[0]}' is the same in all rows of each '{series}'; if it is their class: "
        f"--task classify --target {shlex.quote(possible[0])}"
    )


def _classify_choices(
    frame: pd.DataFrame, path: Path, roles: Roles, columns: tuple[str, str]
) -> tuple[list[Choice], list[str]]:
    label, series = columns
    values = tuple(name for name in roles.values if name not in columns)
    _require_channel(frame, path, columns, values)
    data = ClassifyData(
        task="classify", path=path, series=series, label=label, time=roles.time, features=values
    )
    read = read_labelled(path, data, None)
    data, missing = _treated(read, data)
    timing = "It orders the rows of a series. Left out, the order of the file does."
    untimed = "No column is the time, so the rows of a series are in the order of the file."
    choices = [
        Choice(
            "task",
            "classify",
            f"'{label}' is the same in all rows of each '{series}'. \"forecast\" would forecast "
            'the numbers instead; "language" reads the file as text.',
        ),
        Choice("series", series, f"It tells {len(read.values)} series apart."),
        Choice("label", label, f"The class of each series: {_classes(read.labels)}."),
        Choice("time", roles.time, timing if roles.time else untimed, 'time = "COLUMN"'),
        Choice("features", list(values), "The channels. Left out: every other column of numbers."),
        missing,
        *_shares(data, paired=False),
    ]
    left_out = {name: why for name, why in roles.left_out.items() if name != label}
    return choices, left_out_notes(replace(roles, left_out=left_out))


def _require_channel(
    frame: pd.DataFrame, path: Path, columns: tuple[str, str], names: tuple[str, ...]
) -> None:
    """Refuses a table without a column of numbers, or with none that does more than count."""
    label, series = columns
    for name in names:
        values = pd.Series(numbers(frame, name, path), frame.index)
        steps = values.groupby(frame[series]).diff().dropna().round(9)
        if steps.nunique() != 1 or steps.iloc[0] <= 0:
            return
    counted = f", only {', '.join(map(repr, names))}, which counts the steps" if names else ""
    raise DataError(
        f"{path} has no column of numbers by which to tell '{label}'{counted}; give it one, or "
        "learn the file as text: --task language"
    )


def _classes(labels: list[str]) -> str:
    counted = Counter(labels).most_common()
    shown = ", ".join(f"{label!r} ({count})" for label, count in counted[:10])
    return shown + (f" and {len(counted) - 10} more" if len(counted) > 10 else "")


def _treated(read: Labelled, data: ClassifyData) -> tuple[ClassifyData, Choice]:
    """Returns the first way to treat missing values that works."""
    count = sum(bool(np.isnan(series).any()) for series in read.values)
    refusal: DataError | None = None
    for how in ("error", "interpolate", "drop"):
        tried = data.model_copy(update={"missing": how})
        try:
            load_classification(tried)
        except DataError as error:
            # Without a missing value the first refusal is the true one, else the one after it.
            refusal = error if how != "drop" or refusal is None else refusal
            continue
        if how == "error":
            why = 'No value is missing. If one were: "error", "interpolate" or "drop".'
            return tried, Choice("missing", None, why, 'missing = "error"')
        other = "drop" if how == "interpolate" else "interpolate"
        why = f'{count} series of {len(read.values)} lack values. "{other}" is the alternative.'
        return tried, Choice("missing", how, why)
    assert refusal is not None
    raise refusal


def _shares(data: ClassifyData, *, paired: bool) -> list[Choice]:
    why = "Share of the training series that validates, the same of every class."
    valid = Choice("valid", data.valid, why)
    if paired:
        return [valid]
    why = "Share of all series that is kept for the test, the same of every class."
    return [Choice("test", data.test, why), valid]


def _propose_ts(path: Path) -> Proposal:
    stem, ending = path.name[: -len(".ts")], path.name[-len(".ts") :]
    pair: dict[str, Path] = {}
    for name, end in (("train", "_TRAIN"), ("test", "_TEST")):
        if stem.endswith(("_TRAIN", "_TEST")):
            pair[name] = path.with_name(stem[: stem.rindex("_")] + end + ending)
    notes = []
    if pair and not (pair["train"].exists() and pair["test"].exists()):
        pair = {}
    if pair and path.name == pair["test"].name:
        notes.append(f"{pair['train'].name}, beside it, is the training part")
    path = pair.get("train", path)
    data = ClassifyData(task="classify", path=path, test_path=pair.get("test"))
    read = read_labelled(path, data, None)
    data, missing = _treated(read, data)
    lengths = [len(series) for series in read.values]
    span = (
        f"{min(lengths)}" if min(lengths) == max(lengths) else f"{min(lengths)} to {max(lengths)}"
    )
    form = f"{len(lengths)} series of {span} steps, {len(read.channels)} channels, .ts"
    alone = "No file of the same name that ends in _TEST lies beside it, so a share is the test."
    paired = Choice("test_path", str(pair["test"]), "It lies beside it.") if pair else None
    choices = [
        Choice("task", "classify", f"A .ts file is labelled series: {_classes(read.labels)}."),
        paired or Choice("test_path", None, alone, 'test_path = "FILE.ts"'),
        missing,
        *_shares(data, paired=bool(pair)),
    ]
    return Proposal(path, form, tuple(choices), tuple(notes))


def _propose_text(path: Path) -> Proposal:
    text = read_text(path)
    count = min(len(text), MOST_CHARACTERS)
    limit = count if len(text) > count else None
    data, refusal = None, None
    for split in ((0.9, 0.05, 0.05), (0.8, 0.1, 0.1)):
        for length in LENGTHS:
            tried = LanguageData(
                task="language", path=path, sequence_length=length, characters=limit, split=split
            )
            try:
                splits = load_language(tried, text)
            except DataError as error:
                refusal = error
                continue
            data = tried
            parts = (splits.valid, splits.test)
            assert all(isinstance(part, TextPart) for part in parts)
            if min(part.size for part in parts) >= ENOUGH_SEQUENCES:
                return _text_proposal(data, text)
    if data is None:
        assert refusal is not None
        raise refusal
    return _text_proposal(data, text)


def _text_proposal(data: LanguageData, text: str) -> Proposal:
    assert data.path is not None
    used = "All of them are used; on a large text, fewer make a quicker search."
    if data.characters is not None:
        used = f"The first of {len(text)}: more take longer. Left out, all are used."
    choices = (
        Choice(
            "task",
            "language",
            "Text, learned character by character. Numbers in time would be a table, CSV or "
            'Parquet: "forecast" or "classify".',
        ),
        Choice("characters", data.characters, used, "characters = 1_000_000"),
        Choice(
            "sequence_length",
            data.sequence_length,
            "Characters through which the gradient goes back; longer ones learn longer words, and "
            "take more time.",
        ),
        Choice("split", list(data.split), "Shares of training, validation and test, in order."),
    )
    form = f"{len(text)} characters, {len(set(text))} of them distinct, text"
    notes = ("so short a text teaches hardly more than itself",) if len(text) < SHORT else ()
    return Proposal(data.path, form, choices, notes)
