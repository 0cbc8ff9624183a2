"""The sections of a report, in the order in which a person asks: the answer first, proof after."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from search.certainty import Certainty, around, seeds
from search.diagnosis import ADVICE
from search.dimensions import HYPERPARAMETERS, Choices, Dimension, Fixed, Range
from search.documents import Block, Bullets, Paragraph, Picture, Section, Table
from search.entries import Clock, Entry, trained_here
from search.importance import FEWEST, FEWEST_GOOD, RESAMPLES, Importance
from search.report import Summary, TrialLine
from search.space_pictures import (
    coordinates_picture,
    importance_picture,
    timeline_picture,
)
from search.study_pictures import (
    FEWEST_POINTS,
    choose_examples,
    curves_picture,
    progress_picture,
    rate_picture,
)
from search.trial import Goal, Outcome
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
        Paragraph("How sure is this?", lead=True),
        Bullets([*material.certainty.sentences, *_hints(line, material.space)]),
    ]
    if len(summary.ranking) > 1:
        blocks += [Paragraph("The best trials:"), _ranking(summary)]
    return Section("The answer", [*blocks, *_notes(summary)])


def _no_answer(material: Material) -> str:
    counts = material.summary.counts
    if not counts["total"]:
        return "No trial has been trained yet, so there is no answer."
    said = f"No trial of {counts['total']} has completed, so there is no answer."
    plainly = counts["pruned"] - counts["diverged"] - counts["out_of_memory"]
    remedies = {
        "diverged": "most diverged: search smaller learning rates, or clip gradients",
        "out_of_memory": "most ran out of memory: search smaller networks or batches",
        "failed": "most failed: the reasons are below",
        "pruned": "most were worse than their peers",
        "interrupted": "most were interrupted and go on with rnn-search resume "
        f"{material.summary.name}",
    }
    numbers = {name: counts[name] for name in ("diverged", "out_of_memory", "failed")}
    numbers |= {"pruned": plainly, "interrupted": counts["interrupted"]}
    most = max(numbers, key=lambda name: numbers[name])
    return said + (f" Of these {remedies[most]}." if numbers[most] else "")


def _headline(material: Material, line: TrialLine) -> str:
    """Says what the answer is worth: on the test part if it was looked at, else on validation."""
    summary, looks = material.summary, material.certainty.looks
    count = summary.counts["total"]
    if looks and looks[-1]["trial"] == line.number:
        last, name = looks[-1], looks[-1]["metric"]
        several = len(last["seeds"]) > 1
        found = around(name, last["mean"], last["std"] if several else math.nan)
        return (
            f"#{line.number} of {count} trials, the winner of an evaluation: test "
            f"{name.replace('_', ' ')} {found} over {seeds(len(last['seeds']))}."
            f"{_beside(name, last['mean'], last.get('baselines', {}))}"
        )
    which = f"the best of {count} trials" if count > 1 else "the only trial"
    name = summary.headline
    if name not in line.figures:
        return f"#{line.number}, {which}."
    naive = {key: figures[name] for key, figures in summary.baselines.items() if name in figures}
    return (
        f"#{line.number}, {which}: validation {name.replace('_', ' ')} "
        f"{figure(name, line.figures[name])} at epoch {line.epoch} of {line.epochs}."
        f"{_beside(name, line.figures[name], naive)}"
    )


def _beside(name: str, mine: float, naive: Mapping[str, float]) -> str:
    """Says what the best naive method has, and plainly if that is better."""
    if not naive:
        return ""
    value = best_of(name, *naive.values())
    words = next(key for key in naive if naive[key] == value).replace("_", " ")
    if mine == best_of(name, mine, value):
        return f" The best naive method, {words}, has {figure(name, value)}."
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


def _hints(line: TrialLine, space: Mapping[str, Dimension]) -> list[str]:
    """Says what its curve advises, and which values lie at an end of what was searched."""
    said = []
    if line.finding is not None and line.finding.name != "healthy":
        said.append(f"Its curve is {line.finding.name}: {line.finding.advice}.")
    found = [
        f"{name.replace('_', ' ')} {_value(value)}"
        for name, value in line.params.items()
        if _at_edge(name, value, space[name])
    ]
    if found:
        where = "At the end of what was searched, so that better may lie beyond"
        said.append(f"{where}: {', '.join(found)}.")
    return said


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
            rows.append([again_on, *_spreads(again, names)])
    for name, figures in summary.baselines.items():
        cells = [figure(one, figures[one]) if one in figures else "" for one in names]
        rows.append([name.replace("_", " "), *cells])
    return Table(["", *(name.replace("_", " ") for name in names)], rows, frozenset({0}))


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
    notes = [*summary.notes, *([f"Enough: {summary.enough}"] if summary.enough else [])]
    return [Paragraph("Notes:"), Bullets(notes)] if notes else []


def rates(material: Material) -> Section:
    """Validation loss against learning rate, for all trials."""
    title = "Loss against learning rate"
    drawn = [e for e in material.entries if "learning_rate" in e.line.params and _was_judged(e)]
    if not drawn:
        said = f"{_none_over(material) or 'No trial has a loss'}, so there is nothing to draw."
        return Section(title, [Paragraph(said)])
    said = (
        "Each point is a trial. On the left the rate is too small to get anywhere in the epochs "
        "there were, on the right so large that training jumps or diverges; losses off the scale "
        "and diverged trials lie at the upper edge. 0.01 is marked."
    )
    about = f"Validation loss of {len(drawn)} trials against their learning rates, by finding."
    if len(drawn) >= FEWEST_POINTS:
        said += " The line joins the best trial of each third of a decade."
    png = rate_picture(drawn, material.marked, material.summary.constant_loss)
    return Section(title, [Picture("rate.png", png, about), Paragraph(said)])


def _none_over(material: Material) -> str:
    """Says, if no trial is over, how far they are: their losses count when they are."""
    if not material.entries or any(entry.ended is not None for entry in material.entries):
        return ""
    trained = sum(entry.line.epochs for entry in material.entries)
    return f"No trial is over yet ({trained} epoch{'s' * (trained != 1)} trained so far)"


def _was_judged(entry: Entry) -> bool:
    if entry.ended is None or entry.line.outcome == Outcome.FAILED:
        return False
    return entry.loss is not None or entry.line.outcome == Outcome.DIVERGED


def curves(material: Material) -> Section:
    """Training and validation curves, and what they say."""
    title = "Curves of the best and of each finding"
    chosen = choose_examples(material.entries, material.marked)
    if chosen:
        about = "Training and validation loss by epoch of " + ", ".join(
            f"#{entry.line.number} ({name})" for name, entry in chosen
        )
        png = curves_picture(chosen, material.goal.metric)
        shown: Block = Picture("curves.png", png, f"{about}.")
    else:
        why = _none_over(material) or "No trial has finished an epoch"
        shown = Paragraph(f"{why}, so there is no curve.")
    examples = {name: entry.line.number for name, entry in chosen}
    rows = [
        [name, str(count), f"#{examples[name]}" if name in examples else "", ADVICE[name][0]]
        for name, count in _count_findings(material.entries).items()
    ]
    table = Table(["finding", "trials", "example", "what to do"], rows)
    return Section(title, [shown, *([table] if rows else []), *_follow_ups(material)])


def _follow_ups(material: Material) -> list[Block]:
    """Says what came of the trials that followed the advice on another."""
    ranks = {entry.line.number: rank for entry, rank in material.ranked}
    pairs = [
        (rank, ranks[entry.line.follows])
        for entry, rank in material.ranked
        if entry.line.follows is not None and entry.line.follows in ranks
    ]
    if not pairs:
        return []
    better = sum(mine < other for mine, other in pairs)
    said = f"Trials that followed the advice on another: {len(pairs)}; better than it: {better}."
    return [Paragraph(said)]


def _count_findings(entries: Sequence[Entry]) -> dict[str, int]:
    names = [entry.finding for entry in entries if entry.finding]
    return dict(sorted(((n, names.count(n)) for n in set(names)), key=lambda p: (-p[1], p[0])))


def progress(material: Material) -> Section:
    """The best so far, over trials and over time."""
    title = "Progress"
    best = material.summary.best
    if best is None:
        return Section(title, [Paragraph("No trial has completed, so nothing has got better yet.")])
    png = progress_picture(material.entries, material.goal, material.clock)
    last = max(material.entries, key=lambda entry: entry.line.number).line.number
    said = f"The best trial was #{best.number}; {last - best.number} came after it."
    words = material.goal.metric.replace("_", " ")
    about = f"The best {words} so far, over trials and over time worked."
    return Section(title, [Picture("progress.png", png, about), Paragraph(said)])


def _why_none(material: Material) -> str:
    """Says why no hyperparameter is said to matter."""
    good = sum(math.isfinite(rank) for _, rank in material.ranked)
    if len(material.ranked) < FEWEST:
        return (
            f"Too few trials to say: {len(material.ranked)} were judged, and fewer than {FEWEST} "
            "would give bars as if they knew."
        )
    if good < FEWEST_GOOD:
        return f"Too few trials to say: only {good} neither diverged nor ran out of memory."
    return "The best trials do not differ from the others in any hyperparameter."


def importance(material: Material) -> Section:
    """How much each hyperparameter matters, and how sure that is."""
    title = "Which hyperparameters matter"
    found = material.importances
    if not found:
        return Section(title, [Paragraph(_why_none(material))])
    matter = [one.name.replace("_", " ") for one in found if one.matters]
    clear = f"More than chance: {', '.join(matter)}." if matter else "None is clearly above chance."
    said = (
        f"{clear} PED-ANOVA: how differently a hyperparameter is distributed among the best trials "
        f"and among all that were judged, pruned and diverged ones included. Bars hold nine in ten "
        f"of {RESAMPLES} resamples of the trials; the mark is what one in twenty resamples with "
        "shuffled results reaches. It says what distinguished the best within what was tried; what "
        "the search soon settled on cannot show."
    )
    about = "Importances: " + "; ".join(f"{o.name} {o.low:.2f} to {o.high:.2f}" for o in found)
    return Section(
        title, [Picture("importance.png", importance_picture(found), about), Paragraph(said)]
    )


def coordinates(material: Material) -> Section:
    """Every trial as a line across its hyperparameters."""
    title = "Where the best trials lie"
    if len(material.ranked) < 2:
        said = "Fewer than two trials have a result, so there is nothing to compare."
        return Section(title, [Paragraph(said)])
    if all(isinstance(dimension, Fixed) for dimension in material.space.values()):
        said = "Every hyperparameter is fixed, so there is nothing to compare."
        return Section(title, [Paragraph(said)])
    png = coordinates_picture(material.ranked, material.space)
    about = "Each trial as a line across its hyperparameters, the best ones dark."
    return Section(title, [Picture("coordinates.png", png, about)])


def timeline(material: Material) -> Section:
    """Which worker had which trial when."""
    title = "Who trained what when"
    known = trained_here(material.entries)
    if not known:
        return Section(title, [Paragraph("No trial of its own is over yet.")])
    about = "Which worker trained when, by how its trials ended."
    return Section(title, [Picture("timeline.png", timeline_picture(known, material.clock), about)])
