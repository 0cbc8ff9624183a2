"""Predicting with exported models: the study's own numbers, of each task, and no study needed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tomli_w
import torch
from networks import hyper
from safetensors.torch import load_file
from test_imports import modules_after
from tiny import SPACE

import search
from search.answers import _as_json
from search.cli import main
from search.config import load_config
from search.data import load_splits
from search.data.series import SeriesPart
from search.data.splits import Splits
from search.data.windows import ForecastPart, ForecastSplits
from search.errors import DataError, RequestError
from search.models import SequenceModel, build
from search.space import HyperParams
from search.training import evaluate, outputs_of

SHOPS = {"north": 61, "south": 47}
"""Rows of each series."""


@dataclass(frozen=True)
class Made:
    """A finished study and its best trial's export."""

    folder: Path
    name: str
    file: Path

    @property
    def model(self) -> Path:
        """The exported model."""
        return self.folder / f"{self.name}-model"

    def splits(self) -> Splits:
        """Returns the data as the study cut it."""
        return load_splits(load_config(self.folder / f"{self.name}.toml").data)

    def network(self) -> SequenceModel:
        """Returns the best trial's network, from the study's own files."""
        card = json.loads((self.model / "model.json").read_text())
        (weights,) = self.folder.glob(f"studies/*/{self.name}-*/{card['trial']:05d}/weights.*")
        network = build(HyperParams(**card["hyperparameters"]), self.splits())
        network.load_state_dict(load_file(weights))
        return network


def make(folder: Path, name: str, file: Path, **data: Any) -> Made:
    """Runs a study of two trials and exports its best."""
    study = {
        "name": name,
        "data": {"path": str(file), **data},
        "space": {**SPACE, "batch_size": [4, 8]},
        "budget": {"trials": 2},
    }
    (folder / f"{name}.toml").write_text(tomli_w.dumps(study))
    made = Made(folder, name, file)
    storage = ["--storage", f"sqlite:///{folder}/studies/studies.db"]
    assert main(["run", str(folder / f"{name}.toml"), "--workers", "1", *storage]) == 0
    assert main(["export", name, str(made.model), *storage]) == 0
    return made


