"""Advice that acts: which trials are tried again with another learning rate, and when."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from tiny import read_json, rnn_search, tiny_config, trials_of, write_study

from search import follow_ups as module
from search.config import StudyConfig, make_config
from search.diagnosis import diagnose
from search.follow_ups import EVERY, FollowUps
from search.sampling import StudySampler
from search.space import distributions, same, suggest
from search.trial import Goal

SLOW, JUMPING = diagnose([8.42, 8.41, 8.40]), diagnose([8.71, 3.25, 4.93, 3.30, 4.82])
TURN = EVERY - 1
"""The first number at which it is a follow-up's turn."""
START: dict[str, Any] = {
    "learning_rate": 0.01,
    "batch_size": 32,
    "epochs": 12,
    "hidden_layers": 1,
    "hidden_units": 64,
    "cell": "lstm",
    "optimizer": "adam",
    "decay": "none",
    "dropout": 0.0,
    "weight_decay": 0.0,
    "gradient_clipping": 0.0,
}


def config_of(**changes: Any) -> StudyConfig:
    """Returns a study over the default space, but for changes."""
    data = {"task": "forecast", "path": "y.csv"}
    return make_config({"name": "s", "data": data, "follow_advice": True, **changes}, "test")


CONFIG = config_of()


def trial(
    value: float | None,
    finding: Any = None,
    config: StudyConfig = CONFIG,
    state: TrialState = TrialState.COMPLETE,
    **params: Any,
) -> FrozenTrial:
    """Returns a trial as the studies store it."""
    space = distributions(config.space)
    wanted = {name: {**START, **params}[name] for name in space}
    return optuna.trial.create_trial(
        state=state,
        value=value,
        params=wanted,
        distributions=space,
        user_attrs=finding.to_attributes() if finding else {},
    )


def numbered(*trials: FrozenTrial) -> list[FrozenTrial]:
    """Gives the trials their numbers, in order."""
    for number, one in enumerate(trials):
        one.number = number
    return list(trials)


def next_follow_up(trials: list[FrozenTrial], number: int, config: StudyConfig = CONFIG) -> Any:
    """Returns the follow-up after these trials; None if there is none."""
    kept = FollowUps(config.space, Goal(config.metric, config.direction == "minimize"))
    kept.add(one for one in trials if one.state.is_finished())
    return kept.next(number, [one.params for one in trials if not one.state.is_finished()])


def follow(trials: list[FrozenTrial], number: int = TURN, config: StudyConfig = CONFIG) -> Any:
    """Returns number and learning rate of the follow-up; None if there is none."""
    found = next_follow_up(trials, number, config)
    return found and (found[0], found[1]["learning_rate"])


@pytest.mark.parametrize(("finding", "rate"), [(SLOW, 0.03), (JUMPING, 0.01 / 3)])
def test_a_good_trial_is_followed(finding: Any, rate: float) -> None:
    """The better of two trials is tried again, all else equal, with the rate its losses ask for."""
    trials = numbered(trial(2.0, learning_rate=0.1), trial(1.0, finding, dropout=0.25))
    found = next_follow_up(trials, TURN)
    assert found is not None
    assert found[0] == 1
    assert found[1] == {**START, "dropout": 0.25, "learning_rate": pytest.approx(rate)}


def test_one_in_five() -> None:
    """A follow-up comes at every fifth number at most."""
    trials = numbered(trial(1.0, SLOW), trial(2.0, learning_rate=0.1))
    turns = [number for number in range(3 * EVERY) if follow(trials, number)]
    assert turns == [4, 9, 14]


def test_bad_trials_are_not_followed() -> None:
    """A trial that is not among the better half of all that finished is left alone."""
    worse = trial(2.0, SLOW, learning_rate=0.1)
    assert follow(numbered(trial(1.0), worse)) is None
    pruned = trial(0.5, SLOW, state=TrialState.PRUNED, learning_rate=0.1)
    assert follow(numbered(trial(1.0), pruned)) is None


