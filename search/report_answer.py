"""The first section of a report: the answer beside the baselines, how sure it is, and notes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.certainty import Certainty, around, seeds
from search.dimensions import HYPERPARAMETERS, Choices, Dimension, Fixed, Range
from search.documents import Block, Bullets, Paragraph, Section, Table
from search.entries import Clock, Entry
from search.evaluation import mean_and_std
from search.importance import Importance
from search.report import Summary, TrialLine
from search.space import LIMITED
from search.trial import Goal
from search.wording import COLUMNS, SHOWN, UNITS, best_of, cell, cells_of, figure, own_columns

EDGE = 0.03
"""A value so near to an end of its range, as a share of it, suggests to look beyond."""


@dataclass(frozen=True)
class Material:
    """All that a report is made of.

    Attributes:
        summary: What the study has come to.
        entries: Its trials, by number.
        ranked: Those that were judged, with what they are ranked by.
        importances: Of its hyperparameters; none if there are too few trials.
        certainty: How sure the answer is.
        clock: The time it was worked on.
        goal: What is searched for.
        space: What is searched.
    """

    summary: Summary
    entries: Sequence[Entry]
    ranked: Sequence[tuple[Entry, float]]
    importances: Sequence[Importance]
    certainty: Certainty
    clock: Clock
    goal: Goal
    space: Mapping[str, Dimension]

    @property
    def answer(self) -> TrialLine | None:
        """The trial whose configuration is the answer: an evaluation's winner, else the best."""
        winner = self.certainty.winner
        lines = [line for line in self.summary.ranking if line.number == winner]
        return lines[0] if lines else self.summary.best

    @property
    def marked(self) -> dict[int, str]:
        """The trials to point out, by number: the best and, if it is another, the winner."""
        best, answer = self.summary.best, self.answer
        found = {} if best is None else {best.number: "best"}
        return found if answer is None or answer == best else {**found, answer.number: "winner"}


def answer(material: Material) -> Section:
    """The best hyperparameters, the figures beside the baselines, how sure."""
    summary, line = material.summary, material.answer
    if line is None:
        return Section("The answer", [Paragraph(_no_answer(material), lead=True), *_notes(summary)])
    blocks: list[Block] = [
        Paragraph(_headline(material, line), lead=True),
        _hyperparameters(line, material.space),
        Paragraph(f"Validation figures{_unit(summary)}:"),
        _figures(material, line),
        *_tested(material, line),
        Paragraph("How sure is this?", lead=True),
        Bullets([*material.certainty.sentences, *_hints(line, material.space, summary.notes)]),
    ]
    if len(material.certainty.retrained) > 1:
        blocks += [
            Paragraph("What was trained again, on validation (± between seeds):"),
            _retrained(material),
        ]
    if len(summary.ranking) > 1:
        blocks += [Paragraph("The best trials:"), _ranking(summary)]
    return Section("The answer", [*blocks, *_notes(summary)])


def _no_answer(material: Material) -> str:
    counts = material.summary.counts
    if not counts["total"]:
        return "No trial has been trained yet, so there is no answer."
    training = f" ({counts['running']} in training)" if counts["running"] else ""
    said = f"No trial of {counts['total']} has completed, so there is no answer{training}."
    remedies = {
        "diverged": "diverged: search smaller learning rates, or clip gradients",
        "out_of_memory": "ran out of memory: search smaller networks or batches",
        "failed": "failed: the reasons are below",
        "pruned": "did worse than their peers",
        "interrupted": "wait to go on: rnn-search resume " + material.summary.name,
    }
    plainly = counts["pruned"] - counts["diverged"] - counts["out_of_memory"]
    numbers = {name: plainly if name == "pruned" else counts[name] for name in remedies}
    most = max(numbers, key=lambda name: numbers[name])
    if not numbers[most]:
        return said
    who = "most" if 2 * numbers[most] > counts["total"] else str(numbers[most])
    return f"{said} Of these {who} {remedies[most]}."


