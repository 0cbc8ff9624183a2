"""The loop, with trainers that do as a script says and a real database."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from optuna.trial import TrialState
from scripted import (
    COMPLETE,
    DIVERGED,
    FAILED,
    ScriptedTrainers,
    Silent,
    completes,
    run,
    states,
    stored,
)

from search.coordinator import LIVES, Coordinator, Ending
from search.errors import RunError, TrainerError
from search.observing import Attacher
from search.report import summarize, trial_line
from search.storage import open_study
from search.stored_study import StoredStudy, Taken
from search.trainers import Event, TrainerDied, TrainerFault, TrialEnded
from search.trial import Outcome
from search.worker import Job

__all__ = ["stored"]


def test_every_finished_trial_has_its_finding(stored: StoredStudy) -> None:
    """What a trial's losses show is stored with it and told; a failed trial has nothing."""

    def says(job: Job) -> Iterator[Any]:
        yield from [[1.0, 0.999, 0.998], [2.0, 1.6, 1.2, 0.8]][job.number % 2]
        yield [COMPLETE, COMPLETE, DIVERGED, FAILED][job.number]

    _, observer = run(stored, ScriptedTrainers(says), total=4)
    names = ["too-slow", "still-falling", "diverging", None]
    told = [observer.findings[number] for number in range(4)]
    assert [finding and finding.name for finding in told] == names
    attributes = [trial.user_attrs for trial in stored.trials()]
    assert [kept.get("finding") for kept in attributes] == names
    assert attributes[0]["advice"] == "raise the learning rate"
    assert 0 < attributes[0]["evidence"]["validation_reach"] < 0.02
    verdicts = {"diverging": 1, "still-falling": 1, "too-slow": 1}
    assert summarize(stored).verdicts == verdicts


def test_findings_know_a_constant_prediction(stored: StoredStudy) -> None:
    """Losses that rise from an easy start diverge, unless a constant prediction has as much."""

    def says(_job: Job) -> Iterator[Any]:
        yield from [0.7, 1.0, 0.98, 0.96]
        yield COMPLETE

    plain, known = (
        run(stored, ScriptedTrainers(says), total=total, constants=(None, constant))[1].findings
        for total, constant in ((1, None), (2, 1.0))
    )
    names = [finding and finding.name for finding in (plain[0], known[1])]
    assert names == ["diverging", "jumping"]


def test_what_the_dashboard_shows_is_attached_before_a_trial_is_told(stored: StoredStudy) -> None:
    """While a trial is attached to, it is still running; Optuna takes nothing afterwards."""

    class Looking(Attacher):
        def __init__(self) -> None:
            self.states: list[TrialState] = []

        def attach(self, taken: Taken, *_: object) -> None:
            storage = stored.database.storage
            self.states.append(storage.get_trial(taken.trial_id).state)

    attacher = Looking()
    run(stored, ScriptedTrainers(completes), 3, attacher=attacher)
    assert attacher.states == [TrialState.RUNNING] * 3
    assert states(stored) == [TrialState.COMPLETE] * 3


@pytest.mark.parametrize("workers", [1, 3])
def test_trains_exactly_the_total(stored: StoredStudy, workers: int) -> None:
    """A run trains each trial once, until the study has its total, and a second run none."""
    trainers = ScriptedTrainers(completes, workers)
    ending, observer = run(stored, trainers, 7)
    assert ending is Ending.DONE
    assert sorted(trainers.started) == list(range(7))
    assert states(stored) == [TrialState.COMPLETE] * 7
    assert sorted(observer.endings) == [(n, Outcome.COMPLETE) for n in range(7)]
    assert [trial.value for trial in stored.trials()] == [2.0 / (n + 1) for n in range(7)]
    again = ScriptedTrainers(completes, workers)
    assert run(stored, again, 7)[0] is Ending.DONE
    assert again.started == []