def test_the_best_comes_first() -> None:
    """Of several trials that ask for it the best is followed, then the next."""
    trials = numbered(
        trial(1.0, SLOW, dropout=0.1),
        trial(2.0, SLOW, dropout=0.2),
        *(trial(9.0, learning_rate=rate) for rate in (0.1, 0.2)),
    )
    assert follow(trials) == (0, pytest.approx(0.03))
    running = trial(None, state=TrialState.RUNNING, dropout=0.1, learning_rate=0.03)
    assert follow(numbered(*trials, running)) == (1, pytest.approx(0.03))


def test_larger_is_better_if_the_metric_says_so() -> None:
    """With a metric that is maximised the better trial is the one with the larger value."""
    config = config_of(metric="accuracy", data={"task": "classify", "path": "y.ts"})
    trials = numbered(trial(0.9, SLOW, dropout=0.1), trial(0.5, SLOW))
    assert follow(trials, config=config)[0] == 0


@pytest.mark.parametrize(
    ("finding", "rate", "space"),
    [
        (SLOW, 0.5, {}),
        (JUMPING, 2e-4, {}),
        (SLOW, 0.01, {"learning_rate": [0.01, 0.1]}),
        (SLOW, 0.01, {"learning_rate": {"fixed": 0.01}}),
    ],
)
def test_never_outside_the_space(finding: Any, rate: float, space: dict[str, Any]) -> None:
    """Where the better rate is not among those that are searched there is no follow-up."""
    config = config_of(space=space)
    trials = numbered(
        trial(1.0, finding, config, learning_rate=rate), trial(2.0, None, config, dropout=0.1)
    )
    assert follow(trials, config=config) is None


def test_a_choice_is_hit_exactly() -> None:
    """Among listed rates a follow-up is the listed number itself."""
    config = config_of(space={"learning_rate": [0.01, 0.03]})
    trials = numbered(trial(1.0, SLOW, config), trial(2.0, None, config, dropout=0.1))
    assert follow(trials, config=config) == (0, 0.03)


@pytest.mark.parametrize("other", [diagnose([1.0, 2.0, 4.0, 8.0]), None])
def test_other_findings_are_not_followed(other: Any) -> None:
    """Only advice whose worth was measured is acted on."""
    assert follow(numbered(trial(1.0, other), trial(2.0, learning_rate=0.1))) is None


