"""A study made from another: which of its trials come along."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState
from test_storage import (
    ATTRIBUTES,
    COMPLETE,
    DIVERGED,
    FAILED,
    changed,
    config,
    database,
    fill,
    stored,
)

from search.errors import StudyError
from search.looks import looks_before, looks_of
from search.storage import create_study, is_made, list_studies, open_study
from search.stored_study import LOOKS, StoredStudy
from search.trial import Decision, Outcome, derive_seed

__all__ = ["config", "database", "stored"]


def fork(old: StoredStudy, space: dict[str, Any]) -> tuple[StoredStudy, list[tuple[int, int]]]:
    """Forks a study into ``forked`` with a changed space."""
    config = changed(old.config, {"name": "forked", "space": space})
    new = create_study(old.database, config, ATTRIBUTES, fork_of=old)
    return new, [(trial.user_attrs["forked_from"][1], trial.number) for trial in new.trials()]


OF_FORKS = ("forked_from", "trained")
"""Attributes that only a forked trial has."""


def told(trials: list[optuna.trial.FrozenTrial]) -> list[tuple[Any, ...]]:
    """Returns what a fork has to keep of trials."""
    return [
        (
            trial.state,
            trial.value,
            trial.intermediate_values,
            trial.constraints,
            {key: value for key, value in trial.user_attrs.items() if key not in OF_FORKS},
        )
        for trial in trials
    ]


def test_fork_takes_all_that_fits(stored: StoredStudy) -> None:
    """In a wider space every complete, pruned and diverged trial is taken over, failed ones not."""
    pruned = Decision(Outcome.PRUNED, "worse than the median")
    fill(stored, COMPLETE, DIVERGED, FAILED, pruned, COMPLETE)
    new, copied = fork(stored, {"epochs": {"low": 1, "high": 9}, "cell": ["gru", "lstm", "rnn"]})
    assert copied == [(0, 0), (1, 1), (3, 2), (4, 3)]
    old_trials = [trial for trial in stored.trials() if trial.state != TrialState.FAIL]
    assert told(new.trials()) == told(old_trials)
    assert new.trials()[1].constraints == {"diverged": 1.0}
    assert [trial.params for trial in new.trials()] == [trial.params for trial in old_trials]
    assert new.trials()[2].user_attrs["forked_from"] == ["tiny", 3]


def test_a_fork_of_a_fork_has_what_its_trials_were_trained_with(stored: StoredStudy) -> None:
    """A study between, with a seed of its own, changes nothing of what `replay` needs."""
    fill(stored, COMPLETE)
    first, seeds = derive_seed(stored.config.seed, "training", 0), []
    for name, seed in (("second", 7), ("third", 8)):
        config = changed(stored.config, {"name": name, "seed": seed})
        stored = create_study(stored.database, config, ATTRIBUTES, fork_of=stored)
        (trial,) = stored.trials()
        seeds.append(trial.user_attrs["trained"]["seed"])
    assert seeds == [first, first]
    assert first != derive_seed(7, "training", 0)


def test_a_fork_knows_of_looks_at_the_test_part(stored: StoredStudy) -> None:
    """Who forks a study has seen what it saw; the looks of all before it are the fork's past."""
    fill(stored, COMPLETE)
    look = {"time": "2026-01-01T00:00:00+00:00", "metric": "rmse", "mean": 0.5, "trial": 0}
    expected = []
    for name, mean in (("second", 0.5), ("third", None)):
        stored.study.set_user_attr(LOOKS, [{**look, "mean": mean, "figures": {"seeds": []}}])
        expected.append({"study": stored.config.name, **look, "mean": mean})
        config = changed(stored.config, {"name": name})
        stored = create_study(stored.database, config, ATTRIBUTES, fork_of=stored)
        assert stored.attributes["fork"]["looks"] == expected
        assert looks_of(stored) == []
    before = looks_before(stored)
    assert [one["study"] for one in before] == ["tiny", "second"]
    assert math.isnan(before[1]["mean"])


