"""A table of values in time → ForecastSplits: windows of the past, and what came after them.

Shapes: L rows, C columns used, T window, F features, H horizon, K targets, O = H x K outputs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config import ForecastData
from search.data.calendars import Step
from search.data.rows import Columns, Rows, arrange, as_day, refuse_extremes, runs_of
from search.data.splits import fingerprint
from search.data.tables import (
    numeric_columns,
    read_table,
    refuse_stray_text,
    require_columns,
)
from search.data.timeline import find_step
from search.data.windows import Aim, ForecastPart, ForecastSplits, choose_aim, standardised
from search.errors import DataError, listed

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PARTS = ("train", "valid", "test")
FEWEST = 10
"""Rows of which it is said how much a series varies."""
UNLIKE = 10.0
"""How many times as much one series varies as another for that to be said."""
CHUNK = 2**22
"""Numbers that are looked at together, so that doubles of all windows' targets need no room."""


def load_forecast(data: ForecastData) -> ForecastSplits:
    """Reads a table and cuts it into training, validation and test windows.

    Each series is cut in time by the shares of ``data.split``. A window belongs to a part if its
    whole target, all H steps, lies in that part; the inputs of validation and test windows may
    reach back into the part before, as they would when the network is used. Training windows lie
    wholly in the training part. No window reaches over a gap or from one series into another.
    Every statistic comes from training rows or training windows alone.

    The network predicts the value itself, or, where persistence beats the training mean on the
    training windows and the targets are among the features, the change from the last value.

    Raises:
        DataError: The file, or what is asked of it, cannot be used; one line with the remedy.
    """
    if data.path is None:
        raise ValueError("examples must be resolved to a path before they are loaded")
    return cut_table(read_table(data.path, (data.series,)), data, data.path)


def cut_table(frame: pd.DataFrame, data: ForecastData, path: Path) -> ForecastSplits:
    """Does what `load_forecast` does, with a table that has been read already.

    Args:
        frame: As `read_table` returns it.
        data: How it is cut.
        path: The file, for messages.
    """
    columns = _choose_columns(frame, data, path)
    rows = arrange(frame, columns.used, data)
    return _build(rows, _windows(rows, data), columns, data)


def _choose_columns(frame: pd.DataFrame, data: ForecastData, path: Path) -> Columns:
    given = [*(data.target or ()), *(data.features or ()), data.time, data.series]
    require_columns(frame, [name for name in given if name is not None], path)
    targets = data.target or _only_target(frame, data, path)
    for name in (data.time, data.series):
        if name in targets:
            raise DataError(f"{path}: '{name}' cannot be both a target and the time or series")
    targets = tuple(dict.fromkeys(targets))
    return Columns(targets, tuple(dict.fromkeys(data.features or targets)))


def _only_target(frame: pd.DataFrame, data: ForecastData, path: Path) -> tuple[str, ...]:
    found = [name for name in numeric_columns(frame) if name not in (data.time, data.series)]
    refuse_stray_text(frame, [name for name in (data.time, data.series) if name is not None], path)
    if len(found) == 1:
        return tuple(found)
    kind = "several columns of numbers" if found else "no column of numbers among"
    hint = "" if data.time else ', and the time stamps, if there are any: time = "NAME"'
    raise DataError(
        f"{path} has {kind}: {listed(map(repr, found or frame.columns))}; name the one to "
        f'forecast under [data]: target = "NAME"{hint}'
    )


def _windows(rows: Rows, data: ForecastData) -> list[Ints]:
    """Returns the first rows of the windows of each part."""
    length = data.window + data.horizon
    stretches = _longest_stretches(rows)
    sizes = np.bincount(rows.series, minlength=len(rows.names))
    largest = min(int(sizes.min()) - data.horizon, _largest_window(rows, data.horizon))
    fit = f"the largest window that fits is {largest}" if largest > 0 else "no window fits"
    if sizes.min() < length:
        short = int(np.argmin(sizes))
        several = len(rows.names) > 1
        which = f"series '{rows.names[short]}'" if several else "the table"
        raise DataError(
            f"{data.path}: {which} has {sizes[short]} rows, fewer than window {data.window} + "
            f"horizon {data.horizon}; {fit}; "
            + ("lower window or horizon, or " if largest > 0 or data.horizon > 1 else "")
            + ("give it more rows, or leave it out" if several else "give more rows")
        )
    starts = np.arange(len(rows.values) - length + 1)
    ends = starts + length - 1
    whole = rows.segments[starts] == rows.segments[ends]
    # An interpolated value at the end of the inputs would tell of the value to be forecast.
    fills = np.concatenate([[0], np.cumsum(rows.filled)])
    whole &= fills[starts + data.window - 1] == fills[ends + 1]
    target_parts = rows.parts[starts + data.window], rows.parts[ends]
    chosen = [starts[whole & np.equal(target_parts, part).all(axis=0)] for part in range(3)]
    for name, found, stretch in zip(PARTS, chosen, stretches, strict=True):
        if not len(found):
            train = name == "train"
            need = f"horizon {data.horizon}" + ("" if train else f", after window {data.window}")
            need = f"window {data.window} + {need}; {fit}" if train else need
            raise DataError(
                f"{data.path}: the {name} part has no window; its longest stretch of rows without "
                f"a gap is {stretch}, too short or too isolated for {need}; lower window or "
                f"horizon, or raise the share of {name} in split"
            )
    return chosen


