"""Does the search learn to keep away from a region that diverges?

    python -m bench.diverging_space 5

Studies of 60 trials on a space the upper half of whose learning rates diverges (plain SGD, 1e-3 to
1e3), with our sampler and with random sampling, on two examples. Prints the share of diverged
trials in the first and second half of each study, by seed, and the medians.
"""

from __future__ import annotations

import statistics
import sys

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler

from search.config import StudyConfig, make_config
from search.objective import Objective
from search.sampling import StudySampler
from search.trial import Outcome

TRIALS = 60
SPACE = {
    "learning_rate": {"low": 1e-3, "high": 1e3, "log": True},
    "optimizer": ["sgd"],
    "epochs": {"low": 4, "high": 8},
    "hidden_units": {"low": 8, "high": 32, "log": True},
    "gradient_clipping": [0.0],
}
DATA = {
    "sunspots": {"source": "example:sunspots", "task": "forecast"},
    "vowels": {"source": "example:japanese-vowels", "task": "classify"},
}


def diverged(config: StudyConfig, sampler: BaseSampler) -> tuple[float, float]:
    """Returns the share of diverged trials in the first and in the second half of a study."""
    objective = Objective(config)
    study = optuna.create_study(direction=objective.direction, sampler=sampler)
    study.optimize(objective, n_trials=TRIALS)
    ends = [trial.user_attrs["outcome"] == Outcome.DIVERGED for trial in study.trials]
    half = TRIALS // 2
    return sum(ends[:half]) / half, sum(ends[half:]) / half


def main() -> None:
    """Runs as many seeds as the command line says."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, data in DATA.items():
        shares: dict[str, list[tuple[float, float]]] = {"ours": [], "random": []}
        for seed in range(int(sys.argv[1])):
            config = make_config({"name": name, "seed": seed, "data": data, "space": SPACE}, name)
            shares["ours"].append(diverged(config, StudySampler(config)))
            shares["random"].append(diverged(config, RandomSampler(seed)))
        for who, pairs in shares.items():
            first, second = (statistics.median(half) for half in zip(*pairs, strict=True))
            print(
                f"{name} {who}: diverged {first:.0%} of the first half, {second:.0%} of the second"
            )
            print("   by seed:", "  ".join(f"{a:.0%} → {b:.0%}" for a, b in pairs))


if __name__ == "__main__":
    main()
