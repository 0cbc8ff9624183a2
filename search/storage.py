"""Studies in a database: create, fork, open, list.

What becomes of the trials of one is `StoredStudy`'s.
"""

from __future__ import annotations

import datetime
import functools
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.study import StudySummary
from sqlalchemy.exc import NoResultFound

from search import trial_rows
from search.config import StudyConfig, make_config
from search.database import Database
from search.errors import LostError, StudyError, nearest
from search.forks import copy_trial_files, copy_trials
from search.sampling import StudySampler
from search.stored_study import LOOKS, MARK, StoredStudy, home_of
from search.surroundings import versions

MAKING = "rnn_search_making"
"""The attribute of a study without `MARK` whose making was cut off, or is under way: its id."""


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
    return database.patiently(lambda: _create(database, config, attributes, fork_of))


def _create(
    database: Database,
    config: StudyConfig,
    attributes: Mapping[str, Any],
    fork_of: StoredStudy | None,
) -> StoredStudy:
    with database.exclusive():
        _clear(database, config.name)
        study = optuna.create_study(
            storage=database.storage,
            study_name=config.name,
            direction=config.direction,
            sampler=StudySampler(config),
            pruner=optuna.pruners.NopPruner(),
            load_if_exists=True,
        )
        # One of this name without our mark and trials was cut off before all else, or is another's.
        if MARK in study.user_attrs or study.get_trials(deepcopy=False):
            return open_study(database, config.name)
        _require_direction(study, config, database)
        birth, fork = _birth(config), {}
        study.set_user_attr(MAKING, birth["id"])
        if fork_of is not None:
            old = fork_of.trials(), fork_of.config
            # One transaction for all: Optuna's own, one each, would keep other runs waiting.
            with database.engine.begin() as connection:
                add = functools.partial(trial_rows.add, connection, study._study_id)
                fork["fork"] = copy_trials(*old, add, config.space)
            # Who forks because of a test figure has looked, and looks again at the same part.
            fork["fork"]["looks"] = brief_looks(fork_of)
            home = home_of(database, config.name, birth["id"])
            copy_trial_files(study.get_trials(deepcopy=False), fork_of.folder, home)
        # The mark comes last: a study without it is one whose making was cut off.
        study.set_user_attr(MARK, {**attributes, **birth, **fork})
    return StoredStudy(database, study, config)


def _require_direction(study: optuna.Study, config: StudyConfig, database: Database) -> None:
    """Refuses an empty study that another program has made to be ranked otherwise."""
    directions = [direction.name.lower() for direction in study.directions]
    if directions != [config.direction]:
        raise StudyError(
            f"{database} has an empty study '{config.name}' that another program has made to "
            f"{' and '.join(directions)}, not to {config.direction}; delete it there, or give "
            "another name"
        )


def brief_looks(stored: StoredStudy) -> list[dict[str, Any]]:
    """Returns what a fork remembers of the looks at the test part of the study it is made from."""
    told = ("time", "metric", "mean", "trial")
    looks = stored.study.user_attrs.get(LOOKS, [])
    own = [{"study": stored.config.name, **{key: look[key] for key in told}} for look in looks]
    return [*stored.attributes.get("fork", {}).get("looks", []), *own]


def is_made(study: StudySummary) -> bool:
    """False for what a killed `create_study` has left, or one has not finished yet.

    At its very beginning it has neither attributes nor trials, as what a dashboard has just made.
    """
    begun = MAKING in study.user_attrs or study.n_trials == 0
    return MARK in study.user_attrs or not begun


def _clear(database: Database, name: str) -> None:
    """Removes the study of this name if its making was cut off; call it under the lock."""
    for study in list_studies(database):
        if study.study_name == name and MAKING in study.user_attrs and not is_made(study):
            optuna.delete_study(study_name=name, storage=database.storage)
            shutil.rmtree(home_of(database, name, study.user_attrs[MAKING]), ignore_errors=True)


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
    try:
        study_id = database.patiently(lambda: database.storage.get_study_id_from_name(name))
    except KeyError:
        known = [summary.study_name for summary in list_studies(database)]
        near = nearest(name, known) if known else "; there are none yet"
        raise StudyError(f"no study '{name}' in {database}{near}") from None
    # Not by its summary: that has the notes of all trials of all studies.
    attributes = database.patiently(lambda: database.storage.get_study_user_attrs(study_id))
    if MARK not in attributes:
        where = f"the study '{name}' in {database}"
        if MAKING in attributes:
            raise StudyError(
                f"{where} is being made by another run, or its making was cut off: wait, or run "
                "again what was to make it"
            )
        raise StudyError(f"{where} was not made by rnn-search; choose another name")
    config = make_config(attributes[MARK]["config"], f"study {name} in {database}")
    if config.name != name:
        raise StudyError(
            f"the study '{name}' in {database} is '{config.name}' under another name, which some "
            f"program has given it; rename it back there, or go on with a backup of '{config.name}'"
        )
    study = optuna.load_study(
        study_name=name,
        storage=database.storage,
        sampler=StudySampler(config),
        pruner=optuna.pruners.NopPruner(),
    )
    return StoredStudy(database, study, config)


@contextmanager
def deletion_told(url: str, name: str) -> Iterator[None]:
    """Says in one line that a study was deleted while a block used it, in optuna-dashboard for one.

    Raises:
        LostError: It was.
    """
    try:
        yield
    except (KeyError, NoResultFound) as error:  # What Optuna and SQLAlchemy make of missing rows.
        database = Database(url, create=False)
        if name in {study.study_name for study in list_studies(database)}:
            raise
        raise LostError(
            f"the study '{name}' is not in {database} any more: it was deleted while it was in "
            "use; run its study file again to begin anew, or rnn-search copy it from a backup"
        ) from error


def list_studies(database: Database) -> list[StudySummary]:
    """Returns Optuna's summaries of all studies in the database, in order of their names."""
    read = functools.partial(optuna.get_all_study_summaries, include_best_trial=False)
    summaries = database.patiently(lambda: read(database.storage))
    return sorted(summaries, key=lambda summary: summary.study_name)
