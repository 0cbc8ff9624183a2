"""What the loop decides: a trial that is bad beside its peers, a study that is good enough."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import TrialState
from safetensors.torch import load_file
from scripted import (
    COMPLETE,
    ScriptedTrainers,
    bad_sixth,
    run,
    states,
    stored,
)

from search import stored_study
from search.coordinator import Ending
from search.storage import open_study
from search.stored_study import StoredStudy
from search.trainers import Event
from search.trial import Epoch, Outcome
from search.trial_files import LOSSES, trial_folder
from search.worker import Job

__all__ = ["stored"]


def test_bad_trial_is_pruned_after_the_warm_up(stored: StoredStudy) -> None:
    """A trial worse than five peers is pruned at the first epoch after the warm-up, and dropped.

    Its losses are on the disk by then, whatever becomes of its trainer.
    """
    trainers = ScriptedTrainers(bad_sixth)
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 2})}
    )
    run(stored, trainers, 6)
    assert trainers.dropped == [(5, 3)]
    assert states(stored) == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED]
    assert stored.trials()[5].intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0}
    assert "best third of 5 peers" in stored.trials()[5].user_attrs["reason"]
    assert len(load_file(trial_folder(stored.folder, 5) / LOSSES)["epoch_ends"]) == 3


def test_no_verdict_at_the_last_epoch(stored: StoredStudy) -> None:
    """A bad trial that has trained all its epochs is complete, though trials are compared there."""
    trainers = ScriptedTrainers(bad_sixth)
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 3})}
    )
    _, observer = run(stored, trainers, 6)
    assert trainers.dropped == []
    assert states(stored) == [TrialState.COMPLETE] * 6
    assert observer.endings[5] == (5, Outcome.COMPLETE)


def test_verdict_that_a_killed_run_did_not_reach(stored: StoredStudy) -> None:
    """A trial killed between the report of an epoch and its verdict is pruned at that epoch."""
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 2})}
    )
    run(stored, ScriptedTrainers(bad_sixth), 5)
    taken = stored.take(6)
    assert taken is not None
    for index in (1, 2, 3):
        stored.report(taken, Epoch(index, 9.0, {"loss": 9.0}, 0.1, 0.1))
    stored.release(taken)
    trainers = ScriptedTrainers(bad_sixth)
    run(stored, trainers, 6)
    assert trainers.dropped == [(5, 3)]
    assert stored.trials()[5].intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0}


def test_a_trainers_death_brings_no_verdict_back(stored: StoredStudy) -> None:
    """Epochs that were judged before a trial took a trainer down are not judged once more."""
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 0})}
    )
    run(stored, ScriptedTrainers(bad_sixth), 4)
    lives: list[Job] = []

    def script(job: Job) -> Iterator[Any]:
        if job.number != 4:
            yield from bad_sixth(Job(0, job.params, job.seed, job.folder))
            return
        lives.append(job)
        yield 9.0  # It has four peers: too few for a verdict. In its next life they are five.
        yield 9.0
        if len(lives) == 1:
            yield "dies"
        yield 0.5
        yield 0.5
        yield COMPLETE

    trainers = ScriptedTrainers(script, workers=2)
    run(stored, trainers, 6)
    assert trainers.started.count(4) == 2
    assert trainers.dropped == []
    assert states(stored) == [TrialState.COMPLETE] * 6


def test_epochs_that_a_killed_run_had_not_written(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs that were judged but not yet stored are stored and judged by the next run."""
    stored.config = stored.config.model_copy(
        update={"stopping": stored.config.stopping.model_copy(update={"warmup_epochs": 2})}
    )
    run(stored, ScriptedTrainers(bad_sixth), 5)
    taken = stored.take(6)
    assert taken is not None
    monkeypatch.setattr(stored_study, "REPORT_SECONDS", 1e9)
    for index in (1, 2, 3):
        stored.report(taken, Epoch(index, 9.0, {"loss": 9.0}, 0.1, 0.1))
    stored._leases.drop(taken.trial_id)  # As if it had been killed.
    following = open_study(stored.database, "tiny")
    following.config = stored.config
    assert following.trials()[5].intermediate_values == {}
    trainers = ScriptedTrainers(bad_sixth)
    run(following, trainers, 6)
    assert trainers.dropped == [(5, 3)]
    assert following.trials()[5].intermediate_values == {1: 9.0, 2: 9.0, 3: 9.0}


