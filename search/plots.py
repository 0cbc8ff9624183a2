"""Two small plots of a study that optuna-dashboard draws itself, in the form that plotly reads.

They are plain JSON, so that nothing of plotly need be installed: 40 MB for two plots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from search.pictures import upper_edge
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
        lines: The trials; those without a finite figure lie at the edge of the plot if they
            diverged, as in a report, and are left out otherwise.
        goal: Which figure.
    """
    shown = [line for line in lines if line.outcome in KINDS and _has_place(line, goal)]
    edge = _edge(shown, goal)
    by_outcome = {outcome: [one for one in shown if one.outcome == outcome] for outcome in KINDS}
    traces = [
        _points(outcome, thinned(found), goal, edge)
        for outcome, found in by_outcome.items()
        if found
    ]
    values = [value for trace in traces for value in trace["y"]]
    name = goal.metric.replace("_", " ")
    layout = _layout(f"learning rate against {name}", "learning rate", name, values)
    rates = [rate for trace in traces for rate in trace["x"]]
    # Within a decade 1, 2 and 5 may be one tick, or none; plotly has its own then.
    layout["xaxis"] |= LOG if _spans_decades(rates) else {"type": "log"}
    layout["showlegend"] = True  # by itself plotly hides the name of a single outcome
    return json.dumps({"data": traces, "layout": layout})


def _figure(line: TrialLine, goal: Goal) -> float | None:
    value = line.figures.get(goal.metric)
    return value if value is not None and math.isfinite(value) else None


def _has_place(line: TrialLine, goal: Goal) -> bool:
    return line.outcome == Outcome.DIVERGED or _figure(line, goal) is not None


def _edge(shown: Sequence[TrialLine], goal: Goal) -> float:
    """Returns the worst figure that is drawn as it is; shares of what is right have 0."""
    if not goal.minimize:
        return 0.0
    diverged = [line.outcome == Outcome.DIVERGED for line in shown]
    return upper_edge([_figure(line, goal) for line in shown], diverged)


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
    which = "best trial" if len(traces) == 1 else f"best {len(traces)} trials"
    title = f"validation loss of the {which}" if traces else "no trial is complete yet"
    return json.dumps({"data": traces, "layout": _layout(title, "epoch", "loss", values)})


def thinned(lines: Sequence[TrialLine]) -> Sequence[TrialLine]:
    """Returns at most `MOST` of the trials, evenly over their numbers."""
    step = -(-len(lines) // MOST)
    return lines[:: max(1, step)]


def _points(outcome: str, lines: Sequence[TrialLine], goal: Goal, edge: float) -> dict[str, Any]:
    colour, symbol = KINDS[Outcome(outcome)]
    figures = [_figure(line, goal) for line in lines]
    heights = [edge if y is None or goal.better(edge, y) else y for y in figures]
    said = [
        "" if y == height else ", off the scale" for y, height in zip(figures, heights, strict=True)
    ]
    return {
        "type": "scatter",
        "mode": "markers",
        "name": outcome,
        "x": [_short(line.params["learning_rate"]) for line in lines],
        "y": [_short(height) for height in heights],
        "text": [f"#{line.number}{words}" for line, words in zip(lines, said, strict=True)],
        "marker": {"color": colour, "symbol": symbol, "size": 7},
    }


def _layout(title: str, x: str, y: str, values: Sequence[float]) -> dict[str, Any]:
    """Returns titles and axes; the vertical one is logarithmic where that shows more.

    About a single value plotly puts a linear axis that reaches one below it, and one above.
    """
    log = min(values, default=0.0) > 0 and _spans_decades(values)
    return {
        "title": {"text": title, "x": 0.02},  # in the middle, buttons lie on it
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}, **(LOG if log else {})},
        "margin": {"l": 60, "r": 20, "t": 50, "b": 50},
    }


def _spans_decades(values: Sequence[float]) -> bool:
    """True if values differ by more than a decade, or not at all: plotly shows two then."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    return not low < high <= 10 * low


def _short(value: float) -> float:
    """Returns four digits of a number, which is all that a plot shows."""
    return float(f"{value:.4g}")
