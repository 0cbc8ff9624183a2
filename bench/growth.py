"""How an epoch's time grows with H, T, B, K and layers, beside the work that there is to do.

    python -m bench.growth                              all sweeps, then the picture and a table
    python -m bench.growth --letters H --cells rnn      these again; of others what is there is kept

From one point (H 32, T 32, B 32, K 1, one layer) one letter at a time is changed. An epoch is 16
minibatches, losses, optimizer and validation included; K networks train in `search.lanes`, one in
`search.training`. All points of a letter take turns, on one thread, and the medians of the
processor's time are compared. Work is counted, not measured: the multiplications of all matrix
products. Everything else, such as gates, the optimizer and what Python does, is not in it, so that
where there is little work time grows slower, and where caches end, quicker.

The last panel shows what `python -m bench.trial_cost` measured, as RESULTS.md has it.

Shapes: K networks, B minibatch, T time, F features, H hidden, O outputs.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bench.growth_picture import Sweep, Trials, draw
from bench.recurrent import medians
from bench.waves import PLAIN, waves
from search.lane_shapes import shape_of
from search.lanes import Lanes
from search.models import CELLS
from search.training import Run
from search.trial import Goal

HERE = Path(__file__).parent
MINIBATCHES = 16
VALIDATED = 4
"""Examples of the validation part for each row of a minibatch."""
GATES = {"rnn": 1, "lstm": 4, "gru": 3}
DOUBLING = (8, 16, 32, 64, 128, 256)
NOTABLE = 1.05
"""Exponents above are said to be above 1."""


@dataclass(frozen=True)
class Point:
    """What is trained.

    Attributes:
        cell: ``rnn``, ``lstm`` or ``gru``.
        hidden: H.
        window: T.
        batch: B.
        networks: K; None: one, without lanes.
        layers: L.
    """

    cell: str
    hidden: int = 32
    window: int = 32
    batch: int = 32
    networks: int | None = None
    layers: int = 1


Change = Callable[[Point, int], Point]
LETTERS: Mapping[str, tuple[str, tuple[int, ...], int, Change]] = {
    "H": ("hidden units H", DOUBLING, 32, lambda point, value: replace(point, hidden=value)),
    "T": ("time steps T", DOUBLING, 32, lambda point, value: replace(point, window=value)),
    "B": ("minibatch B", DOUBLING, 32, lambda point, value: replace(point, batch=value)),
    "K": (
        "networks at once K",
        (1, 2, 4, 8, 16, 32),
        1,
        lambda point, value: replace(point, networks=value),
    ),
    "L": ("layers L", (1, 2, 3), 1, lambda point, value: replace(point, layers=value)),
}
"""What a letter is called, its values, the one others are compared with, and how it is changed."""


def work(point: Point) -> int:
    """Returns the multiplications of the matrix products of an epoch of all networks."""
    trained = MINIBATCHES * point.batch
    return (point.networks or 1) * (
        trained * products(point, training=True)
        + VALIDATED * point.batch * products(point, training=False)
    )


def products(point: Point, *, training: bool) -> int:
    """Returns those of one example through one network, F and O being 1.

    In training each product has two more: its gradients by the weights and by what they are
    multiplied with, the latter but for the first layer's inputs, which have none.
    """
    rows = GATES[point.cell] * point.hidden
    both = 3 if training else 1
    by_state = point.layers * rows * point.hidden * both
    by_inputs = rows * (2 if training else 1) + (point.layers - 1) * rows * point.hidden * both
    return point.window * (by_state + by_inputs) + point.hidden * both


def runs_of(point: Point) -> list[Run]:
    """Returns the point's networks, untrained."""
    params = replace(
        PLAIN,
        cell=point.cell,
        hidden_units=point.hidden,
        batch_size=point.batch,
        hidden_layers=point.layers,
    )
    splits = waves(MINIBATCHES * point.batch, VALIDATED * point.batch, point.window)
    device = torch.device("cpu")
    return [Run(params, splits, at, Goal(), device) for at in range(point.networks or 1)]


