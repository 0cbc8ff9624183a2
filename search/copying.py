"""A study in another database, whole or not at all: `rnn-search backup` and `rnn-search copy`.

Rows go from table to table as they are stored, in one transaction at either end: nothing is
rounded, nan and infinity stay what they are, and 1 000 trials take a second where Optuna's
`copy_study` takes half a minute. Ids alone change, and with them the names and links of the
dashboard's notes.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, IntegrityError

from search.database import Database, first_line
from search.errors import StorageError, StudyError
from search.storage import list_studies
from search.stored_study import MARK, StoredStudy
from search.trial_files import WEIGHTS, copy_file, trial_folder
from search.whole_files import unfinished

OF_STUDY = (
    models.StudyDirectionModel,
    models.StudyUserAttributeModel,
    models.StudySystemAttributeModel,
)
OF_TRIAL = (
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
)
"""Optuna's tables, but heartbeats and our leases: these say who trains a trial now, and where."""
AT_ONCE = 1000
"""Rows that are in memory at a time."""
ABOUT_A_TRIAL = re.compile(r"(dashboard:(?:artifacts:)?)(\d+)(:.*)")
"""The name of a study's attribute in which optuna-dashboard keeps something of a trial."""


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
        StorageError: A database failed; the target has nothing of the study then.
    """
    source, name = stored.database, stored.config.name
    # Before the lock, which is the target's, too, if it is the same database.
    if any(one.study_name == name for one in list_studies(target)):
        raise StudyError(f"{target} has a study '{name}' already; nothing was copied")
    with _faults_said(name, target), source.exclusive(long=True), _snapshot(source) as rows:
        source.take_time(rows)
        in_training = len(stored.held() & _unfinished(rows, stored.study._study_id))
        own = _own_id(stored, target)
        with _new_folder(target.folder / f"{name}-{own}") as home, target.engine.begin() as copy:
            if target.is_sqlite:  # Else a writer between our first look and row would win.
                copy.exec_driver_sql("BEGIN IMMEDIATE")
            target.take_time(copy)
            ids = _Rows(rows, copy, stored.study._study_id).copy(own)
            with unfinished(home):  # Until just before the end of the transaction.
                _copy_folder(stored.folder, home)
                _copy_artifacts(copy, ids, source.artifacts, target.artifacts)
        states = _states(target, ids)
    left = sum(not state.is_finished() for state in states)
    return Copied(name, str(target), home, len(states), left, in_training, _without_weights(stored))


def _without_weights(stored: StoredStudy) -> tuple[int, ...]:
    """Returns the numbers of the trials that are to keep weights and have none here."""
    sign = 1 if stored.goal.minimize else -1
    done = [t for t in stored.trials() if t.state == TrialState.COMPLETE and t.value is not None]
    best = sorted(done, key=lambda trial: (sign * (trial.value or 0.0), trial.number))
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
def _new_folder(home: Path) -> Iterator[Path]:
    """Removes the folder that a block makes if the block fails."""
    try:
        yield home
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise


@contextmanager
def _faults_said(name: str, target: Database) -> Iterator[None]:
    """Says in one line why nothing was copied."""
    try:
        yield
    except IntegrityError:  # Another process has just made it.
        raise StudyError(f"{target} has a study '{name}' by now; nothing was copied") from None
    except DBAPIError as error:
        raise StorageError(f"{target}: {first_line(error)}; nothing was copied") from error
    except OSError as error:
        place = error.filename or target.folder
        raise StorageError(f"{place}: {error.strerror}; nothing was copied") from error


@contextmanager
def _snapshot(database: Database) -> Iterator[sa.Connection]:
    """Opens a transaction that sees one moment of the database, however long it reads."""
    level = "SERIALIZABLE" if database.is_sqlite else "REPEATABLE READ"
    with database.engine.connect().execution_options(isolation_level=level) as connection:
        if database.is_sqlite:  # Python begins no transaction of its own in order to read.
            connection.exec_driver_sql("BEGIN")
        yield connection
        connection.rollback()


@dataclass(frozen=True)
class _Ids:
    """A study's id in the target, and those of its trials, by those in the source."""

    study: tuple[int, int]
    trials: Mapping[int, int]


