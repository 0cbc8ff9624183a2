"""What is written of a trial in one transaction is, row by row, what Optuna's own calls write."""

from __future__ import annotations

import datetime
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.storages import RDBStorage
from optuna.storages._rdb import models
from optuna.trial import TrialState
from postgres import Postgres
from tiny import tiny_config

from search import trial_rows
from search.database import Database
from search.space import suggest
from search.storage import create_study
from search.stored_study import StoredStudy
from search.telling import STATES, Attached, Told
from search.trial import INFEASIBLE, Curve, Decision, Epoch, Outcome

ATTRIBUTES = {"data": "f00d", "baselines": {}, "notes": []}
EXTRA = {"seconds": 1.5, "worker": 0, "surroundings": {"device": "cpu"}, "traceback": 'a "b"\n'}
ATTACHED = Attached({"artifacts:x": '{"a": 1}'}, {"dashboard:1:note_ver": 1, "note": "*ü*"})
NEVER = ("version_info", "alembic_version", "study_user_attributes")
"""Tables that no trial is written to; the last has each study's own id."""


def make(folder: Path, url: str = "") -> StoredStudy:
    """Creates a study in a database of its own; all that are made are alike."""
    folder.mkdir()
    database = Database(url or f"sqlite:///{folder / 'studies.db'}", create=True)
    return create_study(database, tiny_config(folder, space={}), ATTRIBUTES)


