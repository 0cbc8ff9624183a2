"""Reads labelled series, from a .ts file or a table in long form; checks them; cuts them by class.

Shapes: N series, T time (each series with its own), F channels, L rows of a table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.config import ClassifyData
from search.data.tables import (
    interpolate,
    numbers,
    numeric_columns,
    read_table,
    refuse_stray_text,
    require_columns,
    take_table,
)
from search.data.timeline import Stamps, parse_times
from search.data.ts_files import read_ts
from search.errors import ConfigError, DataError

Series = NDArray[np.float64]
"""(T, F), each series with its own T."""


@dataclass(frozen=True)
class Labelled:
    """The series of one file, or some of them.

    Attributes:
        path: The file.
        values: N arrays (T, F), NaN where a value is missing.
        labels: The class of each series.
        places: Where each stands, for messages: ``line 12``, ``series 'a'``.
        channels: The F channels' names.
        notes: What a person should know of the file.
        form: Of the time stamps, see `search.data.timeline.Stamps`.
    """

    path: Path
    values: list[Series]
    labels: list[str]
    places: list[str]
    channels: tuple[str, ...]
    notes: tuple[str, ...] = ()
    form: str | None = None

    def take(self, which: Sequence[int]) -> Labelled:
        """Returns some of the series, in the order asked for."""
        return replace(
            self,
            values=[self.values[at] for at in which],
            labels=[self.labels[at] for at in which],
            places=[self.places[at] for at in which],
        )


def read_labelled(path: Path, data: ClassifyData, train: Labelled | None) -> Labelled:
    """Reads one file of labelled series.

    Args:
        path: The file; ``.ts``, or else CSV or Parquet in long form.
        data: Which columns are what.
        train: What it must be like, if it is a test file; None: it decides.

    Raises:
        ConfigError: A key of ``[data]`` is missing or is not for this kind of file.
        DataError: The file cannot be used.
    """
    is_ts = path.suffix.lower() == ".ts"
    if data.path is not None and is_ts != (data.path.suffix.lower() == ".ts"):
        raise ConfigError(
            f"[data] test_path: {path} is not the same kind of file as {data.path}; "
            "give two .ts files, or two tables"
        )
    read = _read_ts(path, data) if is_ts else _read_long(path, data, train)
    if train is not None and len(read.channels) != len(train.channels):
        raise DataError(
            f"{path} has {len(read.channels)} channels but the training file has "
            f"{len(train.channels)}; give a pair of files with the same channels"
        )
    _require_finite(read)
    return read


def _require_finite(read: Labelled) -> None:
    for values, place in zip(read.values, read.places, strict=True):
        if np.isinf(values).any():
            step, channel = np.argwhere(np.isinf(values))[0]
            raise DataError(
                f"{read.path}, {place}: channel {read.channels[channel]} is infinite at step "
                f"{step + 1}; give a finite number, or ? if it is missing"
            )


def read_unlabelled(
    source: Path | pd.DataFrame, data: ClassifyData, channels: tuple[str, ...], form: str | None
) -> Labelled:
    """Reads series whose classes nobody need know; the labels are then all "".

    Args:
        source: A ``.ts`` file, a table's file, or a table.
        data: Which columns are what; ``path`` is what to call the source in messages.
        channels: The channels that there must be.
        form: How the times of the study were read, see `search.data.timeline.parse_times`.

    Raises:
        DataError: It cannot be used.
    """
    name = data.path or Path("the data")
    if isinstance(source, Path) and data.series is None:
        read = read_ts(source, labelled=False)
        places = [f"line {line}" for line in read.lines]
        found = Labelled(source, read.cases, read.labels, places, channels, read.notes)
        if read.cases[0].shape[1] != len(channels):
            raise DataError(
                f"{source} has {read.cases[0].shape[1]} channels but the model was trained on "
                f"{len(channels)}; give series with the same channels"
            )
    else:
        words = (data.series, data.label)
        if isinstance(source, Path):
            frame = read_table(source, words)
        else:
            frame = take_table(source, name, words)
        if {data.series, data.label} <= {*frame.columns}:
            # What is to be classified may have a class already, or an empty cell for it.
            labels = frame[data.label].astype(object).fillna("")
            whole = (labels != "").groupby(frame[data.series], dropna=False).transform("all")
            frame = frame.assign(**{str(data.label): labels.where(whole, "")})
        else:
            data = data.model_copy(update={"label": None})
        found = _from_table(frame, data, channels, name, form)
    _require_finite(found)
    return found


def _read_ts(path: Path, data: ClassifyData) -> Labelled:
    for key in ("series", "label", "time", "features"):
        if getattr(data, key) is not None:
            raise ConfigError(
                f"[data] the key '{key}' names a column of a table, but {path} is a .ts file; "
                "remove the key"
            )
    read = read_ts(path)
    channels = tuple(str(at + 1) for at in range(read.cases[0].shape[1]))
    places = [f"line {line}" for line in read.lines]
    return Labelled(path, read.cases, read.labels, places, channels, read.notes)


def _read_long(path: Path, data: ClassifyData, train: Labelled | None) -> Labelled:
    for key in ("label", "series", "time"):
        if getattr(data, key) in (data.features or ()):
            raise ConfigError(
                f"[data] features: '{getattr(data, key)}' is the {key} column, from which the "
                "answer could be read; leave it out"
            )
    if data.series is not None and data.series == data.label:
        raise ConfigError(f"[data] series and label are the same column, '{data.label}'; name two")
    for key in ("series", "label"):
        if getattr(data, key) is None:
            raise ConfigError(
                f"[data] the key '{key}' is missing: {key} = \"COLUMN\" says which column of "
                f"{path} holds each row's {key}"
            )
    frame = read_table(path, (data.series, data.label))
    if train is None:
        return _from_table(frame, data, data.features, path)
    return _from_table(frame, data, train.channels, path, train.form)


def _from_table(
    frame: pd.DataFrame,
    data: ClassifyData,
    features: tuple[str, ...] | None,
    path: Path,
    form: str | None = None,
) -> Labelled:
    """Groups the rows of a table by series; without a label column the labels are all ""."""
    assert data.series is not None
    special = [name for name in (data.series, data.label, data.time) if name is not None]
    require_columns(frame, [*special, *(features or ())], path)
    if features is None:
        refuse_stray_text(frame, special, path)
        features = tuple(one for one in numeric_columns(frame) if one not in special)
    features = tuple(dict.fromkeys(features))
    if not features:
        raise DataError(f"{path} has no numeric column besides {', '.join(special)}; add one")
    _require_filled(frame, special, path)
    groups, names = pd.factorize(frame[data.series])
    if data.label is not None:
        _require_one_label(frame, data.series, data.label, groups, path)
    times = None if data.time is None else parse_times(frame[data.time], path, form)
    order = _order(frame, groups, times, data.time or "", path)
    values = np.column_stack([numbers(frame, name, path) for name in features])[order]
    ends = np.cumsum(np.bincount(groups))
    labels = [""] * len(frame) if data.label is None else frame[data.label].tolist()
    firsts = order[np.append(0, ends[:-1])]
    return Labelled(
        path=path,
        values=np.split(values, ends[:-1]),
        labels=[labels[first] for first in firsts],
        places=[f"series '{name}'" for name in names],
        channels=features,
        form=None if times is None else times.form,
    )


def _require_filled(frame: pd.DataFrame, columns: list[str], path: Path) -> None:
    for column in columns:
        absent = frame[column].isna().to_numpy()
        if absent.any():
            row = frame.index[int(np.argmax(absent))]
            raise DataError(
                f"{path}: column '{column}' is empty in row {row}; fill it in or remove the row"
            )


def _require_one_label(
    frame: pd.DataFrame, series: str, label: str, groups: NDArray[np.int64], path: Path
) -> None:
    codes, labels = pd.factorize(frame[label])
    first = np.unique(groups, return_index=True)[1]
    wrong = codes != codes[first][groups]
    if wrong.any():
        at = int(np.argmax(wrong))
        before = labels[codes[first[groups[at]]]]
        raise DataError(
            f"{path}: row {frame.index[at]} gives series '{frame[series].iloc[at]}' the label "
            f"'{labels[codes[at]]}', but its first row says '{before}'; a series has one label"
        )


def _order(
    frame: pd.DataFrame, groups: NDArray[np.int64], stamps: Stamps | None, column: str, path: Path
) -> NDArray[np.int64]:
    """Returns (L,) the rows, series by series, each ordered by time or as in the file."""
    if stamps is None:
        return np.argsort(groups, kind="stable")
    times = pd.factorize(stamps.instants, sort=True)[0]
    order: NDArray[np.int64] = np.lexsort((times, groups))
    same = (np.diff(groups[order]) == 0) & (np.diff(times[order]) == 0)
    if same.any():
        at = int(np.argmax(same))
        rows = [frame.index[order[at]], frame.index[order[at + 1]]]
        raise DataError(
            f"{path}: rows {rows[0]} and {rows[1]} are of the same series and have the same "
            f"'{column}'; a time may occur only once in a series"
        )
    return order


def check_labels(train: Labelled, test: Labelled | None) -> list[str]:
    """Checks that the labels can be learned.

    Returns:
        Notes: labels that differ only in upper and lower case.

    Raises:
        DataError: Two labels differ only in blanks, there is but one class, or the test file has
            a class that the training file lacks.
    """
    labels = sorted({*train.labels, *(test.labels if test else ())})
    without_blanks: dict[str, str] = {}
    folded: dict[str, str] = {}
    notes = []
    for label in labels:
        other = without_blanks.setdefault(" ".join(label.split()), label)
        if other != label:
            raise DataError(
                f"{train.path}: the labels {other!r} and {label!r} differ only in blanks; "
                "write them alike"
            )
        other = folded.setdefault(label.casefold(), label)
        if other != label:
            notes.append(f"the labels '{other}' and '{label}' differ only in upper and lower case")
    trained = set(train.labels)
    if len(trained) == 1:
        raise DataError(
            f"{train.path}: every series has the label '{train.labels[0]}'; "
            "classification needs at least two classes"
        )
    for label in labels:
        if label not in trained:
            assert test is not None
            raise DataError(
                f"{test.path}: no series of {train.path} has the label '{label}' of the test "
                "file; add some for training, or remove them from the test file"
            )
    return notes


def without_missing(part: Labelled, how: str) -> Labelled:
    """Does what a study asks for about missing values, and notes how many there were.

    Args:
        part: Series with NaN where a value is missing.
        how: ``error``, ``interpolate`` (linearly within the series; its ends take the nearest
            value) or ``drop`` (the steps at which any channel is missing).

    Raises:
        DataError: ``error``, and a value is missing; or nothing is left of a series.
    """
    values, touched, places = [], 0, 0
    for series, place in zip(part.values, part.places, strict=True):
        absent = np.isnan(series)
        if absent.any():
            touched, places = touched + 1, places + int(absent.any(axis=1).sum())
            values.append(_repaired(series, absent, how, f"{part.path}, {place}", part.channels))
        else:
            values.append(series)
    if not touched:
        return part
    done = {"interpolate": "interpolated", "drop": "dropped"}[how]
    note = f"{part.path}: {places} steps of {touched} series had missing values and were {done}"
    return replace(part, values=values, notes=(*part.notes, note))


def _repaired(
    series: Series, absent: NDArray[np.bool_], how: str, place: str, channels: tuple[str, ...]
) -> Series:
    if how == "error":
        step, channel = np.argwhere(absent)[0]
        raise DataError(
            f"{place}: channel {channels[channel]} has no value at step {step + 1}; fill it in, "
            'or train with missing = "interpolate" or missing = "drop" under [data] of the study'
        )
    if how == "drop":
        kept = series[~absent.any(axis=1)]
        if not len(kept):
            raise DataError(f"{place}: every step has a missing value; remove the series")
        return kept
    if absent.all(axis=0).any():
        channel = int(np.argmax(absent.all(axis=0)))
        raise DataError(
            f"{place}: channel {channels[channel]} has no value at all to interpolate from; "
            "remove the series or the channel"
        )
    return np.column_stack([interpolate(column) for column in series.T])


def cut(part: Labelled, share: float, name: str) -> tuple[list[int], list[int]]:
    """Takes ``share`` of the series, class by class, for another part.

    Every class with two or more series keeps one and gives one; the rest is shared out by largest
    remainder. Which series are taken is decided by a hash of their values, so it is neither
    the order of the file nor any state, and copies of a series tend to stay together.

    Args:
        part: What is cut.
        share: Above 0 and below 1.
        name: What the taken series become, for the message.

    Returns:
        Indices of the series that are kept and of those that are taken, both ascending.

    Raises:
        DataError: No class has two series.
    """
    members = [
        [at for at, label in enumerate(part.labels) if label == one]
        for one in in_order(part.labels)
    ]
    wanted = np.array([share * len(group) for group in members])
    quotas = np.floor(wanted).astype(int)
    missing = round(share * len(part.labels)) - int(quotas.sum())
    quotas[np.argsort(np.round(quotas - wanted, 9), kind="stable")[: max(0, missing)]] += 1
    taken = []
    for group, quota in zip(members, quotas.tolist(), strict=True):
        shuffled = sorted(group, key=lambda at: _digest(part.values[at], name))
        taken += shuffled[: min(max(quota, 1), len(group) - 1)]
    if not taken:
        raise DataError(
            f"{part.path}: no class has two series, so none can be spared for the {name} part; "
            "give more series"
        )
    return sorted({*range(len(part.labels))} - {*taken}), sorted(taken)


def _digest(values: NDArray[np.float64], name: str) -> bytes:
    return hashlib.sha256(name.encode() + np.ascontiguousarray(values).tobytes()).digest()


def in_order(labels: list[str]) -> tuple[str, ...]:
    """Returns the distinct labels, in the order of their numbers if all are numbers."""
    distinct = sorted(set(labels))
    try:
        return tuple(sorted(distinct, key=float))
    except ValueError:
        return tuple(distinct)
