"""Several coordinators on one study: what one lost, took over, or waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import TrialState
from scripted import (
    COMPLETE,
    ScriptedTrainers,
    bad_sixth,
    completes,
    run,
    states,
    stored,
)

from search import coordinator as module
from search.coordinator import Ending
from search.storage import open_study
from search.stored_study import StoredStudy, Taken
from search.trainers import Event
from search.trial import Curve, Epoch, Outcome
from search.trial_files import CHECKPOINT, trial_folder
from search.worker import Job

__all__ = ["stored"]


def test_lost_trial_is_abandoned(stored: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial that another run took over is left to it, files and all, and not told."""
    monkeypatch.setattr("search.stored_study.LEASE_SECONDS", 0.0)
    other = open_study(stored.database, "tiny")

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        if job.number == 0:
            (trial,) = stored.trials()
            other._leases.take(trial._trial_id)
            other.finish(
                Taken(0, trial._trial_id, job.params, 0, 0),  # type: ignore[arg-type]
                COMPLETE,
                Curve((Epoch(1, 5.0, {"loss": 5.0}, 0.1, 0.1),)),
                {},
            )
        yield 2.0
        yield COMPLETE

    trainers = ScriptedTrainers(script)
    _, observer = run(stored, trainers, 2)
    assert trainers.dropped == [(0, 0)]
    assert observer.lines == ["trial 0 was taken over by another run"]
    assert observer.endings == [(1, Outcome.COMPLETE)]
    assert stored.trials()[0].value == 5.0


@pytest.mark.parametrize("verdict", ["pruned", "complete"])
def test_a_sleeper_leaves_the_files_alone(stored: StoredStudy, verdict: str) -> None:
    """Who finds at a trial's end that another run has it removes none of that run's files."""
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 2})}
    )
    run(stored, ScriptedTrainers(bad_sixth), 5)
    other = open_study(stored.database, "tiny")
    checkpoint = trial_folder(stored.folder, 5) / CHECKPOINT

    def script(job: Job) -> Iterator[Any]:
        other._leases.prepare()
        other._leases.take(stored.trials()[5]._trial_id)
        checkpoint.parent.mkdir(parents=True)
        checkpoint.write_bytes(b"the other's")
        if verdict == "pruned":
            yield from (9.0, 9.0, 9.0)
        yield COMPLETE

    trainers = ScriptedTrainers(script)
    _, observer = run(
        stored, trainers, 6, interrupted=lambda: checkpoint.exists() and not trainers.busy()
    )
    assert trainers.dropped == ([(5, 0)] if verdict == "pruned" else [])
    assert observer.lines[0] == "trial 5 was taken over by another run"
    assert checkpoint.read_bytes() == b"the other's"


def test_checkpoint_of_a_trial_that_another_run_finished(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a trainer still writes of a trial that another run has finished does not stay."""
    monkeypatch.setattr("search.stored_study.LEASE_SECONDS", 0.0)
    other = open_study(stored.database, "tiny")
    checkpoint = trial_folder(stored.folder, 0) / CHECKPOINT

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        if job.number == 0:
            other._leases.take(stored.trials()[0]._trial_id)
            other.study.tell(0, 1.0)
        yield 2.0
        yield COMPLETE

    class Slow(ScriptedTrainers):
        def stop(self) -> None:
            super().stop()
            assert self.dropped == [(0, 0)]
            checkpoint.parent.mkdir(parents=True)
            checkpoint.write_bytes(b"late")

    run(stored, Slow(script), 2)
    assert not checkpoint.parent.exists()


def test_waits_for_what_others_train(stored: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run with nothing left to take waits for the others' trials, and takes over dead ones."""
    monkeypatch.setattr(module, "IDLE", 0.0)
    other = open_study(stored.database, "tiny")
    taken = other.take(2)
    assert taken is not None

    class Waiting(ScriptedTrainers):
        calls = 0

        def events(self, timeout: float) -> Iterator[Event]:
            self.calls += 1
            if self.calls == 20:
                other.release(taken)
            yield from super().events(timeout)

    trainers = Waiting(completes)
    assert run(stored, trainers, 2)[0] is Ending.DONE
    assert trainers.started == [1, 0]
    assert states(stored) == [TrialState.COMPLETE] * 2


def test_a_target_that_another_run_reaches_ends_this_one(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in the middle of a trial notices that the study has what it wants, and lets it go."""
    monkeypatch.setattr("search.stored_study.RECENT_SECONDS", 0.0)
    budget = stored.config.budget.model_copy(update={"target": 0.5})
    stored.config = stored.config.model_copy(update={"budget": budget})
    other = open_study(stored.database, "tiny")

    def script(job: Job) -> Iterator[Any]:
        yield 2.0
        found = other.take(4)
        assert found is not None
        other.finish(found, COMPLETE, Curve((Epoch(1, 0.4, {"loss": 0.4}, 0.1, 0.1),)), {})
        while True:
            yield 2.0

    ending, observer = run(stored, ScriptedTrainers(script), 4)
    assert ending is Ending.ENOUGH
    assert "has reached the target 0.5" in observer.lines[0]
    assert states(stored) == [TrialState.RUNNING, TrialState.COMPLETE]
    again = other.take(4)
    assert again is not None
    assert again.number == 0


def test_nothing_is_waited_for_after_the_last(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose own last trial ends while other workers have nothing to do is over with it."""
    monkeypatch.setattr(module, "IDLE", 1e9)

    class Counting(ScriptedTrainers):
        calls = 0

        def events(self, timeout: float) -> Iterator[Event]:
            self.calls += 1
            assert self.calls <= 50
            yield from super().events(timeout)

    assert run(stored, Counting(completes, workers=3), 4)[0] is Ending.DONE
    assert states(stored) == [TrialState.COMPLETE] * 4
