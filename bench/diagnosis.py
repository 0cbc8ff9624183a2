"""Is the advice of `search.diagnose` any good? All else equal, is another rate really better?

    python bench/diagnosis.py train curves/ladders.jsonl 40      40 ladders on each example
    python bench/diagnosis.py judge curves/ladders.jsonl

A ladder is a random configuration of the default space (but of 4 to 12 epochs), trained with one
seed at every third of its learning rate, from 1e-4 to 1.0: each curve is a trial, whose neighbours
are the same with the rate x 3 and ÷ 3. The rules of the search end what diverges or gets no better.
`train` goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from curves import TASKS, load_example, random_params, train

from search.diagnosis import RATE_STEP, constant_of
from search.stopping import Divergence, batch_judge, out_of_patience
from search.trial import Goal, derive_seed

SPACE = {"epochs": {"low": 4, "high": 12}}
CHARACTERS = {"shakespeare": 20_000}
LOWEST, HIGHEST = 1e-4, 1.0
PATIENCE = 8

Record = dict[str, Any]


def rates(place: float) -> Iterator[float]:
    """Yields a ladder's rates, from the lowest; ``place``, from 0 to 1, says where that is."""
    rate = LOWEST * RATE_STEP**place
    while rate <= HIGHEST:
        yield rate
        rate *= RATE_STEP


def collect(path: Path, ladders: int) -> None:
    """Trains the ladders that are not in the file yet, one of each example in turn."""
    torch.set_num_threads(1)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(r["example"], r["ladder"], r["step"]) for r in map(json.loads, lines)}
    loaded = {name: load_example(name, CHARACTERS.get(name), space=SPACE) for name in TASKS}
    naive = {name: constant_of(splits.baselines("valid")) for name, (_, splits) in loaded.items()}
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
                    where = {"example": name, "ladder": ladder, "step": step, "naive": naive[name]}
                    file.write(json.dumps({**where, **curve}) + "\n")
                    file.flush()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("file", type=Path)
    verb.add_argument("ladders", type=int)
    args = parser.parse_args()
    if args.verb == "train":
        collect(args.file, args.ladders)


if __name__ == "__main__":
    main()
