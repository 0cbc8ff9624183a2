"""A run is decided by its seed, goes on where it stopped, and does what its parameters say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import (
    LOSS,
    figures,
    same_tensors,
    series,
    sine,
    start,
    text,
    train,
    unjudged,
)
from torch import nn

from search.checkpoints import load_checkpoint, save_checkpoint
from search.data.forecasting import ForecastPart
from search.data.splits import Batch, Splits
from search.dimensions import CELLS, DECAYS, OPTIMIZERS
from search.models import build
from search.training import (
    HALVING_EPOCHS,
    PLATEAU_EPOCHS,
    Run,
    decay_factor,
    evaluate,
)
from search.trial import Decision, Epoch, Goal

Task = Callable[[], Splits]
tasks = pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])


def one_batch(splits: Splits) -> int:
    """Returns the batch size at which an epoch is one batch."""
    return splits.train.size


def resumed(run: Run, folder: Path, **changes: object) -> Run:
    """Returns a new run, of another seed, that goes on from a checkpoint of this one."""
    save_checkpoint(folder, {"run": run.state_dict()})
    other = start(run.splits, seed=999, **changes)
    saved = load_checkpoint(folder)
    assert saved is not None
    other.load_state_dict(saved["run"])
    return other


@tasks
def test_a_seed_decides_every_bit(task: Task) -> None:
    """Two runs of one seed are equal to the last bit; another seed gives another run."""
    splits = task()
    runs = [start(splits, seed, dropout=0.3, hidden_layers=2) for seed in (1, 1, 2)]
    epochs = [figures(train(run, 3)) for run in runs]
    assert epochs[0] == epochs[1]
    assert runs[0].batch_losses == runs[1].batch_losses
    assert same_tensors(runs[0].model.state_dict(), runs[1].model.state_dict())
    assert runs[0].batch_losses[0] != runs[2].batch_losses[0]
    assert epochs[0] != epochs[2]


def test_a_seed_decides_weights_order_and_dropout() -> None:
    """Each of initial weights, order of batches and dropout changes with the seed."""
    one, other = start(sine(), 1), start(sine(), 2)
    assert not same_tensors(one.model.state_dict(), other.model.state_dict())
    for dropout in (0.0, 0.5):
        size = one_batch(sine()) if dropout else 16  # a single batch has no order that matters
        runs = [start(sine(), seed, batch_size=size, dropout=dropout) for seed in (1, 2)]
        runs[1].model.load_state_dict(runs[0].model.state_dict())
        assert abs(train(runs[0], 1)[0].train_loss - train(runs[1], 1)[0].train_loss) > 1e-5


class Unshuffled(ForecastPart):
    """Windows whose order no generator changes."""

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Yields minibatches in the stored order."""
        return super().batches(batch_size, None)


def test_dropout_and_order_change_from_epoch_to_epoch() -> None:
    """A run's random numbers go on: no epoch has the last one's order or dropout again."""
    part = sine().train
    assert isinstance(part, ForecastPart)
    still = Unshuffled(part.values, part.starts, part.targets, part.window)
    for splits, dropout, differ in (
        (sine(), 0.0, True),
        (replace(sine(), train=still), 0.5, True),
        (replace(sine(), train=still), 0.0, False),
    ):
        run = start(splits, learning_rate=1e-30, dropout=dropout)  # the weights stay as they are
        train(run, 2)
        first, second = run.batch_losses[: run.epoch_ends[0]], run.batch_losses[run.epoch_ends[0] :]
        assert (first != pytest.approx(second, rel=1e-4)) == differ


def test_a_run_neither_touches_nor_needs_outer_randomness() -> None:
    """A run leaves torch's generator as it found it, and is the same wherever that stands."""
    results = []
    for outer in (0, 12345):
        torch.manual_seed(outer)
        before = torch.get_rng_state()
        run = start(sine(), dropout=0.5)
        assert torch.equal(torch.get_rng_state(), before)
        results.append([])
        for _ in range(2):
            torch.rand(outer % 7)
            before = torch.get_rng_state()
            results[-1] += figures(train(run, 1))
            assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


def test_a_failed_epoch_leaves_outer_randomness_alone() -> None:
    """Torch's generator is put back even if an exception ends the epoch."""

    def broken(*_: object) -> Decision | None:
        raise KeyError("a fault of the program")

    run, before = start(sine(), dropout=0.5), torch.get_rng_state()
    with pytest.raises(KeyError):
        run.advance(broken)
    assert torch.equal(torch.get_rng_state(), before)


