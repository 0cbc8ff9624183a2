"""The winners on several seeds, beside the baselines, and the one look at the test part.

One lucky seed is no result: the best configurations are trained again on the same several seeds,
the one with the best mean validation value wins, and only then is the test part looked at. A
retraining that diverges or fails has no figure; a configuration with fewer of these beats any with
more, whatever their means, because a network that may not train is no winner.
"""

from __future__ import annotations

import datetime
import math
import statistics
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from optuna.trial import TrialState
from torch import Tensor

from search.checkpoints import load_weights
from search.data.splits import Splits
from search.ensembles import Networks
from search.errors import RunError, StudyError
from search.factories import Factory
from search.models import Network, build
from search.report import headline_of
from search.retraining import Result, Retraining, shown
from search.space import HyperParams, ordered
from search.stored_study import StoredStudy
from search.training import one_thread
from search.trial import Goal, derive_seed

LOOKS = "rnn_search_test_looks"
"""The study attribute that lists every look at the test part."""
Figures = dict[str, float]


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
    sign = 1 if stored.goal.minimize else -1
    done = [t for t in stored.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    found: dict[HyperParams, Candidate] = {}
    for trial in sorted(done, key=lambda trial: sign * (trial.value or 0.0)):
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
        failures = len(contest.results) - len(contest.complete)
        return failures, math.inf if math.isnan(mean) else sign * mean

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

    NaN is what cannot be said: both of no value, the deviation of a single one.
    """
    mean = statistics.fmean(values) if values else math.nan
    return mean, statistics.stdev(values) if len(values) > 1 else math.nan


def headline(stored: StoredStudy) -> str:
    """Returns the figure that a person looks at, in the data's own units."""
    metric = stored.config.metric
    return headline_of(stored.config.data.task, metric, stored.attributes["baselines"])


@torch.no_grad()
def evaluate_together(
    models: Sequence[Network], splits: Splits, part: str
) -> tuple[list[Figures], Figures]:
    """Returns the figures of each network and of their ensemble, in one pass over a part.

    Args:
        models: On the same device as ``splits``.
        splits: The data.
        part: ``"valid"`` or ``"test"``.
    """
    total: Tensor | None = None
    networks = Networks(splits.task, tuple(models), joined=True)
    for outputs, targets in networks.outputs_of(getattr(splits, part)):
        answers = [*outputs, networks.join(outputs)]
        tally = torch.stack([splits.tally(answer, targets) for answer in answers])
        total = tally if total is None else total + tally
    if total is None:
        raise ValueError(f"the {part} part is empty")
    *each, ensemble = (splits.figures(tally) for tally in total)
    return each, ensemble


def load_models(
    results: Sequence[Result], splits: Splits, device: str, factory: Factory | None = None
) -> list[Network]:
    """Returns the networks of complete retrainings, on ``device``.

    Raises:
        RunError: A file of weights is gone, damaged, or another network's.
    """
    models = []
    for result in results:
        folder = result.retraining.folder
        model = build(result.retraining.params, splits, factory)
        weights = load_weights(folder)
        try:
            if weights is None:
                raise RuntimeError("no weights")
            model.load_state_dict(weights)
        except RuntimeError:
            raise RunError(
                f"{folder} has no weights that fit; remove this folder and evaluate again"
            ) from None
        models.append(model.to(device))
    return models


@dataclass(frozen=True)
class Look:
    """A look at the test part.

    Attributes:
        each: Figures of each seed's network.
        ensemble: Figures of the networks together.
        baselines: Figures of the naive methods, by name.
    """

    each: list[Figures]
    ensemble: Figures
    baselines: dict[str, Figures]


def look_at_test(
    winner: Contest, splits: Splits, device: str, factory: Factory | None = None
) -> Look:
    """Judges the winner's networks and every baseline on the test part."""
    with one_thread():
        target = splits.to(torch.device(device))
        models = load_models(winner.complete, splits, device, factory)
        each, ensemble = evaluate_together(models, target, "test")
    return Look(each, ensemble, splits.baselines("test"))


def record_look(stored: StoredStudy, winner: Contest, look: Look) -> list[dict[str, Any]]:
    """Adds a look at the test part to the study's attributes, before anybody sees its figures.

    Returns:
        All looks so far, the new one last.
    """
    metric = headline(stored)
    mean, std = mean_and_std([figures[metric] for figures in look.each])
    new = {
        "id": uuid.uuid4().hex,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "trial": winner.candidate.trial,
        "seeds": [result.retraining.seed for result in winner.complete],
        "metric": metric,
        "mean": mean,
        "std": None if math.isnan(std) else std,
        "ensemble": look.ensemble[metric],
        "figures": {"seeds": look.each, "ensemble": look.ensemble},
        "baselines": {n: f[metric] for n, f in look.baselines.items() if metric in f},
    }

    def add() -> list[dict[str, Any]]:
        with stored.database.exclusive():
            looks: list[dict[str, Any]] = stored.study.user_attrs.get(LOOKS, [])
            # Where the server's answer was lost, it is there already.
            if new["id"] not in [one.get("id") for one in looks]:
                looks = [*looks, new]
                stored.study.set_user_attr(LOOKS, looks)
        return looks

    return stored.database.patiently(add)


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        name: The study's name.
        task: Its task.
        metric: The figure that is shown.
        searched: The figure that the winner is chosen by.
        contests: Every candidate with its retrainings, the best trial's first.
        winner: The one that won.
        look: The look at the test part.
        looks: All looks so far, this one last.
        baselines: Validation figures of the naive methods, by name.
    """

    name: str
    task: str
    metric: str
    searched: str
    contests: list[Contest]
    winner: Contest
    look: Look
    looks: list[dict[str, Any]]
    baselines: dict[str, Figures]

    @property
    def test(self) -> tuple[float, float]:
        """Mean and standard deviation of the shown figure over the winner's seeds."""
        return mean_and_std([figures[self.metric] for figures in self.look.each])

    @property
    def optimism(self) -> tuple[float, float]:
        """The best trial's validation figure, and the mean of its retrainings."""
        best = self.contests[0]
        return best.candidate.figures.get(self.metric, math.nan), best.spread(self.metric)[0]

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints: plain data, None for what is not a number."""
        complete = self.winner.complete
        promised, kept = self.optimism
        plain = {
            "name": self.name,
            "task": self.task,
            "winner": self.winner.candidate.trial,
            "params": self.winner.candidate.params.to_dict(),
            "valid": {
                **self._part([result.figures for result in complete], self.baselines),
                "chosen_by": self.searched,
            },
            "test": {
                **self._part(self.look.each, self.look.baselines),
                "ensemble": self.look.ensemble[self.metric],
                "ensemble_figures": self.look.ensemble,
            },
            "optimism": {
                "trial": self.contests[0].candidate.trial,
                "metric": self.metric,
                "search": promised,
                "retrained": kept,
                "difference": kept - promised,
            },
            "candidates": [self._candidate(contest) for contest in self.contests],
            "weights": [str(result.retraining.folder) for result in complete],
            "looks": self.looks,
        }
        return _without_nan(plain)  # type: ignore[no-any-return]

    def _part(self, each: list[Figures], baselines: dict[str, Figures]) -> dict[str, Any]:
        values = [figures[self.metric] for figures in each]
        mean, std = mean_and_std(values)
        return {
            "metric": self.metric,
            "mean": mean,
            "std": std,
            "seeds": values,
            "figures": each,
            "baselines": baselines,
        }

    def _candidate(self, contest: Contest) -> dict[str, Any]:
        mean, std = contest.spread(self.metric)
        return {
            "trial": contest.candidate.trial,
            "params": contest.candidate.params.to_dict(),
            "search": contest.candidate.figures.get(self.metric, math.nan),
            "mean": mean,
            "std": std,
            "failed": len(contest.results) - len(contest.complete),
            "seeds": [shown(result) for result in contest.results],
        }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
