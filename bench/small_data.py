"""What the rule of divergence ends on data of a few minibatches, and what would have come of it.

    python -m bench.small_data train WORK --count 200 nile co2 [NAME...]     goes on from WORK
    python -m bench.small_data show WORK

Beginnings of data sets, so short that 36 to 62 examples are trained on, and whole ones beside them
(``power`` and other names of `bench.data_sets`). Random configurations are trained for all 36
epochs, ended by nothing but what is not finite. Then each way of judging is asked where it would
have ended them, and how many of these came to be among the best tenth, and the best quarter.
"""

from __future__ import annotations

import argparse
import bisect
import csv
import json
import math
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from bench.curves.train import configuration
from bench.data_sets import ALL_SETS, DATA_SETS, TEXT, carried, config_of
from bench.random_curves import train
from search.config import StudyConfig, make_config
from search.data import load_splits
from search.data.splits import Splits
from search.space import fit_to_data
from search.stopping import Divergence
from search.trial import derive_seed

Record = dict[str, Any]
SEED = 11


def _lines(name: str, count: int) -> str:
    """Returns the beginning of a set's file: a header, or what stands before ``@data``, stays."""
    lines = DATA_SETS[name].content().splitlines(keepends=True)
    marks = [at for at, line in enumerate(lines) if line.strip().lower() == "@data"]
    return "".join(lines[: (marks[0] if marks else 0) + 1 + count])


def _nile() -> str:
    rows = carried("statsmodels", "datasets/nile/nile.csv").split()[1:]
    return "\n".join(["year,volume", *rows, ""])


def _unemployment() -> str:
    rows = csv.DictReader(carried("statsmodels", "datasets/macrodata/macrodata.csv").splitlines())
    taken = [f"{at},{row['unemp']}" for at, row in enumerate(islice(rows, 90))]
    return "\n".join(["quarter,unemployment", *taken, ""])


SMALL: Mapping[str, tuple[str, Callable[[], str], dict[str, Any]]] = {
    "nile": ("nile.csv", _nile, {"task": "forecast", "target": "volume", "time": "year"}),
    "unemployment": (
        "unemployment.csv",
        _unemployment,
        {"task": "forecast", "target": "unemployment", "time": "quarter", "horizon": 2},
    ),
    "co2": (
        "co2.csv",
        lambda: _lines("co2", 69),
        {"task": "forecast", "target": "co2", "time": "month", "missing": "interpolate"},
    ),
    "power": ("power.ts", lambda: _lines("power", 60), {"task": "classify"}),
    "recall": ("recall.ts", lambda: _lines("recall", 60), {"task": "classify"}),
    "help": ("help.txt", lambda: DATA_SETS["help"].content()[:1400], {"task": "language", **TEXT}),
}
"""File, text and ``[data]`` of each short set, by name."""
WINDOWS = {"nile": 8, "unemployment": 8, "co2": 6}


def load(name: str, folder: Path) -> tuple[StudyConfig, Splits]:
    """Returns a study on a short set, or on a whole one by ``whole-NAME``, and its data."""
    if name.startswith("whole-"):
        return config_of(name.removeprefix("whole-"), folder)
    file, content, settings = SMALL[name]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(content(), encoding="utf-8")
    data = {**settings, "path": str((folder / file).resolve())}
    if name in WINDOWS:
        data["window"] = WINDOWS[name]
    config = make_config({"name": name, "data": data}, name)
    splits = load_splits(config.data)
    return fit_to_data(config, splits.train.size)[0], splits


def collect(work: Path, name: str, count: int) -> None:
    """Trains what the file in ``work`` does not hold yet."""
    config, splits = load(name, work / "data" / name)
    path = work / f"{name}.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    for number in range(done, count):
        params = configuration(number, config.space)
        record = train(params, splits, derive_seed(SEED, "training", number))
        record["naive"] = splits.constant_valid_loss
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


RULES = {
    "2.5, after two epochs 1.5 (ours)": (2.5, 0),
    "the same, and 10 in the first 20 batches": (10.0, 20),
    "10 in the first 40": (10.0, 40),
    "10 in the first 80": (10.0, 80),
    "5 in the first 40": (5.0, 40),
    "nothing in the first 30": (math.inf, 30),
    "nothing in the first 50": (math.inf, 50),
}
"""How many times the error at the start is too much in how many first minibatches; then ours."""


def ended_at(record: Record, factor: float, batches: int) -> int | None:
    """Returns after how many minibatches a training ends as diverged; None: never."""
    first, later = Divergence(factor, factor), Divergence()
    state = later.start(record["constant"])
    for at, loss in enumerate(record["batch_losses"]):
        epoch = 1 + bisect.bisect_right(record["epoch_ends"], at)
        state, decision = (first if at < batches else later).update(state, loss, 0.0, epoch)
        if decision is not None:
            return at + 1
    return len(record["batch_losses"]) if record["ended"] else None


def show(work: Path) -> None:
    """Prints, for each set and rule, how many trainings end, and how many of these were good."""
    for path in sorted(work.glob("*.jsonl")):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        curves = [[one["loss"] for one in record["figures"]] for record in records]
        best = np.asarray([min(curve, default=math.inf) for curve in curves])
        pairs = zip(curves, records, strict=True)
        bad = np.asarray([r["ended"] is not None or c[-1] > 1.05 * r["naive"] for c, r in pairs])
        tenth, quarter = np.quantile(best, (0.1, 0.25))
        batches = np.median([r["epoch_ends"][0] for r in records if r["epoch_ends"]])
        print(f"{path.stem}: {len(records)} trainings, {batches:g} minibatches an epoch")
        for name, (factor, first) in RULES.items():
            ends = [ended_at(record, factor, first) for record in records]
            over = np.asarray([end is not None for end in ends])
            print(
                f"  {name}: {over.sum()} ended, of the best tenth {(over & (best <= tenth)).sum()} "
                f"of {(best <= tenth).sum()}, of the best quarter "
                f"{(over & (best <= quarter)).sum()} of {(best <= quarter).sum()}, "
                f"of {bad.sum()} that ended badly {(over & bad).sum()}"
            )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["train", "show"])
    parser.add_argument("work", type=Path)
    whole = [f"whole-{name}" for name in ALL_SETS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*SMALL, *whole]))
    parser.add_argument("--count", type=int, default=200)
    args = parser.parse_intermixed_args()
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.what == "show":
        show(args.work)
        return
    for name in args.names or SMALL:
        collect(args.work, name, args.count)


if __name__ == "__main__":
    main()
