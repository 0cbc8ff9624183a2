"""Optuna's samplers, and ours, as what proposes in a simulated study on a surrogate."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna import Study
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from bench.curves.simulation import Board, Plan, Trial
from bench.curves.surrogate import Surrogate
from search.config import StudyConfig, make_config
from search.diagnosis import ADVICE
from search.sampling import Shortlist, StudySampler
from search.space import distributions, starting_points, suggest
from search.trial import derive_seed

SPACE = {"task": "forecast", "path": "none.csv"}
"""Stands for the data of a study whose space is all that matters."""


def config_of(seed: int, **changes: Any) -> StudyConfig:
    """Returns a study over the default space."""
    return make_config({"name": "simulated", "seed": seed, "data": SPACE, **changes}, "bench")


class VariedTPE(StudySampler):
    """Our sampler with Optuna's TPE, which has options, in the place of ours, which is its equal.

    Args:
        config: The study's.
        good: Of how many trials how many are taken for good; None: as ours.
        options: Of `TPESampler`.
    """

    def __init__(
        self, config: StudyConfig, good: Callable[[int], int] | None = None, **options: Any
    ) -> None:
        super().__init__(config)
        self._options = options
        self._good = good

    def _tpe_proposal(
        self, study: Study, number: int, running: list[FrozenTrial], shortlist: Shortlist
    ) -> dict[str, Any]:
        made = TPESampler if self._options.get("multivariate", True) else _EachAlone
        tpe = made(seed=derive_seed(self._config.seed, "proposal", number), **self._options)
        if self._good is not None:
            tpe._gamma = self._good
        trial = FrozenTrial(number, TrialState.RUNNING, None, None, None, {}, {}, {}, {}, {}, -1)
        others: Any = _Others(study, number)
        proposed = tpe._sample_relative(others, trial, self._distributions)
        return proposed or {
            name: tpe.sample_independent(others, trial, name, distribution)
            for name, distribution in self._distributions.items()
        }


class _Others:
    """A study without one of its trials.

    Args:
        study: The study.
        number: The trial's.
    """

    def __init__(self, study: Study, number: int) -> None:
        self._study = study
        self._number = number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Any = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False, states=states)
        return [trial for trial in trials if trial.number != self._number]


class _EachAlone(TPESampler):
    """Has no proposal for all parameters together; ours then asks for one after the other."""

    def _sample_relative(self, *_: Any) -> dict[str, Any]:
        return {}


class WithPoints(StudySampler):
    """Our sampler with further starting points after the lesson's.

    Args:
        config: The study's.
        points: All searched values of each.
    """

    def __init__(self, config: StudyConfig, points: Sequence[dict[str, Any]]) -> None:
        super().__init__(config)
        self._points = points

    def shortlist(self) -> Shortlist:
        """Returns a shortlist with all starting points."""
        points = [*starting_points(self._config.space), *self._points]
        return Shortlist(self._goal, self._distributions, points)


class AtRandom(StudySampler):
    """The starting points, then random values."""

    def _tpe_proposal(
        self, study: Study, number: int, running: list[FrozenTrial], shortlist: Shortlist
    ) -> dict[str, Any]:
        return super()._tpe_proposal(study, number, [], self.shortlist())


class MoreAtRandom(StudySampler):
    """Our sampler, but more of what it proposes is drawn at random.

    Args:
        config: The study's.
        first: So many random trials come after the starting points, before any proposal of TPE.
        share: Of those after them, so many are random.
        points: Starting points that are tried; None: all.
    """

    def __init__(
        self, config: StudyConfig, first: int = 0, share: float = 0.0, points: int | None = None
    ) -> None:
        super().__init__(config)
        self._tried = starting_points(config.space)[:points]
        self._first, self._share = first, share

    def shortlist(self) -> Shortlist:
        """Returns a shortlist with the starting points that are tried."""
        return Shortlist(self._goal, self._distributions, self._tried)

    def _tpe_proposal(
        self, study: Study, number: int, running: list[FrozenTrial], shortlist: Shortlist
    ) -> dict[str, Any]:
        chance = random.Random(derive_seed(self._config.seed, "proposal", number)).random()
        if shortlist.count < len(self._tried) + self._first or chance < self._share:
            return super()._tpe_proposal(study, number, [], self.shortlist())
        return super()._tpe_proposal(study, number, running, shortlist)


class ChildrenOfTheBest(StudySampler):
    """Our sampler, but two proposals of three are one of the best trials with some values changed.

    An evolution strategy's mutation and recombination, such as Real et al. 2019 (AAAI, algorithm 1)
    search with, though among the best and not among the youngest.
    """

    FIRST, BEST = 30, 5
    """The first trial that may be such a child, and the trials that may have one."""
    STEP = 0.07
    """Standard deviation of a number's step, in parts of its range, logarithmic if that is."""

    def propose(
        self, study: Study, number: int, others: Sequence[FrozenTrial], shortlist: Shortlist
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns a child, or what our sampler proposes."""
        complete = [one for one in others if one.state == TrialState.COMPLETE]
        if number < self.FIRST or number % 3 == 0 or len(complete) < 2 * self.BEST:
            return super().propose(study, number, others, shortlist)
        draw = random.Random(derive_seed(self._config.seed, "proposal", number))
        best = sorted(complete, key=lambda one: (one.value or 0.0, one.number))[: self.BEST]
        parent, other = draw.choice(best), draw.choice(best)
        values = {
            name: self._changed(kind, parent.params[name], other.params[name], draw)
            for name, kind in self._distributions.items()
        }
        return values, {}

    def _changed(self, kind: BaseDistribution, value: Any, others: Any, draw: random.Random) -> Any:
        if isinstance(kind, CategoricalDistribution):
            chance = draw.random()
            if chance < 0.08:
                return draw.choice(kind.choices)
            return others if chance < 0.3 else value
        assert isinstance(kind, FloatDistribution | IntDistribution)
        if draw.random() >= 0.6:
            return value
        there, back = (math.log, math.exp) if kind.log else (float, float)
        step = draw.gauss(0, self.STEP * (there(kind.high) - there(kind.low)))
        moved = min(max(back(there(value) + step), kind.low), kind.high)
        return round(moved) if isinstance(kind, IntDistribution) else moved


def gaussian(config: StudyConfig) -> BaseSampler:
    """Returns Optuna's Gaussian process; the starting points are for others to enqueue."""
    return GPSampler(seed=config.seed, n_startup_trials=10, warn_independent_sampling=False)


class Sampled:
    """Asks a sampler, tells it what has ended, and lets a surrogate say what comes of it.

    Args:
        surrogate: The world.
        seed: Decides the proposals, and the luck of each trial.
        sampler: Made from a study's configuration.
        first: Parameters that are tried first, all of them.
        at_once: So many proposals are made at a time, before any of them has begun.
        changes: Keys of the study file.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        seed: int,
        sampler: Callable[[StudyConfig], BaseSampler],
        first: Sequence[Mapping[str, Any]] = (),
        at_once: int = 1,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self._config = config_of(seed, **(changes or {}))
        self._surrogate = surrogate
        self._space = distributions(self._config.space)
        self._study = optuna.create_study(
            sampler=sampler(self._config), pruner=optuna.pruners.NopPruner()
        )
        for params in first:
            self._study.enqueue_trial(dict(params))
        self._at_once = at_once
        self._asked: list[optuna.Trial | None] = []
        self._waiting: list[tuple[optuna.Trial, dict[str, Any]]] = []
        self._told = 0

    def propose(self, board: Board) -> Plan:
        """Returns the plan of the sampler's next proposal."""
        for number, trial in enumerate(board.trials):
            if trial.state != "running":
                self._tell(number, trial)
        if not self._waiting:
            for _ in range(self._at_once):
                asked = self._study.ask()
                params = suggest(asked, self._config.space).to_dict()
                self._waiting.append((asked, params))
        asked, params = self._waiting.pop(0)
        self._asked.append(asked)
        luck = random.Random(derive_seed(self._config.seed, "luck", asked.number))
        return self._surrogate.plan(params, luck)

    def _tell(self, number: int, trial: Trial) -> None:
        """Tells how a trial ended, as a run does."""
        asked = self._asked[number]
        if asked is None:
            return
        for step, value in enumerate(trial.values, 1):
            asked.report(value, step)
        if trial.finding in ADVICE:
            finding: dict[str, Any] = {"finding": trial.finding, "evidence": {}, "advice": ""}
            for name, value in finding.items():
                asked.set_user_attr(name, value)
        if trial.state == "diverged":
            asked.set_constraint("diverged", 1.0)
        if trial.state == "complete":
            self._study.tell(asked, trial.best)
        else:
            self._study.tell(asked, state=TrialState.PRUNED)
        self._asked[number] = None
