"""Real searches under different rules that end trials early: which finds the better loss sooner.

    python -m bench.pruning run WORK --seconds 30 --seeds 3 elnino vowels     goes on from WORK
    python -m bench.pruning show WORK

A table of random rows knows nothing of a sampler, which learns from those trials that a rule lets
live, and proposes ever more alike ones. Here our sampler proposes, one trial at a time, and
networks are trained; only the database is left out. Patience and divergence are those of a study
that says nothing. Time is the processor's for training and validation, so that other work on the
machine decides nothing. A search is one JSON line, so that a kill loses no more.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import math
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from bench.data_sets import DATA_SETS, config_of
from search.config import StudyConfig
from search.data.splits import Splits
from search.sampling import StudySampler
from search.space import suggest
from search.stopping import Divergence, batch_judge, out_of_patience
from search.training import Run
from search.trial import INFEASIBLE, Decision, Goal, Outcome, derive_seed

CPU = torch.device("cpu")
GOAL = Goal()
MOMENTS = (1 / 8, 1 / 4, 1 / 2, 1)
PEERS = 5
SOLVED = 0.001
"""Losses far below this differ in nothing that matters."""


class Pruner(ABC):
    """Ends trials by what others reached; smaller is better."""

    @abstractmethod
    def ends(self, values: Sequence[float]) -> bool:
        """Says whether a trial with these values, one an epoch, ends."""

    @abstractmethod
    def add(self, values: Sequence[float], complete: bool) -> None:
        """Adds a trial that is over."""


class Never(Pruner):
    """Every trial is trained to its end."""

    def ends(self, values: Sequence[float]) -> bool:
        """Never."""
        return False

    def add(self, values: Sequence[float], complete: bool) -> None:
        """Nothing is remembered."""


class Reached(Pruner):
    """Among those that came as far, the best share lives, judged after each of some epochs.

    Args:
        share: That lives.
        after: Epochs before the first verdict.
        only: Epochs of verdicts; None: all.
    """

    def __init__(self, share: float, after: int = 1, only: Sequence[int] | None = None) -> None:
        self._share, self._after, self._only = share, after, only
        self._reached: dict[int, list[float]] = {}

    def ends(self, values: Sequence[float]) -> bool:
        """True if the best value so far is not among the best share."""
        epoch = len(values)
        if epoch <= self._after or (self._only is not None and epoch not in self._only):
            return False
        peers = self._reached.get(epoch, [])
        return len(peers) >= PEERS and min(values) > quantile(peers, self._share)

    def add(self, values: Sequence[float], complete: bool) -> None:
        """Counts where it came."""
        for epoch, best in enumerate(itertools.accumulate(values, min), 1):
            bisect.insort(self._reached.setdefault(epoch, []), best)


class Everyone(Reached):
    """Among all, those that ended earlier with what they had reached, the best share lives."""

    def __init__(self, share: float, after: int = 1, most: int = 36) -> None:
        super().__init__(share, after)
        self._most = most

    def add(self, values: Sequence[float], complete: bool) -> None:
        """Counts everywhere."""
        if values:
            super().add([*values, *[math.inf] * (self._most - len(values))], complete)


class Completed(Reached):
    """Optuna's rule: among those that are complete, by their values and not their best so far."""

    def add(self, values: Sequence[float], complete: bool) -> None:
        """Counts if it is complete."""
        if complete:
            for epoch, value in enumerate(values, 1):
                bisect.insort(self._reached.setdefault(epoch, []), value)


RULES: dict[str, Callable[[], Pruner]] = {
    "median": lambda: Reached(0.5),
    "none": Never,
    "best 67 %": lambda: Reached(0.67),
    "best 80 %": lambda: Reached(0.8),
    "median at 2, 4, 8, 16": lambda: Reached(0.5, only=(2, 4, 8, 16)),
    "third at 2, 6, 18": lambda: Reached(0.33, only=(2, 6, 18)),
    "half of all": lambda: Everyone(0.5),
    "third of all": lambda: Everyone(0.33),
    "fifth of all": lambda: Everyone(0.2),
    "tenth of all": lambda: Everyone(0.1),
    "median of complete": lambda: Completed(0.5),
}


