"""Studies in a real SQLite file: taken once, told once, resumed as they were, forked with care."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from tiny import tiny_config

from search import leases, stored_study
from search.changes import check_unchanged
from search.config import StudyConfig, make_config
from search.database import Database
from search.errors import StudyError
from search.space import distributions
from search.storage import create_study, list_studies, open_study
from search.stored_study import StoredStudy, Taken
from search.trial import Curve, Decision, Epoch, Outcome

COMPLETE = Decision(Outcome.COMPLETE, "trained 2 epochs")
DIVERGED = Decision(Outcome.DIVERGED, "the training loss is not finite")
FAILED = Decision(Outcome.FAILED, "ValueError: no")
ATTRIBUTES = {"data": "f00d", "baselines": {}, "notes": []}
Open = Callable[[], StoredStudy]


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A tiny study."""
    return tiny_config(tmp_path)


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """A new SQLite database."""
    return Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)


@pytest.fixture
def stored(database: Database, config: StudyConfig) -> StoredStudy:
    """The tiny study, just created."""
    return create_study(database, config, ATTRIBUTES)


@pytest.fixture
def another(stored: StoredStudy) -> Open:
    """Opens the study once more as another coordinator would, on a database of its own."""

    def open_again() -> StoredStudy:
        url = stored.database.url.render_as_string()
        return open_study(Database(url, create=False), stored.config.name)

    return open_again


def curve(*losses: float) -> Curve:
    """Returns a curve with these validation losses."""
    epochs = (
        Epoch(index, 2 * loss, {"loss": loss, "rmse": loss / 10}, 0.01, 0.1)
        for index, loss in enumerate(losses, start=1)
    )
    return Curve(tuple(epochs))


def train(stored: StoredStudy, taken: Taken, decision: Decision, *losses: float) -> bool:
    """Reports every epoch and finishes, as the coordinator does."""
    for epoch in curve(*losses).epochs:
        stored.report(taken, epoch)
    return stored.finish(taken, decision, curve(*losses), {"seconds": 1.0})


def fill(stored: StoredStudy, *decisions: Decision) -> None:
    """Trains one trial for each decision."""
    for index, decision in enumerate(decisions):
        taken = stored.take(100)
        assert taken is not None
        train(stored, taken, decision, 1.0 + index, 0.5 + index)


def rewrite_leases(stored: StoredStudy, **values: object) -> None:
    """Changes every lease, as time or another process would."""
    with stored.database.engine.begin() as connection:
        connection.execute(sa.update(leases._leases).values(**values))


def test_opened_study_has_its_configuration(stored: StoredStudy, another: Open) -> None:
    """A study opened by name alone has the configuration and the attributes it was made with."""
    again = another()
    assert again.config.resolved() == stored.config.resolved()
    assert again.attributes["data"] == "f00d"
    assert again.attributes["versions"].keys() >= {"torch", "optuna", "python", "platform"}
    assert again.folder == stored.folder


def test_complete_trial_is_stored_whole(stored: StoredStudy, another: Open) -> None:
    """A complete trial has its best value, every epoch's value, its curve, figures and reason."""
    taken = stored.take(1)
    assert taken is not None
    assert train(stored, taken, COMPLETE, 3.0, 1.0, 2.0)
    (trial,) = another().trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 1.0)
    assert trial.intermediate_values == {1: 3.0, 2: 1.0, 3: 2.0}
    assert trial.user_attrs["curve"] == {"train": [6.0, 2.0, 4.0], "valid": [3.0, 1.0, 2.0]}
    assert trial.user_attrs["figures"] == {"loss": 1.0, "rmse": 0.1}
    assert trial.user_attrs["best_epoch"] == 2
    assert trial.user_attrs["outcome"] == "complete"
    assert trial.user_attrs["reason"] == COMPLETE.reason


def test_diverged_trial_is_pruned_and_infeasible(stored: StoredStudy, another: Open) -> None:
    """A diverged trial is PRUNED, marked infeasible, with its reason and last finite value."""
    taken = stored.take(1)
    assert taken is not None
    assert train(stored, taken, DIVERGED, 3.0, 9.0)
    (trial,) = another().trials()
    assert (trial.state, trial.value) == (TrialState.PRUNED, 9.0)
    assert trial.constraints == {"diverged": 1.0}
    assert trial.user_attrs["outcome"] == "diverged"
    assert trial.user_attrs["reason"] == DIVERGED.reason


def test_trial_without_an_epoch_can_end(stored: StoredStudy, another: Open) -> None:
    """A trial that diverges before its first epoch ends PRUNED with no value at all."""
    taken = stored.take(1)
    assert taken is not None
    assert train(stored, taken, DIVERGED)
    (trial,) = another().trials()
    assert (trial.state, trial.value, trial.intermediate_values) == (TrialState.PRUNED, None, {})


