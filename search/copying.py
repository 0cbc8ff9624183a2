"""A study in another database, whole or not at all: `rnn-search backup` and `rnn-search copy`.

Rows go from table to table in one transaction at either end, files from folder to folder; whoever
reads the copy finds all of it, or none.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from search.copied_rows import Ids, Rows, Source, faults_said
from search.database import Database
from search.errors import StorageError, StudyError
from search.sampling import merit
from search.storage import list_studies
from search.stored_study import StoredStudy
from search.trial_files import WEIGHTS, copy_file, trial_folder
from search.whole_files import unfinished


@dataclass(frozen=True)
class Copied:
    """What was copied where.

    Attributes:
        study: Its name.
        storage: The database that has it now, without its password.
        folder: Its trials' files there.
        trials: How many it has.
        unfinished: How many of these go on from where they were when the copy is resumed.
        in_training: How many of these are being trained in the original.
        missing: Numbers of the best whose weights were not here, but, if they are not gone, where
            they were trained.
    """

    study: str
    storage: str
    folder: Path
    trials: int
    unfinished: int
    in_training: int
    missing: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Says it in words."""
        left = f", {self.unfinished} of them unfinished" if self.unfinished else ""
        training = f", {self.in_training} of these in training now" if self.in_training else ""
        away = ""
        if self.missing:
            numbers = ", ".join(map(str, self.missing))
            away = f", but not the weights of {numbers}: these are not here"
        return (
            f"the study '{self.study}' ({self.trials} trials{left}{training}) is in "
            f"{self.storage}, its files in {self.folder}{away}"
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints."""
        return {**vars(self), "folder": str(self.folder), "missing": list(self.missing)}


def back_up(stored: StoredStudy, file: Path) -> Copied:
    """Copies a study into a new SQLite file, and its trials' files into ``STEM.trials`` beside it.

    Args:
        stored: The study; it may be running.
        file: Appears when it is whole, and not before.

    Raises:
        StudyError: Something of this name is there, or the place cannot be written.
        StorageError: A database or the disk failed; nothing is left of the backup.
    """
    folder = file.parent / f"{file.stem}.trials"
    for taken in (file, folder):
        if os.path.lexists(taken):
            raise StudyError(f"{taken} is there already; give the backup another name")
    try:
        with _staging(file) as staging:
            url = URL.create("sqlite", database=str(staging / file.name))
            target = Database(url.render_as_string(), create=True)
            copied = copy_study(stored, target)
            target.engine.dispose()
            # The file comes last: where it is, the rest is.
            with unfinished(folder):
                (staging / folder.name).rename(folder)
            (staging / file.name).rename(file)
    except OSError as error:
        raise StorageError(
            f"{error.filename or file}: {error.strerror}; {file} was not made"
        ) from error
    home = folder / copied.folder.name
    return Copied(**{**vars(copied), "storage": f"sqlite:///{file}", "folder": home})


@contextmanager
def _staging(file: Path) -> Iterator[Path]:
    """Makes an empty folder beside the file, this process's alone; it is gone in the end."""
    staging = file.with_name(f".{file.name}.part")
    staging.mkdir(parents=True, exist_ok=True)
    handle = os.open(staging, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise StudyError(f"another backup to {file} is under way; wait for its end") from None
    with unfinished(staging):
        try:
            for left in staging.iterdir():  # by a backup that was killed
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            os.close(handle)


def copy_study(stored: StoredStudy, target: Database) -> Copied:
    """Copies a study with all that belongs to it; the original stays as it is.

    Finished trials cannot change meanwhile, and their files belong to them: the lock keeps other
    processes from telling a trial. The epochs of a trial in training may be ahead of its checkpoint
    or behind it, which is how a run that is killed leaves them.

    Args:
        stored: The study; it may be running.
        target: Another database.

    Raises:
        StudyError: The target has a study of this name.
        StorageError: A database failed; the target has nothing of the study then, or it says that
            this is not known.
    """
    source, name = stored.database, stored.config.name
    # Before the lock, which is the target's, too, if it is the same database.
    if any(one.study_name == name for one in list_studies(target)):
        raise StudyError(f"{target} has a study '{name}' already; nothing was copied")
    with faults_said(name, source), source.exclusive() as stay, _snapshot(source) as rows:
        source.take_time(rows)
        reading = Source(source, name, rows, stay)
        in_training = len(stored.held() & _unfinished(rows, stored.study._study_id))
        missing = _without_weights(stored)
        own = _own_id(stored, target)
        home = target.folder / f"{name}-{own}"
        with faults_said(name, target), target.engine.connect() as copy:
            # A signal removes the files until just before the end of the transaction.
            with _new_folder(home), unfinished(home):
                if target.is_sqlite:  # Else a writer between our first look and row would win.
                    copy.exec_driver_sql("BEGIN IMMEDIATE")
                target.take_time(copy)
                ids = Rows(reading, copy, stored.study._study_id).copy(own)
                _copy_folder(stored.folder, home, reading.stay)
                _copy_artifacts(copy, ids, source.artifacts, target.artifacts, reading.stay)
                states = _states(copy, ids)
            _commit(target, copy, name, ids, home)
    left = sum(not state.is_finished() for state in states)
    return Copied(name, str(target), home, len(states), left, in_training, missing)


def _without_weights(stored: StoredStudy) -> tuple[int, ...]:
    """Returns the numbers of the trials that are to keep weights and have none here."""
    done = [t for t in stored.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    best = sorted(done, key=lambda trial: merit(trial, stored.goal))
    numbers = [
        trial.number for trial in best[: stored.config.keep] if "best_epoch" in trial.user_attrs
    ]
    return tuple(n for n in numbers if not (trial_folder(stored.folder, n) / WEIGHTS).exists())


def _unfinished(rows: sa.Connection, study_id: int) -> set[int]:
    """Returns the ids of a study's trials that are in training, or were when their run ended."""
    trials = models.TrialModel
    wanted = sa.select(trials.trial_id).where(
        trials.study_id == study_id, trials.state == TrialState.RUNNING
    )
    return set(rows.execute(wanted).scalars())


def _own_id(stored: StoredStudy, target: Database) -> str:
    """Returns the part of its folder's name that is the copy's alone.

    Where a folder has the name already, it is that of a study: two databases may keep their files
    in one place, because they are servers with a database of one name, or by way of a link.
    """
    own: str = stored.attributes["id"]
    taken = os.path.lexists(target.folder / f"{stored.config.name}-{own}")
    return uuid.uuid4().hex[:8] if taken else own


@contextmanager
def _new_folder(home: Path) -> Iterator[None]:
    """Removes the folder that a block makes if the block fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


@contextmanager
def _snapshot(database: Database) -> Iterator[sa.Connection]:
    """Opens a transaction that sees one moment of the database, however long it reads."""
    level = "SERIALIZABLE" if database.is_sqlite else "REPEATABLE READ"
    with database.engine.connect().execution_options(isolation_level=level) as connection:
        if database.is_sqlite:  # Python begins no transaction of its own in order to read.
            connection.exec_driver_sql("BEGIN")
        yield connection
        with suppress(DBAPIError):  # What was wanted of it has been read.
            connection.rollback()


def _copy_folder(source: Path, home: Path, stay: Callable[[], None]) -> None:
    """Copies the files of a study's trials into a new folder."""
    part = home.with_name(f".{home.name}.part")
    if part.exists():  # of a copy that was killed
        shutil.rmtree(part)
    with _new_folder(part), unfinished(part):
        part.mkdir(parents=True)
        for file in sorted(source.rglob("*")):
            if file.is_file() and not file.name.endswith(".part") and file.name != "lock":
                copy_file(file, part / file.relative_to(source))
                stay()
        part.rename(home)


def _copy_artifacts(
    copy: sa.Connection, ids: Ids, source: Path, target: Path, stay: Callable[[], None]
) -> None:
    """Copies the pictures, and whatever else was attached by way of the dashboard."""
    tables: tuple[tuple[Any, str, Any], ...] = (
        (models.StudySystemAttributeModel.__table__, "study_id", [ids.study[1]]),
        (models.TrialSystemAttributeModel.__table__, "trial_id", _trials_of(ids.study[1])),
    )
    for table, column, wanted in tables:
        of_study = table.c[column].in_(wanted) & table.c.key.startswith("artifacts:")
        for key in copy.execute(sa.select(table.c.key).where(of_study)).scalars():
            name = key.removeprefix("artifacts:")
            if Path(name).name == name and not (target / name).exists():
                copy_file(source / name, target / name)
                stay()


def _states(copy: sa.Connection, ids: Ids) -> list[TrialState]:
    table = models.TrialModel.__table__
    query = sa.select(table.c.state).where(table.c.study_id == ids.study[1])
    return list(copy.execute(query).scalars())


def _commit(target: Database, copy: sa.Connection, name: str, ids: Ids, home: Path) -> None:
    """Ends the transaction that has the copy; where the answer is lost, looks what it was.

    Raises:
        DBAPIError: There is no copy, and its files are removed.
        StorageError: The database does not say.
    """
    try:
        copy.commit()
    except DBAPIError:
        copy.invalidate()  # Nobody is to go on with what is left of the transaction.
        try:
            there = target.patiently(lambda: _is_there(target, name, ids))
        except StorageError as error:
            raise StorageError(
                f"{error}; it may have the study '{name}' or not: look with rnn-search list, and "
                "copy it again if it has not"
            ) from error
        if not there:
            shutil.rmtree(home, ignore_errors=True)
            raise


def _is_there(database: Database, name: str, ids: Ids) -> bool:
    table = models.StudyModel.__table__
    query = sa.select(table.c.study_name).where(table.c.study_id == ids.study[1])
    with database.engine.connect() as connection:
        return bool(connection.execute(query).scalar() == name)


def _trials_of(study_id: int) -> sa.Select[tuple[int]]:
    table = models.TrialModel.__table__
    return sa.select(table.c.trial_id).where(table.c.study_id == study_id)
