"""Optuna's storage in a database, whose trials are read by plain selects.

Optuna reads trials as objects of SQLAlchemy's, one a row, and makes every distribution anew, which
takes most of its time: of 10 000 trials there are some 400 000 rows. What is read is the same.
"""

from __future__ import annotations

import datetime
import functools
import json
import warnings
from collections import defaultdict
from collections.abc import Container
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState

MANY = 500
"""Unfinished trials above which all of a study are read, because statements have their limits."""
_trials = models.TrialModel.__table__
_studies = models.StudyModel.__table__
_PARTS: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (models.TrialParamModel, ("param_name", "param_value", "distribution_json")),
    (models.TrialValueModel, ("objective", "value", "value_type")),
    (
        models.TrialIntermediateValueModel,
        ("step", "intermediate_value", "intermediate_value_type"),
    ),
    (models.TrialUserAttributeModel, ("key", "value_json")),
    (models.TrialSystemAttributeModel, ("key", "value_json")),
)
"""What belongs to a trial, in tables of its own."""
_NOT_FINITE = {"INF_POS": float("inf"), "INF_NEG": float("-inf"), "NAN": float("nan")}

Rows = dict[int, list[Any]]


class QuickStorage(RDBStorage):
    """Optuna's storage, with another way to read trials; all else is as it was.

    Whoever has one open runs or reads studies of ours, which say themselves what happens. Optuna is
    silent then; not by an import, because a script around `Objective` wants to hear it.

    Args:
        url: As SQLAlchemy writes it.
        options: Of SQLAlchemy's engine.
    """

    def __init__(self, url: str, options: dict[str, Any]) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        super().__init__(url, options)

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        """Returns trials in the order of their ids; the only place where Optuna's cache reads any.

        Args:
            study_id: Of their study.
            states: Which states count; None: all.
            included_trial_ids: What is to be read besides the trials after the next argument.
            trial_id_greater_than: Only trials with a larger id, and those above.

        Raises:
            KeyError: There is no such study.
        """
        again = {one for one in included_trial_ids if one <= trial_id_greater_than}
        every = len(again) > MANY
        after, asked = (-1, []) if every else (trial_id_greater_than, sorted(again))
        # The least of all, so that the database need not look at what lies before.
        least = min([after + 1, *asked])
        which = {"study": study_id, "least": least, "after": after, "again": asked}
        with self.engine.connect() as connection:
            # The trials come first: what is written meanwhile of one that is not finished is read
            # once more, and of one that is finished nothing is.
            found = [
                row
                for row in connection.execute(_TRIALS, which)
                if (states is None or row.state in states)
                and (row.trial_id > trial_id_greater_than or row.trial_id in again)
            ]
            if not found:
                if connection.execute(_STUDY, which).first() is None:
                    raise KeyError(models.NOT_FOUND_MSG)
                return []
            return _assemble(connection, which, found)


def _select_children(model: Any, *names: str) -> sa.Select[Any]:
    """Selects these columns of all rows that belong to the wanted trials."""
    table = model.__table__
    (key,) = table.primary_key
    # Kinds of numbers are read as text: as members of an enumeration they take twice the time.
    kinds = [
        sa.type_coerce(column, sa.String) if isinstance(column.type, sa.Enum) else column
        for column in (table.c[name] for name in names)
    ]
    return (
        sa.select(table.c.trial_id, *kinds)
        .join_from(table, _trials, table.c.trial_id == _trials.c.trial_id)
        .where(_WANTED)
        .order_by(key)
    )


# Made once: to make a statement, and to find it among those compiled, takes longer than SQLite.
_WANTED = (
    (_trials.c.study_id == sa.bindparam("study"))
    & (_trials.c.trial_id >= sa.bindparam("least"))
    & (
        (_trials.c.trial_id > sa.bindparam("after"))
        | _trials.c.trial_id.in_(sa.bindparam("again", expanding=True))
    )
)
_TRIALS = sa.select(_trials).where(_WANTED).order_by(_trials.c.trial_id)
_STUDY = sa.select(_studies.c.study_id).where(_studies.c.study_id == sa.bindparam("study"))
_CHILDREN = [_select_children(model, *names) for model, names in _PARTS]


def _assemble(
    connection: sa.Connection, which: dict[str, Any], found: list[sa.Row[Any]]
) -> list[FrozenTrial]:
    """Reads what belongs to the trials found, and makes them whole."""
    parts = [_children(connection, query, which) for query in _CHILDREN]
    return [_whole(row, *(part[row.trial_id] for part in parts)) for row in found]


def _children(connection: sa.Connection, query: sa.Select[Any], which: dict[str, Any]) -> Rows:
    """Returns the rows that belong to the wanted trials, by the trials' ids."""
    rows: Rows = defaultdict(list)
    for trial_id, *rest in connection.execute(query, which).all():
        rows[trial_id].append(rest)
    return rows


def _whole(
    row: sa.Row[Any],
    params: list[Any],
    values: list[Any],
    reported: list[Any],
    users: list[Any],
    systems: list[Any],
) -> FrozenTrial:
    """Makes a trial of its rows."""
    drawn = [(name, value, _distribution(kind)) for name, value, kind in params]
    return FrozenTrial(
        number=row.number,
        state=row.state,
        value=None,
        values=[_number(value, kind) for _, value, kind in sorted(values)] or None,
        datetime_start=_local(row.datetime_start),
        datetime_complete=_local(row.datetime_complete),
        params={name: kind.to_external_repr(value) for name, value, kind in drawn},
        distributions={name: kind for name, _, kind in drawn},
        user_attrs={key: json.loads(text) for key, text in users},
        system_attrs={key: json.loads(text) for key, text in systems},
        intermediate_values={step: _number(value, kind) for step, value, kind in reported},
        trial_id=row.trial_id,
    )


def _number(value: float | None, kind: str) -> float:
    return _NOT_FINITE[kind] if value is None else value


def _local(moment: datetime.datetime | None) -> datetime.datetime | None:
    """Returns local time, without a zone as Optuna has it; stored is that of Greenwich."""
    if moment is None:
        return None
    return moment.replace(tzinfo=datetime.UTC).astimezone().replace(tzinfo=None)


@functools.lru_cache(maxsize=1024)
def _distribution(text: str) -> BaseDistribution:
    return json_to_distribution(text)
