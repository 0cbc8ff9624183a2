"""The look at the test part, recorded before anybody sees it, and what an evaluation came to."""

from __future__ import annotations

import datetime
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from search.checkpoints import load_weights
from search.data.splits import Splits
from search.ensembles import Networks
from search.errors import RunError
from search.evaluation import Contest, Figures, mean_and_std
from search.factories import Factory
from search.models import Network, build
from search.report import headline_of
from search.retraining import Result, shown
from search.stored_study import LOOKS, StoredStudy
from search.training import one_thread
from search.trial import Goal


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


def looks_of(stored: StoredStudy) -> list[dict[str, Any]]:
    """Returns all looks at a study's test part, the first one first; a figure may be NaN."""
    return [*map(_with_nan, stored.study.user_attrs.get(LOOKS, []))]


def looks_before(stored: StoredStudy) -> list[dict[str, Any]]:
    """Returns the looks at the same test part in the studies that this one was forked from.

    Of each its ``time``, ``metric``, ``mean``, ``trial``, and the ``study`` that this is of.
    """
    return [*map(_with_nan, stored.attributes.get("fork", {}).get("looks", []))]


def _with_nan(value: Any) -> Any:
    """Returns figures that are numbers: JSON has None for NaN."""
    if isinstance(value, dict):
        return {key: _with_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_nan(inner) for inner in value]
    return math.nan if value is None else value


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


def record_look(
    stored: StoredStudy, contests: Sequence[Contest], winner: Contest, look: Look, trials: int
) -> list[dict[str, Any]]:
    """Adds a look at the test part to the study's attributes, before anybody sees its figures.

    The same networks again, with the same figures, are the look that they were.

    Args:
        stored: The study.
        contests: All, of which is noted how many retrainings count: files tell of most that
            diverged, and of none that failed.
        winner: The one that won.
        look: At its networks.
        trials: How many were over when the contests were chosen from them.

    Returns:
        All looks so far, the new one last.
    """
    new = {**_described(headline(stored), contests, winner, look), "trials": trials}

    def add() -> list[dict[str, Any]]:
        with stored.database.exclusive():
            looks = looks_of(stored)
            # Where the server's answer was lost, it is there already.
            if new["id"] not in [one.get("id") for one in looks]:
                if looks and _seen(looks[-1]) == _seen(new):
                    known = {"id": looks[-1].get("id"), "time": looks[-1]["time"]}
                    looks = [*looks[:-1], {**new, **known}]
                else:
                    looks = [*looks, new]
                stored.study.set_user_attr(LOOKS, _without_nan(looks))
        return looks

    return stored.database.patiently(add)


def _seen(look: dict[str, Any]) -> Any:
    """Returns what a look has shown, in which NaN equals NaN."""
    return _without_nan([look.get(key) for key in ("trial", "seeds", "figures", "baselines")])


def _described(
    metric: str, contests: Sequence[Contest], winner: Contest, look: Look
) -> dict[str, Any]:
    mean, std = mean_and_std([figures[metric] for figures in look.each])
    return {
        "id": uuid.uuid4().hex,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "trial": winner.candidate.trial,
        "seeds": [result.retraining.seed for result in winner.complete],
        "candidates": [
            {"trial": one.candidate.trial, "complete": len(one.complete), "failed": one.failed}
            for one in contests
        ],
        "metric": metric,
        "mean": mean,
        "std": std,
        "ensemble": look.ensemble[metric],
        "figures": {"seeds": look.each, "ensemble": look.ensemble},
        "baselines": {n: f[metric] for n, f in look.baselines.items() if metric in f},
        "baseline_figures": look.baselines,
    }


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation came to.

    Attributes:
        name: The study's name.
        task: Its task.
        metric: The figure that is shown.
        goal: The figure that the winner is chosen by.
        contests: Every candidate with its retrainings, the best trial's first.
        winner: The one that won.
        look: The look at the test part.
        looks: All looks so far, this one last.
        before: The looks in studies that this one was forked from, see `looks_before`.
        baselines: Validation figures of the naive methods, by name.
    """

    name: str
    task: str
    metric: str
    goal: Goal
    contests: list[Contest]
    winner: Contest
    look: Look
    looks: list[dict[str, Any]]
    before: list[dict[str, Any]]
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
                "chosen_by": self.goal.metric,
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
            "looks_before": self.before,
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
            "failed": contest.failed,
            "seeds": [shown(result) for result in contest.results],
        }


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
