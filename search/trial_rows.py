"""The rows of a trial, written in one transaction each time: begun, reported, ended.

Optuna writes a trial attribute by attribute, each in a transaction of its own that reads the trial
first. Here the rows are the same, in Optuna's own tables, and a trial is either begun or told whole
or not at all. What is written twice, after an answer that was lost, is as if written once.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.dialects import postgresql, sqlite

_trials = models.TrialModel.__table__
_studies = models.StudyModel.__table__
_params = models.TrialParamModel.__table__
_values = models.TrialValueModel.__table__
_reported = models.TrialIntermediateValueModel.__table__
_users = models.TrialUserAttributeModel.__table__
_systems = models.TrialSystemAttributeModel.__table__
_study_systems = models.StudySystemAttributeModel.__table__
_insert = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}

# Made once: to make a statement takes longer than to run it.
_LOCK = (
    sa.select(_studies.c.study_id)
    .where(_studies.c.study_id == sa.bindparam("study"))
    .with_for_update()
)
"""As Optuna does it, so that its own calls elsewhere wait for this transaction."""
_CREATE = sa.insert(_trials)
_EARLIER = sa.select(sa.func.count()).where(
    _trials.c.study_id == sa.bindparam("study"), _trials.c.trial_id < sa.bindparam("trial")
)
_COUNT = sa.select(sa.func.count()).where(_trials.c.study_id == sa.bindparam("study"))
_DRAWN = sa.insert(_params)
_STATE = (
    sa.select(_trials.c.state).where(_trials.c.trial_id == sa.bindparam("trial")).with_for_update()
)
_LAST = (
    sa.select(_reported.c.intermediate_value, _reported.c.intermediate_value_type)
    .where(_reported.c.trial_id == sa.bindparam("trial"))
    .order_by(_reported.c.step.desc())
    .limit(1)
)
_FORGET = sa.delete(_reported).where(_reported.c.trial_id == sa.bindparam("trial"))
_END = sa.update(_trials).where(_trials.c.trial_id == sa.bindparam("trial"))
_WRITTEN = sa.select(_users.c.key, _users.c.value_json).where(
    _users.c.trial_id == sa.bindparam("trial")
)


def begin(
    connection: sa.Connection,
    study_id: int,
    number: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
    attributes: Mapping[str, Any],
) -> FrozenTrial | None:
    """Creates a trial in training, with all its parameters.

    Args:
        connection: In a transaction; roll it back if there is no trial.
        study_id: Optuna's id of the study.
        number: The number that the trial must get, because its parameters were drawn for it.
        params: The value of every parameter.
        distributions: What each was drawn from.
        attributes: Further attributes of the trial.

    Returns:
        The trial as it is in the database; None if the study has meanwhile got other trials.
    """
    connection.execute(_LOCK, {"study": study_id})
    now = _now(connection)
    row = {"study_id": study_id, "number": number, "state": TrialState.RUNNING}
    created = connection.execute(_CREATE, {**row, "datetime_start": _stored(now)})
    (trial_id,) = created.inserted_primary_key or (0,)
    before = {"study": study_id, "trial": trial_id}
    if connection.execute(_EARLIER, before).scalar_one() != number:
        return None
    draw(connection, trial_id, params, distributions)
    _write_attributes(connection, _users, "trial_id", trial_id, attributes)
    kinds, drawn, users = dict(distributions), dict(params), dict(attributes)
    return FrozenTrial(
        number, TrialState.RUNNING, None, now, None, drawn, kinds, users, {}, {}, trial_id
    )


def _now(connection: sa.Connection) -> datetime.datetime:
    """Returns the local time, by the server's clock if there is one: the order of ends decides.

    Whether a study stands still is judged by it, and hosts' clocks may be minutes apart.
    """
    if connection.dialect.name == "sqlite":
        return datetime.datetime.now()
    asked = sa.text("SELECT extract(epoch FROM clock_timestamp())")
    return datetime.datetime.fromtimestamp(float(connection.execute(asked).scalar_one()))


def draw(
    connection: sa.Connection,
    trial_id: int,
    params: Mapping[str, Any],
    distributions: Mapping[str, BaseDistribution],
) -> None:
    """Stores parameters that a trial has not got yet, with what each was drawn from."""
    drawn = [
        {
            "trial_id": trial_id,
            "param_name": name,
            "param_value": distributions[name].to_internal_repr(value),
            "distribution_json": distribution_to_json(distributions[name]),
        }
        for name, value in params.items()
    ]
    if drawn:
        connection.execute(_DRAWN, drawn)


def report(connection: sa.Connection, reports: Iterable[tuple[int, int, float]]) -> None:
    """Stores intermediate values, in place of earlier ones; nothing of trials that are over.

    Args:
        connection: In a transaction.
        reports: Of each Optuna's id of the trial, the step and the value; no step twice.
    """
    rows = []
    for trial_id, step, value in reports:
        stored, kind = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(value)
        row = {"trial_id": trial_id, "step": step}
        rows.append({**row, "intermediate_value": stored, "intermediate_value_type": kind})
    if rows:
        connection.execute(_reporting(connection.dialect.name), rows)


def forget_reports(connection: sa.Connection, trial_id: int) -> None:
    """Removes the intermediate values of a trial: it begins anew, or they are written anew."""
    connection.execute(_FORGET, {"trial": trial_id})


@functools.cache
def _reporting(dialect: str) -> Any:
    """Returns the statement of `report`."""
    columns = [column for column in _reported.columns if not column.primary_key]
    given = [sa.bindparam(one.name, type_=one.type) for one in columns]
    in_training = sa.select(*given).where(
        sa.exists().where(
            _trials.c.trial_id == sa.bindparam("trial_id"), _trials.c.state == TrialState.RUNNING
        )
    )
    names = [column.name for column in columns]
    statement = _insert[dialect](_reported).from_select(names, in_training)
    return _replacing(statement, _reported, ("trial_id", "step"))


def is_over(connection: sa.Connection, trial_id: int) -> bool:
    """Returns whether a trial has ended; until the transaction's end nobody else can tell it."""
    return bool(connection.execute(_STATE, {"trial": trial_id}).scalar_one().is_finished())