def shops() -> pd.DataFrame:
    """Returns two series of two columns, a row a month; one column has a value missing."""
    rows = []
    for shift, (shop, count) in enumerate(SHOPS.items()):
        months = pd.date_range("2001-01-01", periods=count, freq="MS")
        for at, month in enumerate(months):
            sold = 20 + 5 * math.sin(at / 3 + shift) + at / 10
            rows.append((shop, month.date().isoformat(), sold, math.cos(at / 3) * 1e-3))
    frame = pd.DataFrame(rows, columns=["shop", "month", "sold", "rain"]).round(6)
    frame.loc[5, "rain"] = math.nan
    return frame


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of this file lie."""
    return tmp_path_factory.mktemp("predict")


@pytest.fixture(scope="module")
def shop(folder: Path) -> Made:
    """Forecasts of two columns, three months ahead, of two shops."""
    file = folder / "shops.csv"
    shops().to_csv(file, index=False)
    keys: dict[str, Any] = {"target": ["sold", "rain"], "time": "month", "series": "shop"}
    shape = {"window": 8, "horizon": 3, "split": [0.6, 0.2, 0.2], "missing": "interpolate"}
    return make(folder, "shops", file, task="forecast", **keys, **shape)


@pytest.fixture(scope="module")
def gesture(folder: Path) -> Made:
    """Classes of 40 series of 2 to 8 steps."""
    rng = np.random.default_rng(0)
    rows = [
        {"take": f"t{number}", "kind": "xy"[number % 2], "a": a, "b": b}
        for number in range(40)
        for a, b in rng.normal(number % 2, 1, (2 + number % 7, 2)).round(4)
    ]
    pd.DataFrame(rows).to_csv(folder / "gestures.csv", index=False)
    keys = {"series": "take", "label": "kind"}
    return make(folder, "gestures", folder / "gestures.csv", task="classify", **keys)


@pytest.fixture(scope="module")
def book(folder: Path) -> Made:
    """The language of one sentence, over and over."""
    (folder / "book.txt").write_text("the quick brown fox jumps. " * 40)
    shape = {"sequence_length": 8, "split": [0.6, 0.2, 0.2]}
    return make(folder, "book", folder / "book.txt", task="language", **shape)


def test_forecasts_equal_the_study_to_the_last_bit(shop: Made) -> None:
    """On the study's file, every validation window's forecasts are those of the study itself."""
    splits, network = shop.splits(), shop.network()
    assert isinstance(splits, ForecastSplits)
    outputs = torch.cat([outputs for outputs, _ in outputs_of(network, splits.valid)])
    wanted = splits.to_units(outputs, splits.last("valid")).reshape(-1, 3, 2).numpy()
    said = search.load(shop.model).predict(shop.file)
    assert isinstance(said, pd.DataFrame)
    # The rows of both shops in order; each window is told by its shop and its last month.
    table = pd.read_csv(shop.file, parse_dates=["month"]).sort_values(["shop", "month"])
    last = splits.valid.starts.numpy() + splits.window - 1
    for place, forecast in zip(last.tolist(), wanted, strict=True):
        row = table.iloc[place]
        mine = said[(said["shop"] == row["shop"]) & (said["made_from"] == row["month"])]
        assert mine["ahead"].tolist() == [1, 2, 3]
        assert mine[["sold", "rain"]].to_numpy().tolist() == forecast.tolist()


def test_a_forecast_does_not_depend_on_the_rest_of_the_file(shop: Made) -> None:
    """The last window alone is forecast as it is at the end of the whole file, to the last bit."""
    model = search.load(shop.model)
    frame = shops().query("shop == 'south'")
    whole = model.predict(frame)
    for rows in (8, 9, 20):
        alone = model.predict(frame.tail(rows))
        pd.testing.assert_frame_equal(
            alone, whole.tail(len(alone)).reset_index(drop=True), check_exact=True
        )
        assert len(alone) == 3 * (rows - 7)


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("units", [5, 16, 21, 96])
def test_an_answer_does_not_depend_on_its_batch(cell: str, units: int) -> None:
    """The outputs of windows are the same to the last bit, however many others there are."""
    torch.manual_seed(0)
    params = hyper(cell=cell, hidden_units=units, hidden_layers=2)
    network = SequenceModel(params, 3, 4, per_step=False)
    values = torch.randn(400, 3)

    def outputs(starts: torch.Tensor) -> torch.Tensor:
        part = ForecastPart(values, starts, torch.zeros(len(starts), 0), 9)
        return torch.cat([outputs for outputs, _ in outputs_of(network, part)])

    whole = outputs(torch.arange(380))
    for first, last in ((0, 1), (7, 9), (100, 115), (130, 380), (379, 380), (250, 282)):
        assert torch.equal(outputs(torch.arange(first, last)), whole[first:last])


def test_forecasts_reach_beyond_the_end(shop: Made) -> None:
    """The last forecasts of each series are of the months that follow it, by the calendar."""
    said = search.load(shop.model).predict(shop.file)
    assert len(said) == sum(3 * (count - 7) for count in SHOPS.values())
    for name, end in (("north", "2006-01-01"), ("south", "2004-11-01")):
        last = said[said["shop"] == name].tail(3)
        assert set(last["made_from"]) == {pd.Timestamp(end)}
        assert last["month"].tolist() == list(pd.date_range(end, periods=4, freq="MS")[1:])


def test_the_interval_is_that_of_the_validation_residuals(shop: Made) -> None:
    """As many of the validation part's values lie within as nine in ten of new ones should."""
    splits = shop.splits()
    assert isinstance(splits, ForecastSplits)
    said = search.load(shop.model).predict(shop.file)
    table = shops().sort_values(["shop", "month"]).reset_index(drop=True)
    actual = table.assign(month=pd.to_datetime(table["month"]))[["shop", "month", "sold"]]
    both = said.merge(actual, on=["shop", "month"], suffixes=("", "_actual"))
    ends = table.iloc[splits.valid.starts.numpy() + splits.window - 1]
    keys = set(zip(ends["shop"], pd.to_datetime(ends["month"]), strict=True))
    chosen = both[[key in keys for key in zip(both["shop"], both["made_from"], strict=True)]]
    assert len(chosen) == 3 * splits.valid.size
    inside = chosen["sold_actual"].between(chosen["sold_low"], chosen["sold_high"])
    for _, each in inside.groupby(chosen["ahead"]):
        rank = max(1, math.floor(0.05 * (len(each) + 1)))
        # The value at an end itself may lie a rounding outside.
        assert 2 * (rank - 1) <= len(each) - each.sum() <= 2 * rank
    assert (said["rain_low"] <= said["rain_high"]).all()


