"""How figures, hyperparameters and durations are written, in the terminal as in a report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from search.config import StudyConfig
from search.dimensions import HYPERPARAMETERS
from search.report import Summary, TrialLine

SHOWN = 10
"""How many of the best trials a table shows."""
SHARES = ("accuracy", "macro_f1")
"""Figures from 0 to 1, written in percent, of which a large one is good; of all others a small."""
UNITS = {"rmse": ", in the target's units", "mae": ", in the target's units"}


def figure(name: str, value: float) -> str:
    """Writes a figure as people read it: accuracies in percent, the rest with four digits."""
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f} %" if name in SHARES else f"{value:.4g}"


def evaluated(summary: Summary) -> str:
    """Says what the last evaluation came to, if there was one."""
    last = summary.evaluated
    name, std = last["metric"], last["std"]
    spread = f" ± {figure(name, std)}" if std and len(last["seeds"]) > 1 else ""
    mean = figure(name, math.nan if last["mean"] is None else last["mean"])
    return (
        f"Evaluated: #{last['trial']} won; test {name.replace('_', ' ')} {mean}{spread} over "
        f"{count_of(len(last['seeds']), 'seed')} (rnn-search report says more)"
    )


def best_of(name: str, *values: float) -> float:
    """Returns the best of some values of a figure."""
    return max(values) if name in SHARES else min(values)


def count_of(count: int, noun: str) -> str:
    """Writes a number of things: ``1 trial``, ``2 trials``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def trusting(config: StudyConfig) -> str:
    """Returns what a command that needs the study's network ends with, if that is the user's."""
    return "" if config.model is None else " --trust-code"


def short(params: Mapping[str, Any]) -> str:
    """Writes hyperparameters on one line: ``lr 0.01 batch 32 lstm 1x64 adam``."""
    if "cell" not in params:
        return ""
    line = (
        f"lr {params['learning_rate']:.3g}  batch {params['batch_size']}  "
        f"{params['cell']} {params['hidden_layers']}x{params['hidden_units']}  "
        f"{params['optimizer']}"
    )
    line += "" if params["decay"] == "none" else f"  {params['decay']} decay"
    return line + "".join(f"  {name} {cell(params[name])}" for name in own_names(params))


def own_names(params: Mapping[str, Any]) -> list[str]:
    """Returns the names of the study's own entries among hyperparameters."""
    return [name for name in params if name not in HYPERPARAMETERS]


def cell(value: Any) -> str:
    """Writes the value of a study's own entry: ``yes`` and ``no`` for true and false."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Writes a duration: ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


DECAY_WORDS = {"none": "-", "exponential": "exp"}
COLUMNS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "lr": lambda params: f"{params['learning_rate']:.2g}",
    "batch": lambda params: str(params["batch_size"]),
    "network": lambda p: f"{p['cell']} {p['hidden_layers']}x{p['hidden_units']}",
    "optim.": lambda params: str(params["optimizer"]),
    "decay": lambda params: DECAY_WORDS.get(params["decay"], params["decay"]),
    "drop": lambda params: f"{params['dropout']:.2f}".replace("0.00", "0"),
    "w.dec": lambda params: f"{params['weight_decay']:.0e}" if params["weight_decay"] else "0",
    "clip": lambda params: f"{params['gradient_clipping']:g}",
}
"""How the table writes the hyperparameters: heading, cell."""


def own_columns(summary: Summary) -> list[str]:
    """Returns the study's own entries, which a trial that a script has added may lack."""
    return max((own_names(line.params) for line in summary.ranking), key=len, default=[])


def cells_of(line: TrialLine, own: Iterable[str]) -> list[str]:
    """Writes a trial's hyperparameters, and the study's own; "-" for what it has not."""
    params, whole = line.params, HYPERPARAMETERS.keys() <= line.params.keys()
    found = [write(params) if whole else "-" for write in COLUMNS.values()]
    return [*found, *(cell(params[name]) if name in params else "-" for name in own)]
