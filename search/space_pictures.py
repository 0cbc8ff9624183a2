"""Pictures of the space that was searched, and of who searched it when."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.dimensions import Choices, Dimension, Fixed, Range, Value, kind_of
from search.entries import Clock, Entry, time_unit, trained_here
from search.importance import Importance
from search.pictures import (
    INK,
    LEGEND,
    PALE,
    VALIDATION,
    linear_ticks,
    log_ticks,
    new_figure,
    scale,
    to_png,
    undecorate,
)
from search.study_pictures import DENSITY, WIDTH
from search.trial import Outcome
from search.wording import cell

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEST_SHARE = 0.1
"""The share of the trials that is drawn dark."""
MOST_DARK = 40
"""Lines that are drawn dark at most; of more, none could be followed."""
FAINT = "#c4c4c4"
LONGEST_NAME = 24
"""So many letters of a hyperparameter's name fit beside its bar."""


def importance_picture(found: Sequence[Importance]) -> bytes:
    """Draws how much each hyperparameter matters, with its spread and what chance alone gives."""
    height = 75 + 30 * len(found)
    figure = new_figure(WIDTH, height, DENSITY)
    axes = figure.add_axes((0.19, 48 / height, 0.78, 1 - 84 / height))
    undecorate(axes)
    rows = np.arange(len(found))[::-1]
    low, middle, high = (
        np.array([getattr(one, k) for one in found]) for k in ("low", "middle", "high")
    )
    axes.hlines(rows, low, high, color=VALIDATION, linewidth=2.5)
    for mark, label in ((True, "above chance"), (False, "may be chance")):
        places = [i for i, one in enumerate(found) if one.matters is mark]
        if places:
            axes.plot(
                middle[places],
                rows[places],
                "o",
                color=VALIDATION,
                markerfacecolor=VALIDATION if mark else "white",
                markersize=8,
                label=f"median of the resamples, {label}",
            )
    chance = [one.chance for one in found]
    axes.plot(chance, rows, "|", color=INK, markersize=14, label="what chance alone reaches")
    scale(axes, "x", [0.0, *high, *chance], log=False)
    axes.set_yticks(rows, labels=[_brief(one.name) for one in found])
    axes.tick_params(axis="y", length=0, labelsize=10)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("importance, of which there is 1 in all")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.24, 1.0), **{**LEGEND, "ncols": 3})
    return to_png(figure)


def coordinates_picture(
    ranked: Sequence[tuple[Entry, float]], space: Mapping[str, Dimension]
) -> bytes:
    """Draws each trial as a line across its hyperparameters, the best tenth dark.

    Args:
        ranked: Trials and what they are ranked by, small is good; at least one.
        space: Of the study; something in it is searched.
    """
    from matplotlib.collections import LineCollection

    names = [name for name, dimension in space.items() if not isinstance(dimension, Fixed)]
    rows = [
        (rank, [_place(e.line.params[name], space[name], e.line.number) for name in names])
        for e, rank in sorted(ranked, key=lambda pair: -pair[1])
        if all(name in e.line.params for name in names)
    ]
    figure = new_figure(WIDTH, 400, DENSITY)
    axes = figure.add_axes((0.045, 0.16, 0.91, 0.76))
    sound = sum(math.isfinite(rank) for rank, _ in rows)
    best = min(max(1, round(BEST_SHARE * len(rows))), MOST_DARK, sound)
    rest = len(rows) - best
    # The worst first, so that the best lie on top.
    for part, colour, width in ((rows[:rest], FAINT, 0.6), (rows[rest:], VALIDATION, 1.3)):
        lines = [list(enumerate(heights)) for _, heights in part]
        alpha = min(1.0, 250 / max(len(part), 1)) if colour == FAINT else 0.85
        axes.add_collection(LineCollection(lines, colors=colour, linewidths=width, alpha=alpha))
    for place, name in enumerate(names):
        _axis(axes, place, name, space[name], place % 2 == 0 or len(names) < 8)
    axes.set_xlim(-0.3, max(len(names) - 0.5, 0.5))
    axes.set_ylim(-0.03, 1.03)
    axes.set_axis_off()
    said = f"dark: the best {best} of {len(rows)}; light: the rest, the diverged too"
    said = said if sound else "none of these is a good one"
    figure.text(0.99, 0.985, said, ha="right", va="top", fontsize=9, color=INK)
    return to_png(figure)


def _brief(name: str) -> str:
    """Returns a hyperparameter's name as it fits beside a bar."""
    words = name.replace("_", " ")
    return words if len(words) <= LONGEST_NAME else f"{words[: LONGEST_NAME - 1]}…"


def _place(value: Value, dimension: Dimension, number: int) -> float:
    """Returns where on its axis a value lies, from 0 to 1; choices are spread out a little."""
    if isinstance(dimension, Choices):
        step = 1 / max(len(dimension.values), 1)
        known = dimension.values.index(value) if value in dimension.values else 0
        spread = (number * 0.618034) % 1 - 0.5  # evenly, the same in every picture of the study
        return (known + 0.5 + 0.5 * spread) * step
    if isinstance(dimension, Range) and not isinstance(value, str):
        low, high, here = dimension.low, dimension.high, value
        if dimension.log:
            low, high, here = math.log(low), math.log(high), math.log(max(value, 1e-300))
        return min(max((here - low) / (high - low), 0.0), 1.0)
    return 0.5


