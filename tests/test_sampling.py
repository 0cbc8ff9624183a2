"""What is tried next depends on the seed, the number and the history, and on nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import FrozenTrial, TrialState
from tiny import tiny_config

from search.config import StudyConfig, make_config
from search.sampling import StudySampler
from search.space import distributions, starting_points, suggest

STARTUP = 10
"""Finished trials that TPE wants before it builds a model."""


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A study over the default space."""
    return tiny_config(tmp_path, space={})


def make_study(config: StudyConfig) -> optuna.Study:
    """Returns an empty study in memory, sampled as ours are."""
    return optuna.create_study(sampler=StudySampler(config), pruner=optuna.pruners.NopPruner())


def loss_of(params: dict[str, Any]) -> float:
    """Stands for training: a bowl around a learning rate of 0.03."""
    return abs(params["learning_rate"] - 0.03) + params["hidden_layers"] / 10


def go_on(study: optuna.Study, config: StudyConfig, total: int) -> list[dict[str, Any]]:
    """Adds trials up to ``total`` and returns the parameters of all."""
    while len(study.trials) < total:
        trial = study.ask()
        suggest(trial, config.space)
        study.tell(trial, loss_of(trial.params))
    return [trial.params for trial in study.trials]


def copy_of(trials: list[FrozenTrial], config: StudyConfig) -> optuna.Study:
    """Returns a new study, with a new sampler, that has the same history."""
    study = make_study(config)
    for trial in trials:
        study.add_trial(trial)
    return study


@settings(max_examples=8)
@given(cut=st.integers(0, STARTUP + 5), seed=st.integers(0, 2**63 - 1))
def test_resumed_proposals_are_the_same(cut: int, seed: int) -> None:
    """A study that goes on in another process after any trial proposes what it would have."""
    data = {"task": "forecast", "path": "y.csv"}
    config = make_config({"name": "s", "seed": seed, "data": data}, "test")
    whole = make_study(config)
    expected = go_on(whole, config, STARTUP + 6)
    assert go_on(copy_of(whole.trials[:cut], config), config, STARTUP + 6) == expected


@pytest.mark.parametrize("number", [0, 2, 3, 5, 7, STARTUP - 1, STARTUP + 2])
@pytest.mark.parametrize("stored", [0, 1, 4, 10])
def test_half_stored_trial_is_completed(config: StudyConfig, number: int, stored: int) -> None:
    """A trial killed after storing some of its parameters gets the others it would have had."""
    whole = make_study(config)
    expected = go_on(whole, config, number + 1)[-1]
    study = copy_of(whole.trials[:number], config)
    space = distributions(config.space)
    first = list(space)[:stored]
    study.add_trial(
        optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params={name: expected[name] for name in first},
            distributions={name: space[name] for name in first},
        )
    )
    trial = optuna.Trial(study, study.trials[-1]._trial_id)
    suggest(trial, config.space)
    assert trial.params == expected


def test_second_try_of_an_ask_draws_the_same(config: StudyConfig) -> None:
    """Asking the same sampler twice for one trial gives one answer, so a fault leaves no trace."""
    study = make_study(config)
    go_on(study, config, STARTUP + 1)
    study.ask()
    sampler, frozen = study.sampler, study.trials[-1]
    space = sampler.infer_relative_search_space(study, frozen)
    one, other = (sampler.sample_relative(study, frozen, space) for _ in range(2))
    assert one == other


def test_starting_points_come_first(config: StudyConfig) -> None:
    """The first three trials are the lesson's values at 0.01, 0.1 and 0.001."""
    params = go_on(make_study(config), config, 3)
    assert [point["learning_rate"] for point in params] == [0.01, 0.1, 0.001]
    assert [(p["batch_size"], p["epochs"], p["hidden_layers"]) for p in params] == [(32, 12, 1)] * 3


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING])
def test_starting_points_are_not_repeated(config: StudyConfig, state: TrialState) -> None:
    """A starting point that was tried is not tried again, however it ended or if it is running."""
    study, space = make_study(config), distributions(config.space)
    for point in starting_points(config.space):
        study.add_trial(
            optuna.trial.create_trial(state=state, params=dict(point), distributions=space)
        )
    known = len(study.trials)
    params = go_on(study, config, known + 2)
    assert all(later not in params[:known] for later in params[known:])


@pytest.mark.parametrize("seed", [0, 1])
def test_no_two_trials_are_alike(tmp_path: Path, seed: int) -> None:
    """In 40 trials, half of them with a model, no parameters come twice."""
    config = tiny_config(tmp_path, space={}, seed=seed)
    params = go_on(make_study(config), config, 40)
    assert len({tuple(sorted(point.items())) for point in params}) == 40


def test_seeds_differ(tmp_path: Path) -> None:
    """Two seeds share the starting points and propose something else after them."""
    one, other = (
        go_on(make_study(config), config, 9)
        for config in (tiny_config(tmp_path, space={}, seed=seed) for seed in (1, 2))
    )
    assert one[:6] == other[:6]
    assert all(mine != theirs for mine, theirs in zip(one[6:], other[6:], strict=True))


def test_random_trials_do_not_share_numbers(config: StudyConfig) -> None:
    """Two trials asked on the same history draw from different sequences."""
    study = make_study(config)
    go_on(study, config, 7)
    one, other = (suggest(study.ask(), config.space) for _ in range(2))
    assert one.learning_rate != other.learning_rate
    assert one != other
