"""A range test from what was asked for to its end: read, check, train, draw, tell."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from search.dimensions import CELLS, Dimension, Fixed
from search.display import say
from search.errors import ConfigError, RunError, nearest
from search.lr_range import Sweep, suggest_range, sweeps
from search.range_picture import range_picture
from search.recurrent import compile_first
from search.running import Plan, Request, make_plan
from search.training import is_out_of_memory, out_of_memory
from search.whole_files import written_whole


@dataclass(frozen=True)
class RangeTest:
    """What came of it.

    Attributes:
        name: The study's name.
        sweeps: One of each cell with each optimizer.
        suggested: The rates that are worth searching, low and high; None: no loss fell.
        searched: The study's own range or list of rates, as its file writes it.
        constant_loss: Training loss of the best prediction that ignores its inputs.
        picture: Where the PNG was written.
    """

    name: str
    sweeps: tuple[Sweep, ...]
    suggested: tuple[float, float] | None
    searched: str
    constant_loss: float
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints."""
        sweeps = [asdict(sweep) for sweep in self.sweeps]
        for sweep in sweeps:  # JSON has neither infinity nor NaN.
            for name in ("losses", "smoothed"):
                sweep[name] = [one if math.isfinite(one) else None for one in sweep[name]]
        return {**asdict(self), "sweeps": sweeps, "picture": str(self.picture)}


def measure_range(
    request: Request,
    cells: Sequence[str] | None,
    optimizers: Sequence[str] | None,
    out: Path | None,
    seed: int,
    console: Console,
) -> RangeTest:
    """Tests each cell with each optimizer on the study's data and writes the picture.

    Args:
        request: Names the study and the device.
        cells: Only these of the study's; None: all of them.
        optimizers: Only these of the study's; None: all of them.
        out: Where the picture goes; None: ``NAME-lr-range.png``.
        seed: Of initial weights and the order of batches.
        console: Where progress is told.

    Raises:
        RequestError: The study, its data, or a name makes no sense; nothing has been written.
        RunError: Memory ran out, or the picture cannot be written.
    """
    # The seed of a study decides its trials; here it is the test's alone.
    plan = make_plan(replace(request, seed=None), training=False)
    _refuse_own(plan)
    space, name = plan.config.space, plan.config.name
    chosen = _chosen("cell", cells, space), _chosen("optimizer", optimizers, space)
    picture = out or Path(f"{name}-lr-range.png")
    _require_writable(picture)
    found = _train(plan, chosen, seed, console)
    suggested = suggest_range(found)
    drawn = range_picture(found, suggested, plan.splits.constant_loss, name)
    try:
        with written_whole(picture) as part:
            part.write_bytes(drawn)
    except OSError as error:
        raise RunError(f"{picture} cannot be written: {error.strerror}") from None
    searched = space["learning_rate"].to_toml()
    constant = plan.splits.constant_loss
    return RangeTest(name, tuple(found), suggested, toml_value(searched), constant, picture)


def _require_writable(picture: Path) -> None:
    """Refuses a picture that could not be written, before minutes of training are lost for it."""
    if picture.suffix != ".png" or not picture.parent.is_dir():
        raise ConfigError(f"--out {picture}: must be a .png file in a folder that exists")
    place = Path(os.path.realpath(picture)).parent
    if picture.is_dir() or not os.access(place, os.W_OK):
        raise ConfigError(f"{picture} cannot be written; give another file with --out")


def _refuse_own(plan: Plan) -> None:
    if plan.config.model is not None:
        raise ConfigError(
            f"{plan.config.name} builds its own network; the range test is for "
            f"{', '.join(CELLS)}: take out [model], or give the range yourself"
        )


def _train(
    plan: Plan, chosen: tuple[Sequence[str], Sequence[str]], seed: int, console: Console
) -> list[Sweep]:
    device = torch.device(plan.device)
    splits = plan.splits.to(device)
    found = []
    torch.set_num_threads(1)
    if plan.device == "cpu":
        compile_first(lambda line: say(console, line))
    try:
        for sweep in sweeps(plan.config.space, splits, *chosen, seed, device):
            found.append(sweep)
            if console.is_terminal:
                progress = f"tested {len(found)} of {len(chosen[0]) * len(chosen[1])}"
                console.print(progress, end="\r", markup=False, highlight=False)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(out_of_memory(error).reason) from None
    return found


def _chosen(
    name: str, wanted: Sequence[str] | None, space: Mapping[str, Dimension]
) -> tuple[str, ...]:
    dimension = space[name]
    values = (dimension.value,) if isinstance(dimension, Fixed) else dimension.values  # type: ignore[union-attr]
    known = tuple(str(value) for value in values)
    for one in wanted or ():
        if one not in known:
            raise ConfigError(f"--{name} {one}: not in the study's space{nearest(one, known)}")
    return tuple(dict.fromkeys(wanted)) if wanted else known


def toml_value(value: object) -> str:
    """Returns a dimension's value as a study file writes it, on one line."""
    if isinstance(value, dict):
        inside = ", ".join(f"{key} = {toml_value(one)}" for key, one in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def print_test(console: Console, test: RangeTest) -> None:
    """Prints one line a sweep, and what to put into the study file."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("cell", "optimizer", "falls from", "steepest", "lowest", "diverges", "search"):
        table.add_column(column, justify="left" if column in ("cell", "optimizer") else "right")
    for one in test.sweeps:
        alone = suggest_range([one])
        rates = (one.onset, one.steepest, one.lowest, one.divergence)
        table.add_row(
            one.cell,
            one.optimizer,
            *("-" if rate is None else f"{rate:.2g}" for rate in rates),
            "-" if alone is None else f"{alone[0]:g} to {alone[1]:g}",
        )
    console.print(f"Learning-rate range test of {test.name}", style="bold", highlight=False)
    console.print(table)
    if test.suggested is None:
        advice = [
            "The loss fell at no rate: the inputs say nothing about the targets, or too",
            "little for so short a test. Keep the range that the study has.",
        ]
    else:
        low, high = test.suggested
        advice = [
            "For the study file, in [space]:",
            f"  learning_rate = {{ low = {low:g}, high = {high:g} }}",
            f"It searches {test.searched} now.",
        ]
    for line in (*advice, f"Picture: {test.picture}"):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