def test_runs_in_turn_are_runs_alone() -> None:
    """Two runs that take turns in one process train as each would alone."""
    alone = [figures(train(start(sine(), seed, dropout=0.3), 3)) for seed in (1, 2)]
    runs = [start(sine(), seed, dropout=0.3) for seed in (1, 2)]
    turns = [[figures(train(run, 1))[0] for run in runs] for _ in range(3)]
    assert [list(one) for one in zip(*turns, strict=True)] == alone


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", DECAYS)
def test_interrupted_after_every_epoch_is_uninterrupted(
    cell: str, optimizer: str, decay: str, tmp_path: Path
) -> None:
    """A run that is stopped after each epoch and goes on from its file is the one that never was.

    Seven epochs, so that every decay has changed the rate; dropout, clipping and weight decay on.
    """
    changes = {
        "cell": cell,
        "optimizer": optimizer,
        "decay": decay,
        "learning_rate": 0.1,
        "hidden_layers": 2,
        "dropout": 0.3,
        "weight_decay": 1e-3,
        "gradient_clipping": 1.0,
    }
    splits = sine(60)
    whole = start(splits, seed=5, **changes)
    expected = figures(train(whole, 7))
    run = start(splits, seed=5, **changes)
    got = []
    for _ in range(7):
        run = resumed(run, tmp_path, **changes)
        got += figures(train(run, 1))
    assert got == expected
    assert figures(list(run.curve.epochs)) == expected
    assert (run.batch_losses, run.epoch_ends) == (whole.batch_losses, whole.epoch_ends)
    assert same_tensors(run.model.state_dict(), whole.model.state_dict())
    assert same_tensors(run.best_weights, whole.best_weights)


@tasks
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_interrupted_once_is_uninterrupted(task: Task, stop: int, tmp_path: Path) -> None:
    """On each task a run that is stopped once, at any epoch, goes on to the same bits."""
    splits = task()
    whole, run = start(splits, dropout=0.3), start(splits, dropout=0.3)
    expected = figures(train(whole, 4))
    train(run, stop)
    run = resumed(run, tmp_path, dropout=0.3)
    train(run, 4 - stop)
    assert figures(list(run.curve.epochs)) == expected
    assert same_tensors(run.model.state_dict(), whole.model.state_dict())


def test_trials_that_differ_in_epochs_share_their_curves() -> None:
    """How many epochs are planned changes none of them, whatever the decay."""
    for decay in DECAYS:
        runs = [start(sine(60), epochs=epochs, decay=decay) for epochs in (2, 9)]
        short, long = (figures(train(run, 7)) for run in runs)
        assert short == long


@given(st.integers(0, 40))
def test_the_step_decay_halves_every_five_epochs(done: int) -> None:
    """The step decay is 1 for five epochs, then a half for five, and so on."""
    expected = [1.0] * 5 + [0.5] * 5 + [0.25] * 5 + [0.125] * 5
    if done < 20:
        assert decay_factor("step", [1.0] * done, LOSS) == expected[done]
    assert decay_factor("step", [1.0] * (done + 5), LOSS) == 0.5 * decay_factor(
        "step", [1.0] * done, LOSS
    )
    assert HALVING_EPOCHS == 5


@given(st.integers(0, 40))
def test_the_exponential_decay_loses_the_same_share_every_epoch(done: int) -> None:
    """The exponential decay meets the step decay's halves and falls evenly in between."""
    now, then = (decay_factor("exponential", [1.0] * n, LOSS) for n in (done, done + 1))
    assert then / now == pytest.approx(0.5**0.2)
    if done % 5 == 0:
        assert now == decay_factor("step", [1.0] * done, LOSS)


@given(st.lists(st.floats(0, 10), max_size=30))
def test_no_decay_and_no_epoch_leave_the_rate(values: list[float]) -> None:
    """Without decay the factor is always 1, and with any it is 1 in the first epoch."""
    assert decay_factor("none", values, LOSS) == 1
    assert [decay_factor(decay, [], LOSS) for decay in DECAYS] == [1] * 4


@pytest.mark.parametrize(
    ("values", "factor"),
    [
        ([5, 4, 3, 2, 1], 1),
        ([1, 2, 2], 1),
        ([1, 2, 2, 2], 0.5),
        ([1, 1, 1, 1], 0.5),
        ([1, 2, 2, 0.5, 2, 2], 1),
        ([1, 2, 2, 2, 2, 2], 0.5),
        ([1, 2, 2, 2, 2, 2, 2], 0.25),
        ([1, 2, 2, 2, 0.5, 2, 2], 0.5),
        ([1, 2, 2, 2, 0.5, 2, 2, 2], 0.25),
    ],
)
def test_the_plateau_decay_halves_after_three_epochs_without_better(
    values: list[float], factor: float
) -> None:
    """The plateau decay halves after each three epochs in a row without a better value."""
    assert PLATEAU_EPOCHS == 3
    assert decay_factor("plateau", values, LOSS) == factor
    mirrored = [-value for value in values]
    assert decay_factor("plateau", mirrored, Goal("loss", minimize=False)) == factor


