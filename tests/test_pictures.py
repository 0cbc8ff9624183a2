"""Pictures: PNGs of any curve, readable without colour, on axes that are made once."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from itertools import pairwise

import pytest
from legible import figure_of, require_legible
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from search import study_pictures
from search.diagnosis import ADVICE, Finding
from search.entries import Entry
from search.pictures import (
    TRAINING,
    VALIDATION,
    curve_picture,
    linear_ticks,
    log_ticks,
    new_figure,
    upper_edge,
)
from search.report import TrialLine
from search.study_pictures import STYLES, rate_picture
from search.trial import Outcome

FALLING = [1 / epoch for epoch in range(1, 31)]
SLOWER = [1.2 / epoch + 0.02 for epoch in range(1, 31)]


def read(png: bytes) -> Image.Image:
    """Returns a PNG's pixels."""
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def brightness(colour: str) -> float:
    """Returns how light a colour is in greyscale, from 0 to 255."""
    return float(Image.new("RGB", (1, 1), colour).convert("L").getpixel((0, 0)))  # type: ignore[arg-type]


def holds(image: Image.Image, colour: str, tolerance: int = 12) -> int:
    """Counts the pixels that have nearly this colour."""
    wanted = Image.new("RGB", (1, 1), colour).getpixel((0, 0))
    assert isinstance(wanted, tuple)
    counted = image.getcolors(image.width * image.height) or []
    return sum(
        count
        for count, pixel in counted
        if isinstance(pixel, tuple)
        and all(abs(a - b) <= tolerance for a, b in zip(pixel, wanted, strict=True))
    )


def test_both_curves_are_drawn() -> None:
    """The picture has 640 x 360 pixels on pure white, with a training and a validation curve."""
    image = read(curve_picture(FALLING, SLOWER, best_epoch=12, title="Trial 3"))
    assert image.size == (640, 360)
    assert image.getpixel((638, 358)) == (255, 255, 255)
    for colour in (TRAINING, VALIDATION):
        assert holds(image, colour) > 300


@pytest.mark.parametrize(
    ("train", "valid"),
    [
        ([], []),
        ([0.5], [0.4]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([-1.0, -2.0], [1.0, 5.0]),
        ([1.0, 1e30, None], [2.0, math.inf, math.nan]),
        ([None], [None]),
        ([1e-290, 1e290], [1e-290, 1e290]),
        ([0.3] * 5000, [0.2] * 5000),
        ([1.0, 0.5, 0.4], [1.1]),
    ],
)
def test_any_curve_has_a_picture(
    train: Sequence[float | None], valid: Sequence[float | None]
) -> None:
    """Empty, constant, negative, endless and broken curves are drawn as far as they go."""
    image = read(curve_picture(train, valid, best_epoch=1, title="$ \\frac{1} _x^ \n <b> é 中"))
    assert image.size == (640, 360)
    known = any(loss is not None and math.isfinite(loss) for loss in valid)
    assert (holds(image, VALIDATION) > holds(read(curve_picture([], [])), VALIDATION)) is known


def test_a_picture_does_not_depend_on_the_one_before() -> None:
    """The one canvas keeps nothing of an earlier curve."""
    arguments = (FALLING, SLOWER)
    first = curve_picture(*arguments, title="a", best_epoch=3)
    curve_picture([1e6, None], [1e7, None], title="another", metric="accuracy")
    assert curve_picture(*arguments, title="a", best_epoch=3) == first


def test_every_curve_is_drawn_on_the_same_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is made anew for another curve: figures and axes were half of a picture's time."""
    curve_picture(FALLING, SLOWER)
    made: list[type] = []

    class Counted(Figure):
        def __init__(self, *arguments: object, **options: object) -> None:
            made.append(type(self))
            super().__init__(*arguments, **options)

    monkeypatch.setattr("matplotlib.figure.Figure", Counted)
    monkeypatch.setattr(Figure, "add_axes", lambda *_, **__: made.append(Axes))
    for epoch in range(1, 8):
        curve_picture(FALLING, SLOWER, best_epoch=epoch, title=f"Trial {epoch}")
    assert not made
    new_figure(640, 360).add_axes((0, 0, 1, 1))
    assert made == [Counted, Axes]


def test_findings_differ_without_colour() -> None:
    """No two findings share shape and filling, and the two curves differ in greyscale."""
    shapes = [(style.marker, style.filled) for style in STYLES.values()]
    assert len(set(shapes)) == len(shapes)
    assert abs(brightness(TRAINING) - brightness(VALIDATION)) > 60


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1e-4, 1.0),
        (0.02, 0.3),
        (0.06, 0.98),
        (0.11, 0.95),
        (0.29, 0.95),
        (1.5, 1.6),
        (1.5, 30.0),
        (1e-30, 1e30),
    ],
)
def test_ticks_are_few_and_round(low: float, high: float) -> None:
    """Every axis has three to twelve ticks inside it; over decades these are powers of ten."""
    for ticks in (log_ticks(low, high), linear_ticks(low, high)):
        assert 3 <= len(ticks) <= 12
        assert all(low <= tick <= high for tick in ticks)
    if high / low > 1e3:
        assert all(math.log10(tick) == round(math.log10(tick)) for tick in log_ticks(low, high))