class Listening(Silent):
    """An observer that notes what was known when it was told of an end or a start."""

    def __init__(self, stored: StoredStudy, trainers: ScriptedTrainers) -> None:
        super().__init__()
        self._stored, self._trainers = stored, trainers
        self.heard: list[tuple[str, int]] = []
        self.begun: list[int] = []
        self.known: list[int] = []

    def started(self, worker: int, taken: Taken) -> None:
        """A trial starts."""
        self.heard.append(("started", taken.number))

    def ended(self, worker: int, taken: Taken, *rest: Any) -> None:
        """A trial is over."""
        self.heard.append(("ended", taken.number))
        self.begun.append(len(self._trainers.started))
        self.known.append(len(self._stored.recent().values))


def test_a_free_trainer_has_work_before_an_end_is_shown(stored: StoredStudy) -> None:
    """To show a trial's end takes time, in which its trainer trains the next; the order stays."""
    trainers = ScriptedTrainers(completes)
    observer = Listening(stored, trainers)
    Coordinator(stored, trainers, observer, 3).run()  # type: ignore[arg-type]
    both = [(what, number) for number in range(3) for what in ("started", "ended")]
    assert observer.heard == both
    assert observer.begun == [2, 3, 3]
    assert observer.known == [1, 2, 3]


def test_trials_that_end_together_are_shown_one_by_one(stored: StoredStudy) -> None:
    """Of two ends that come at once each is shown before the next counts."""
    trainers = ScriptedTrainers(completes, workers=2)
    observer = Listening(stored, trainers)
    Coordinator(stored, trainers, observer, 4).run()  # type: ignore[arg-type]
    assert sorted(observer.known) == [1, 2, 3, 4]
    assert [what for what, _ in observer.heard] == 2 * (["started"] * 2 + ["ended"] * 2)


def test_what_has_ended_is_shown_before_a_fault(stored: StoredStudy) -> None:
    """A fault of a trainer ends the run; an end that came with it is shown all the same."""

    def says(job: Job) -> Iterator[Any]:
        yield 1.0
        yield [COMPLETE, TrainerFault(1, "no space left")][job.number]

    trainers = ScriptedTrainers(says, workers=2)
    observer = Listening(stored, trainers)
    with pytest.raises(RunError, match="no space left"):
        Coordinator(stored, trainers, observer, 4).run()  # type: ignore[arg-type]
    assert observer.heard == [("started", 0), ("started", 1), ("ended", 0)]


def test_what_has_ended_is_shown_before_the_last_trainer_dies(stored: StoredStudy) -> None:
    """Where trainers do not start any more, an end that came before is shown all the same."""
    trainers = ScriptedTrainers(completes)
    observer = Listening(stored, trainers)
    events = trainers.events

    def with_a_death(timeout: float) -> Iterator[Event]:
        for event in events(timeout):
            yield event
            if isinstance(event, TrialEnded):
                yield from [TrainerDied(0, None, 1)] * (LIVES + 1)

    trainers.events = with_a_death  # type: ignore[method-assign]
    with pytest.raises(TrainerError, match="trainers do not start"):
        Coordinator(stored, trainers, observer, 2).run()  # type: ignore[arg-type]
    assert observer.heard == [("started", 0), ("ended", 0)]


def test_interruption_gives_trials_back(stored: StoredStudy) -> None:
    """An interrupted run leaves its trial unfinished and free; the next run goes on with it."""
    asked = iter([False] * 3 + [True] * 9)
    ending, observer = run(stored, ScriptedTrainers(completes), 3, interrupted=lambda: next(asked))
    assert ending is Ending.INTERRUPTED
    assert observer.endings == [(0, Outcome.INTERRUPTED)]
    assert "Ctrl-C again stops at once" in observer.lines[0]
    assert states(stored) == [TrialState.RUNNING]
    assert stored.held() == set()
    trainers = ScriptedTrainers(completes)
    again = open_study(stored.database, "tiny")
    assert run(again, trainers, 3)[0] is Ending.DONE
    assert trainers.started == [0, 1, 2]
    assert again.trials()[0].intermediate_values == {1: 4.0, 2: 3.0, 3: 2.0, 4: 2.5}


