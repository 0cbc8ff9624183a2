"""Trains the table of learning curves: the same random configurations on every data set.

    python -m bench.curves.train work --count 500 co2 vowels      goes on from work, or the tables
    python -m bench.curves.train work --count 500 --whole co2     those cut short, to the end
    python -m bench.curves.train work --pack                      work/*.jsonl to the tables here

Each configuration of the default space is trained for all 36 epochs, pruned by nothing. Decay is a
function of the absolute epoch, so its curve holds those with fewer epochs. The first ones are the
starting points of a study, the others are random; number, seed and hyperparameters are the same on
every data set. One thread; seconds are the processor's. What is finished is one JSON line, so that
a kill loses the configuration in training and no more.

Every search ends what diverges, so nothing that comes later matters to one; without ``--whole``
the training ends there, too, which a quarter of the configurations do.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import torch

from bench.curves.table import FOLDER, pack, unpack
from bench.data_sets import DATA_SETS, config_of
from search.data.splits import Splits
from search.diagnosis import diagnose
from search.dimensions import Dimension
from search.space import LEARNING_RATES, HyperParams, starting_points, suggest
from search.stopping import Divergence, batch_judge
from search.training import Run
from search.trial import Decision, Goal, derive_seed

SEED = 11
CPU = torch.device("cpu")


def configuration(number: int, space: Mapping[str, Dimension]) -> HyperParams:
    """Returns a configuration, trained for as many epochs as the space allows."""
    sampler = optuna.samplers.RandomSampler(derive_seed(SEED, "proposal", number))
    values = suggest(optuna.create_study(sampler=sampler).ask(), space).to_dict()
    # The lesson's; what follows them was chosen on these tables.
    points = starting_points(space)[: len(LEARNING_RATES)]
    if number < len(points):
        values |= points[number]
    return HyperParams.of({**values, "epochs": int(space["epochs"].clip(10**6))})


class Watch:
    """Judges batches as a search would.

    Args:
        splits: Says what the best constant prediction is worth.
        whole: Let the training go on where a search would end it: what is not finite ends it.

    Attributes:
        diverged: Index of the batch, from 0, at which the rule of divergence would have ended the
            training; None if it would not.
    """

    def __init__(self, splits: Splits, whole: bool) -> None:
        self._whole = whole
        self._rule = batch_judge(Divergence(), splits.constant_loss)
        self._finite = batch_judge(None, splits.constant_loss)
        self._batches = 0
        self.diverged: int | None = None

    def __call__(self, loss: float, gradient_norm: float, epoch: int) -> Decision | None:
        """Judges one batch."""
        verdict = None
        if self.diverged is None:
            verdict = self._rule(loss, gradient_norm, epoch)
        if verdict is not None:
            self.diverged = self._batches
        self._batches += 1
        return self._finite(loss, gradient_norm, epoch) if self._whole else verdict


def train(
    params: HyperParams, splits: Splits, seed: int, naive: float | None, whole: bool = True
) -> dict[str, Any]:
    """Trains one network to its end and returns its curve as plain data.

    Args:
        params: What to train, and for how long.
        splits: The data.
        seed: Decides everything else.
        naive: Validation loss of the best prediction that ignores the inputs.
        whole: Go on where a search would end the training as diverged.
    """
    run, watch = Run(params, splits, seed, Goal(), CPU), Watch(splits, whole)
    seconds, findings, decision = [], [], None
    while len(run.curve) < params.epochs and decision is None:
        begun = time.process_time()
        result = run.advance(watch)
        seconds.append(round(time.process_time() - begun, 6))
        if isinstance(result, Decision):
            decision = result
            break
        losses, per_epoch = run.batch_losses, run.epoch_ends[0]
        findings.append(
            diagnose(losses, run.curve.values(Goal()), per_epoch, naive, splits.constant_loss).name
        )
    per_epoch = run.epoch_ends[0] if run.epoch_ends else len(run.batch_losses)
    return {
        "params": params.to_dict(),
        "outcome": str(decision.outcome) if decision else "complete",
        "diverged": None if watch.diverged is None else watch.diverged / per_epoch,
        "cut": decision is not None and not whole and "finite" not in decision.reason,
        "valid": run.curve.values(Goal()),
        "train": [epoch.train_loss for epoch in run.curve.epochs],
        "seconds": seconds,
        "findings": findings,
    }


def collect(names: list[str], count: int, work: Path, whole: bool) -> None:
    """Trains what the files in ``work`` do not hold yet, one configuration of each set in turn."""
    work.mkdir(parents=True, exist_ok=True)
    loaded = {name: config_of(name, work / "data") for name in names}
    naive = {name: splits.constant_valid_loss for name, (_, splits) in loaded.items()}
    for name in names:
        if (FOLDER / f"{name}.npz").exists() and not (work / f"{name}.jsonl").exists():
            unpack(FOLDER / f"{name}.npz", work / f"{name}.jsonl")
    done = {name: finished(work / f"{name}.jsonl", whole) for name in names}
    for number in range(count):
        for name, (config, splits) in loaded.items():
            if number in done[name]:
                continue
            params = configuration(number, config.space)
            seed = derive_seed(SEED, "training", number)
            curve = train(params, splits, seed, naive[name], whole)
            with (work / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"number": number, **curve}) + "\n")


def finished(path: Path, whole: bool = False) -> set[int]:
    """Returns the numbers in a file, whose last line is cut off if a kill has torn it.

    Args:
        path: The file.
        whole: Only those that were not ended while their losses were finite.
    """
    if not path.exists():
        return set()
    ended, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        path.write_text(f"{ended}\n" if ended else "", encoding="utf-8")
    records = map(json.loads, ended.splitlines())
    return {record["number"] for record in records if not (whole and record["cut"])}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of the lines that are finished")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DATA_SETS))
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--whole", action="store_true", help="do not end what diverges")
    parser.add_argument("--pack", action="store_true", help="write the tables")
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.pack:
        for path in sorted(args.work.glob("*.jsonl")):
            finished(path)
            pack(path, FOLDER / f"{path.stem}.npz")
    else:
        collect(args.names or list(DATA_SETS), args.count, args.work, args.whole)


if __name__ == "__main__":
    main()
