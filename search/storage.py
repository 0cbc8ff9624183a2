"""Studies in a database: create, open, take trials, report, finish; nothing finished is lost.

Who may write what: the coordinator that holds a trial's lease alone reports and finishes it, under
the trial's own number. What survives ``kill -9``: every finished trial, and of an unfinished one
its parameters, its reported epochs and its last checkpoint, from which the next run goes on.
"""

from __future__ import annotations

import contextlib
import datetime
import time
import traceback
import uuid
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.study import StudySummary
from optuna.trial import FrozenTrial, TrialState

from search.config import StudyConfig, make_config
from search.database import Database
from search.errors import StudyError, nearest
from search.forks import copy_trial_files, copy_trials
from search.leases import LEASE_SECONDS, Leases
from search.sampling import StudySampler
from search.space import HyperParams, differences, suggest
from search.stopping import stagnated, target_reached
from search.surroundings import versions
from search.trial import INFEASIBLE, Curve, Decision, Epoch, Goal, Outcome

optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=ExperimentalWarning)

FREE_TO_CHANGE = ("[budget] ", "keep: ", "[data] path: ", "[data] test_path: ", "[model] folder: ")
"""What may differ on resume: how long, how much is kept, where the same data and code lie."""
MARK = "rnn_search"
"""The study attribute that tells our studies from others in the same database."""


@dataclass(frozen=True)
class Taken:
    """A trial that this coordinator holds.

    Attributes:
        number: Its number in the study.
        trial_id: Optuna's id, unique in the database.
        params: What to train.
        reported: How many of its epochs the database has from an earlier life.
        trainer_deaths: How many trainers it has taken down so far.
    """

    number: int
    trial_id: int
    params: HyperParams
    reported: int
    trainer_deaths: int


