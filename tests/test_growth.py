"""The bench of growth: its count of work is torch's own, and its picture and table say the same."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch
from cuda_kernels import cuda_kernels
from legible import figure_of, require_legible
from torch.utils.flop_counter import FlopCounterMode

from bench import growth_picture
from bench.gpu_ways import in_lanes
from bench.growth import (
    LETTERS,
    Point,
    exponents,
    measured,
    products,
    recorded_trials,
    runs_of,
    sweep_of,
    table,
)
from bench.growth_picture import Sweep, apart, draw
from search import lane_batches
from search.dimensions import CELLS
from search.gpu_layers import run_fused

RESULTS = Path(__file__).parent.parent / "bench" / "RESULTS.md"


def in_place(_sum: Any, a: Any, b: Any, *_rest: Any, **_options: Any) -> int:
    """Returns twice the multiplications of a product that is added in place."""
    return 2 * a[0] * a[1] * a[2] * b[2]


def sweep(seconds: list[float]) -> Sweep:
    """Returns an invented sweep of three values of H, whose work grows by 4 each time."""
    by_cell = {cell: ([1.0, 4.0, 16.0], seconds) for cell in CELLS}
    return Sweep("H", "hidden units H", (8, 16, 32), 1, by_cell)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("layers", [1, 2])
def test_work_is_what_torch_counts(cell: str, layers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The products of a training step, as torch counts them, are those that the work is made of.

    The head's are counted twice there: one output is computed as two, see `search.lane_batches`.
    """
    point = Point(cell, hidden=16, window=8, batch=16, networks=2, layers=layers)
    runs = runs_of(point)
    # The layers of a GPU are torch's operations, which can be counted.
    monkeypatch.setattr(lane_batches, "run_layer", run_fused)
    step = in_lanes(runs)
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.baddbmm_: in_place})
    with cuda_kernels(), counter:
        step()
    head = 2 * 16 * 3 * point.hidden
    expected = 2 * 16 * products(point, training=True) + head
    assert counter.get_total_flops() == 2 * expected


def test_exponents_and_where_time_grows_faster() -> None:
    """Time that grows as the work to the 0.5 and then to the 1.5 is said to do so."""
    assert exponents([1.0, 4.0, 16.0], [1.0, 2.0, 16.0]) == pytest.approx([0.5, 1.5])
    assert table(sweep([1.0, 2.0, 16.0]))[0] == (
        "| H 8 to 32 | rnn | 16 | 16.0 | 1.00 | 16 to 32 (1.50) |"
    )
    assert table(sweep([1.0, 2.0, 4.0]))[0].endswith("| 0.50 |  |")


def test_a_letter_is_measured() -> None:
    """Every value of a letter has a time, and the work of K networks is K times that of one."""
    works, seconds = sweep_of("K", measured("K", 1, ["rnn"])).by_cell["rnn"]
    assert [one / works[0] for one in works] == list(LETTERS["K"][1])
    assert min(seconds) > 0.0


def test_the_picture_is_legible() -> None:
    """All names are on it, none on another, also where lines end together; it is small."""
    sweeps = [sweep([1.0, 2.0, 16.0]), sweep([1.0, 1.01, 1.02])]
    trials = recorded_trials(RESULTS.read_text(encoding="utf-8"))
    figure = figure_of(growth_picture, lambda: draw(sweeps, trials))
    require_legible(figure)
    picture = draw(sweeps, trials)
    assert len(picture) < 100_000
    height, width, _ = matplotlib.image.imread(io.BytesIO(picture)).shape
    assert (width, height) == (growth_picture.WIDTH, growth_picture.HEIGHT)


def test_names_are_moved_apart() -> None:
    """Names keep their order and the gap, and those that are far from others their place."""
    moved = apart({"a": 1.0, "b": 1.001, "c": 100.0}, 0.1)
    assert moved["b"] / moved["a"] == pytest.approx(2.718281828**0.1)
    assert moved["c"] == pytest.approx(100.0)


def test_the_recorded_cost_of_trials_is_read() -> None:
    """The figures of each size are taken from the table of RESULTS.md."""
    found = recorded_trials(RESULTS.read_text(encoding="utf-8"))
    assert found.keys() == {"ours", "plain Optuna"}
    assert all(sorted(costs) == [0, 1000, 10000] for costs in found.values())
