"""The picture of a data set: best loss so far against the time since the process was started."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from bench.race.contestants import CONTESTANTS
from bench.race.progress import median_curve, moments
from bench.race.store import Result
from bench.race.tables import curves

COLOURS = ("#0b3c7d", "#c0392b", "#e08a1e", "#2e8b57", "#7d3c98", "#777777")
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
"""As well as colours, for those who see few."""
TICKS = (2.0, 5.0, 10.0, 20.0, 50.0, 100.0)
SETTLED = 20.0
"""The axis holds all that there is after so many seconds; the first losses, which are far above,
would leave no room for the rest."""


def draw(data: str, by_contestant: dict[str, list[Result]], seconds: float, path: Path) -> None:
    """Writes a PNG: medians as lines, quartiles as areas, time on a logarithmic axis."""
    at = moments(seconds)
    figure = Figure((8.0, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown: list[float] = []
    for place, name in enumerate(CONTESTANTS):
        results = by_contestant.get(name)
        if not results:
            continue
        # What is infinite, before the first trial has ended, is not drawn.
        spread = np.array(median_curve(curves(results), at))
        spread[~np.isfinite(spread)] = np.nan
        low, middle, high = spread.T
        colour, style = COLOURS[place], STYLES[place]
        axes.plot(
            at, middle, color=colour, linestyle=style, label=name, drawstyle="steps-post", zorder=3
        )
        axes.fill_between(at, low, high, color=colour, alpha=0.15, step="post", linewidth=0)
        settled = spread[np.array(at) >= min(SETTLED, seconds / 2)]
        shown += [float(value) for value in settled[np.isfinite(settled)]]
    if shown:
        axes.set_ylim(min(shown) * 0.95, max(shown) * 1.1)
    scale(axes, seconds)
    seeds = sorted({len(results) for results in by_contestant.values()})
    count = f"{seeds[0]} to {seeds[-1]}" if len(seeds) > 1 else f"{seeds[0]}"
    axes.set_title(
        f"{data}: median and quartiles of {count} seed{'s' * (seeds[-1] > 1)}", loc="left"
    )
    figure.legend(frameon=False, loc="outside right upper")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)


def scale(axes: Axes, seconds: float) -> None:
    """Makes both axes logarithmic, with few ticks, and says what they show."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(TICKS[0], seconds)
    axes.set_xticks([tick for tick in TICKS if tick < seconds / 1.2] + [seconds])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    axes.tick_params("y", which="minor", labelsize=7)
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
    axes.set_xlabel("seconds since the process was started")
    axes.set_ylabel("best validation loss so far")
