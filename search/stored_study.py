"""One study in a database: take trials, report, finish; nothing finished is ever lost.

Who may write what: the coordinator that holds a trial's lease alone reports and finishes it, under
the trial's own number. What survives ``kill -9``: every finished trial, and of an unfinished one
its parameters, its last checkpoint, from which the next run goes on, and its reported epochs but
for those of the last moment, which the next run reports anew.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import optuna
import sqlalchemy as sa
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from search import trial_rows
from search.config import StudyConfig
from search.database import Database
from search.errors import StudyError
from search.history import History
from search.leases import LEASE_SECONDS, Leases
from search.sampling import StudySampler
from search.space import HyperParams, distributions, ordered, settled, suggest
from search.stopping import stagnated, target_reached
from search.telling import Attached, Told
from search.trial import Curve, Decision, Epoch, Goal, Outcome

RECENT_SECONDS = 1.0
"""What others have told so long ago is known, if not sooner: to look takes a few milliseconds, and
a trial is judged many times."""
REPORT_SECONDS = 1.0
"""Epochs reported within so long are written together: a transaction for each was the most of what
a short trial cost (`bench/trial_cost.py`). Others look as often, and a killed trial goes on from a
checkpoint that may be older."""
MARK = "rnn_search"
"""The study attribute that tells our studies from others in the same database."""
LOOKS = "rnn_search_test_looks"
"""The study attribute that lists every look at the test part."""


@dataclass(frozen=True)
class Taken:
    """A trial that this coordinator holds.

    Attributes:
        number: Its number in the study.
        trial_id: Optuna's id, unique in the database.
        params: What to train.
        reported: How many of its epochs the database has from an earlier life.
        trainer_deaths: How many trainers it has taken down so far.
        anew: Whether it begins anew although it has epochs: no checkpoint of it is here.
    """

    number: int
    trial_id: int
    params: HyperParams
    reported: int
    trainer_deaths: int
    anew: bool = False


class _Reported(NamedTuple):
    """An epoch whose value is yet to be written."""

    trial_id: int
    number: int
    epoch: int


class StoredStudy:
    """One study in a database, opened to run it or to read it.

    Attributes:
        study: Optuna's; one object all the time, because each new one reads everything again.
        config: The configuration it was created with.
        goal: What it searches for.
    """

    def __init__(self, database: Database, study: optuna.Study, config: StudyConfig) -> None:
        self.database = database
        self.study = study
        self.config = config
        self.goal = Goal(config.metric, config.direction == "minimize")
        self._leases = Leases(database, study._study_id)
        self._held: dict[int, Taken] = {}
        self._renewed = time.time()
        self._sampler = StudySampler(config)
        self._history = History(study, self.goal, self._sampler.shortlist())
        self._read = -math.inf
        self._unwritten: dict[_Reported, float] = {}
        self._written = -math.inf

    @property
    def attributes(self) -> dict[str, Any]:
        """What was stored at creation: baselines, fingerprints, versions, notes."""
        return dict(self.database.patiently(lambda: self.study.user_attrs)[MARK])

    @functools.cached_property
    def folder(self) -> Path:
        """The folder of the study's files; a study made anew under an old name has its own."""
        return home_of(self.database, self.config.name, self.attributes["id"])

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials, by number; do not change them."""
        return self.database.patiently(lambda: self.study.get_trials(deepcopy=False))

    def news(self) -> History:
        """Returns what became of all trials so far; reads only what is new of them."""
        self.database.patiently(self._update)
        return self._history

    def recent(self) -> History:
        """Returns the same, others' trials as they were up to `RECENT_SECONDS` ago.

        What this coordinator itself has begun, reported and finished is all there.
        """
        late = time.monotonic() - self._read > RECENT_SECONDS
        return self.news() if late else self._history

    def reached(self) -> str | None:
        """Returns why the best value is good enough for ``[budget]``, or None."""
        target = self.config.budget.target
        return None if target is None else target_reached(self.recent().values, self.goal, target)

    def stagnated(self) -> str | None:
        """Returns why ``[budget]`` takes further trials to be in vain, or None."""
        trials, along = (
            self.config.budget.stagnation,
            self.attributes.get("fork", {}).get("taken", 0),
        )
        return None if trials is None else stagnated(self.recent().values, self.goal, trials, along)

    def held(self) -> set[int]:
        """Returns the ids of the trials that some running coordinator holds."""
        return self.database.patiently(self._leases.held)

    def take(self, total: int) -> Taken | None:
        """Takes the next trial to train: one left unfinished, a waiting one, or a new one.

        Args:
            total: How many trials the study is to have in all, whoever trains them.

        Returns:
            The trial, now held by this coordinator; None if there is none to take.
        """
        return self.database.patiently(lambda: self._take(total))

    def report(self, taken: Taken, epoch: Epoch) -> None:
        """Stores an epoch's value as the trial's intermediate value at step ``epoch.index``.

        Epochs that follow each other within `REPORT_SECONDS` are written together, with the next
        one or by `renew`, and at the latest before the trial is finished or released.
        """
        value = epoch.figures[self.goal.metric]
        self._unwritten[_Reported(taken.trial_id, taken.number, epoch.index)] = value
        self._history.note_report(taken.number, epoch.index, value)
        self._write_if_due()

    def begin_anew(self, taken: Taken) -> Taken:
        """Removes the epochs that an earlier life of a trial has reported; returns it without."""
        self._forget_unwritten(taken.trial_id)
        self.database.patiently(lambda: self._forget_reports(taken.trial_id))
        self._history.forget_reports(taken.number)
        return replace(taken, reported=0)

    def _forget_reports(self, trial_id: int) -> None:
        with self.database.engine.begin() as connection:
            if trial_id in self._leases.mine(connection):
                trial_rows.forget_reports(connection, trial_id)

    def _write_if_due(self) -> None:
        if self._unwritten and time.monotonic() - self._written > REPORT_SECONDS:
            self.database.patiently(self._write)

    def _write(self) -> None:
        with self.database.engine.begin() as connection:
            self._write_to(connection)
        self._unwritten.clear()
        self._written = time.monotonic()

    def _write_to(self, connection: sa.Connection) -> None:
        # What was lost while this process slept is for another to report; renew() tells.
        mine = self._leases.mine(connection) if self._unwritten else set()
        rows = [(one.trial_id, one.epoch, value) for one, value in self._unwritten.items()]
        trial_rows.report(connection, [row for row in rows if row[0] in mine])

    def _forget(self, trial_id: int) -> None:
        """Holds a trial no longer; what was not yet written of it is for another to report."""
        self._held.pop(trial_id, None)
        self._forget_unwritten(trial_id)

    def _forget_unwritten(self, trial_id: int) -> None:
        for one in [one for one in self._unwritten if one.trial_id == trial_id]:
            del self._unwritten[one]

    def finish(
        self,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        extra: Mapping[str, Any],
        attached: Attached | None = None,
        before: Callable[[], None] = lambda: None,
    ) -> bool:
        """Tells a trial's end, with its reason, its best epoch and its curve; all, or nothing.

        When it returns, that is on the disk.

        Args:
            taken: The trial.
            decision: How and why it ended; not an interruption.
            curve: Its epochs.
            extra: Further attributes of the trial, plain data.
            attached: What optuna-dashboard shows of it.
            before: Is called before it is told, once it is known that it can be; maybe again.

        Returns:
            False if the trial was not this coordinator's any more; nothing was told then.
        """
        # One that fails, or ends as it begins, may have come further in an earlier life.
        again = taken.reported > 0 and len(curve) > 0 and decision.outcome is not Outcome.FAILED
        told = Told.of(decision, curve, self.goal, extra, attached or Attached(), again=again)
        self._read = -math.inf
        finished = self.database.patiently(lambda: self._finish(taken.trial_id, told, before))
        if finished:
            # Not above: were it repeated because the server's answer was lost, it would find no
            # lease, and take its own trial for another's.
            self.database.patiently(lambda: self._leases.drop(taken.trial_id))
            self._held.pop(taken.trial_id, None)
        return finished

    def count_trainer_death(self, taken: Taken) -> Taken:
        """Stores that the trial has taken a trainer down once more."""
        again = replace(taken, trainer_deaths=taken.trainer_deaths + 1)
        with contextlib.suppress(UpdateFinishedTrialError):
            self.database.patiently(
                lambda: self.database.storage.set_trial_user_attr(
                    taken.trial_id, "trainer_deaths", again.trainer_deaths
                )
            )
        self._held[taken.trial_id] = again
        return again

    def release(self, taken: Taken) -> None:
        """Gives an unfinished trial back, so that any coordinator can go on with it at once."""
        if self._unwritten:
            self.database.patiently(self._write)
        self.database.patiently(lambda: self._leases.drop(taken.trial_id))
        self._held.pop(taken.trial_id, None)

    def renew(self) -> list[Taken]:
        """Keeps the leases alive and writes what was reported; it acts only when that is due.

        Call it often.

        Returns:
            Trials that were lost to another coordinator because this one slept too long.
        """
        # By the clock on the wall, which goes on while this computer sleeps; it may be set back.
        due = bool(self._held) and abs(time.time() - self._renewed) >= LEASE_SECONDS / 4
        lost = self._renew_leases() if due else []
        self._write_if_due()
        return lost

    def _renew_leases(self) -> list[Taken]:
        mine = self.database.patiently(self._leases.mine)
        lost = [self._held[trial_id] for trial_id in set(self._held) - mine]
        for taken in lost:
            self._forget(taken.trial_id)
        self.database.patiently(self._leases.renew)
        self._renewed = time.time()
        return lost

    def remember(self, **changes: object) -> None:
        """Adds to the study's stored attributes."""
        self.database.patiently(
            lambda: self.study.set_user_attr(MARK, {**self.attributes, **changes})
        )

    def _take(self, total: int) -> Taken | None:
        with self.database.exclusive():
            self._leases.prepare()
            self._leases.excuse_who_waited()
            while True:
                self._update()
                unfinished = self._unfinished()
                if unfinished is None and len(self._history) >= total:
                    return None
                taken = self._hold(*unfinished) if unfinished else self._begin()
                if taken is not None:
                    self._held[taken.trial_id] = taken
                    return taken

    def _update(self) -> None:
        begun = time.monotonic()
        self._history.update()
        for one, value in self._unwritten.items():
            self._history.note_report(one.number, one.epoch, value)
        self._read = begun

    def _unfinished(self) -> tuple[optuna.Trial, FrozenTrial | None] | None:
        """Returns a trial that waits to be trained, and what it has behind it; None: none does."""
        running = {trial._trial_id: trial for trial in self._history.running}
        # A trial of ours that we do not know of is one whose taking was cut off by a fault.
        busy = self._leases.busy(running) | set(self._held)
        for trial_id, trial in running.items():
            if trial_id not in busy:
                return optuna.Trial(self.study, trial_id), trial
        if len(running) < len(self._history.unfinished):
            return self.study.ask(), None
        return None

    def _begin(self) -> Taken | None:
        """Creates a trial with its parameters and its lease.

        Returns:
            None if somebody else's script has added a trial to the study at this moment.
        """
        history = self._history
        number = len(history)
        others = [*history.finished, *history.unfinished.values()]
        params, attributes = self._sampler.propose(self.study, number, others, history.shortlist)
        space, study_id = distributions(self.config.space), self.study._study_id
        params = {name: params[name] for name in space}
        with self.database.engine.begin() as connection:
            trial = trial_rows.begin(connection, study_id, number, params, space, attributes)
            if trial is None:
                connection.rollback()
                return None
            self._leases.take(trial._trial_id, connection)
        history.note(trial)
        whole = HyperParams.of(ordered(trial.params, self.config.space))
        return Taken(number, trial._trial_id, whole, reported=0, trainer_deaths=0)

    def _hold(self, asked: optuna.Trial, before: FrozenTrial | None) -> Taken | None:
        """Takes the lease, and stores parameters that the trial has not got yet.

        Returns:
            None if somebody enqueued a value that no trial can have: the trial has failed.
        """
        space = self.config.space
        values = None if asked.params else settled(asked._fixed_params, space)
        with self.database.engine.begin() as connection:
            self._leases.take(asked._trial_id, connection)
            if values:  # Optuna would store each in a transaction of its own.
                trial_rows.draw(connection, asked._trial_id, values, distributions(space))
        try:
            params = HyperParams.of(ordered(values, space)) if values else suggest(asked, space)
        except ValueError as error:
            why = " ".join(str(error).split())
            asked.set_user_attr("outcome", str(Outcome.FAILED))
            asked.set_user_attr("reason", f"its parameters do not fit the space: {why}")
            asked.set_user_attr("traceback", traceback.format_exc())
            self.study.tell(asked, state=TrialState.FAIL)
            self._leases.drop(asked._trial_id)
            return None
        reported = len(before.intermediate_values) if before else 0
        deaths = before.user_attrs.get("trainer_deaths", 0) if before else 0
        return Taken(asked.number, asked._trial_id, params, reported, deaths)

    def _finish(self, trial_id: int, told: Told, before: Callable[[], None]) -> bool:
        with self.database.exclusive():
            with self.database.engine.begin() as connection:
                if not self._leases.confirm(trial_id, connection):
                    self._forget(trial_id)
                    return told.is_told(connection, trial_id)
                before()
                self._write_to(connection)
                told.tell(connection, self.study._study_id, trial_id)
            self._unwritten.clear()
            self._written = time.monotonic()
            self.database.flush()
            return True


def home_of(database: Database, name: str, made: str) -> Path:
    """Returns the folder of a study's files; ``made`` is the study's own id."""
    if not made.isalnum():  # Who writes to the database need not be who owns this folder.
        raise StudyError(f"the study '{name}' in {database} has the id {made!r}; restore a copy")
    return database.folder / f"{name}-{made}"
