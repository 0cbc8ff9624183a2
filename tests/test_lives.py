"""A trial with several lives, on one machine or on several, and an end that is heard of late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from scripted import COMPLETE, DIVERGED, FAILED, ScriptedTrainers, Silent, completes, stored
from sqlalchemy.exc import OperationalError

from search.checkpoints import save_checkpoint
from search.coordinator import Coordinator
from search.database import Database
from search.storage import open_study
from search.stored_study import StoredStudy, Taken
from search.trial import Curve, Epoch
from search.trial_files import trial_folder
from search.worker import Job

__all__ = ["stored"]


class Starting(Silent):
    """An observer that notes which trials begin anew."""

    def __init__(self) -> None:
        super().__init__()
        self.anew: list[bool] = []

    def started(self, worker: int, taken: Taken) -> None:
        """A trial starts, or goes on."""
        self.anew.append(taken.anew)


def lived(stored: StoredStudy, epochs: int) -> None:
    """Gives the first trial an earlier life, on a machine whose numbers are others."""
    taken = stored.take(1)
    assert taken is not None
    for index in range(1, epochs + 1):
        stored.report(taken, Epoch(index, 9.0, {"loss": 9.0}, 0.1, 0.1))
    stored.release(taken)


def go_on(stored: StoredStudy, trainers: ScriptedTrainers) -> list[bool]:
    """Runs the study; returns of each start whether the trial began anew."""
    observer = Starting()
    Coordinator(stored, trainers, observer, 1).run()  # type: ignore[arg-type]
    return observer.anew


@pytest.mark.parametrize("epochs", [2, 6])
def test_a_trial_begun_anew_has_its_last_life_alone(stored: StoredStudy, epochs: int) -> None:
    """Without a checkpoint here, no epoch of a life elsewhere stays, however far that had come."""
    lived(stored, epochs)
    assert go_on(stored, ScriptedTrainers(completes)) == [True]
    (trial,) = stored.trials()
    assert trial.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 2.5}


def test_a_trial_that_goes_on_has_the_epochs_of_its_checkpoint(stored: StoredStudy) -> None:
    """What a life elsewhere has reported in between is replaced by what the checkpoint has."""
    lived(stored, 2)
    save_checkpoint(trial_folder(stored.folder, 0), {"devices": ["cpu"]})
    assert go_on(stored, ScriptedTrainers(completes)) == [False]
    (trial,) = stored.trials()
    assert trial.intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 2.5}


def test_a_failed_trial_keeps_what_its_lives_have_reported(stored: StoredStudy) -> None:
    """A trial whose last life fails early had come as far as the life that came furthest."""

    def fails(_job: Job) -> Iterator[Any]:
        yield 1.0
        yield FAILED

    lived(stored, 3)
    go_on(stored, ScriptedTrainers(fails))
    (trial,) = stored.trials()
    assert trial.intermediate_values == {1: 1.0, 2: 9.0, 3: 9.0}


def test_a_trial_that_ends_as_it_begins_keeps_what_its_lives_have_reported(
    stored: StoredStudy,
) -> None:
    """A trial whose last life diverges before its first epoch had come as far as those before."""
    lived(stored, 3)
    go_on(stored, ScriptedTrainers(lambda _: iter([DIVERGED])))
    (trial,) = stored.trials()
    assert trial.user_attrs["outcome"] == "diverged"
    assert trial.intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0}


def test_an_end_whose_answer_was_lost_is_ones_own(stored: StoredStudy) -> None:
    """Who told an end without hearing so has told it, even if its lease is swept away by then."""
    url = stored.database.url.render_as_string()
    taken, other = stored.take(1), open_study(Database(url, create=False), "tiny")
    curve = Curve((Epoch(1, 2.0, {"loss": 2.0}, 0.1, 0.1),))
    assert taken is not None

    def lose(connection: sa.Connection) -> None:
        connection.connection.commit()
        other._leases.sweep([])
        raise OperationalError("COMMIT", {}, Exception("the connection was lost"))

    sa.event.listen(stored.database.engine, "commit", lose, once=True)
    assert stored.finish(taken, COMPLETE, curve, {"seconds": 1.25})
    assert not stored.finish(taken, COMPLETE, curve, {"seconds": 1.5})
    (trial,) = other.trials()
    assert (trial.state, trial.user_attrs["seconds"]) == (TrialState.COMPLETE, 1.25)


def test_attributes_are_waited_for(stored: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was stored when a study was made is read again once a fault has passed."""
    storage, faults = stored.database.storage, [Exception("database is locked")]
    read = storage.get_study_user_attrs

    def reads(study_id: int) -> dict[str, Any]:
        if faults:
            raise OperationalError("SELECT 1", {}, faults.pop())
        return read(study_id)

    monkeypatch.setattr(storage, "get_study_user_attrs", reads)
    assert stored.attributes["data"] == "f00d"
