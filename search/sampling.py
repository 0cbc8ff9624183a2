"""What a study tries next: the starting points, follow-ups, and what TPE proposes, with own seeds.

A proposal is a function of the study's seed, the trial's number and the trials before it, and of
nothing else. So a study that was interrupted goes on as if it had not been, and two workers or
two hosts never draw the same random numbers (optuna#3255: a seeded study repeats itself on
resume).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from search.config import StudyConfig
from search.follow_ups import next_follow_up
from search.space import distributions, next_starting_point
from search.trial import Goal, derive_seed


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
        """Returns the first starting point not tried yet, else a follow-up, else TPE's proposal.

        All values are drawn here, at once, also the random ones of the first trials: a run that is
        killed while it stores them one by one, and resumed, then draws the same ones again.
        """
        others = [t for t in study.get_trials(deepcopy=False) if t.number != trial.number]
        point = next_starting_point(self._config.space, [other.params for other in others])
        if point is not None:
            return dict(point)
        if self._config.follow_advice:
            space, goal = self._config.space, self._goal
            followed = next_follow_up(others, trial.number, space, goal)
            if followed is not None:
                study._storage.set_trial_user_attr(trial._trial_id, "follows", followed[0])
                return followed[1]
        tpe = self._tpe(trial)
        proposed = tpe.sample_relative(study, trial, search_space)
        return proposed or {
            name: tpe.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Returns a value for a parameter that is not in the space; ours all are."""
        return self._tpe(trial).sample_independent(study, trial, param_name, param_distribution)

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

    def _tpe(self, trial: FrozenTrial) -> TPESampler:
        seed = derive_seed(self._config.seed, "proposal", trial.number)
        return TPESampler(seed=seed)
