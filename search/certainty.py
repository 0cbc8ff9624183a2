"""How sure a study's answer is: by its retrainings if there were any, else by gap and noise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from search.entries import Entry
from search.evaluation import LOOKS, mean_and_std
from search.report import Summary
from search.stored_study import StoredStudy
from search.trial import Outcome
from search.trial_files import RESULT, load_result
from search.wording import best_of, figure, trusting


@dataclass(frozen=True)
class Retrained:
    """A configuration that was trained again with other seeds.

    Attributes:
        trial: Number of the trial whose configuration it is.
        figures: Validation figures of each retraining that completed.
        failed: How many others have no figure.
    """

    trial: int
    figures: list[dict[str, float]]
    failed: int

    def spread(self, name: str) -> tuple[float, float]:
        """Returns mean and standard deviation of a figure; NaN if no retraining has it."""
        return mean_and_std([one[name] for one in self.figures if name in one])


@dataclass(frozen=True)
class Certainty:
    """What is known beyond one training of each configuration.

    Attributes:
        retrained: Every configuration that was trained again, in order of the trials.
        looks: All looks at the test part, as an evaluation has recorded them.
        sentences: How sure the answer is, in words.
    """

    retrained: list[Retrained]
    looks: list[dict[str, Any]]
    sentences: list[str]

    @property
    def winner(self) -> int | None:
        """The trial whose configuration won the last evaluation; None: there was none."""
        return int(self.looks[-1]["trial"]) if self.looks else None


def read_certainty(stored: StoredStudy, summary: Summary, entries: Sequence[Entry]) -> Certainty:
    """Reads what evaluations left; the test part itself is not opened."""
    looks = list(stored.study.user_attrs.get(LOOKS, []))
    retrained = _read_retrained(stored)
    if summary.best is None:
        return Certainty(retrained, looks, [])
    if looks:
        return Certainty(retrained, looks, _by_seeds(summary, retrained, looks))
    evaluate = f"rnn-search evaluate {summary.name}{trusting(stored.config)}"
    return Certainty(retrained, looks, _by_gap(summary, entries, evaluate))


def _read_retrained(stored: StoredStudy) -> list[Retrained]:
    found: dict[int, Retrained] = {}
    for file in sorted((stored.folder / "evaluation").glob(f"*/{RESULT}")):
        result = load_result(file.parent)
        if result is None or not isinstance(result.get("trial"), int):
            continue
        one = found.setdefault(result["trial"], Retrained(result["trial"], [], 0))
        if result.get("outcome") == Outcome.COMPLETE:
            one.figures.append(result.get("figures", {}))
        else:
            found[one.trial] = Retrained(one.trial, one.figures, one.failed + 1)
    return [found[trial] for trial in sorted(found)]


def _by_seeds(
    summary: Summary, retrained: Sequence[Retrained], looks: Sequence[dict[str, Any]]
) -> list[str]:
    last, name = looks[-1], looks[-1]["metric"]
    words, count = name.replace("_", " "), len(last["seeds"])
    found = f"{figure(name, last['mean'])}; of one seed nothing says how much another would differ"
    if count > 1:
        found = (
            f"{figure(name, last['mean'])} on average, standard deviation "
            f"{figure(name, last['std'])} between seeds; their ensemble "
            f"{figure(name, last['ensemble'])}"
        )
    said = [
        f"The configuration of #{last['trial']} won an evaluation on {seeds(count)} "
        f"({last['time']}). Test {words}: {found}."
    ]
    best = next(
        (one for one in retrained if summary.best and one.trial == summary.best.number), None
    )
    if best is not None and summary.best is not None and name in summary.best.figures:
        mean, _ = best.spread(name)
        if not math.isnan(mean):
            promised = summary.best.figures[name]
            worse = mean != promised == best_of(name, mean, promised)
            judged = "The search was optimistic" if worse else "The search was not optimistic"
            said.append(
                f"{judged}: its best trial, #{best.trial}, had a validation {words} of "
                f"{figure(name, promised)}; trained again it has {figure(name, mean)} on average."
            )
    if len(looks) > 1:
        said.append(
            f"This was look {len(looks)} at the test part; only the first "
            f"({figure(name, looks[0]['mean'])}, #{looks[0]['trial']}) is quite honest."
        )
    return said


def seeds(count: int, which: str = "") -> str:
    """Writes how many seeds something was trained with."""
    return f"{count} {which}seed{'' if count == 1 else 's'}"


def around(name: str, mean: float, std: float) -> str:
    """Writes a mean and, where there are several values, their standard deviation."""
    return figure(name, mean) + ("" if math.isnan(std) else f" ± {figure(name, std)}")


def _by_gap(summary: Summary, entries: Sequence[Entry], evaluate: str) -> list[str]:
    best = summary.best
    assert best is not None
    how = f"How much: {evaluate}"
    said = [f"One training with one seed; another seed gives another value. {how}"]
    if len(summary.ranking) > 1:
        worse = "expect it to do somewhat worse when it is trained again"
        said = [
            f"One training with one seed, and the best of {len(summary.ranking)}: {worse}. {how}"
        ]
    others = [line for line in summary.ranking if line.params != best.params]
    if not others:
        return [*said, "No other configuration has completed, so there is nothing to compare with."]
    second, metric = others[0], summary.metric
    gap = abs((second.value or 0.0) - (best.value or 0.0))
    entry = next(one for one in entries if one.line.number == best.number)
    noise = wobble([value for value in entry.values if value is not None])
    words = metric.replace("_", " ")
    ahead = f"It is ahead of the next configuration, #{second.number}, by {gap:.3g} in {words}."
    if noise is None:
        return [*said, f"{ahead} It trained too few epochs to say how much of that is noise."]
    verdict = (
        "more than its own wobble, so it is probably the better one of the two"
        if gap > 2 * noise
        else "so the two cannot be told apart"
    )
    return [
        *said,
        f"{ahead} Its own value moves by {noise:.3g} from one epoch to the next: {verdict}.",
    ]


def wobble(values: Sequence[float]) -> float | None:
    """Returns the median change from epoch to epoch in the second half of a training.

    Args:
        values: The searched figure by epoch.

    Returns:
        None for fewer than three changes: they would say nothing.
    """
    late = [value for value in values[len(values) // 2 :] if math.isfinite(value)]
    changes = [abs(after - before) for before, after in pairwise(late)]
    return statistics.median(changes) if len(changes) >= 3 else None
