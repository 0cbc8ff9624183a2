"""One trial from start or checkpoint to its end, whatever happens in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from networks import CPU, LOSS, figures, hyper, same_tensors, series, sine, start, text, train
from safetensors.torch import load_file

from search import worker as worker_module
from search.checkpoints import load_checkpoint
from search.data.splits import Splits
from search.trial import Decision, Epoch, Outcome
from search.trial_files import CHECKPOINT, LOSSES, WEIGHTS
from search.worker import Interruption, Job, TrialRules, TrialWorker

RULES = TrialRules(LOSS, patience=0, divergence=True)
DIVERGING = {"learning_rate": 3.0, "optimizer": "sgd", "cell": "rnn", "epochs": 30}
INTERRUPTED = Decision(Outcome.INTERRUPTED, "dropped")


@pytest.fixture(autouse=True)
def _eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a worker write a checkpoint whenever it may, as if every epoch took seconds."""
    monkeypatch.setattr(worker_module, "CHECKPOINT_SECONDS", -1.0)


def work(
    folder: Path,
    splits: Splits | None = None,
    rules: TrialRules = RULES,
    interruption: Interruption = lambda: None,
    **changes: Any,
) -> TrialWorker:
    """Returns a worker for a tiny trial on the sine."""
    job = Job(7, hyper(**changes), 1, folder)
    return TrialWorker(job, splits or sine(), rules, CPU, interruption)


def names(folder: Path) -> set[str]:
    """Returns the files of a trial."""
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def after(batches: int, decision: Decision = INTERRUPTED) -> Interruption:
    """Returns an interruption that comes after so many batches."""
    left = iter([None] * batches)
    return lambda: next(left, decision)


def test_a_trial_is_its_run(tmp_path: Path) -> None:
    """A worker's epochs are those of the run, and end, complete, with as many as were asked for."""
    worker = work(tmp_path, epochs=3, dropout=0.3)
    epochs = list(worker.epochs())
    run = start(sine(), 1, dropout=0.3)
    assert figures(epochs) == figures(train(run, 3))
    assert worker.decision == Decision(Outcome.COMPLETE, "trained 3 epochs")
    worker.finish()
    losses = load_file(tmp_path / LOSSES)
    assert losses["train"].tolist() == pytest.approx(run.batch_losses)
    assert losses["epoch_ends"].tolist() == run.epoch_ends
    assert same_tensors(load_file(tmp_path / WEIGHTS), run.best_weights)


@pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])
@pytest.mark.parametrize("stop", [0, 1, 2, 4])
def test_another_worker_goes_on(task: Callable[[], Splits], stop: int, tmp_path: Path) -> None:
    """A worker that finds a checkpoint tells its epochs again and goes on to the same end."""
    whole = work(tmp_path / "whole", task(), dropout=0.3)
    expected = figures(list(whole.epochs()))
    whole.finish()
    first = work(tmp_path / "cut", task(), dropout=0.3)
    told = [epoch for epoch, _ in zip(first.epochs(), range(stop), strict=False)]
    assert figures(told) == expected[:stop]
    second = work(tmp_path / "cut", task(), dropout=0.3)
    assert figures(list(second.epochs())) == expected
    assert second.decision == whole.decision
    second.finish()
    for name in (LOSSES, WEIGHTS):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_interruption_within_an_epoch_leaves_the_checkpoint(tmp_path: Path) -> None:
    """A trial interrupted between two batches goes on from its last whole epoch, to the bit."""
    whole = work(tmp_path / "whole", dropout=0.3)
    expected = figures(list(whole.epochs()))
    batches = whole._run.epoch_ends[1] + 1 if whole._run else 0
    cut = work(tmp_path / "cut", interruption=after(batches), dropout=0.3)
    assert figures(list(cut.epochs())) == expected[:2]
    assert cut.decision == INTERRUPTED
    again = work(tmp_path / "cut", dropout=0.3)
    assert figures(list(again.epochs())) == expected
    assert again._run is not None
    assert whole._run is not None
    assert again._run.batch_losses == whole._run.batch_losses


