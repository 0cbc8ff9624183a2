"""Two small plots of a study that optuna-dashboard draws itself, in the form that plotly reads.

They are plain JSON, so that nothing of plotly need be installed: 40 MB for two plots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from search.report import TrialLine
from search.trial import Goal, Outcome

MOST = 400
"""Points of a trace at most; every one of them is in the database, and sent to the browser."""
SHOWN = 10
"""Curves that are drawn."""
DARK, PALE, RED = "#0b3c7d", "#9fb4cc", "#c0392b"
KINDS = {
    Outcome.COMPLETE: (DARK, "circle"),
    Outcome.PRUNED: (PALE, "circle"),
    Outcome.DIVERGED: (RED, "x"),
}
"""The outcomes that the first plot tells apart: colour and marker."""
LOG = {"type": "log", "dtick": "D2", "exponentformat": "e"}
"""An axis with ticks at 1, 2 and 5 times the powers of ten."""
COLOURS = (
    *("#0b3c7d", "#e08a1e", "#2a8a57", "#c0392b", "#7a4fa3"),
    *("#8a5a2b", "#d6619b", "#6b6b6b", "#a3a12a", "#1e9bb5"),
)


def rate_against_loss(lines: Iterable[TrialLine], goal: Goal) -> str:
    """Draws the searched figure of every trial over its learning rate, by outcome.

    Args:
        lines: The trials; those without a finite figure are left out.
        goal: Which figure.
    """
    seen: dict[str, list[TrialLine]] = {outcome: [] for outcome in KINDS}
    for line in lines:
        value = line.figures.get(goal.metric)
        if line.outcome in seen and value is not None and math.isfinite(value):
            seen[line.outcome].append(line)
    traces = [_points(outcome, thinned(found), goal) for outcome, found in seen.items() if found]
    values = [value for trace in traces for value in trace["y"]]
    name = goal.metric.replace("_", " ")
    layout = _layout(f"learning rate against {name}", "learning rate", name, values)
    layout["xaxis"] |= LOG
    return json.dumps({"data": traces, "layout": layout})


def best_curves(ranking: Sequence[TrialLine]) -> str:
    """Draws the validation loss, epoch by epoch, of the best trials.

    Args:
        ranking: Complete trials, best first.
    """
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": f"#{line.number}  lr {line.params['learning_rate']:.2g}",
            "x": list(range(1, len(line.curve["valid"]) + 1)),
            "y": [None if loss is None else _short(loss) for loss in line.curve["valid"]],
            "line": {"color": colour, "width": 3 if line is ranking[0] else 1.3},
        }
        for line, colour in zip(ranking[:SHOWN], COLOURS, strict=False)
        if line.curve.get("valid")
    ]
    values = [value for trace in traces for value in trace["y"] if value is not None]
    title = f"validation loss of the best {len(traces)} trials"
    return json.dumps({"data": traces, "layout": _layout(title, "epoch", "loss", values)})


def thinned(lines: Sequence[TrialLine]) -> Sequence[TrialLine]:
    """Returns at most `MOST` of the trials, evenly over their numbers."""
    step = -(-len(lines) // MOST)
    return lines[:: max(1, step)]


def _points(outcome: str, lines: Sequence[TrialLine], goal: Goal) -> dict[str, Any]:
    colour, symbol = KINDS[Outcome(outcome)]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": outcome,
        "x": [_short(line.params["learning_rate"]) for line in lines],
        "y": [_short(line.figures[goal.metric]) for line in lines],
        "text": [f"#{line.number}" for line in lines],
        "marker": {"color": colour, "symbol": symbol, "size": 7},
    }


def _layout(title: str, x: str, y: str, values: Sequence[float]) -> dict[str, Any]:
    """Returns titles and axes; the vertical one is logarithmic where that shows more."""
    log = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **(LOG if log else {})},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    }


def _short(value: float) -> float:
    """Returns four digits of a number, which is all that a plot shows."""
    return float(f"{value:.4g}")
