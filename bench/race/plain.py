"""Contestant: Optuna as its documentation writes it, one process, `DataLoader`, default pruner.

The loop and the study follow Optuna's own PyTorch example: a `DataLoader` over a `TensorDataset`,
the validation loss reported after every epoch, that of the last epoch returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import optuna
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bench.race.exported import Examples, Exported, read
from bench.race.lines import Lines, Race, enter
from bench.race.network import (
    Batch,
    Network,
    loss_of,
    make_scheduler,
    step_scheduler,
    suggest,
    validation_loss,
)

OPTIMIZERS = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}
VALID_BATCH = 256


def epochs(params: Mapping[str, Any], data: Exported) -> Iterator[float]:
    """Trains a network and yields the validation loss of every epoch."""
    facts = data.facts
    train_loader = DataLoader(_dataset(data.train), params["batch_size"], shuffle=True)
    valid_loader = DataLoader(_dataset(data.valid), facts.streams or VALID_BATCH)
    model = Network(params, facts)
    momentum = {"momentum": 0.9} if params["optimizer"] == "sgd" else {}
    optimizer = OPTIMIZERS[params["optimizer"]](
        model.parameters(),
        lr=params["learning_rate"],
        weight_decay=params["weight_decay"],
        **momentum,
    )
    scheduler = make_scheduler(params["decay"], optimizer)
    for _ in range(params["epochs"]):
        model.train()
        for inputs, targets, lengths in _batches(train_loader):
            optimizer.zero_grad()
            outputs, _ = model(inputs, lengths)
            loss_of(outputs, targets, facts.task).backward()  # type: ignore[no-untyped-call]
            if params["gradient_clipping"] > 0:
                torch.nn.utils.clip_grad_norm_(model.parameters(), params["gradient_clipping"])
            optimizer.step()
        loss = validation_loss(model, _batches(valid_loader), facts)
        step_scheduler(scheduler, loss)
        yield loss


def make_objective(data: Exported) -> Any:
    """Returns the objective."""

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial, data.facts.batch_sizes)
        loss = float("nan")
        for epoch, loss in enumerate(epochs(params, data)):
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss

    return objective


def search(race: Race) -> None:
    """Searches until the race is over."""
    torch.manual_seed(race.seed)
    lines = Lines(race)

    def write(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        lines.write(trial.value if trial.state.name == "COMPLETE" else None, trial.params)

    study = optuna.create_study(
        study_name="race",
        storage=f"sqlite:///{race.folder / 'race.db'}",
        sampler=optuna.samplers.TPESampler(seed=race.seed),
        pruner=optuna.pruners.MedianPruner(),
        direction="minimize",
    )
    study.optimize(make_objective(read(race.data)), timeout=race.left(), callbacks=[write])


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the last epoch's loss, which is what the objective returns."""
    torch.manual_seed(seed)
    return list(epochs(params, read(race.data)))[-1]


def _dataset(examples: Examples) -> Dataset[Any]:
    tensors = [examples.inputs, examples.targets]
    return TensorDataset(*tensors, *([] if examples.lengths is None else [examples.lengths]))


def _batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    for inputs, targets, *lengths in loader:
        yield inputs, targets, lengths[0] if lengths else None


if __name__ == "__main__":
    enter(search, retrain)