def _headline(material: Material, line: TrialLine) -> str:
    """Says what the answer is worth: on the test part if it was looked at, else on validation."""
    summary, looks = material.summary, material.certainty.looks
    count = summary.counts["total"]
    if looks and looks[-1]["trial"] == line.number:
        last, name = looks[-1], looks[-1]["metric"]
        noise = last["std"] if len(last["seeds"]) > 1 else math.nan
        found, naive = around(name, last["mean"], noise), last.get("baselines", {})
        return (
            f"#{line.number} of {count} trials, the winner of an evaluation: test "
            f"{name.replace('_', ' ')} {found} over {seeds(len(last['seeds']))}."
            f"{_beside(name, last['mean'], naive, noise)}"
        )
    over = count - sum(summary.counts[name] for name in ("running", "waiting", "interrupted"))
    by = f", by its {summary.metric.replace('_', ' ')}"
    which = f"the best of {over} trials" if over > 1 else "the only trial"
    which += " that are over" * (1 < over < count) + " that is over" * (over == 1 < count)
    name = summary.headline
    which += by * (over > 1 and name != summary.metric)
    if name not in line.figures:
        return f"#{line.number}, {which}."
    naive = {key: figures[name] for key, figures in summary.baselines.items() if name in figures}
    return (
        f"#{line.number}, {which}: validation {name.replace('_', ' ')} "
        f"{figure(name, line.figures[name])} at epoch {line.epoch} of {line.epochs}."
        f"{_beside(name, line.figures[name], naive)}"
    )


def _beside(name: str, mine: float, naive: Mapping[str, float], noise: float = 0.0) -> str:
    """Says what the best naive method has, and plainly if that is better.

    Args:
        name: Of the figure.
        mine: The network's.
        naive: Those of the naive methods, by name.
        noise: Its standard deviation between seeds; NaN: not known.
    """
    if not naive:
        return ""
    value = best_of(name, *naive.values())
    words = next(key for key in naive if naive[key] == value).replace("_", " ")
    if mine == best_of(name, mine, value):
        return f" The best naive method, {words}, has {figure(name, value)}."
    if abs(mine - value) <= noise:
        return f" The naive method {words} is as good, with {figure(name, value)}."
    better = f"the naive method {words} is better, with {figure(name, value)}"
    return f" The network is of no use yet: {better}."


def _unit(summary: Summary) -> str:
    return UNITS.get(summary.headline, "").replace(", in", " (errors in") + (
        ")" if summary.headline in UNITS else ""
    )


def _hyperparameters(line: TrialLine, space: Mapping[str, Dimension]) -> Table:
    rows = [
        [name.replace("_", " "), _value(value), _searched(space[name])]
        for name, value in line.params.items()
    ]
    return Table(["hyperparameter", "value", "searched"], rows)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else cell(value)


def _searched(dimension: Dimension) -> str:
    if isinstance(dimension, Fixed):
        return "fixed"
    if isinstance(dimension, Choices):
        return ", ".join(_value(value) for value in dimension.values)
    return f"{dimension.low:g} to {dimension.high:g}" + (", logarithmic" if dimension.log else "")


def _hints(line: TrialLine, space: Mapping[str, Dimension], notes: Sequence[str]) -> list[str]:
    """Says what its curve advises, and which values lie at an end of what was searched."""
    said = []
    if line.finding is not None and line.finding.name != "healthy":
        said.append(f"Its curve is {line.finding.name}: {line.finding.advice}.")
    limited = any(note.startswith(LIMITED) for note in notes)  # Data allow no larger ones.
    found = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in line.params.items()
        if _at_edge(name, value, space[name])
        and not (name == "batch_size" and limited and value == max(_values(space[name])))
    ]
    if found:
        where = "At the end of what was searched, so that better may lie beyond"
        said.append(f"{where}: {', '.join(found)}.")
    return said


def _values(dimension: Dimension) -> Sequence[Any]:
    """Returns the values of a choice, the ends of a range, or the one that is fixed."""
    if isinstance(dimension, Choices):
        return dimension.values
    return (dimension.low, dimension.high) if isinstance(dimension, Range) else (dimension.value,)


def _at_edge(name: str, value: Any, dimension: Dimension) -> bool:
    """Whether a value is at an end of what was searched beyond which there may be more."""
    minimum = HYPERPARAMETERS[name].minimum if name in HYPERPARAMETERS else -math.inf
    if isinstance(dimension, Range):
        low, high, here = dimension.low, dimension.high, float(value)
        if dimension.log:
            low, high, here = math.log(low), math.log(high), math.log(here)
        near = EDGE * (high - low)
        # An end that is the end of what makes sense is no reason to look further, nor is zero.
        sensible = dimension.low > minimum and dimension.low != 0
        return (here <= low + near and sensible) or here >= high - near
    if isinstance(dimension, Choices) and not isinstance(value, (str, bool)):
        ends = min(dimension.values), max(dimension.values)
        return bool(value == ends[1] or (value == ends[0] and value > minimum))
    return False