@pytest.mark.parametrize("start", [0.06, 0.11, 0.3])
@pytest.mark.parametrize("decades", [0.9, 1.05, 1.2, 2.0, 3.9, 8.0, 13.0, 40.0])
def test_ticks_do_not_touch(start: float, decades: float) -> None:
    """In the smallest panel, 160 pixels high, a logarithmic axis leaves 12 for each label."""
    ticks = log_ticks(start, start * 10**decades)
    steps = [math.log10(b / a) for a, b in pairwise(ticks)]
    assert min(steps) / decades * 160 >= 12


def entry(number: int, rate: float, loss: float | None) -> Entry:
    """Returns a trial that is over; without a loss it diverged."""
    outcome = Outcome.DIVERGED if loss is None else Outcome.COMPLETE
    params = {"learning_rate": rate}
    finding = Finding("diverging", {}, "lower the learning rate", 1 / 3)
    line = TrialLine(number, outcome, loss, params, 1, 1, {}, "", 1.0, finding=finding)
    return Entry(line, loss, (loss,), 0, 0.0, 1.0)


@pytest.mark.parametrize("ends", [(0.001,), (0.1,), (0.001, 0.1)])
@pytest.mark.parametrize("constant", [0.3, 1.0, 9.9])
def test_no_label_hides_a_point(ends: Sequence[float], constant: float) -> None:
    """Points at the ends of the line of the constant prediction are seen as if it were not."""
    around = [constant * factor for factor in (0.93, 1.0, 1.07)]
    places = [(0.01, 10.0), (0.01, 0.1), *((rate, loss) for rate in ends for loss in around)]
    trials = [entry(number, *place) for number, place in enumerate(places)]
    red = STYLES["diverging"].colour
    pictures = [read(rate_picture(trials, {}, known)) for known in (None, constant)]
    bare, drawn = (holds(picture, red, 40) for picture in pictures)
    assert drawn > 0.97 * bare > 0


@pytest.mark.parametrize("losses", [(None,), (0.06, 0.9, None), (0.5,), (1.9, 0.3)])
def test_words_on_the_rates_are_legible(losses: Sequence[float | None]) -> None:
    """Ticks, legend and labels lie apart, wherever the losses and the constant prediction are."""
    trials = [entry(n, 0.02 * (n + 1), loss) for n, loss in enumerate(losses)]
    for constant in (0.05, 0.4, 1.0, 2.0):
        figure = figure_of(study_pictures, lambda c=constant: rate_picture(trials, {}, c))  # type: ignore[misc]
        require_legible(figure)


def test_trials_without_a_loss_leave_room_for_the_others() -> None:
    """They lie above all others, by a small part of the axis; far ones lie there, too."""
    assert upper_edge([1.0, 2.0], [False, False]) == 2.0
    assert 2.0 < upper_edge([1.0, 2.0, None], [False, False, True]) < 2.5
    assert upper_edge([1.0, 1.0, 1e9, None], [False, False, True, True]) == 30.0


def test_every_finding_has_its_style() -> None:
    """What diagnosis may say, the pictures can draw; trials without a finding, too."""
    assert set(STYLES) == {*ADVICE, ""}
