"""One trial from start or checkpoint to its end, epoch by epoch: what every trainer does.

A process on this machine and a task on a cluster run the same `TrialWorker`; they differ only in
how its epochs travel.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from search.checkpoints import load_checkpoint, save_checkpoint, save_losses, save_weights
from search.data.splits import Splits
from search.factories import Factory
from search.space import HyperParams
from search.stopping import Divergence, Pruner, batch_judge, out_of_patience
from search.training import FAULTS, BatchJudge, Run, failure, is_lost_device
from search.trial import Decision, Epoch, Goal, Outcome
from search.trial_files import WEIGHTS, remove_checkpoint

CHECKPOINT_SECONDS = 2.0
"""A checkpoint is written when the last one is at least this old: an epoch, or a trial, can take a
hundredth of a second, and what is redone after a kill comes out the same (on a CPU)."""

Interruption = Callable[[], Decision | None]
"""Asked after every batch; a decision ends the epoch at once."""


@dataclass(frozen=True)
class TrialRules:
    """The rules that a trainer applies by itself, and when others judge its trial.

    Attributes:
        goal: The figure that the best epoch is chosen by.
        patience: Epochs without a better value after which a trial ends; 0: none.
        divergence: Whether a growing training error ends a trial; a non-finite one always does.
        pruner: What the coordinator judges trials by; None: by nothing.
        warmup: Epochs that every trial is given first.
    """

    goal: Goal
    patience: int
    divergence: bool
    pruner: Pruner | None = None
    warmup: int = 0

    def compares(self, epoch: int) -> bool:
        """Says whether the coordinator compares a trial with others after an epoch."""
        return self.pruner is not None and self.pruner.compares(epoch, self.warmup)


@dataclass(frozen=True)
class Job:
    """A trial to train.

    Attributes:
        number: The trial's number.
        params: Its hyperparameters.
        seed: Its seed.
        folder: Where its checkpoint, losses and weights are kept.
    """

    number: int
    params: HyperParams
    seed: int
    folder: Path


class TrialWorker:
    """Trains one trial.

    Args:
        job: The trial.
        splits: The data, on ``device``.
        rules: What ends the trial without looking at others.
        device: Where to train.
        interruption: Asked after every batch.
        factory: Builds the network, if it is the user's own.

    Attributes:
        decision: How the trial ended; None while it goes on.
        traceback: Of the exception that ended it, if one did.
    """

    def __init__(
        self,
        job: Job,
        splits: Splits,
        rules: TrialRules,
        device: torch.device,
        interruption: Interruption = lambda: None,
        factory: Factory | None = None,
    ) -> None:
        self.job = job
        self.decision: Decision | None = None
        self.traceback = ""
        self._splits = splits
        self._rules = rules
        self._device = device
        self._devices = {device.type}
        self._interruption = interruption
        self._factory = factory
        self._run: Run | None = None
        self._saved = time.monotonic()

    def epochs(self) -> Iterator[Epoch]:
        """Yields the epochs, those of the checkpoint first, until `decision` is set.

        An exception of the training itself ends the trial as failed. A checkpoint that is due is
        written before an epoch is yielded.

        Raises:
            OSError: The trial's files cannot be written.
            torch.AcceleratorError: The GPU is of no use to this process any more: any other trial
                would fail in it, too.
        """
        try:
            yield from self._epochs()
        except FAULTS as error:
            if is_lost_device(error):
                raise
            self.blame(error)

    def begin(self) -> Run:
        """Returns the trial's run as its checkpoint left it, or untrained; its end may be known."""
        job = self.job
        run = Run(job.params, self._splits, job.seed, self._rules.goal, self._device, self._factory)
        saved = load_checkpoint(job.folder)
        # Where a copy of the database was put back, another trial may have had this number; and
        # half of a training by one code and half by another is what neither gives.
        same = saved is not None and saved.get("job", self._identity) == self._identity
        if saved is not None and same and _fits(run, saved["run"]):
            run.load_state_dict(saved["run"])
            self.decision = _read_decision(saved)
            self._devices |= set(saved.get("devices", []))
        self._run = run
        return run

    def judge(self, run: Run) -> BatchJudge:
        """Returns the judge of batches, in the state in which the batches so far leave it."""
        rule = Divergence() if self._rules.divergence else None
        judge = batch_judge(rule, self._splits.constant_loss, run.batch_losses, run.epoch_ends)
        return lambda loss, norm, epoch: judge(loss, norm, epoch) or self._interruption()

    def settle(self, run: Run, result: Epoch | Decision | Exception) -> None:
        """Takes what training came to: decides whether the trial goes on, and saves it if due."""
        if isinstance(result, Exception):
            self.blame(result)
            return
        self.decision = result if isinstance(result, Decision) else self._end(run)
        # An interruption comes in the middle of an epoch, from where no run can go on.
        interrupted = self.decision and self.decision.outcome is Outcome.INTERRUPTED
        stale = time.monotonic() - self._saved > CHECKPOINT_SECONDS
        if stale and not interrupted:
            self._save(run)

    def blame(self, error: BaseException) -> None:
        """Ends the trial by an exception."""
        self.decision = failure(error)
        if self.decision.outcome is Outcome.FAILED:
            self.traceback = "".join(traceback.format_exception(error))

    def losses(self, epoch: Epoch) -> tuple[float, ...]:
        """Returns the training loss of every batch of an epoch that `epochs` has yielded."""
        if self._run is None:
            return ()
        ends = [0, *self._run.epoch_ends]
        return tuple(self._run.batch_losses[ends[epoch.index - 1] : ends[epoch.index]])

    @property
    def surroundings(self) -> dict[str, str]:
        """What the trial has been computed with that others here may not have been."""
        layers = None if self._run is None else self._run.layers
        return {} if layers is None else {"layers": layers}

    def is_last(self, epoch: Epoch) -> bool:
        """Says whether no epoch after this one has been trained, in this life or earlier."""
        return self._run is None or epoch.index == len(self._run.curve)

    def finish(self) -> None:
        """Writes the losses of a trial that ended by itself, and the best weights if complete."""
        run, decision = self._run, self.decision
        if run is None or decision is None:
            return
        save_losses(self.job.folder, run.batch_losses, run.epoch_ends)
        if decision.outcome is Outcome.COMPLETE:
            save_weights(self.job.folder, run.best_weights)

    def drop(self, epoch: int) -> None:
        """Leaves a trial that was ended from outside, and told, as of ``epoch``."""
        # One that has begun anew may not have come so far; its losses were written when it had.
        if self._run is not None and len(self._run.epoch_ends) >= epoch:
            ends = self._run.epoch_ends[:epoch]
            save_losses(self.job.folder, self._run.batch_losses[: ends[-1]], ends)
        (self.job.folder / WEIGHTS).unlink(missing_ok=True)
        remove_checkpoint(self.job.folder)

    def save(self) -> None:
        """Writes a checkpoint now, if an epoch has been trained."""
        if self._run is not None and len(self._run.curve) > 0:
            self._save(self._run)

    @property
    def _identity(self) -> dict[str, Any]:
        """What a checkpoint must be of, to be gone on from."""
        code = {} if self._factory is None else {"code": self._factory.source}
        return {"params": self.job.params.to_dict(), "seed": self.job.seed, **code}

    def _epochs(self) -> Iterator[Epoch]:
        run = self.begin()
        yield from run.curve.epochs
        judge = self.judge(run)
        while self.decision is None:
            result = run.advance(judge)
            self.settle(run, result)
            if isinstance(result, Epoch):
                yield result

    def _end(self, run: Run) -> Decision | None:
        if len(run.curve) >= self.job.params.epochs:
            return Decision(Outcome.COMPLETE, f"trained {len(run.curve)} epochs")
        values = run.curve.values(self._rules.goal)
        return out_of_patience(values, self._rules.goal, self._rules.patience)

    def _save(self, run: Run) -> None:
        decision = self.decision
        over = decision is not None and decision.outcome is not Outcome.INTERRUPTED
        ended = [str(decision.outcome), decision.reason] if decision and over else None
        devices = sorted(self._devices)
        state = {
            "job": self._identity,
            "run": run.state_dict(),
            "ended": ended,
            "devices": devices,
        }
        save_checkpoint(self.job.folder, state)
        self._saved = time.monotonic()


def _read_decision(saved: dict[str, list[str] | None]) -> Decision | None:
    ended = saved["ended"]
    return Decision(Outcome(ended[0]), ended[1]) if ended else None


def _fits(run: Run, saved: dict[str, Any]) -> bool:
    """Says whether a run's state is of a network with the same weights, in the same order.

    One of the user's own may have changed in a file that the fingerprint does not cover, because
    the factory's own imports it.
    """
    here, there = (
        [(name, one.shape, one.dtype) for name, one in weights.items()]
        for weights in (run.model.state_dict(), saved["model"])
    )
    return here == there