def _axis(axes: Axes, place: int, name: str, dimension: Dimension, upper: bool) -> None:
    """Draws one vertical axis with its values and its name."""
    axes.plot([place, place], [0, 1], color=PALE, linewidth=0.8, zorder=3)
    words: dict[str, Any] = {"fontsize": 8, "color": INK, "va": "center", "zorder": 4}
    words["parse_math"] = False  # A choice of the user's may have a $ in it.
    words["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75}
    for height, label in _marks(name, dimension):
        axes.text(place + 0.04, height, label, **words)
    axes.text(
        place,
        -0.06 if upper else -0.12,
        _brief(name),
        ha="center",
        va="top",
        fontsize=9,
        color=INK,
    )


def _marks(name: str, dimension: Dimension) -> list[tuple[float, str]]:
    """Returns the values to write along an axis, with their heights."""
    if isinstance(dimension, Choices):
        step = 1 / len(dimension.values)
        return [((i + 0.5) * step, cell(value)) for i, value in enumerate(dimension.values)]
    if isinstance(dimension, Range):
        ticks = (log_ticks if dimension.log else linear_ticks)(dimension.low, dimension.high)
        whole = kind_of(name, dimension) is int
        inside = [tick for tick in ticks if not whole or tick == int(tick)]
        ends = [dimension.low, dimension.high]
        marks = sorted({*ends, *inside[:: max(1, len(inside) // 5)]})
        heights = [_place(mark, dimension, 0) for mark in marks]
        # Ticks that would run into an end of the axis are left out.
        return [
            (height, f"{mark:g}")
            for height, mark in zip(heights, marks, strict=True)
            if mark in ends or 0.06 < height < 0.94
        ]
    return []


BARS: dict[str, tuple[str, str]] = {
    Outcome.COMPLETE: (VALIDATION, ""),
    Outcome.PRUNED: ("#bcd3ea", ""),
    Outcome.DIVERGED: ("#e08a1e", "////"),
    Outcome.OUT_OF_MEMORY: ("#8c8c8c", "...."),
    Outcome.FAILED: ("#1b1b1b", ""),
}
"""Colour and hatching of each outcome."""


def timeline_picture(entries: Sequence[Entry], clock: Clock) -> bytes:
    """Draws which worker had which trial when; long pauses are cut out and marked.

    Args:
        entries: Of which those that are over and whose times are known are drawn; at least one.
        clock: Of these trials.
    """
    lanes = assign_lanes(entries)
    names = list(dict.fromkeys(lane for _, lane in lanes))
    height = 100 + 26 * len(names)
    figure = new_figure(WIDTH, height, DENSITY)
    axes = figure.add_axes((0.1, 50 / height, 0.885, 1 - 90 / height))
    undecorate(axes)
    end = max(clock.worked(entry.ended or 0.0) for entry, _ in lanes)
    size, unit = time_unit(end)
    _bars(axes, [(e, names.index(lane)) for e, lane in lanes], clock, size)
    for pause in clock.pauses:
        axes.axvline(clock.worked(pause[0]) / size, color=INK, linewidth=1, linestyle=":")
    scale(axes, "x", [0.0, end / size], log=False)
    axes.set_yticks(range(len(names)), labels=names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{unit} of work" + ("; dotted: a pause was cut out" if clock.pauses else ""))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.0), **{**LEGEND, "ncols": 5})
    return to_png(figure)


def _bars(axes: Axes, rows: Sequence[tuple[Entry, int]], clock: Clock, size: float) -> None:
    """Draws a bar for each trial in its row, by outcome."""
    for outcome, (colour, hatch) in BARS.items():
        bars = [
            (row, clock.worked(e.begun or 0.0) / size, clock.worked(e.ended or 0.0) / size)
            for e, row in rows
            if e.line.outcome == outcome
        ]
        if bars:
            heights, begun, ended = np.array(bars).T
            axes.barh(
                heights,
                ended - begun,
                left=begun,
                height=0.72,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.4 if len(rows) <= 300 else 0.0,
                label=f"{outcome} ({len(bars)})",
            )


def assign_lanes(entries: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Returns every trial that is over with the row that it is drawn in.

    Workers of several runs on one study may bear the same number; where their trials overlap, each
    has a row of its own.
    """
    known = trained_here(entries)
    free: dict[str, float] = {}
    found = []
    for entry in sorted(known, key=lambda e: (e.begun or 0.0, e.line.number)):
        worker = "unknown" if entry.worker is None else f"worker {entry.worker}"
        copy = 1
        lane = worker
        while free.get(lane, 0.0) > (entry.begun or 0.0) + 0.5:
            copy += 1
            lane = f"{worker}, {copy}"
        free[lane] = entry.ended or 0.0
        place = math.inf if entry.worker is None else entry.worker
        found.append(((place, copy), entry, lane))
    return [(entry, lane) for _, entry, lane in sorted(found, key=lambda row: row[0])]
