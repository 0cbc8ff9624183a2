"""The sections between a report's answer and its ending: what proves it, mostly pictures."""

from __future__ import annotations

import math

from search.diagnosis import ADVICE
from search.dimensions import Fixed
from search.documents import Block, Paragraph, Picture, Section, Table
from search.entries import Entry, trained_here
from search.importance import FEWEST, FEWEST_GOOD, RESAMPLES, Tried, inside_of
from search.report import count_findings
from search.report_answer import Material
from search.space_pictures import (
    coordinates_picture,
    importance_picture,
    timeline_picture,
)
from search.study_pictures import (
    choose_examples,
    curves_picture,
    has_envelope,
    progress_picture,
    rate_picture,
)
from search.trial import Outcome
from search.wording import count_of


def rates(material: Material) -> Section:
    """Validation loss against learning rate, for all trials."""
    title = "Loss against learning rate"
    drawn = [e for e in material.entries if "learning_rate" in e.line.params and _was_judged(e)]
    if not drawn:
        said = f"{_none_over(material) or 'No trial has a loss'}, so there is nothing to draw."
        return Section(title, [Paragraph(said)])
    said = (
        "Each point is a trial, a small one if its peers ended it early, whose loss might have "
        "become better yet. Too small a rate gets nowhere in the epochs there are, and too large a "
        "one jumps or diverges; losses off the scale and diverged trials without a loss lie at the "
        "upper edge. 0.01 is marked."
    )
    about = f"Validation loss of {len(drawn)} trials against their learning rates, by finding."
    if has_envelope(drawn):
        said += (
            " The line joins the best of the trials that peers did not end, by thirds of a decade."
        )
    png = rate_picture(drawn, material.marked, material.summary.constant_loss)
    return Section(title, [Picture("rate.png", png, about), Paragraph(said)])


def _none_over(material: Material) -> str:
    """Says, if no trial is over, how far they are: their losses count when they are."""
    if not material.entries or any(entry.ended is not None for entry in material.entries):
        return ""
    trained = sum(entry.line.epochs for entry in material.entries)
    return f"No trial is over yet ({count_of(trained, 'epoch')} trained so far)"


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
    # Some trials are diagnosed for the report only; the summary does not know of these.
    found = ((entry.finding, entry.line.outcome) for entry in material.entries)
    rows = [
        [name, str(count), f"#{examples[name]}" if name in examples else "", ADVICE[name][0]]
        for name, count in count_findings(found).items()
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
    ranked = [Tried(entry.line.params, rank) for entry, rank in material.ranked]
    inside = inside_of(ranked, material.space)
    good, out = sum(math.isfinite(one.rank) for one in inside), len(ranked) - len(inside)
    if len(inside) < FEWEST:
        beyond = f", {out} outside of what is searched left out" if out else ""
        return (
            f"Too few trials to say: {len(inside)} were judged{beyond}, and fewer than {FEWEST} "
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