@pytest.mark.parametrize("other", [{"learning_rate": 0.5}, {"hidden_units": 3}, {"seed": 2}])
def test_the_checkpoint_of_another_trial_is_not_gone_on_from(
    tmp_path: Path, other: dict[str, Any]
) -> None:
    """Where a database was put back, the number's old files may be of another configuration."""
    seed = other.pop("seed", 1)
    old = TrialWorker(Job(7, hyper(**other), seed, tmp_path), sine(), RULES, CPU)
    next(old.epochs())
    assert (tmp_path / CHECKPOINT).exists()
    expected = figures(list(work(tmp_path / "fresh").epochs()))
    assert figures(list(work(tmp_path).epochs())) == expected


def test_the_end_survives_a_kill(tmp_path: Path) -> None:
    """A trial whose end was saved but not told has, started again, the same end at once."""
    for changes, outcome in (({}, Outcome.COMPLETE), (DIVERGING, Outcome.DIVERGED)):
        folder = tmp_path / outcome
        first = work(folder, **changes)
        epochs = list(first.epochs())
        assert first.decision is not None
        assert first.decision.outcome is outcome
        second = work(folder, interruption=after(0), **changes)  # would end any batch
        assert figures(list(second.epochs())) == figures(epochs)
        assert second.decision == first.decision


def test_files_are_written_before_an_epoch_is_told(tmp_path: Path) -> None:
    """Whoever hears of an epoch can be sure that its checkpoint, if one was due, is on disk."""
    for index, epoch in enumerate(work(tmp_path).epochs(), start=1):
        saved = load_checkpoint(tmp_path)
        assert saved is not None
        assert len(saved["run"]["curve"]) == epoch.index == index


def test_checkpoints_are_not_written_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs and ends that follow quickly need no checkpoint, unless one is asked for."""
    monkeypatch.setattr(worker_module, "CHECKPOINT_SECONDS", 1e9)
    worker = work(tmp_path)
    worker.save()
    epochs = worker.epochs()
    next(epochs)
    assert names(tmp_path) == set()
    worker.save()
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    assert len(saved["run"]["curve"]) == 1
    assert len(list(epochs)) == 3
    saved = load_checkpoint(tmp_path)
    assert saved is not None
    assert (len(saved["run"]["curve"]), saved["ended"]) == (1, None)
    assert figures(list(work(tmp_path).epochs())) == figures(list(work(tmp_path / "new").epochs()))


def test_patience_ends_a_trial_complete(tmp_path: Path) -> None:
    """A trial that gets no better for the rules' patience is complete before its epochs are up."""
    worker = work(tmp_path, rules=TrialRules(LOSS, 2, True), learning_rate=1e-30, epochs=9)
    assert len(list(worker.epochs())) == 3
    assert worker.decision == Decision(Outcome.COMPLETE, "no better for 2 epochs")


def test_a_growing_error_ends_a_trial(tmp_path: Path) -> None:
    """A diverging trial ends by itself, its losses kept and its weights not."""
    worker = work(tmp_path, **DIVERGING)
    epochs = list(worker.epochs())
    assert len(epochs) < 30
    assert worker.decision is not None
    assert worker.decision.outcome is Outcome.DIVERGED
    worker.finish()
    assert LOSSES in names(tmp_path)
    assert WEIGHTS not in names(tmp_path)
    calm = work(tmp_path / "calm", rules=TrialRules(LOSS, 0, divergence=False), **DIVERGING)
    assert len(list(calm.epochs())) > len(epochs)


