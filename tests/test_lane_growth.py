"""How many lanes train at once: found by measuring, with a GPU whose pace is written down here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from conformance import RULES, collect, job, splits
from hypothesis import given
from hypothesis import strategies as st
from test_lane_trainers import ends_in

from search.data.splits import Splits
from search.lane_growth import FULL, GAIN, PAUSE, Growth
from search.lane_trainers import LaneTrainers
from search.trial import Outcome

__all__ = ["splits"]

Pace = Callable[[int], float]
GRU = {32: 18251.0, 64: 28035.0, 128: 37618.0, 256: 43547.0}
"""Minibatches a second by lanes, of one shape on an H100 (bench/RESULTS.md)."""
RNN = {32: 27453.0, 64: 47461.0, 128: 77567.0, 256: 105359.0}
"""The same, of RNN layers."""
TICK = 0.25
BATCHES = 100
"""Of each epoch."""


class Gpu:
    """A search on a GPU that makes so many minibatches a second, in lanes that are always full.

    Attributes:
        seen: How many lanes there were at each look.
    """

    def __init__(self, pace: Pace, lanes: int, most: int, full: float = 1.0) -> None:
        self._now = 0.0
        self._pace, self._full = pace, full
        self.growth = Growth(lanes, most, lambda: self._now)
        self.seen: list[int] = []

    def run(self, seconds: float) -> int:
        """Trains for so long; returns how many lanes there are then."""
        owed = 0.0
        for _ in range(int(seconds / TICK)):
            self._now += TICK
            owed += self._pace(self.growth.limit) * TICK
            while owed >= BATCHES:
                self.growth.told(BATCHES)
                owed -= BATCHES
            self.growth.see(int(self.growth.limit * self._full))
            self.seen.append(self.growth.limit)
        return self.growth.limit


def table(rates: Mapping[int, float]) -> Pace:
    """Returns the pace that was measured."""
    return lambda lanes: rates[lanes]


@pytest.mark.parametrize(("rates", "expected"), [(GRU, 128), (RNN, 256)])
def test_lanes_of_one_shape_grow(rates: Mapping[int, float], expected: int) -> None:
    """On an H100 a search of one cell and shape comes to 128 lanes, or 256 of RNN layers."""
    gpu = Gpu(table(rates), 32, 256)
    assert gpu.run(120) == expected
    assert gpu.run(300) == expected


def test_what_does_not_help_is_taken_back() -> None:
    """Where more make no more, twice as many are tried for half a minute, and again much later."""
    gpu = Gpu(lambda lanes: 4000.0 - lanes, 32, 256)
    assert gpu.run(PAUSE) == 32
    tried = gpu.seen.count(64) * TICK
    assert set(gpu.seen) == {32, 64}
    assert 10 <= tried <= 30
    gpu.run(PAUSE)
    assert gpu.seen.count(64) * TICK == pytest.approx(2 * tried, abs=2)
    assert gpu.growth.limit == 32


@given(
    st.lists(st.floats(1.0, 2.0), min_size=4, max_size=4),
    st.integers(1, 40),
    st.integers(0, 700),
)
def test_what_stays_has_helped(gains: list[float], lanes: int, most: int) -> None:
    """Whatever the pace, in the end each doubling brought `GAIN`, and the next would not."""

    def pace(now: int) -> float:
        rate, size = 1000.0 * lanes, lanes
        for gain in gains:
            if size < now:
                rate, size = rate * gain, size * 2
        return rate

    gpu = Gpu(pace, lanes, most)
    # Not while the next are being tried.
    found = gpu.run(PAUSE / 2)
    assert all(lanes <= one <= max(lanes, most) for one in gpu.seen)
    doublings = 0
    while lanes << doublings < found:
        assert gains[doublings] >= GAIN * 0.98
        doublings += 1
    assert lanes << doublings == found
    if 2 * found <= most and doublings < len(gains):
        assert gains[doublings] <= GAIN * 1.02


def test_lanes_that_are_not_full_decide_nothing() -> None:
    """Where there are too few trials for the lanes that there are, more are not tried."""
    gpu = Gpu(table(RNN), 32, 256, full=FULL - 0.1)
    assert gpu.run(300) == 32
    assert set(gpu.seen) == {32}


def test_long_epochs_are_waited_for() -> None:
    """No lane's first epoch decides: it takes two of each, however long they are."""
    gpu = Gpu(lambda lanes: lanes * 1.0, 4, 64)  # An epoch takes 100 seconds.
    assert gpu.run(190) == 4
    assert gpu.run(60) == 8


def test_after_a_death_it_is_as_it_began() -> None:
    """Something has gone wrong, maybe for want of memory; more lanes are not tried again."""
    gpu = Gpu(table(RNN), 32, 256)
    gpu.run(60)
    assert gpu.growth.limit > 32
    gpu.growth.stop()
    assert gpu.run(2 * PAUSE) == 32


def test_trainers_heed_the_limit(splits: Splits, tmp_path: Path) -> None:
    """Seats beyond it are not free; when it has grown they are, and a death takes it back."""
    with LaneTrainers(splits, RULES, workers=1, device="cpu", most=4) as trainers:
        assert trainers.free() == [0]
        trainers.start(0, job(tmp_path, 0))
        assert trainers.free() == []
        trainers._growth.limit = 4
        assert trainers.free() == [1, 2, 3]
        for worker in (1, 2, 3):
            trainers.start(worker, job(tmp_path, worker))
        trainers._growth.limit = 2
        assert trainers.free() == []
        events = collect(trainers, lambda events: len(ends_in(events)) == 4, "all ends")
        assert ends_in(events) == dict.fromkeys(range(4), Outcome.COMPLETE)
        assert trainers.free() == [0, 1]


def test_trainers_count_what_they_train(splits: Splits, tmp_path: Path) -> None:
    """Each epoch's minibatches are told to what decides, and how many trials are in training."""
    told: list[int] = []
    busy: set[int] = set()
    with LaneTrainers(splits, RULES, workers=2, device="cpu", most=8) as trainers:
        trainers._growth.told = told.append  # type: ignore[method-assign]
        trainers._growth.see = busy.add  # type: ignore[method-assign]
        for worker in (0, 1):
            trainers.start(worker, job(tmp_path, worker))
        events = collect(trainers, lambda events: len(ends_in(events)) == 2, "both ends")
    batches = [len(event.losses) for event in events if hasattr(event, "losses")]
    assert told == batches
    assert min(batches) > 0
    assert busy >= {2}