class _Rows:
    """The rows of one study on their way from one connection to another."""

    def __init__(self, source: sa.Connection, copy: sa.Connection, study_id: int) -> None:
        self._source, self._copy, self._study_id = source, copy, study_id
        trials = models.TrialModel.__table__
        self._trial_ids = sa.select(trials.c.trial_id).where(trials.c.study_id == study_id)

    def copy(self, own: str) -> _Ids:
        """Copies all rows.

        Args:
            own: The part of its folder's name that is this study's alone.
        """
        ids = self._copy_trials(self._copy_name())
        for model in OF_TRIAL:
            table = model.__table__
            for rows in self._read(table, table.c.trial_id.in_(self._trial_ids)):
                self._write(table, [{**r, "trial_id": ids.trials[r["trial_id"]]} for r in rows])
        for model in OF_STUDY:
            table = model.__table__
            for rows in self._read(table, table.c.study_id == self._study_id):
                moved = [{**row, "study_id": ids.study[1]} for row in rows]
                if model is models.StudyUserAttributeModel:
                    moved = [_marked(row, own) for row in moved]
                elif model is models.StudySystemAttributeModel:
                    moved = [_readdressed(row, ids) for row in moved]
                self._write(table, moved)
        return ids

    def _copy_name(self) -> int:
        table = models.StudyModel.__table__
        name = self._source.execute(
            sa.select(table.c.study_name).where(table.c.study_id == self._study_id)
        ).scalar_one()
        made = self._copy.execute(sa.insert(table).values(study_name=name))
        return int(made.inserted_primary_key[0])  # type: ignore[index]

    def _copy_trials(self, study_id: int) -> _Ids:
        table = models.TrialModel.__table__
        trials: dict[int, int] = {}
        insert = sa.insert(table).returning(table.c.trial_id, sort_by_parameter_order=True)
        for rows in self._read(table, table.c.study_id == self._study_id):
            old = [row["trial_id"] for row in rows]
            moved = [
                {**{k: v for k, v in row.items() if k != "trial_id"}, "study_id": study_id}
                for row in rows
            ]
            trials |= dict(zip(old, self._copy.execute(insert, moved).scalars(), strict=True))
        return _Ids((self._study_id, study_id), trials)

    def _read(self, table: sa.Table, which: sa.ColumnElement[bool]) -> Iterator[list[Any]]:
        (key,) = table.primary_key
        query = sa.select(table).where(which).order_by(key)
        found = self._source.execute(query, execution_options={"yield_per": AT_ONCE})
        yield from ([dict(row) for row in rows] for rows in found.mappings().partitions())

    def _write(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        (key,) = table.primary_key  # The target numbers its rows itself.
        self._copy.execute(
            sa.insert(table), [{k: v for k, v in r.items() if k != key.name} for r in rows]
        )


def _marked(row: dict[str, Any], own: str) -> dict[str, Any]:
    if row["key"] != MARK:
        return row
    return {**row, "value_json": json.dumps({**json.loads(row["value_json"]), "id": own})}


def _readdressed(row: dict[str, Any], ids: _Ids) -> dict[str, Any]:
    """Gives an attribute of optuna-dashboard's that names ids the ids of the copy."""
    about = ABOUT_A_TRIAL.fullmatch(row["key"])
    key = row["key"]
    if about is not None and int(about[2]) in ids.trials:
        key = f"{about[1]}{ids.trials[int(about[2])]}{about[3]}"
    old, new = ids.study

    def readdress(link: re.Match[str]) -> str:
        trial = int(link[1])
        return f"/artifacts/{new}/{ids.trials.get(trial, trial)}/"

    text = row["value_json"]
    if "note_str:" in key:
        text = re.sub(rf"/artifacts/{old}/(\d+)/", readdress, text)
    return {**row, "key": key, "value_json": text}


def _copy_folder(source: Path, home: Path) -> None:
    """Copies the files of a study's trials into a new folder."""
    part = home.with_name(f".{home.name}.part")
    if part.exists():  # of a copy that was killed
        shutil.rmtree(part)
    with unfinished(part):
        part.mkdir(parents=True)
        for file in sorted(source.rglob("*")):
            if file.is_file() and not file.name.endswith(".part") and file.name != "lock":
                copy_file(file, part / file.relative_to(source))
        part.rename(home)


def _copy_artifacts(copy: sa.Connection, ids: _Ids, source: Path, target: Path) -> None:
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


def _states(database: Database, ids: _Ids) -> list[TrialState]:
    with database.engine.connect() as connection:
        table = models.TrialModel.__table__
        query = sa.select(table.c.state).where(table.c.study_id == ids.study[1])
        return list(connection.execute(query).scalars())


def _trials_of(study_id: int) -> sa.Select[tuple[int]]:
    table = models.TrialModel.__table__
    return sa.select(table.c.trial_id).where(table.c.study_id == study_id)
