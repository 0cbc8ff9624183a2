"""`[budget] stagnation` and `target` from the study file to the summary, and on resume."""

from __future__ import annotations

from pathlib import Path

import pytest
from made import made_study, made_trial
from tiny import read_json, tiny_config, write_study

from search.changes import say_more, with_all_trials
from search.cli import main
from search.data import load_splits
from search.storage import open_study


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


@pytest.mark.parametrize("option", [(), ("--target", "98.5")])
def test_a_share_is_no_percentage(
    option: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A target that an accuracy never reaches is refused with what was meant; nothing is made."""
    rows = [f"{one},{'ab'[one % 2]},{one + at}" for one in range(40) for at in range(3)]
    (tmp_path / "takes.csv").write_text("\n".join(["take,kind,x", *rows]))
    data = {"task": "classify", "path": "takes.csv", "series": "take", "label": "kind"}
    budget = {"trials": 1, **({} if option else {"target": 98.5})}
    write_study(tmp_path, data=data, metric="accuracy", budget=budget)
    assert main(["run", "tiny.toml", *option]) == 2
    said = capsys.readouterr().err
    assert "[budget] target: accuracy is at most 1; for 98.5 % write 0.985" in said
    assert not (tmp_path / "studies").exists()


def test_a_run_ends_by_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``[budget] timeout`` is of one run: the next one has as much time again."""
    space = {"epochs": 100_000, "batch_size": [8], "hidden_units": 4}
    more = {"stopping": {"patience": 0}, "budget": {"trials": 1, "timeout": "1s"}}
    write_study(tmp_path, space=space, **more)
    for verb in (["run", "tiny.toml"], ["resume", "tiny"]):
        assert main([*verb, "--workers", "1", "--json"]) == 0
        counts = read_json(capsys.readouterr().out)["trials"]
        assert (counts["total"], counts["interrupted"]) == (1, 1)


def forkable(folder: Path) -> None:
    """Stores a study of four trials, the first of them hard to beat, with the real data's mark."""
    config = tiny_config(folder)
    losses = (1e-9, 0.4, 0.5, 0.6)
    trials = [made_trial(config, at, valid=[loss] * 3) for at, loss in enumerate(losses)]
    made_study(folder, trials).remember(data=load_splits(config.data).fingerprint)


def test_trials_taken_along_are_not_in_vain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A fork of a study that has stagnated trains as many as may be in vain, and then says so."""
    forkable(tmp_path)
    write_study(tmp_path, budget={"trials": 9, "stagnation": 2})
    assert main(["run", "tiny.toml", "--fork", "wider", "--workers", "1"]) == 0
    assert (
        "stopped: none of the last 2 trials was better than loss 1e-09" in capsys.readouterr().out
    )
    assert main(["show", "wider", "--json"]) == 0
    assert read_json(capsys.readouterr().out)["trials"]["total"] == 6


def test_a_fork_has_room_for_all_that_it_takes_along(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """More trials than the file's budget are said, and the next command trains further ones."""
    forkable(tmp_path)
    write_study(tmp_path, budget={"trials": 3})
    assert main(["run", "tiny.toml", "--fork", "more", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    assert "4 of 4 trials done" in printed
    assert "the study has 4 trials already, more than the 3 of its budget" in printed
    assert "resume more --trials 8" in printed


def test_a_total_that_another_run_trains_to_stays(tmp_path: Path) -> None:
    """A file that says fewer trials lowers the total of a study only where no run trains it."""
    stored = made_study(tmp_path, budget={"trials": 60})
    asked = tiny_config(tmp_path, budget={"trials": 40})
    taken, other = stored.take(60), open_study(stored.database, "tiny")
    assert taken is not None
    with_all_trials(other, asked)
    (line,) = say_more(other, 40)
    assert line == "another run trains the study to 60 trials; so does this one, not to 40"
    assert open_study(stored.database, "tiny").config.budget.trials == 60
    stored.release(taken)
    with_all_trials(other, asked)
    assert say_more(other, 40) == []
    assert open_study(stored.database, "tiny").config.budget.trials == 40


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
