"""Does the range test agree with training? The best rate of a grid, and where the test puts it.

    python -m bench.lr_range vowels sunspots mine.toml

For each study, cell and optimizer, it trains the study's first trial at two rates a decade, and
prints whether the best of them lies inside what the test of that cell and optimizer suggests.
"""

from __future__ import annotations

import argparse

import torch

from search.data import load_splits
from search.data.splits import Splits
from search.dimensions import CELLS, OPTIMIZERS
from search.lr_range import suggest_range, sweeps
from search.running import Request, make_plan
from search.space import HyperParams, starting_points
from search.stopping import batch_judge
from search.training import Run
from search.trial import Decision, Goal

RATES = [10 ** (half / 2) for half in range(-9, 3)]
CPU = torch.device("cpu")


def main() -> None:
    """Reads the command line and prints one row for each study, cell and optimizer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--epochs", type=int, default=12)
    args = parser.parse_args()
    torch.set_num_threads(1)
    inside = 0
    for study in args.studies:
        plan = make_plan(Request(study, "sqlite:///none.db"))
        space, splits = plan.config.space, load_splits(plan.config.data)
        for test in sweeps(space, splits, CELLS, OPTIMIZERS, 0, CPU):
            values = {"hidden_units": 64, "hidden_layers": 1, **starting_points(space)[0]}
            values.update(cell=test.cell, optimizer=test.optimizer, epochs=args.epochs)
            losses = {
                rate: best_loss(HyperParams.of({**values, "learning_rate": rate}), splits)
                for rate in RATES
            }
            best = min(losses, key=losses.__getitem__)
            found = suggest_range([test])
            low, high = found or (float("nan"), float("nan"))
            inside += low <= best <= high
            print(
                f"{study:<14} {test.cell:<5} {test.optimizer:<8} best {best:<8.2g} "
                f"(loss {losses[best]:.3g}, untrained {test.start:.3g})  suggested {low:g} to "
                f"{high:g}  {'inside' if low <= best <= high else 'OUTSIDE'}",
                flush=True,
            )
    print(f"{inside} of {len(args.studies) * len(CELLS) * len(OPTIMIZERS)} inside")


def best_loss(params: HyperParams, splits: Splits) -> float:
    """Returns the lowest validation loss of a training that only divergence ends."""
    run = Run(params, splits, 0, Goal(), CPU)
    losses = [float("inf")]
    while len(run.curve) < params.epochs:
        result = run.advance(batch_judge(None, splits.constant_loss))
        if isinstance(result, Decision):
            break
        losses.append(result.valid_loss)
    return min(losses)


if __name__ == "__main__":
    main()