def test_classes_equal_the_study_to_the_last_bit(gesture: Made) -> None:
    """The logits of validation series give the same probabilities when they come in a file."""
    splits, network = gesture.splits(), gesture.network()
    assert isinstance(splits.valid, SeriesPart)
    outputs = torch.cat([outputs for outputs, _ in outputs_of(network, splits.valid)])
    wanted = torch.softmax(outputs.double(), dim=1).tolist()
    said = search.load(gesture.model).predict(gesture.file)
    assert isinstance(said, pd.DataFrame)
    assert list(said.columns) == ["series", "label", "class", "p_x", "p_y"]
    assert len(said) == 40
    places = [said[["p_x", "p_y"]].to_numpy().tolist().index(one) for one in wanted]
    assert said["series"][places].tolist() == [f"t{place}" for place in places]
    assert splits.valid.lengths.tolist() == [2 + place % 7 for place in places]
    assert splits.valid.labels.tolist() == [place % 2 for place in places]
    assert (said["class"] == np.where(said["p_x"] >= said["p_y"], "x", "y")).all()


def test_labels_may_be_left_out(gesture: Made) -> None:
    """A table without the label column is classified the same, and shows no labels."""
    model, frame = search.load(gesture.model), pd.read_csv(gesture.file)
    without = model.predict(frame.drop(columns="kind"))
    assert isinstance(without, pd.DataFrame)
    pd.testing.assert_frame_equal(
        without, model.predict(frame).drop(columns="label"), check_exact=True
    )


@pytest.mark.parametrize("filled", [0, 1])
def test_labels_may_be_empty(gesture: Made, tmp_path: Path, filled: int) -> None:
    """A column of labels with empty cells, in a frame or a file, is as good as none for these."""
    model, frame = search.load(gesture.model), pd.read_csv(gesture.file)
    whole = model.predict(frame)
    assert isinstance(whole, pd.DataFrame)
    known = frame["take"].isin(whole["series"][:filled])
    frame["kind"] = frame["kind"].where(known)
    frame.to_csv(tmp_path / "some.csv", index=False)
    for source in (frame, tmp_path / "some.csv"):
        said = model.predict(source)
        assert isinstance(said, pd.DataFrame)
        if filled:
            assert said.pop("label").tolist() == [whole["label"][0]] + [""] * (len(whole) - 1)
        pd.testing.assert_frame_equal(said, whole.drop(columns="label"), check_exact=True)


def test_ts_files_are_classified_with_and_without_labels(folder: Path) -> None:
    """A model of .ts files reads .ts files, labelled or not, and says the same of both."""
    head = "@problemName p\n@univariate true\n@classLabel"
    cases = [
        (",".join(f"{math.sin(at * (1 + one % 2)) + one / 50:.4f}" for at in range(9)), one % 2)
        for one in range(24)
    ]
    labelled = "\n".join([f"{head} true u v\n@data", *(f"{a}:{'uv'[b]}" for a, b in cases)])
    (folder / "waves.ts").write_text(labelled)
    (folder / "bare.ts").write_text(
        "\n".join([f"{head} false\n@data", *(values for values, _ in cases)])
    )
    made = make(folder, "waves", folder / "waves.ts", task="classify")
    model = search.load(made.model)
    bare, full = model.predict(folder / "bare.ts"), model.predict(str(folder / "waves.ts"))
    assert isinstance(bare, pd.DataFrame)
    assert isinstance(full, pd.DataFrame)
    assert full["label"].tolist() == ["uv"[label] for _, label in cases]
    assert full["series"].tolist() == [str(number) for number in range(1, 25)]
    pd.testing.assert_frame_equal(bare, full.drop(columns="label"), check_exact=True)


def test_a_text_is_judged_as_the_study_judged_it(book: Made) -> None:
    """Nats per character of the validation part's text are the study's figure to the last bit."""
    text = book.file.read_text()
    part = text[round(0.6 * len(text)) : round(0.8 * len(text))]
    model = search.load(book.model)
    said = model.predict(part)
    figures = evaluate(book.network(), book.splits(), "valid")
    assert said == {name: figures[name] for name in ("nats_per_char", "perplexity")}
    assert model.card.figures == figures