def quantile(ordered: Sequence[float], share: float) -> float:
    """Returns the value that a share of sorted values is not above; 0.5: the median."""
    if share == 0.5:
        return statistics.median(ordered)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def search(config: StudyConfig, splits: Splits, pruner: Pruner, seconds: float) -> dict[str, Any]:
    """Searches for so many seconds of training.

    Returns:
        ``best``: pairs of seconds and the best loss that a complete trial had by then; ``trials``,
        ``complete``: how many there were.
    """
    study = optuna.create_study(sampler=StudySampler(config), pruner=optuna.pruners.NopPruner())
    best: list[tuple[float, float]] = []
    spent, complete = 0.0, 0
    while spent < seconds:
        trial = study.ask()
        params = suggest(trial, config.space)
        run = Run(params, splits, derive_seed(config.seed, "training", trial.number), GOAL, CPU)
        begun = time.process_time()
        decision = train(run, config, pruner)
        spent += time.process_time() - begun
        values = run.curve.values(GOAL)
        pruner.add(values, decision.outcome is Outcome.COMPLETE)
        for step, value in enumerate(values, 1):
            trial.report(value, step)
        if decision.outcome in INFEASIBLE:
            trial.set_constraint(str(decision.outcome), 1.0)
        if decision.outcome is not Outcome.COMPLETE:
            study.tell(trial, state=TrialState.PRUNED)
            continue
        study.tell(trial, min(values))
        complete += 1
        if not best or min(values) < best[-1][1]:
            best.append((round(spent, 3), min(values)))
    return {"best": best, "trials": len(study.trials), "complete": complete}


def train(run: Run, config: StudyConfig, pruner: Pruner) -> Decision:
    """Trains one trial to its end or the pruner's."""
    judge = batch_judge(Divergence(), run.splits.constant_loss)
    while len(run.curve) < run.params.epochs:
        result = run.advance(judge)
        if isinstance(result, Decision):
            return result
        values = run.curve.values(GOAL)
        if len(values) < run.params.epochs and pruner.ends(values):
            return Decision(Outcome.PRUNED, "by its peers")
        enough = out_of_patience(values, GOAL, config.stopping.patience)
        if enough is not None:
            return enough
    return Decision(Outcome.COMPLETE, "trained to its end")


def collect(work: Path, names: Sequence[str], rules: Sequence[str], seeds: range, s: float) -> None:
    """Runs the searches that ``work`` does not hold yet, all rules of a set and seed in turn."""
    work.mkdir(parents=True, exist_ok=True)
    for seed, name in itertools.product(seeds, names):
        config, splits = config_of(name, work / "data", seed=seed)
        for rule in rules:
            if any((r["set"], r["seed"], r["rule"]) == (name, seed, rule) for r in records(work)):
                continue
            found = search(config, splits, RULES[rule](), s)
            line = json.dumps({"set": name, "seed": seed, "rule": rule, "seconds": s, **found})
            # One file a set, so that sets can be searched side by side.
            with (work / f"{name}.jsonl").open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            print(name, seed, rule, found["trials"], found["complete"], found["best"][-1:])


def records(work: Path) -> list[dict[str, Any]]:
    """Returns the searches in a folder, after the removal of lines that a kill has torn."""
    found: list[dict[str, Any]] = []
    for path in sorted(work.glob("*.jsonl")):
        whole, _, torn = path.read_text(encoding="utf-8").rpartition("\n")
        if torn:
            path.write_text(f"{whole}\n" if whole else "", encoding="utf-8")
        found += map(json.loads, whole.splitlines())
    return found


def loss_at(record: dict[str, Any], seconds: float) -> float:
    """Returns a search's best loss at a moment; infinite if there was none."""
    return min((loss for at, loss in record["best"] if at <= seconds), default=math.inf)


def show(work: Path) -> None:
    """Prints, by rule, how far above the best known loss the best one was at some moments.

    In percent, geometric means over sets and seeds; then by set, at the end.
    """
    found = records(work)
    known = {
        name: min(loss_at(r, math.inf) for r in found if r["set"] == name)
        for name in sorted({r["set"] for r in found})
    }
    print(f"| rule | {' | '.join(f'{m:g}' for m in MOMENTS)} | complete | {' | '.join(known)} |")
    print("|---|" + "--:|" * (len(MOMENTS) + 1 + len(known)))
    for rule in dict.fromkeys(r["rule"] for r in found):
        its = [r for r in found if r["rule"] == rule]

        def above(moment: float, among: Sequence[dict[str, Any]]) -> str:
            logs = [
                math.log((loss_at(r, moment * r["seconds"]) + SOLVED) / (known[r["set"]] + SOLVED))
                for r in among
            ]
            return f"{100 * math.expm1(statistics.mean(logs)):.1f}"

        cells = [above(moment, its) for moment in MOMENTS]
        cells.append(f"{sum(r['complete'] for r in its)} of {sum(r['trials'] for r in its)}")
        cells += [
            above(1, one) if (one := [r for r in its if r["set"] == name]) else "" for name in known
        ]
        print(f"| {rule} | {' | '.join(cells)} |")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["run", "show"])
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(DATA_SETS))
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--seconds", type=float, default=30.0, help="of training, a search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    args = parser.parse_intermixed_args()
    if args.what == "show":
        show(args.work)
        return
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seeds = range(args.first, args.first + args.seeds)
    collect(args.work, args.names or list(DATA_SETS), args.rules, seeds, args.seconds)


if __name__ == "__main__":
    main()
