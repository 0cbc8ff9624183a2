"""Tries the stopping rules on the curves that `bench/random_curves.py` has written.

    python -m bench.rules curves/*.jsonl

Prints, for each data set: what the divergence rule stops, and what it costs; then, over simulated
studies that draw the configurations in random order, what pruner and patience gain.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from search.config import make_config
from search.data import load_splits
from search.stopping import PRUNERS, Divergence, batch_judge, out_of_patience, worse_than_peers
from search.trial import Goal

NAIVE = {"forecast": "persistence", "classify": "majority", "language": "unigram"}
TASKS = {"sunspots": "forecast", "vowels": "classify", "shakespeare": "language"}
STUDIES = 300
BUDGET = 40

Record = dict[str, Any]


def constant_validation_loss(name: str) -> float:
    """Returns the validation loss of the naive method that ignores the inputs."""
    source = {"vowels": "japanese-vowels"}.get(name, name)
    data: dict[str, object] = {"source": f"example:{source}", "task": TASKS[name]}
    if name == "shakespeare":
        data["characters"] = 40_000
    splits = load_splits(make_config({"name": name, "data": data}, name).data)
    return splits.baselines("valid")[NAIVE[TASKS[name]]]["loss"]


def stopped_at(record: Record, rule: Divergence) -> int | None:
    """Returns after how many batches the rule stops a trial; None: never."""
    judge = batch_judge(rule, record["constant"])
    ends, epoch = record["epoch_ends"], 1
    for index, loss in enumerate(record["batch_losses"]):
        if epoch <= len(ends) and index >= ends[epoch - 1]:
            epoch += 1
        if judge(loss, 0.0, epoch) is not None:
            return index + 1
    return None


def planned_batches(record: Record) -> int:
    """Returns how many batches a trial would have trained."""
    first: int = record["epoch_ends"][0] if record["epoch_ends"] else len(record["batch_losses"])
    return first * int(record["params"]["epochs"])


def values(record: Record) -> list[float]:
    """Returns the validation loss of every epoch."""
    return [figures["loss"] for figures in record["figures"]]


def report_divergence(records: list[Record], constant: float, rule: Divergence) -> None:
    """Prints whom the rule stops, and when."""
    best = [min(values(record), default=math.inf) for record in records]
    quarter = sorted(best)[len(best) // 4 - 1]
    stops = [stopped_at(record, rule) for record in records]
    good = sum(
        stop is not None and value <= quarter for stop, value in zip(stops, best, strict=True)
    )
    print(f"  {rule}: stops {sum(stop is not None for stop in stops)}, of the best quarter {good}")
    for margin in (1.0, 1.05):
        bad = [
            index
            for index, record in enumerate(records)
            if record["ended"] or values(record)[-1] > margin * constant
        ]
        spent = [
            stop / planned_batches(records[index])
            for index in bad
            if (stop := stops[index]) is not None
        ]
        if bad:
            print(
                f"    end worse than {margin:g} x constant: {len(bad)}; stopped {len(spent)} "
                f"({100 * len(spent) / len(bad):.0f} %), having spent "
                f"{100 * statistics.mean(spent or [0]):.0f} % of their epochs on average "
                f"(median {100 * statistics.median(spent or [0]):.0f} %)"
            )


def report_both(records: list[Record], constant: float) -> None:
    """Prints what the divergence and the median rule stop together, over simulated studies."""
    rule, goal = Divergence(), Goal()
    ended, stopped, spent = 0, 0, list[float]()
    for seed in range(STUDIES // 10):
        peers: list[list[float]] = []
        for record in random.Random(seed).sample(records, min(BUDGET, len(records))):
            curve = values(record)
            epochs, per_epoch = record["params"]["epochs"], planned_batches(record)
            per_epoch //= epochs
            diverged = stopped_at(record, rule)
            ends = [diverged / per_epoch] if diverged else []
            for epoch in range(1, len(curve) + 1):
                if worse_than_peers(PRUNERS["median"], curve[:epoch], peers, goal, 1, 5):
                    ends.append(float(epoch))
                    break
            end = min(ends, default=None)
            peers.append(curve if end is None else curve[: int(end)])
            if record["ended"] or curve[-1] > constant:
                ended += 1
                if end is not None:
                    stopped += 1
                    spent.append(end / epochs)
    print(
        f"  with the median rule, studies of {BUDGET}: of {ended} that end worse than the constant "
        f"{100 * stopped / max(1, ended):.0f} % are stopped, having spent "
        f"{100 * statistics.mean(spent or [0]):.0f} % of their epochs on average"
    )


def report_space(records: list[Record]) -> None:
    """Prints where in each dimension the best quarter lies, beside all configurations."""
    order = sorted(records, key=lambda record: min(values(record), default=math.inf))
    best = order[: len(order) // 4]
    for name, first in best[0]["params"].items():
        inside = [record["params"][name] for record in best]
        if isinstance(first, str) or name in ("batch_size", "weight_decay", "gradient_clipping"):
            everywhere = [record["params"][name] for record in records]
            shares = [
                f"{value} {100 * inside.count(value) / everywhere.count(value):.0f} %"
                for value in sorted(set(everywhere))
            ]
            print(f"  {name}: of each value so many are in the best quarter: {', '.join(shares)}")
        else:
            tenths = statistics.quantiles(inside, n=10)
            print(f"  {name}: best quarter, 10 to 90 %: {tenths[0]:.3g} to {tenths[-1]:.3g}")


Setting = tuple[str, Callable[[list[float], list[list[float]]], bool]]


def settings() -> list[Setting]:
    """Returns the pruners and patiences that are compared, by name."""
    goal = Goal()

    def rule(warmup: int | None, patience: int) -> Callable[[list[float], list[list[float]]], bool]:
        def stops(seen: list[float], peers: list[list[float]]) -> bool:
            if out_of_patience(seen, goal, patience):
                return True
            median = PRUNERS["median"]
            return warmup is not None and bool(
                worse_than_peers(median, seen, peers, goal, warmup, 5)
            )

        return stops

    made: list[Setting] = [("no pruner, no patience", rule(None, 0))]
    made += [(f"no pruner, patience {n}", rule(None, n)) for n in (3, 5, 8, 10, 15)]
    made += [(f"median after {n}, no patience", rule(n, 0)) for n in (0, 1, 3, 5)]
    made += [(f"median after {w}, patience {p}", rule(w, p)) for w in (1, 3) for p in (5, 10)]
    return made


def simulate(records: list[Record], stops: Callable[[list[float], list[list[float]]], bool]) -> str:
    """Returns what a setting gives on average over `STUDIES` random orders."""
    table = [min(values(record), default=math.inf) for record in records]
    top = sorted(table)
    share, ranks = [], []
    for seed in range(STUDIES):
        order = random.Random(seed).sample(records, len(records))
        full = sum(record["seconds"] for record in order[:BUDGET])
        spent, tried, best, peers = 0.0, 0, math.inf, list[list[float]]()
        for record in order:
            curve = values(record)
            seen = curve
            for epoch in range(1, len(curve) + 1):
                if stops(curve[:epoch], peers):
                    seen = curve[:epoch]
                    break
            spent += record["seconds"] * len(seen) / max(1, len(curve))
            if spent > full:
                break
            tried += 1
            best = min([best, *seen])
            peers.append(seen)
        share.append(tried)
        ranks.append(sum(value < best for value in top) / len(top))
    return (
        f"trials in the time of {BUDGET} full ones: {statistics.mean(share):5.1f}; "
        f"share of the table better than the best found: {100 * statistics.mean(ranks):.2f} %"
    )


def main() -> None:
    """Reads the files named on the command line."""
    for path in map(Path, sys.argv[1:]):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        records = [record for record in records if record["figures"] or record["ended"]]
        print(f"{path.stem}: {len(records)} configurations")
        constant = constant_validation_loss(path.stem)
        for rule in (Divergence(), Divergence(2.5, 2.5), Divergence(1.5, 1.5), Divergence(5, 5)):
            report_divergence(records, constant, rule)
        report_both(records, constant)
        report_space(records)
        for name, stops in settings():
            print(f"  {name:<28} {simulate(records, stops)}")


if __name__ == "__main__":
    main()