def by_looking_at_all(trials: list[FrozenTrial], number: int) -> Any:
    """Returns the follow-up as the rule says it, with nothing kept."""
    finished = [one for one in trials if one.state.is_finished()]
    complete = [one for one in finished if one.state == TrialState.COMPLETE]
    better = sorted(complete, key=lambda one: (one.value, one.number))[: len(finished) // 2]
    for one in better if number % EVERY == TURN else ():
        params = module._with_better_rate(one, CONFIG.space)
        if params is not None and not any(same(params, other.params) for other in trials):
            return one.number, params
    return None


@pytest.mark.parametrize("seed", range(5))
def test_what_is_kept_says_what_all_trials_say(seed: int) -> None:
    """However trials end, the follow-up is the one that a look at all of them finds."""
    draw = random.Random(seed)
    states = [TrialState.COMPLETE] * 4 + [TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    trials: list[FrozenTrial] = []
    kept, followed = FollowUps(CONFIG.space, Goal()), 0
    for number in range(80):
        running = [one.params for one in trials if one.state == TrialState.RUNNING]
        found = kept.next(number, running)
        assert found == by_looking_at_all(trials, number)
        drawn = {"learning_rate": draw.choice([0.001, 0.003, 0.01, 0.03, 0.1]), "dropout": 0.25}
        state = draw.choice(states)
        value = draw.choice([1.0, 2.0, 3.0]) if state == TrialState.COMPLETE else None
        params = found[1] if found else {**drawn, "hidden_units": draw.choice([32, 64])}
        one = trial(value, draw.choice([SLOW, JUMPING, None]), state=state, **params)
        one.number, followed = number, followed + bool(found)
        trials.append(one)
        kept.add([one] if state.is_finished() else [])
    assert followed > 0


def test_to_ask_looks_at_no_trial_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """What trials ask for is found out when they end, and not again for each new one."""
    kept = FollowUps(CONFIG.space, Goal())
    kept.add(numbered(*(trial(9.0 - at, SLOW, hidden_units=20 + at) for at in range(40))))
    monkeypatch.setattr(module, "read_finding", lambda _: pytest.fail("it was read again"))
    found = kept.next(TURN, [])
    assert found is not None
    assert found[0] == 39


def go_on(study: optuna.Study, config: StudyConfig, total: int) -> list[dict[str, Any]]:
    """Adds trials up to ``total``, all too slow, the better the larger their rate."""
    while len(study.trials) < total:
        asked = study.ask()
        suggest(asked, config.space)
        for name, value in SLOW.to_attributes().items():
            asked.set_user_attr(name, value)
        study.tell(asked, 1 / asked.params["learning_rate"])
    return [one.params for one in study.trials]


def make_study(config: StudyConfig) -> optuna.Study:
    """Returns an empty study in memory, sampled as ours are."""
    return optuna.create_study(sampler=StudySampler(config), pruner=optuna.pruners.NopPruner())


@pytest.mark.parametrize("cut", [3, 4, 5, 9, 13])
def test_resumed_follow_ups_are_the_same(cut: int) -> None:
    """A study that goes on elsewhere follows what it would have followed."""
    whole = make_study(CONFIG)
    expected = go_on(whole, CONFIG, 15)
    again = make_study(CONFIG)
    for one in whole.trials[:cut]:
        again.add_trial(one)
    assert go_on(again, CONFIG, 15) == expected
    followers = [one.number for one in again.trials if "follows" in one.user_attrs]
    assert followers
    assert all(number % EVERY == TURN for number in followers)


def test_off_unless_asked_for() -> None:
    """Without ``follow_advice = true`` in the study file no trial follows another."""
    data = {"task": "forecast", "path": "y.csv"}
    study = make_study(make_config({"name": "s", "data": data}, "test"))
    go_on(study, CONFIG, 15)
    assert [one.number for one in study.trials if "follows" in one.user_attrs] == []


@pytest.mark.slow
def test_a_run_follows_and_says_so(tmp_path: Path) -> None:
    """A study that trains slowly tries a trial again three times as fast; `show` tells which."""
    space = {
        "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
        "epochs": 3,
        "hidden_units": 4,
        "optimizer": "sgd",
    }
    write_study(tmp_path, space=space, budget={"trials": 6}, follow_advice=True)
    ran = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 1)
    assert ran.returncode == 0, ran.stderr
    assert "too-slow, lr " in ran.stdout
    trials = trials_of(tmp_path)
    assert len(trials) == 6
    parent = trials[trials[TURN].user_attrs["follows"]]
    factor = {"too-slow": 3, "jumping": 1 / 3}[parent.user_attrs["finding"]]
    rates = [one.params["learning_rate"] for one in (trials[TURN], parent)]
    assert rates[0] == pytest.approx(factor * rates[1])
    shown = rnn_search(tmp_path, "show", "tiny", TURN)
    assert f"follows the advice on trial {parent.number}" in shown.stdout
    verdicts = read_json(rnn_search(tmp_path, "show", "tiny", "--json").stdout)["verdicts"]
    assert verdicts["too-slow"] >= 1


def test_the_switch_is_checked(tmp_path: Path) -> None:
    """A switch that is neither true nor false is refused by its name."""
    config = tiny_config(tmp_path)
    assert isinstance(config.follow_advice, bool)
    write_study(tmp_path, follow_advice="yes")
    refused = rnn_search(tmp_path, "check", "tiny.toml")
    assert refused.returncode == 2
    assert "follow_advice: must be true or false, not 'yes'" in refused.stderr