def epoch(point: Point) -> Callable[[], object]:
    """Returns what trains an epoch of the point's networks, and validates them."""
    runs = runs_of(point)
    if point.networks is None:
        return lambda: runs[0].advance(lambda *_: None)
    lanes = Lanes(shape_of(runs[0].params), runs[0].splits)
    for run in runs:
        lanes.join(run, lambda *_: None)

    def train() -> None:
        while not lanes.advance():
            pass

    return train


def measured(letter: str, turns: int, cells: Sequence[str]) -> dict[str, list[float]]:
    """Returns the median seconds of an epoch at every value of a letter, by cell."""
    _, values, _, change = LETTERS[letter]
    points = [change(Point(cell), value) for cell in cells for value in values]
    seconds = medians([epoch(point) for point in points], turns)
    size = len(values)
    return {cell: seconds[at * size : (at + 1) * size] for at, cell in enumerate(cells)}


def sweep_of(letter: str, times: Mapping[str, Sequence[float]]) -> Sweep:
    """Returns a letter's times beside its works."""
    about, values, base, change = LETTERS[letter]
    by_cell = {
        cell: ([float(work(change(Point(cell), value))) for value in values], seconds)
        for cell, seconds in times.items()
    }
    return Sweep(letter, about, values, values.index(base), by_cell)


def exponents(works: Sequence[float], seconds: Sequence[float]) -> list[float]:
    """Returns for each step from point to point the power of the work that time grows with."""
    steps = zip(works, works[1:], seconds, seconds[1:], strict=False)
    return [math.log(later / first) / math.log(more / less) for less, more, first, later in steps]


def table(sweep: Sweep) -> list[str]:
    """Returns a line for each cell: how much work and time grew, and where time grew faster."""
    lines = []
    for cell, (works, seconds) in sweep.by_cell.items():
        (whole,) = exponents([works[0], works[-1]], [seconds[0], seconds[-1]])
        steps = zip(sweep.values, sweep.values[1:], exponents(works, seconds), strict=False)
        faster = [f"{low} to {high} ({power:.2f})" for low, high, power in steps if power > NOTABLE]
        lines.append(
            f"| {sweep.letter} {sweep.values[0]} to {sweep.values[-1]} | {cell} "
            f"| {works[-1] / works[0]:.0f} | {seconds[-1] / seconds[0]:.1f} | {whole:.2f} "
            f"| {', '.join(faster)} |"
        )
    return lines


def recorded_trials(text: str) -> Trials:
    """Reads what a trial costs outside training from the table in RESULTS.md, on SQLite.

    Args:
        text: Of RESULTS.md.

    Returns:
        Milliseconds by number of trials, by whose they are.
    """
    found: dict[str, dict[int, float]] = {}
    row = r"^\| (\d+) \| SQLite \| (ours|plain) \| ([\d.]+) \("
    for count, whose, milliseconds in re.findall(row, text, re.MULTILINE):
        name = {"ours": "ours", "plain": "plain Optuna"}[whose]
        found.setdefault(name, {})[int(count)] = float(milliseconds)
    return found


def main() -> None:
    """Reads the command line, measures, prints the table and draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--letters", nargs="+", choices=LETTERS, default=list(LETTERS))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=list(CELLS))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--picture", type=Path, default=HERE / "pictures" / "growth.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print("| | cell | work, times | time, times | exponent | faster than work |")
    print("|---|---|--:|--:|--:|---|")
    kept = arguments.picture.with_suffix(".json")
    times = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    for letter in arguments.letters:
        new = measured(letter, arguments.turns, arguments.cells)
        times[letter] = times.get(letter, {}) | new
        print("\n".join(table(sweep_of(letter, new))), flush=True)
        kept.write_text(json.dumps(times, indent=1) + "\n", encoding="utf-8")
    sweeps = [sweep_of(letter, times[letter]) for letter in LETTERS if letter in times]
    trials = recorded_trials((HERE / "RESULTS.md").read_text(encoding="utf-8"))
    arguments.picture.write_bytes(draw(sweeps, trials))


if __name__ == "__main__":
    main()
