"""What a study tries next: the starting points, follow-ups, and what TPE proposes, with own seeds.

A proposal is a function of the study's seed, the trial's number and the trials before it, and of
nothing else. So a study that was interrupted goes on as if it had not been, and two workers or
two hosts never draw the same random numbers (optuna#3255: a seeded study repeats itself on
resume).

The estimator is fitted on the best trials and the latest ones, so that a proposal in a long study
takes no longer than in one of a thousand trials; what that costs in quality is in `studies/LOG.md`.
"""

from __future__ import annotations

import bisect
import heapq
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial, TrialState

from search import tpe
from search.config import StudyConfig
from search.follow_ups import FollowUps
from search.space import distributions, starting_points, untried
from search.trial import Goal, derive_seed

LATEST = 1000
"""How many of the latest trials the estimator is fitted on, besides the best; fewer are all."""


def merit(trial: FrozenTrial, goal: Goal) -> tuple[float, float, int]:
    """Returns what complete trials are sorted by, the best first, see `Goal.merit`."""
    return goal.merit(trial.number, trial.value, trial.user_attrs.get("figures", {}))


class Shortlist:
    """What a proposal needs of a study's finished trials, whatever the order they are added in.

    Args:
        goal: Which values are better.
        space: What values there are, by name.
        points: The starting points.
        follow_ups: Empty; None: advice is not followed.

    Attributes:
        untried: The starting points that none of the trials was.
        count: How many trials were added that teach anything.
        follow_ups: Those that its trials ask for; None: advice is not followed.
    """

    def __init__(
        self,
        goal: Goal,
        space: Mapping[str, BaseDistribution],
        points: Iterable[dict[str, Any]],
        follow_ups: FollowUps | None = None,
    ) -> None:
        self.untried = list(points)
        self.follow_ups = follow_ups
        self.count = 0
        self._space = space
        self._goal, self._sign = goal, 1 if goal.minimize else -1
        self._best: list[tuple[Any, FrozenTrial]] = []
        self._latest: list[tuple[int, FrozenTrial]] = []
        self._rows: dict[int, list[float] | None] = {}

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Adds finished trials; those that failed teach nothing."""
        trials = list(trials)
        self.untried = untried(self.untried, (trial.params for trial in trials))
        if self.follow_ups is not None:
            self.follow_ups.add(trials)
        taught = (TrialState.COMPLETE, TrialState.PRUNED)
        new = [trial for trial in trials if trial.state in taught]
        self.count += len(new)
        ranked = ((self._rank(trial), trial) for trial in new)
        self._best = heapq.nsmallest(tpe.MOST_GOOD, chain(self._best, ranked), key=_first)
        for trial in new:
            bisect.insort(self._latest, (trial.number, trial), key=_first)
        del self._latest[:-LATEST]

    def split(
        self, running: Iterable[FrozenTrial] = ()
    ) -> tuple[list[list[float]], list[list[float]]]:
        """Returns the good trials, and the others among the best, the latest and those given.

        Each is a row of the estimator's, in the order of their numbers; a trial without a value
        for each parameter is none.
        """
        chosen = {trial.number: trial for _, trial in chain(self._best, self._latest)}
        known, self._rows = self._rows, {}
        for number, trial in chosen.items():
            row = known[number] if number in known else tpe.coordinates(self._space, trial.params)
            self._rows[number] = row
        rows = self._rows | {
            one.number: tpe.coordinates(self._space, one.params) for one in running
        }
        good = {trial.number for _, trial in self._best[: tpe.good_of(self.count)]}
        whole = [(number, row) for number, row in sorted(rows.items()) if row is not None]
        return (
            [row for number, row in whole if number in good],
            [row for number, row in whole if number not in good],
        )

    def _rank(self, trial: FrozenTrial) -> tuple[float, ...]:
        """Returns what is sorted by: complete before pruned before infeasible, then by number.

        Of trials with the same accuracy, those with less loss come first.
        """
        broken = sum(value for value in trial.constraints.values() if value > 0)
        if broken:
            return (2, broken, 0.0, trial.number)
        if trial.state == TrialState.COMPLETE:
            return (0, *merit(trial, self._goal))
        if not trial.intermediate_values:
            return (1, 1, 0.0, trial.number)
        step, value = max(trial.intermediate_values.items())
        return (1, -step, math.inf if math.isnan(value) else self._sign * value, trial.number)


class StudySampler(BaseSampler):
    """The estimator behind the starting points, seeded anew for every trial.

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
        space, followed = self._config.space, self._config.follow_advice
        follow_ups = FollowUps(space, self._goal) if followed else None
        return Shortlist(self._goal, self._distributions, starting_points(space), follow_ups)

    def propose(
        self, study: Study, number: int, others: Sequence[FrozenTrial], shortlist: Shortlist
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the first starting point not tried yet, else a follow-up, else a proposal of TPE.

        All values are drawn here, at once, also the random ones of the first trials: a run that is
        killed while it stores them one by one, and resumed, then draws the same ones again.

        Args:
            study: Unused by ours; a sampler that is put into its place may need it.
            number: The new trial's.
            others: All other trials, of which only those in training are looked at.
            shortlist: Of those that are over.

        Returns:
            The values of all parameters, and further attributes of the trial.
        """
        running = [other for other in others if other.state == TrialState.RUNNING]
        if points := untried(shortlist.untried, (other.params for other in running)):
            return dict(points[0]), {}
        if shortlist.follow_ups is not None:
            followed = shortlist.follow_ups.next(number, (other.params for other in running))
            if followed is not None:
                return followed[1], {"follows": followed[0]}
        return self._tpe_proposal(study, number, running, shortlist), {}

    def _tpe_proposal(
        self, study: Study, number: int, running: list[FrozenTrial], shortlist: Shortlist
    ) -> dict[str, Any]:
        seed, space = derive_seed(self._config.seed, "proposal", number), self._distributions
        if shortlist.count < tpe.STARTUP:
            at_random = RandomSampler(seed)
            # It wants a study and a trial, and looks at neither.
            trial: Any = None
            return {
                name: at_random.sample_independent(study, trial, name, kind)
                for name, kind in space.items()
            }
        # What is in training counts as bad, so that nobody else tries the like meanwhile.
        return tpe.propose(space, *shortlist.split(running), seed)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns a value for a parameter that is not in the space; ours all are."""
        at_random = RandomSampler(derive_seed(self._config.seed, "proposal", trial.number))
        return at_random.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Does nothing: there is nothing to prepare."""

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Does nothing: constraints are set on the trial itself."""


def _first(pair: tuple[Any, FrozenTrial]) -> Any:
    return pair[0]
