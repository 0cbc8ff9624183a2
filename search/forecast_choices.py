"""How an unknown table of numbers in time is best forecast: each key of ``[data]``, and why.

Shapes: L rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.choices import Choice
from search.config import ForecastData
from search.data.forecasting import cut_table
from search.data.roles import Roles, words_of
from search.data.rows import joining, runs_of
from search.data.season import Season, autocorrelation, find_season, likely_seasons
from search.data.tables import is_stray, numbers, refuse_stray_text, require_columns
from search.data.timeline import parse_times
from search.data.windows import ForecastPart, ForecastSplits
from search.errors import DataError

MOST_FEATURES = 16
"""With more columns of numbers than this, the network is shown the target alone."""
MOST_MISSING = 0.1
"""A column that lacks a larger share of its values is not shown to the network."""
TARGETS = ("target", "y", "value", "ot", "sales", "demand", "load", "close")
"""Names, in lower case, that are taken for the target before the first column is."""

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
SERIES_ASKED = 9
"""So many stretches, the longest, are asked for their season; more than half must agree."""
SHARE_WANTED = 0.5
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
    chosen, splits, season, neighbours = _settle(frame, path, roles, targets)
    gaps = _harmful_gaps(frame, path, roles, chosen, splits)
    if gaps:
        roles = replace(roles, time=None, left_out={**roles.left_out, str(roles.time): gaps})
        chosen, splits, season, neighbours = _settle(frame, path, roles, targets)
    choices = [
        Choice("task", "forecast", WHY),
        _target_choice(targets, roles, wanted),
        _features_choice(chosen, targets, roles),
        _time_choice(roles, splits.describe()[1].removeprefix("time: ")),
        _series_choice(roles, frame),
        *_window_choices(chosen, splits, season),
        _missing_choice(frame, path, chosen),
        Choice("split", list(chosen.split), "Shares of training, validation and test, in time."),
    ]
    notes = [*left_out_notes(roles), *_notes(splits, targets[0], neighbours)]
    notes += _short_series_notes(frame, path, roles, chosen, season)
    return choices, [joining(roles.calendar), *notes] if roles.calendar else notes


def _settle(
    frame: pd.DataFrame, path: Path, roles: Roles, targets: tuple[str, ...]
) -> tuple[ForecastData, ForecastSplits, Season | None, float | None]:
    data, smallest = _first_that_works(frame, path, roles, targets)
    season, neighbours = _find_season(smallest, roles)
    return *_fit_windows(frame, path, data, season), season, neighbours


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
        found = ", ".join(map(repr, frame))
        found = found if len(found) <= 200 else f"{found[:197]}..."
        alone = " (columns are delimited by , ; | or a tab)" if len(frame.columns) == 1 else ""
        raise DataError(
            f"{path} has no column of numbers to forecast, only {found}{alone}; give it one, or "
            "learn the file as text: --task language"
        )
    strays = [n for n in roles.left_out if n.casefold() in TARGETS and is_stray(frame[n])]
    by_name = {name.casefold(): name for name in (*roles.values, *strays)}
    named = next((by_name[name] for name in TARGETS if name in by_name), None)
    if named in strays:  # Surely meant, and a word among its numbers to be mended.
        numbers(frame, str(named), path)
    plain = [name for name in roles.values if not words_of(name) & NO_TARGETS]
    return named or (plain or roles.values)[0]


def _first_that_works(
    frame: pd.DataFrame, path: Path, roles: Roles, targets: tuple[str, ...]
) -> tuple[ForecastData, ForecastSplits]:
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
    refusal: DataError | None = None
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
                return data, cut_table(frame, data, path)
            except DataError as error:
                refusal = refusal or error
    assert refusal is not None
    raise refusal


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
    values, segments = splits.observed[:, 0].numpy(), splits.segments.numpy()
    assert isinstance(splits.test, ForecastPart)
    seen = np.ones(len(values), dtype=np.bool_)
    seen[splits.test.starts.numpy() + splits.window] = False
    likely = likely_seasons(splits.step) if isinstance(splits.step, str) else ()
    calendar = {"quarter": 4, "month": 12, "hour": 24, "weekday": 7}
    likely += tuple(steps for name, steps in calendar.items() if name in {*roles.calendar})
    values, segments = values[seen], segments[seen]
    runs = sorted(runs_of(segments), key=lambda run: run.start - run.stop)[:SERIES_ASKED]
    found = [find_season(values[run], likely) for run in runs]
    lengths = [season.steps for season in found if season is not None]
    common = max(lengths, key=lengths.count, default=None)
    agreed = [one for one in found if one is not None and one.steps == common]
    if len(agreed) > SHARE_WANTED * len(runs):
        return agreed[0], None
    longest = values[runs[0]]
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


def _target_choice(targets: tuple[str, ...], roles: Roles, wanted: tuple[str, ...]) -> Choice:
    others = [repr(name) for name in roles.values if name not in targets]
    said = "Its name says so." if targets[0].casefold() in TARGETS else "The first of its columns."
    if wanted or not others:
        said = "As asked for." if wanted else "The only column of numbers."
    also = f" Others: {', '.join(others)}; a list forecasts several." if others else ""
    return Choice("target", targets[0] if len(targets) == 1 else list(targets), said + also)


def _features_choice(data: ForecastData, targets: tuple[str, ...], roles: Roles) -> Choice:
    seen = data.features or ()
    if seen != targets:
        why = "What the network sees. Leave the line out to show it the target alone."
        return Choice("features", list(seen), why)
    others = [name for name in roles.values if name not in targets]
    why = "The network sees the past of what it forecasts, and nothing else"
    why += f"; {len(others)} more columns could be named here." if others else "."
    return Choice("features", None, why, 'features = ["COLUMN", "COLUMN"]' if others else "")


def _time_choice(roles: Roles, timing: str) -> Choice:
    if roles.time is not None:
        why = f"{timing}. Left out, the rows would count as evenly spaced and in order."
        return Choice("time", roles.time, why[0].upper() + why[1:])
    why = "No column is the time by itself, so the rows count as evenly spaced and in order."
    if roles.calendar:
        why += f" {joining(roles.calendar)}."
    return Choice("time", None, why, 'time = "COLUMN"')


def _series_choice(roles: Roles, frame: pd.DataFrame) -> Choice:
    if roles.series is not None:
        count = frame[roles.series].nunique()
        why = f"It tells {count} series apart, in each of which a time occurs once."
        return Choice("series", roles.series, why)
    why = "One series. If a column tells several apart, name it:"
    return Choice("series", None, why, 'series = "COLUMN"')


def _window_choices(
    data: ForecastData, splits: ForecastSplits, season: Season | None
) -> Iterator[Choice]:
    sizes = f"{splits.train.size} examples to train on, {splits.valid.size} to validate with"
    sizes += f" and {splits.test.size} to test. A longer window shows more of the past and leaves "
    sizes += "fewer examples"
    if season is None:
        yield Choice("window", data.window, f"Rows that the network sees; so there are {sizes}.")
        why = "Rows ahead that it forecasts, all of them: 1 is only the next. More is harder."
        yield Choice("horizon", data.horizon, why)
        why = "No clear peak of the autocorrelation. If you know of a season, in rows:"
        yield Choice("season", None, why, "season = 12")
        return
    seasons = data.window / season.steps
    span = "one season" if seasons == 1 else f"{seasons:.2g} seasons"
    why = f"Rows that the network sees: {span}; so there are {sizes}."
    yield Choice("window", data.window, why)
    why = "Rows ahead that it forecasts, all of them: one season. 1 would be only the next row."
    if data.horizon == 1:
        why = "Rows ahead that it forecasts: only the next. A whole season would be the season."
    yield Choice("horizon", data.horizon, why)
    why = (
        f"Rows of a season: the autocorrelation is {season.strength:.2f} there. Only the seasonal "
        "baseline uses it; left out, there is none."
    )
    yield Choice("season", season.steps, why)


def _missing_choice(frame: pd.DataFrame, path: Path, data: ForecastData) -> Choice:
    used = tuple(dict.fromkeys((*(data.target or ()), *(data.features or ()))))
    count = int(_absent(frame, path, used).sum())
    if not count:
        why = 'No value is missing. If one were: "error", "interpolate" or "drop".'
        return Choice("missing", None, why, 'missing = "error"')
    other = "drop" if data.missing == "interpolate" else "interpolate"
    why = (
        f'{count} of {len(frame)} rows lack a value. "{other}" is the alternative: interpolation '
        "stays within a part; a dropped row leaves a gap that no window reaches over."
    )
    return Choice("missing", data.missing, why)
