"""`[budget] stagnation` and `target` from the study file to the summary, and on resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny import read_json, write_study

from search.cli import main


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's folder is the current one, and the storage is in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)


def test_a_target_ends_a_run_and_can_be_lifted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that reaches its target exits with 0 and says so; `--target none` lets it go on."""
    write_study(tmp_path, budget={"trials": 3, "target": 100})
    assert main(["run", "tiny.toml", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "has reached the target 100" in printed.split("stopped:")[1]
    assert "enough: the best loss" in printed
    assert "resume tiny --target none --stagnation none" in printed
    assert main(["show", "tiny", "--json"]) == 0
    shown = read_json(capsys.readouterr().out)
    assert (shown["trials"]["total"], shown["trials"]["complete"]) == (1, 1)
    assert "target 100" in shown["enough"]
    assert main(["resume", "tiny", "--workers", "1", "--target", "none", "--json"]) == 0
    whole = read_json(capsys.readouterr().out)
    assert (whole["trials"]["total"], whole["enough"]) == (3, "")


def test_stagnation_may_change_in_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study file with another stagnation is the same study; the summary says why it ended."""
    write_study(tmp_path, budget={"trials": 2})
    assert main(["run", "tiny.toml", "--workers", "1", "--json"]) == 0
    assert read_json(capsys.readouterr().out)["enough"] == ""
    write_study(tmp_path, budget={"trials": 40, "stagnation": 1})
    assert main(["run", "tiny.toml", "--workers", "1", "--json"]) == 0
    ended = read_json(capsys.readouterr().out)
    assert 2 <= ended["trials"]["total"] < 40
    assert "trials was better than loss" in ended["enough"]
    assert main(["resume", "tiny", "--stagnation", "none", "--trials", "2", "--json"]) == 0
    assert read_json(capsys.readouterr().out)["enough"] == ""


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("stagnation", 0, "[budget] stagnation: must be at least 1, not 0"),
        ("stagnation", 2.5, "[budget] stagnation: must be a whole number"),
        ("target", "low", "[budget] target: must be a number"),
        ("target", float("nan"), "[budget] target: must be a finite number"),
    ],
)
def test_a_budget_that_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: object, said: str
) -> None:
    """A wrong value is one line that names the key, exit 2, and nothing is created."""
    write_study(tmp_path, budget={key: value})
    assert main(["run", "tiny.toml"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "studies").exists()


@pytest.mark.parametrize("option", [("--target", "inf"), ("--target", "x"), ("--stagnation", "0")])
def test_options_that_make_no_sense(
    option: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong option is one line, exit 2."""
    with pytest.raises(SystemExit) as refused:
        main(["run", "tiny.toml", *option])
    assert refused.value.code == 2
    assert option[0] in capsys.readouterr().err
