"""Advice that acts: a good trial with the wrong learning rate is tried again with a better one.

A follow-up is a proposal like any other: it has the number of the trial that it is, it is a
function of that number and of the trials before it, and it counts. So nothing is queued, a study
that was interrupted goes on as if it had not been, and two coordinators never try the same.

Off unless the study file says ``follow_advice = true``: a follow-up is mostly better than the trial
that it follows, but the study ends no better (`studies/LOG.md`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.diagnosis import read_finding
from search.dimensions import Dimension
from search.space import is_inside, same
from search.trial import Goal

EVERY = 5
"""One in so many proposals may be a follow-up."""
FOLLOWED = ("too-slow", "jumping")
"""Findings whose advice was measured to be good: see `studies/LOG.md`."""
BETTER = 0.5
"""Share of the finished trials that are the better ones; only these are followed up."""


def next_follow_up(
    trials: Sequence[FrozenTrial], number: int, space: Mapping[str, Dimension], goal: Goal
) -> tuple[int, dict[str, Any]] | None:
    """Returns the follow-up that a new trial should be.

    Args:
        trials: All others, those in training too.
        number: The new trial's number.
        space: What is searched; a follow-up is never outside.
        goal: Which values are better.

    Returns:
        The number of the trial that is followed, and its parameters with another learning rate;
        None if it is not a follow-up's turn, or no trial asks for one that is not tried yet.
    """
    if number % EVERY != EVERY - 1:
        return None
    sign = 1 if goal.minimize else -1
    finished = [trial for trial in trials if trial.state.is_finished()]
    complete = [trial for trial in finished if trial.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda trial: sign * (trial.value or 0.0))
    for trial in ranked[: int(BETTER * len(finished))]:
        params = _with_better_rate(trial, space)
        if params is not None and not any(same(params, other.params) for other in trials):
            return trial.number, params
    return None


def _with_better_rate(trial: FrozenTrial, space: Mapping[str, Dimension]) -> dict[str, Any] | None:
    finding = read_finding(trial.user_attrs)
    if finding is None or finding.name not in FOLLOWED or finding.rate_factor is None:
        return None
    rate = trial.params.get("learning_rate")
    if rate is None:  # The study file has fixed it.
        return None
    better = rate * finding.rate_factor
    if not is_inside(better, space["learning_rate"]):
        return None
    # The end of a range may be missed by the last bit, and a choice be written otherwise.
    return {**trial.params, "learning_rate": space["learning_rate"].clip(better)}
