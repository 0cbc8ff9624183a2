"""Run: one trial in training; each `advance` is one epoch, and the state can be saved between.

A run's result depends on its hyperparameters, seed and data alone: it keeps its own random state,
so that neither what trained before it in the same process nor an interruption changes a bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from search.data.splits import Batch, Part, Splits
from search.errors import NetworkError
from search.factories import Factory
from search.gradients import gradients_of
from search.layer_choices import OURS, may_choose
from search.layer_memory import give_up_workspaces
from search.models import Network, SequenceModel, build, widened
from search.optimizers import Optimizer
from search.space import HyperParams
from search.trial import Curve, Decision, Epoch, Goal, Outcome

HALVING_EPOCHS = 5
"""The step decay halves the rate every 5 epochs (the lesson's example); the exponential decay
loses a half in as many epochs, smoothly, so that the two differ in shape and not in speed."""
PLATEAU_EPOCHS = 3
"""Epochs without a better validation value after which the plateau decay halves the rate."""
ONE_VALUE = "Expected more than 1 value per channel"
"""What torch's batch normalisation says of a minibatch of one row, if that has one step."""
EVALUATION_BATCH = 256
"""Examples per batch where no gradient is needed; no result depends on it."""
ROWS = 32
"""Batches without gradients are filled up to a multiple of this: matrix products of few rows take
other kernels (measured with MKL: of fewer than 16), whose sums differ in the last bit."""
EVALUATION_STREAMS = 16
"""Parallel streams that a text is cut into for validation."""

FAULTS = (MemoryError, RuntimeError, ValueError, ArithmeticError)
"""What training itself can raise; such an exception ends the trial, and not the trainer."""

LACKS_MEMORY = (
    "DefaultCPUAllocator",
    "not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""Words of errors for want of memory outside of torch's own allocators: of the CPU's, of a CUDA
graph that is recorded, of the libraries that multiply matrices and run recurrent layers."""

BatchJudge = Callable[[float, float, int], Decision | None]
"""Judges a batch by its loss, the norm of its gradient and its epoch, from 1; returns why to stop,
or None."""


class Run:
    """A trial in training.

    Args:
        params: The trial's hyperparameters.
        splits: The data, already on ``device``.
        seed: Decides initial weights, order of batches and dropout.
        goal: The figure by which the best epoch is chosen.
        device: Where to train.
        factory: Builds the network, if it is the user's own.
        layers: Whose layers train it, as `layers` says; None: those that are quicker here.

    Attributes:
        curve: The epochs so far.
        batch_losses: The training loss of every batch so far.
        epoch_ends: For each epoch of the curve, how many batches had been trained by its end.
        best_weights: The network's state at the best epoch so far, on the CPU.
        model: The network.
        optimizer: What trains it.
        order: Draws the order of batches.
        random: State of the generator of initial weights and dropout, by kind of device.
    """

    def __init__(
        self,
        params: HyperParams,
        splits: Splits,
        seed: int,
        goal: Goal,
        device: torch.device,
        factory: Factory | None = None,
        layers: str | None = None,
    ) -> None:
        self.params = params
        self.splits = splits
        self.goal = goal
        self.device = device
        self.curve = Curve()
        self.batch_losses: list[float] = []
        self.epoch_ends: list[int] = []
        self.best_weights: dict[str, Tensor] = {}
        self.order = torch.Generator().manual_seed(seed)
        self.random = _seeded_state(seed, device)
        with self._own_random():
            self.model = build(params, splits, factory).to(device)
        self._gradients = gradients_of(self.model, splits)
        self._gradients.layers = layers
        self.optimizer = Optimizer(
            params.optimizer,
            self.model.parameters(),
            params.learning_rate,
            params.weight_decay,
            together=self._gradients.complete,
        )

    @property
    def layers(self) -> str | None:
        """Whose layers train it, ``ours`` or ``torch's``; None: there was nothing to choose yet."""
        return self._gradients.layers

    def advance(self, judge: BatchJudge) -> Epoch | Decision:
        """Trains one epoch and validates.

        Args:
            judge: Called after every batch's backward pass, before its step.

        Returns:
            The epoch, which the curve has then gained; or the reason to stop, if the judge gave
            one, memory ran out, or the validation loss is not finite.
        """
        started = time.perf_counter()
        rate = self.set_learning_rate()
        try:
            with self._own_random():
                losses = self._train_epoch(judge)
                if isinstance(losses, Decision):
                    return losses
                return self.validate(losses, rate, started)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            give_up_workspaces()
            return out_of_memory(error)

    def validate(self, losses: list[float], rate: float, started: float) -> Epoch | Decision:
        """Validates what an epoch's batches have made of the network.

        Args:
            losses: The training loss of each of the batches, which `batch_losses` has too.
            rate: The learning rate.
            started: When the epoch began, as `time.perf_counter` tells it.

        Returns:
            The epoch, which the curve has then gained; or the end of the trial if the validation
            loss is not finite.
        """
        figures = evaluate(self.model, self.splits, "valid")
        if not all(math.isfinite(value) for value in figures.values()):
            return Decision(Outcome.DIVERGED, "the validation loss is not finite")
        train_loss = sum(losses) / len(losses)
        seconds = time.perf_counter() - started
        epoch = Epoch(len(self.curve) + 1, train_loss, figures, rate, seconds)
        self.curve = self.curve.then(epoch)
        self.epoch_ends.append(len(self.batch_losses))
        if self.curve.best(self.goal) is epoch:
            self.best_weights = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in self.model.state_dict().items()
            }
        return epoch

    def state_dict(self) -> dict[str, Any]:
        """Returns everything that decides how the run goes on: tensors, numbers and strings."""
        return {
            "model": self.model.state_dict(),
            "best_weights": self.best_weights,
            "optimizer": self.optimizer.state_dict(),
            "order": self.order.get_state(),
            "random": self.random,
            "batch_losses": torch.tensor(self.batch_losses, dtype=torch.float64),
            "epoch_ends": self.epoch_ends,
            "layers": self.layers,
            "curve": [asdict(epoch) for epoch in self.curve.epochs],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from where `state_dict` was taken, to the last bit on a CPU."""
        self.model.load_state_dict(state["model"])
        self.best_weights = state["best_weights"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.order.set_state(state["order"])
        # Once there was nothing to choose.
        params, cpu = self.params, self.device.type == "cpu"
        ours = OURS if cpu and may_choose(params.cell, params.hidden_units) else None
        self._gradients.layers = state.get("layers", ours)
        # Where it has not been trained yet it begins with its seed's.
        self.random = {**self.random, **state["random"]}
        self.batch_losses = state["batch_losses"].tolist()
        self.epoch_ends = state["epoch_ends"]
        self.curve = Curve(tuple(Epoch(**epoch) for epoch in state["curve"]))

    def _train_epoch(self, judge: BatchJudge) -> list[float] | Decision:
        gradients, clip = self._gradients, self.params.gradient_clipping
        losses: list[float] = []
        state: Any = None
        self.model.train()
        for batch in self.splits.train.batches(self.params.batch_size, self.order):
            try:
                loss, state = gradients.find(batch, state if batch.carries else None)
            except NetworkError as error:
                # Batch normalisation has nothing to norm: the last row of an epoch is left out.
                if len(batch.targets) == 1 and losses and ONE_VALUE in str(error):
                    continue
                raise
            losses.append(loss)
            self.batch_losses.append(loss)
            decision = judge(loss, gradients.norm(), len(self.curve) + 1)
            if decision is not None:
                return decision
            if clip > 0:
                gradients.clip(clip)
            self.optimizer.step()
        return losses

    def set_learning_rate(self) -> float:
        """Sets the coming epoch's learning rate, and returns it."""
        values = self.curve.values(self.goal)
        rate = self.params.learning_rate * decay_factor(self.params.decay, values, self.goal)
        self.optimizer.rate = rate
        return rate

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        """Puts this run's random state in torch's generators, and the outer state back after."""
        cuda = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.set_rng_state(self.random["cpu"])
            if cuda:
                torch.cuda.set_rng_state(self.random["cuda"], self.device)
            yield
            self.random = {**self.random, "cpu": torch.get_rng_state()}
            if cuda:
                self.random["cuda"] = torch.cuda.get_rng_state(self.device)


@torch.no_grad()
def evaluate(model: Network, splits: Splits, part: str) -> dict[str, float]:
    """Returns the figures of ``model`` on a part of the data, dropout off.

    Args:
        model: On the same device as ``splits``.
        splits: The data.
        part: ``"train"``, ``"valid"`` or ``"test"``.
    """
    total: Tensor | None = None
    for outputs, targets in outputs_of(model, getattr(splits, part)):
        tally = splits.tally(outputs, targets)
        total = tally if total is None else total + tally
    if total is None:
        raise ValueError(f"the {part} part is empty")
    return splits.figures(total)


@torch.no_grad()
def outputs_of(model: Network, part: Part) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields what ``model`` answers to a part of the data, in its order, dropout off.

    Where it answers at the last step only, on a CPU, the answer to an example is the same to the
    last bit whatever other examples there are, so that an exported model repeats what its study
    saw; of a network of the user's own this is not known.

    Yields:
        Outputs and targets of each batch; shapes as in `Splits.loss`.
    """
    state: Any = None
    # On a GPU bits are not promised.
    if isinstance(model, SequenceModel) and model.head.weight.device.type == "cpu":
        model = widened(model)
    model = model.eval()
    for batch in part.batches(EVALUATION_STREAMS if model.per_step else EVALUATION_BATCH, None):
        if model.per_step:
            outputs, state = model(batch.inputs, None, state if batch.carries else None)
        else:
            outputs = _answers(model, batch)
        yield outputs, batch.targets


def _answers(model: Network, batch: Batch) -> Tensor:
    """Returns (B, O) outputs, computed in a batch that is filled up to a multiple of `ROWS`."""
    size = len(batch.inputs)
    filled = torch.arange(-(-size // ROWS) * ROWS, device=batch.inputs.device).clamp(max=size - 1)
    lengths = None if batch.lengths is None else batch.lengths[filled]
    outputs: Tensor = model(batch.inputs[filled], lengths)[0]
    return outputs[:size]


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread, as trainers do, whose sums are then the same to the last bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def decay_factor(decay: str, values: list[float], goal: Goal) -> float:
    """Returns what the initial learning rate is multiplied by in the coming epoch.

    A function of the epochs so far and not of how many are planned, so that trials which differ
    only in ``epochs`` share their curves.

    Args:
        decay: ``none``, ``step``, ``exponential`` or ``plateau``.
        values: The validation value of every epoch so far.
        goal: Which values are better.
    """
    done = len(values)
    if decay == "step":
        return float(0.5 ** (done // HALVING_EPOCHS))
    if decay == "exponential":
        return float(0.5 ** (done / HALVING_EPOCHS))
    if decay == "plateau":
        best, waited, factor = goal.worst, 0, 1.0
        for value in values:
            best, waited = (value, 0) if goal.better(value, best) else (best, waited + 1)
            if waited == PLATEAU_EPOCHS:
                factor, waited = factor / 2, 0
        return factor
    return 1.0


def _seeded_state(seed: int, device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.Generator().manual_seed(seed).get_state()}
    if device.type == "cuda":
        state["cuda"] = torch.Generator(device).manual_seed(seed).get_state()
    return state


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch's OutOfMemoryError and whatever else says so in its words."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return any(words in text for words in LACKS_MEMORY)


def is_lost_device(error: BaseException) -> bool:
    """True if the GPU is of no use to this process any more, whatever it is asked for."""
    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def failure(error: BaseException) -> Decision:
    """Returns the end of a trial that met one of `FAULTS`."""
    if is_out_of_memory(error):
        return out_of_memory(error)
    return Decision(Outcome.FAILED, " ".join(f"{type(error).__name__}: {error}".split()))


def out_of_memory(error: BaseException) -> Decision:
    """Returns the end of a trial that met `is_out_of_memory`; Python's own error says nothing."""
    said = str(error).strip().splitlines()
    return Decision(Outcome.OUT_OF_MEMORY, ": ".join(["out of memory", *said[:1]]))
