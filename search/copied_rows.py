"""The rows of one study on their way from one database to another, as they are stored.

Nothing is rounded, nan and infinity stay what they are, and 1 000 trials take a second where
Optuna's `copy_study` takes half a minute. Ids alone change, and with them the names and links of
the dashboard's notes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from optuna.storages._rdb import models
from sqlalchemy.exc import DBAPIError, IntegrityError

from search.database import Database
from search.database_faults import first_line
from search.errors import StorageError, StudyError
from search.stored_study import MARK

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


@contextmanager
def faults_said(name: str, database: Database) -> Iterator[None]:
    """Says in one line why nothing was copied: a fault of a database, or of a disk."""
    try:
        yield
    except IntegrityError:  # Another process has just made it.
        raise StudyError(f"{database} has a study '{name}' by now; nothing was copied") from None
    except DBAPIError as error:
        raise StorageError(f"{database}: {first_line(error)}; nothing was copied") from error
    except OSError as error:
        place = error.filename or database.folder
        raise StorageError(f"{place}: {error.strerror}; nothing was copied") from error


@dataclass(frozen=True)
class Ids:
    """A study's id in the target, and those of its trials, by those in the source."""

    study: tuple[int, int]
    trials: Mapping[int, int]


class Source:
    """A database that is copied from: its lock is held, and one moment of it is seen.

    Args:
        database: The database.
        name: The study's name.
        rows: A connection that sees the moment.
        stay: Keeps the lock, see `Database.exclusive`.
    """

    def __init__(
        self, database: Database, name: str, rows: sa.Connection, stay: Callable[[], None]
    ) -> None:
        self._database, self._name, self._rows, self._stay = database, name, rows, stay

    def read(self, query: sa.Select[Any]) -> Iterator[list[Any]]:
        """Yields what a query finds, some rows at a time."""
        with faults_said(self._name, self._database):
            found = self._rows.execute(query, execution_options={"yield_per": AT_ONCE})
            for rows in found.mappings().partitions():
                yield [dict(row) for row in rows]
                self._stay()

    def only(self, query: sa.Select[Any]) -> Any:
        """Returns the one value that a query finds."""
        with faults_said(self._name, self._database):
            return self._rows.execute(query).scalar_one()

    def stay(self) -> None:
        """Keeps the lock, for who copies files meanwhile."""
        with faults_said(self._name, self._database):
            self._stay()


class Rows:
    """The rows of one study on their way from one database to another."""

    def __init__(self, source: Source, copy: sa.Connection, study_id: int) -> None:
        self._source, self._copy, self._study_id = source, copy, study_id
        trials = models.TrialModel.__table__
        self._trial_ids = sa.select(trials.c.trial_id).where(trials.c.study_id == study_id)

    def copy(self, own: str) -> Ids:
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
        name = self._source.only(
            sa.select(table.c.study_name).where(table.c.study_id == self._study_id)
        )
        made = self._copy.execute(sa.insert(table).values(study_name=name))
        return int(made.inserted_primary_key[0])  # type: ignore[index]

    def _copy_trials(self, study_id: int) -> Ids:
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
        return Ids((self._study_id, study_id), trials)

    def _read(self, table: sa.Table, which: sa.ColumnElement[bool]) -> Iterator[list[Any]]:
        (key,) = table.primary_key
        return self._source.read(sa.select(table).where(which).order_by(key))

    def _write(self, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        (key,) = table.primary_key  # The target numbers its rows itself.
        self._copy.execute(
            sa.insert(table), [{k: v for k, v in r.items() if k != key.name} for r in rows]
        )


def _marked(row: dict[str, Any], own: str) -> dict[str, Any]:
    if row["key"] != MARK:
        return row
    return {**row, "value_json": json.dumps({**json.loads(row["value_json"]), "id": own})}


def _readdressed(row: dict[str, Any], ids: Ids) -> dict[str, Any]:
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
