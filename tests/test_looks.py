"""How looks at the test part are counted: the same networks again are no further look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from networks import hyper
from test_storage import config, database, stored

from search.evaluation import Candidate, Contest
from search.looks import Look, looks_of, record_look
from search.retraining import Result, Retraining
from search.stored_study import StoredStudy
from search.trial import Outcome

__all__ = ["config", "database", "stored"]

LOOK = Look(
    [{"rmse": 0.5, "mae": float("nan")}],
    {"rmse": 0.4, "mae": 0.3},
    {"ridge": {"rmse": 0.2, "mae": 1}},
)


def contest(trial: int = 3, seed: int = 7) -> Contest:
    """Returns what came of one retraining of a trial."""
    one = Retraining(0, trial, seed, hyper(), Path("nowhere"))
    result = Result(one, Outcome.COMPLETE, "", 1, {"loss": 0.5})
    return Contest(Candidate(trial, 0.5, {}, hyper()), (result,))


def record(stored: StoredStudy, winner: Contest, look: Look) -> int:
    """Records a look, and returns how many there are then."""
    found = record_look(stored, [winner], winner, look, 5)
    assert [one["id"] for one in found] == [one["id"] for one in looks_of(stored)]
    return len(found)


def test_the_same_figures_again_are_the_look_that_they_were(stored: StoredStudy) -> None:
    """Seen once more, figures without a number among them keep the look's id and its first time."""
    assert record(stored, contest(), LOOK) == 1
    (first,) = looks_of(stored)
    assert record(stored, contest(), LOOK) == 1
    (again,) = looks_of(stored)
    assert (again["id"], again["time"]) == (first["id"], first["time"])


@pytest.mark.parametrize(
    ("winner", "look"),
    [
        (contest(trial=4), LOOK),
        (contest(seed=8), LOOK),
        (contest(), replace(LOOK, each=[{"rmse": 0.5, "mae": 0.1}])),
        (contest(), replace(LOOK, ensemble={"rmse": 0.4, "mae": 0.2})),
        (contest(), replace(LOOK, baselines={"ridge": {"rmse": 0.1, "mae": 1}})),
    ],
    ids=["trial", "seed", "figure", "ensemble", "baseline"],
)
def test_other_figures_are_another_look(stored: StoredStudy, winner: Contest, look: Look) -> None:
    """Another network, or other figures of the same seeds, is a second look, and warned of."""
    assert record(stored, contest(), LOOK) == 1
    assert record(stored, winner, look) == 2
    assert record(stored, winner, look) == 2
