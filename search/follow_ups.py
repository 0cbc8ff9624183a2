"""Advice that acts: a good trial with the wrong learning rate is tried again with a better one.

A follow-up is a proposal like any other: it has the number of the trial that it is, it is a
function of that number and of the trials before it, and it counts. So nothing is queued, a study
that was interrupted goes on as if it had not been, and two coordinators never try the same.

Off unless the study file says ``follow_advice = true``: a follow-up is mostly better than the trial
that it follows, but the study ends no better (`studies/LOG.md`).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Mapping
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.diagnosis import read_finding
from search.dimensions import Dimension, Fixed
from search.space import is_inside
from search.trial import Goal

EVERY = 5
"""One in so many proposals may be a follow-up."""
FOLLOWED = ("too-slow", "jumping")
"""Findings whose advice was measured to be good: see `studies/LOG.md`."""
BETTER = 0.5
"""Share of the finished trials that are the better ones; only these are followed up."""
Key = tuple[str, ...]
"""The values of all parameters, to nine digits."""
Rank = tuple[float, int]
"""By which trials are sorted, the best first: a value, small if it is good, and a number."""


class FollowUps:
    """What a follow-up is chosen by, kept as trials end: to look at all each time takes seconds.

    Args:
        space: What is searched; a follow-up is never outside.
        goal: Which values are better.
    """

    def __init__(self, space: Mapping[str, Dimension], goal: Goal) -> None:
        self._space = space
        self._names = [name for name, one in space.items() if not isinstance(one, Fixed)]
        self._sign = 1 if goal.minimize else -1
        self._finished = 0
        self._tried: set[Key] = set()
        self._ranked: list[Rank] = []
        self._asking: list[tuple[Rank, Key, dict[str, Any]]] = []

    def add(self, trials: Iterable[FrozenTrial]) -> None:
        """Adds finished trials, whatever their order."""
        for trial in trials:
            self._finished += 1
            self._tried.add(self._key(trial.params))
            if trial.state != TrialState.COMPLETE:
                continue
            rank = self._sign * (trial.value or 0.0), trial.number
            bisect.insort(self._ranked, rank)
            params = _with_better_rate(trial, self._space)
            if params is not None:
                bisect.insort(self._asking, (rank, self._key(params), params))

    def next(
        self, number: int, running: Iterable[Mapping[str, Any]]
    ) -> tuple[int, dict[str, Any]] | None:
        """Returns the follow-up that a new trial should be.

        Args:
            number: The new trial's number.
            running: The parameters of the trials in training.

        Returns:
            The number of the trial that is followed, and its parameters with another learning rate;
            None if it is not a follow-up's turn, or no trial asks for one that is not tried yet.
        """
        if number % EVERY != EVERY - 1:
            return None
        place, now = 0, {self._key(params) for params in running}
        while place < len(self._asking):
            rank, key, params = self._asking[place]
            if bisect.bisect_left(self._ranked, rank) >= int(BETTER * self._finished):
                return None
            if key in self._tried:  # For ever.
                del self._asking[place]
            elif key in now:
                place += 1
            else:
                return rank[1], dict(params)
        return None

    def _key(self, params: Mapping[str, Any]) -> Key:
        """Returns what two trials share that differ in no value but by rounding."""
        return tuple(_text(params.get(name)) for name in self._names)


def _text(value: Any) -> str:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{value + 0:.9g}" if number else repr(value)


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