def test_a_fork_is_a_matter_of_few_transactions(stored: StoredStudy) -> None:
    """More trials take no more transactions, for each of which other runs would wait."""
    commits: list[object] = []
    sa.event.listen(stored.database.engine, "commit", commits.append)
    needed = []
    for name in ("few", "many"):
        fill(stored, *[COMPLETE] * 4)
        commits.clear()
        config = changed(stored.config, {"name": name})
        new = create_study(stored.database, config, ATTRIBUTES, fork_of=stored)
        needed.append((len(commits), len(new.trials())))
    assert [trials for _, trials in needed] == [4, 8]
    assert needed[1][0] <= needed[0][0]


def test_fork_leaves_what_does_not_fit(stored: StoredStudy) -> None:
    """In a narrower space only trials inside it are taken over."""
    fill(stored, *[COMPLETE] * 8)
    new, copied = fork(stored, {"learning_rate": {"low": 5e-3, "high": 0.5}})
    inside = [t.number for t in stored.trials() if 5e-3 <= t.params["learning_rate"] <= 0.5]
    assert [number for number, _ in copied] == inside
    assert 2 not in inside
    assert len(new.trials()) == len(inside)


def test_fork_does_not_repeat_starting_points(stored: StoredStudy) -> None:
    """What the old study has tried the new one does not try again."""
    fill(stored, *[COMPLETE] * 4)
    new, _ = fork(stored, {"dropout": {"low": 0.0, "high": 0.6}})
    taken = new.take(5)
    assert taken is not None
    assert taken.number == 4
    assert taken.params.learning_rate not in (0.01, 0.1, 0.001)


def test_a_fork_that_was_cut_off_is_made_anew(
    stored: StoredStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork killed before it was whole leaves nothing in the way of the same fork."""
    fill(stored, *[COMPLETE] * 4)
    trials = [trial.number for trial in stored.trials()]

    def cut_off(_trials: object, _old: Path, new: Path) -> None:
        (new / "00000").mkdir(parents=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("search.storage.copy_trial_files", cut_off)
        with pytest.raises(KeyboardInterrupt):
            fork(stored, {})
    (left,) = [one for one in list_studies(stored.database) if one.study_name == "forked"]
    assert not is_made(left)
    with pytest.raises(StudyError, match=r"'forked' in .* is being made by another run"):
        open_study(stored.database, "forked")
    new, copied = fork(stored, {})
    assert [number for number, _ in copied] == trials
    assert all(map(is_made, list_studies(stored.database)))
    assert [*stored.database.folder.glob("forked-*")] in ([], [new.folder])


def test_a_fork_that_was_cut_off_at_once_is_no_study(stored: StoredStudy) -> None:
    """What a fork killed after its first write leaves is in nobody's way."""
    fill(stored, *[COMPLETE] * 2)
    optuna.create_study(storage=stored.database.storage, study_name="forked")
    assert [is_made(one) for one in list_studies(stored.database)] == [False, True]
    _, copied = fork(stored, {})
    assert [number for number, _ in copied] == [0, 1]
    assert all(map(is_made, list_studies(stored.database)))


@pytest.mark.parametrize("directions", [["maximize"], ["minimize", "minimize"]])
def test_an_empty_study_with_another_goal(stored: StoredStudy, directions: list[str]) -> None:
    """A study that somebody has just made in a dashboard is not ranked upside down, but refused."""
    optuna.create_study(storage=stored.database.storage, study_name="forked", directions=directions)
    says = " and ".join(directions)
    with pytest.raises(StudyError, match=f"an empty study 'forked' .* to {says}, not to minimize"):
        fork(stored, {})
    left = optuna.load_study(study_name="forked", storage=stored.database.storage)
    assert (len(left.directions), left.user_attrs) == (len(directions), {})


def test_fork_can_fix_and_free_a_parameter(stored: StoredStudy) -> None:
    """A dimension that becomes fixed filters the trials; one that was fixed keeps its value."""
    fill(stored, *[COMPLETE] * 6)
    cells = [trial.params["cell"] for trial in stored.trials()]
    fixed, copied = fork(stored, {"cell": ["lstm"]})
    assert len(copied) == cells.count("lstm")
    assert all("cell" not in trial.params for trial in fixed.trials())
    config = changed(fixed.config, {"name": "freed", "space": {"cell": ["lstm", "gru"]}})
    freed = create_study(stored.database, config, ATTRIBUTES, fork_of=fixed)
    assert [trial.params["cell"] for trial in freed.trials()] == ["lstm"] * len(copied)
