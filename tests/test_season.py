"""Tests of `search.data.season`."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from search.data.season import (
    autocorrelation,
    common_season,
    find_season,
    likely_seasons,
    without_trend,
)


def noise(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Returns white noise."""
    return np.random.default_rng(seed).normal(size=count)


@pytest.mark.parametrize("steps", [4, 7, 12, 24, 52])
def test_a_season_in_noise_on_a_trend(steps: int) -> None:
    """A wave half hidden in noise, on a rising line, is found at its true length."""
    time = np.arange(20 * steps + 60)
    values = 0.1 * time + np.sin(2 * np.pi * time / steps) + 0.4 * noise(len(time))
    found = find_season(values)
    assert found is not None
    assert found.steps == steps
    assert 0.3 < found.strength < 1


def test_one_spike_a_week() -> None:
    """A season need be no wave: one high value in seven is one, too."""
    values = np.where(np.arange(200) % 7 == 3, 5.0, 1.0) + 0.3 * noise(200)
    found = find_season(values)
    assert found is not None
    assert found.steps == 7


@pytest.mark.parametrize("kind", ["white", "walk", "sticky", "alternating"])
def test_no_season_where_there_is_none(kind: str) -> None:
    """White noise, random walks and first-order processes have none in 19 of 20 series at least."""
    found = 0
    for seed in range(60):
        values = noise(300, seed)
        if kind == "walk":
            values = np.cumsum(values)
        elif kind != "white":
            for at in range(1, len(values)):
                values[at] += (0.9 if kind == "sticky" else -0.5) * values[at - 1]
        found += find_season(values) is not None
    assert found <= 3


@pytest.mark.parametrize(
    "values", [np.ones(100), np.arange(100.0), np.arange(100.0) ** 2, noise(11), noise(1)]
)
def test_nothing_to_find(values: NDArray[np.float64]) -> None:
    """Constants, straight lines, parabolas and very short series have no season."""
    assert find_season(values) is None


@pytest.mark.parametrize("count", [300, 600])
@pytest.mark.parametrize("seed", range(3))
def test_what_comes_twice_is_no_season(count: int, seed: int) -> None:
    """Two waves in noise are no season: it must come again at twice the lag."""
    values = 0.1 * noise(count, seed)
    values[100:106] += 5
    values[130:136] += 5
    assert find_season(values) is None


def wave(steps: int, count: int = 240) -> NDArray[np.float64]:
    """Returns a wave of some steps, in a little noise."""
    time = np.arange(count)
    found: NDArray[np.float64] = np.sin(2 * np.pi * time / steps) + 0.2 * noise(count)
    return found


@pytest.mark.parametrize("steps", [9, 10, 12, 14, 15, 16])
def test_the_calendar_changes_no_other_season(steps: int) -> None:
    """A season further than a twelfth from the calendar's stays as it is."""
    found = find_season(wave(steps), (12,))
    assert found is not None
    assert found.steps == steps


@pytest.mark.parametrize("steps", [11, 13])
def test_a_season_near_the_calendars_is_the_calendars(steps: int) -> None:
    """A peak within a twelfth of a likely lag means that lag."""
    found = find_season(wave(steps), (12,))
    assert found is not None
    assert found.steps == 12


def test_half_a_season_is_none() -> None:
    """Where half a season has a smaller peak of its own, the season is the whole."""
    time = np.arange(240)
    found = find_season(wave(12) + 1.5 * np.sin(2 * np.pi * time / 6))
    assert found is not None
    assert found.steps == 12


def test_the_calendar_finds_little_where_there_is_nothing() -> None:
    """White noise has a season at the calendar's lag in one series of ten at most."""
    assert sum(find_season(noise(120, seed), (12,)) is not None for seed in range(200)) <= 20


