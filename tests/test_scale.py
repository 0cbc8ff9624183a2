"""A study of ten thousand trials opens, resumes and proposes, and is read once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from many import write_many
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from tiny import tiny_config

from search import reading, tpe
from search.config import StudyConfig
from search.database import Database
from search.sampling import Shortlist, StudySampler
from search.space import distributions
from search.storage import open_study
from search.stored_study import StoredStudy
from search.trial import Curve, Decision, Epoch, Goal, Outcome, derive_seed

COMPLETE = Decision(Outcome.COMPLETE, "trained 2 epochs")


def again(stored: StoredStudy) -> StoredStudy:
    """Opens the study once more, as another process would."""
    url = stored.database.url.render_as_string()
    return open_study(Database(url, create=False), stored.config.name)


def train(stored: StoredStudy, losses: tuple[float, ...] = (0.5, 0.4)) -> int:
    """Takes a trial, reports, and tells it."""
    taken = stored.take(1_000_000)
    assert taken is not None
    curve = Curve()
    for index, loss in enumerate(losses, start=1):
        curve = curve.then(Epoch(index, loss, {"loss": loss}, 0.01, 0.1))
        stored.report(taken, curve.epochs[-1])
    assert stored.finish(taken, COMPLETE, curve, {})
    return taken.number


def read_by(call: Callable[[], object]) -> list[int]:
    """Returns the ids of the trials that a call reads from the database, each as often as it is."""
    read: list[int] = []
    original = reading._assemble

    def noting(connection: Any, wanted: Any, found: Any) -> list[FrozenTrial]:
        read.extend(row.trial_id for row in found)
        return original(connection, wanted, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "_assemble", noting)
        call()
    return read


@pytest.mark.slow
def test_ten_thousand_trials(tmp_path: Path) -> None:
    """A study of 10 000 trials opens, gives back what was unfinished, proposes, and goes on."""
    written = write_many(tmp_path, 10_000)
    stored = again(written)
    assert len(stored.trials()) == 10_000
    left = stored.take(20_000)
    assert left is not None
    assert left.number == 10_000
    stored.report(left, Epoch(1, 0.5, {"loss": 0.5}, 0.01, 0.1))
    stored.release(left)
    resumed = again(written)
    taken = resumed.take(20_000)
    assert taken is not None
    assert (taken.number, taken.params, taken.reported) == (10_000, left.params, 1)
    curve = Curve((Epoch(1, 0.5, {"loss": 0.5}, 0.01, 0.1),))
    assert resumed.finish(taken, COMPLETE, curve, {})
    for number in range(10_001, 10_006):
        assert train(resumed) == number
    assert resumed.reached() is None
    last = again(written).trials()[-6:]
    assert [trial.state for trial in last] == [TrialState.COMPLETE] * 6
    assert len({tuple(trial.params.items()) for trial in last}) == 6


def test_a_study_is_read_once(tmp_path: Path) -> None:
    """After it was opened, a trial reads none of the trials that are over."""
    stored = again(write_many(tmp_path, 30))
    assert read_by(lambda: (stored.news(), stored.trials())) == list(range(1, 31))
    calls = (lambda: train(stored), stored.reached, stored.stagnated, stored.trials, stored.news)
    assert set(read_by(lambda: [call() for call in calls])) == {31}


def test_what_is_read_is_what_optuna_reads(tmp_path: Path) -> None:
    """Every field of every trial is read as Optuna itself reads it, whatever its state."""
    stored = again(write_many(tmp_path, 3))
    storage, one = stored.database.storage, stored.study._study_id
    stored.study.enqueue_trial({"learning_rate": 0.5}, user_attrs={"whose": "mine"})
    train(stored)
    half = stored.take(100)
    assert half is not None
    for step, value in enumerate((float("nan"), float("inf"), -float("inf"), 0.25)):
        storage.set_trial_intermediate_value(half.trial_id, step, value)
    storage.set_trial_system_attr(half.trial_id, "constraints:x", 1.0)
    empty = storage.create_new_trial(one)
    storage.set_trial_state_values(empty, TrialState.COMPLETE, [float("inf")])
    storage.create_new_trial(one)
    plain = RDBStorage(stored.database.url.render_as_string())
    ours, theirs = again(stored).trials(), plain.get_all_trials(one)
    assert [_fields(trial) for trial in ours] == [_fields(trial) for trial in theirs]
    assert len(ours) == 7


def _fields(trial: FrozenTrial) -> dict[str, Any]:
    """Returns all fields; what is not a number is equal to itself there."""
    kept = dict(vars(trial))
    return kept | {"intermediate_values": repr(sorted(trial.intermediate_values.items()))}


@pytest.mark.parametrize("wanted", [(None, set(), 2), (None, {1, 3}, 2), (("R",), {1}, 0)])
def test_a_part_is_the_part_that_optuna_reads(
    tmp_path: Path, wanted: tuple[Any, set[int], int]
) -> None:
    """Of all trials, those asked for by state, by id or as later ones are read, and no others."""
    stored = again(write_many(tmp_path, 5))
    assert stored.take(100) is not None
    states = None if wanted[0] is None else (TrialState.RUNNING, TrialState.COMPLETE)
    plain = RDBStorage(stored.database.url.render_as_string())
    ours = stored.database.storage._backend._get_trials(1, states, *wanted[1:])
    theirs = plain._get_trials(1, states, *wanted[1:])
    assert ours == theirs
    assert 0 < len(ours) <= 6
    with pytest.raises(KeyError):
        stored.database.storage._backend._get_trials(2, None, set(), -1)


@pytest.fixture
def config(tmp_path: Path) -> StudyConfig:
    """A study over the default space."""
    return tiny_config(tmp_path, space={})


def finished(study: optuna.Study, config: StudyConfig, count: int) -> list[FrozenTrial]:
    """Adds trials of every kind to a study, and returns them."""
    sampler, kinds = optuna.samplers.RandomSampler(seed=0), distributions(config.space)
    for number in range(count):
        state = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL][number % 5 % 3]
        # The sampler wants a study and a trial, and looks at neither.
        params = {n: sampler.sample_independent(study, None, n, d) for n, d in kinds.items()}  # type: ignore[arg-type]
        loss = number * 0.618034 % 1
        study.add_trial(
            optuna.trial.create_trial(
                state=state,
                value=loss if state == TrialState.COMPLETE else None,
                params=params,
                distributions=kinds,
                system_attrs={"constraints:diverged": 1.0} if number % 7 == 4 else {},
                intermediate_values=dict.fromkeys(range(1, 2 + number % 3), loss),
            )
        )
    return study.get_trials()


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("seed", range(5))
def test_short_studies_are_proposed_for_as_by_optuna(
    tmp_path: Path, direction: str, seed: int
) -> None:
    """With fewer trials than are fitted, a proposal is what Optuna's TPE makes of all of them.

    That is so of those in training, too, which change it.
    """
    config = tiny_config(tmp_path, space={}, seed=seed)
    study = optuna.create_study(direction=direction)
    kinds = distributions(config.space)
    trials = finished(study, config, 121)
    shortlist = Shortlist(Goal("loss", direction == "minimize"), kinds, [])
    sampler = StudySampler(config)
    shortlist.add(reversed(trials))
    alone, _ = sampler.propose(study, 123, trials, shortlist)
    # Two are in training, and one of them is of somebody who has not got to all parameters.
    for params in (alone, {"learning_rate": 0.5}):
        study.add_trial(
            optuna.trial.create_trial(
                state=TrialState.RUNNING,
                params=params,
                distributions={name: kinds[name] for name in params},
            )
        )
    ours, attributes = sampler.propose(study, 123, study.get_trials(), shortlist)
    assert ours != alone
    theirs = optuna.samplers.TPESampler(seed=derive_seed(config.seed, "proposal", 123))
    trial = optuna.Trial(study, study._storage.create_new_trial(study._study_id))
    frozen = study.get_trials()[-1]
    proposed = theirs.sample_relative(study, frozen, kinds)
    floats = {name for name, value in ours.items() if isinstance(value, float)}
    assert [ours[name] for name in floats] == pytest.approx([proposed[name] for name in floats])
    assert {**ours, **{name: proposed[name] for name in floats}} == proposed
    assert attributes == {}
    assert trial.number == 123


@pytest.mark.parametrize("seed", range(3))
def test_what_is_in_training_is_not_proposed_again(tmp_path: Path, seed: int) -> None:
    """A proposal that is in training already is another one, for it counts as bad meanwhile."""
    config = tiny_config(tmp_path, space={}, seed=seed)
    study, kinds = optuna.create_study(), distributions(config.space)
    trials = finished(study, config, 60)
    shortlist = Shortlist(Goal(), kinds, [])
    shortlist.add(trials)
    sampler = StudySampler(config)
    first, _ = sampler.propose(study, 70, trials, shortlist)
    training = optuna.trial.create_trial(
        state=TrialState.RUNNING, params=first, distributions=kinds
    )
    training.number = 60
    second, _ = sampler.propose(study, 70, [*trials, training], shortlist)
    assert second != first


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_pruned_trials_are_ranked_as_by_optuna(config: StudyConfig, direction: str) -> None:
    """Where few trials complete, the pruned ones that came furthest, and best there, are good."""
    study, kinds = optuna.create_study(direction=direction), distributions(config.space)
    params = [trial.params for trial in finished(optuna.create_study(), config, 100)]
    for number, each in enumerate(params):
        reports = {step: (number * 7 + step) % 11 / 10 for step in range(1, 1 + number % 5)}
        kind = {"state": TrialState.PRUNED, "intermediate_values": reports}
        if number == 50:
            kind = {"state": TrialState.COMPLETE, "value": 0.5}
        study.add_trial(optuna.trial.create_trial(params=each, distributions=kinds, **kind))
    shortlist = Shortlist(Goal("loss", direction == "minimize"), kinds, [])
    shortlist.add(study.trials)
    good, _ = optuna.samplers._tpe.sampler._split_trials(study, study.trials, tpe.good_of(100))
    assert len(good) > 5
    assert shortlist.split()[0] == [tpe.coordinates(kinds, trial.params) for trial in good]


def test_trials_that_lack_parameters_are_no_part_of_a_proposal(config: StudyConfig) -> None:
    """Where all good trials are of somebody who had fewer parameters, there is a proposal still."""
    study, kinds = optuna.create_study(), distributions(config.space)
    trials = finished(study, config, 30)
    few = optuna.trial.create_trial(
        value=-1.0,
        params={"learning_rate": 0.5},
        distributions={"learning_rate": kinds["learning_rate"]},
    )
    study.add_trials([few] * 5)
    everyone = study.get_trials()
    shortlist = Shortlist(Goal(), kinds, [])
    shortlist.add(everyone)
    good, others = shortlist.split()
    assert good == []
    assert len(others) == sum(one.state != TrialState.FAIL for one in trials)
    params, _ = StudySampler(config).propose(study, 35, everyone, shortlist)
    assert params.keys() == kinds.keys()


def test_long_studies_are_proposed_for_from_the_best_and_the_latest(
    config: StudyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is fitted is the trials that Optuna takes for good and the latest, in whatever order."""
    monkeypatch.setattr("search.sampling.LATEST", 20)
    study = optuna.create_study()
    trials = finished(study, config, 200)
    kinds = distributions(config.space)
    one, other = Shortlist(Goal(), kinds, []), Shortlist(Goal(), kinds, [])
    one.add(trials)
    for trial in reversed(trials):
        other.add([trial])
    taught = [trial for trial in trials if trial.state != TrialState.FAIL]
    split = optuna.samplers._tpe.sampler._split_trials
    best, _ = split(study, taught, tpe.MOST_GOOD)
    good, _ = split(study, taught, tpe.good_of(len(taught)))
    fitted = {trial.number: trial for trial in [*best, *taught[-20:]]}
    others = [fitted[number] for number in sorted(fitted) if fitted[number] not in good]
    expected = tuple(
        [tpe.coordinates(kinds, one.params) for one in part] for part in (good, others)
    )
    assert one.split() == other.split() == expected
    late = copy.copy(trials[0])
    late.number = 1000
    assert one.split([late]) == (expected[0], [*expected[1], tpe.coordinates(kinds, late.params)])
