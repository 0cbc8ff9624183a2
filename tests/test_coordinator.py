"""The loop, with trainers that do as a script says and a real database."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from safetensors.torch import load_file
from tiny import tiny_config

from search import coordinator as module
from search.checkpoints import CHECKPOINT, LOSSES, trial_folder
from search.coordinator import LIVES, Attacher, Coordinator, Ending
from search.database import Database
from search.diagnosis import Finding
from search.errors import RunError, TrainerError
from search.report import summarize
from search.storage import create_study, open_study
from search.stored_study import StoredStudy, Taken
from search.trainers import EpochDone, Event, TrainerDied, TrainerFault, TrialEnded
from search.trial import Curve, Decision, Epoch, Outcome
from search.worker import Job

Script = Callable[[Job], Iterator[Any]]


class ScriptedTrainers:
    """Trainers in this process: each trial says what its script yields, one event a call.

    A script yields losses, and at the end a `Decision`, a `TrainerFault` or ``"dies"``.
    """

    def __init__(self, script: Script, workers: int = 1) -> None:
        self.script = script
        self.jobs: dict[int, Job | None] = dict.fromkeys(range(workers))
        self.said: dict[int, Iterator[Any]] = {}
        self.epochs = dict.fromkeys(range(workers), 0)
        self.started: list[int] = []
        self.dropped: list[tuple[int, int]] = []
        self.stopping = False

    def free(self) -> list[int]:
        """Returns the workers without a trial."""
        return [worker for worker, job in self.jobs.items() if job is None]

    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training."""
        return [job.number for job in self.jobs.values() if job is not None]

    def start(self, worker: int, job: Job) -> None:
        """Begins a trial's script."""
        self.jobs[worker], self.epochs[worker] = job, 0
        self.said[worker] = self.script(job)
        self.started.append(job.number)

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial."""
        self.dropped.append((number, epoch))
        for worker, job in self.jobs.items():
            if job is not None and job.number == number:
                self.jobs[worker] = None

    def abandon(self, number: int) -> None:
        """Ends a trial that is another's."""
        self.drop(number, 0)

    def stop(self) -> None:
        """Interrupts every trial at its next event."""
        self.stopping = True

    def kind(self, _worker: int) -> int:
        """All are of one kind."""
        return 0

    def surroundings(self, worker: int) -> dict[str, str]:
        """Returns where this worker computes, for the trials that it trains."""
        return {"kernels": f"of worker {worker}"}

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields one event of each busy worker."""
        for worker, job in self.jobs.items():
            if job is None:
                continue
            said = next(self.said[worker])
            if self.stopping:
                said = Decision(Outcome.INTERRUPTED, "stopped")
            if isinstance(said, float):
                self.epochs[worker] += 1
                figures = {"loss": said, "rmse": said, "mae": said}
                yield EpochDone(
                    worker, job.number, Epoch(self.epochs[worker], said, figures, 0.1, 0.1)
                )
                continue
            if isinstance(said, TrainerFault):
                yield said
                continue
            self.jobs[worker] = None
            if said == "dies":
                yield TrainerDied(worker, job.number, -9)
            else:
                yield TrialEnded(worker, job.number, said, "Traceback" * (said == FAILED))


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.endings: list[tuple[int, Outcome]] = []
        self.findings: dict[int, Finding | None] = {}

    def started(self, worker: int, taken: Taken) -> None:
        """A trial starts."""

    def advanced(self, worker: int, taken: Taken, epoch: Epoch) -> None:
        """A trial has trained an epoch."""

    def ended(
        self,
        worker: int,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        finding: Finding | None = None,
    ) -> None:
        """A trial is over."""
        self.endings.append((taken.number, decision.outcome))
        self.findings[taken.number] = finding

    def tick(self) -> None:
        """Some time has passed."""

    def say(self, line: str) -> None:
        """Something happened."""
        self.lines.append(line)


COMPLETE = Decision(Outcome.COMPLETE, "trained 4 epochs")
DIVERGED = Decision(Outcome.DIVERGED, "the training loss is not finite")
FAILED = Decision(Outcome.FAILED, "ValueError: no")


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A new study in a new SQLite file."""
    config = tiny_config(tmp_path, space={"epochs": 4}, keep=2)
    database = Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    return create_study(database, config, {"data": "f00d", "baselines": {}, "notes": []})


def run(
    stored: StoredStudy, trainers: ScriptedTrainers, total: int, **options: Any
) -> tuple[Ending, Silent]:
    """Runs a study to its end."""
    observer = Silent()
    ending = Coordinator(stored, trainers, observer, total, **options).run()  # type: ignore[arg-type]
    return ending, observer


def states(stored: StoredStudy) -> list[TrialState]:
    """Returns the states of all trials."""
    return [trial.state for trial in stored.trials()]


def completes(job: Job) -> Iterator[Any]:
    """Four epochs, better in trials with a larger number."""
    yield from [4.0 / (job.number + 1), 3.0 / (job.number + 1), 2.0 / (job.number + 1), 2.5]
    yield COMPLETE


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
    ending, _ = run(stored, trainers, 3, timeout=-1.0)
    assert ending is Ending.TIMEOUT
    assert trainers.started == []


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
    """What a trainer says of its own machine goes before what is known of this one."""
    here = {"kernels": "of this machine", "device": "cpu"}
    run(stored, ScriptedTrainers(completes), 1, surroundings=here)
    (trial,) = stored.trials()
    assert trial.user_attrs["surroundings"] == {"kernels": "of worker 0", "device": "cpu"}


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


def test_diverging_trials_do_not_end_the_run(stored: StoredStudy) -> None:
    """A study all of whose trials diverge is trained to its end."""

    def script(job: Job) -> Iterator[Any]:
        yield 1.0
        yield DIVERGED

    assert run(stored, ScriptedTrainers(script), 8)[0] is Ending.DONE
    assert states(stored) == [TrialState.PRUNED] * 8
    assert all(trial.constraints == {"diverged": 1.0} for trial in stored.trials())


def bad_sixth(job: Job) -> Iterator[Any]:
    """Trials 0 to 4 end at 1.0; later ones are hopeless from the start."""
    for _ in range(4):
        yield 1.0 if job.number < 5 else 9.0
    yield COMPLETE


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


def test_no_verdict_once_trainers_were_told_to_stop(stored: StoredStudy) -> None:
    """An epoch that comes after the interruption is judged by the next run, as its trainer left."""
    run(stored, ScriptedTrainers(bad_sixth), 5)

    class Late(ScriptedTrainers):
        def events(self, timeout: float) -> Iterator[Event]:
            late, self.stopping = self.stopping, False
            yield from super().events(timeout)
            self.stopping = late
            if late:
                yield from super().events(timeout)

    trainers = Late(bad_sixth)
    asked = iter([False, True])
    _, observer = run(stored, trainers, 6, interrupted=lambda: next(asked))
    assert trainers.dropped == []
    assert observer.endings == [(5, Outcome.INTERRUPTED)]
    assert stored.trials()[5].intermediate_values == {1: 9.0, 2: 9.0}
    again = ScriptedTrainers(bad_sixth)
    run(stored, again, 6)
    assert again.dropped == [(5, 2)]


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