def test_timeout_is_an_ordinary_end(stored: StoredStudy) -> None:
    """When time is up a run stops with its trial unfinished, as if it had been interrupted."""
    trainers = ScriptedTrainers(completes)
    ending, observer = run(stored, trainers, 3, timeout=-1.0)
    assert ending is Ending.TIMEOUT
    assert trainers.started == []
    assert observer.lines == [
        "stopped: the time of this run is up (--timeout, [budget] timeout)",
    ]


def test_what_an_earlier_life_took_counts(stored: StoredStudy) -> None:
    """What epochs took is stored beside the time since the last begin, which may be less."""
    run(stored, ScriptedTrainers(completes), 1)
    (trial,) = stored.trials()
    spent = trial.user_attrs["epochs_seconds"]
    assert spent == pytest.approx(0.1 * len(trial.intermediate_values))
    assert trial_line(stored, trial, set()).cost == max(spent, trial.user_attrs["seconds"])


def test_deadly_trial_fails_in_the_end(stored: StoredStudy) -> None:
    """A trial that takes three trainers down is failed with that reason; others are trained."""

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        yield "dies" if job.number == 0 else COMPLETE

    trainers = ScriptedTrainers(script)
    ending, observer = run(stored, trainers, 2)
    assert ending is Ending.DONE
    assert trainers.started == [0, 0, 0, 1]
    assert states(stored) == [TrialState.FAIL, TrialState.COMPLETE]
    assert "took 3 trainers down" in stored.trials()[0].user_attrs["reason"]
    assert len(observer.lines) == 3


def test_deaths_add_up_across_runs(stored: StoredStudy) -> None:
    """A trial that took trainers down in earlier runs has that many lives less."""

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        yield "dies"

    taken = stored.take(1)
    assert taken is not None
    stored.release(stored.count_trainer_death(taken))
    trainers = ScriptedTrainers(script)
    run(stored, trainers, 1)
    assert trainers.started == [0, 0]
    assert states(stored) == [TrialState.FAIL]


def test_trainers_that_never_start(stored: StoredStudy) -> None:
    """Trainers that keep dying with nothing to do end the run; no trial is blamed."""

    class Stillborn(ScriptedTrainers):
        def free(self) -> list[int]:
            return []

        def events(self, timeout: float) -> Iterator[Event]:
            yield TrainerDied(0, None, 1)

    stored.study.enqueue_trial({})
    other = Stillborn(completes)
    taken = open_study(stored.database, "tiny").take(1)
    assert taken is not None
    with pytest.raises(TrainerError, match="do not start"):
        run(stored, other, 1)
    assert states(stored) == [TrialState.RUNNING]


def test_trainers_that_die_before_their_trial_reaches_them(stored: StoredStudy) -> None:
    """Their deaths are not the trial's, which waits for one that lives; an epoch ends the count."""

    class Waiting(ScriptedTrainers):
        def events(self, timeout: float) -> Iterator[Event]:
            if self.epochs[0] == 0:
                yield from [TrainerDied(0, None, None)] * LIVES
            yield from super().events(timeout)

    run(stored, Waiting(completes), 3)
    assert states(stored) == [TrialState.COMPLETE] * 3
    assert all("trainer_deaths" not in trial.user_attrs for trial in stored.trials())


def test_trials_say_what_they_were_trained_with(stored: StoredStudy) -> None:
    """What a trainer says of its machine, and of a trial, goes before what is known of this one."""
    here = {"kernels": "of this machine", "device": "cpu"}
    run(stored, ScriptedTrainers(completes), 1, surroundings=here)
    (trial,) = stored.trials()
    assert trial.user_attrs["surroundings"] == {
        "kernels": "of worker 0",
        "device": "cpu",
        "layers": "of 0",
    }


