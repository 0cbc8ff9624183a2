"""An exported forecasting model: a table in, a table of forecasts out, in the data's own units.

Shapes: L rows, N windows, T window, H horizon, K targets, O = H x K outputs.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config import ForecastData
from search.data.calendars import Step, alike, go_on, say_step
from search.data.cards import ForecastCard
from search.data.rows import Rows, arrange, refuse_extremes, runs_of
from search.data.tables import read_table, require_columns, take_table
from search.data.timeline import NUMBERS, Stamps, day_first, on_the_wall, own_step
from search.data.windows import ForecastPart, in_units, standardised
from search.ensembles import Networks
from search.errors import DataError, listed
from search.intervals import edges
from search.model_files import Band

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Forecasts:
    """The forecasts of all windows that fit into a table.

    Attributes:
        rows: The table, in order.
        last: (N,) row, of the L, that each window ends with: what its forecasts are made from.
        values: (N, H, K) in the targets' units.
        interval: Low and high, (N, H, K), in the targets' units; None: there is no `Band`.
    """

    rows: Rows
    last: Ints
    values: Floats
    interval: tuple[Floats, Floats] | None


def forecast(
    networks: Networks, card: ForecastCard, band: Band | None, source: Path | pd.DataFrame
) -> Forecasts:
    """Forecasts what follows every stretch of T rows of a table, its last rows among them.

    None follows a row with a value that is interpolated from a later one, which looks ahead; the
    last rows of a series look back. Missing values are treated as in the study, but for the
    borders of its three parts, which other data has not: what the study interpolated beside one
    may differ. Where nothing can be interpolated between two gaps, rows are left out, too.

    Raises:
        DataError: The table cannot be used; one line with the remedy.

    Warns:
        UserWarning: Time stamps are not as in the study; a series or last rows give no forecast, or
            last rows only one from what was known before; rows cannot be interpolated.
    """
    path = source if isinstance(source, Path) else Path("the frame")
    rows = _arrange(source, card, path)
    mean, std = np.array(card.feature_mean), np.array(card.feature_std)
    with np.errstate(over="ignore", invalid="ignore"):
        refuse_extremes(rows, list(card.features), (rows.values - mean) / std, path)
    starts = _starts(rows, card.window, path)
    last, shape = starts + card.window - 1, (len(starts), card.horizon, len(card.targets))
    _warn_of_times(rows, card, path)
    _warn_of_unseen(rows, last, card.window, path)
    _warn_of_missing(rows, last, card, path)
    nothing = torch.zeros(len(starts), 0)
    values = standardised(rows.values, mean, std)
    part = ForecastPart(values, torch.from_numpy(starts), nothing, card.window)
    outputs = torch.cat([outputs for outputs, _ in networks.outputs_of(part)], dim=1)
    centre = _in_units(networks.join(outputs), card, rows, last)
    interval = None
    if band is not None:
        below, above = edges(band, outputs, torch.tensor(card.scale, dtype=torch.float64))
        low, high = ((centre + edge).numpy().reshape(shape) for edge in (below, above))
        interval = low, high
    return Forecasts(rows, last, centre.numpy().reshape(shape), interval)


def _arrange(source: Path | pd.DataFrame, card: ForecastCard, path: Path) -> Rows:
    """Returns the rows, all of them one part."""
    if isinstance(source, Path):
        frame = read_table(path, (card.series,))
    else:
        frame = take_table(source, path, (card.series,))
    special = [name for name in (card.series, card.time) if name is not None]
    require_columns(frame, [*card.features, *special], path)
    data = ForecastData(
        task="forecast", path=path, time=card.time, series=card.series, missing=card.missing
    )
    whole = data.model_copy(update={"split": (1.0, 0.0, 0.0)})
    living = _without_dead(frame, card, path)
    return arrange(living, list(card.features), whole, card)


def _without_dead(frame: pd.DataFrame, card: ForecastCard, path: Path) -> pd.DataFrame:
    """Leaves out series that nothing can be interpolated in: they cost no other its forecasts."""
    if card.series is None or card.missing != "interpolate":
        return frame
    empty = frame[list(card.features)].isna().groupby(frame[card.series], sort=False).all()
    dead = empty[empty.any(axis=1)]
    if dead.empty or len(dead) == len(empty):
        return frame
    name, missing = dead.index[0], dead.columns[dead.iloc[0]][0]
    more = f", nor for {len(dead) - 1} more of the kind" if len(dead) > 1 else ""
    warnings.warn(
        f"{path}: nothing is forecast for series '{name}', which has no value of '{missing}'{more}",
        stacklevel=4,
    )
    return frame[~frame[card.series].isin(dead.index)]


def _in_units(outputs: Tensor, card: ForecastCard, rows: Rows, last: Ints) -> Tensor:
    observed = torch.zeros(len(last), len(card.targets), dtype=torch.float64)
    if card.anchored:
        places = [card.features.index(name) for name in card.targets]
        observed = torch.from_numpy(rows.values[last][:, places])
    shift, scale = (torch.tensor(one, dtype=torch.float64) for one in (card.shift, card.scale))
    return in_units(outputs, observed, shift, scale, card.anchored)


def _starts(rows: Rows, window: int, path: Path) -> Ints:
    """Returns (N,) the first rows of all windows.

    None of them reaches over a gap or ends with a value from after it; the last before a gap, or
    of the file, never does.
    """
    starts = np.arange(len(rows.values) - window + 1)
    ends = starts + window - 1
    whole = rows.segments[starts] == rows.segments[ends]
    chosen: Ints = starts[whole & ~rows.foreseen[ends]]
    if not len(chosen):
        longest = int(np.unique(rows.segments, return_counts=True)[1].max())
        raise DataError(
            f"{path}: the longest stretch of rows without a gap is {longest} and the model sees "
            f"{window}; give more rows"
        )
    return chosen


def table_of(forecasts: Forecasts, card: ForecastCard) -> pd.DataFrame:
    """Returns one row for each window and step ahead.

    Columns: the series, if there are several; ``made_from``, the time (or, without times, the row,
    counted from 1 in each series, those that are dropped too) of the last row that was seen;
    ``ahead``, steps from there; the time or ``row`` that is forecast; each target; and
    ``NAME_low`` and ``NAME_high``, if there are intervals.

    Args:
        forecasts: What to show.
        card: How the data is read.
    """
    rows, count, horizon = forecasts.rows, len(forecasts.last), card.horizon
    taken = {card.series, card.time, *card.targets}
    made, ahead = _free("made_from", taken), _free("ahead", taken)
    columns: dict[str, Any] = {}
    if card.series is not None:
        names = np.array(rows.names, dtype=object)[rows.series[forecasts.last]]
        columns[card.series] = np.repeat(names, horizon)
    seen, future = _times(forecasts, card)
    columns[made] = seen.repeat(horizon)
    columns[ahead] = np.tile(np.arange(1, horizon + 1), count)
    columns[card.time or _free("row", taken)] = future
    for at, name in enumerate(card.targets):
        columns[name] = forecasts.values[:, :, at].reshape(-1)
    if forecasts.interval is not None:
        for at, name in enumerate(card.targets):
            for ending, edge in zip(("_low", "_high"), forecasts.interval, strict=True):
                columns[_free(name + ending, taken)] = edge[:, :, at].reshape(-1)
    return pd.DataFrame(columns)


def _free(name: str, taken: set[str | None]) -> str:
    """Returns a column name that no column of the data has."""
    while name in taken:
        name += "_"
    return name


def _times(forecasts: Forecasts, card: ForecastCard) -> tuple[pd.Index[Any], pd.Index[Any]]:
    """Returns (N,) the times of the last rows seen and (N * H,) those that are forecast."""
    rows, last, horizon = forecasts.rows, forecasts.last, card.horizon
    runs = list(runs_of(rows.segments, rows.series))
    if rows.stamps is None:
        ahead = rows.places[last][:, None] + np.arange(1, horizon + 1)
        return pd.Index(rows.places[last]), pd.Index(ahead.reshape(-1))
    instants = rows.stamps.instants
    pieces = []
    for run, step in zip(runs, _steps(rows, rows.stamps, runs, card), strict=True):
        stretch = rows.stamps.take(np.arange(run.start, run.stop))
        line = stretch.instants.append(pd.Index(_after(stretch, step, horizon)))
        ends = last[slice(*np.searchsorted(last, (run.start, run.stop)))] - run.start
        at = ends[:, None] + np.arange(1, horizon + 1)
        pieces.append(line[at.reshape(-1)])
    following = instants[:0].append(pieces)
    # A file with offsets from UTC is answered in UTC, which has no hour twice.
    if rows.stamps.zoned:
        instants, following = (
            pd.DatetimeIndex(one).tz_localize("UTC") for one in (instants, following)
        )
    return instants[last], following


def _after(stamps: Stamps, step: Step, count: int) -> list[Any]:
    """Returns the instants that follow some; the clock keeps its last offset from UTC."""
    if not on_the_wall(stamps, step):
        return go_on(stamps.instants[-1], step, count)
    ahead = stamps.clock[-1] - stamps.instants[-1]
    return [one - ahead for one in go_on(stamps.clock[-1], step, count)]


def _steps(rows: Rows, stamps: Stamps, runs: list[slice], card: ForecastCard) -> list[Step]:
    """Returns the step of each run: its series' own, where that cannot be told the study's."""
    wanted = None if stamps.dates and card.time_format == NUMBERS else card.step
    own: dict[int, Step] = {}  # By number: a series may have been dropped whole.
    known: dict[bytes, Step] = {}  # Most series of a table have the same times.
    for run in runs_of(rows.series):
        series = stamps.take(np.arange(run.start, run.stop))
        times = series.instants.to_numpy().tobytes() + series.clock.to_numpy().tobytes()
        if times not in known:
            known[times] = own_step(series, wanted)
        own[int(rows.series[run.start])] = known[times]
    return [own[int(rows.series[run.start])] for run in runs]


def _warn_of_times(rows: Rows, card: ForecastCard, path: Path) -> None:
    """Says where the time stamps have another step, or day and month another order."""
    stamps, step = rows.stamps, card.step
    if stamps is None:
        return
    order = day_first(card.time_format), day_first(stamps.form)
    if None not in order and order[0] != order[1]:
        warnings.warn(
            f"{path}: its times can only be read as {stamps.form}, and the model has learned from "
            f"times such as {card.time_format}",
            stacklevel=4,
        )
    if step is None:
        return
    dates = card.time_format != NUMBERS and (stamps.dates or isinstance(step, str))
    for own in _steps(rows, stamps, list(runs_of(rows.series)), card):
        if own is None or (stamps.dates == dates and alike(own, step)):
            continue
        warnings.warn(
            f"{path}: its rows are {say_step(own, dates=stamps.dates)} apart, and the model has "
            f"learned from rows that are {say_step(step, dates=dates)} apart; it counts in rows",
            stacklevel=4,
        )
        return


def _warn_of_unseen(rows: Rows, last: Ints, window: int, path: Path) -> None:
    """Says what no forecast is made for or from, though there are rows of it.

    Args:
        rows: The table.
        last: (N,) the last row that each window sees.
        window: How many rows it sees.
        path: Of the table, for messages.
    """
    ends = {int(rows.series[run.start]): run.stop - 1 for run in runs_of(rows.series)}
    seen = {int(one) for one in np.unique(rows.series[last])}
    newest = set(last.tolist())
    without = [name for one, name in enumerate(rows.names) if one not in seen]
    behind = [one for one, end in ends.items() if one in seen and end not in newest]
    if without:
        warnings.warn(
            f"{path}: nothing is forecast for {_series(without)}, which never "
            f"{'has' if len(without) == 1 else 'have'} {window} rows without a gap",
            stacklevel=4,
        )
    if behind:
        of = "" if len(ends) == 1 else f" of {_series([rows.names[one] for one in behind])}"
        warnings.warn(
            f"{path}: from the last rows{of} nothing is forecast, because they are fewer than "
            f"{window} since a gap; the newest forecasts are of before it",
            stacklevel=4,
        )


def _warn_of_missing(rows: Rows, last: Ints, card: ForecastCard, path: Path) -> None:
    """Says where the newest forecasts rest on older values than their times, and what is left out.

    Args:
        rows: The table.
        last: (N,) the last row that each window sees.
        card: How the table is read.
        path: Of the table, for messages.
    """
    filled: dict[str, int] = {}
    dropped: dict[str, int] = {}
    newest, seen = set(last.tolist()), set(rows.series[last].tolist())
    for run in runs_of(rows.series):
        series, end = int(rows.series[run.start]), run.stop - 1
        beyond = int(rows.sizes[series] - rows.places[end])
        if beyond and series in seen:
            dropped[rows.names[series]] = beyond
        # So many rows, the last, lack a value that no later row has.
        stale = (rows.filled & ~rows.foreseen)[run]
        lacking = int(np.argmin(np.append(stale[::-1], False)))
        if lacking and not beyond and end in newest:
            filled[rows.names[series]] = lacking
    stands_in = (
        "and the one before stands in: the newest forecasts are made from that; leave such rows "
        "out if they are yet to come"
    )
    ends_before = "so that nothing is forecast from there; the newest forecasts are of before"
    for found, what in ((filled, stands_in), (dropped, ends_before)):
        if found:
            where = _last_rows(found, several=len(rows.names) > 1)
            warnings.warn(f"{path}: a value is missing in {where}, {what}", stacklevel=4)
    if len(rows.dropped) and card.missing == "interpolate":
        more = f" and {len(rows.dropped) - 1} more are" if len(rows.dropped) > 1 else " is"
        warnings.warn(
            f"{path}: row {rows.dropped.min()}{more} left out: from one gap to the next, a column "
            "has no value to interpolate from",
            stacklevel=4,
        )


def _last_rows(counts: dict[str, int], *, several: bool) -> str:
    """Names the last rows of series, given how many of each; ``several``: there are others."""
    most = max(counts.values())
    rows = "row" if most == 1 else f"{most} rows" if len(counts) == 1 else f"rows, up to {most},"
    return f"the last {rows} of {_series([*counts])}" if several else f"the last {rows}"


def _series(names: list[str]) -> str:
    return f"{'series' if len(names) == 1 else f'{len(names)} series:'} {listed(map(repr, names))}"
