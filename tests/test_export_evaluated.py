"""Exporting what an evaluation made, of each task: its winner, its ensemble, and both as ONNX."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from evaluated import SEEDS, TEXT, Made, answers, book, folder, gestures, made, sales
from refusing import Refuse, tree
from test_imports import modules_after
from tiny import read_json

import search
from search.cli import main
from search.data.windows import ForecastSplits
from search.database import Database
from search.ensembles import combine
from search.looks import evaluate_together
from search.model_files import CARD, FORMAT, ONNX, README, WEIGHTS
from search.prediction import LanguageModel
from search.storage import open_study
from search.stored_study import LOOKS
from search.trial_files import WEIGHTS as KEPT

__all__ = ["book", "folder", "gestures", "made", "sales"]

pytestmark = pytest.mark.slow


def test_the_card_says_what_the_evaluation_found(made: Made) -> None:
    """Seeds and figures of the validation and test parts are those that `evaluate` printed."""
    said, card = made.said, made.card("ensemble")
    best = min(range(SEEDS), key=lambda at: said["valid"]["figures"][at]["loss"])
    assert (card["format"], card["source"], card["epoch"]) == (FORMAT, "ensemble", None)
    assert card["trial"] == said["winner"]
    assert [one["figures"] for one in card["members"]] == said["valid"]["figures"]
    assert card["test"]["figures"] == said["test"]["ensemble_figures"]
    assert (card["test"]["look"], card["test"]["time"]) == (1, said["looks"][0]["time"])
    alone = made.card("winner")
    assert (alone["source"], len(alone["members"])) == ("winner", 1)
    assert alone["members"][0] == card["members"][best]
    assert alone["epoch"] == card["members"][best]["epoch"]
    assert alone["figures"] == said["valid"]["figures"][best]
    assert alone["test"]["figures"] == said["test"]["figures"][best]
    kept = Path(said["weights"][best]) / KEPT
    assert (made.path("winner") / WEIGHTS).read_bytes() == kept.read_bytes()
    each, together = evaluate_together(made.networks(), made.splits(), "valid")
    assert (each, together) == (said["valid"]["figures"], card["figures"])
    looked = evaluate_together(made.networks(), made.splits(), "test")
    assert looked == (said["test"]["figures"], said["test"]["ensemble_figures"])
    assert said["test"]["figures"] != said["valid"]["figures"]
    assert made.card("trial")["members"] == []
    assert made.card("trial")["test"] is None


def test_an_ensemble_forecasts_as_it_was_evaluated(sales: Made) -> None:
    """Every window's forecast, of the test part too, is the evaluation's to the last bit."""
    splits = sales.splits()
    assert isinstance(splits, ForecastSplits)
    model = search.load(sales.path("ensemble"))
    said = model.predict(sales.file)
    for part in ("valid", "test"):
        outputs = combine("forecast", answers(sales.networks(), splits, part))
        wanted = splits.to_units(outputs, splits.last(part)).reshape(-1, 2, 2).numpy()
        ends = getattr(splits, part).starts.numpy() + splits.window  # rows count from 1
        for end, forecast in zip(ends.tolist(), wanted, strict=True):
            mine = said[said["made_from"] == end]
            assert mine[["a", "b"]].to_numpy().tolist() == forecast.tolist()
    for rows in (6, 7, 11):
        tail = model.predict(pd.read_csv(sales.file).tail(rows))
        names = ["a", "b", "a_low", "a_high", "b_low", "b_high"]
        assert (tail[names].to_numpy() == said[names].tail(len(tail)).to_numpy()).all()


def test_an_ensemble_classifies_as_it_was_evaluated(gestures: Made) -> None:
    """The probabilities of the test part's series are the evaluation's to the last bit."""
    said = search.load(gestures.path("ensemble")).predict(gestures.file)
    found = said[["p_x", "p_y", "p_z"]].to_numpy().tolist()
    for part in ("valid", "test"):
        outputs = combine("classify", answers(gestures.networks(), gestures.splits(), part))
        places = [found.index(one) for one in torch.softmax(outputs.double(), dim=1).tolist()]
        series = getattr(gestures.splits(), part)
        assert said["series"][places].tolist() == [f"t{place}" for place in places]
        assert series.lengths.tolist() == [2 + place % 7 for place in places]
        assert series.labels.tolist() == [place % 3 for place in places]


def test_an_ensemble_reads_as_it_was_evaluated(book: Made) -> None:
    """Nats per character of the test part's text are the evaluation's to the last bit."""
    model = search.load(book.path("ensemble"))
    text = TEXT[round(0.8 * len(TEXT)) :]
    figures = book.said["test"]["ensemble_figures"]
    assert model.predict(text) == {name: figures[name] for name in ("nats_per_char", "perplexity")}
    assert isinstance(model, LanguageModel)
    assert model.generate("the ", 20, seed=1) == model.generate("the ", 20, seed=1)


@pytest.mark.parametrize("form", ["trial", "winner", "ensemble"])
def test_onnx_forecasts_as_predict_does(sales: Made, form: str) -> None:
    """Windows in the data's units give the forecasts and intervals of `predict`."""
    said = search.load(sales.path(form)).predict(sales.file)
    table = pd.read_csv(sales.file).to_numpy()
    windows = np.stack([table[at : at + 6] for at in range(len(table) - 5)])
    found = sales.onnx(form).run(None, {"values": windows})
    for ending, got in zip(("", "_low", "_high"), found, strict=True):
        wanted = said[[f"a{ending}", f"b{ending}"]].to_numpy().reshape(-1, 2, 2)
        assert np.allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("form", ["trial", "winner", "ensemble"])