def has_attributes(connection: sa.Connection, trial_id: int, attributes: Mapping[str, Any]) -> bool:
    """Returns whether a trial has these attributes, each written to the same text."""
    rows = connection.execute(_WRITTEN, {"trial": trial_id}).all()
    written = {row.key: row.value_json for row in rows}
    return all(written.get(key) == json.dumps(value) for key, value in attributes.items())


def end(
    connection: sa.Connection,
    trial_id: int,
    state: TrialState,
    value: float | None,
    users: Mapping[str, Any],
    systems: Mapping[str, Any],
) -> None:
    """Tells a trial's end with all its attributes.

    Args:
        connection: In a transaction; the trial is not over, see `is_over`.
        trial_id: Optuna's id.
        state: How it ended.
        value: Of a complete trial; the others have what `Study.tell` gives them.
        users: Its attributes.
        systems: Its attributes among Optuna's own, constraints for one.
    """
    _write_attributes(connection, _users, "trial_id", trial_id, users)
    _write_attributes(connection, _systems, "trial_id", trial_id, systems)
    if state == TrialState.PRUNED:
        value = _last_reported(connection, trial_id)
    if value is not None:
        stored, kind = models.TrialValueModel.value_to_stored_repr(value)
        row = {"trial_id": trial_id, "objective": 0, "value": stored, "value_type": kind}
        connection.execute(_valuing(connection.dialect.name), row)
    now = _stored(_now(connection))
    connection.execute(_END, {"trial": trial_id, "state": state, "datetime_complete": now})


def add(connection: sa.Connection, study_id: int, trial: FrozenTrial) -> None:
    """Adds a finished trial to a study that nobody else adds trials to.

    Args:
        connection: In a transaction, in which there may be many.
        study_id: Optuna's id of the study.
        trial: Complete or pruned; its times and its number are its own in the new study.
    """
    number = connection.execute(_COUNT, {"study": study_id}).scalar_one()
    drawn = trial.params, trial.distributions
    begun = begin(connection, study_id, number, *drawn, trial.user_attrs)
    assert begun is not None
    steps = trial.intermediate_values.items()
    report(connection, [(begun._trial_id, step, value) for step, value in steps])
    end(connection, begun._trial_id, trial.state, trial.value, {}, trial.system_attrs)


def write_study_attributes(
    connection: sa.Connection, study_id: int, attributes: Mapping[str, Any]
) -> None:
    """Sets attributes of a study among Optuna's own, where optuna-dashboard keeps its notes."""
    _write_attributes(connection, _study_systems, "study_id", study_id, attributes)


def _write_attributes(
    connection: sa.Connection, table: sa.Table, whose: str, one: int, attributes: Mapping[str, Any]
) -> None:
    rows = [
        {whose: one, "key": key, "value_json": json.dumps(value)}
        for key, value in attributes.items()
    ]
    if rows:
        connection.execute(_setting(connection.dialect.name, table, whose), rows)


@functools.cache
def _setting(dialect: str, table: sa.Table, whose: str) -> Any:
    """Returns the statement that writes an attribute."""
    return _replacing(_insert[dialect](table), table, (whose, "key"))


@functools.cache
def _valuing(dialect: str) -> Any:
    """Returns the statement that writes a trial's value."""
    return _replacing(_insert[dialect](_values), _values, ("trial_id", "objective"))


def _replacing(statement: Any, table: sa.Table, key: tuple[str, str]) -> Any:
    """Lets an insertion replace the row that has the same key."""
    rest = [
        column.name for column in table.columns if not column.primary_key and column.name not in key
    ]
    new = {name: statement.excluded[name] for name in rest}
    return statement.on_conflict_do_update(index_elements=list(key), set_=new)


def _last_reported(connection: sa.Connection, trial_id: int) -> float | None:
    """Returns the value that a pruned trial gets: its last one, unless that is not a number."""
    last = connection.execute(_LAST, {"trial": trial_id}).first()
    if last is None:
        return None
    value = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value(*last)
    return None if math.isnan(value) else float(value)


def _stored(local: datetime.datetime) -> datetime.datetime:
    """Returns the time of Greenwich, without a zone as Optuna stores it."""
    return local.astimezone(datetime.UTC).replace(tzinfo=None)
