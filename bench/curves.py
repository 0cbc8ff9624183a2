"""Trains random configurations of the default space to the end, with no rule that stops them.

    python bench/curves.py japanese-vowels 200 curves/vowels.jsonl

The curves are what `bench/rules.py` tries stopping rules on. Of each configuration it writes one
JSON line: hyperparameters, loss of every batch, figures of every epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import optuna
import torch

from search.config import make_config
from search.data import load_splits
from search.space import fit_to_data, suggest
from search.stopping import batch_judge
from search.training import Run
from search.trial import Decision, Goal, derive_seed

TASKS = {"japanese-vowels": "classify", "sunspots": "forecast", "shakespeare": "language"}


def main() -> None:
    """Reads the command line and trains what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("example", choices=TASKS)
    parser.add_argument("count", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--characters", type=int, help="language: only so many from the start")
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = {"source": f"example:{args.example}", "task": TASKS[args.example]}
    if args.characters:
        data["characters"] = args.characters
    config = make_config({"name": args.example, "data": data}, args.example)
    splits = load_splits(config.data)
    config, _ = fit_to_data(config, splits.train.size)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = len(args.out.read_text().splitlines()) if args.out.exists() else 0
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with args.out.open("a") as file:
        for number in range(done, args.count):
            sampler = optuna.samplers.RandomSampler(derive_seed(1, "proposal", number))
            params = suggest(optuna.create_study(sampler=sampler).ask(), config.space)
            started = time.perf_counter()
            device = torch.device("cpu")
            run = Run(params, splits, derive_seed(1, "training", number), Goal(), device)
            decision = None
            while len(run.curve) < params.epochs and decision is None:
                result = run.advance(batch_judge(None, splits.constant_loss))
                decision = result.reason if isinstance(result, Decision) else None
            record = {
                "number": number,
                "params": params.to_dict(),
                "constant": splits.constant_loss,
                "batch_losses": [float(f"{loss:.5g}") for loss in run.batch_losses],
                "epoch_ends": run.epoch_ends,
                "train": [epoch.train_loss for epoch in run.curve.epochs],
                "figures": [epoch.figures for epoch in run.curve.epochs],
                "seconds": round(time.perf_counter() - started, 3),
                "ended": decision,
            }
            file.write(json.dumps(record) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
