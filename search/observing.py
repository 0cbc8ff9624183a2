"""Who follows a run: an observer shows it, an attacher attaches what the dashboard shows of it."""

from __future__ import annotations

from search.diagnosis import Finding
from search.stored_study import Taken
from search.telling import Attached
from search.trial import Curve, Decision, Epoch


class Observer:
    """Is told what happens, to show it; this one shows nothing."""

    def started(self, worker: int, taken: Taken) -> None:
        """A trial starts, or goes on, on a worker."""

    def advanced(self, worker: int, taken: Taken, epoch: Epoch) -> None:
        """A trial has trained an epoch."""

    def ended(
        self,
        worker: int,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        finding: Finding | None = None,
    ) -> None:
        """A trial is over, or interrupted; then it has no finding."""

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened that a person should know."""


class Attacher:
    """Attaches what the dashboard shows of trials and study; this one attaches nothing."""

    def attach(
        self, taken: Taken, decision: Decision, curve: Curve, finding: Finding | None
    ) -> Attached:
        """Returns what to store with a trial that is about to be told; its trainer waits."""
        return Attached()

    def idle(self) -> None:
        """The trainers are busy: there is time for what takes a while."""

    def close(self) -> None:
        """The run is over."""
