"""Configurations trained again with other seeds, on the trainers that trials train on.

Each retraining has a folder of its own under ``evaluation/`` in the study's folder: a checkpoint
while it goes on, and its result, losses and weights when it is over. What is finished is not
trained again; what was interrupted goes on from its checkpoint, to the same result. The database
is not touched.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from search.coordinator import LIVES, TICK
from search.errors import RunError, TrainerError
from search.space import HyperParams
from search.trainers import EpochDone, Event, TrainerDied, TrainerFault, Trainers
from search.trial import Curve, Decision, Epoch, Goal, Outcome
from search.trial_files import WEIGHTS, load_result, remove_checkpoint, save_result
from search.worker import Job


@dataclass(frozen=True)
class Retraining:
    """A configuration to be trained with a seed.

    Attributes:
        index: Its place among all of an evaluation, which the trainers know it by.
        trial: Number of the trial whose configuration it is.
        seed: Decides everything else about it.
        params: The configuration.
        folder: Where its files are.
    """

    index: int
    trial: int
    seed: int
    params: HyperParams
    folder: Path


@dataclass(frozen=True)
class Result:
    """What came of a retraining.

    Attributes:
        retraining: Which one.
        outcome: COMPLETE, DIVERGED or FAILED.
        reason: Why it ended.
        epoch: Its best epoch, from 1; None if it did not complete.
        figures: Validation figures at the best epoch; empty if it did not complete.
    """

    retraining: Retraining
    outcome: Outcome
    reason: str
    epoch: int | None
    figures: dict[str, float]

    @property
    def complete(self) -> bool:
        """True if it trained to its end, so that its figures count and its weights exist."""
        return self.outcome is Outcome.COMPLETE


class RetrainingObserver(Protocol):
    """Is told what happens, to show it."""

    def started(self, worker: int, retraining: Retraining) -> None:
        """A retraining starts, or goes on."""

    def advanced(self, worker: int, retraining: Retraining, epoch: Epoch) -> None:
        """A retraining has trained an epoch."""

    def ended(self, worker: int, retraining: Retraining, decision: Decision, curve: Curve) -> None:
        """A retraining is over, or interrupted."""

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened that a person should know."""


def read_result(retraining: Retraining, code: str | None = None) -> Result | None:
    """Returns what came of a retraining earlier.

    Args:
        retraining: Which one.
        code: Fingerprint of the user's own code that it must have been trained with; None: any.

    Returns:
        None if it is not finished, if its file is not what was written for this configuration, or
        if its weights are gone: it is trained again then, to the same result.
    """
    stored = load_result(retraining.folder)
    if stored is None or stored.get("params") != retraining.params.to_dict():
        return None
    if code is not None and stored.get("surroundings", {}).get("factory") != code:
        return None
    try:
        result = Result(
            retraining,
            Outcome(stored["outcome"]),
            str(stored["reason"]),
            stored["epoch"] if stored["epoch"] is None else int(stored["epoch"]),
            {str(name): float(value) for name, value in stored["figures"].items()},
        )
    except (KeyError, ValueError, TypeError, AttributeError):
        return None
    there = (retraining.folder / WEIGHTS).exists()
    return None if result.complete and not (there and result.figures) else result


def code_of(retraining: Retraining) -> str | None:
    """Returns the fingerprint of the user's own code that it was trained with, if it is known."""
    stored = load_result(retraining.folder) or {}
    found: str | None = stored.get("surroundings", {}).get("factory")
    return found


@dataclass
class _Active:
    retraining: Retraining
    worker: int
    curve: Curve = field(default_factory=Curve)
    started: float = field(default_factory=time.monotonic)
    own: Mapping[str, str] = field(default_factory=dict)  # Its surroundings, beside all others'.


