"""What predicting refuses: one line that names the thing at fault, exit code 2, nothing written."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import hyper
from refusing import Refuse
from safetensors.torch import save

import search
from search.cli import main
from search.data.calendars import go_on
from search.data.cards import Card, ClassifyCard, ForecastCard, LanguageCard
from search.data.timeline import find_step, parse_times
from search.errors import DataError
from search.model_files import CARD, WEIGHTS, ModelCard, card_bytes, make_network, read_model
from search.prediction import _as_class

FORECAST = ForecastCard(
    task="forecast",
    targets=("y",),
    features=("y", "x"),
    window=4,
    horizon=2,
    anchored=True,
    shift=(0.0, 0.1),
    scale=(1.0, 1.5),
    feature_mean=(0.0, 1.0),
    feature_std=(1.0, 2.0),
    time=None,
    series=None,
    missing="error",
    step=None,
)
CLASSIFY = ClassifyCard(
    task="classify",
    classes=("up", "down"),
    channels=("a",),
    mean=(0.0,),
    scale=(1.0,),
    series="s",
    label="way",
    time=None,
    missing="error",
)
LANGUAGE = LanguageCard(task="language", vocabulary="abc", sequence_length=4)
TABLE = "y,x\n" + "".join(f"{math.sin(at):.4f},{at}\n" for at in range(9))


def put_model(folder: Path, data: Card) -> Path:
    """Writes a model that was never trained."""
    params = hyper()
    weights = save(make_network(params, data).state_dict())
    card = ModelCard(
        format=1,
        study="s",
        trial=0,
        epoch=1,
        metric="loss",
        figures={"loss": 1.0},
        hyperparameters=params,
        data=data,
        fingerprint="0" * 16,
        versions={},
        weights=hashlib.sha256(weights).hexdigest(),
    )
    folder.mkdir()
    (folder / CARD).write_bytes(card_bytes(card))
    (folder / WEIGHTS).write_bytes(weights)
    return folder


@pytest.mark.parametrize(
    ("data", "files", "arguments", "says"),
    [
        (FORECAST, {"i.csv": "y\n1\n2\n"}, [], ("no column 'x'", "i.csv")),
        (FORECAST, {"i.csv": "y,x\n1,1\n2,2\n3,3\n"}, [], ("is 3", "the model sees 4")),
        (FORECAST, {"i.csv": TABLE.replace("5\n", "z\n")}, [], ("'z'", "column 'x'")),
        (FORECAST, {"i.csv": TABLE.replace(",5", ",")}, [], ("column 'x' has no value",)),
        (FORECAST, {"i.csv": TABLE.replace(",5", ",1e40")}, [], ("too far from the training",)),
        (
            FORECAST.model_copy(update={"missing": "interpolate"}),
            {"i.csv": "y,x\n" + "1,\n" * 9},
            [],
            ("every row has a missing value, all of them in column 'x'",),
        ),
        (FORECAST, {}, [], ("i.csv does not exist",)),
        (FORECAST, {"i.csv": TABLE}, ["--length", "3"], ("continue a text",)),
        (FORECAST, {"i.csv": TABLE}, ["--out", "o.xls"], ("must end in .csv",)),
        (FORECAST, {"i.csv": TABLE}, ["--out", "no/o.csv"], ("no folder no",)),
        (FORECAST, {"i.csv": TABLE}, ["--out", "./i.csv"], ("what is to be read",)),
        (FORECAST, {"i.csv": TABLE}, ["--out", "o.csv", "--json"], ("one of them",)),
        (CLASSIFY, {"i.csv": "s,b\n1,1\n"}, [], ("no column 'a'",)),
        (CLASSIFY, {"i.csv": "s,a,way\n1,1,upp\n"}, [], ("'upp' is no class", "mean 'up'")),
        (CLASSIFY, {"i.csv": "s,a\n1,1\n1,\n"}, [], ("series '1'", "no value at step 2")),
        (LANGUAGE, {"i.csv": ""}, [], ("is empty",)),
        (LANGUAGE, {"i.csv": "a"}, [], ("no character, after its first",)),
        (LANGUAGE, {"i.csv": "xyz"}, [], ("no character, after its first",)),
        (LANGUAGE, {"i.csv": "axyz"}, [], ("no character, after its first",)),
        (LANGUAGE, {"i.csv": b"\xff\xe9\x00"}, [], ("i.csv is not UTF-8",)),
        (LANGUAGE, {"i.csv": "abc"}, ["--seed", "3"], ("--length N",)),
        (LANGUAGE, {"i.csv": "abc"}, ["--length", "0"], ("--length",)),
        (LANGUAGE, {"i.csv": "abc"}, ["--length", "3", "--temperature", "-1"], ("--temperature",)),
    ],
)
def test_unfit_input_is_one_line(
    data: Card,
    files: dict[str, str | bytes],
    arguments: list[str],
    says: tuple[str, ...],
    refuse: Refuse,
) -> None:
    """Each is refused with a line that names the file or option, and nothing is written."""
    put_model(refuse.folder / "model", data)
    refuse(files, says, "predict", "model", "i.csv", *arguments)


def test_a_file_of_another_kind_is_refused(refuse: Refuse) -> None:
    """A table for a model of ``.ts`` files, and a ``.ts`` file for one of tables or forecasts."""
    put_model(refuse.folder / "table", CLASSIFY)
    put_model(refuse.folder / "ts", CLASSIFY.model_copy(update={"series": None, "label": None}))
    put_model(refuse.folder / "forecast", FORECAST)
    files = {"i.ts": "@data\n1,2\n", "i.csv": "s,a\n1,1\n", "two.ts": "@data\n1,2:3,4\n"}
    refuse(files, "trained on a table", "predict", "table", "i.ts")
    refuse({}, "trained on a .ts file", "predict", "ts", "i.csv")
    refuse({}, "2 channels", "predict", "ts", "two.ts")
    refuse({}, "forecasts a table", "predict", "forecast", "i.ts")


def changed(**changes: Any) -> Any:
    """Returns what changes keys of a model's card."""

    def change(folder: Path) -> None:
        path = folder / CARD
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def shorten(name: str) -> Any:
    """Returns what cuts off the end of a file of a model."""

    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return change