@pytest.fixture
def ours(tmp_path: Path) -> StoredStudy:
    """A study that ours writes to."""
    return make(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> StoredStudy:
    """A study that Optuna's public calls write to."""
    return make(tmp_path / "theirs")


def rows(stored: StoredStudy) -> dict[str, list[dict[str, Any]]]:
    """Returns all rows of Optuna's tables, in order; of moments only what kind they are."""
    found = {}
    with stored.database.engine.connect() as connection:
        for table in models.BaseModel.metadata.sorted_tables:
            if table.name in NEVER:
                continue
            (key,) = table.primary_key
            lines = connection.execute(sa.select(table).order_by(key)).mappings()
            found[table.name] = [{name: _timeless(line[name]) for name in line} for line in lines]
    return found


def _timeless(value: Any) -> Any:
    if not isinstance(value, datetime.datetime):
        return value
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    assert datetime.timedelta(0) <= now - value < datetime.timedelta(minutes=5)
    return "some time in these minutes"


def curve(*losses: float) -> Curve:
    """Returns a curve with these validation losses."""
    epochs = (
        Epoch(i, loss, {"loss": loss, "rmse": loss}, 0.01, 0.1)
        for i, loss in enumerate(losses, start=1)
    )
    return Curve(tuple(epochs))


def by_ours(stored: StoredStudy, decision: Decision, trained: Curve) -> None:
    """Takes, reports and tells a trial as a coordinator does."""
    taken = stored.take(100)
    assert taken is not None
    for epoch in trained.epochs:
        stored.report(taken, epoch)
    assert stored.finish(taken, decision, trained, EXTRA, ATTACHED)


def by_optuna(stored: StoredStudy, decision: Decision, trained: Curve) -> None:
    """Does the same by public calls."""
    study, goal = stored.study, stored.goal
    trial = study.ask()
    suggest(trial, stored.config.space)
    for epoch in trained.epochs:
        trial.report(epoch.figures["loss"], epoch.index)
    told = Told.of(decision, trained, goal, EXTRA, ATTACHED)
    for name, value in told.attributes.items():
        trial.set_user_attr(name, value)
    if decision.outcome in INFEASIBLE:
        trial.set_constraint(str(decision.outcome), 1.0)
    for name, value in ATTACHED.trial.items():
        stored.database.storage.set_trial_system_attr(trial._trial_id, name, value)
    for name, value in ATTACHED.study.items():
        stored.database.storage.set_study_system_attr(study._study_id, name, value)
    state = STATES[decision.outcome]
    if state == TrialState.COMPLETE:
        study.tell(trial, told.value)
    else:
        study.tell(trial, state=state)


@pytest.mark.parametrize("losses", [(0.9, 0.4, 0.6), (0.9, math.inf), (math.nan,), ()])
@pytest.mark.parametrize("outcome", STATES)
def test_rows_are_those_of_public_calls(
    ours: StoredStudy, theirs: StoredStudy, outcome: Outcome, losses: tuple[float, ...]
) -> None:
    """However a trial ends, all its rows are what Optuna's public calls would have written."""
    if outcome is Outcome.COMPLETE and curve(*losses).best(ours.goal) is None:
        losses = (1e-300, 1e300)
    for _ in range(2):
        by_ours(ours, Decision(outcome, "why"), curve(*losses))
        by_optuna(theirs, Decision(outcome, "why"), curve(*losses))
    assert rows(ours) == rows(theirs)
    assert len(rows(ours)["trials"]) == 2


def test_rows_on_postgresql_are_those_of_public_calls(tmp_path: Path, postgres: Postgres) -> None:
    """On PostgreSQL, too, all rows are what public calls write, and what is read is the same."""
    urls = {name: postgres.url(postgres.new_database()) for name in ("ours", "theirs")}
    pair = [make(tmp_path / name, url) for name, url in urls.items()]
    for outcome in STATES:
        for write, stored in zip((by_ours, by_optuna), pair, strict=True):
            write(stored, Decision(outcome, "why"), curve(0.9, 0.4, 0.6))
    assert rows(pair[0]) == rows(pair[1])
    plain = RDBStorage(pair[0].database.url.render_as_string(hide_password=False))
    assert plain.get_all_trials(1) == pair[0].trials()
    for engine in (plain.engine, *(stored.database.engine for stored in pair)):
        engine.dispose()


def test_what_postgresql_waits_for(tmp_path: Path, postgres: Postgres) -> None:
    """A trial's begin and end are on the disk when they are committed; to drop its lease is not."""
    stored = make(tmp_path / "study", postgres.url(postgres.new_database()))
    waits: dict[str, str] = {}

    def look(_connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        for name in ("INSERT INTO trials", "UPDATE trials", "DELETE FROM rnn_search_leases"):
            if statement.startswith(name):
                shown = cursor.connection.execute("SHOW synchronous_commit").fetchone()
                waits[name.split()[0]] = shown[0]

    by_ours(stored, Decision(Outcome.COMPLETE, "why"), curve(0.5))
    sa.event.listen(stored.database.engine, "after_cursor_execute", look)
    by_ours(stored, Decision(Outcome.COMPLETE, "why"), curve(0.5))
    stored.database.engine.dispose()
    assert waits == {"INSERT": "on", "UPDATE": "on", "DELETE": "off"}


class LateClock(datetime.datetime):
    """The clock of a host that is ten minutes slow."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
        """Returns ten minutes ago."""
        return datetime.datetime.now(tz) - datetime.timedelta(minutes=10)


def test_times_are_the_servers(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose clock is wrong writes the times that all hosts on the server write."""
    monkeypatch.setattr(
        "search.trial_rows.datetime",
        SimpleNamespace(datetime=LateClock, UTC=datetime.UTC),
    )
    stored = make(tmp_path / "study", postgres.url(postgres.new_database()))
    by_ours(stored, Decision(Outcome.COMPLETE, "why"), curve(0.5))
    (trial,) = stored.trials()
    stored.database.engine.dispose()
    assert trial.datetime_start is not None
    assert trial.datetime_complete is not None
    a_minute_ago = datetime.datetime.now() - datetime.timedelta(minutes=1)
    assert a_minute_ago < trial.datetime_start < trial.datetime_complete


def test_proposals_are_those_of_public_calls(ours: StoredStudy, theirs: StoredStudy) -> None:
    """Past the starting points and the random trials, too, both ways begin the same trials."""
    for number in range(13):
        trained = curve(1 / (1 + number % 4), 0.9)
        outcome = Outcome.PRUNED if number % 3 == 1 else Outcome.COMPLETE
        by_ours(ours, Decision(outcome, "why"), trained)
        by_optuna(theirs, Decision(outcome, "why"), trained)
    assert rows(ours)["trial_params"] == rows(theirs)["trial_params"]
    assert rows(ours) == rows(theirs)


def test_optunas_cache_follows(ours: StoredStudy) -> None:
    """What was written is what Optuna's cached storage gives, at every moment."""

    def seen() -> list[tuple[Any, ...]]:
        fresh = Database(ours.database.url.render_as_string(), create=False)
        both = [
            [(t.number, t.state, t.params, t.value, t.intermediate_values) for t in trials]
            for trials in (
                ours.study.get_trials(),
                optuna.load_study(study_name="tiny", storage=fresh.storage).get_trials(),
            )
        ]
        assert both[0] == both[1]
        return both[0]

    taken = ours.take(9)
    assert taken is not None
    assert seen()[0][1] == TrialState.RUNNING
    assert optuna.Trial(ours.study, taken.trial_id).params == seen()[0][2]
    ours.report(taken, curve(0.5).epochs[0])
    assert seen()[0][4] == {1: 0.5}
    assert ours.database.storage.get_trial(taken.trial_id).intermediate_values == {1: 0.5}
    ours.finish(taken, Decision(Outcome.COMPLETE, "why"), curve(0.5), {})
    assert seen()[0][3] == 0.5
    assert ours.study.best_trial.number == 0
    ours.study.tell(ours.study.ask(), 0.25)
    assert [trial[3] for trial in seen()] == [0.5, 0.25]


def test_reporting_again_replaces(ours: StoredStudy) -> None:
    """An epoch reported twice has its last value, and one of a trial that is over changes none."""
    taken = ours.take(9)
    assert taken is not None
    for loss in (0.9, 0.8):
        ours.report(taken, curve(loss).epochs[0])
    ours.finish(taken, Decision(Outcome.COMPLETE, "why"), curve(0.8), {})
    with ours.database.engine.begin() as connection:
        trial_rows.report(connection, [(taken.trial_id, 1, 0.1), (taken.trial_id, 2, 0.2)])
    assert ours.trials()[0].intermediate_values == {1: 0.8}


@pytest.mark.parametrize("name", ["_write_attributes", "_last_reported", "_stored"])
def test_a_trial_is_told_whole_or_not_at_all(
    ours: StoredStudy, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A fault in the middle of telling leaves the trial as it was, and it can be told again."""
    taken = ours.take(9)
    assert taken is not None
    ours.report(taken, curve(0.5).epochs[0])
    before = rows(ours)

    def fails(*_: Any) -> Any:
        raise RuntimeError("cut off")

    pruned = Decision(Outcome.PRUNED, "why")
    with monkeypatch.context() as patch:
        original, calls = getattr(trial_rows, name), iter(range(9))
        late = name == "_write_attributes"
        patch.setattr(
            trial_rows, name, lambda *a: original(*a) if late and next(calls) < 2 else fails()
        )
        with pytest.raises(RuntimeError, match="cut off"):
            ours.finish(taken, pruned, curve(0.5), EXTRA, ATTACHED)
    assert rows(ours) == before
    assert ours.finish(taken, pruned, curve(0.5), EXTRA, ATTACHED)
    assert ours.trials()[0].state == TrialState.PRUNED


def test_a_trial_is_begun_whole_or_not_at_all(
    ours: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault between a trial and its lease leaves no trial, and the next one is the same."""
    before = rows(ours)

    def fails(*_: Any) -> None:
        raise RuntimeError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(ours._leases, "take", fails)
        with pytest.raises(RuntimeError, match="cut off"):
            ours.take(9)
    assert rows(ours) == before
    taken = ours.take(9)
    assert taken is not None
    assert taken.number == 0
    assert ours.held() == {taken.trial_id}


def test_a_foreign_trial_at_the_same_moment(
    ours: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another program adds a trial after ours was drawn, ours is drawn anew for its number."""
    begin, others = trial_rows.begin, [optuna.trial.create_trial(value=0.5)]

    def late(*arguments: Any) -> Any:
        if others:
            ours.study.add_trial(others.pop())
        return begin(*arguments)

    monkeypatch.setattr(trial_rows, "begin", late)
    taken = ours.take(9)
    assert taken is not None
    assert taken.number == 1
    assert [trial.state for trial in ours.trials()] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert ours.trials()[1].params["learning_rate"] == 0.01
    assert ours.held() == {taken.trial_id}
