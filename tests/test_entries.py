"""Trials as a report sees them: time without pauses, rows of workers, ranks, noise."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made import START, made_study, made_trial
from tiny import tiny_config

from search.certainty import wobble
from search.entries import Entry, make_clock, ranks, read_entries, time_unit
from search.report import TrialLine
from search.space_pictures import assign_lanes
from search.trial import Goal, Outcome

DAY = 86400.0


def entry(number: int, begun: float, ended: float, worker: int | None = 0) -> Entry:
    """Returns a trial of which only place and time matter."""
    line = TrialLine(number, "complete", 1.0, {}, 1, 1, {}, "", ended - begun)
    return Entry(line, 1.0, (1.0,), worker, begun, ended)


def test_long_pauses_are_cut_out() -> None:
    """Time worked leaves out the night between two runs, and keeps short gaps."""
    clock = make_clock(
        [entry(0, 0, 100), entry(1, 10, 130, 1), entry(2, 150, 300), entry(3, DAY, DAY + 50)]
    )
    assert clock.pauses == ((300, DAY),)
    assert [clock.worked(moment) for moment in (0, 150, 300)] == [0, 150, 300]
    assert clock.worked(DAY) == clock.worked(DAY / 2) == 300
    assert clock.worked(DAY + 50) == 350


def test_no_trial_has_no_time() -> None:
    """Without any trial that is over, no time was worked and there is no pause."""
    clock = make_clock([])
    assert (clock.worked(0.0), clock.pauses) == (0.0, ())


def test_workers_of_two_runs_have_rows_of_their_own() -> None:
    """Trials that overlap on a worker of the same number are drawn in different rows."""
    rows = assign_lanes(
        [
            entry(0, 0, 10),
            entry(1, 5, 15),
            entry(2, 11, 20),
            entry(3, 0, 9, 1),
            entry(4, 0, 9, None),
        ]
    )
    assert {e.line.number: lane for e, lane in rows} == {
        0: "worker 0",
        1: "worker 0, 2",
        2: "worker 0",
        3: "worker 1",
        4: "unknown",
    }


def test_a_trial_is_read_whole(tmp_path: Path) -> None:
    """Loss, searched figure by epoch, worker and the span of its last life are the stored ones."""
    config = tiny_config(tmp_path)
    trial = made_trial(config, 1, valid=[0.5, 0.25, 0.3], seconds=2.0, begun=100.0)
    trial.datetime_start = START  # interrupted then, and gone on with later
    (read,) = read_entries(made_study(tmp_path, [trial]))
    assert (read.loss, read.values, read.worker) == (0.25, (0.5, 0.25, 0.3), 1)
    assert read.begun == START.timestamp() + 100.0
    assert read.ended == START.timestamp() + 102.0


def test_what_was_taken_along_is_of_another_time(tmp_path: Path) -> None:
    """Trials that came by --fork are there from the start, in no worker's row, and still ranked."""
    config, old = tiny_config(tmp_path), {"forked_from": ["first", 3]}
    trials = [
        made_trial(config, 0, seconds=900.0, begun=-900.0, **old),
        made_trial(config, 1, seconds=2.0, begun=5.0),
    ]
    first, second = read_entries(made_study(tmp_path, trials))
    assert first.begun == first.ended == START.timestamp()
    clock = make_clock([first, second])
    assert clock.worked(second.ended or 0.0) == 7.0
    assert [one for one, _ in assign_lanes([first, second])] == [second]
    assert len(ranks([first, second], Goal())) == 2


def test_ranks(tmp_path: Path) -> None:
    """Pruned trials rank by the best they had, diverged ones last; failed ones were not judged."""
    config = tiny_config(tmp_path)
    trials = [
        made_trial(config, 0, valid=[0.5, 0.4]),
        made_trial(config, 1, Outcome.PRUNED, valid=[0.7, 0.9]),
        made_trial(config, 2, Outcome.DIVERGED, valid=[0.1, 9.0]),
        made_trial(config, 3, Outcome.FAILED, valid=[0.1]),
    ]
    entries = read_entries(made_study(tmp_path, trials))
    least = [(e.line.number, rank) for e, rank in ranks(entries, Goal())]
    assert least == [(0, 0.4), (1, 0.7), (2, math.inf)]
    most = [rank for _, rank in ranks(entries, Goal("accuracy", minimize=False))]
    assert most == [-0.5, -0.9, math.inf]


def test_noise_of_one_training() -> None:
    """The noise is the median step of the second half; too few epochs have none."""
    assert wobble([9, 7, 5, 3, 1, 1.1, 1, 1.1]) == pytest.approx(0.1)
    assert wobble([9, 7, 5, 3, 1]) is None
    assert wobble([]) is None


@pytest.mark.parametrize(
    ("seconds", "unit"),
    [(0.0, "seconds"), (119.0, "seconds"), (120.0, "minutes"), (8e3, "hours"), (2e5, "days")],
)
def test_units_of_time(seconds: float, unit: str) -> None:
    """A duration is written in the largest unit of which it has at least two."""
    assert time_unit(seconds)[1] == unit