def _largest_window(rows: Rows, horizon: int) -> int:
    """Returns the largest window of which each part has one; it may begin in the part before."""
    begins = {int(rows.segments[run.start]): run.start for run in runs_of(rows.segments)}
    largest = [0, 0, 0]
    for run in runs_of(rows.segments, rows.parts):
        if run.stop - run.start >= horizon:
            part, begin = int(rows.parts[run.start]), begins[int(rows.segments[run.start])]
            largest[part] = max(largest[part], run.stop - begin - horizon)
    return min(largest)


def _longest_stretches(rows: Rows) -> list[int]:
    """Returns for each part the rows of its longest stretch without a gap."""
    longest = [0, 0, 0]
    for run in runs_of(rows.segments, rows.parts):
        part = int(rows.parts[run.start])
        longest[part] = max(longest[part], run.stop - run.start)
    return longest


@np.errstate(over="ignore", invalid="ignore")
def _statistics(rows: Rows, columns: Columns, path: Path) -> tuple[Floats, Floats, list[str]]:
    """Returns mean and std of the training rows, (C,) each, and notes; a constant has std 1."""
    train = rows.values[rows.parts == 0]
    mean, std, constant = train.mean(axis=0), train.std(axis=0), np.ptp(train, axis=0) == 0
    std[constant | (std == 0)] = 1.0
    names = [name for name, flat in zip(columns.used, constant, strict=True) if flat]
    for name in names:
        if name in columns.targets:
            raise DataError(
                f"{path}: the target '{name}' is constant in the training part, so that there is "
                "nothing to learn; forecast another column, or raise the share of train in split"
            )
    refuse_extremes(rows, columns.used, (rows.values - mean) / std, path)
    notes = [f"constant in the training part, so not scaled: {listed(names)}"] if names else []
    return mean, std, notes


def _remarks(rows: Rows, columns: Columns, data: ForecastData) -> list[str]:
    """Returns notes on what is no fault, but limits what a search can show."""
    seasonal, unlike = _season_notes(rows, data), _unlike_notes(rows, columns)
    return [*_flat_notes(rows, columns), *seasonal, *unlike]


def _season_notes(rows: Rows, data: ForecastData) -> list[str]:
    longest = max(int(np.ptp(rows.slots[run])) + 1 for run in runs_of(rows.series))
    if data.season is None or data.season < longest:
        return []
    return [
        f"season {data.season} is no shorter than any series ({longest} steps at most), so that "
        "seasonal naive is persistence; lower season"
    ]


def _flat_notes(rows: Rows, columns: Columns) -> list[str]:
    """Says so if a target is the same in all rows that trials, or the winner, are judged on."""
    places = columns.places(columns.targets)
    return [
        f"the target '{name}' is the same in all rows of the {part} part, which tells little of a "
        "forecast; change split, so that it varies there"
        for at, part in enumerate(PARTS)
        for name, place in zip(columns.targets, places, strict=True)
        if (rows.parts == at).sum() > 1 and np.ptp(rows.values[rows.parts == at, place]) == 0
    ]


@np.errstate(over="ignore", invalid="ignore")
def _unlike_notes(rows: Rows, columns: Columns) -> list[str]:
    """Says so if one series varies far more than another: what is pooled fits neither."""
    notes = []
    for name, place in zip(columns.targets, columns.places(columns.targets), strict=True):
        runs = [run for run in runs_of(rows.series, rows.parts) if rows.parts[run.start] == 0]
        stds = np.array([rows.values[run, place].std() for run in runs])
        # The deviation of what is constant may be a rounding.
        sure = [run.stop - run.start >= FEWEST and np.ptp(rows.values[run, place]) for run in runs]
        varied = np.flatnonzero(sure)
        if not len(varied):
            continue
        least, most = (varied[at] for at in (stds[varied].argmin(), stds[varied].argmax()))
        ratio = stds[most] / stds[least]
        if ratio >= UNLIKE:
            small, large = (rows.names[rows.series[runs[at].start]] for at in (least, most))
            notes.append(
                f"'{name}' varies {ratio:.3g} times as much in series '{large}' as in '{small}', "
                "but errors and intervals are those of all series together: divide each by its "
                "own level first, or search those of a kind by themselves"
            )
    return notes


def _step(rows: Rows) -> Step:
    """Returns the step of the time stamps, None if there are none or if series have others."""
    if rows.stamps is None:
        return None
    steps = {find_step(rows.stamps.take(np.arange(r.start, r.stop))) for r in runs_of(rows.series)}
    return steps.pop() if len(steps) == 1 else None


