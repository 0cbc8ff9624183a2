"""Is the advice of `search.diagnose` any good? All else equal, is another rate really better?

    python -m bench.diagnosis train ladders/curves.jsonl 40      40 ladders on each data set
    python -m bench.diagnosis judge ladders/curves.jsonl

A ladder is a random configuration of the default space (but of 4 to 12 epochs), trained with one
seed at every third of its learning rate, from 1e-4 to 1.0: each curve is a trial, whose neighbours
are the same with the rate x 3 and ÷ 3. The rules of the search end what diverges or gets no better.
`train` goes on where it was interrupted. `judge` counts, for each finding, how often the best
validation loss is lower at three times and at a third of the rate. The thresholds were chosen on
ladders of sunspots and of larger parts of vowels and shakespeare; the other sets are new to them.
Last, they are chosen on all other data sets and tried on each.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench.data_sets import DATA_SETS, config_of
from bench.random_curves import random_params, train
from search.diagnosis import ADVICE, RATE_STEP, diagnose
from search.stopping import Divergence, batch_judge, out_of_patience
from search.trial import Goal, derive_seed

SPACE = {"epochs": {"low": 4, "high": 12}}
LOWEST, HIGHEST = 1e-4, 1.0
PATIENCE = 8
BETTER = 0.99
"""A loss below this share of another counts as better where epochs are compared."""
RIGHT = 0.85
"""Share of cases in which advice must be right for its thresholds to be chosen."""

Record = dict[str, Any]


def rates(place: float) -> Iterator[float]:
    """Yields a ladder's rates, from the lowest; ``place``, from 0 to 1, says where that is."""
    rate = LOWEST * RATE_STEP**place
    while rate <= HIGHEST:
        yield rate
        rate *= RATE_STEP


def collect(path: Path, ladders: int) -> None:
    """Trains the ladders that are not in the file yet, one of each data set in turn."""
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["set"], r["ladder"], r["step"]) for r in map(json.loads, lines)}
    loaded = {name: config_of(name, path.parent / "data", space=SPACE) for name in DATA_SETS}
    naive = {name: splits.constant_valid_loss for name, (_, splits) in loaded.items()}
    with path.open("a") as file:
        for ladder in range(ladders):
            for name, (config, splits) in loaded.items():
                params = random_params(config, derive_seed(7, f"{name} proposal", ladder))
                place = derive_seed(7, f"{name} rate", ladder) / 2**31
                for step, rate in enumerate(rates(place)):
                    if (name, ladder, step) in done:
                        continue
                    curve = train(
                        replace(params, learning_rate=rate),
                        splits,
                        derive_seed(7, f"{name} training", ladder),
                        batch_judge(Divergence(), splits.constant_loss),
                        lambda values: out_of_patience(values, Goal(), PATIENCE),
                    )
                    where = {"set": name, "ladder": ladder, "step": step, "naive": naive[name]}
                    file.write(json.dumps({**where, **curve}) + "\n")
                    file.flush()


def values(record: Record, epochs: int | None = None) -> list[float]:
    """Returns the validation loss of every epoch, or of the first ones."""
    return [figures["loss"] for figures in record["figures"][:epochs]]


def found(record: Record, epochs: int) -> str | None:
    """Returns the finding after so many epochs; None if the trial has not trained them."""
    if not 0 < epochs <= len(record["figures"]):
        return None
    losses = record["batch_losses"][: record["epoch_ends"][epochs - 1]]
    per_epoch = record["epoch_ends"][0]
    constants = record["naive"], record["constant"]
    return diagnose(losses, values(record, epochs), per_epoch, *constants).name


