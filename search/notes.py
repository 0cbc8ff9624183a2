"""Notes in Markdown: what is said of a trial and of a study where optuna-dashboard shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from search.diagnosis import ADVICE
from search.report import Summary, TrialLine
from search.wording import evaluated


def trial_note(line: TrialLine, metric: str, picture: str | None) -> str:
    """Says in words how a trial ended, what its losses show and what to do about it.

    Args:
        line: The trial.
        metric: The searched figure.
        picture: Path of its curve's picture on the dashboard's server; None: there is none.
    """
    parts = []
    if line.finding is not None:
        evidence = ", ".join(
            f"{_name(key)} {value:g}" for key, value in line.finding.evidence.items()
        )
        parts.append(f"**{line.finding.name}**: {line.finding.advice}{_rate(line)} ({evidence})")
    parts.append(f"**{line.outcome}**: {plain(line.reason)}")
    if line.figures:
        shown = {metric: line.figures[metric], **line.figures}
        parts.append(f"Best epoch {line.epoch} of {line.epochs}: {_figures(shown)}")
    if picture is not None:
        parts.append(f"![training and validation loss]({picture})")
    return "\n\n".join(parts)


def study_note(summary: Summary) -> str:
    """Says in words what a study has come to so far."""
    counts, best = summary.counts, summary.best
    finished = counts["complete"] + counts["pruned"] + counts["failed"]
    parts = [
        f"**{plain(summary.name)}**: {summary.task}, looking for the "
        f"{'smallest' if summary.direction == 'minimize' else 'largest'} {_name(summary.metric)}",
        f"{finished} of {summary.target} trials finished: {counts['complete']} complete, "
        f"{counts['pruned']} pruned ({counts['diverged']} of them diverged), "
        f"{counts['failed']} failed",
    ]
    if best is not None:
        params = ", ".join(f"{_name(key)} {_value(value)}" for key, value in best.params.items())
        # A trial that a script has added has neither.
        figures = f", {_figures(best.figures)} at epoch {best.epoch}" if best.epoch else ""
        parts.append(f"**Best: trial {best.number}**{figures}; {params}")
    if summary.evaluated:
        parts.append(plain(evaluated(summary)))
    if summary.baselines:
        naive = [f"{_name(key)} {_figures(value)}" for key, value in summary.baselines.items()]
        parts.append(f"Without a network: {'; '.join(naive)}")
    if summary.verdicts:
        rows = [f"| {n} | {name} | {ADVICE[name][0]} |" for name, n in summary.verdicts.items()]
        parts.append(
            "\n".join(["| trials | what their losses show | what to do |", "|--:|---|---|", *rows])
        )
    if summary.enough:
        parts.append(f"Enough: {plain(summary.enough)}")
    return "\n\n".join(parts)


def plain(text: str) -> str:
    """Returns text on one line with nothing in it that Markdown would take for more."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|~&$-])", r"\\\1", " ".join(text.split()))


def _rate(line: TrialLine) -> str:
    """Says which learning rate the advice comes to."""
    factor = line.finding.rate_factor if line.finding else None
    rate = line.params.get("learning_rate")
    if factor is None or rate is None:
        return ""
    return f", {rate:.2g} → {rate * factor:.2g}"


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{_name(key)} {value:.4g}" for key, value in figures.items())


def _name(key: str) -> str:
    return plain(key.replace("_", " "))


def _value(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else plain(str(value))
