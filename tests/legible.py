"""Whether the words on a picture can be read: none leaves it, none is printed over another."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from types import ModuleType
from unittest.mock import patch

from matplotlib.figure import Figure
from matplotlib.text import Text

from search.pictures import to_png


def figure_of(module: ModuleType, draw: Callable[[], bytes]) -> Figure:
    """Returns the figure that a picture of ``module`` is made from."""
    with patch.object(module, "to_png", side_effect=to_png) as drawn:
        draw()
    (call,) = drawn.call_args_list
    figure = call.args[0]
    assert isinstance(figure, Figure)
    return figure


def require_legible(figure: Figure) -> None:
    """Checks all words of a figure that has been drawn, and that empty panels are not."""
    places = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        hidden = text.axes is not None and not text.axes.get_visible()
        if text.get_visible() and text.get_text().strip() and not hidden:
            places[text] = text.get_window_extent()
    width, height = figure.canvas.get_width_height()
    for text, box in places.items():
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{text.get_text()!r} leaves the picture"
    for (one, here), (other, there) in combinations(places.items(), 2):
        assert not here.overlaps(there), f"{one.get_text()!r} lies on {other.get_text()!r}"
    for axes in figure.axes:
        assert axes.has_data() or not axes.get_visible(), "a panel is empty"
