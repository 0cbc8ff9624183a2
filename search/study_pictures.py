"""Pictures of a study: loss against learning rate, curves of examples, the best so far."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from search.entries import Clock, Entry, time_unit
from search.pictures import (
    INK,
    LEGEND,
    PALE,
    TRAINING,
    VALIDATION,
    finite,
    new_figure,
    scale,
    to_png,
    undecorate,
    upper_edge,
)
from search.space import LEARNING_RATES
from search.trial import Goal, Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

WIDTH, DENSITY = 880, 1.75
"""Of every picture in a report: page pixels, and how many of the picture make one of these."""
BIN = 3
"""Parts of a decade of learning rates; the best of each makes the line through the points."""
ON_TOP: dict[str, Any] = {
    "color": INK,
    "zorder": 5,
    "bbox": {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 1},
}
"""How words on top of points and lines stay readable."""
BENEATH: dict[str, Any] = {
    "color": INK,
    "zorder": 0.5,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 1},
}
"""How words beneath points, but on top of lines that are for reference, stay readable."""
LABEL, RADIUS = (0.17, 0.05), 0.012
"""Width and height of such words, and the radius of a point, as shares of the axes."""
CROWD = 300
"""More points than this are drawn small."""
CUT_SHORT = 0.75
"""How small trials are drawn that their peers ended early."""
FEWEST_POINTS = 12
"""Points without which there is no such line."""


@dataclass(frozen=True)
class Style:
    """How a finding is drawn; each differs from the others in its shape, not by colour alone."""

    marker: str
    colour: str
    filled: bool = True


STYLES: dict[str, Style] = {
    "healthy": Style("o", "#0b3c7d"),
    "still-falling": Style("v", "#2f7fc1"),
    "plateau": Style("s", "#6aa9d8"),
    "overfitting": Style("D", "#3b7a57"),
    "too-slow": Style("<", "#8a5a00", filled=False),
    "jumping": Style("X", "#e08a1e"),
    "diverging": Style("^", "#b3261e"),
    "stuck": Style("s", "#5b5b5b", filled=False),
    "undecided": Style("o", "#8c8c8c", filled=False),
    "": Style(".", "#8c8c8c"),
}
"""By finding; the last is for trials that have none."""


def rate_picture(
    entries: Sequence[Entry], marked: Mapping[int, str], constant: float | None = None
) -> bytes:
    """Draws the validation loss of every trial against its learning rate, on two logarithms.

    Args:
        entries: Those without a finite loss are drawn at the upper edge if they diverged.
        marked: Trials to point out, by number, and what they are.
        constant: The loss of the best prediction that ignores the inputs; None: not known.
    """
    figure = new_figure(WIDTH, 470, DENSITY)
    axes = figure.add_axes((0.08, 0.11, 0.9, 0.76))
    undecorate(axes)
    shown, top = _shown(entries)
    losses = [top if e.loss is None else min(max(e.loss, 1e-12), top) for e in shown]
    rates = [e.line.params["learning_rate"] for e in shown]
    scale(axes, "y", [*losses, *([constant] if constant else [])], log=True)
    scale(axes, "x", [*rates, *LEARNING_RATES], log=True)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("validation loss at the best epoch")
    _reference_lines(axes, constant, rates, losses)
    _scatter(axes, shown, rates, losses)
    if has_envelope(entries):
        inside = [e for e in shown if _is_inside(e, top)]
        _envelope(axes, [(e.line.params["learning_rate"], e.loss) for e in inside])
    places = {e.line.number: (x, y) for e, x, y in zip(shown, rates, losses, strict=True)}
    told = [number for number in marked if number in places]
    # One above the other, should both be at the same place; the lower is written lower.
    told.sort(key=lambda number: -places[number][1])
    for below, number in enumerate(told):
        axes.plot(*places[number], "o", markersize=13, fillstyle="none", color=INK)
        offset = 11, -4 if len(told) == 1 else 9 - 15 * below
        said = f"{marked[number]}: #{number}"
        axes.annotate(said, places[number], offset, textcoords="offset points", **ON_TOP)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), **{**LEGEND, "ncols": 5})
    return to_png(figure)


def _reference_lines(
    axes: Axes, constant: float | None, rates: Sequence[float], losses: Sequence[float]
) -> None:
    axes.axvline(0.01, color=PALE, linewidth=0.9, linestyle="--", zorder=0)
    across = axes.get_xaxis_transform()
    beside: dict[str, Any] = {"textcoords": "offset points", "va": "top", **BENEATH}
    axes.annotate("0.01", (0.01, 0.985), (4, 0), across, **beside)
    if constant:
        axes.axhline(constant, color=PALE, linewidth=0.9, linestyle=":", zorder=0)
        ends = axes.transData + axes.transAxes.inverted()
        points = ends.transform([*zip([*rates, 0.01], [*losses, constant], strict=True)])
        side, level = _emptiest(points[:-1], *points[-1])
        axes.text(
            0.995 if side == "right" else 0.005,
            constant,
            "ignoring the inputs",
            fontsize=9,
            ha=side,
            va=level,
            transform=axes.get_yaxis_transform(),
            **BENEATH,
        )


def _emptiest(points: NDArray[np.float64], marked: float, height: float) -> tuple[str, str]:
    """Returns the end of a line, and the side of it, where a label hides the fewest points.

    Args:
        points: Across and up, as shares of the axes.
        marked: Where an upright line stands that is not to be written over.
        height: Of the line.
    """
    wide, high = LABEL
    found = {}
    for side, left in (("right", 1 - wide), ("left", 0.0)):
        for level, low in (("bottom", height), ("top", height - high)):
            corner = left - RADIUS, low - RADIUS
            inside = (points >= corner) & (points <= (left + wide, low + high + RADIUS))
            beyond = low < 0 or low + high > 1.03 or left <= marked <= left + wide
            found[side, level] = (beyond, int(inside.all(axis=1).sum()))
    return min(found, key=lambda place: found[place])


def _scatter(
    axes: Axes, shown: Sequence[Entry], rates: Sequence[float], losses: Sequence[float]
) -> None:
    """Draws the points, small ones of trials that their peers ended."""
    small = 6 if len(shown) <= CROWD else 3.5
    for (name, style), cut in itertools.product(STYLES.items(), (True, False)):
        found = [i for i, entry in enumerate(shown) if entry.finding == name]
        places = [i for i in found if cut == (shown[i].line.outcome == Outcome.PRUNED)]
        # Those that their peers ended are in the legend only where there are no others.
        if places:
            axes.plot(
                [rates[i] for i in places],
                [losses[i] for i in places],
                style.marker,
                label="_"
                if cut and len(places) < len(found)
                else f"{name or 'not recorded'} ({len(found)})",
                color=style.colour,
                markersize=CUT_SHORT * small if cut else small,
                markerfacecolor=style.colour if style.filled else "white",
                markeredgewidth=0.8,
                markeredgecolor=style.colour
                if style.marker == "X" or not style.filled
                else "white",
                alpha=0.9 if len(shown) <= CROWD else 0.6,
                clip_on=False,
            )


def _shown(entries: Sequence[Entry]) -> tuple[list[Entry], float]:
    """Returns the trials that `rate_picture` draws, and the loss at its upper edge."""
    shown = [e for e in entries if e.loss is not None or e.line.outcome == Outcome.DIVERGED]
    broken = [e.line.outcome == Outcome.DIVERGED for e in shown]
    return shown, upper_edge([e.loss for e in shown], broken)


def has_envelope(entries: Sequence[Entry]) -> bool:
    """Says whether `rate_picture` has enough good trials to draw a line through the best."""
    shown, top = _shown(entries)
    return sum(_is_inside(entry, top) for entry in shown) >= FEWEST_POINTS


def _is_inside(entry: Entry, top: float) -> bool:
    ended_early = entry.line.outcome in (Outcome.DIVERGED, Outcome.PRUNED)
    return entry.loss is not None and entry.loss <= top and not ended_early


def _envelope(axes: Axes, points: Sequence[tuple[float, float | None]]) -> None:
    """Draws a line through the best trial of each third of a decade: the blackboard's curve."""
    best: dict[int, tuple[float, float]] = {}
    for rate, loss in points:
        place = math.floor(BIN * math.log10(rate))
        if loss is not None and (place not in best or loss < best[place][1]):
            best[place] = (rate, loss)
    line = [best[place] for place in sorted(best)]
    above, said = 1 if len(points) <= CROWD else 3, "best of each third of a decade"
    axes.plot(*zip(*line, strict=True), color=INK, linewidth=1.1, zorder=above, label=said)


