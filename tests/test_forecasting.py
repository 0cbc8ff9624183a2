"""Windows are cut where they may be, standardised on training rows, and judged in units."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.config import ForecastData
from search.data.forecasting import load_forecast
from search.data.windows import ForecastPart, ForecastSplits
from search.errors import DataError

PARTS = ("train", "valid", "test")


def load(folder: Path, frame: pd.DataFrame | None = None, **options: Any) -> ForecastSplits:
    """Writes a frame as CSV and loads it."""
    path = folder / "table.csv"
    if frame is not None:
        frame.to_csv(path, index=False)
    return load_forecast(ForecastData(task="forecast", path=path, **options))


def noise(count: int, seed: int = 0) -> np.ndarray:
    """Returns white noise of mean 5."""
    return np.random.default_rng(seed).normal(5, 2, count)


def walk(count: int, seed: int = 0) -> np.ndarray:
    """Returns a random walk."""
    return noise(count, seed).cumsum() - 5 * np.arange(count)


def daily(values: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Returns a frame of values, one a day."""
    when = pd.date_range("2020-01-01", periods=len(values), freq="D")
    return pd.DataFrame({"when": when, "y": values, **columns})


def windows_in_units(splits: ForecastSplits, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns a part's inputs (N, T, F) and targets (N, O), back in the data's units."""
    (batch,) = getattr(splits, name).batches(10**9, None)
    inputs = batch.inputs.double() * splits.feature_std + splits.feature_mean
    return inputs.numpy(), splits.to_units(batch.targets, splits.last(name)).numpy()


def sunspots() -> Path:
    """Returns the file that statsmodels carries."""
    package = importlib.import_module("statsmodels.datasets.sunspots")
    return Path(package.__file__).with_name("sunspots.csv")


def test_sunspots_figures() -> None:
    """On sunspots the baselines have the errors that shared/facts/data.md reports."""
    splits = load_forecast(
        ForecastData(task="forecast", path=sunspots(), time="YEAR", window=22, season=11)
    )
    assert [splits.train.size, splits.valid.size, splits.test.size] == [194, 46, 47]
    figures = splits.baselines("test")
    assert figures["persistence"]["rmse"] == pytest.approx(29.1, abs=0.05)
    assert figures["ridge"]["rmse"] < 18.5
    assert list(figures) == ["persistence", "seasonal_naive", "ridge"]
    assert splits.anchored
    assert splits.constant_loss == pytest.approx(1)


@pytest.mark.parametrize("missing", ["interpolate", "drop"])
def test_co2_with_missing_values(missing: str) -> None:
    """Weekly data with dates such as 19580329 and 59 missing values is read either way."""
    path = sunspots().parents[1] / "co2" / "co2.csv"
    options: dict[str, Any] = {"task": "forecast", "path": path, "time": "date", "window": 8}
    splits = load_forecast(ForecastData(missing=missing, **options))
    assert len(splits.observed) == (2284 if missing == "interpolate" else 2284 - 59)
    assert (int(splits.segments.max()) > 0) == (missing == "drop")
    assert any("59 of 2284 rows" in note for note in splits.notes)
    with pytest.raises(DataError, match=r"column 'co2' has no value in 59 rows, first in row \d+"):
        load_forecast(ForecastData(**options))


def windows_of(
    series: list[tuple[np.ndarray, np.ndarray]], part: int, window: int, horizon: int
) -> list[np.ndarray]:
    """Returns the windows a part should have, (T + H,) each, found one by one."""
    found, total = [], window + horizon
    for days, values in series:
        cuts = [0, int(len(days) * 0.5), int(len(days) * 0.75), len(days)]
        for at in range(len(days) - total + 1):
            inside = cuts[part] <= at + window and at + total <= cuts[part + 1]
            if inside and days[at + total - 1] - days[at] == total - 1:
                found.append(values[at : at + total])
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(20, 40), min_size=1, max_size=3),
    reach=st.tuples(st.integers(1, 6), st.integers(1, 3)),
    hole=st.integers(1, 18),
    anchored=st.booleans(),
)
def test_windows_hold_what_the_file_holds(
    tmp_path: Path, lengths: list[int], reach: tuple[int, int], hole: int, anchored: bool
) -> None:
    """Every allowed window is there once, in its part, with the file's own values and order."""
    (window, horizon), make, kept, rows = reach, walk if anchored else noise, [], []
    for number, length in enumerate(lengths):
        days = np.delete(np.arange(length), hole)
        series = pd.DataFrame({"day": days, "who": f"s{number}", "y": make(length, number)[days]})
        kept.append((days, series["y"].to_numpy()))
        rows.append(series)
    frame = pd.concat(rows).sample(frac=1, random_state=0)
    options: dict[str, Any] = {"time": "day", "series": "who", "target": "y"}
    options |= {"window": window, "horizon": horizon, "split": (0.5, 0.25, 0.25)}
    expected = [windows_of(kept, part, window, horizon) for part in range(3)]
    if not all(expected):
        with pytest.raises(DataError, match="part has no window"):
            load(tmp_path, frame, **options)
        return
    splits = load(tmp_path, frame, **options)
    for part, name in enumerate(PARTS):
        inputs, targets = windows_in_units(splits, name)
        found = np.concatenate([inputs[:, :, 0], targets], axis=1)
        np.testing.assert_allclose(found, np.array(expected[part]), atol=1e-4)


def test_training_windows_see_no_later_part(tmp_path: Path) -> None:
    """Changing validation and test values changes nothing in training; statistics stay."""
    values = walk(200)
    before = load(tmp_path, daily(values), time="when", window=5)
    values[140:] *= 100
    after = load(tmp_path, daily(values), time="when", window=5)
    for name in ("feature_mean", "feature_std", "shift", "scale"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    old, new = (next(splits.train.batches(10**9, None)) for splits in (before, after))
    assert torch.equal(old.inputs, new.inputs)
    assert torch.equal(old.targets, new.targets)
    assert before.constant_loss == after.constant_loss


def test_parts_share_their_rows_on_every_device(tmp_path: Path) -> None:
    """A table is on a GPU once, whatever parts windows are cut from it for."""
    (tmp_path / "d.csv").write_text("y\n" + "\n".join(map(str, range(200))))
    splits = load_forecast(ForecastData(task="forecast", path=tmp_path / "d.csv", window=8))
    moved = splits.to(torch.device("meta"))
    parts = [moved.train, moved.valid, moved.test]
    assert all(isinstance(part, ForecastPart) for part in parts)
    assert len({id(part.values) for part in parts}) == 1  # type: ignore[attr-defined]
    assert {part.values.device.type for part in parts} == {"meta"}  # type: ignore[attr-defined]


def test_a_season_that_no_series_reaches_is_noted(tmp_path: Path) -> None:
    """A season as long as the longest series, gaps included, is none to stop for, but to say so."""
    series = {"series": "s", "window": 4}
    frame = pd.DataFrame({"s": np.repeat(["a", "b"], 40), "y": noise(80)})
    assert not load(tmp_path, frame, season=39, **series).notes
    (note,) = load(tmp_path, frame, season=40, **series).notes
    said = "season 40 is no shorter than any series (40 steps at most)"
    assert said in note
    halves = daily(noise(80))
    halves["when"] += pd.to_timedelta(np.where(np.arange(80) < 40, 0, 900), "D")
    assert not load(tmp_path, halves, time="when", season=979, window=4).notes
    (note,) = load(tmp_path, halves, time="when", season=980, window=4).notes
    assert "season 980 is no shorter than any series (980 steps at most)" in note


def test_series_are_named_as_written(tmp_path: Path) -> None:
    """Series 01 and 1 of a CSV are two, and so is one whose name may stand for nothing."""
    names = np.repeat(["01", "1", "NA"], 40)
    splits = load(tmp_path, pd.DataFrame({"s": names, "y": noise(120)}), series="s", window=4)
    assert "120 rows in 3 series" in splits.describe()[0]


def test_interpolation_stays_within_a_stretch(tmp_path: Path) -> None:
    """What is missing beside a gap takes the value on its own side of the gap."""
    frame = daily(np.r_[noise(40), 1000 + noise(40, 1)])
    frame["when"] += pd.to_timedelta(np.where(np.arange(80) < 40, 0, 900), "D")
    frame.loc[38:40, "y"] = np.nan
    splits = load(tmp_path, frame, time="when", window=4, missing="interpolate")
    observed = splits.observed[37:42, 0].tolist()
    assert observed[1:3] == [observed[0]] * 2
    assert observed[3] == observed[4]


def test_interpolation_stays_within_a_part(tmp_path: Path) -> None:
    """A value missing at the end of training is not filled from the validation part."""
    values = noise(100)
    values[[69, 70]] = np.nan
    splits = load(tmp_path, daily(values), time="when", window=4, missing="interpolate")
    observed = splits.observed[:, 0]
    assert observed[69] == pytest.approx(values[68])
    assert observed[70] == pytest.approx(values[71])


def test_a_dropped_row_is_a_gap_without_time_stamps(tmp_path: Path) -> None:
    """Without a time column, too, no window reaches over a dropped row."""
    values = np.arange(60.0) % 7
    values[30] = np.nan
    splits = load(
        tmp_path, pd.DataFrame({"y": values, "z": 1}), target="y", window=3, missing="drop"
    )
    assert splits.train.size == (30 - 3) + (11 - 3)


def test_anchoring_is_decided_on_training_windows(tmp_path: Path) -> None:
    """A walk is predicted as a change, noise as a value; an unseen target has no anchor."""
    walking = daily(walk(300), other=noise(300, 1))
    assert load(tmp_path, walking, time="when", target="y", window=4).anchored
    assert not load(tmp_path, daily(noise(300)), time="when", window=4).anchored
    unseen = load(tmp_path, walking, time="when", target="y", features="other", window=4)
    assert not unseen.anchored
    assert (unseen.input_size, unseen.output_size) == (1, 1)


def test_a_straight_line_is_predicted_by_value(tmp_path: Path) -> None:
    """Changes that never vary cannot be standardised, so there the value is predicted."""
    splits = load(tmp_path, daily(np.arange(100.0)), time="when", window=4)
    assert not splits.anchored
    assert torch.isfinite(next(splits.train.batches(8, None)).targets).all()


@pytest.mark.parametrize("anchored", [True, False])
def test_figures_are_in_units(tmp_path: Path, anchored: bool) -> None:
    """Loss, rmse and mae from tallies of batches equal those computed from all at once."""
    make = walk if anchored else noise
    frame = daily(make(300), z=100 * make(300, 1))
    splits = load(tmp_path, frame, time="when", target=["y", "z"], window=5, horizon=3)
    assert splits.anchored == anchored
    generator = torch.Generator().manual_seed(0)
    tally, outputs, wanted = torch.zeros(13, dtype=torch.float64), [], []
    for batch in splits.valid.batches(16, None):
        outputs.append(torch.randn(batch.targets.shape, generator=generator))
        wanted.append(batch.targets)
        tally += splits.tally(outputs[-1], wanted[-1])
    figures, last = splits.figures(tally), splits.last("valid")
    assert figures["loss"] == pytest.approx(
        float(splits.loss(torch.cat(outputs), torch.cat(wanted))), rel=1e-5
    )
    guess, truth = (splits.to_units(torch.cat(each), last) for each in (outputs, wanted))
    errors = (guess - truth).view(-1, 3, 2)
    assert figures["rmse"] == pytest.approx(float(errors.square().mean().sqrt()))
    assert figures["mae_z"] == pytest.approx(float(errors[..., 1].abs().mean()))
    assert figures["rmse_y"] == pytest.approx(float(errors[..., 0].square().mean().sqrt()))
    assert list(figures) == ["loss", "rmse", "mae", "rmse_y", "mae_y", "rmse_z", "mae_z"]


def test_outputs_are_laid_out_by_horizon(tmp_path: Path) -> None:
    """All targets one step ahead come first, then all targets two steps ahead."""
    frame = daily(walk(100), z=walk(100, 1))
    splits = load(tmp_path, frame, time="when", target=["y", "z"], window=4, horizon=2)
    _, targets = windows_in_units(splits, "train")
    expected = frame[["y", "z"]].to_numpy()[4:6].flatten()
    np.testing.assert_allclose(targets[0], expected, atol=1e-4)


@pytest.mark.parametrize("make", [walk, noise])
def test_constant_loss(tmp_path: Path, make: Any) -> None:
    """The constant loss is that of the best constant on the training windows, and about 1."""
    splits = load(tmp_path, daily(make(400)), time="when", window=5, horizon=3)
    targets = next(splits.train.batches(10**9, None)).targets
    best = targets.mean(0, keepdim=True).expand_as(targets)
    assert splits.constant_loss == pytest.approx(float(splits.loss(best, targets)), rel=1e-5)
    assert splits.constant_loss == pytest.approx(1, abs=0.1)
    unseen = next(splits.valid.batches(10**9, None)).targets
    there = float(splits.loss(best[:1].expand_as(unseen), unseen))
    assert splits.constant_valid_loss == pytest.approx(there, rel=1e-5)


def test_batches_hold_every_window_once(tmp_path: Path) -> None:
    """A generator decides the order, alone; inputs and targets stay together; no one is lost."""
    train = load(tmp_path, daily(walk(300)), time="when", window=5).train
    (whole,) = train.batches(10**9, None)
    shuffled = [list(train.batches(32, torch.Generator().manual_seed(7))) for _ in range(2)]
    for ours, again in zip(*shuffled, strict=True):
        assert torch.equal(ours.inputs, again.inputs)
    inputs = torch.cat([batch.inputs for batch in shuffled[0]])
    targets = torch.cat([batch.targets for batch in shuffled[0]])
    order = torch.randperm(train.size, generator=torch.Generator().manual_seed(7))
    assert torch.equal(inputs, whole.inputs[order])
    assert torch.equal(targets, whole.targets[order])
    assert [len(batch.targets) for batch in train.batches(100, None)] == [100, 100, 5]
    assert whole.inputs.dtype == whole.targets.dtype == torch.float32


def test_pickles_and_moves(tmp_path: Path) -> None:
    """Splits survive pickle, and a move to a device, with all they hold."""
    splits = load(tmp_path, daily(walk(100)), time="when", window=5, season=7)
    for other in (pickle.loads(pickle.dumps(splits)), splits.to(torch.device("cpu"))):
        assert other.baselines("valid") == splits.baselines("valid")
        assert isinstance(other.train, ForecastPart)
        assert torch.equal(other.train.values, splits.train.values)
        assert other.describe() == splits.describe()


def test_fingerprint(tmp_path: Path) -> None:
    """It stays with another path and order of rows, and changes with values and options."""
    frame = daily(walk(100))
    (tmp_path / "other").mkdir()
    one = load(tmp_path, frame, time="when", window=5).fingerprint
    assert one == load(tmp_path / "other", frame[::-1], time="when", window=5).fingerprint
    assert one != load(tmp_path, window=6, time="when").fingerprint
    frame.loc[50, "y"] += 1
    assert one != load(tmp_path, frame, time="when", window=5).fingerprint


def test_constant_feature_is_kept_and_noted(tmp_path: Path) -> None:
    """A feature that is constant in training becomes zeros, not infinities, and is noted."""
    frame = daily(walk(100), flat=3.0)
    splits = load(tmp_path, frame, time="when", target="y", features=["y", "flat"], window=5)
    assert (next(splits.train.batches(8, None)).inputs[..., 1] == 0).all()
    assert any("flat" in note for note in splits.notes)


def test_describe_names_what_matters(tmp_path: Path) -> None:
    """The description has rows, span, step, windows of each part, and the statistics."""
    text = "\n".join(load(tmp_path, daily(walk(100)), time="when", window=5).describe())
    for piece in ("100 rows", "2020-01-01 to 2020-04-09", "1 day", "gaps: 0", "train 65 of 70"):
        assert piece in text


def test_a_likely_time_column_is_noted(tmp_path: Path) -> None:
    """A column called date that nobody named as the time is mentioned."""
    frame = daily(walk(100)).rename(columns={"when": "Date"})
    assert any('time = "Date"' in note for note in load(tmp_path, frame, window=5).notes)


TWO = daily(walk(60), z=noise(60))
TWICE = pd.concat([daily(walk(60)), daily(walk(60)).iloc[[3]]])
SPIKE = daily(np.append(walk(60), 1e60))
HOLEY = daily(walk(60)).drop(index=[*range(5, 60, 6)])
SHORT = pd.DataFrame({"who": ["a"] * 50 + ["b"] * 7, "y": walk(57)})


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (TWO, {"time": "when"}, r"several columns of numbers: 'y', 'z'; name the one .* target ="),
        (TWO[["when"]], {"time": "when"}, r"no column of numbers among: 'when'"),
        (TWO, {"time": "wen", "target": "y"}, r"no column 'wen'; did you mean 'when'\?"),
        (TWO, {"time": "when", "target": "when"}, r"'when' cannot be both"),
        (TWO, {"target": "y", "features": "when"}, r"column 'when' has '2020-01-01' in row 2"),
        (TWICE, {"time": "when"}, r"rows 5 and 62 have the same time 2020-01-04 .*series ="),
        (daily(np.ones(60)), {"time": "when"}, r"target 'y' is constant in the training part"),
        (SPIKE, {"time": "when"}, r"column 'y' has 1e\+60 in row 62, too far from"),
        (daily(1e200 * noise(60)), {"time": "when"}, r"column 'y' has .*e\+20\d in row 2, too far"),
        (daily(walk(20)), {}, r"the table has 20 rows, fewer than window 24 .* fits is 13;"),
        (SHORT, {"series": "who", "window": 9}, r"series 'b' has 7 rows, .* that fits is 6;"),
        (SHORT.mask(SHORT == "b"), {"series": "who"}, r"names no series in row 52"),
        (daily(walk(30)), {}, r"the train part has no window; .* is 21, .* that fits is 20;"),
        (daily(walk(60)), {"window": 4, "horizon": 10}, r"the valid part has no window; .* is 9, "),
        (HOLEY, {"time": "when", "window": 5}, r"the train part has no window; .* is 5, .* is 4;"),
        (HOLEY, {"time": "when", "horizon": 40, "window": 5}, r"no window fits"),
    ],
)
def test_what_cannot_be_forecast(
    tmp_path: Path, frame: pd.DataFrame, options: dict[str, Any], message: str
) -> None:
    """What is wrong is said in one line with the file, the place and the remedy."""
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, frame, **options)
    assert "table.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@given(seed=st.integers(0, 2**16), share=st.floats(0.02, 0.3), horizon=st.integers(1, 2))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_interpolation_never_looks_past_the_inputs(
    tmp_path: Path, seed: int, share: float, horizon: int
) -> None:
    """No input changes when the values to be forecast do, and no filled value is a target."""
    values = walk(300, seed)
    missing = np.random.default_rng(seed).random(300) < share
    values[missing] = np.nan
    options: dict[str, Any] = {"time": "when", "missing": "interpolate", "window": 4}
    splits = load(tmp_path, daily(values), horizon=horizon, **options)
    for name in PARTS:
        part = getattr(splits, name)
        assert isinstance(part, ForecastPart)
        ends = part.starts.numpy() + 4
        for step in range(-1, horizon):
            assert not missing[ends + step].any()