def _other_weights(folder: Path) -> None:
    weights = save(make_network(hyper(hidden_units=9), FORECAST).state_dict())
    (folder / WEIGHTS).write_bytes(weights)
    changed(weights=hashlib.sha256(weights).hexdigest())(folder)


def _no_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\x80\x04pickle")
    changed(weights=hashlib.sha256(b"\x80\x04pickle").hexdigest())(folder)


def _infinite_weights(folder: Path) -> None:
    network = make_network(hyper(), FORECAST)
    network.head.weight.data[0, 0] = math.nan
    weights = save(network.state_dict())
    (folder / WEIGHTS).write_bytes(weights)
    changed(weights=hashlib.sha256(weights).hexdigest())(folder)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (changed(format=3), ("is of format 3", "upgrade")),
        (changed(format="1"), ("model.json is damaged", "format")),
        (changed(surprise=1), ("model.json is damaged: surprise",)),
        (changed(data={"task": "dance"}), ("model.json is damaged: data",)),
        (changed(hyperparameters={}), ("model.json is damaged: hyperparameters",)),
        (
            changed(hyperparameters={**hyper(hidden_units=10**8).to_dict()}),
            ("weights of another network",),
        ),
        *(
            (changed(hyperparameters=hyper().to_dict() | edit), ("model", says))
            for edit, says in (
                ({"hidden_units": 10**30}, "weights of another network"),
                ({"hidden_layers": 10**7}, "weights of another network"),
                ({"dropout": 5.0}, "dropout is not between 0 and 1"),
            )
        ),
        (
            changed(data=FORECAST.model_dump() | {"window": 10**30}),
            ("damaged: data.forecast.window",),
        ),
        (_infinite_weights, ("model.safetensors is damaged: not all weights are finite",)),
        (changed(data=FORECAST.model_dump() | {"scale": [1.0]}), ("scale has 1 entries where 2",)),
        *(
            (changed(data=FORECAST.model_dump() | {"step": step}), ("model.json is damaged", said))
            for step, said in (
                *(("fortnight", "'fortnight' is no step"), ("", "'' is no step")),
                *((1e300, "step 1e+300"), (-5.0, "step -5.0"), (0.0, "step 0.0")),
                *(("-1MS", "step '-1MS'"), ("0MS", "step '0MS'"), ("-1h", "step '-1h'")),
                *(("9999999999MS", "step '99999"), ("0M-15", "'0M-15' is no step")),
            )
        ),
        (
            changed(data=FORECAST.model_dump() | {"features": ("y", "y")}),
            ("model.json is damaged", "features has 'y' twice"),
        ),
        (changed(data=FORECAST.model_dump() | {"time_format": "%Q"}), ("damaged", "'%Q'")),
        (shorten(CARD), ("model.json is damaged: no JSON",)),
        (shorten(WEIGHTS), ("model.safetensors is damaged",)),
        (_other_weights, ("weights of another network",)),
        (_no_weights, ("model.safetensors is damaged",)),
        (lambda folder: (folder / CARD).unlink(), ("it has no model.json",)),
        (lambda folder: (folder / WEIGHTS).unlink(), ("it has no model.safetensors",)),
        (shutil.rmtree, ("there is no folder model",)),
    ],
)
def test_a_damaged_model_is_one_line(damage: Any, says: tuple[str, ...], refuse: Refuse) -> None:
    """Whatever is wrong with the files of a model, the message names the file and the remedy."""
    damage(put_model(refuse.folder / "model", FORECAST))
    refuse({"i.csv": TABLE}, says, "predict", "model", "i.csv")