def curves_picture(chosen: Sequence[tuple[str, Entry]], metric: str) -> bytes:
    """Draws training and validation losses of a few trials, each in a panel of its own.

    Args:
        chosen: What each is an example of, and the trial; at least one.
        metric: The searched figure, by which the best epoch is the best.
    """
    columns = min(3, len(chosen))
    rows = -(-len(chosen) // columns)
    figure = new_figure(WIDTH, 60 + 215 * rows, DENSITY)
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(
        0.06, 50 / (60 + 215 * rows), 0.985, 1 - 62 / (60 + 215 * rows), 0.22, 0.55
    )
    for axes in grid.flat[len(chosen) :]:
        axes.set_visible(False)
    for axes, (title, entry) in zip(grid.flat, chosen, strict=False):
        _panel(axes, entry)
        axes.set_title(f"{title}: #{entry.line.number}", loc="left", fontsize=10, color=INK)
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper left", **LEGEND)
    figure.text(
        0.985, 0.99, f"dotted: epoch of the best {metric}", va="top", ha="right", fontsize=9
    )
    figure.text(0.5, 0.01, "epoch", ha="center")
    return to_png(figure)


def _panel(axes: Axes, entry: Entry) -> None:
    undecorate(axes)
    parts = [finite(entry.line.curve.get(part, [])) for part in ("train", "valid")]
    count = max(*map(len, parts), 1)
    dots = {"markersize": 2.5} if count <= 60 else {"marker": ""}
    words: list[tuple[str, str, str]] = [
        ("s--", TRAINING, "training loss"),
        ("o-", VALIDATION, "validation loss"),
    ]
    for losses, (style, colour, label) in zip(parts, words, strict=True):
        drawn: dict[str, Any] = {"color": colour, "label": label, "linewidth": 1.3, **dots}
        axes.plot(range(1, len(losses) + 1), losses, style, **drawn)
    scale(axes, "y", [loss for part in parts for loss in part if math.isfinite(loss)])
    scale(axes, "x", [1, count], log=False, whole=True)
    if entry.line.epoch is not None:
        axes.axvline(entry.line.epoch, color=PALE, linewidth=0.9, linestyle=":", zorder=0)


def progress_picture(entries: Sequence[Entry], goal: Goal, clock: Clock) -> bytes:
    """Draws the best value so far, over trials and over the time that was worked.

    Args:
        entries: Of which the complete ones count; at least one.
        goal: What is searched for.
        clock: Of these trials.
    """
    complete = [e for e in entries if e.line.value is not None]
    figure = new_figure(WIDTH, 330, DENSITY)
    left, right = figure.subplots(1, 2, sharey=True)
    figure.subplots_adjust(0.08, 0.15, 0.985, 0.89, 0.06)
    numbers = [(float(e.line.number), e.line.value or 0.0) for e in complete]
    longest = max((clock.worked(e.ended) for e in entries if e.ended is not None), default=0.0)
    size, unit = time_unit(longest)
    moments = sorted(
        (clock.worked(e.ended) / size, e.line.value or 0.0) for e in complete if e.ended is not None
    )
    ends = max((e.line.number for e in entries), default=0), longest / size
    words = "trial", f"{unit} of work"
    for axes, points, end, word in zip((left, right), (numbers, moments), ends, words, strict=True):
        undecorate(axes)
        drawn = {"markersize": 3.5} if len(points) <= CROWD else {"markersize": 1.5, "alpha": 0.6}
        axes.plot(*zip(*points, strict=True), "o", color=PALE, label="complete trial", **drawn)
        steps = _steps(points, goal, end)
        axes.plot(*steps, "-", color=VALIDATION, linewidth=1.8, label="best so far")
        scale(axes, "y", [value for _, value in numbers])
        counted = word == "trial"
        scale(axes, "x", [0.0, max(end, 1.0 if counted else 0.0)], log=False, whole=counted)
        axes.set_xlabel(word)
    left.set_ylabel(goal.metric.replace("_", " "))
    figure.legend(*left.get_legend_handles_labels(), loc="upper left", markerscale=1.3, **LEGEND)
    right.tick_params(labelleft=False)
    return to_png(figure)


def _steps(
    points: Sequence[tuple[float, float]], goal: Goal, end: float
) -> tuple[list[float], list[float]]:
    """Returns the corners of the best so far, up to the end."""
    across: list[float] = []
    up: list[float] = []
    for place, value in points:
        if not up or goal.better(value, up[-1]):
            across += [place, place] if up else [place]
            up += [up[-1], value] if up else [value]
    return [*across, max(end, across[-1])], [*up, up[-1]]


def choose_examples(entries: Sequence[Entry], marked: Mapping[int, str]) -> list[tuple[str, Entry]]:
    """Returns the marked trials and, of each finding, the other one with the longest curve."""
    chosen = [(marked[e.line.number], e) for e in entries if e.line.number in marked]
    by_finding: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.line.number not in marked and entry.line.curve.get("valid"):
            by_finding[entry.finding].append(entry)
    for name in STYLES:
        if name and by_finding[name]:
            # Those that their peers ended are counted for few findings.
            whole = [one for one in by_finding[name] if one.line.outcome != Outcome.PRUNED]
            longest = max(whole or by_finding[name], key=lambda entry: entry.line.epochs)
            chosen.append((name, longest))
    return chosen
