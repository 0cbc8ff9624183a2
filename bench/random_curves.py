"""Trains random configurations of the default space to the end, with no rule that stops them.

    python -m bench.random_curves japanese-vowels 200 curves/vowels.jsonl

The curves are what `bench/rules.py` tries stopping rules on. Of each configuration it writes one
JSON line: hyperparameters, loss of every batch, figures of every epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import torch

from search.config import StudyConfig, make_config
from search.data import load_splits
from search.data.splits import Splits
from search.space import HyperParams, fit_to_data, suggest
from search.stopping import batch_judge
from search.training import BatchJudge, Run
from search.trial import Decision, Goal, derive_seed

TASKS = {"japanese-vowels": "classify", "sunspots": "forecast", "shakespeare": "language"}


def load_example(
    example: str, characters: int | None = None, **changes: Any
) -> tuple[StudyConfig, Splits]:
    """Returns a study of an example over the default space, fitted to its data, and the data.

    Args:
        example: A key of `TASKS`.
        characters: Language: only so many from the start; None: all.
        changes: Tables of the study file besides ``[data]``.
    """
    data: dict[str, object] = {"source": f"example:{example}", "task": TASKS[example]}
    if characters:
        data["characters"] = characters
    config = make_config({"name": example, "data": data, **changes}, example)
    splits = load_splits(config.data)
    return fit_to_data(config, splits.train.size)[0], splits


def random_params(config: StudyConfig, seed: int) -> HyperParams:
    """Returns a random configuration of the study's space."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.RandomSampler(seed)
    return suggest(optuna.create_study(sampler=sampler).ask(), config.space)


def train(
    params: HyperParams,
    splits: Splits,
    seed: int,
    judge: BatchJudge | None = None,
    enough: Callable[[list[float]], Decision | None] = lambda _: None,
) -> dict[str, Any]:
    """Trains one network and returns its curve as plain data.

    Args:
        params: What to train.
        splits: The data.
        seed: Decides everything else.
        judge: Judges every batch; None: only what is not finite ends the training.
        enough: Judges the validation losses of every epoch so far.
    """
    started = time.process_time()
    run = Run(params, splits, seed, Goal(), torch.device("cpu"))
    decision = None
    judge = judge or batch_judge(None, splits.constant_loss)
    while len(run.curve) < params.epochs and decision is None:
        result = run.advance(judge)
        decision = result if isinstance(result, Decision) else enough(run.curve.values(Goal()))
    return {
        "params": params.to_dict(),
        "constant": splits.constant_loss,
        "batch_losses": [float(f"{loss:.5g}") for loss in run.batch_losses],
        "epoch_ends": run.epoch_ends,
        "train": [epoch.train_loss for epoch in run.curve.epochs],
        "figures": [epoch.figures for epoch in run.curve.epochs],
        "seconds": round(time.process_time() - started, 3),
        "ended": decision and decision.reason,
        "outcome": decision and str(decision.outcome),
    }


def main() -> None:
    """Reads the command line and trains what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=TASKS)
    parser.add_argument("count", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--characters", type=int, help="language: only so many from the start")
    args = parser.parse_args()
    torch.set_num_threads(1)
    config, splits = load_example(args.example, args.characters)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = len(args.out.read_text().splitlines()) if args.out.exists() else 0
    with args.out.open("a") as file:
        for number in range(done, args.count):
            params = random_params(config, derive_seed(1, "proposal", number))
            curve = train(params, splits, derive_seed(1, "training", number))
            file.write(json.dumps({"number": number, **curve}) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
