"""The picture of a range test: smoothed loss against learning rate, one panel an optimizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from search.dimensions import CELLS
from search.lr_range import HIGHEST, LOWEST, Sweep
from search.pictures import INK, LEGEND, PALE, new_figure, scale, set_title, to_png, undecorate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STROKES = dict(zip(CELLS, (("#e08a1e", ":"), ("#0b3c7d", "-"), ("#4f9d69", "--")), strict=True))
"""Colour and dashes of each cell; either alone tells them apart."""
WIDTH, HEIGHT = 470, 300
"""Pixels of a panel."""
NARROWEST = 700
"""Pixels of a picture, for title, legend and key have their own lines across all of it."""
ABOVE, BELOW = 56, 24
"""Pixels of title and legend, and of the key."""
KEY = "grey: suggested range; dotted: 0.01; dash-dotted: best prediction without inputs"
HEADROOM = 0.5
"""How far above its start a loss is shown, in shares of how far it fell."""


def range_picture(
    sweeps: Sequence[Sweep], suggested: tuple[float, float] | None, constant: float, title: str
) -> bytes:
    """Draws every test; the suggested range is shaded.

    Args:
        sweeps: At least one.
        suggested: The rates worth searching; None: there are none.
        constant: Loss of the best prediction that ignores the inputs.
        title: At the top.

    Returns:
        A PNG.
    """
    optimizers = list(dict.fromkeys(one.optimizer for one in sweeps))
    columns = min(2, len(optimizers))
    rows = -(-len(optimizers) // columns)
    height = HEIGHT * rows + ABOVE + BELOW
    figure = new_figure(max(NARROWEST, WIDTH * columns), height)
    panels = list(figure.subplots(rows, columns, squeeze=False, sharey=True).flat)
    shown = [value for one in sweeps for value in _within(one)]
    for panel, optimizer in zip(panels, optimizers, strict=False):
        _prepare(panel, optimizer, suggested, constant)
        for one in sweeps:
            if one.optimizer == optimizer:
                _draw(panel, one)
        scale(panel, "x", [LOWEST, HIGHEST], log=True)
        panel.tick_params(axis="x", labelsize=8)
        scale(panel, "y", [*shown, constant], log=False)
    for panel in panels[len(optimizers) :]:
        panel.set_visible(False)
    figure.axes[0].set_ylabel("training loss, smoothed", fontsize=9)
    _explain(figure, title, height)
    figure.tight_layout(rect=(0, BELOW / height, 1, 1 - ABOVE / height))
    return to_png(figure)


def _explain(figure: Figure, title: str, height: int) -> None:
    """Puts title and legend above the panels, and the key below them."""
    known = zip(*figure.axes[0].get_legend_handles_labels(), strict=True)
    handles = zip(*sorted(known, key=lambda pair: pair[1] not in CELLS), strict=True)
    words: dict[str, Any] = {"color": INK, "parse_math": False}
    line = figure.text(0.015, 1 - 6 / height, "", va="top", **words)
    set_title(line, f"Range test of {title}")
    second = 0.005, 1 - 26 / height
    figure.legend(*handles, loc="upper left", bbox_to_anchor=second, **{**LEGEND, "ncols": 5})
    figure.text(0.015, 6 / height, KEY, fontsize=8, **words)


def _prepare(
    panel: Axes, title: str, suggested: tuple[float, float] | None, constant: float
) -> None:
    undecorate(panel)
    panel.set_title(title, loc="left", fontsize=10, color=INK)
    panel.set_xlabel("learning rate", fontsize=9)
    if suggested is not None:
        panel.axvspan(*suggested, color="#ececec", zorder=0)
    panel.axhline(constant, color=PALE, linewidth=0.9, linestyle="-.", zorder=1)
    panel.axvline(0.01, color=PALE, linewidth=0.9, linestyle=":", zorder=1)


def _within(one: Sweep) -> list[float]:
    """Returns the smoothed losses up to a little above the start; what is higher blew up."""
    top = one.start + HEADROOM * (one.start - min(one.smoothed)) + 0.02 * abs(one.start)
    return [value for value in one.smoothed if value <= top]


def _draw(panel: Axes, one: Sweep) -> None:
    colour, dashes = STROKES[one.cell]
    (line,) = panel.plot(one.rates[: len(one.smoothed)], one.smoothed, dashes, label=one.cell)
    line.set(color=colour, linewidth=1.6)
    for rate, marker in ((one.steepest, "v"), (one.divergence, "X")):
        if rate is not None:
            at = min(one.rates.index(rate), len(one.smoothed) - 1)
            height = min(one.smoothed[at], max(_within(one)))
            label = {"v": "steepest", "X": "diverges"}[marker]
            known = panel.get_legend_handles_labels()[1]
            panel.plot(
                rate,
                height if math.isfinite(height) else one.start,
                marker,
                color=colour,
                markersize=6,
                label="_" if label in known else label,
            )
