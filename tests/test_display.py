"""What a terminal shows while a study runs."""

from __future__ import annotations

import io
from pathlib import Path

import optuna
import pytest
from rich.console import Console
from tiny import tiny_config

from search.database import Database
from search.diagnosis import diagnose
from search.display import Progress, verdict
from search.evaluating import RetrainingProgress
from search.retraining import Retraining
from search.space import HyperParams, starting_points, suggest
from search.storage import create_study, open_study
from search.stored_study import StoredStudy, Taken
from search.trial import Curve, Decision, Epoch, Outcome


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A new study in a new SQLite file."""
    database = Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    config = tiny_config(tmp_path)
    return create_study(database, config, {"data": "f00d", "baselines": {}, "notes": []})


def finish(stored: StoredStudy, progress: Progress, value: float) -> None:
    """Adds a trial to the study and tells the progress of it."""
    taken = stored.take(99)
    assert taken is not None
    curve = Curve((Epoch(1, value, {"loss": value}, 0.01, 0.1),))
    decision = Decision(Outcome.COMPLETE, "trained 1 epochs")
    stored.finish(taken, decision, curve, {})
    progress.ended(0, taken, decision, curve, diagnose([8.71, 3.25, 4.93, 3.30, 4.82]))


def test_live_bars_end_with_the_best_so_far(stored: StoredStudy) -> None:
    """On a terminal the best so far is drawn below the workers, once there are two trials."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Progress(console, stored, 5, 1, None) as progress:
        finish(stored, progress, 0.8)
        progress.tick()
        assert "best so far" not in screen.getvalue()
        finish(stored, progress, 0.2)
        finish(stored, progress, 0.5)
        progress._drawn = 0.0  # Drawing is not more frequent than four times a second.
        progress.tick()
    assert "best so far  █▁▁" in screen.getvalue()
    assert "#1 complete  loss 0.2 at epoch 1" in screen.getvalue()
    assert "jumping, lr 0.1 → lower  ← best" in screen.getvalue()


def test_trials_of_other_runs_count(stored: StoredStudy) -> None:
    """What was there before, and what another run adds meanwhile, counts, and may be the best."""
    said, unseen = io.StringIO(), io.StringIO()
    url = stored.database.url.render_as_string()
    other = open_study(Database(url, create=False), stored.config.name)
    theirs = Progress(Console(file=unseen), other, 9, 1, None)
    finish(other, theirs, 0.8)
    with Progress(Console(file=said, width=200), stored, 9, 1, None) as progress:
        finish(stored, progress, 0.6)
        finish(other, theirs, 0.2)
        finish(other, theirs, 0.9)
        finish(stored, progress, 0.3)
    first, last = said.getvalue().splitlines()
    assert first.startswith("[2/9] #1 complete")
    assert first.endswith("← best")
    assert last.startswith("[5/9] #4 complete")
    assert not last.endswith("← best")
    assert progress._history == [0.8, 0.6, 0.2, 0.2, 0.2]
    assert progress._best == 0.2


def test_more_workers_than_rows(stored: StoredStudy) -> None:
    """What a terminal has no rows for is counted, and the lines below the bars are there."""
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, height=20)
    with Progress(console, stored, 50, 32, None) as progress:
        progress.tick()
    said = screen.getvalue()
    assert "worker 14" in said
    assert "worker 15" not in said
    assert "and 17 more" in said
    assert "0/50 trials" in said


@pytest.mark.parametrize(("seed", "width"), [(100, 120), (1804289383, 80)])
def test_a_bar_for_a_retraining(stored: StoredStudy, seed: int, width: int) -> None:
    """A worker's bar names trial and seed of what it trains again, how far it is, and its end.

    It takes one line, whatever the seed.
    """
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=width)
    params = HyperParams.of(starting_points(stored.config.space)[0])

    def drawn(progress: RetrainingProgress) -> str:
        screen.truncate(0)
        progress._drawn = 0.0
        progress.tick()
        return screen.getvalue()

    with RetrainingProgress(console, stored, 3, 0, 1) as progress:
        trial = progress.as_trial(Retraining(0, 17, seed, params, Path("0")))
        progress.started(0, trial)
        for index in (1, 2):
            progress.advanced(0, trial, Epoch(index, 0.5, {"loss": index + 0.25}, 0.01, 0.1))
        row = drawn(progress)
        (line,) = [line for line in row.splitlines() if f"#17 seed {seed}" in line]
        assert "epoch 2/" in line
        assert "valid 2.2500" in line
        progress.ended(0, trial, Decision(Outcome.COMPLETE, "trained 2 epochs"), Curve())
        assert f"#17 seed {seed} complete" in screen.getvalue()
        assert "waiting" in drawn(progress)


def test_a_finding_in_words(stored: StoredStudy) -> None:
    """A finding about the rate says where the rate goes, another is named, none says nothing."""
    asked = optuna.trial.FixedTrial(starting_points(stored.config.space)[1])
    params: HyperParams = suggest(asked, stored.config.space)  # type: ignore[arg-type]
    taken = Taken(17, 18, params, 0, 0)
    assert verdict(diagnose([8.71, 3.25, 4.93, 3.3]), taken) == "  ·  jumping, lr 0.1 → lower"
    assert verdict(diagnose([2.0, 1.6, 1.2, 0.8, 0.4]), taken) == "  ·  still-falling"
    assert verdict(None, taken) == ""


@pytest.mark.parametrize(
    ("anew", "says"),
    [
        (True, "#3 begins anew: no checkpoint to go on from is on this machine\n"),
        (False, "#3 goes on; it had come to epoch 16\n"),
    ],
)
def test_a_trial_of_another_run(stored: StoredStudy, anew: bool, says: str) -> None:
    """A trial that an earlier run has left goes on, or begins anew, and which of both is said."""
    said = io.StringIO()
    params = HyperParams.of(starting_points(stored.config.space)[0])
    with Progress(Console(file=said, width=200), stored, 9, 1, None) as progress:
        progress.started(0, Taken(3, 4, params, 16, 0, anew=anew))
    assert said.getvalue() == says
