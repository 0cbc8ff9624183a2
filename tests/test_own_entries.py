"""Entries of the user's own in ``[space]``: what may be written, and what becomes of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from networks import hyper
from refusing import Refuse, csv, forecast
from tiny import write_study
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from search.config import StudyConfig, load_config, make_config
from search.dimensions import Choices, Dimension, Fixed, Range
from search.models import detach
from search.space import HyperParams, distributions, fits, is_inside, starting_points, suggest

FACTORY = {"factory": "package.module:Class.method"}


def config(folder: Path, **own: Any) -> StudyConfig:
    """Returns the configuration of a study with entries of its own."""
    return load_config(write_study(folder, space=own, model=FACTORY))


@pytest.mark.parametrize(
    ("written", "dimension", "start"),
    [
        ({"low": 2, "high": 5}, Range(2, 5), 3),
        ({"low": 1, "high": 100, "log": True}, Range(1, 100, log=True), 10),
        ({"low": 1, "high": 2.5}, Range(1.0, 2.5), 1.75),
        ({"low": 1e-4, "high": 1e-2, "log": True}, Range(1e-4, 1e-2, log=True), 1e-3),
        ([True, False], Choices((True, False)), True),
        ([4, 1, 2], Choices((4, 1, 2)), 4),
        ([2, 0.5], Choices((2.0, 0.5)), 2.0),
        (["same", "causal"], Choices(("same", "causal")), "same"),
        (False, Fixed(False), None),
        ({"fixed": "word"}, Fixed("word"), None),
        ([3], Fixed(3), None),
    ],
)
def test_what_can_be_written(
    tmp_path: Path, written: object, dimension: Dimension, start: object
) -> None:
    """Each form has a type, survives being stored, and starts at its first choice or middle."""
    read = config(tmp_path, entry=written)
    assert read.space["entry"] == dimension
    again = make_config(read.resolved(), "stored")
    assert repr(again) == repr(read.model_copy(update={"given": again.given}))
    first = starting_points(read.space)[0]
    assert first.get("entry") == (pytest.approx(start) if isinstance(start, float) else start)
    if start is not None:
        assert type(first["entry"]) is type(start)
        assert is_inside(first["entry"], dimension)
        assert distributions(read.space)["entry"]._contains(
            distributions(read.space)["entry"].to_internal_repr(first["entry"])
        )


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("width = [1, true]", "width: must be all numbers, all words, or true and false"),
        ('width = [1, "a"]', "width: must be all numbers, all words"),
        ("width = [[1, 2], [3]]", "width: [1, 2] is no number, no word, and neither true nor"),
        ("width = [nan, 1.0]", "width: must be finite"),
        ("width = { low = 1, high = 1e400 }", "width: must be finite"),
        ("width = { low = 5, high = 2 }", "width: low must be less than high"),
        ("width = { low = 0, high = 2, log = true }", "width: a logarithmic range needs low > 0"),
        ("width = { low = false, high = true }", "width: low and high must be numbers"),
        ('width = { low = "a", high = "b" }', "width: low and high must be numbers"),
        ("width = { step = 2 }", "width: must be { low = a, high = b }"),
        ("width = []", "width: the list of choices is empty"),
        ("width = [2, 2]", "width: a choice is listed twice"),
        ('"kernel size" = 3', "'kernel size' cannot name an entry of your own"),
        ("lambda = 3", "'lambda' cannot name an entry"),
        ("hidden_unit = 3", "'hidden_unit' is almost 'hidden_units'; correct it"),
    ],
)
def test_entries_that_make_no_sense(refuse: Refuse, entry: str, says: str) -> None:
    """They are refused in one line that names the entry, before anything is imported."""
    top = f'[model]\nfactory = "nowhere:build"\n[space]\n{entry}\n'
    refuse({"d.csv": csv(), "s.toml": forecast(space="", top=top)}, f"[space] {says}")


def test_without_a_factory(refuse: Refuse) -> None:
    """An unknown entry is an error then; if it is no slip, the line says what it would need."""
    for entry, says in (
        ("zzz = 3", "unknown key 'zzz'; known: batch_size"),
        ("zzz = 3", "others need a [model] factory"),
        ("hidden_unit = 3", "unknown key 'hidden_unit'; did you mean 'hidden_units'?"),
    ):
        top = f"[space]\n{entry}\n"
        refuse({"d.csv": csv(), "s.toml": forecast(space="", top=top)}, says)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('factori = "a:b"', "[model] unknown key 'factori'; did you mean 'factory'?"),
        ('folder = "x"', "[model] the key 'factory' is missing"),
        ("factory = 3", '[model] factory: must be "module:function"'),
        ('factory = "a:b"\nfolder = 3', "[model] folder: must be a text in quotes"),
        ('factory = "a:b"\nfolder = ""', "[model] folder: is empty; give the path of a folder"),
    ],
)
def test_the_model_table(refuse: Refuse, table: str, says: str) -> None:
    """Its keys are checked as all others are."""
    top = f"[model]\n{table}\n"
    refuse({"d.csv": csv(), "s.toml": forecast(top=top)}, says)


def test_the_folder_is_the_study_files(tmp_path: Path) -> None:
    """Where nothing else is said the module is looked for beside the study file."""
    read = config(tmp_path)
    assert read.model is not None
    assert read.model.folder == tmp_path
    assert read.resolved()["model"] == {**FACTORY, "folder": str(tmp_path)}
    (tmp_path / "inner").mkdir()
    read = load_config(write_study(tmp_path, model={**FACTORY, "folder": "inner"}))
    assert read.model is not None
    assert read.model.folder == tmp_path / "inner"


def test_the_order_of_entries_is_no_change(tmp_path: Path) -> None:
    """Entries are taken by name, so that a study file written in another order is the same."""
    entries = {"b": [1, 2], "a": [True, False]}
    one, other = config(tmp_path, **entries), config(tmp_path, **dict(reversed(entries.items())))
    assert list(one.space)[-2:] == list(other.space)[-2:] == ["a", "b"]


def test_hyperparameters_carry_them(tmp_path: Path) -> None:
    """They reach a factory by name, frozen and hashable, and are stored beside the others."""
    space = config(tmp_path, width=[4, 2], causal=[True, False], fixed=0.5).space
    study = optuna.create_study()
    params = suggest(study.ask(), space)
    assert list(params.extra) == ["causal", "fixed", "width"]
    assert params.extra["fixed"] == 0.5
    assert isinstance(params.extra["causal"], bool)
    with pytest.raises(KeyError, match=r"no entry 'widht'; did you mean 'width'\?"):
        params.extra["widht"]
    with pytest.raises(TypeError):
        params.extra["width"] = 3  # type: ignore[index]
    assert hash(params) == hash(HyperParams.of(params.to_dict()))
    assert HyperParams.of(params.to_dict()) == params
    assert dataclasses.replace(params, epochs=3).extra == params.extra
    assert hyper().extra == {}
    assert fits(params.to_dict(), space)
    assert not fits(hyper().to_dict(), space)
    assert not fits({**params.to_dict(), "width": True}, space)


def test_a_state_of_any_shape_is_cut_off() -> None:
    """Tensors within tuples, named ones too, lists and dicts lose their gradient, None stays."""
    tensor = torch.ones(2, requires_grad=True) * 2
    cut = detach({"a": [tensor, None], "b": (tensor, 3)})
    assert not cut["a"][0].requires_grad
    assert cut["a"][1] is None
    assert isinstance(cut["b"], tuple)
    assert cut["b"][1] == 3
    assert detach(None) is None
    assert isinstance(detach(pack_sequence([torch.ones(2)])), PackedSequence)