def test_text_goes_on_by_its_seed(book: Made) -> None:
    """The same seed gives the same text, another another; at temperature 0 the seed is nothing."""
    model = search.load(book.model)
    assert isinstance(model, search.prediction.LanguageModel)
    one = model.generate("the quick ", 60, seed=1)
    assert len(one) == 60
    assert set(one) <= set(book.file.read_text())
    assert one == model.generate("the quick ", 60, seed=1)
    assert one != model.generate("the quick ", 60, seed=2)
    assert one == model.generate("the quick ", np.int64(60), np.float64(1), np.int64(1))
    for wrong in ({"length": 2.5}, {"seed": None}, {"temperature": "hot"}):
        with pytest.raises(RequestError, match="length must be a whole number"):
            model.generate("the quick ", **{"length": 3, **wrong})
    with pytest.raises(DataError, match="not a NoneType"):
        model.predict(None)
    greedy = model.generate("the quick ", 30, 0.0, seed=1)
    assert greedy == model.generate("the quick ", 30, 0.0, seed=2)
    assert greedy == model.generate("the quick ", 30, 1e-9, seed=3)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_command_writes_what_python_returns(shop: Made, tmp_path: Path, kind: str) -> None:
    """``--out`` writes the frame that `predict` returns, in both kinds, and reads both kinds."""
    source = tmp_path / f"in.{kind}"
    frame = shops()
    frame.to_csv(source, index=False) if kind == "csv" else frame.to_parquet(source)
    out = tmp_path / f"out.{kind}"
    assert main(["predict", str(shop.model), str(source), "--out", str(out)]) == 0
    read = _read_csv(out) if kind == "csv" else pd.read_parquet(out)
    wanted = search.load(shop.model).predict(shop.file)
    pd.testing.assert_frame_equal(read, wanted, check_exact=True, check_dtype=False)


def test_the_command_prints(gesture: Made, book: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """Without ``--out`` there is CSV, figures or text on standard output, or JSON if asked for."""
    capsys.readouterr()
    assert main(["predict", str(gesture.model), str(gesture.file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "series,label,class,p_x,p_y"
    assert len(lines) == 41
    assert main(["predict", str(gesture.model), str(gesture.file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["series"] == "t0"
    assert main(["predict", str(book.model), str(book.file)]) == 0
    assert capsys.readouterr().out.startswith("nats_per_char ")
    arguments = ["--length", "12", "--temperature", "0.5", "--seed", "3"]
    assert main(["predict", str(book.model), str(book.file), *arguments]) == 0
    assert len(capsys.readouterr().out) == 13


def test_json_holds_the_same_bits(shop: Made, capsys: pytest.CaptureFixture[str]) -> None:
    """``--json`` prints the frame that `predict` returns, however small its numbers are."""
    capsys.readouterr()
    assert main(["predict", str(shop.model), str(shop.file), "--json"]) == 0
    read = pd.DataFrame(json.loads(capsys.readouterr().out))
    read[["made_from", "month"]] = read[["made_from", "month"]].apply(pd.to_datetime)
    wanted = search.load(shop.model).predict(shop.file)
    pd.testing.assert_frame_equal(read, wanted, check_exact=True, check_dtype=False)
    small = pd.DataFrame({"y": [4.712345678901e-12, 1e-16, math.nan], "at": [1, 2, 3]})
    assert json.loads(_as_json(small)) == [
        {"y": 4.712345678901e-12, "at": 1},
        {"y": 1e-16, "at": 2},
        {"y": None, "at": 3},
    ]


@pytest.mark.parametrize(("micro", "written"), [(250, "00.000250"), (2000, "00.002")])
def test_json_holds_the_times(micro: int, written: str) -> None:
    """Times have microseconds where they need them, and milliseconds where they do not."""
    time = pd.Timestamp("2020-01-01") + pd.Timedelta(microseconds=micro)
    (record,) = json.loads(_as_json(pd.DataFrame({"t": [time], "y": [0.5]})))
    assert record == {"t": f"2020-01-01T00:00:{written}", "y": 0.5}


def test_predicting_loads_no_study(shop: Made, gesture: Made, book: Made) -> None:
    """Loading and predicting, of any task, imports neither Optuna nor SQLAlchemy."""
    code = "import search\nfrom pathlib import Path\n" + "".join(
        f"search.load({str(made.model)!r}).predict(Path({str(made.file)!r}))\n"
        for made in (shop, gesture, book)
    )
    loaded = modules_after(code)
    assert "torch" in loaded
    assert loaded.isdisjoint({"optuna", "sqlalchemy"})


def _read_csv(path: Path) -> pd.DataFrame:
    """Reads forecasts back without the rounding that pandas allows itself by default."""
    dates = ["made_from", "month"]
    return pd.read_csv(path, parse_dates=dates, float_precision="round_trip")
