"""Pictures: what all of them share, and the losses of a trial, epoch by epoch, as a PNG.

matplotlib draws without a display, a browser or a network. It takes half a second to import, so
that happens when the first picture is drawn. Nothing here touches pyplot, whose state is global.
"""

from __future__ import annotations

import io
import math
import threading
import warnings
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

# Letters that the font lacks are drawn as boxes; a person need not be told.
warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)

INK, PALE = "#1b1b1b", "#8c8c8c"
TRAINING, VALIDATION = "#e08a1e", "#0b3c7d"
"""Light and dark: they differ in greyscale too."""
DPI = 100
COLOURS = 64
"""In a PNG's palette: a quarter of the bytes of full colour, and no difference to be seen."""
DECADES = 1.0
"""Positive values that span as many decades are drawn on a logarithmic axis."""
MARKERS = 60
"""Curves of more points are drawn without markers."""
LARGEST_LOSS = 30.0
"""Losses above so many times the median are drawn at the upper edge, or nothing could be seen."""
ABOVE = 0.15
"""How far above the largest loss those without one lie, as a share of a logarithmic axis."""
LONGEST_TITLE = 200
"""Characters of a title that are looked at: more than ever have room on one line."""
LEGEND: dict[str, Any] = {
    "frameon": False,
    "fontsize": 9,
    "ncols": 2,
    "handlelength": 1.8,
    "columnspacing": 1.2,
}


def curve_picture(
    train: Sequence[float | None],
    valid: Sequence[float | None],
    *,
    metric: str = "loss",
    best_epoch: int | None = None,
    title: str = "",
) -> bytes:
    """Draws the training and the validation loss of every epoch of a trial.

    Args:
        train: Training loss by epoch; None or not finite: there is none.
        valid: Validation loss by epoch, likewise.
        metric: The searched figure, by which ``best_epoch`` is the best.
        best_epoch: From 1; None: no epoch is.
        title: Any text; nothing in it is taken for a formula.

    Returns:
        A PNG of 640 x 360 pixels.
    """
    with _DRAWING:
        canvas, known = _canvas(), [finite(train), finite(valid)]
        canvas.show(*known)
        canvas.explain(metric, best_epoch, _first_gap(*known), title)
        return to_png(canvas.figure)


class _CurveCanvas:
    """A figure for one curve after the other: to make axes anew would take half of the time."""

    def __init__(self) -> None:
        self.figure = new_figure(640, 360)
        self.axes = axes = self.figure.add_axes((0.1, 0.13, 0.87, 0.73))
        undecorate(axes)
        axes.set_xlabel("epoch")
        (self.train,) = axes.plot([], [], "s--", color=TRAINING, label="training loss")
        (self.valid,) = axes.plot([], [], "o-", color=VALIDATION, label="validation loss")
        for line in (self.train, self.valid):
            line.set(markersize=3.5, linewidth=1.6)
        self.line = axes.axvline(1, color=PALE, linewidth=0.9, linestyle=":", zorder=0)
        self.note = self.figure.text(0.97, 0.9, "", color=INK, fontsize=9, ha="right")
        self.title = self.figure.text(0.015, 0.985, "", color=INK, va="top", parse_math=False)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1, **LEGEND)

    def show(self, train: list[float], valid: list[float]) -> None:
        """Puts a curve on the axes; NaN leaves a gap."""
        count = max(len(train), len(valid), 1)
        for line, values, marker in ((self.train, train, "s"), (self.valid, valid, "o")):
            line.set_data(range(1, len(values) + 1), values)
            line.set_marker(marker if count <= MARKERS else "")
        scale(self.axes, "y", [value for value in (*train, *valid) if math.isfinite(value)])
        scale(self.axes, "x", [1, count], log=False, whole=True)

    def explain(self, metric: str, best_epoch: int | None, broken: int | None, title: str) -> None:
        """Puts words on the picture, and marks the best epoch.

        Args:
            metric: The searched figure.
            best_epoch: The best one; None: there is none.
            broken: The first that had no finite loss; None: there is none.
            title: At the top.
        """
        set_title(self.title, title)
        self.line.set_visible(best_epoch is not None)
        self.line.set_xdata([best_epoch or 1] * 2)
        said = (
            [] if best_epoch is None else [f"best {metric.replace('_', ' ')}: epoch {best_epoch}"]
        )
        if broken is not None:
            said.append(f"not finite from {'' if said else 'epoch '}{broken} on")
        drawn = np.size(self.valid.get_xdata()) > 0
        self.note.set_text("; ".join(said) if drawn else "no epoch was finished")


_DRAWING = threading.Lock()
"""There is one canvas for all curves; one thread at a time draws on it."""


def _first_gap(train: list[float], valid: list[float]) -> int | None:
    """Returns the first epoch, from 1, with a loss that is not finite."""
    pairs = enumerate(zip(train, valid, strict=False), start=1)
    return next((i for i, losses in pairs if any(map(math.isnan, losses))), None)


@cache
def _canvas() -> _CurveCanvas:
    return _CurveCanvas()