@pytest.mark.parametrize(("weekend", "steps"), [(1.0, 24), (0.6, 24), (-0.9, 168)])
def test_a_day_is_the_season_of_a_week_of_days_alike(weekend: float, steps: int) -> None:
    """Hours have a season of 24 though 168 has the higher peak, but where days are unlike."""
    hours = np.arange(24 * 7 * 15)
    today = np.where(hours // 24 % 7 < 5, 1.0, weekend)
    noise = np.random.default_rng(0).normal(0, 0.1, len(hours))
    season = find_season(today * np.sin(2 * np.pi * hours / 24) + noise, (24, 168))
    assert season is not None
    assert season.steps == steps


def test_the_calendar_helps() -> None:
    """A weak season that chance could explain among all lags counts at the calendar's lag."""
    time = np.arange(60)
    values = np.sin(2 * np.pi * time / 12) + 0.9 * noise(60, 3)
    assert find_season(values) is None
    found = find_season(values, (12,))
    assert found is not None
    assert found.steps == 12


@pytest.mark.parametrize(
    ("step", "seasons"),
    [
        ("MS", (12,)),
        ("ME", (12,)),
        ("QS-OCT", (4,)),
        ("W-SUN", (52,)),
        ("D", (7,)),
        ("B", (5,)),
        ("M-15", (12,)),
        ("3M-15", (4,)),
        ("12M-04", ()),
        ("h", (24, 168)),
        ("15min", (96, 672)),
        (3600.0, (24, 168)),
        ("s", ()),
        ("YS-JAN", ()),
        ("2D", ()),
        (None, ()),
    ],
)
def test_what_the_calendar_suggests(step: str | float | None, seasons: tuple[int, ...]) -> None:
    """Steps of a day or less may have a day and a week, months a year; years have nothing."""
    assert likely_seasons(step) == seasons


def test_autocorrelation_is_the_textbook_one() -> None:
    """Each lag equals the sum of products of the centred values over their sum of squares."""
    values = noise(50)
    centred = values - values.mean()
    wanted = [float((centred[: 50 - k] * centred[k:]).sum() / (centred**2).sum()) for k in range(9)]
    assert autocorrelation(values, 8) == pytest.approx(wanted)


def test_a_cubic_is_all_trend() -> None:
    """Nothing is left of a polynomial of third degree."""
    time = np.linspace(-1, 1, 80)
    assert np.abs(without_trend(4 * time**3 - time + 2)).max() < 1e-9


def weekly(count: int, seed: int = 0) -> NDArray[np.float64]:
    """Returns a wave of seven steps, in noise."""
    wave: NDArray[np.float64] = np.sin(2 * np.pi * np.arange(count) / 7) + 0.4 * noise(count, seed)
    return wave


def test_a_stretch_that_cannot_hold_a_season_has_no_say() -> None:
    """Stretches of fewer than three seasons say nothing against that of a longer one."""
    long = weekly(300)
    found = common_season([noise(1), noise(11), long, noise(20)], (7,))
    assert found == find_season(long, (7,))
    assert found is not None
    assert found.steps == 7


def test_stretches_that_hold_no_season_three_times_have_no_say() -> None:
    """Many stretches, longer together, say nothing if none of them could show the season."""
    time = np.arange(300)
    long = np.sin(2 * np.pi * time / 24) + 0.2 * noise(300)
    short = [noise(71, seed) for seed in range(8)]
    assert common_season([long, *short], (24,)) == find_season(long, (24,))
    assert find_season(long, (24,)) is not None
    assert common_season([long, *(noise(72, seed) for seed in range(8))], (24,)) is None


def test_a_season_is_that_of_most_values() -> None:
    """A season counts if more than half of the values are in stretches that have it."""
    found = common_season([weekly(200), noise(200), weekly(200, 1)], (7,))
    assert found is not None
    assert found.steps == 7
    assert common_season([weekly(200), noise(200, 1), noise(200, 2)], (7,)) is None
    assert common_season([noise(5)]) is None


@pytest.mark.parametrize("growth", [10.0, 50.0])
def test_noise_that_grows_with_the_level_has_no_season(growth: float) -> None:
    """Of series that grow by far, their noise with them, hardly one in twenty has a season."""
    found = 0
    for seed in range(100):
        noise = 1 + 0.02 * np.random.default_rng(seed).standard_normal(600)
        values = growth ** (np.arange(600) / 600) * noise
        found += find_season(values, (7,)) is not None
    assert found <= 5


def test_a_season_that_grows_with_the_level_is_found() -> None:
    """Growth hides no season that grows with it, as that of passengers of airlines does."""
    steps = np.arange(144)
    noise = 0.04 * np.random.default_rng(1).standard_normal(144)
    values = np.exp(steps / 40 + 0.15 * np.sin(2 * np.pi * steps / 12) + noise)
    found = find_season(values, (12,))
    assert found is not None
    assert found.steps == 12


def test_a_small_season_on_a_high_level_is_found() -> None:
    """A level of 10^15 beside a season of 5 hides it no more than one of 0 does."""
    steps = np.arange(700)
    values = np.round(5 * np.sin(2 * np.pi * steps / 7)) + steps % 3
    high = find_season(1e15 + values)
    assert high is not None
    assert high.steps == 7
    assert find_season(np.full(700, 1e15)) is None


@pytest.mark.parametrize(("count", "growth"), [(60, 10.0), (96, 50.0)])
def test_a_season_in_noise_that_grows_is_found(count: int, growth: float) -> None:
    """Few years that grow by far show their season in nearly every case, as steady ones do."""
    steps, found = np.arange(count), 0
    for seed in range(40):
        wave = 0.2 * np.sin(2 * np.pi * steps / 12) + 0.1 * noise(count, seed)
        season = find_season(growth ** (steps / count) * (1 + wave), (12,))
        found += season is not None and season.steps == 12
    assert found >= 30


def test_an_outlier_hides_no_season() -> None:
    """One value far off, as a wrong entry may be, leaves the others their season."""
    for seed in range(10):
        values = np.sin(np.arange(144) * 2 * np.pi / 12) + 0.5 * noise(144, seed)
        values[79] += 15
        found = find_season(values, (12,))
        assert found is not None
        assert found.steps == 12