def test_onnx_classifies_as_predict_does(gestures: Made, form: str) -> None:
    """Series of several lengths in one batch have the classes and probabilities of `predict`."""
    said = search.load(gestures.path(form)).predict(gestures.file)
    each = [part[["a", "b"]].to_numpy() for _, part in pd.read_csv(gestures.file).groupby("take")]
    names = list(pd.read_csv(gestures.file).groupby("take").groups)
    values = np.zeros((len(each), 8, 2))
    for at, series in enumerate(each):
        values[at, : len(series)] = series
    fed = {"values": values, "lengths": np.array([len(series) for series in each])}
    shares, places = gestures.onnx(form).run(None, fed)
    wanted = said.set_index("series").loc[names]
    assert np.allclose(shares, wanted[["p_x", "p_y", "p_z"]].to_numpy(), atol=1e-6)
    assert ["xyz"[place] for place in places] == wanted["class"].tolist()


@pytest.mark.parametrize("form", ["trial", "winner", "ensemble"])
def test_onnx_continues_a_text_as_generate_does(book: Made, form: str) -> None:
    """The state that comes out goes in again: the likeliest text is that of `generate`."""
    model, runner = search.load(book.path(form)), book.onnx(form)
    assert isinstance(model, LanguageModel)
    vocabulary = book.card(form)["data"]["vocabulary"]
    inputs = runner.get_inputs()[1:]
    states = [np.zeros((one.shape[0], 1, one.shape[2]), np.float32) for one in inputs]
    codes, text = [vocabulary.index(one) for one in "the quick"], ""
    for _ in range(40):
        fed = {one.name: state for one, state in zip(inputs, states, strict=True)}
        logs, *states = runner.run(None, {"characters": np.array([codes]), **fed})
        codes = [int(logs[0, -1].argmax())]
        text += vocabulary[codes[0]]
    assert text == model.generate("the quick", 40, temperature=0.0)