def compare_rates(records: list[Record], epochs: int | None) -> None:
    """Prints how often another rate is better, by finding, direction and data set.

    Args:
        records: Trials, and their neighbours on their ladders.
        epochs: Judge after so many; None: at the end. What is compared is always the end.
    """
    places = {(r["set"], r["ladder"], r["step"]): r for r in records}
    counts: dict[tuple[str, int, str], list[bool]] = defaultdict(list)
    for (data, ladder, step), record in places.items():
        at = epochs or len(record["figures"])
        name = None if record["outcome"] == "diverged" else found(record, at)
        for direction in (1, -1):
            other = places.get((data, ladder, step + direction))
            if name is not None and other is not None:
                better = min(values(other), default=math.inf) < min(values(record))
                counts[name, direction, data].append(better)
    for name in ADVICE:
        for direction, sign in ((1, "x 3"), (-1, "/ 3")):
            each = [counts[name, direction, data] for data in DATA_SETS]
            if all_of := [better for part in each for better in part]:
                parts = ", ".join(f"{sum(part)}/{len(part)}" for part in each)
                share = sum(all_of) / len(all_of)
                print(f"  {name:<14} {sign} better {share:4.0%} of {len(all_of):3d}   ({parts})")


def compare_epochs(records: list[Record]) -> None:
    """Prints how often the second half of the epochs brought a better loss, by finding before."""
    counts: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        half = len(record["figures"]) // 2
        name = found(record, half) if half >= 3 else None
        if name is not None:
            counts[name].append(min(values(record)) < BETTER * min(values(record, half)))
    for name, better in counts.items():
        print(f"  {name:<14} better by 1 % later: {sum(better)} of {len(better)}")


def outcomes(records: list[Record], name: str, direction: int) -> dict[str, list[bool]]:
    """Returns, by data set, for each trial with the finding whether its neighbour is better."""
    places = {(r["set"], r["ladder"], r["step"]): r for r in records}
    found_in: dict[str, list[bool]] = {data: [] for data in DATA_SETS}
    for (data, ladder, step), record in places.items():
        other = places.get((data, ladder, step + direction))
        if other is None or record["outcome"] == "diverged":
            continue
        if found(record, len(record["figures"])) == name:
            better = min(values(other), default=math.inf) < min(values(record))
            found_in[data].append(better)
    return found_in


def compare_sets(records: list[Record]) -> None:
    """Prints what thresholds that all other data sets choose are worth on each.

    Chosen is the setting that finds the most among those that are right in `RIGHT` of the cases.
    """
    grids: dict[tuple[str, int], list[dict[str, Any]]] = {
        ("too-slow", 1): [{"LITTLE": little} for little in (0.1, 0.15, 0.2, 0.25, 0.3)],
        ("jumping", -1): [
            {"LEAP": leap, "FAR_FROM_GOOD": far, "JUMPY_VALIDATION": jumpy}
            for leap in (0.1, 0.2, 0.4)
            for far in (0.4, 0.5, 0.7)
            for jumpy in (0.1, 0.2, 0.4)
        ],
    }
    for (name, direction), grid in grids.items():
        table = []
        for setting in grid:
            with mock.patch.multiple("search.diagnosis", **setting):
                table.append((setting, outcomes(records, name, direction)))
        for data in DATA_SETS:
            best: tuple[int, dict[str, Any], list[bool]] = (0, {}, [])
            for setting, by in table:
                seen = [better for other in DATA_SETS if other != data for better in by[other]]
                if len(seen) > best[0] and sum(seen) >= RIGHT * len(seen):
                    best = (len(seen), setting, by[data])
            _, setting, held = best
            print(f"  {name} on {data}: {sum(held)} of {len(held)} with {setting or 'nothing'}")


def judge(path: Path) -> None:
    """Prints what the advice is worth."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for epochs in (None, 2, 3):
        print(f"{len(records)} trials, judged after {epochs or 'all'} epochs:")
        compare_rates(records, epochs)
    print("judged after half of the epochs:")
    compare_epochs(records)
    print("thresholds chosen on the other data sets:")
    compare_sets(records)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("file", type=Path)
    verb.add_argument("ladders", type=int)
    verbs.add_parser("judge").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.verb == "train":
        collect(args.file, args.ladders)
    else:
        judge(args.file)


if __name__ == "__main__":
    main()
