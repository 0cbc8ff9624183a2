"""The best configurations on several seeds: which they are, what is trained, which one wins.

One lucky seed is no result: the best configurations are trained again on the same several seeds,
the one with the best mean validation value wins, and only then is the test part looked at. A
retraining that diverges or fails has no figure; a configuration with fewer of these beats any with
more, whatever their means, because a network that may not train is no winner.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import TrialState

from search.errors import RunError, StudyError
from search.retraining import Result, Retraining
from search.sampling import merit
from search.space import HyperParams, ordered
from search.stored_study import StoredStudy
from search.trial import Goal, derive_seed

Figures = dict[str, float]

STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""What Student's t exceeds by chance in one case of twenty, either way, with 1 to 10 degrees of
freedom; the last stands for more (Student 1908, Biometrika 6, page 1; any table of his t)."""


@dataclass(frozen=True)
class Candidate:
    """A configuration of the study.

    Attributes:
        trial: Number of the trial that had it.
        value: The searched figure of that trial.
        figures: All its validation figures.
        params: The configuration.
    """

    trial: int
    value: float
    figures: Figures
    params: HyperParams


@dataclass(frozen=True)
class Contest:
    """A candidate with what came of its retrainings, one for each seed."""

    candidate: Candidate
    results: tuple[Result, ...]

    @property
    def complete(self) -> list[Result]:
        """The retrainings that count."""
        return [result for result in self.results if result.complete]

    @property
    def failed(self) -> int:
        """How many retrainings have no figure: they diverged or failed."""
        return len(self.results) - len(self.complete)

    def spread(self, name: str) -> tuple[float, float]:
        """Returns mean and standard deviation of a validation figure; NaN if no seed has it."""
        return mean_and_std([result.figures[name] for result in self.complete])


def choose_candidates(stored: StoredStudy, top: int) -> list[Candidate]:
    """Returns the best distinct configurations, best first.

    Args:
        stored: The study.
        top: How many at most.

    Raises:
        StudyError: No trial has completed.
    """
    name, space = stored.config.name, stored.config.space
    done = [t for t in stored.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    found: dict[HyperParams, Candidate] = {}
    for trial in sorted(done, key=lambda trial: merit(trial, stored.goal)):
        values, figures = ordered(trial.params, space), trial.user_attrs.get("figures", {})
        if not space.keys() <= values.keys():  # A script of the user's has added it, with fewer.
            continue
        params = HyperParams.of(values)
        found.setdefault(params, Candidate(trial.number, trial.value or 0.0, figures, params))
    if not found:
        raise StudyError(
            f"the study '{name}' has no complete trial to evaluate; "
            f"give it more with rnn-search resume {name} --trials N"
        )
    return list(found.values())[:top]


def choose_seeds(study_seed: int, count: int, trials: int) -> list[int]:
    """Returns the seeds of an evaluation; more of them begin with the same.

    All configurations are trained with the same seeds, so that they differ in nothing else.

    Args:
        study_seed: The study's seed.
        count: How many.
        trials: How many trials the study has; no trial's own seed is among those returned.
    """
    taken = {derive_seed(study_seed, "training", number) for number in range(trials)}
    seeds: list[int] = []
    place = 0
    while len(seeds) < count:
        seed = derive_seed(study_seed, "evaluation", place)
        if seed not in taken:
            seeds.append(seed)
            taken.add(seed)
        place += 1
    return seeds


def plan_retrainings(
    stored: StoredStudy, candidates: Sequence[Candidate], seeds: Sequence[int]
) -> list[Retraining]:
    """Returns a retraining for each seed of each candidate, all of one seed before the next.

    An evaluation that is interrupted has thus something of every candidate.
    """
    pairs = [(seed, candidate) for seed in seeds for candidate in candidates]
    return [
        Retraining(
            index,
            candidate.trial,
            seed,
            candidate.params,
            stored.folder / "evaluation" / f"{candidate.trial:05d}-{seed}",
        )
        for index, (seed, candidate) in enumerate(pairs)
    ]


def choose_winner(contests: Sequence[Contest], goal: Goal) -> Contest:
    """Returns the contest with the fewest failures and, among these, the best mean value.

    Raises:
        RunError: Every retraining diverged or failed.
    """
    sign = 1 if goal.minimize else -1

    def rank(contest: Contest) -> tuple[int, float]:
        mean = contest.spread(goal.metric)[0]
        return contest.failed, math.inf if math.isnan(mean) else sign * mean

    winner = min(contests, key=rank)
    if not winner.complete:
        reason = winner.results[0].reason if winner.results else "there was none"
        raise RunError(
            f"every retraining failed, the first of the best trial with: {reason}; with a larger "
            "--top further configurations are trained, too"
        )
    return winner


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Returns mean and sample standard deviation (of n - 1).

    NaN is what cannot be said: both of no value, the deviation of a single one or where one is not
    finite.
    """
    mean = statistics.fmean(values) if values else math.nan
    finite = len(values) > 1 and math.isfinite(sum(values))
    return mean, statistics.stdev(values) if finite else math.nan


def student(count: int) -> float:
    """Returns what `STUDENT` has for so many values, two or more."""
    return STUDENT[min(count - 1, len(STUDENT)) - 1]


def differ(one: Sequence[float], other: Sequence[float]) -> bool:
    """Says whether two lists of values have means that chance alone would hardly part so far.

    That is Welch's t beyond `STUDENT`, of as many degrees of freedom as the shorter list has.
    """
    fewest = min(len(one), len(other))
    if fewest < 2 or not math.isfinite(sum(one) + sum(other)):
        return False
    error = math.sqrt(sum(statistics.variance(part) / len(part) for part in (one, other)))
    gap = abs(statistics.fmean(one) - statistics.fmean(other))
    return gap > student(fewest) * error


def told_apart(winner: Sequence[float], rivals: Mapping[int, Sequence[float]], name: str) -> str:
    """Says which rivals of a winner could as well have won.

    Args:
        winner: The values of its retrainings.
        rivals: Those of the others', by trial; whoever has none is no rival.
        name: Of the figure that decided.

    Returns:
        A sentence; nothing if there is no rival.
    """
    rivals = {trial: values for trial, values in rivals.items() if values}
    alike = [f"#{trial}" for trial, values in rivals.items() if not differ(winner, values)]
    words = name.replace("_", " ")
    if alike:
        return (
            f"By the {words} of its retrainings it cannot be told apart from "
            f"{' and '.join(alike)}: the seeds differ too much, or are too few."
        )
    others = " and ".join(f"#{trial}" for trial in rivals)
    return f"By the {words} of its retrainings it differs from {others} beyond chance." * bool(
        others
    )
