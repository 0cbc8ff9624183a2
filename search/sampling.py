"""What a study tries next: the starting points, follow-ups, and what TPE proposes, with own seeds.

A proposal is a function of the study's seed, the trial's number and the trials before it, and of
nothing else. So a study that was interrupted goes on as if it had not been, and two workers or
two hosts never draw the same random numbers (optuna#3255: a seeded study repeats itself on
resume).

TPE is fitted on the best trials and the latest ones, so that a proposal in a long study takes no
longer than in one of a thousand trials; what that costs in quality is in `studies/LOG.md`.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.samplers._tpe.sampler import default_gamma
from optuna.trial import FrozenTrial, TrialState

from search.config import StudyConfig
from search.follow_ups import next_follow_up
from search.space import distributions, starting_points, untried
from search.trial import Goal, derive_seed

LATEST = 1000
"""How many of the latest trials TPE is fitted on, besides the best; fewer are all."""
BEST = 25
"""How many of the best: TPE never takes more for good."""


class Shortlist:
    """What a proposal needs of a study's finished trials, whatever the order they are added in.

    Args:
        goal: Which values are better.
        points: The starting points.

    Attributes:
        untried: The starting points that none of the trials was.
    """

    def __init__(self, goal: Goal, points: Iterable[dict[str, Any]]) -> None:
        self.untried = list(points)
        self._sign = 1 if goal.minimize else -1
        self._best: list[tuple[Any, FrozenTrial]] = []
        self._latest: list[tuple[int, FrozenTrial]] = []
        self._count = 0

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Adds finished trials; those that failed teach TPE nothing."""
        trials = list(trials)
        self.untried = untried(self.untried, (trial.params for trial in trials))
        taught = (TrialState.COMPLETE, TrialState.PRUNED)
        new = [trial for trial in trials if trial.state in taught]
        self._count += len(new)
        ranked = ((self._rank(trial), trial) for trial in new)
        self._best = heapq.nsmallest(BEST, chain(self._best, ranked), key=_first)
        for trial in new:
            bisect.insort(self._latest, (trial.number, trial), key=_first)
        del self._latest[:-LATEST]

    def trials(self) -> list[FrozenTrial]:
        """Returns the trials that TPE is fitted on, by number."""
        chosen = {trial.number: trial for _, trial in chain(self._best, self._latest)}
        return [chosen[number] for number in sorted(chosen)]

    def good(self) -> int:
        """Returns how many of them TPE is to take for good: as many as of the whole study."""
        return int(default_gamma(self._count))

    def _rank(self, trial: FrozenTrial) -> tuple[float, ...]:
        """Returns what TPE sorts by: complete before pruned before infeasible, then by number."""
        broken = sum(value for value in trial.constraints.values() if value > 0)
        if broken:
            return (2, broken, 0.0, trial.number)
        if trial.state == TrialState.COMPLETE:
            return (0, self._sign * float(trial.value or 0.0), 0.0, trial.number)
        if not trial.intermediate_values:
            return (1, 1, 0.0, trial.number)
        step, value = max(trial.intermediate_values.items())
        return (1, -step, math.inf if math.isnan(value) else self._sign * value, trial.number)


class StudySampler(BaseSampler):
    """Optuna's TPE behind the starting points, seeded anew for every trial.

    A trial that follows up another has that one's number in its attribute ``follows``.

    Args:
        config: Gives the space, the study's seed, and whether advice is followed.
    """

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self._distributions = distributions(config.space)
        self._goal = Goal(config.metric, config.direction == "minimize")

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Returns the whole space; it does not change while a study lasts."""
        return self._distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Returns what `propose` says of a study, all of which is read for it."""
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        shortlist = self.shortlist()
        shortlist.add(one for one in others if one.state.is_finished())
        params, attributes = self.propose(study, trial.number, others, shortlist)
        for name, value in attributes.items():
            study._storage.set_trial_user_attr(trial._trial_id, name, value)
        return params

    def shortlist(self) -> Shortlist:
        """Returns the shortlist of a study without trials."""
        return Shortlist(self._goal, starting_points(self._config.space))

    def propose(
        self, study: Study, number: int, others: Sequence[FrozenTrial], shortlist: Shortlist
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first starting point not tried yet, else a follow-up, else TPE's proposal.

        All values are drawn here, at once, also the random ones of the first trials: a run that is
        killed while it stores them one by one, and resumed, then draws the same ones again.

        Args:
            study: Says which values are better.
            number: The new trial's.
            others: All other trials.
            shortlist: Of those that are over.

        Returns:
            The values of all parameters, and further attributes of the trial.
        """
        running = [other for other in others if other.state == TrialState.RUNNING]
        if points := untried(shortlist.untried, (other.params for other in running)):
            return dict(points[0]), {}
        if self._config.follow_advice:
            space, goal = self._config.space, self._goal
            followed = next_follow_up(others, number, space, goal)
            if followed is not None:
                return followed[1], {"follows": followed[0]}
        return self._tpe_proposal(study, number, running, shortlist), {}

    def _tpe_proposal(
        self, study: Study, number: int, running: list[FrozenTrial], shortlist: Shortlist
    ) -> dict[str, Any]:
        tpe = self._tpe(number)
        tpe._gamma = lambda _: shortlist.good()
        trial = _unborn(number)
        fitted: Any = _FittedStudy(study, [*shortlist.trials(), *running])
        # Not its public twin: that stores the proposal once more, for others who ask meanwhile.
        proposed = tpe._sample_relative(fitted, trial, self._distributions)
        return proposed or {
            name: tpe.sample_independent(fitted, trial, name, distribution)
            for name, distribution in self._distributions.items()
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns a value for a parameter that is not in the space; ours all are."""
        tpe = self._tpe(trial.number)
        return tpe.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Does nothing: what TPE does here concerns heartbeats of its own."""

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Does nothing: constraints are set on the trial itself."""

    def _tpe(self, number: int) -> TPESampler:
        return TPESampler(seed=derive_seed(self._config.seed, "proposal", number))


class _FittedStudy:
    """A study as TPE sees it: with some of its trials.

    Args:
        study: Has all else.
        trials: What there is of trials.
    """

    def __init__(self, study: Study, trials: list[FrozenTrial]) -> None:
        self._study = study
        self._trials = trials

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(
        self, deepcopy: bool = True, states: Any = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._trials if states is None or trial.state in states]


def _unborn(number: int) -> FrozenTrial:
    """Returns a trial that has nothing yet but its number."""
    return FrozenTrial(number, TrialState.RUNNING, None, None, None, {}, {}, {}, {}, {}, -1)


def _first(pair: tuple[Any, FrozenTrial]) -> Any:
    return pair[0]