def test_a_wrong_frame_is_refused_in_python(tmp_path: Path) -> None:
    """A frame that lacks a column raises the same error as a file."""
    model = search.load(put_model(tmp_path / "model", FORECAST))
    with pytest.raises(DataError, match="the frame: no column 'x'"):
        model.predict(pd.DataFrame({"y": [1.0] * 9}))


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    """The caller's torch generator is where it was after loading a model."""
    put_model(tmp_path / "model", FORECAST)
    before = torch.get_rng_state()
    read_model(tmp_path / "model")
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_not_forecast_is_said(tmp_path: Path) -> None:
    """Series without a window, and last rows too few since a gap, are named; else nothing is."""
    sizes = {"window": 3, "horizon": 1, "time": "t", "step": 1.0, "series": "s"}
    card = FORECAST.model_copy(update={**sizes, "shift": (0.0,), "scale": (1.0,)})
    model = search.load(put_model(tmp_path / "model", card))
    times = {"a": [*range(9)], "b": [0, 1], "c": [*range(8), 20, 21]}
    rows = [{"s": name, "t": time, "y": 0.5, "x": time} for name in times for time in times[name]]
    frame = pd.DataFrame(rows)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.predict(frame)
    first, second = (str(one.message) for one in caught)
    assert "nothing is forecast for series 'b', which never has 3 rows without a gap" in first
    assert "from the last rows of series 'c' nothing is forecast" in second
    assert "fewer than 3 since a gap" in second
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(frame[frame["s"] == "a"])


