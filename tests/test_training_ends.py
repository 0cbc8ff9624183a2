"""What ends a run within an epoch: what is not finite, memory, and its judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from networks import (
    CPU,
    LOSS,
    hyper,
    same_tensors,
    sine,
    start,
    unjudged,
)

from search.data.forecasting import ForecastPart
from search.data.splits import Splits
from search.stopping import batch_judge
from search.training import (
    Run,
    evaluate,
)
from search.trial import Decision, Outcome
from search.worker import Job, TrialRules, TrialWorker


def one_batch(splits: Splits) -> int:
    """Returns the batch size at which an epoch is one batch."""
    return splits.train.size


def not_finite(loss: float, norm: float, _epoch: int) -> Decision | None:
    """Judges by the two rules that hold whatever else is off."""
    return batch_judge(None, 1.0)(loss, norm, 1)


def test_a_loss_that_is_not_finite_ends_a_run() -> None:
    """At an absurd rate the loss overflows, which ends the run with that reason."""
    run = start(sine(), optimizer="sgd", learning_rate=1e30, cell="rnn")
    assert run.advance(not_finite) == Decision(Outcome.DIVERGED, "the training loss is not finite")
    assert len(run.curve) == 0
    assert math.isfinite(run.batch_losses[0])


def test_a_gradient_that_is_not_finite_ends_a_run() -> None:
    """A gradient that overflows behind a loss that does not ends the run with that reason."""
    run = start(sine(), cell="lstm")
    with torch.no_grad():  # all gates at a half, nothing in the cell: outputs 0, huge gradients
        for weight in run.model.parameters():
            weight.zero_()
        run.model.head.weight.fill_(1e38)
    assert run.advance(not_finite) == Decision(Outcome.DIVERGED, "the gradient is not finite")
    assert math.isfinite(run.batch_losses[0])


def test_a_validation_loss_that_is_not_finite_ends_a_run() -> None:
    """If only the last step of an epoch overflows, validation finds it."""
    run = start(
        sine(), optimizer="sgd", learning_rate=1e40, cell="rnn", batch_size=one_batch(sine())
    )
    assert run.advance(not_finite) == Decision(
        Outcome.DIVERGED, "the validation loss is not finite"
    )
    assert len(run.curve) == 0


def out_of_cuda() -> None:
    """Raises what CUDA raises."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nMore lines")


def out_of(words: str) -> Callable[[], None]:
    """Returns what raises what a GPU's libraries raise for want of memory."""

    def fail() -> None:
        raise torch.AcceleratorError(words) if "ALLOC" not in words else RuntimeError(words)

    return fail


CUBLAS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("allocate", "reason"),
    [
        (lambda: bytearray(2**62), "out of memory"),
        (lambda: torch.empty(10**14), "DefaultCPUAllocator"),
        (out_of_cuda, "CUDA out of memory. Tried to allocate 20 GiB."),
        (out_of("CUDA error: out of memory"), "CUDA error: out of memory"),
        (out_of(CUBLAS), "CUBLAS_STATUS_ALLOC_FAILED"),
        (out_of("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["python", "torch", "cuda", "graph", "cublas", "cudnn"],
)
def test_out_of_memory_ends_a_run(allocate: Callable[[], object], reason: str) -> None:
    """Whoever runs out of memory in an epoch, it ends the run with one line that says so."""

    def greedy(*_: object) -> Decision | None:
        allocate()
        return None

    decision = start(sine()).advance(greedy)
    assert isinstance(decision, Decision)
    assert decision.outcome is Outcome.OUT_OF_MEMORY
    assert decision.reason.startswith("out of memory")
    assert reason in decision.reason
    assert "\n" not in decision.reason


def test_other_errors_of_torch_are_no_decision() -> None:
    """A RuntimeError that has nothing to do with memory is not taken for it."""
    with pytest.raises(RuntimeError, match="shapes"):
        start(replace(sine(), input_size=3)).advance(unjudged)


def test_what_a_gpu_does_not_recover_from_ends_its_process(tmp_path: Path) -> None:
    """It is no trial's end, because every other in the same process would have the same one."""

    def fail() -> Decision | None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    job = Job(0, hyper(epochs=2), 0, tmp_path)
    worker = TrialWorker(job, sine(), TrialRules(LOSS, 0, divergence=False), CPU, fail)
    with pytest.raises(torch.AcceleratorError):
        list(worker.epochs())
    assert worker.decision is None


def test_a_judge_ends_the_epoch_at_once() -> None:
    """A judge's decision is what the epoch gives, before the step and without later batches."""
    numbers = count(1)
    run, decision = start(sine()), Decision(Outcome.DIVERGED, "because")
    before = {}

    def judge(*_: object) -> Decision | None:
        if next(numbers) == 2:
            before.update({name: w.clone() for name, w in run.model.state_dict().items()})
            return decision
        return None

    assert run.advance(judge) is decision
    assert len(run.batch_losses) == 2
    assert len(run.curve) == len(run.epoch_ends) == 0
    assert same_tensors(run.model.state_dict(), before)


def test_an_empty_part_is_refused() -> None:
    """Figures of no example at all are an error, not a number."""
    part = sine().valid
    assert isinstance(part, ForecastPart)
    empty = replace(sine(), valid=replace(part, starts=part.starts[:0], targets=part.targets[:0]))
    with pytest.raises(ValueError, match="valid part is empty"):
        evaluate(Run(hyper(), empty, 0, LOSS, CPU).model, empty, "valid")
