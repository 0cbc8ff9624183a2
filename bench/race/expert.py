"""Contestant: Optuna by somebody who knows where the time goes.

Two processes of one thread, forked after the imports; tensors indexed on the whole; series cut to
the longest of the batch; a text's state carried from batch to batch; fused optimizers; the best
epoch's value; a study in a SQLite file with WAL; constant liar, as both ask at once; a pruner that
needs five peers; the usual starting points first.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
import torch
from optuna.storages import RDBStorage

from bench.race.exported import Examples, Exported, read
from bench.race.lines import Lines, Race, enter
from bench.race.network import (
    STARTS,
    Batch,
    Network,
    in_order,
    loss_of,
    make_scheduler,
    step_scheduler,
    suggest,
    validation_loss,
)

WORKERS = 2
VALID_BATCH = 512


def epochs(params: Mapping[str, Any], data: Exported) -> Iterator[float]:
    """Trains a network and yields the validation loss of every epoch, while it is finite."""
    facts = data.facts
    model = Network(params, facts)
    optimizer = _optimizer(params, model)
    scheduler = make_scheduler(params["decay"], optimizer)
    weights, clip = list(model.parameters()), params["gradient_clipping"]
    valid = in_order(data.valid, facts.streams or VALID_BATCH)
    for _ in range(params["epochs"]):
        model.train()
        state: Any = None
        for inputs, targets, lengths in _shuffled(data.train, params["batch_size"], facts.streams):
            outputs, state = model(inputs, lengths, state)
            state = _detached(state) if facts.streams else None
            optimizer.zero_grad(set_to_none=True)
            loss_of(outputs, targets, facts.task).backward()  # type: ignore[no-untyped-call]
            if clip > 0:
                torch.nn.utils.clip_grad_norm_(weights, clip, foreach=True)
            optimizer.step()
        loss = validation_loss(model, valid, facts)
        if not math.isfinite(loss):
            return
        step_scheduler(scheduler, loss)
        yield loss


def search(race: Race) -> None:
    """Searches in two processes until the race is over."""
    data, storage = read(race.data), race.folder / "race.db"
    opened = _storage(storage)
    study = optuna.create_study(storage=opened, study_name="race")
    for point in STARTS:
        known = data.facts.batch_sizes
        size = min(known, key=lambda one: abs(one - point["batch_size"]))
        study.enqueue_trial({**point, "batch_size": size})
    # A connection must not be shared by processes.
    opened.engine.dispose()
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=_work, args=(race, data, storage, number)) for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the best epoch's loss."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return min(epochs(params, read(race.data)), default=math.inf)


def _work(race: Race, data: Exported, storage: Path, number: int) -> None:
    torch.set_num_threads(1)
    seed = WORKERS * race.seed + number
    torch.manual_seed(seed)
    lines = Lines(race)

    def objective(trial: optuna.Trial) -> float:
        params = suggest(trial, data.facts.batch_sizes)
        best = math.inf
        for epoch, loss in enumerate(epochs(params, data), start=1):
            best = min(best, loss)
            trial.report(loss, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        if not math.isfinite(best):
            raise optuna.TrialPruned
        return best

    def write(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        lines.write(trial.value if trial.state.name == "COMPLETE" else None, trial.params)

    study = optuna.load_study(
        study_name="race",
        storage=_storage(storage),
        sampler=optuna.samplers.TPESampler(seed=seed, constant_liar=True),
        # Five trials have to be complete; at an epoch fewer may have come so far, as is Optuna's
        # own default.
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5),
    )
    study.optimize(objective, timeout=race.left(), callbacks=[write])


def _storage(path: Path) -> RDBStorage:
    storage = RDBStorage(f"sqlite:///{path}", {"connect_args": {"timeout": 60}})

    @sa.event.listens_for(storage.engine, "connect")
    def _(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")

    return storage


def _optimizer(params: Mapping[str, Any], model: Network) -> torch.optim.Optimizer:
    rate, decay = params["learning_rate"], params["weight_decay"]
    weights = model.parameters()
    if params["optimizer"] == "adam":
        return torch.optim.Adam(weights, rate, weight_decay=decay, fused=True)
    if params["optimizer"] == "sgd":
        return torch.optim.SGD(weights, rate, 0.9, weight_decay=decay, fused=True)
    if params["optimizer"] == "rmsprop":
        return torch.optim.RMSprop(weights, rate, weight_decay=decay, foreach=True)
    return torch.optim.Adagrad(weights, rate, weight_decay=decay, fused=True)


def _shuffled(part: Examples, size: int, streams: int) -> Iterator[Batch]:
    """Yields an epoch's batches; of a text those of parallel streams, which begin anywhere."""
    count = len(part.targets)
    if streams:
        size = min(size, count)
        each = count // size
        offset = int(torch.randint(count, ()))
        order = torch.arange(size)[None] * each + torch.arange(each)[:, None] + offset
        batches = list(order % count)
    else:
        batches = list(torch.split(torch.randperm(count), size))
    for rows in batches:
        lengths = None if part.lengths is None else part.lengths[rows]
        steps = part.inputs.shape[1] if lengths is None else int(lengths.max())
        yield part.inputs[:, :steps][rows], part.targets[rows], lengths


def _detached(state: Any) -> Any:
    if isinstance(state, tuple):
        return tuple(one.detach() for one in state)
    return state.detach()


if __name__ == "__main__":
    enter(search, retrain)
