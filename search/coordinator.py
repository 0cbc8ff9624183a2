"""The only loop: take a trial → train → report → judge → tell, until the study has its trials."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial

from optuna.trial import FrozenTrial, TrialState

from search.checkpoints import cut_losses, devices_of, save_losses
from search.desk import INTERRUPTED
from search.diagnosis import diagnose_trial
from search.errors import RunError, TrainerError
from search.observing import Attacher, Observer
from search.sampling import merit
from search.stopping import PRUNERS
from search.stored_study import StoredStudy, Taken
from search.trainers import EpochDone, Event, TrainerDied, TrainerFault, Trainers
from search.trial import Curve, Decision, Epoch, Outcome, derive_seed
from search.trial_files import keep_weights, remove_checkpoint, trial_folder
from search.worker import Job

LIVES = 3
"""Trainers that a trial may take down before it is failed; likewise trainers that may die with no
trial, one after another with no epoch between, before the run is given up."""
FAILURES = 5
"""Trials in a row that may fail on trainers of one kind; then the fault is not the trials'."""
TICK = 0.2
"""Seconds between two looks at the clock and at signals."""
IDLE = 3.0
"""Seconds between two looks for work that another coordinator has left behind."""


class Ending(StrEnum):
    """Why a run came to its end; ENOUGH: ``[budget]`` wants no more though trials are left."""

    DONE = "done"
    ENOUGH = "enough"
    TIMEOUT = "timeout"
    INTERRUPTED = "interrupted"


@dataclass
class _Active:
    """A trial in training."""

    taken: Taken
    curve: Curve = field(default_factory=Curve)
    losses: list[float] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    devices: list[str] = field(default_factory=list)  # Kinds, as its checkpoint has them.
    own: Mapping[str, str] = field(default_factory=dict)  # Its surroundings, beside all trials'.
    late: bool = False  # It has come to epochs that are the next run's to judge.