def _part(values: Tensor, observed: Floats, starts: Ints, aim: Aim, window: int) -> ForecastPart:
    targets = torch.from_numpy(aim.targets(observed, starts + window)).float()
    return ForecastPart(values, torch.from_numpy(starts), targets, window)


def _constant_losses(train: ForecastPart, valid: ForecastPart) -> list[float]:
    """Returns the losses of training's mean target on both parts."""
    mean = train.targets.mean(0, dtype=torch.float64)
    rows = max(1, CHUNK // mean.numel())
    sums = [
        sum(float((some - mean).square().sum()) for some in torch.split(part.targets, rows))
        for part in (train, valid)
    ]
    return [total / part.targets.numel() for total, part in zip(sums, (train, valid), strict=True)]


def _build(rows: Rows, starts: list[Ints], columns: Columns, data: ForecastData) -> ForecastSplits:
    """Standardises the rows and puts everything into one object."""
    mean, std, notes = _statistics(rows, columns, data.path or Path())
    seen, aimed = columns.places(columns.features), columns.places(columns.targets)
    observed = np.ascontiguousarray(rows.values[:, aimed])
    spread, first = (mean[aimed], std[aimed]), starts[0] + data.window
    aim = choose_aim(observed, spread, first, data.horizon, columns.visible)
    values = standardised(rows.values[:, seen], mean[seen], std[seen])
    train, valid, test = (_part(values, observed, at, aim, data.window) for at in starts)
    options = (data.window, data.horizon, columns.targets, columns.features, aim.anchored)
    constant, constant_valid = _constant_losses(train, valid)
    return ForecastSplits(
        task="forecast",
        train=train,
        valid=valid,
        test=test,
        input_size=len(seen),
        output_size=aim.scale.size,
        fingerprint=fingerprint(rows.values, *starts, *options),
        notes=(*rows.notes, *notes, *_remarks(rows, columns, data)),
        constant_loss=constant,
        constant_valid_loss=constant_valid,
        targets=columns.targets,
        features=columns.features,
        window=data.window,
        horizon=data.horizon,
        data=data,
        step=_step(rows),
        time_format=rows.stamps.form if rows.stamps else None,
        anchored=aim.anchored,
        shift=torch.from_numpy(aim.shift.flatten()),
        scale=torch.from_numpy(aim.scale.flatten()),
        feature_mean=torch.from_numpy(mean[seen]),
        feature_std=torch.from_numpy(std[seen]),
        observed=torch.from_numpy(observed),
        segments=torch.from_numpy(rows.segments),
        slots=torch.from_numpy(rows.slots),
        parts=torch.from_numpy(rows.parts).to(torch.int8),
        lines=tuple(_lines(rows, starts, columns, data, statistics=(mean, std), aim=aim)),
    )


def _cut_times(rows: Rows) -> list[str]:
    """Says from when to when each part is, and where those of several series overlap."""
    if rows.stamps is None:
        return []
    spans = [rows.stamps.clock[rows.parts == part] for part in range(len(PARTS))]
    said = ", ".join(
        f"{name} {as_day(span.min())} to {as_day(span.max())}"
        for name, span in zip(PARTS, spans, strict=True)
    )
    last, first = spans[0].max(), spans[1].min()
    overlap = len(rows.names) > 1 and last >= first
    lines = [f"each series is cut by its own length: {said}" if overlap else said]
    if overlap:
        lines.append(
            f"so some train up to {as_day(last)} while others are judged from {as_day(first)} on: "
            "what they have in common is no surprise then"
        )
    return lines


def _lines(
    rows: Rows,
    starts: list[Ints],
    columns: Columns,
    data: ForecastData,
    *,
    statistics: tuple[Floats, Floats],
    aim: Aim,
) -> list[str]:
    """Returns what `ForecastSplits.describe` says of the rows, the windows and the columns."""
    several = f" in {len(rows.names)} series" if len(rows.names) > 1 else ""
    sizes = np.bincount(rows.parts, minlength=len(PARTS))
    cut = [
        f"{name} {len(first)} of {size} rows"
        for name, first, size in zip(PARTS, starts, sizes, strict=True)
    ]
    lines = [
        f"{data.path}: {len(rows.values)} rows{several}",
        f"time: {rows.timing}",
        f"windows of {data.window} steps, {data.horizon} ahead: {', '.join(cut)}",
        *_cut_times(rows),
    ]
    for name, mean, std in zip(columns.used, *statistics, strict=True):
        roles = [
            role
            for role, names in (("target", columns.targets), ("feature", columns.features))
            if name in names
        ]
        lines.append(f"{' and '.join(roles)} {name}: mean {mean:.6g}, std {std:.6g} in training")
    what = "change from the last value, which beats the mean" if aim.anchored else "value itself"
    return [*lines, f"the network predicts the {what}"]