class Retrainer:
    """Trains a list of retrainings, as the coordinator does trials, but with no study to ask.

    Args:
        trainers: Where to train.
        goal: The figure that the best epoch is chosen by.
        observer: Is told what happens.
        surroundings: What the trainers compute with, stored with each result.
        interrupted: Says whether somebody wants this to stop.
    """

    def __init__(
        self,
        trainers: Trainers,
        goal: Goal,
        observer: RetrainingObserver,
        surroundings: dict[str, str],
        interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._trainers = trainers
        self._goal = goal
        self._observer = observer
        self._surroundings = surroundings
        self._interrupted = interrupted
        self._waiting: list[Retraining] = []
        self._active: dict[int, _Active] = {}
        self._deaths: Counter[int] = Counter()
        self._orphans = 0
        self._stopping = False
        self._results: dict[int, Result] = {}

    def run(self, wanted: Sequence[Retraining]) -> list[Result]:
        """Trains what is wanted until all is done, or somebody interrupts.

        Returns:
            The results, in the order of ``wanted``; fewer of them if it was interrupted.

        Raises:
            RunError: Disk or trainers failed; what was finished is safe.
        """
        self._waiting = list(wanted)
        while self._waiting or self._active:
            if self._interrupted():
                self._wind_down()
                break
            self._fill()
            self._listen()
        return [self._results[one.index] for one in wanted if one.index in self._results]

    def _fill(self) -> None:
        """Gives every free worker something to train, as long as there is."""
        for worker in self._trainers.free():
            if self._waiting:
                self._start(worker, self._waiting.pop(0))

    def _start(self, worker: int, one: Retraining) -> None:
        self._active[one.index] = _Active(one, worker)
        job = Job(one.index, one.params, one.seed, one.folder.absolute())
        self._trainers.start(worker, job)
        self._observer.started(worker, one)

    def _listen(self) -> None:
        for event in self._trainers.events(TICK):
            self._handle(event)
        self._observer.tick()

    def _handle(self, event: Event) -> None:
        if isinstance(event, TrainerDied):
            self._bury(event)
            return
        if isinstance(event, TrainerFault):
            raise RunError(event.reason)
        active = self._active[event.number]
        active.own = event.surroundings
        if isinstance(event, EpochDone):
            self._orphans = 0
            active.curve = active.curve.then(event.epoch)
            self._observer.advanced(event.worker, active.retraining, event.epoch)
            return
        del self._active[event.number]
        self._end(active, event.decision, event.traceback)

    def _end(self, active: _Active, decision: Decision, traceback: str) -> None:
        one = active.retraining
        if decision.outcome is not Outcome.INTERRUPTED:
            best = active.curve.best(self._goal)
            complete = decision.outcome is Outcome.COMPLETE and best is not None
            result = Result(
                one,
                decision.outcome,
                decision.reason,
                best.index if best and complete else None,
                best.figures if best and complete else {},
            )
            self._results[one.index] = result
            if is_lasting(result):
                self._keep(result, active)
            remove_checkpoint(one.folder)
        if traceback:
            self._observer.say(traceback.rstrip())
        self._observer.ended(active.worker, one, decision, active.curve)

    def _keep(self, result: Result, active: _Active) -> None:
        one = result.retraining
        stored: dict[str, Any] = {
            "trial": one.trial,
            "seed": one.seed,
            "params": one.params.to_dict(),
            "outcome": str(result.outcome),
            "reason": result.reason,
            "epoch": result.epoch,
            "figures": result.figures,
            "curve": active.curve.compact(),
            "seconds": round(time.monotonic() - active.started, 3),
            "lanes": "lanes" in self._trainers.surroundings(active.worker),
            "surroundings": {**self._surroundings, **active.own},
        }
        save_result(one.folder, stored)

    def _bury(self, died: TrainerDied) -> None:
        active = next((one for one in self._active.values() if one.worker == died.worker), None)
        if active is None or died.number is None:
            # Once told to stop, trainers leave.
            self._orphans += not (self._stopping or died.loading)
            if self._orphans > LIVES:
                raise TrainerError(f"trainers do not start ({died.how})")
            return
        one = active.retraining
        del self._active[one.index]
        if self._stopping:
            return
        self._observer.say(f"a trainer died ({died.how}) with trial {one.trial}, seed {one.seed}")
        self._deaths[one.index] += 1
        if self._deaths[one.index] == LIVES:
            reason = f"took {LIVES} trainers down, the last with {died.how}"
            self._end(active, Decision(Outcome.FAILED, reason), "")
        else:
            self._waiting.append(one)

    def _wind_down(self) -> None:
        """Lets every trainer stop at its next epoch, leaving its checkpoint."""
        self._stopping = True
        self._trainers.stop()
        while self._trainers.busy():
            self._listen()


def is_lasting(result: Result) -> bool:
    """True if training again would only give the same: not after faults and lack of memory."""
    if result.outcome is Outcome.FAILED:
        return False
    return not result.reason.startswith("out of memory")


def shown(result: Result) -> dict[str, Any]:
    """Returns a result as ``--json`` prints it."""
    plain = asdict(result)
    return {
        "seed": result.retraining.seed,
        **{key: plain[key] for key in ("outcome", "reason", "epoch", "figures")},
    }
