"""How an unknown table of numbers in time is best forecast: each key of ``[data]``, and why.

Shapes: L rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.choices import Choice
from search.config import ForecastData
from search.data.clocks import words_of
from search.data.forecasting import PARTS, cut_table
from search.data.roles import IDENTIFIER, MAYBE_TIME, TARGETS, Roles
from search.data.rows import joining, runs_of
from search.data.season import Season, autocorrelation, common_season, likely_seasons
from search.data.tables import (
    is_dressed,
    is_stray,
    numbers,
    numeric_columns,
    refuse_stray_text,
    require_columns,
)
from search.data.timeline import parse_times
from search.data.windows import ForecastSplits
from search.errors import DataError, listed
from search.forecast_reasons import (
    Refused,
    features_choice,
    missing_choice,
    series_choice,
    target_choice,
    time_choice,
    window_choices,
)

MOST_FEATURES = 16
"""With more columns of numbers than this, the network is shown the target alone."""
MOST_MISSING = 0.1
"""A column that lacks a larger share of its values is not shown to the network."""
NO_TARGETS = {"label", "labels", "class"}
"""Words in the names of columns that are forecast only where there is no other."""

LONGEST_WINDOW = 256
LONGEST_HORIZON = 100
WINDOWS = (24, 12, 6, 3, 1)
"""Windows where there is no season, the first that leaves enough examples."""
SMALL_WINDOW = 6
"""Less than this is hardly a past."""
ENOUGH = (30, 8, 8)
"""Examples wanted for training, validation and test."""
PLENTY = (100, 30, 30)
"""The same for forecasts of a whole season, whose examples overlap."""
BARELY = (12, 4, 4)
"""What is taken where no window leaves enough."""
FEWEST_ROWS = 20
WHY = (
    'Numbers in time. "classify" would need a series and a label column; "language" reads the '
    "file as text."
)
"""Why it is the task ``forecast``, for the study file."""


def forecast_choices(
    frame: pd.DataFrame, path: Path, roles: Roles, wanted: tuple[str, ...]
) -> tuple[list[Choice], list[str]]:
    """Chooses how a table is forecast, and tries it out.

    Args:
        frame: As `read_table` returns it.
        path: The file.
        roles: What its columns are for.
        wanted: The columns to forecast, if the user has named them.

    Returns:
        The keys, and notes.

    Raises:
        DataError: It cannot be forecast, whatever is chosen; one line with the remedy.
    """
    if len(frame) < FEWEST_ROWS:
        raise DataError(
            f"{path} has {len(frame)} rows, too few to learn from; give it {FEWEST_ROWS} or more"
        )
    targets = wanted or (_likely_target(frame, path, roles),)
    chosen, splits, season, neighbours, refused = _settle(frame, path, roles, targets)
    gaps = _harmful_gaps(frame, path, roles, chosen, splits)
    if gaps:
        roles = replace(roles, time=None, left_out={**roles.left_out, str(roles.time): gaps})
        chosen, splits, season, neighbours, refused = _settle(frame, path, roles, targets)
    choices = [
        Choice("task", "forecast", WHY),
        target_choice(targets, roles, wanted),
        features_choice(chosen, targets, roles, refused),
        time_choice(roles, splits.describe()[1].removeprefix("time: ")),
        series_choice(roles, frame),
        *window_choices(chosen, splits, season),
        missing_choice(_absent(frame, path, chosen.features or ()), chosen, refused),
        Choice("split", list(chosen.split), "Shares of training, validation and test, in time."),
    ]
    notes = [*left_out_notes(roles), *_notes(splits, targets[0], neighbours)]
    notes += _short_series_notes(frame, path, roles, chosen, season)
    return choices, [joining(roles.calendar), *notes] if roles.calendar else notes


def _settle(
    frame: pd.DataFrame, path: Path, roles: Roles, targets: tuple[str, ...]
) -> tuple[ForecastData, ForecastSplits, Season | None, float | None, Refused]:
    data, smallest, refused = _first_that_works(frame, path, roles, targets)
    season, neighbours = _find_season(smallest, roles)
    return *_fit_windows(frame, path, data, season), season, neighbours, refused


def _harmful_gaps(
    frame: pd.DataFrame, path: Path, roles: Roles, data: ForecastData, splits: ForecastSplits
) -> str:
    """Says why the time is better left out: many rows, in order, but gaps leave no real window."""
    if roles.time is None or roles.series is not None or data.window >= SMALL_WINDOW:
        return ""
    stretches = len(np.unique(splits.segments.numpy()))
    ordered = parse_times(frame[roles.time], path).instants.is_monotonic_increasing
    if not ordered or SMALL_WINDOW * stretches < len(frame) or len(frame) < 2 * sum(ENOUGH):
        return ""
    return f"its {stretches - 1} gaps leave no window; the rows count as evenly spaced instead"


def left_out_notes(roles: Roles) -> list[str]:
    """Returns a line for each column that could not be used."""
    return [f"'{name}' is left out: {why}" for name, why in roles.left_out.items()]


def _notes(splits: ForecastSplits, target: str, neighbours: float | None) -> list[str]:
    notes = []
    if min(part.size for part in (splits.valid, splits.test)) < min(ENOUGH):
        notes.append("there are so few rows that every figure will be a matter of luck")
    if neighbours is not None:
        notes.append(
            f"a row of '{target}' is no more like the row before it (autocorrelation "
            f"{neighbours:.2f}) than like any other; make sure that the rows are in time"
        )
    return notes


def _short_series_notes(
    frame: pd.DataFrame, path: Path, roles: Roles, data: ForecastData, season: Season | None
) -> list[str]:
    """Says which series allow no longer window, if they are few."""
    window, horizon, _ = next(_rungs(season))
    if roles.series is None or data.window >= window:
        return []
    sizes = frame[roles.series].value_counts()
    short = sizes[sizes < window + horizon]
    if not len(short) or 2 * len(short) > len(sizes):
        return []
    rest, longer = frame[~frame[roles.series].isin(short.index)], {"window": window, "horizon": 1}
    try:
        if not _leaves(cut_table(rest, data.model_copy(update=longer), path), ENOUGH):
            return []
    except DataError:
        return []
    which = f"series '{short.index[-1]}' has only {short.iloc[-1]} rows"
    if len(short) > 1:
        which = f"{len(short)} of {len(sizes)} series are short, '{short.index[-1]}' has only "
        which += f"{short.iloc[-1]} rows"
    return [f"{which}: without {'it' if len(short) == 1 else 'them'} the window could be {window}"]


def _likely_target(frame: pd.DataFrame, path: Path, roles: Roles) -> str:
    if not roles.values:
        special = [name for name in (roles.time, roles.series) if name is not None]
        refuse_stray_text(frame, special, path)
        _refuse_unasked(frame, path, roles)
        found = ", ".join(map(repr, frame))
        found = found if len(found) <= 200 else f"{found[:197]}..."
        alone = " (columns are delimited by , ; | or a tab)" if len(frame.columns) == 1 else ""
        dressed = next((n for n in roles.left_out if is_dressed(frame[n])), None)
        why = f" ('{dressed}': {roles.left_out[dressed]})" if dressed else ""
        raise DataError(
            f"{path} has no column of numbers to forecast, only {found}{alone}{why}; give it one, "
            "or learn the file as text: --task language"
        )
    likely = [name for name in roles.left_out if name.casefold() in TARGETS]
    strays = [name for name in likely if is_stray(frame[name]) or _is_infinite(frame[name])]
    by_name = {name.casefold(): name for name in (*roles.values, *strays)}
    named = next((by_name[name] for name in TARGETS if name in by_name), None)
    if named in strays:  # Surely meant, and a word among its numbers to be mended.
        numbers(frame, str(named), path)
    plain = [name for name in roles.values if not words_of(name) & NO_TARGETS]
    return named or (plain or roles.values)[0]


def _is_infinite(column: pd.Series[Any]) -> bool:
    numeric = pd.api.types.is_numeric_dtype(column)
    return numeric and bool(np.isinf(column.to_numpy(dtype=np.float64, na_value=np.nan)).any())


def _refuse_unasked(frame: pd.DataFrame, path: Path, roles: Roles) -> None:
    """Names the columns of numbers that are forecast only if the user says so, if there are any."""
    unasked = {name: roles.left_out.get(name) for name in numeric_columns(frame)}
    which = [
        f"'{name}' ({why})" for name, why in unasked.items() if why in (IDENTIFIER, MAYBE_TIME)
    ]
    if which:
        raise DataError(
            f"{path}: what to forecast is not clear, as the only numbers that vary are "
            f"{listed(which)}; name the column that you mean: --target COLUMN"
        )


def _first_that_works(
    frame: pd.DataFrame, path: Path, roles: Roles, targets: tuple[str, ...]
) -> tuple[ForecastData, ForecastSplits, Refused]:
    """Returns the first setting whose data can be read, with the smallest window there is."""
    require_columns(frame, targets, path)
    for name in targets:
        numbers(frame, name, path)
    early = frame.iloc[: int(len(frame) * ForecastData.model_fields["split"].default[0])]
    others = [
        name
        for name in roles.values
        if name not in targets
        and frame[name].isna().mean() <= MOST_MISSING
        and early[name].nunique() > 1
    ]
    every = (*targets, *others)
    refused: Refused = {}
    for features in (every, targets) if 1 < len(every) <= MOST_FEATURES else (targets,):
        for how in ("interpolate", "drop") if _absent(frame, path, features).any() else ("error",):
            data = ForecastData(
                task="forecast",
                path=path,
                target=targets,
                features=features,
                time=roles.time,
                series=roles.series,
                window=1,
                missing=how,
            )
            try:
                return data, cut_table(frame, data, path), refused
            except DataError as error:
                refused.setdefault(features, error)
    raise next(iter(refused.values()))


def _absent(frame: pd.DataFrame, path: Path, columns: tuple[str, ...]) -> NDArray[np.bool_]:
    """Returns (L,) which rows lack a value."""
    absent = np.zeros(len(frame), dtype=np.bool_)
    for name in columns:
        absent |= np.isnan(numbers(frame, name, path))
    return absent


def _find_season(splits: ForecastSplits, roles: Roles) -> tuple[Season | None, float | None]:
    """Returns the season of the first target and, where rows seem unordered, how alike they are.

    The rows of the test part are not looked at.
    """
    seen = splits.parts.numpy() < PARTS.index("test")
    values, segments = splits.observed[:, 0].numpy()[seen], splits.segments.numpy()[seen]
    likely = likely_seasons(splits.step) if isinstance(splits.step, str) else ()
    calendar = {"quarter": 4, "month": 12, "hour": 24, "weekday": 7}
    likely += tuple(steps for name, steps in calendar.items() if name in {*roles.calendar})
    stretches = [values[run] for run in runs_of(segments)]
    season, longest = common_season(stretches, likely), max(stretches, key=len)
    if season is not None:
        return season, None
    if len(longest) < 30 or np.ptp(longest) == 0:
        return None, None
    neighbours = float(autocorrelation(longest, 1)[1])
    return None, neighbours if abs(neighbours) < 2 / np.sqrt(len(longest)) else None


def _rungs(season: Season | None) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Yields windows, horizons and how many examples they must leave, the best first."""
    smallest = WINDOWS[0] + 1
    if season is not None:
        longest = min(2 * season.steps, LONGEST_WINDOW)
        if season.steps <= LONGEST_HORIZON:
            yield longest, season.steps, PLENTY
        yield longest, 1, ENOUGH
        if season.steps < longest:
            yield season.steps, 1, ENOUGH
        smallest = min(season.steps, longest)
    yield from ((window, 1, ENOUGH) for window in WINDOWS if window < smallest)


def _fit_windows(
    frame: pd.DataFrame, path: Path, data: ForecastData, season: Season | None
) -> tuple[ForecastData, ForecastSplits]:
    """Returns the first window and horizon that leave enough examples, or barely enough."""
    steps = season and season.steps
    found: list[tuple[ForecastData, ForecastSplits]] = []
    refusal: DataError | None = None
    for window, horizon, wanted in _rungs(season):
        change = {"window": window, "horizon": horizon, "season": steps}
        tried = data.model_copy(update=change)
        try:
            splits = cut_table(frame, tried, path)
        except DataError as error:
            refusal = error
            continue
        found.append((tried, splits))
        if _leaves(splits, wanted):
            return tried, splits
    if not found:
        assert refusal is not None
        raise refusal
    return next((one for one in found if _leaves(one[1], BARELY)), found[-1])


def _leaves(splits: ForecastSplits, wanted: tuple[int, int, int]) -> bool:
    sizes = (splits.train.size, splits.valid.size, splits.test.size)
    return all(size >= least for size, least in zip(sizes, wanted, strict=True))
