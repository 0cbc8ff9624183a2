"""A study file is understood, refused with the remedy, and written out in full."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config, write_series, write_study

from search.config import METRICS, NAME, StudyConfig, load_config, make_config
from search.dimensions import HYPERPARAMETERS, Choices, Fixed, Range
from search.errors import ConfigError
from search.fields import seconds

STUDIES = Path(__file__).parents[1] / "studies"


def minimal(task: str = "forecast", **changes: Any) -> dict[str, Any]:
    """Returns the least that a study has to say, and changes."""
    return {"name": "s", "data": {"task": task, "path": "x.csv"}, **changes}


def refusal(written: dict[str, Any]) -> str:
    """Returns the one line that refuses a study."""
    with pytest.raises(ConfigError) as caught:
        make_config(written, "file")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_minimal_study_has_every_default() -> None:
    """What a study leaves out takes its default; what it gives of the space is remembered."""
    config = make_config(minimal(space={"epochs": [2, 3]}), "file")
    assert list(config.space) == list(HYPERPARAMETERS)
    assert config.space["epochs"] == Choices((2, 3))
    assert config.space["cell"] == HYPERPARAMETERS["cell"].default
    assert config.given == {"epochs"}
    assert (config.seed, config.metric, config.keep) == (0, "loss", 5)
    assert (config.budget.trials, config.budget.timeout) == (40, None)
    assert (config.stopping.peers, config.stopping.divergence) == (5, True)


@pytest.mark.parametrize("path", sorted(STUDIES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_shipped_studies_are_valid(path: Path) -> None:
    """Every study that comes with the tool can be read and is named like its file."""
    assert load_config(path).name == path.stem


@pytest.mark.parametrize("task", METRICS)
def test_a_resolved_study_is_the_same_study(task: str, tmp_path: Path) -> None:
    """Written out with all defaults, as TOML or as plain data, a study is read as itself."""
    space = {
        "learning_rate": {"low": 1e-3, "high": 0.5, "log": False},
        "epochs": 3,
        "dropout": [0.0, 0.1],
        "cell": {"fixed": "gru"},
    }
    written = minimal(task, space=space, budget={"timeout": "90s"}, seed=2**63 - 1)
    config = make_config(written, "file")
    path = tmp_path / "again.toml"
    path.write_text(config.to_toml())
    for again in (load_config(path), make_config(config.resolved(), "stored")):
        resolved = again.resolved()
        assert Path(resolved["data"].pop("path")).name == "x.csv"  # a file's is made absolute
        assert resolved["data"].items() <= config.resolved()["data"].items()
        assert resolved | {"data": 0} == config.resolved() | {"data": 0}
        assert again.space == config.space
    assert tomllib.loads(config.to_toml()) == config.resolved()


@pytest.mark.parametrize(("task", "metric"), [(t, m) for t in METRICS for m in METRICS[t]])
def test_the_metric_gives_the_direction(task: str, metric: str) -> None:
    """Errors are minimised; accuracy and macro-F1 are maximised."""
    config = make_config(minimal(task, metric=metric), "file")
    better = "maximize" if metric in ("accuracy", "macro_f1") else "minimize"
    assert config.direction == better


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90s", 90),
        ("5m", 300),
        ("1.5h", 5400),
        ("2d", 172800),
        (" 7 ", 7),
        ("7 m", 420),
        (3.5, 3.5),
    ],
)
def test_durations(written: object, meant: float) -> None:
    """A duration is a number of seconds, or one with a unit."""
    assert seconds(written) == meant
    assert make_config(minimal(budget={"timeout": written}), "file").budget.timeout == meant


@pytest.mark.parametrize("written", ["", "m", "5 minutes", "-5m", "1e3", "0", 0, -1, True, [5]])
def test_what_is_no_duration(written: object) -> None:
    """Anything else than a duration above zero is refused, naming the key."""
    assert "[budget] timeout" in refusal(minimal(budget={"timeout": written}))


@given(st.text(max_size=12))
def test_a_name_can_be_a_folder(name: str) -> None:
    """A study's name has only characters that are safe in a path and a URL, and is no option."""
    if NAME.fullmatch(name):
        assert make_config(minimal(name=name), "file").name == name
        assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
        assert name[0] not in ".-_"
    else:
        assert "cannot be a study's name" in refusal(minimal(name=name))


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "..", "", "-x", "a" * 101, "é", "a\n"])
def test_names_that_are_refused(name: str) -> None:
    """Names that would leave the folder, hide a file or be too long are refused."""
    assert "cannot be a study's name" in refusal(minimal(name=name))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trials": 3}, ["unknown key 'trials'; it belongs below [budget]"]),
        ({"window": 3}, ["unknown key 'window'; it belongs below [data]"]),
        ({"budget": {"trails": 3}}, ["[budget]", "'trails'", "did you mean 'trials'?"]),
        ({"space": {"hidden_unit": 3}}, ["[space]", "did you mean 'hidden_units'?"]),
        ({"stopping": {"patiense": 3}}, ["[stopping]", "did you mean 'patience'?"]),
        ({"space": {"learning_rate": 0.01}}, ["[space]", "learning_rate", "always be searched"]),
        ({"space": {"epochs": {"low": 4, "high": 3}}}, ["epochs: low must be less than high"]),
        ({"space": [1]}, ["[space]", "table"]),
        ({"metric": "accuracy"}, ["'accuracy' is no figure of the task forecast"]),
        ({"metric": "rsme"}, ["did you mean 'rmse'?"]),
        ({"budget": {"trials": 0}}, ["[budget] trials"]),
        ({"budget": {"trials": "40"}}, ["[budget] trials", "'40'"]),
        ({"budget": {"trials": 4.5}}, ["[budget] trials", "4.5"]),
        ({"stopping": {"peers": 4}}, ["[stopping] peers", "5"]),
        ({"stopping": {"divergence": "no"}}, ["[stopping] divergence", "'no'"]),
        ({"stopping": {"pruner": "hyperband"}}, ["[stopping] pruner", "'hyperband'"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": 2**63}, ["seed"]),
        ({"keep": -1}, ["keep", "-1"]),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], words: list[str]) -> None:
    """A fault is told on one line, with the file, the place and the nearest known key."""
    message = refusal(minimal(**changes))
    assert message.startswith("file: ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"path": "x"}, ["task must be forecast, classify or language"]),
        ({"path": "x", "task": "regress"}, ["task must be", "'regress'"]),
        ({"task": "forecast"}, ['either path = "FILE" or source = "example:NAME"']),
        ({"task": "forecast", "path": "x", "source": "example:y"}, ["either path"]),
        ({"task": "forecast", "source": "y.csv"}, ['for a file of yours: path = "FILE"']),
        ({"task": "forecast", "path": "x", "horizont": 3}, ["did you mean 'horizon'?"]),
        ({"task": "language", "path": "x", "window": 3}, ["unknown key 'window'"]),
        ({"task": "forecast", "path": "x", "split": [0.5, 0.5, 0.5]}, ["[data] split", "add up"]),
        ({"task": "forecast", "path": "x", "split": [1.0, 0.0, 0.0]}, ["[data] split", "above 0"]),
        ({"task": "forecast", "path": "x", "window": 0}, ["[data] window"]),
        ({"task": "forecast", "path": "x", "target": []}, ["[data] target"]),
        ({"task": "classify", "path": "x", "valid": 1.0}, ["[data] valid"]),
    ],
)
def test_data_that_makes_no_sense_is_refused(data: dict[str, Any], words: list[str]) -> None:
    """A fault in the data's table names the key, and what would be right."""
    message = refusal({"name": "s", "data": data})
    assert [word for word in words if word not in message] == []


