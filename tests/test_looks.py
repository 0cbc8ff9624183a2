"""How looks at the test part are counted: the same networks again are no further look."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from networks import hyper
from test_storage import config, database, stored

from search.evaluation import Candidate, Contest
from search.looks import Evaluation, Look, looks_of, record_look
from search.retraining import Result, Retraining
from search.selection import _at_test
from search.stored_study import StoredStudy
from search.trial import Goal, Outcome

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


def test_an_export_has_the_figures_of_the_last_look(stored: StoredStudy) -> None:
    """Of the ensemble or of a seed, and its number counts those of the study it was forked from."""
    before = {"study": "first", "time": "2026-01-01", "metric": "rmse", "mean": 0.1, "trial": 0}
    stored.remember(fork={"study": "first", "taken": 0, "looks": [before]})
    other = replace(LOOK, each=[{"rmse": 0.7, "mae": 0.6}], ensemble={"rmse": 0.6, "mae": 0.5})
    for winner, look in ((contest(), LOOK), (contest(trial=4), other)):
        record(stored, winner, look)
    for place, figures in ((None, other.ensemble), (0, other.each[0])):
        seen = _at_test(stored, place)
        assert seen is not None
        assert (seen.figures, seen.look) == (figures, 3)
        assert seen.time == looks_of(stored)[-1]["time"]


def test_what_the_search_promised_and_what_was_kept() -> None:
    """The best trial's figure is compared with its own retrainings, whoever won."""
    params = hyper()
    runs = [Retraining(0, trial, 7, params, Path("nowhere")) for trial in (3, 4)]
    each = ({"rmse": 0.5, "loss": 0.25}, {"rmse": 0.4, "loss": 0.16})
    best, winner = (
        Contest(
            Candidate(one.trial, 0.2, {"rmse": 0.3}, params),
            (Result(one, Outcome.COMPLETE, "", 1, figures),),
        )
        for one, figures in zip(runs, each, strict=True)
    )
    shared = "rmse", Goal("loss"), [best, winner], winner, LOOK, [], []
    told = Evaluation("tiny", "forecast", *shared, {"ridge": {"rmse": 0.9}}).to_json()
    kept = {"trial": 3, "metric": "rmse", "search": 0.3, "retrained": 0.5}
    assert told["optimism"] == {**kept, "difference": pytest.approx(0.2)}
    assert (told["winner"], told["valid"]["mean"], told["test"]["mean"]) == (4, 0.4, 0.5)
    assert told["valid"]["baselines"] == {"ridge": {"rmse": 0.9}}
    assert told["test"]["baselines"] == LOOK.baselines
    assert told["test"]["ensemble"] == 0.4