class Coordinator:
    """Runs a study on trainers.

    Args:
        stored: The study.
        trainers: Where trials train.
        observer: Is told what happens.
        total: How many trials the study is to have in all.
        timeout: Seconds after which this run stops; None: never.
        interrupted: Says whether somebody wants this run to stop.
        surroundings: What trainers here compute with, stored with each trial for `replay`.
        attacher: Attaches what the dashboard shows.
        constants: Validation and training loss of the best prediction that ignores the inputs, as
            `diagnose` takes them.
    """

    def __init__(
        self,
        stored: StoredStudy,
        trainers: Trainers,
        observer: Observer,
        total: int,
        timeout: float | None = None,
        interrupted: Callable[[], bool] = lambda: False,
        surroundings: Mapping[str, str] | None = None,
        attacher: Attacher | None = None,
        constants: tuple[float | None, float | None] = (None, None),
    ) -> None:
        self._stored = stored
        self._trainers = trainers
        self._observer = observer
        self._total = total
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._interrupted = interrupted
        self._surroundings = dict(surroundings or {})
        self._attacher = attacher or Attacher()
        self._constants = constants
        self._active: dict[int, _Active] = {}
        self._idle_until = 0.0
        self._winding_down = False
        self._orphans: Counter[int] = Counter()
        self._failures: Counter[int] = Counter()
        self._reached: str | None = None
        self._stagnated: str | None = None
        self._over = -1
        self._best: list[FrozenTrial] = []
        self._tidied = 0
        self._later: list[Callable[[], object]] = []

    def run(self) -> Ending:
        """Trains until the study is complete, time is up, or somebody interrupts.

        Returns:
            Which of these it was. Whatever was in training then can be resumed.

        Raises:
            RunError: Storage, disk or trainers failed; what was finished is safe.
        """
        self._tidy(cut=True)
        before = self._best, self._tidied
        try:
            ending = self._loop()
        except TrainerError:  # The study is well, and what has ended is yet to be shown.
            self._catch_up()
            raise
        self._wind_down()
        # A trial that another run took over may have been finished there before its trainer here
        # stopped, which then left a checkpoint: so all that ended meanwhile are tidied once more.
        self._best, self._tidied = before
        self._stored.news()
        self._tidy(cut=True)
        self._attacher.close()
        return ending

    def _loop(self) -> Ending:
        while True:
            ending = self._ending()
            more = ending is None and (self._stagnated is not None or self._fill())
            self._catch_up()
            if ending is None and not more and not self._active:
                return Ending.DONE
            if ending is not None:
                self._explain(ending)
                return ending
            self._attacher.idle()
            self._listen()

    def _ending(self) -> Ending | None:
        """Returns why it is time to stop, if it is."""
        if self._interrupted():
            return Ending.INTERRUPTED
        if self._deadline is not None and time.monotonic() > self._deadline:
            return Ending.TIMEOUT
        return Ending.ENOUGH if self._enough() is not None else None

    def _enough(self) -> str | None:
        """Returns why the study needs no more: its target is reached, or it has stagnated.

        What is in training when a study has stagnated goes on to its end, because it may be
        better: then the study goes on. A target once reached needs nothing more.
        """
        budget = self._stored.config.budget
        if budget.target is None and budget.stagnation is None:
            return None
        over = len(self._stored.recent().values)  # Other runs' trials count as well.
        if over != self._over:
            self._over = over
            self._reached, self._stagnated = self._stored.reached(), self._stored.stagnated()
        return self._reached or (None if self._active else self._stagnated)

    def _explain(self, ending: Ending) -> None:
        if ending is Ending.INTERRUPTED:
            self._observer.say("stopping at the next epoch; Ctrl-C again stops at once")
        elif ending is Ending.ENOUGH:
            self._observer.say(f"stopped: {self._enough()}")
        elif ending is Ending.TIMEOUT:
            self._observer.say("stopped: the time of this run is up (--timeout, [budget] timeout)")

    def _catch_up(self) -> None:
        """Shows and tidies what could wait until free trainers had work again."""
        later, self._later = self._later, []
        for call in later:
            call()

    def _fill(self) -> bool:
        """Gives every free worker a trial; returns False if the study has no more to do."""
        for worker in self._trainers.free():
            if time.monotonic() < self._idle_until:
                return True
            taken = self._stored.take(self._total)
            if taken is None:
                self._idle_until = time.monotonic() + IDLE
                return self._others_are_busy()
            self._start(worker, _Active(taken))
        return True

    def _others_are_busy(self) -> bool:
        """True if trials are left that another coordinator holds: it may yet die."""
        ours = {active.taken.number for active in self._active.values()}
        return any(trial.number not in ours for trial in self._stored.news().running)

    def _start(self, worker: int, active: _Active) -> None:
        taken = active.taken
        seed = derive_seed(self._stored.config.seed, "training", taken.number)
        self._active[worker] = active
        folder = trial_folder(self._stored.folder, taken.number)
        active.devices = devices_of(folder, code := self._surroundings.get("factory"))
        anew = taken.reported > 0 and not active.devices
        # An earlier life, of which nothing is left to go on from, may have been another code's.
        taken = self._stored.begin_anew(taken) if anew and code else taken
        active.taken = taken = replace(taken, anew=anew)
        self._trainers.start(worker, Job(taken.number, taken.params, seed, folder.absolute()))
        self._later.append(partial(self._observer.started, worker, taken))

    def _listen(self) -> None:
        for event in self._trainers.events(TICK):
            self._handle(event)
        for lost in self._stored.renew():
            self._lose(lost)
        self._observer.tick()

    def _handle(self, event: Event) -> None:
        if isinstance(event, TrainerDied):
            self._bury(event)
            return
        if isinstance(event, TrainerFault):
            self._catch_up()
            raise RunError(event.reason)
        active = self._active.get(event.worker)
        # Of epochs that were told together, an earlier one may have ended the trial.
        if active is None or active.taken.number != event.number:
            return
        active.own = event.surroundings
        if isinstance(event, EpochDone):
            self._orphans[self._trainers.kind(event.worker)] = 0
            active.losses += event.losses
            active.ends.append(len(active.losses))
            self._advance(event.worker, active, event.epoch)
        else:
            self._end(event.worker, active, event.decision, event.traceback)

    def _advance(self, worker: int, active: _Active, epoch: Epoch) -> None:
        taken, stopping = active.taken, self._stored.config.stopping
        active.curve = active.curve.then(epoch)
        self._observer.advanced(worker, taken, epoch)
        # Without a checkpoint it has begun anew, maybe on another device.
        if not active.late and (epoch.index > taken.reported or not active.devices):
            self._stored.report(taken, epoch)
        # An epoch that an earlier life reported was judged then; but the last may not have been.
        if epoch.index < taken.reported or stopping.pruner == "none":
            return
        pruner = PRUNERS[stopping.pruner]
        at_end = epoch.index == taken.params.epochs  # There a trial ends anyway.
        if at_end or not pruner.compares(epoch.index, stopping.warmup_epochs):
            return
        # A trainer told to stop leaves without reading that it is to drop its trial: the next life
        # judges this epoch, and those after it.
        if self._winding_down:
            active.late = True
            return
        goal, reached = self._stored.goal, self._stored.recent().reached(epoch.index, taken.number)
        verdict = pruner.judge(active.curve.values(goal), reached, goal, stopping.peers)
        if verdict is not None:
            if self._tell(worker, active, verdict, before=partial(self._keep_losses, active)):
                self._trainers.drop(taken.number, epoch.index)
            else:
                self._trainers.abandon(taken.number)

    def _end(self, worker: int, active: _Active, decision: Decision, traceback: str) -> None:
        if active.late or decision.outcome is Outcome.INTERRUPTED:
            del self._active[worker]
            self._stored.release(active.taken)
            end = worker, active.taken, INTERRUPTED, active.curve
            self._later.append(partial(self._observer.ended, *end))
            return
        if not self._tell(worker, active, decision, traceback):
            return
        remove_checkpoint(trial_folder(self._stored.folder, active.taken.number))
        if decision.outcome is Outcome.COMPLETE:
            self._later.append(self._tidy)
        if self._failures[self._trainers.kind(worker)] == FAILURES:
            self._catch_up()
            raise RunError(
                f"{FAILURES} trials in a row failed, the last with: {decision.reason}; "
                f"rnn-search show {self._stored.config.name} has their tracebacks"
            )

    def _keep_losses(self, active: _Active) -> None:
        """Writes the losses of a trial to be pruned: its trainer may be killed before it does."""
        folder = trial_folder(self._stored.folder, active.taken.number)
        save_losses(folder, active.losses, active.ends, settle=False)

    def _tell(
        self,
        worker: int,
        active: _Active,
        decision: Decision,
        traceback: str = "",
        before: Callable[[], None] = lambda: None,
    ) -> bool:
        """Tells a trial's end; returns False if it is another coordinator's, and so are its files.

        That comes of a sleep past its lease, of which `_lose` would have said the same.
        """
        # An end is shown before the next is told, as what is new since the one before.
        self._catch_up()
        del self._active[worker]
        finding = diagnose_trial(decision.outcome, active.curve, active.losses, *self._constants)
        extra = {
            "seconds": round(time.monotonic() - active.started, 3),
            "epochs_seconds": round(active.curve.seconds, 3),
            "worker": worker,
            "surroundings": self._surroundings_of(worker, active),
            **(finding.to_attributes() if finding else {}),
        }
        told = self._stored.finish(
            active.taken,
            decision,
            active.curve,
            {**extra, "traceback": traceback} if traceback else extra,
            self._attacher.attach(active.taken, decision, active.curve, finding),
            before,
        )
        # It may have been the last of the study: nothing is left behind then.
        self._idle_until = 0.0
        if told:
            self._count(self._trainers.kind(worker), failed=decision.outcome is Outcome.FAILED)
            end = worker, active.taken, decision, active.curve, finding
            self._later.append(partial(self._observer.ended, *end))
        else:
            self._observer.say(f"trial {active.taken.number} was taken over by another run")
        return told

    def _count(self, kind: int, *, failed: bool) -> None:
        """Counts the trials in a row that have failed on trainers of a kind."""
        self._failures[kind] = self._failures[kind] + 1 if failed else 0

    def _surroundings_of(self, worker: int, active: _Active) -> dict[str, str]:
        found = {**self._surroundings, **self._trainers.surroundings(worker), **active.own}
        devices = {*active.devices, found.get("device", "cpu").partition(":")[0]}
        return found if len(devices) == 1 else {**found, "moved": " and ".join(sorted(devices))}

    def _bury(self, died: TrainerDied) -> None:
        self._catch_up()
        active = self._active.get(died.worker)
        if active is None or died.number is None:
            # Once told to stop, a trainer leaves as soon as it has nothing to do.
            kind = self._trainers.kind(died.worker)
            self._orphans[kind] += not (self._winding_down or died.loading)
            if self._orphans[kind] > LIVES:
                raise TrainerError(f"trainers do not start ({died.how})")
            return
        del self._active[died.worker]
        if self._winding_down:
            self._stored.release(active.taken)
            return
        taken = self._stored.count_trainer_death(active.taken)
        self._active[died.worker] = active = replace(active, taken=taken)
        self._observer.say(f"a trainer died ({died.how}) with trial {taken.number}")
        if taken.trainer_deaths >= LIVES:
            reason = f"took {LIVES} trainers down, the last with {died.how}"
            self._end(died.worker, active, Decision(Outcome.FAILED, reason), "")
            return
        again = replace(taken, reported=max(taken.reported, len(active.curve)))
        self._start(died.worker, _Active(again, started=active.started, own=active.own))

    def _lose(self, lost: Taken) -> None:
        for worker, active in list(self._active.items()):
            if active.taken.number == lost.number:
                self._catch_up()
                del self._active[worker]
                self._trainers.abandon(lost.number)
                self._observer.say(f"trial {lost.number} was taken over by another run")

    def _wind_down(self) -> None:
        """Lets every trainer stop at its next epoch and gives back what is unfinished."""
        self._winding_down = True
        self._trainers.stop()
        while self._trainers.busy():
            self._listen()
            self._catch_up()

    def _tidy(self, *, cut: bool = False) -> None:
        """Removes files that are of no use any more, of trials that ended since the last time.

        Args:
            cut: Whether losses of epochs that were not told are cut off: a trainer that was killed
                may have left them.
        """
        stored, finished = self._stored, self._stored.recent().finished
        new, self._tidied = finished[self._tidied :], len(finished)
        complete = [trial for trial in new if trial.state == TrialState.COMPLETE]
        ranked = sorted([*self._best, *complete], key=lambda trial: merit(trial, stored.goal))
        for trial in new if cut else []:
            if trial.user_attrs.get("outcome") == Outcome.PRUNED:
                place = trial_folder(stored.folder, trial.number)
                cut_losses(place, len(trial.intermediate_values))
        changed = {trial.number for trial in [*self._best, *new]}
        self._best = ranked[: stored.config.keep]
        keep_weights(stored.folder, [trial.number for trial in self._best], changed)
