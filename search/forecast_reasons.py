"""The keys of ``[data]`` of a forecast, each with the reason that a study file gives for it.

Shapes: L rows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.choices import Choice
from search.config import ForecastData
from search.data.roles import TARGETS, Roles
from search.data.rows import joining
from search.data.season import Season
from search.data.windows import ForecastSplits
from search.errors import DataError

Refused = dict[tuple[str, ...], DataError]
"""What was said against features when they were tried first, by their names."""


def target_choice(targets: tuple[str, ...], roles: Roles, wanted: tuple[str, ...]) -> Choice:
    """Says what is forecast, and what else could be."""
    others = [repr(name) for name in roles.values if name not in targets]
    said = "Its name says so." if targets[0].casefold() in TARGETS else "The first of its columns."
    if wanted or not others:
        said = "As asked for." if wanted else "The only column of numbers."
    also = f" Others: {', '.join(others)}; a list forecasts several." if others else ""
    return Choice("target", targets[0] if len(targets) == 1 else list(targets), said + also)


def features_choice(
    data: ForecastData, targets: tuple[str, ...], roles: Roles, refused: Refused
) -> Choice:
    """Says what the network sees, and why not more."""
    seen = data.features or ()
    if seen != targets:
        why = "What the network sees. Leave the line out to show it the target alone."
        return Choice("features", list(seen), why)
    others = [name for name in roles.values if name not in targets]
    why = "The network sees the past of what it forecasts, and nothing else"
    against = next((error for features, error in refused.items() if features != targets), None)
    if against is not None:
        why += f". With the other columns, the file was refused: {_cause(against, data)}."
    else:
        why += f"; {len(others)} more columns could be named here." if others else "."
    example = 'features = ["COLUMN", "COLUMN"]' if others and against is None else ""
    return Choice("features", None, why, example)


def time_choice(roles: Roles, timing: str) -> Choice:
    """Says which column is the time; ``timing`` is what its stamps are like."""
    if roles.time is not None:
        why = f"{timing}. Left out, the rows would count as evenly spaced and in order."
        return Choice("time", roles.time, why[0].upper() + why[1:])
    why = "No column is the time by itself, so the rows count as evenly spaced and in order."
    if roles.calendar:
        why += f" {joining(roles.calendar)}."
    return Choice("time", None, why, 'time = "COLUMN"')


def series_choice(roles: Roles, frame: pd.DataFrame) -> Choice:
    """Says which column tells several series apart."""
    if roles.series is not None:
        count = frame[roles.series].nunique()
        why = f"It tells {count} series apart, in each of which a time occurs once."
        return Choice("series", roles.series, why)
    why = "One series. If a column tells several apart, name it:"
    return Choice("series", None, why, 'series = "COLUMN"')


def window_choices(
    data: ForecastData, splits: ForecastSplits, season: Season | None
) -> Iterator[Choice]:
    """Says how far the network looks back and ahead, and whether there is a season."""
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
        "baseline uses it, and tries a week beside a day; left out, there is none."
    )
    yield Choice("season", season.steps, why)


def missing_choice(absent: NDArray[np.bool_], data: ForecastData, refused: Refused) -> Choice:
    """Says what becomes of rows that lack a value, (L,) as ``absent`` has it."""
    if not absent.any():
        why = 'No value is missing. If one were: "error", "interpolate" or "drop".'
        return Choice("missing", None, why, 'missing = "error"')
    why = (
        '"drop" is the alternative: interpolation stays within a part; a dropped row leaves a gap '
        "that no window reaches over."
    )
    against = refused.get(data.features or ())
    if data.missing == "drop" and against is not None:
        why = "Dropped, each leaves a gap that no window reaches over; "
        why += f'"interpolate" was refused: {_cause(against, data)}.'
    why = f"{int(absent.sum())} of {len(absent)} rows lack a value. {why}"
    return Choice("missing", data.missing, why)


def _cause(error: DataError, data: ForecastData) -> str:
    """Returns an error without the file, which the study names, and the remedies."""
    return str(error).removeprefix(f"{data.path}: ").partition("; ")[0]
