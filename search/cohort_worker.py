"""Several trials of one shape from start or checkpoint to their ends, trained in lanes.

Each is what `TrialWorker` makes of it but for rounding: the same judges, files and reasons to end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from search.cohorts import shape_of
from search.data.splits import Splits
from search.lanes import Lanes
from search.training import FAULTS, Run
from search.trial import Epoch
from search.worker import Job, TrialRules, TrialWorker

Word = tuple[TrialWorker, Epoch | None]
"""A trial with an epoch of it; with None when it trains no longer here: either its `decision` says
why, or it was stopped after an epoch and is yet to be saved."""


class CohortWorker:
    """Trains several trials together.

    Args:
        jobs: The trials, all of one shape.
        splits: The data, on ``device``.
        rules: What ends a trial without looking at others.
        device: Where to train.
        stopping: Asked after every epoch of a trial, whether it shall stop there.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        splits: Splits,
        rules: TrialRules,
        device: torch.device,
        stopping: Callable[[], bool],
    ) -> None:
        self._members = [TrialWorker(job, splits, rules, device) for job in jobs]
        self._lanes = Lanes(shape_of(jobs[0].params), splits)
        self._stopping = stopping

    def words(self) -> Iterator[Word]:
        """Yields every trial's epochs, those of its checkpoint first, and when it is over.

        Files are written before an epoch is yielded. An exception of the training belongs to no
        trial in particular: it ends all that are left, each of which may yet succeed alone.

        Raises:
            OSError: A trial's files cannot be written.
        """
        try:
            yield from self._words()
        except FAULTS as error:
            for member in self._members:
                member.blame(error)
                yield member, None

    def _words(self) -> Iterator[Word]:
        training: dict[Run, TrialWorker] = {}
        for member in list(self._members):
            run = member.begin()
            for epoch in run.curve.epochs:
                yield member, epoch
            if member.decision is None and not self._stopping():
                self._lanes.join(run, member.judge(run))
                training[run] = member
            else:
                yield self._over(member)
        while self._lanes.runs:
            for run, result in self._lanes.advance():
                member = training[run]
                member.settle(run, result)
                if isinstance(result, Epoch):
                    yield member, result
                if member.decision is not None or self._stopping():
                    self._lanes.leave(run)
                    yield self._over(member)

    def _over(self, member: TrialWorker) -> Word:
        self._members.remove(member)
        return member, None