@pytest.mark.parametrize("late", [1, 2, 4], ids=["one", "two", "to its end"])
def test_no_verdict_once_trainers_were_told_to_stop(stored: StoredStudy, late: int) -> None:
    """Epochs that come after the interruption are judged by the next run, as their trainer left.

    That is also so if the trial had trained them all before it heard that it is to stop.
    """
    run(stored, ScriptedTrainers(bad_sixth), 5)

    class Late(ScriptedTrainers):
        def events(self, timeout: float) -> Iterator[Event]:
            stopping, self.stopping = self.stopping, False
            for _ in range(late if stopping else 1):
                yield from super().events(timeout)
            self.stopping = stopping

    trainers = Late(bad_sixth)
    asked = iter([False, True])
    _, observer = run(stored, trainers, 6, interrupted=lambda: next(asked))
    assert trainers.dropped == []
    assert observer.endings == [(5, Outcome.INTERRUPTED)]
    assert stored.trials()[5].intermediate_values == {1: 9.0, 2: 9.0}
    again = ScriptedTrainers(bad_sixth)
    run(stored, again, 6)
    assert again.dropped == [(5, 2)]


def with_budget(stored: StoredStudy, **budget: Any) -> StoredStudy:
    """Returns the study with another budget, as a resume may give it."""
    changed = stored.config.budget.model_copy(update=budget)
    stored.config = stored.config.model_copy(update={"budget": changed})
    return stored


def test_a_target_stops_at_once(stored: StoredStudy) -> None:
    """When a trial reaches the target, the others are interrupted, and a later run trains none."""

    def script(job: Job) -> Iterator[Any]:
        yield from [0.4] if job.number == 2 else [3.0] * (9 if job.number > 2 else 1)
        yield COMPLETE

    trainers = ScriptedTrainers(script, workers=2)
    ending, observer = run(with_budget(stored, target=0.5), trainers, 9)
    assert ending is Ending.ENOUGH
    assert observer.lines == ["stopped: the best loss, 0.4, has reached the target 0.5"]
    assert states(stored).count(TrialState.COMPLETE) == 3
    assert states(stored).count(TrialState.RUNNING) == 1
    assert stored.held() == set()
    again = ScriptedTrainers(script)
    assert run(stored, again, 9)[0] is Ending.ENOUGH
    assert again.started == []
    assert run(with_budget(stored, target=None), ScriptedTrainers(script), 5)[0] is Ending.DONE
    assert states(stored) == [TrialState.COMPLETE] * 5


def test_stagnation_lets_the_last_trials_finish(stored: StoredStudy) -> None:
    """After enough trials in vain none starts, but one in training that is better counts."""
    values = {0: 1.0, 3: 0.5}

    def script(job: Job) -> Iterator[Any]:
        yield from [values.get(job.number, 2.0)] * (12 if job.number == 3 else 1)
        yield COMPLETE

    trainers = ScriptedTrainers(script, workers=2)
    ending, observer = run(with_budget(stored, stagnation=3), trainers, 40)
    assert ending is Ending.ENOUGH
    assert len(states(stored)) < 10
    assert set(states(stored)) == {TrialState.COMPLETE}
    (line,) = observer.lines
    assert line.startswith("stopped: none of the last ")
    assert line.endswith("trials was better than loss 0.5")
    finished = [number for number, _ in observer.endings]
    assert finished.index(3) >= 4, "trial 3 was not the last in training when 3 were in vain"
    assert len(finished) > finished.index(3) + 3
