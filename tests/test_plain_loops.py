"""A run is a loop of torch's own layers, optimizer, schedule and clipping, written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from networks import sine, start, train
from test_lanes import double_precision, doubled
from torch import nn

from search.data.forecasting import ForecastPart
from search.dimensions import CELLS, DECAYS, OPTIMIZERS
from search.optimizers import MOMENTUM
from search.training import evaluate

__all__ = ["double_precision"]


def plain_optimizer(name: str, weights: list[nn.Parameter]) -> torch.optim.Optimizer:
    """Returns torch's optimizer as its manual writes it, without fused kernels."""
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "adam": lambda: torch.optim.Adam(weights, lr=0.02, foreach=False, weight_decay=1e-3),
        "sgd": lambda: torch.optim.SGD(
            weights, lr=0.02, momentum=0.9, foreach=False, weight_decay=1e-3
        ),
        "rmsprop": lambda: torch.optim.RMSprop(weights, lr=0.02, foreach=False, weight_decay=1e-3),
        "adagrad": lambda: torch.optim.Adagrad(weights, lr=0.02, foreach=False, weight_decay=1e-3),
    }
    return made[name]()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_is_a_plain_torch_loop(cell: str, optimizer: str) -> None:
    """Batch by batch, losses are those of a loop of torch.nn as one would write it by hand."""
    changes = {"hidden_layers": 2, "weight_decay": 1e-3, "learning_rate": 0.02}
    run = start(sine(), seed=3, cell=cell, optimizer=optimizer, **changes)
    part = sine().train
    assert isinstance(part, ForecastPart)
    recurrent = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[cell](1, 6, 2, batch_first=True)
    head = nn.Linear(6, 1)
    recurrent.load_state_dict(run.model.recurrent.state_dict())
    head.load_state_dict(run.model.head.state_dict())
    stepper = plain_optimizer(optimizer, [*recurrent.parameters(), *head.parameters()])
    windows = torch.stack([part.values[at : at + 8] for at in part.starts.tolist()])
    order = torch.Generator().manual_seed(3)
    losses = []
    for _ in range(3):
        for chosen in torch.randperm(len(windows), generator=order).split(16):
            hidden, _ = recurrent(windows[chosen])
            loss = (head(hidden[:, -1]) - part.targets[chosen]).square().mean()
            stepper.zero_grad()
            loss.backward()
            stepper.step()
            losses.append(loss.item())
    train(run, 3)
    assert run.batch_losses == pytest.approx(losses, rel=1e-3)
    assert MOMENTUM == 0.9


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.usefixtures("double_precision")
def test_decay_and_clipping_are_torchs(optimizer: str, decay: str) -> None:
    """A whole run is that of torch's own layers, optimizer, schedule and clipping, to 1e-9."""
    splits = doubled(sine())
    changes = {"weight_decay": 1e-3, "learning_rate": 0.02, "gradient_clipping": 1.0}
    run = start(splits, seed=3, cell="gru", optimizer=optimizer, decay=decay, **changes)
    model = copy.deepcopy(run.model)
    stepper = plain_optimizer(optimizer, [*model.parameters()])
    halving = 0.5 ** (1 / 5)
    schedule = {
        "none": lambda: torch.optim.lr_scheduler.ConstantLR(stepper, 1.0),
        "step": lambda: torch.optim.lr_scheduler.StepLR(stepper, 5, 0.5),
        "exponential": lambda: torch.optim.lr_scheduler.ExponentialLR(stepper, halving),
        "plateau": lambda: torch.optim.lr_scheduler.ReduceLROnPlateau(
            stepper, factor=0.5, patience=2, threshold=0.0
        ),
    }[decay]()
    order = torch.Generator().manual_seed(3)
    losses, norms, rates = [], [], []
    for _ in range(12):
        rates.append(stepper.param_groups[0]["lr"])
        for batch in splits.train.batches(16, order):
            hidden, _ = model.recurrent(batch.inputs)
            loss = nn.functional.mse_loss(model.head(hidden[:, -1]), batch.targets)
            stepper.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
            stepper.step()
            losses.append(loss.item())
        value = evaluate(model, splits, "valid")["loss"]
        schedule.step(*([value] if decay == "plateau" else []))
    epochs = train(run, 12)
    torch.testing.assert_close(run.batch_losses, losses, rtol=1e-9, atol=1e-9)
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates, rel=1e-12)
    assert max(norms) > 1.0 > min(norms)