def test_total_is_the_studys(stored: StoredStudy, another: Open) -> None:
    """However many coordinators ask, a study gets no more trials than its total."""
    fill(stored, COMPLETE, COMPLETE)
    other = another()
    assert other.take(3) is not None
    assert stored.take(3) is None
    assert other.take(3) is None
    assert len(another().trials()) == 3


def test_two_coordinators_take_different_trials(stored: StoredStudy, another: Open) -> None:
    """Coordinators that take in turn never get the same trial or the same parameters."""
    crew = [stored, another(), another()]
    taken = [coordinator.take(9) for _ in range(3) for coordinator in crew]
    assert sorted(one.number for one in taken if one) == list(range(9))
    assert len({one.params for one in taken if one}) == 9


def test_racing_coordinators_take_different_trials(stored: StoredStudy, another: Open) -> None:
    """Coordinators that take at the same time never get the same trial or the same parameters."""
    crew, taken = [another() for _ in range(3)], []

    def work(coordinator: StoredStudy) -> None:
        while (one := coordinator.take(12)) is not None:
            taken.append(one)

    threads = [threading.Thread(target=work, args=(coordinator,)) for coordinator in crew]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.number for one in taken) == list(range(12))
    assert len({one.params for one in taken}) == 12


def test_racing_processes_take_different_trials(stored: StoredStudy) -> None:
    """Processes that take at the same time never get the same trial."""
    script = (
        "import sys; from search.database import Database; from search.storage import open_study\n"
        "stored = open_study(Database(sys.argv[1], create=False), 'tiny')\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "while (one := stored.take(12)) is not None: print(one.number, flush=True)\n"
        "print('end', flush=True); sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", script, stored.database.url.render_as_string()]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    crew = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in crew:
        assert process.stdout.readline() == "ready\n"
    for process in crew:
        process.stdin.write("go\n")
        process.stdin.flush()
    taken = [[int(line) for line in iter(process.stdout.readline, "end\n")] for process in crew]
    for process in crew:
        process.communicate("end\n")
    assert sorted([*taken[0], *taken[1]]) == list(range(12))


def test_released_trial_goes_on_elsewhere(stored: StoredStudy, another: Open) -> None:
    """A trial given back is the next one taken, under its number, with its epochs counted."""
    taken = stored.take(5)
    assert taken is not None
    stored.report(taken, curve(3.0).epochs[0])
    stored.release(taken)
    again = another().take(5)
    assert again is not None
    assert (again.number, again.params, again.reported) == (taken.number, taken.params, 1)


def test_expired_trial_is_taken_over(stored: StoredStudy, another: Open) -> None:
    """After a coordinator slept past its lease, another one has its trial and alone finishes it."""
    taken = stored.take(5)
    assert taken is not None
    rewrite_leases(stored, expires=0.0)
    other = another()
    again = other.take(5)
    assert again is not None
    assert again.number == taken.number
    assert not stored.finish(taken, FAILED, curve(7.0), {})
    (trial,) = other.trials()
    assert trial.state == TrialState.RUNNING
    assert "outcome" not in trial.user_attrs
    assert train(other, again, COMPLETE, 2.0)
    assert other.trials()[0].value == 2.0


