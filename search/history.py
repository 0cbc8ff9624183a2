"""The trials of one study as they come to their ends, of which only the news is read.

Optuna keeps what it has read of finished trials, which do not change any more, but hands out all
trials each time. Whoever needs a figure of all of them keeps it, and adds to it what is new here.
"""

from __future__ import annotations

import datetime
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial, TrialState


class History:
    """What became of a study's trials so far.

    Args:
        study: In a database.

    Attributes:
        finished: Trials that are over, the first that ended first; it only ever grows.
        unfinished: All others by number, as they were at the last `update`.
    """

    def __init__(self, study: Study) -> None:
        self._storage: Any = study._storage
        self._study_id = study._study_id
        self.finished: list[FrozenTrial] = []
        self.unfinished: dict[int, FrozenTrial] = {}

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
        self.finished += sorted(over, key=lambda one: one.datetime_complete or _LONG_AGO)


_LONG_AGO = datetime.datetime.min