def test_the_rate_of_an_epoch_is_the_decayed_one() -> None:
    """Every epoch is trained with the rate that its epoch of the curve tells."""
    for decay in DECAYS:
        run = start(sine(60), decay=decay, learning_rate=0.02)
        epochs = train(run, 11)
        values = [epoch.valid_loss for epoch in epochs]
        wanted = [0.02 * decay_factor(decay, values[:done], LOSS) for done in range(11)]
        assert [epoch.learning_rate for epoch in epochs] == wanted
        assert run.optimizer.rate == wanted[-1]


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_best_weights_reproduce_the_best_epoch(metric: str, tmp_path: Path) -> None:
    """A new network with the best weights has exactly the figures of the best epoch."""
    goal = Goal(metric, minimize=metric == "loss")
    run = start(series(), goal=goal, learning_rate=0.3)
    train(run, 8)
    best = run.curve.best(goal)
    assert best is not None
    assert best.index < 8
    model = build(run.params, series())
    model.load_state_dict(run.best_weights)
    assert evaluate(model, series(), "valid") == best.figures
    assert evaluate(run.model, series(), "valid") != best.figures


def test_evaluation_leaves_no_trace() -> None:
    """Evaluating trains nothing, has no dropout, and does not change how training goes on."""
    run, other = start(sine(), dropout=0.5), start(sine(), dropout=0.5)
    train(run, 1)
    train(other, 1)
    assert evaluate(run.model, sine(), "valid") == run.curve.epochs[-1].figures
    assert evaluate(run.model, sine(), "train") == evaluate(run.model, sine(), "train")
    assert figures(train(run, 1)) == figures(train(other, 1))


@tasks
def test_an_epoch_trains_every_batch_once(task: Task) -> None:
    """The loss of every batch is kept, an epoch's loss is their mean, and ends are counted."""
    splits = task()
    run = start(splits)
    judged: list[tuple[float, float, int]] = []
    for index in (1, 2):
        epoch = run.advance(lambda *batch: judged.append(batch))
        assert isinstance(epoch, Epoch)
        losses = run.batch_losses[-run.epoch_ends[0] :]
        assert epoch.train_loss == pytest.approx(sum(losses) / len(losses))
        assert epoch.index == index
    batches = len(list(splits.train.batches(16, torch.Generator())))
    assert run.epoch_ends == [batches, 2 * batches]
    assert [loss for loss, _, _ in judged] == run.batch_losses
    assert [epoch for _, _, epoch in judged] == [1] * batches + [2] * batches


@pytest.mark.parametrize("share", [1e-3, 0.5, 2.0])
def test_clipping_holds_the_norm(share: float) -> None:
    """A step of SGD is as long as the rate times the gradient's norm, or the limit if less."""
    norms: list[float] = []
    start(sine(), batch_size=one_batch(sine())).advance(lambda _l, norm, _e: norms.append(norm))
    limit = share * norms[0]
    run = start(
        sine(),
        batch_size=one_batch(sine()),
        optimizer="sgd",
        learning_rate=0.1,
        gradient_clipping=limit,
    )
    before = nn.utils.parameters_to_vector(run.model.parameters()).detach().clone()
    run.advance(lambda _l, norm, _e: norms.append(norm))
    after = nn.utils.parameters_to_vector(run.model.parameters()).detach()
    assert norms[1] == norms[0]  # judged before clipping
    assert (after - before).norm().item() == pytest.approx(0.1 * min(limit, norms[0]), rel=1e-3)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_decreases_the_loss(cell: str, optimizer: str) -> None:
    """With every cell and optimizer the training loss falls to less than half."""
    rate = 0.05 if optimizer in ("sgd", "adagrad") else 0.01
    run = start(sine(), cell=cell, optimizer=optimizer, learning_rate=rate, hidden_units=8)
    epochs = train(run, 20)
    assert epochs[-1].train_loss < 0.5 * run.batch_losses[0]
    assert epochs[-1].valid_loss < epochs[0].valid_loss


def test_a_text_carries_its_state_in_training() -> None:
    """Training on a text starts from zero once an epoch, and each chunk from the last one's end."""
    run, splits = start(text(), batch_size=2, learning_rate=1e-9), text()
    run.advance(unjudged)
    model, state, losses = run.model, None, []
    with torch.no_grad():  # the rate is next to nothing, so the weights are those of the start
        for batch in splits.train.batches(2, torch.Generator().manual_seed(1)):
            outputs, state = model.train()(batch.inputs, None, state)
            losses.append(splits.loss(outputs, batch.targets).item())
    assert run.batch_losses == pytest.approx(losses, rel=1e-5)
    with torch.no_grad():
        cold = [
            splits.loss(model(batch.inputs)[0], batch.targets).item()
            for batch in splits.train.batches(2, torch.Generator().manual_seed(1))
        ]
    assert run.batch_losses != pytest.approx(cold, rel=1e-5)