def _figures(material: Material, line: TrialLine) -> Table:
    summary = material.summary
    first = summary.headline
    names = sorted(line.figures, key=lambda name: (name != first, name))
    rows = [
        [f"#{line.number} in the search", *(figure(name, line.figures[name]) for name in names)]
    ]
    for again in material.certainty.retrained:
        if again.trial == line.number and again.figures:
            again_on = f"the same on {seeds(len(again.figures), 'other ')}"
            lost = f" ({again.failed} more diverged or failed)" if again.failed else ""
            rows.append([again_on + lost, *_spreads(again, names)])
    for name, figures in summary.baselines.items():
        cells = [figure(one, figures[one]) if one in figures else "" for one in names]
        rows.append([name.replace("_", " "), *cells])
    return Table(["", *(name.replace("_", " ") for name in names)], rows, frozenset({0}))


def _tested(material: Material, line: TrialLine) -> list[Block]:
    """What the look at the test part showed, if it was at this trial's configuration."""
    looks = material.certainty.looks
    last = looks[-1] if looks else {}
    if last.get("trial") != line.number or "figures" not in last:
        return []  # Older versions recorded one figure alone, which the first sentence has.
    each, first = last["figures"]["seeds"], last["metric"]
    names = sorted(each[0], key=lambda name: (name != first, name))
    spreads = [(name, *mean_and_std([one[name] for one in each])) for name in names]
    rows = [[f"#{line.number} on {seeds(len(each))}", *(around(*spread) for spread in spreads)]]
    others = {name: {first: value} for name, value in last.get("baselines", {}).items()}
    together = {"the seeds' ensemble": last["figures"]["ensemble"]} if len(each) > 1 else {}
    for title, figures in {**together, **others, **last.get("baseline_figures", {})}.items():
        cells = [figure(name, figures[name]) if name in figures else "" for name in names]
        rows.append([title.replace("_", " "), *cells])
    title = Paragraph(f"Test figures{_unit(material.summary)}, which chose nothing:")
    columns = [name.replace("_", " ") for name in names]
    return [title, Table(["", *columns], rows, frozenset({0}))]


def _retrained(material: Material) -> Table:
    """Every configuration that was trained again, beside the figure that decides."""
    summary = material.summary
    names = list(dict.fromkeys([summary.metric, summary.headline]))
    lines = {line.number: line for line in summary.ranking}
    rows = []
    for one in material.certainty.retrained:
        figures = lines[one.trial].figures if one.trial in lines else {}
        cells = []
        for name, spread in zip(names, _spreads(one, names), strict=True):
            cells += [figure(name, figures[name]) if name in figures else "", spread]
        lost = f", {one.failed} more failed" if one.failed else ""
        mark = " (winner)" if one.trial == material.certainty.winner else ""
        rows.append([f"#{one.trial}{mark}", *cells, f"{len(one.figures)}{lost}"])
    words = [name.replace("_", " ") for name in names]
    titles = [title for word in words for title in (word, f"{word} again")]
    return Table(["trial", *titles, "seeds"], rows)


def _spreads(again: Any, names: Iterable[str]) -> list[str]:
    found = [(name, again.spread(name)) for name in names]
    return ["" if math.isnan(mean) else around(name, mean, std) for name, (mean, std) in found]


def _ranking(summary: Summary) -> Table:
    name = summary.headline
    names = [summary.metric] if name == summary.metric else [summary.metric, name]
    own = own_columns(summary)
    titles = [one.replace("_", " ") for one in names]
    headings = ["trial", *titles, "epoch", *COLUMNS, *own, "finding"]
    rows = [
        [
            f"#{line.number}",
            *(figure(one, line.figures[one]) if one in line.figures else "" for one in names),
            f"{line.epoch or '-'}/{line.epochs}",
            *cells_of(line, own),
            line.finding.name if line.finding else "",
        ]
        for line in summary.ranking[:SHOWN]
    ]
    return Table(headings, rows)


def _notes(summary: Summary) -> list[Block]:
    """What the figures are of, and what is to be known besides."""
    notes = [*summary.notes, *([f"Enough: {summary.enough}"] if summary.enough else [])]
    parts = {"The data that it was trained and judged on:": summary.described, "Notes:": notes}
    found = [(title, lines) for title, lines in parts.items() if lines]
    return [block for title, lines in found for block in (Paragraph(title), Bullets(lines))]
