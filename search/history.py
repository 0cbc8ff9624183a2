"""The trials of one study as they come to their ends, of which only the news is read.

Optuna keeps what it has read of finished trials, which do not change any more, but hands out all
trials each time. Whoever needs a figure of all of them keeps it, and adds to it what is new here.
"""

from __future__ import annotations

import datetime
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from search.sampling import Shortlist
from search.stopping import Peers
from search.trial import Goal


class History:
    """What became of a study's trials so far.

    Args:
        study: In a database.
        goal: Which values are better.
        shortlist: Empty.

    Attributes:
        finished: Trials that are over, the first that ended first; it only ever grows.
        values: Their values; None for one that has none, because it did not complete.
        shortlist: Of these, what proposals are made from.
        unfinished: All others by number, as they were at the last `update`, with what this
            coordinator has begun and reported since.
    """

    def __init__(self, study: Study, goal: Goal, shortlist: Shortlist) -> None:
        self._storage: Any = study._storage
        self._study_id = study._study_id
        self.finished: list[FrozenTrial] = []
        self.values: list[float | None] = []
        self.shortlist = shortlist
        self.unfinished: dict[int, FrozenTrial] = {}
        self._peers = Peers(goal)

    def __len__(self) -> int:
        return len(self.finished) + len(self.unfinished)

    @property
    def running(self) -> list[FrozenTrial]:
        """The trials in training, by number."""
        return [one for one in self.unfinished.values() if one.state == TrialState.RUNNING]

    def update(self) -> None:
        """Reads what has changed, into Optuna's cache too."""
        self._storage._read_trials_from_remote_storage(self._study_id)
        with self._storage._lock:
            known = self._storage._studies[self._study_id].trials
            numbers = [*self.unfinished, *range(len(self), len(known))]
            read = [known[number] for number in sorted(numbers) if number in known]
        self.unfinished = {one.number: one for one in read if not one.state.is_finished()}
        over = [one for one in read if one.state.is_finished()]
        over.sort(key=lambda one: one.datetime_complete or datetime.datetime.min)
        self.finished += over
        self.values += [t.value if t.state == TrialState.COMPLETE else None for t in over]
        self.shortlist.add(over)
        for trial in over:
            self._peers.add(_reports(trial))

    def reached(self, epoch: int, number: int) -> list[float]:
        """Returns the best values that all trials but this one had reached by an epoch."""
        others = (_reports(one) for one in self.unfinished.values() if one.number != number)
        return self._peers.reached(epoch, others)

    def note(self, trial: FrozenTrial) -> None:
        """Adds a trial that has just been created, and tells Optuna's cache, as Optuna does."""
        with self._storage._lock:
            self._storage._add_trials_to_cache(self._study_id, [trial])
        self.unfinished[trial.number] = trial

    def forget_reports(self, number: int) -> None:
        """Removes what has been reported of a trial that begins anew."""
        if number in self.unfinished:
            self.unfinished[number].intermediate_values.clear()

    def note_report(self, number: int, epoch: int, value: float) -> None:
        """Adds a value that has just been reported of a trial in training."""
        if number in self.unfinished:
            self.unfinished[number].intermediate_values[epoch] = value


def _reports(trial: FrozenTrial) -> list[float]:
    """Returns the values that a trial has reported, epoch by epoch."""
    return [value for _, value in sorted(trial.intermediate_values.items())]
