"""What does it cost a long study that TPE is fitted on the best and the latest trials only?

    python -m bench.shortlist shortlist.jsonl --seeds 3

Studies of an invented landscape over the default space, the same up to trial 1 000, then on to
2 000 with TPE fitted on all trials, or on the latest 1 000, 500 or 250 besides the best. The
landscape has one valley, whose place in learning rate, batch size and hidden units hangs together
and differs between optimizers, and noise. What is compared has no noise: the best so far, and the
mean of what was proposed. Lower is better; seconds are those of proposing.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import time
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial

from search import sampling
from search.config import StudyConfig, make_config
from search.sampling import StudySampler
from search.space import distributions

SHARED, TOTAL = 1000, 2000
LATEST = (10**9, 1000, 500, 250)
NOISE = 0.05
OPTIMUM = {"adam": -2.5, "rmsprop": -2.8, "adagrad": -1.5, "sgd": -1.0}
OFFSET = {"rnn": 0.2, "gru": 0.0, "lstm": 0.03, "none": 0.05, "step": 0.02, "plateau": 0.01}


def landscape(params: dict[str, Any]) -> float:
    """Returns the loss without noise, 0 at best."""
    rate = math.log10(params["learning_rate"]) - OPTIMUM[params["optimizer"]]
    rate -= 0.3 * math.log2(params["batch_size"] / 32) - 0.2 * (params["hidden_layers"] - 1)
    units = math.log2(params["hidden_units"] / 64) + 0.3 * rate
    return float(
        0.3 * rate**2
        + 0.1 * units**2
        + 2.0 * (params["dropout"] - 0.15 - 0.05 * units) ** 2
        + 0.05 * abs(params["hidden_layers"] - 2)
        + OFFSET.get(params["cell"], 0.0)
        + OFFSET.get(params["decay"], 0.0)
    )


def trial_of(config: StudyConfig, number: int, params: dict[str, Any]) -> FrozenTrial:
    """Returns a trial that has trained to its end."""
    noise = random.Random(f"{config.seed}/{number}").gauss(0.0, NOISE)
    trial = create_trial(
        state=TrialState.COMPLETE,
        value=landscape(params) + noise,
        params=params,
        distributions=distributions(config.space),
    )
    trial.number = number
    return trial


def go_on(
    config: StudyConfig, history: list[FrozenTrial], latest: int, total: int
) -> tuple[list[FrozenTrial], float]:
    """Adds trials up to ``total``; returns all, and the seconds that the proposals took."""
    sampling.LATEST = latest
    study, sampler, trials, seconds = optuna.create_study(), StudySampler(config), [*history], 0.0
    shortlist = sampler.shortlist()
    shortlist.add(trials)
    while len(trials) < total:
        begun = time.process_time()
        params, _ = sampler.propose(study, len(trials), trials[:0], shortlist)
        seconds += time.process_time() - begun
        trials.append(trial_of(config, len(trials), params))
        shortlist.add(trials[-1:])
    return trials, seconds


def main() -> None:
    """Runs the studies, a line for each, and shows what came of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with arguments.file.open("a") as file:
        for seed in range(arguments.seeds):
            data = {"task": "forecast", "path": "none.csv"}
            config = make_config({"name": "s", "seed": seed, "data": data}, "bench")
            shared, _ = go_on(config, [], LATEST[0], SHARED)
            for latest in LATEST:
                trials, seconds = go_on(config, shared, latest, TOTAL)
                losses = [landscape(trial.params) for trial in trials]
                line = {
                    "seed": seed,
                    "latest": latest,
                    "shared best": min(losses[:SHARED]),
                    "best": min(losses),
                    "proposed": statistics.mean(losses[SHARED:]),
                    "ms": 1e3 * seconds / (TOTAL - SHARED),
                }
                print(json.dumps(line), flush=True)
                file.write(json.dumps(line) + "\n")
                file.flush()


if __name__ == "__main__":
    main()