def test_sleeper_learns_what_it_lost(
    stored: StoredStudy, another: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renewing names the trials that others have taken over, once, and keeps the rest."""
    monkeypatch.setattr(stored_study, "LEASE_SECONDS", 0.0)
    lost, kept = stored.take(5), stored.take(5)
    assert lost is not None
    assert kept is not None
    another()._leases.take(lost.trial_id)
    assert stored.renew() == [lost]
    assert stored.renew() == []
    assert stored.finish(kept, COMPLETE, curve(1.0), {})


def test_trial_is_told_once(stored: StoredStudy, another: Open) -> None:
    """Finishing a trial twice, as after an answer that was lost, changes nothing."""
    taken = stored.take(5)
    assert taken is not None
    train(stored, taken, COMPLETE, 2.0)
    stored.finish(taken, FAILED, curve(7.0), {})
    (trial,) = another().trials()
    assert (trial.state, trial.value) == (TrialState.COMPLETE, 2.0)
    assert trial.user_attrs["outcome"] == "complete"


def test_trainer_deaths_are_counted_across_lives(stored: StoredStudy, another: Open) -> None:
    """How many trainers a trial took down is known to the next coordinator, too."""
    taken = stored.take(5)
    assert taken is not None
    stored.release(stored.count_trainer_death(taken))
    again = another().take(5)
    assert again is not None
    assert again.trainer_deaths == 1


def test_waiting_trial_counts_in_the_total(stored: StoredStudy) -> None:
    """A trial that a person has put in the queue is trained with what it asks for."""
    stored.study.enqueue_trial({"learning_rate": 0.5})
    taken = stored.take(1)
    assert taken is not None
    assert taken.params.learning_rate == 0.5
    assert stored.take(1) is None


def test_a_whole_waiting_trial_is_stored_as_optuna_would(
    stored: StoredStudy, another: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person has queued whole is taken at once, to the rows that Optuna itself makes."""
    whole = optuna.create_study().ask(distributions(stored.config.space)).params
    for _ in range(2):
        stored.study.enqueue_trial(whole)
    taken = stored.take(2)
    with monkeypatch.context() as patched:
        patched.setattr(stored_study, "settled", lambda *_: None)
        by_optuna = another().take(2)
    assert taken is not None
    assert by_optuna is not None
    assert taken.params == by_optuna.params
    ours, optunas = stored.trials()
    assert ours.params == optunas.params == whole
    assert ours.distributions == optunas.distributions
    assert ours.state == optunas.state == TrialState.RUNNING
    types = [{name: type(value) for name, value in one.params.items()} for one in (ours, optunas)]
    assert types[0] == types[1]


def test_creating_twice_is_creating_once(database: Database, config: StudyConfig) -> None:
    """A process that creates a study which another has just created gets that one."""
    one = create_study(database, config, ATTRIBUTES)
    other = create_study(database, config, {**ATTRIBUTES, "data": "beef"})
    assert other.attributes == one.attributes
    assert len(list_studies(database)) == 1


def test_unknown_study_names_the_nearest(stored: StoredStudy) -> None:
    """Opening a study that is not there names the one that may be meant."""
    with pytest.raises(StudyError, match="did you mean 'tiny'"):
        open_study(stored.database, "tinny")


def test_foreign_study_is_refused_unchanged(database: Database, config: StudyConfig) -> None:
    """Nobody opens a study that another's script made, or creates one of its name in its place."""
    foreign = optuna.create_study(storage=database.storage, study_name="tiny")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    before = [trial.params for trial in foreign.trials]
    with pytest.raises(StudyError, match="was not made by rnn-search"):
        open_study(database, "tiny")
    with pytest.raises(StudyError, match="was not made by rnn-search"):
        create_study(database, config, ATTRIBUTES)
    again = optuna.load_study(study_name="tiny", storage=database.storage)
    assert [trial.params for trial in again.trials] == before
    assert again.user_attrs == {}


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "space": ({"space": {"dropout": {"low": 0.0, "high": 0.25}}}, r"\[space\] dropout"),
    "learning rate": ({"space": {"learning_rate": {"low": 1e-3, "high": 1.0}}}, "learning_rate"),
    "window": ({"window": 9}, r"\[data\] window: 8 → 9"),
    "metric": ({"metric": "mae"}, "metric: loss → mae"),
    "seed": ({"seed": 1}, "seed: 0 → 1"),
    "stopping": ({"stopping": {"patience": 3}}, r"\[stopping\] patience: 8 → 3"),
    "task": ({"task": "language"}, r"\[data\] task: forecast → language"),
}


def changed(config: StudyConfig, changes: dict[str, Any]) -> StudyConfig:
    """Returns the configuration as a study file with these changes would give it."""
    written = config.resolved()
    for key, value in changes.items():
        if key == "window":
            written["data"]["window"] = value
        elif key == "task":
            written["data"] = {"task": value, "path": written["data"]["path"]}
        elif isinstance(value, dict):
            written[key] = {**written[key], **value}
        else:
            written[key] = value
    return make_config(written, "test")


@pytest.mark.parametrize("what", CHANGES)
def test_changed_study_is_refused(stored: StoredStudy, config: StudyConfig, what: str) -> None:
    """A study that is not the same any more is refused, with what differs and the way out."""
    changes, said = CHANGES[what]
    with pytest.raises(StudyError, match=said) as caught:
        check_unchanged(stored, changed(config, changes), "f00d")
    assert "give another name" in str(caught.value)
    # Trials judged by another figure cannot be taken along.
    assert ("--fork NEWNAME" in str(caught.value)) == (what != "metric")
    assert str(caught.value).count(" → ") == 1 or what == "task"


def test_changed_data_are_refused(stored: StoredStudy, config: StudyConfig) -> None:
    """Other data under the same path are refused by their fingerprint."""
    with pytest.raises(StudyError, match="fingerprint f00d → beef"):
        check_unchanged(stored, config, "beef")


def test_budget_and_keep_may_change(stored: StoredStudy, config: StudyConfig) -> None:
    """How long a study goes on, how many weights it keeps and where its file lies are free."""
    free = changed(config, {"budget": {"trials": 99, "timeout": 5}, "keep": 1})
    moved = free.data.model_copy(update={"path": Path("/elsewhere/series.csv")})
    check_unchanged(stored, free.model_copy(update={"data": moved}), "f00d")


def test_the_files_of_a_study_stay_in_its_folder(stored: StoredStudy) -> None:
    """An id that somebody has written into the database leads nowhere else."""
    stored.remember(id="/../../elsewhere")
    with pytest.raises(StudyError, match="has the id"):
        _ = stored.folder