def new_figure(width: int, height: int, density: float = 1.0) -> Figure:
    """Returns an empty figure that can be drawn on without a display.

    Args:
        width: In pixels as a page counts them.
        height: Likewise.
        density: How many pixels of the picture make one of these.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = width / DPI, height / DPI
    figure = Figure(figsize=size, dpi=density * DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def to_png(figure: Figure) -> bytes:
    """Draws a figure of `new_figure`, with a palette instead of full colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = figure.canvas
    if not isinstance(canvas, FigureCanvasAgg):
        raise TypeError("the figure was not made by new_figure")
    canvas.draw()  # type: ignore[no-untyped-call]
    size, pixels = canvas.get_width_height(), canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    image = Image.frombuffer("RGBA", size, pixels).convert("RGB")
    drawn = image.quantize(COLOURS, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    # Its averages miss pure white by a little, and the picture would stand out from its page.
    drawn.putpalette([255 if part >= 250 else part for part in drawn.getpalette() or []])
    file = io.BytesIO()
    drawn.save(file, "PNG")
    return file.getvalue()


def set_title(text: Text, title: str) -> None:
    """Sets as much of a title as has room on one line across its figure."""
    words = " ".join(title.split())[:LONGEST_TITLE]
    text.set_text(words)
    figure = text.get_figure(root=True)
    assert figure is not None
    room = 0.97 * figure.bbox.width
    kept = len(words)
    while kept and text.get_window_extent().width > room:
        kept = int(0.95 * kept)
        text.set_text(f"{words[:kept]}…")


def undecorate(axes: Axes) -> None:
    """Leaves of the frame what can be read off: the lower and the left side."""
    from matplotlib.ticker import NullLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(PALE)
    axes.tick_params(colors=INK, labelsize=9, color=PALE)
    axes.set_axisbelow(True)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())


def scale(
    axes: Axes,
    letter: str,
    values: Iterable[float],
    *,
    log: bool | None = None,
    whole: bool = False,
) -> None:
    """Sets an axis so that it shows all values, with few ticks at round numbers.

    Args:
        axes: Whose axis.
        letter: ``"x"`` or ``"y"``.
        values: Finite; none: the axis is empty.
        log: None: where positive values span `DECADES`.
        whole: Ticks only at whole numbers.
    """
    from matplotlib.ticker import NullLocator

    known = list(values)
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if log is None:
        log = low > 0 and math.log10(high) - math.log10(low) >= DECADES
    low, high = _margins(low, high, log)
    ticks = (log_ticks if log else linear_ticks)(low, high)
    if whole:
        ticks = [tick for tick in ticks if tick == int(tick)]
    across = letter == "x"
    (axes.set_xscale if across else axes.set_yscale)("log" if log else "linear")
    (axes.set_xlim if across else axes.set_ylim)(low, high)
    axis = axes.xaxis if across else axes.yaxis
    axis.set_ticks(ticks if known else [], labels=[_label(tick) for tick in ticks if known])
    axis.set_minor_locator(NullLocator())


def _margins(low: float, high: float, log: bool) -> tuple[float, float]:
    """Widens a range by a little, so that nothing lies on the frame."""
    if log:
        ends = math.log10(low), math.log10(high)
        margin = 0.04 * max(ends[1] - ends[0], 0.3)
        return float(10 ** max(ends[0] - margin, -300)), float(10 ** min(ends[1] + margin, 300))
    margin = 0.04 * (high - low) or 0.5 * abs(high) or 0.5
    return low - margin, high + margin


def upper_edge(losses: Sequence[float | None], diverged: Sequence[bool]) -> float:
    """Returns the largest loss to be drawn as it is; what is above, or None, lies at this edge.

    Args:
        losses: The loss of every trial.
        diverged: Whether it diverged: such trials may have any loss.
    """
    known = [loss for loss in losses if loss is not None and loss > 0]
    pairs = zip(losses, diverged, strict=True)
    judged = [loss for loss, broken in pairs if loss is not None and loss > 0 and not broken]
    edge = LARGEST_LOSS * float(np.median(judged or [min(known, default=1.0)]))
    if not known:
        return edge
    # Those without a loss lie above the others, but not so far that these are all alike.
    room = 1.0 if len(known) == len(losses) else max(1.05, (max(known) / min(known)) ** ABOVE)
    return min(edge, room * max(known))


def log_ticks(low: float, high: float) -> list[float]:
    """Returns powers of ten between two numbers; where these are few, round numbers between too."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    powers = range(first, last + 1, max(1, -(-(last - first) // 10)))
    # 1, 2, 3 to 9 would be printed over one another: 8 and 9 are a twentieth of a decade apart.
    for steps, enough in (((1,), 4), ((1, 2, 5), 3), ((1, 1.5, 2, 3, 5, 7), 3)):
        ticks = [float(f"{step}e{power}") for power in powers for step in steps]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= enough:
            return inside
    return linear_ticks(low, high)


def linear_ticks(low: float, high: float) -> list[float]:
    """Returns some multiples of 1, 2, 2.5 or 5 times a power of ten between two numbers."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(nbins=7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    rounded = [float(f"{tick:.10g}") for tick in ticks]
    return [tick for tick in rounded if low <= tick <= high]


def _label(value: float) -> str:
    """Writes a tick: ``0.001``, ``1e-05``, ``20000``."""
    return f"{value:.6g}"


def finite(values: Iterable[float | None]) -> list[float]:
    """Returns the values, NaN in place of what is None or infinite."""
    return [v if v is not None and math.isfinite(v) else math.nan for v in values]
