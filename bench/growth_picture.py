"""The picture of how cost grows: time over work, in units of one point, a panel for each letter.

Shapes: as in `bench.growth`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from search.pictures import INK, PALE, log_ticks, new_figure, to_png, undecorate

WIDTH, HEIGHT = 1050, 640
ACROSS = 3
STYLES = {
    "rnn": {"color": "#e08a1e", "linestyle": "--", "marker": "s"},
    "gru": {"color": "#2a8a57", "linestyle": "-.", "marker": "^"},
    "lstm": {"color": "#0b3c7d", "linestyle": "-", "marker": "o"},
    "ours": {"color": "#0b3c7d", "linestyle": "-", "marker": "o"},
    "plain Optuna": {"color": "#e08a1e", "linestyle": "--", "marker": "s"},
}
"""Lines and markers as well as colours, whose darkness differs too."""
CLOSEST = 0.07
"""Names at the ends of lines are no closer, as a share of the axis."""

Trials = Mapping[str, Mapping[int, float]]
"""Milliseconds that a trial costs, by number of trials, by whose they are."""


@dataclass(frozen=True)
class Sweep:
    """What one letter did.

    Attributes:
        letter: Its name.
        about: What it stands for.
        values: Its values.
        base: Which of them everything is compared with.
        by_cell: Works and seconds of each value, by cell.
    """

    letter: str
    about: str
    values: Sequence[int]
    base: int
    by_cell: Mapping[str, tuple[Sequence[float], Sequence[float]]]


def draw(sweeps: Sequence[Sweep], trials: Trials) -> bytes:
    """Returns a PNG with a panel for each sweep, and one for the number of trials."""
    figure = new_figure(WIDTH, HEIGHT)
    down = -(-(len(sweeps) + 1) // ACROSS)
    panels = figure.subplots(down, ACROSS, squeeze=False).flat
    figure.subplots_adjust(0.055, 0.09, 0.965, 0.93, wspace=0.28, hspace=0.42)
    for axes in panels[len(sweeps) + 1 :]:
        axes.set_visible(False)
    for axes, sweep in zip(panels, sweeps, strict=False):
        _draw_sweep(axes, sweep)
    _draw_trials(panels[len(sweeps)], trials)
    return to_png(figure)


def _draw_sweep(axes: Axes, sweep: Sweep) -> None:
    """Draws time over work; the ticks below are the letter's values, where their work is."""
    lines = {
        cell: [[one / each[sweep.base] for one in each] for each in both]
        for cell, both in sweep.by_cell.items()
    }
    places = next(iter(lines.values()))[0]
    heights = [height for _, seconds in lines.values() for height in seconds]
    ends = [places[0], places[-1]]
    base = f"{sweep.letter} {sweep.values[sweep.base]}"
    axes.set_title(f"time of an epoch; at {base}: 1", loc="left", fontsize=10, color=INK)
    _scale(axes, [*heights, *ends])
    axes.set_xscale("log")
    axes.set_xlim(ends[0] * 0.8, ends[1] * (ends[1] / ends[0]) ** 0.16)
    axes.set_xticks(places, [str(value) for value in sweep.values])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.plot(ends, ends, color=PALE, linewidth=1.0, linestyle=":", zorder=1)
    _draw_lines(axes, lines, {"as work": ends[1]})
    axes.set_xlabel(f"{sweep.about}, placed by their work", fontsize=9)


def _draw_trials(axes: Axes, trials: Trials) -> None:
    """Draws what a trial costs outside training over how many there are already."""
    base = trials["ours"][0]
    counts = sorted(trials["ours"])
    places = [float(place) for place in range(len(counts))]
    lines = {
        name: [places, [costs[count] / base for count in counts]] for name, costs in trials.items()
    }
    title = "a trial's time outside training; ours at 0: 1"
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    _scale(axes, [height for _, heights in lines.values() for height in heights])
    axes.set_xlim(-0.15, places[-1] + 0.7)
    axes.set_xticks(places, [f"{count:,}".replace(",", " ") for count in counts])
    _draw_lines(axes, lines, {})
    axes.set_xlabel("trials in the study", fontsize=9)


def _scale(axes: Axes, heights: Sequence[float]) -> None:
    """Makes the vertical axis logarithmic about these heights."""
    undecorate(axes)
    low, high = min(heights) / 1.25, max(heights) * 1.25
    axes.set_yscale("log")
    axes.set_ylim(low, high)
    ticks = log_ticks(low, high)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.yaxis.set_minor_locator(NullLocator())


def _draw_lines(
    axes: Axes, lines: Mapping[str, Sequence[Sequence[float]]], others: Mapping[str, float]
) -> None:
    """Draws lines with their names at their ends.

    Args:
        axes: Where.
        lines: Places and heights by name.
        others: Heights at which another name is wanted, in grey.
    """
    for name, (places, heights) in lines.items():
        (line,) = axes.plot(places, heights, linewidth=1.5, markersize=4, zorder=3)
        line.set(**STYLES[name])
    last = max(places[-1] for places, _ in lines.values())
    ends = {name: heights[-1] for name, (_, heights) in lines.items()} | dict(others)
    low, high = (math.log(limit) for limit in axes.get_ylim())
    for name, height in apart(ends, CLOSEST * (high - low)).items():
        colour = STYLES[name]["color"] if name in STYLES else PALE
        axes.annotate(
            name,
            (last, height),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            color=colour,
        )


def apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
    """Returns the heights, moved apart until their logarithms differ by the gap at least."""
    order = sorted(heights, key=lambda name: heights[name])
    logs = [math.log(heights[name]) for name in order]
    # Each pair that is too close moves apart by what is missing, half each, until none is.
    for _ in range(100):
        for at in range(len(logs) - 1):
            missing = gap - (logs[at + 1] - logs[at])
            if missing > 0:
                logs[at] -= missing / 2
                logs[at + 1] += missing / 2
    return {name: math.exp(one) for name, one in zip(order, logs, strict=True)}