class StoredStudy:
    """One study in a database, opened to run it or to read it.

    Attributes:
        study: Optuna's study; one object for as long as this one lives, because each new one
            reads everything again.
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

    @property
    def attributes(self) -> dict[str, Any]:
        """What was stored at creation: baselines, fingerprints, versions, notes."""
        return dict(self.study.user_attrs[MARK])

    @property
    def folder(self) -> Path:
        """The folder of the study's files; a study made anew under an old name has its own."""
        return self.database.folder / f"{self.config.name}-{self.attributes['id']}"

    def trials(self) -> list[FrozenTrial]:
        """Returns all trials, by number; do not change them."""
        return self.database.patiently(lambda: self.study.get_trials(deepcopy=False))

    def reached(self) -> str | None:
        """Returns why the best value is good enough for ``[budget]``, or None."""
        return target_reached(self._values(), self.goal, self.config.budget.target)

    def stagnated(self) -> str | None:
        """Returns why ``[budget]`` takes further trials to be in vain, or None."""
        return stagnated(self._values(), self.goal, self.config.budget.stagnation)

    def _values(self) -> list[float | None]:
        """Returns the values of the finished trials in the order in which they finished."""
        finished = [trial for trial in self.trials() if trial.state.is_finished()]
        finished.sort(key=lambda trial: trial.datetime_complete or datetime.datetime.min)
        return [t.value if t.state == TrialState.COMPLETE else None for t in finished]

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
        """Stores an epoch's value as the trial's intermediate value at step ``epoch.index``."""
        value = epoch.figures[self.goal.metric]
        # A trial that others took over while this process slept may be finished; renew() tells.
        with contextlib.suppress(UpdateFinishedTrialError):
            self.database.patiently(
                lambda: self.database.storage.set_trial_intermediate_value(
                    taken.trial_id, epoch.index, value
                )
            )

    def finish(
        self, taken: Taken, decision: Decision, curve: Curve, extra: Mapping[str, Any]
    ) -> bool:
        """Tells a trial's end, with its reason, its best epoch and its curve; then it is on disk.

        Args:
            taken: The trial.
            decision: How and why it ended; not an interruption.
            curve: Its epochs.
            extra: Further attributes of the trial, plain data.

        Returns:
            False if the trial was not this coordinator's any more; nothing was told then.
        """
        return self.database.patiently(lambda: self._finish(taken, decision, curve, extra))

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
        self.database.patiently(lambda: self._leases.drop(taken.trial_id))
        self._held.pop(taken.trial_id, None)

    def renew(self) -> list[Taken]:
        """Keeps the leases alive; call it often, it acts only when it is due.

        Returns:
            Trials that were lost to another coordinator because this one slept too long.
        """
        if time.time() - self._renewed < LEASE_SECONDS / 4 or not self._held:
            return []
        mine = self.database.patiently(lambda: self._leases.mine(self._held))
        lost = [self._held.pop(trial_id) for trial_id in set(self._held) - mine]
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
            while (found := self._next(total)) is not None:
                if (taken := self._hold(*found)) is not None:
                    return taken
        return None

    def _next(self, total: int) -> tuple[optuna.Trial, FrozenTrial | None] | None:
        """Returns the trial that is next to train, and what it has behind it; None: no more."""
        trials = self.study.get_trials(deepcopy=False)
        running = {t._trial_id: t for t in trials if t.state == TrialState.RUNNING}
        self._leases.sweep(running)
        # A trial of ours that we do not know of is one whose taking was cut off by a fault.
        busy = (self._leases.held() - self._leases.mine(running)) | set(self._held)
        for trial_id, trial in running.items():
            if trial_id not in busy:
                return optuna.Trial(self.study, trial_id), trial
        waiting = any(trial.state == TrialState.WAITING for trial in trials)
        if len(trials) >= total and not waiting:
            return None
        return self.study.ask(), None

    def _hold(self, asked: optuna.Trial, before: FrozenTrial | None) -> Taken | None:
        """Takes the lease first, then fills in parameters that a killed run had not got to.

        Returns:
            None if somebody enqueued a value that no trial can have: the trial has failed.
        """
        self._leases.take(asked._trial_id)
        try:
            params = suggest(asked, self.config.space)
        except ValueError as error:
            reason = f"its parameters do not fit the space: {' '.join(str(error).split())}"
            asked.set_user_attr("outcome", str(Outcome.FAILED))
            asked.set_user_attr("reason", reason)
            asked.set_user_attr("traceback", traceback.format_exc())
            self.study.tell(asked, state=TrialState.FAIL)
            self._leases.drop(asked._trial_id)
            return None
        reported = len(before.intermediate_values) if before else 0
        deaths = before.user_attrs.get("trainer_deaths", 0) if before else 0
        taken = Taken(asked.number, asked._trial_id, params, reported, deaths)
        self._held[taken.trial_id] = taken
        return taken

    def _finish(
        self, taken: Taken, decision: Decision, curve: Curve, extra: Mapping[str, Any]
    ) -> bool:
        with self.database.exclusive():
            if not self._leases.mine([taken.trial_id]):
                self._held.pop(taken.trial_id, None)
                return False
            trial = optuna.Trial(self.study, taken.trial_id)
            if self.database.storage.get_trial(taken.trial_id).state.is_finished():
                return self._forget(taken)  # told in a try whose answer was lost
            best = curve.best(self.goal)
            attributes = {
                "outcome": str(decision.outcome),
                "reason": decision.reason,
                "best_epoch": best.index if best else None,
                "figures": best.figures if best else {},
                "curve": curve.compact(),
                **extra,
            }
            for name, value in attributes.items():
                trial.set_user_attr(name, value)
            if decision.outcome in INFEASIBLE:
                trial.set_constraint(str(decision.outcome), 1.0)
            state = _STATES[decision.outcome]
            value = best.figures[self.goal.metric] if best else None
            if state == TrialState.COMPLETE and value is not None:
                self.study.tell(trial, value, skip_if_finished=True)
            else:
                self.study.tell(trial, state=state, skip_if_finished=True)
            return self._forget(taken)

    def _forget(self, taken: Taken) -> bool:
        self.database.flush()
        self._leases.drop(taken.trial_id)
        self._held.pop(taken.trial_id, None)
        return True


_STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.PRUNED,
    Outcome.OUT_OF_MEMORY: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}


def create_study(
    database: Database,
    config: StudyConfig,
    attributes: Mapping[str, Any],
    fork_of: StoredStudy | None = None,
) -> StoredStudy:
    """Creates a study; if another process has just created the same one, opens that.

    Args:
        database: Where.
        config: Its configuration, stored whole in it.
        attributes: What else to store: ``baselines``, ``data`` (the fingerprint), ``notes``.
        fork_of: A study whose finished trials are copied as far as they fit; failed ones do not.
    """
    if fork_of is None:
        return database.patiently(lambda: _create(database, config, attributes, None))
    new = _create(database, config, attributes, fork_of)
    copy_trial_files(new.trials(), fork_of.folder, new.folder)
    return new


def _create(
    database: Database,
    config: StudyConfig,
    attributes: Mapping[str, Any],
    fork_of: StoredStudy | None,
) -> StoredStudy:
    with database.exclusive():
        study = optuna.create_study(
            storage=database.storage,
            study_name=config.name,
            direction=config.direction,
            sampler=StudySampler(config),
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        # A study of this name without our mark and trials is one whose making was cut off.
        if MARK in study.user_attrs or study.get_trials(deepcopy=False):
            return open_study(database, config.name)
        fork = {}
        if fork_of is not None:
            fork["fork"] = copy_trials(fork_of.trials(), fork_of.config, study, config.space)
        # The mark comes last: a study without it is one whose making was cut off.
        study.set_user_attr(MARK, {**attributes, **_birth(config), **fork})
    return StoredStudy(database, study, config)


def _birth(config: StudyConfig) -> dict[str, Any]:
    """Returns what every study stores of its making."""
    return {
        "id": uuid.uuid4().hex[:8],
        "config": config.resolved(),
        "versions": versions(),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def open_study(database: Database, name: str) -> StoredStudy:
    """Opens a study by its name.

    Raises:
        StudyError: There is none of this name, or it was not made by rnn-search.
    """
    known = {summary.study_name: summary for summary in list_studies(database)}
    if name not in known:
        others = nearest(name, known) if known else "; there are none yet"
        raise StudyError(f"no study '{name}' in {database}{others}")
    attributes = known[name].user_attrs.get(MARK)
    if attributes is None:
        raise StudyError(
            f"the study '{name}' in {database} was not made by rnn-search; choose another name"
        )
    config = make_config(attributes["config"], f"study {name} in {database}")
    study = optuna.load_study(
        study_name=name,
        storage=database.storage,
        sampler=StudySampler(config),
        pruner=optuna.pruners.NopPruner(),
    )
    return StoredStudy(database, study, config)


def list_studies(database: Database) -> list[StudySummary]:
    """Returns Optuna's summaries of all studies in the database, in order of their names."""
    summaries = database.patiently(
        lambda: optuna.get_all_study_summaries(database.storage, include_best_trial=False)
    )
    return sorted(summaries, key=lambda summary: summary.study_name)


def check_unchanged(stored: StoredStudy, config: StudyConfig, data: str) -> None:
    """Refuses to go on with a study that is not the same any more.

    Args:
        stored: The study.
        config: What is asked for now, fitted to the data.
        data: Fingerprint of the data now.

    Raises:
        StudyError: Something differs that decides what trials give; names it, and the remedy.
    """
    changes = [
        change
        for change in differences(stored.config.resolved(), config.resolved())
        if not change.startswith(FREE_TO_CHANGE)
    ]
    if stored.attributes["data"] != data:
        changes.append(f"the data (fingerprint {stored.attributes['data']} → {data})")
    if changes:
        # What its trials reached is worth nothing on other data, or by another figure.
        same = stored.attributes["data"] == data and stored.config.metric == config.metric
        fork = "give another name, or take its trials along with --fork NEWNAME"
        remedy = fork if same else "or give another name"
        raise StudyError(
            f"the study '{config.name}' was begun otherwise: {'; '.join(changes)}; change it back, "
            f"{remedy}"
        )