def test_who_ends_a_trial_does_not_change_what_it_says(stored: StoredStudy) -> None:
    """A trial that is pruned by its peers says what it was trained with, as one that completes."""

    def script(job: Job) -> Iterator[Any]:
        for _ in range(job.params.epochs):
            yield job.number + 1.0
        yield COMPLETE

    run(stored, ScriptedTrainers(script), 20)
    assert {*states(stored)} == {TrialState.PRUNED, TrialState.COMPLETE}
    assert {trial.user_attrs["surroundings"]["layers"] for trial in stored.trials()} == {"of 0"}


def test_trainers_that_leave_when_told_to(stored: StoredStudy) -> None:
    """Trainers without a trial that end while another still ends its epoch are no fault."""

    class Leaving(ScriptedTrainers):
        def events(self, timeout: float) -> Iterator[Event]:
            if self.stopping:
                yield from (TrainerDied(worker, None, 0) for worker in range(1, 6))
            yield from super().events(timeout)

    trainers = Leaving(lambda _: itertools.repeat(1.0))
    ending, observer = run(stored, trainers, 1, interrupted=lambda: trainers.epochs[0] > 2)
    assert ending is Ending.INTERRUPTED
    assert observer.endings == [(0, Outcome.INTERRUPTED)]


def test_full_disk_ends_the_run(stored: StoredStudy) -> None:
    """A fault of a trainer's place stops the run, and nothing is told of the trial."""

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        yield TrainerFault(0, "disk full")

    trainers = ScriptedTrainers(script)
    with pytest.raises(RunError, match="disk full"):
        run(stored, trainers, 2)
    assert states(stored) == [TrialState.RUNNING]


def test_failures_in_a_row_end_the_run(stored: StoredStudy) -> None:
    """After five failed trials in a row the run gives up, each with its traceback stored."""

    def script(job: Job) -> Iterator[Any]:
        yield FAILED

    with pytest.raises(RunError, match="5 trials in a row failed"):
        run(stored, ScriptedTrainers(script), 20)
    assert states(stored) == [TrialState.FAIL] * 5
    assert all("Traceback" in trial.user_attrs["traceback"] for trial in stored.trials())


def test_failures_among_others_do_not_end_the_run(stored: StoredStudy) -> None:
    """Trials that fail now and then are not in a row, also where all others are pruned by peers."""

    def script(job: Job) -> Iterator[Any]:
        if job.number % 2:
            yield FAILED
        for _ in range(job.params.epochs):
            yield job.number + 1.0
        yield COMPLETE

    assert run(stored, ScriptedTrainers(script), 40)[0] is Ending.DONE
    assert states(stored)[20:] == [TrialState.PRUNED, TrialState.FAIL] * 10


def test_diverging_trials_do_not_end_the_run(stored: StoredStudy) -> None:
    """A study all of whose trials diverge is trained to its end."""

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        yield DIVERGED

    assert run(stored, ScriptedTrainers(script), 8)[0] is Ending.DONE
    assert states(stored) == [TrialState.PRUNED] * 8
    assert all(trial.constraints == {"diverged": 1.0} for trial in stored.trials())


def test_only_the_best_keep_their_weights(stored: StoredStudy) -> None:
    """Of complete trials the best ``keep`` keep their weights; no checkpoint stays."""

    def script(job: Job) -> Iterator[Any]:
        job.folder.mkdir(parents=True)
        (job.folder / "checkpoint.pt").write_text("x")
        yield from completes(job)

    class Writing(ScriptedTrainers):
        def events(self, timeout: float) -> Iterator[Event]:
            for event in super().events(timeout):
                if isinstance(event, TrialEnded):
                    (stored.folder / f"{event.number:05d}" / "weights.safetensors").write_text("x")
                yield event

    run(stored, Writing(script), 5)
    files = sorted(str(f.relative_to(stored.folder)) for f in stored.folder.rglob("*.*"))
    assert files == ["00003/weights.safetensors", "00004/weights.safetensors"]