def test_one_column_is_a_list_of_one() -> None:
    """A single target may be written without brackets."""
    data = {"task": "forecast", "path": "x", "target": "y", "features": ["y", "z"]}
    config = make_config(minimal(data=data), "file")
    assert (config.data.target, config.data.features) == (("y",), ("y", "z"))


def test_a_path_is_beside_the_study_or_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is looked for beside the study file, then in the current folder."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    study = tmp_path / "there" / "s.toml"
    study.write_text('[data]\ntask = "forecast"\npath = "series.csv"\n')
    assert load_config(study).data.path == tmp_path / "there" / "series.csv"
    write_series(tmp_path / "here" / "series.csv")
    assert load_config(study).data.path == tmp_path / "here" / "series.csv"
    write_series(tmp_path / "there" / "series.csv")
    assert load_config(study).data.path == tmp_path / "there" / "series.csv"


def test_a_study_without_a_name_is_called_like_its_file(tmp_path: Path) -> None:
    """The file's name stands in for a missing one."""
    path = tmp_path / "mine.toml"
    path.write_text('[data]\ntask = "forecast"\npath = "x.csv"\n')
    assert load_config(path).name == "mine"


def test_files_that_are_no_study(tmp_path: Path) -> None:
    """A folder, a missing file, bytes and bad TOML are each refused on one line."""
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "bad.toml").write_text("name = \n")
    for name in ("", "missing.toml", "bytes.toml", "bad.toml"):
        with pytest.raises(ConfigError, match=re.escape(str(tmp_path))) as caught:
            load_config(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_nobody_can_write_what_the_file_gives(tmp_path: Path) -> None:
    """``given`` is ours: a study file with it is refused."""
    path = write_study(tmp_path, given=["epochs"])
    with pytest.raises(ConfigError, match="unknown key 'given'"):
        load_config(path)


def test_a_configuration_is_frozen(tmp_path: Path) -> None:
    """Behind the door nothing changes a configuration."""
    config = tiny_config(tmp_path)
    assert isinstance(config, StudyConfig)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert config.space["epochs"] == Range(2, 4)
    assert not any(isinstance(dimension, Fixed) for dimension in config.space.values())