def test_characters_that_are_not_judged_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever judges or continues a text in other characters is told how many are unknown."""
    model = put_model(tmp_path / "model", LANGUAGE)
    (tmp_path / "t.txt").write_text("abcabczz?abc")
    for more in ([], ["--length", "3"]):
        assert main(["predict", str(model), str(tmp_path / "t.txt"), *more]) == 0
        noted = capsys.readouterr().err
        assert "t.txt: the model does not know 3 of 12 characters ('?', 'z')" in noted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert search.load(model).predict("abcabc")


def test_a_series_without_a_value_costs_no_other_its_forecasts(tmp_path: Path) -> None:
    """Where missing values are interpolated, a dead sensor is said, and the others are forecast."""
    sizes = {"window": 3, "horizon": 1, "time": "t", "step": 1.0, "series": "s"}
    card = FORECAST.model_copy(
        update={**sizes, "shift": (0.0,), "scale": (1.0,), "missing": "interpolate"}
    )
    model = search.load(put_model(tmp_path / "model", card))
    rows = [{"s": name, "t": at, "y": 0.5, "x": float(at)} for name in "ab" for at in range(9)]
    frame = pd.DataFrame(rows)
    alone = model.predict(frame[frame["s"] == "a"])
    frame.loc[frame["s"] == "b", "x"] = np.nan
    with pytest.warns(UserWarning, match="series 'b', which has no value of 'x'$"):
        said = model.predict(frame)
    pd.testing.assert_frame_equal(said, alone)


def test_a_stretch_without_a_value_is_left_out_and_said(tmp_path: Path) -> None:
    """Rows between gaps that nothing can be interpolated in cost no others their forecasts."""
    sizes = {"window": 3, "horizon": 1, "time": "t", "step": 1.0, "series": "s"}
    card = FORECAST.model_copy(
        update={**sizes, "shift": (0.0,), "scale": (1.0,), "missing": "interpolate"}
    )
    model = search.load(put_model(tmp_path / "model", card))
    times = [*range(9), *range(50, 59)]
    frame = pd.DataFrame([(s, t, 0.5, float(t)) for s in "ab" for t in times], columns=[*"styx"])
    whole = model.predict(frame)
    lone = pd.DataFrame([("a", 20, 0.5, np.nan)], columns=[*"styx"])
    said = "row 37 is left out: from one gap to the next, a column has no value"
    with pytest.warns(UserWarning, match=said):
        pd.testing.assert_frame_equal(model.predict(pd.concat([frame, lone])), whole)
    newest = pd.DataFrame([("a", t, 0.5, np.nan) for t in (90, 91)], columns=[*"styx"])
    late = pd.concat([frame, newest])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pd.testing.assert_frame_equal(model.predict(late), whole)
    first, second = (str(one.message) for one in caught)
    assert "a value is missing in the last 2 rows of series 'a', so that nothing is" in first
    assert "row 37 and 1 more are left out" in second


@pytest.mark.parametrize(
    ("label", "meant"),
    [("TRUE", "True"), ("1.0", "1"), ("01", "1"), ("Up", "Up"), ("up", "Up"), ("2", "2"), ("", "")],
)
def test_labels_that_are_written_otherwise(label: str, meant: str) -> None:
    """A class is known again as Excel, R or pandas write it, unless it could be two."""
    assert _as_class(label, ("True", "1", "Up", "Down")) == meant


def test_labels_that_could_be_two_classes() -> None:
    """What differs from two classes alike is neither."""
    assert _as_class("up", ("UP", "uP")) == "up"
    assert _as_class("1", ("1.0", "1.00")) == "1"


@settings(max_examples=40)
@given(
    rows=st.integers(4, 40),
    window=st.integers(1, 8),
    horizon=st.integers(1, 4),
    gap=st.integers(0, 40),
)
def test_every_window_that_fits_is_forecast_once(
    rows: int, window: int, horizon: int, gap: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """There are H rows for each stretch of T rows without a gap, each ``ahead`` of its last."""
    sizes = {"window": window, "horizon": horizon, "time": "t", "step": 1.0}
    arrays = {"shift": (0.0,) * horizon, "scale": (1.0,) * horizon}
    folder = tmp_path_factory.mktemp("m") / "model"
    model = search.load(put_model(folder, FORECAST.model_copy(update={**sizes, **arrays})))
    times = np.arange(rows) + 10 * (np.arange(rows) >= gap)
    frame = pd.DataFrame({"t": times, "y": np.sin(times), "x": np.cos(times)})
    split = gap if 0 < gap < rows and rows > 2 else rows
    lengths = [split, rows - split]
    wanted = sum(max(0, length - window + 1) for length in lengths)
    if not wanted:
        with pytest.raises(DataError, match="give more rows"):
            model.predict(frame)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That of too few rows since the gap.
        said = model.predict(frame)
    assert isinstance(said, pd.DataFrame)
    assert len(said) == wanted * horizon
    assert (said["t"] == said["made_from"] + said["ahead"]).all()
    assert not said.duplicated(["made_from", "ahead"]).any()


@pytest.mark.parametrize(
    ("times", "after"),
    [
        (["2020-01-31", "2020-02-29", "2020-03-31"], ["2020-04-30", "2020-05-31"]),
        (["2020-01-01", "2020-04-01", "2020-07-01"], ["2020-10-01", "2021-01-01"]),
        (["2024-01-03", "2024-01-04", "2024-01-05", "2024-01-09"], ["2024-01-10", "2024-01-11"]),
        (
            [f"2024-01-{day:02} 16:00" for day in (4, 5, 9, 10, 11, 12)],
            ["2024-01-15 16:00", "2024-01-16 16:00"],
        ),
        (["2020-01-01 10:00", "2020-01-01 10:15"], ["2020-01-01 10:30", "2020-01-01 10:45"]),
        ([2001, 2002, 2003], [2004, 2005]),
        ([0.0, 0.5, 1.0], [1.5, 2.0]),
        ([10**18 + 1, 10**18 + 8, 10**18 + 15], [10**18 + 22, 10**18 + 29]),
    ],
)
def test_times_go_on_by_their_step(times: list[Any], after: list[Any]) -> None:
    """Months end at their ends, weekdays leave out weekends, numbers go on evenly."""
    stamps = parse_times(pd.Series(times, name="t"), Path("t.csv"))
    found = go_on(stamps.instants[-1], find_step(stamps), 2)
    dates = isinstance(after[0], str)
    assert found == ([pd.Timestamp(one) for one in after] if dates else after)