@pytest.mark.parametrize("form", ["trial", "winner", "ensemble"])
def test_the_page_shows_code_that_runs(
    made: Made,
    form: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every Python example of the exported page runs as it stands, DIR being the folder."""
    monkeypatch.chdir(tmp_path)
    assert sorted(path.name for path in made.path(form).iterdir()) == sorted(
        [CARD, WEIGHTS, ONNX, README]
    )
    shutil.copy(made.file, "text.txt" if made.name == "language" else "new.csv")
    page = (made.path(form) / README).read_text()
    assert all(len(line) <= 120 for line in page.splitlines())
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("DIR", str(made.path(form))), README, "exec"), {})
    assert capsys.readouterr().err == ""


def test_an_ensemble_loads_no_study_and_no_onnx(made: Made) -> None:
    """Loading and predicting imports neither Optuna, nor SQLAlchemy, nor onnx."""
    code = (
        "import search\nfrom pathlib import Path\n"
        f"search.load({str(made.path('ensemble'))!r}).predict(Path({str(made.file)!r}))\n"
    )
    loaded = modules_after(code)
    assert loaded.isdisjoint({"optuna", "sqlalchemy", "onnx", "onnxruntime"})


def test_an_export_of_format_1_is_read(sales: Made, tmp_path: Path) -> None:
    """A model as rnn-search wrote it before there were ensembles predicts the same."""
    old = shutil.copytree(sales.path("trial"), tmp_path / "old")
    (old / ONNX).unlink()
    card = {**sales.card("trial"), "format": 1}
    for key in ("source", "members", "test", "onnx"):
        del card[key]
    del card["band"]["residual"]
    (old / CARD).write_text(json.dumps(card))
    new = search.load(sales.path("trial")).predict(sales.file)
    pd.testing.assert_frame_equal(search.load(old).predict(sales.file), new, check_exact=True)


def test_damaged_members_are_refused(sales: Made, refuse: Refuse) -> None:
    """An ensemble without members, or with more than it has weights for, is one line."""
    for name, members, says in (
        ("none", [], "an ensemble has no members"),
        ("more", [*sales.card("ensemble")["members"]] * 2, "the weights of another network"),
    ):
        shutil.copytree(sales.path("ensemble"), refuse.folder / name)
        card = {**sales.card("ensemble"), "members": members}
        (refuse.folder / name / CARD).write_text(json.dumps(card))
        refuse({"i.csv": sales.file.read_text()}, says, "predict", name, "i.csv")


@pytest.fixture
def copied(sales: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The forecasting study in a folder of the test's own."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(sales.folder / "studies", folder / "studies")
    return Made(folder, sales.name, sales.file, sales.said)


def evaluation_of(made: Made) -> Path:
    """Returns the folder of a study's evaluation."""
    (place,) = made.folder.glob("studies/studies.trials/forecast-*/evaluation")
    return place


def test_what_cannot_be_exported_is_one_line(copied: Made, refuse: Refuse) -> None:
    """No evaluation, options that clash, and weights that are gone: each says what to do."""
    to = ("export", "forecast", "new", *copied.storage)
    refuse({}, ("--winner", "not allowed with"), *to, "--trial", "0", "--winner")
    refuse({}, ("--ensemble", "not allowed with"), *to, "--winner", "--ensemble")
    kept = next(evaluation_of(copied).glob(f"*/{KEPT}"))
    kept.write_bytes(b"no weights")
    refuse({}, ("no longer has a network", "evaluate forecast again"), *to, "--ensemble")
    kept.unlink()
    refuse({}, ("no longer has a network", "evaluate forecast again"), *to, "--ensemble")
    study = open_study(Database(copied.storage[1], create=False), "forecast").study
    study.set_user_attr(LOOKS, [])
    refuse({}, "run rnn-search evaluate forecast first", *to, "--ensemble")
    refuse({}, "run rnn-search evaluate forecast first", *to, "--winner")


def test_onnx_without_its_packages_writes_nothing(
    sales: Made, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the extra, or if ONNX answers otherwise, there is one line and no folder."""
    to = ("export", "forecast", "new", "--onnx", *sales.storage)
    with monkeypatch.context() as patch:
        patch.setattr("search.onnx_check.PACKAGES", ("onnx", "no_such_runtime"))
        refuse({}, "pip install 'rnn-search[onnx]'", *to)
    monkeypatch.setattr("search.onnx_check.TOLERANCE", 1e-12)
    refuse({}, ("model.onnx would answer otherwise", "export without --onnx"), *to)


def test_an_ensemble_needs_no_data(
    copied: Made, sales: Made, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the data there are the same weights, no interval, no figures, and a note."""
    monkeypatch.setattr("search.export._data", lambda _stored: (None, "it is gone"))
    to = str(copied.folder / "model")
    assert main(["export", "forecast", to, "--ensemble", "--onnx", *copied.storage]) == 0
    said = capsys.readouterr().err
    assert said == "note: without intervals and validation figures of the ensemble: it is gone\n"
    card = read_json(Path(to, CARD).read_text())
    assert (card["figures"], card["band"]) == ({}, None)
    assert list(card["onnx"]["outputs"]) == ["forecast"]
    assert Path(to, WEIGHTS).read_bytes() == (sales.path("ensemble") / WEIGHTS).read_bytes()


def test_an_older_evaluation_has_less_to_tell(
    copied: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    """A look that recorded the shown figure only gives just that, and of a single seed nothing."""
    study = open_study(Database(copied.storage[1], create=False), "forecast").study
    looks = study.user_attrs[LOOKS]
    for look in looks:
        del look["figures"]
    study.set_user_attr(LOOKS, looks)
    for form in ("winner", "ensemble"):
        to = str(copied.path(form))
        assert main(["export", "forecast", to, f"--{form}", *copied.storage]) == 0
    assert "without test figures" in capsys.readouterr().err
    assert copied.card("winner")["test"] is None
    figures = copied.card("ensemble")["test"]["figures"]
    # It has two targets, so that the figure to look at first is the loss.
    assert figures == {"loss": copied.said["test"]["ensemble"]}


def test_exports_are_the_same_each_time(sales: Made, tmp_path: Path) -> None:
    """Two exports with ONNX are equal in every byte, and ``--force`` replaces one whole."""
    to = tmp_path / "again"
    for option in ([], ["--force"]):
        arguments = ["--ensemble", "--onnx", *option, *sales.storage]
        assert main(["export", "forecast", str(to), *arguments]) == 0
        one, other = tree(to), tree(sales.path("ensemble"))
        assert sorted(one.values(), key=str) == sorted(other.values(), key=str)
    assert main(["export", "forecast", str(to), "--force", *sales.storage]) == 0
    assert not (to / ONNX).exists()