def test_divergence_is_remembered_over_an_interruption(tmp_path: Path) -> None:
    """A diverging trial that changes workers after each epoch ends at the same batch."""
    slow = DIVERGING | {"learning_rate": 0.2, "cell": "rnn", "batch_size": 8}
    whole = work(tmp_path / "whole", **slow)
    count = len(list(whole.epochs()))
    assert whole.decision is not None
    assert whole.decision.outcome is Outcome.DIVERGED
    assert count > 1
    for stop in range(count + 1):
        worker = work(tmp_path / "cut", **slow)
        _ = [epoch for epoch, _ in zip(worker.epochs(), range(stop), strict=False)]
    worker = work(tmp_path / "cut", **slow)
    assert len(list(worker.epochs())) == count
    assert worker.decision == whole.decision
    assert worker._run is not None
    assert whole._run is not None
    assert worker._run.batch_losses == whole._run.batch_losses


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 1e30, "cell": "rnn"}, "the training loss is not finite"),
        (
            {"learning_rate": 1e40, "cell": "rnn", "batch_size": 10**6},
            "the validation loss is not finite",
        ),
    ],
)
def test_each_way_to_diverge_has_its_reason(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    """Overflow of each kind ends the trial, not the trainer."""
    rules = TrialRules(LOSS, 0, divergence=False)
    worker = work(tmp_path, rules=rules, optimizer="sgd", **changes)
    assert list(worker.epochs()) == []
    assert worker.decision is not None
    assert worker.decision.outcome is Outcome.DIVERGED
    assert reason in worker.decision.reason
    assert "\n" not in worker.decision.reason
    assert worker.traceback == ""
    worker.finish()
    assert WEIGHTS not in names(tmp_path)


def test_network_too_large_ends_the_trial(tmp_path: Path) -> None:
    """A network that does not fit the memory ends the trial as out of memory, on one line."""
    worker = work(tmp_path, hidden_units=10**7)
    assert list(worker.epochs()) == []
    assert worker.decision is not None
    assert worker.decision.outcome is Outcome.OUT_OF_MEMORY
    assert "DefaultCPUAllocator" in worker.decision.reason
    assert "\n" not in worker.decision.reason


def test_memory_short_between_batches_ends_the_trial(tmp_path: Path) -> None:
    """Python's own MemoryError, which has no message, is a reason all the same."""

    def greedy() -> Decision | None:
        bytearray(2**62)
        return None

    worker = work(tmp_path, interruption=greedy)
    assert list(worker.epochs()) == []
    assert worker.decision == Decision(Outcome.OUT_OF_MEMORY, "out of memory")


def test_an_error_of_the_training_fails_the_trial(tmp_path: Path) -> None:
    """A RuntimeError of torch fails the trial, its kind and traceback kept."""
    worker = work(tmp_path, replace(sine(), input_size=3))
    assert list(worker.epochs()) == []
    assert worker.decision is not None
    assert worker.decision.outcome is Outcome.FAILED
    assert worker.decision.reason.startswith("RuntimeError: ")
    assert worker.traceback.startswith("Traceback")
    assert "gradients.py" in worker.traceback
    worker.finish()
    assert WEIGHTS not in names(tmp_path)


@pytest.mark.parametrize("fault", [TypeError, KeyError, OSError, KeyboardInterrupt])
def test_a_fault_of_the_program_is_not_the_trials(
    fault: type[BaseException], tmp_path: Path
) -> None:
    """What no trial can be blamed for goes through: mistakes of ours, and the disk."""

    def broken() -> Decision | None:
        raise fault

    worker = work(tmp_path, interruption=broken)
    with pytest.raises(fault):
        list(worker.epochs())
    assert worker.decision is None


def test_a_disk_that_refuses_is_not_the_trials(tmp_path: Path) -> None:
    """A checkpoint that cannot be written stops the trainer instead of failing the trial."""
    (tmp_path / "file").touch()
    worker = work(tmp_path / "file" / "trial")
    with pytest.raises(OSError, match="trial"):
        list(worker.epochs())


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_a_dropped_trial_ends_where_it_was_told(epoch: int, tmp_path: Path) -> None:
    """Of a trial pruned as of an epoch the losses until then stay, and nothing else."""
    worker = work(tmp_path)
    epochs = worker.epochs()
    for _ in range(3):
        assert isinstance(next(epochs), Epoch)
    worker.drop(epoch)
    assert names(tmp_path) == {LOSSES}
    losses = load_file(tmp_path / LOSSES)
    assert len(losses["epoch_ends"]) == epoch
    assert losses["epoch_ends"][-1] == len(losses["train"])
    assert worker._run is not None
    assert losses["train"].tolist() == pytest.approx(
        worker._run.batch_losses[: len(losses["train"])]
    )


def test_an_unreadable_checkpoint_starts_the_trial_over(tmp_path: Path) -> None:
    """After a power cut has spoilt the checkpoint, the trial comes to the same result."""
    first = work(tmp_path)
    expected = figures(list(first.epochs()))
    (tmp_path / CHECKPOINT).write_bytes(b"\0" * 1000)
    second = work(tmp_path)
    assert figures(list(second.epochs())) == expected
    assert second.decision == first.decision


def test_nothing_is_written_before_anything_is_trained(tmp_path: Path) -> None:
    """A worker that is stopped before its first epoch leaves no file."""
    worker = work(tmp_path / "trial")
    worker.save()
    worker.finish()
    assert names(tmp_path / "trial") == set()
