"""How sure a study's answer is: by its retrainings if there were any, else by gap and noise."""

from __future__ import annotations

import datetime
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from search.entries import Entry
from search.evaluation import mean_and_std, student, told_apart
from search.looks import looks_before, looks_of
from search.report import Summary
from search.stored_study import StoredStudy
from search.trial import Outcome
from search.trial_files import RESULT, load_result
from search.wording import best_of, count_of, figure, trusting


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

    def values(self, name: str) -> list[float]:
        """Returns a figure of each retraining that has it."""
        return [one[name] for one in self.figures if name in one]

    def spread(self, name: str) -> tuple[float, float]:
        """Returns mean and standard deviation of a figure; NaN if no retraining has it."""
        return mean_and_std(self.values(name))


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
    looks = looks_of(stored)
    retrained = _read_retrained(stored, looks[-1] if looks else {})
    if summary.best is None:
        return Certainty(retrained, looks, [])
    evaluate = f"rnn-search evaluate {summary.name}{trusting(stored.config)}"
    if not looks:
        return Certainty(
            retrained, looks, [*_by_gap(summary, entries, evaluate), *_earlier(stored)]
        )
    said = [
        _won(looks[-1]),
        *_rivals(looks[-1], retrained, summary.metric),
        *_optimism(summary, retrained, looks[-1]["metric"]),
        *_earlier(stored),
        *_since(summary, entries, looks[-1], retrained, evaluate),
    ]
    return Certainty(retrained, looks, said)


def _read_retrained(stored: StoredStudy, last: Mapping[str, Any]) -> list[Retrained]:
    """Reads the retrainings of all evaluations that were of the same code as the last one."""
    files = sorted((stored.folder / "evaluation").glob(f"*/{RESULT}"))
    results = [result for result in map(load_result, (file.parent for file in files)) if result]
    seen = set(last.get("seeds", []))
    code = {_code(one) for one in results if _is(one, last.get("trial")) and one["seed"] in seen}
    found: dict[int, Retrained] = {}
    for result in results:
        if not isinstance(result.get("trial"), int) or (code and _code(result) not in code):
            continue
        one = found.setdefault(result["trial"], Retrained(result["trial"], [], 0))
        if result.get("outcome") == Outcome.COMPLETE:
            one.figures.append(result.get("figures", {}))
        else:
            found[one.trial] = replace(one, failed=one.failed + 1)
    for candidate in last.get("candidates", []):
        one = found.get(candidate["trial"], Retrained(candidate["trial"], [], 0))
        # What failed is trained again the next time, so it has no file.
        found[one.trial] = replace(one, failed=max(one.failed, candidate["failed"]))
    return [found[trial] for trial in sorted(found)]


def _is(result: Mapping[str, Any], trial: int | None) -> bool:
    return result.get("trial") == trial and "seed" in result


def _code(result: Mapping[str, Any]) -> str | None:
    code: str | None = result.get("surroundings", {}).get("factory")
    return code


def _won(look: Mapping[str, Any]) -> str:
    """Says what won an evaluation, and its figure on the test part."""
    name, count = look["metric"], len(look["seeds"])
    found = f"{figure(name, look['mean'])}; of one seed nothing says how much another would differ"
    if count > 1:
        found = (
            f"{figure(name, look['mean'])} on average, standard deviation "
            f"{figure(name, look['std'])} between seeds; their ensemble "
            f"{figure(name, look['ensemble'])}"
        )
    failed = [one["failed"] for one in look.get("candidates", []) if one["trial"] == look["trial"]]
    of = f", {failed[0]} more diverged or failed" if sum(failed) else ""
    return (
        f"The configuration of #{look['trial']} won an evaluation on {seeds(count)}{of} "
        f"({look['time']}). Test {name.replace('_', ' ')}: {found}."
    )


def _rivals(look: Mapping[str, Any], retrained: Sequence[Retrained], name: str) -> list[str]:
    """Says which of the configurations that were trained with the winner's could have won."""
    values = {one.trial: one.values(name) for one in retrained}
    trials = [one["trial"] for one in look.get("candidates", [])]
    rivals = {trial: values[trial] for trial in trials if trial != look["trial"]}
    said = told_apart(values.get(look["trial"], []), rivals, name)
    return [said] if said else []


def _optimism(summary: Summary, retrained: Sequence[Retrained], name: str) -> list[str]:
    """Compares what the search had of its best trial with what that has on other seeds."""
    best, words = summary.best, name.replace("_", " ")
    again = [one for one in retrained if best and one.trial == best.number]
    if best is None or not again or name not in best.figures:
        return []
    (mean, _), failed, promised = again[0].spread(name), again[0].failed, best.figures[name]
    had = f"#{best.number}, had a validation {words} of {figure(name, promised)}"
    if math.isnan(mean):
        lost = f"its {count_of(failed, 'retraining')} all diverged or failed"
        return [f"The search was optimistic: its best trial, {had}; {lost}."] if failed else []
    has = f"trained again it has {figure(name, mean)} on average"
    if failed:
        on = f"of {seeds(len(again[0].figures))}, and diverged or failed on {seeds(failed)}"
        return [f"The search was optimistic: its best trial, {had}; {has} {on}."]
    count, std = len(again[0].values(name)), again[0].spread(name)[1]
    if count < 2 or abs(mean - promised) <= student(count) * std / math.sqrt(count):
        judged = f"Whether the search was optimistic, {seeds(count)} cannot say"
    else:
        worse = promised == best_of(name, mean, promised)
        judged = "The search was optimistic" if worse else "The search was not optimistic"
    return [f"{judged}: its best trial, {had}; {has}."]


def _earlier(stored: StoredStudy) -> list[str]:
    """Says that the test part was looked at before, also in a study that this was forked from."""
    before, looks = looks_before(stored), looks_of(stored)
    all_looks = [*before, *looks]
    if before and not looks:
        return [f"The test part was looked at before, in '{before[-1]['study']}'."]
    if len(all_looks) < 2:
        return []
    first = all_looks[0]
    of = f" of '{first['study']}'" if before else ""
    said = f"{figure(first['metric'], first['mean'])}, #{first['trial']}{of}"
    return [
        f"This was look {len(all_looks)} at the test part; only the first ({said}) is quite honest."
    ]


def _since(
    summary: Summary,
    entries: Sequence[Entry],
    look: Mapping[str, Any],
    retrained: Sequence[Retrained],
    evaluate: str,
) -> list[str]:
    """Says that trials have ended after the last evaluation, maybe a better one among them."""
    ends = [one.ended for one in entries if one.ended is not None]
    # Older looks say when they were, and not what they knew.
    looked = datetime.datetime.fromisoformat(look["time"]).timestamp()
    count = len(ends) - look.get("trials", sum(end <= looked for end in ends))
    if count < 1:
        return []
    best, known = summary.best, {one.trial for one in retrained}
    new = best is not None and best.number not in known and best.number != look["trial"]
    better = f", and the best of all, #{best.number}, was not in it" if best and new else ""
    verb = "has" if count == 1 else "have"
    return [f"{count_of(count, 'trial')} {verb} ended since it began{better}: {evaluate}"]


def seeds(count: int, which: str = "") -> str:
    """Writes how many seeds something was trained with."""
    return count_of(count, f"{which}seed")


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
    seed = "another seed may move either by more; which is better, training both again tells"
    if noise is None:
        return [*said, f"{ahead} But {seed}."]
    return [*said, f"{ahead} Its own moves by {noise:.3g} from one epoch to the next, and {seed}."]


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
