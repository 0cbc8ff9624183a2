"""Does it help a study to follow the advice on its trials?

    python -m bench.follow_ups run curves/follow_ups.jsonl 20      20 seeds on each example
    python -m bench.follow_ups show curves/follow_ups.jsonl

Short studies with and without follow-ups, same seeds: starting points and TPE, the rules of
divergence, patience and the median. Up to the first follow-up the two are the same, so that part is
trained once. `run` goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from bench.random_curves import TASKS, load_example, train
from search.config import StudyConfig
from search.data.splits import Splits
from search.diagnosis import diagnose
from search.sampling import StudySampler
from search.space import HyperParams, suggest
from search.stopping import PRUNERS, Divergence, batch_judge, out_of_patience, worse_than_peers
from search.trial import Decision, Goal, Outcome, derive_seed

SPACE = {"epochs": {"low": 3, "high": 8}, "hidden_units": {"low": 16, "high": 64, "log": True}}
CHARACTERS = {"shakespeare": 15_000}
TRIALS = 20

Curve = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """A study, its data, and the validation loss of the best constant prediction."""

    config: StudyConfig
    splits: Splits
    constant: float | None


def train_trial(study: Study, params: HyperParams, number: int, peers: list[list[float]]) -> Curve:
    """Trains one trial as a search does, with its finding."""
    config, splits = study.config, study.splits

    def enough(values: list[float]) -> Decision | None:
        verdict = None
        if len(values) < params.epochs:
            verdict = worse_than_peers(PRUNERS["median"], values, peers, Goal(), 1, 5)
        return verdict or out_of_patience(values, Goal(), config.stopping.patience)

    seed = derive_seed(config.seed, "training", number)
    judge = batch_judge(Divergence(), splits.constant_loss)
    curve = train(params, splits, seed, judge, enough)
    values = [figures["loss"] for figures in curve["figures"]]
    if curve["outcome"] != Outcome.DIVERGED and values:
        ends, constant = curve["epoch_ends"], study.constant
        losses = curve["batch_losses"][: ends[-1]]
        found = diagnose(losses, values, ends[0], constant, splits.constant_loss)
        curve["finding"] = found.to_attributes()
    return {**curve, "values": values}


def run_study(ours: Study, memo: dict[str, Curve]) -> list[dict[str, Any]]:
    """Returns the trials of one study.

    Args:
        ours: The study.
        memo: Trials with what came before them, of this study and its twin.
    """
    config = ours.config
    study = optuna.create_study(sampler=StudySampler(config), pruner=optuna.pruners.NopPruner())
    past: list[dict[str, Any]] = []
    for number in range(TRIALS):
        trial = study.ask()
        params = suggest(trial, config.space)
        key = repr([[one["params"] for one in past], params])
        if key not in memo:
            memo[key] = train_trial(ours, params, number, [p["values"] for p in past])
        curve = memo[key]
        values, outcome = curve["values"], curve["outcome"] or Outcome.COMPLETE
        for step, value in enumerate(values, 1):
            trial.report(value, step)
        for name, value in curve.get("finding", {}).items():
            trial.set_user_attr(name, value)
        if outcome == Outcome.DIVERGED:
            trial.set_constraint("diverged", 1.0)
        if outcome == Outcome.COMPLETE:
            study.tell(trial, min(values))
        else:
            study.tell(trial, state=TrialState.PRUNED)
        past.append(
            {
                "params": params.to_dict(),
                "values": values,
                "outcome": outcome,
                "finding": curve.get("finding", {}).get("finding"),
                "follows": study.trials[number].user_attrs.get("follows"),
                "seconds": curve["seconds"],
            }
        )
    return past


def run(path: Path, seeds: int) -> None:
    """Runs the studies that are not in the file yet."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    done = {(record["example"], record["seed"]) for record in map(json.loads, lines)}
    loaded = {name: load_example(name, CHARACTERS.get(name), space=SPACE) for name in TASKS}
    naive = {name: splits.constant_valid_loss for name, (_, splits) in loaded.items()}
    with path.open("a") as file:
        for seed in range(seeds):
            for name in TASKS:
                if (name, seed) in done:
                    continue
                memo: dict[str, Curve] = {}
                record: dict[str, Any] = {"example": name, "seed": seed}
                for switch in (False, True):
                    config, splits = loaded[name]
                    config = config.model_copy(update={"seed": seed, "follow_advice": switch})
                    ours = Study(config, splits, naive[name])
                    record["with" if switch else "without"] = run_study(ours, memo)
                file.write(json.dumps(record) + "\n")
                file.flush()


def best(trials: list[dict[str, Any]]) -> float:
    """Returns the best value of a study's complete trials."""
    complete = [min(t["values"]) for t in trials if t["outcome"] == Outcome.COMPLETE]
    return min(complete, default=math.inf)


def show(path: Path) -> None:
    """Prints what following the advice is worth."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for count in (10, 15, TRIALS):
        print(f"after {count} trials:")
        for name in TASKS:
            pairs = [
                (best(record["without"][:count]), best(record["with"][:count]))
                for record in records
                if record["example"] == name
            ]
            better = sum(after < before for before, after in pairs)
            worse = sum(after > before for before, after in pairs)
            ratios = [math.log(after / before) for before, after in pairs]
            error = statistics.stdev(ratios) / math.sqrt(len(ratios)) if len(ratios) > 1 else 0.0
            print(
                f"  {name}: {len(pairs)} studies, better {better}, worse {worse}; loss, with to "
                f"without: {math.exp(statistics.mean(ratios)):.3f} (± {error:.3f}); medians "
                f"{statistics.median(b for b, _ in pairs):.4g} without, "
                f"{statistics.median(a for _, a in pairs):.4g} with"
            )
    print("follow-ups:")
    for name in TASKS:
        studies = [record["with"] for record in records if record["example"] == name]
        follows = [(s, t) for s in studies for t in s if t["follows"] is not None]
        won = sum(
            min(t["values"], default=math.inf) < min(s[t["follows"]]["values"]) for s, t in follows
        )
        print(
            f"  {name}: {len(follows)} in {len(studies)} studies; better than what they follow: "
            f"{won}; best of their study: "
            f"{sum(t['outcome'] == 'complete' and min(t['values']) == best(s) for s, t in follows)}"
        )


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("run")
    verb.add_argument("file", type=Path)
    verb.add_argument("seeds", type=int)
    verbs.add_parser("show").add_argument("file", type=Path)
    args = parser.parse_args()
    if args.verb == "run":
        run(args.file, args.seeds)
    else:
        show(args.file)


if __name__ == "__main__":
    main()
