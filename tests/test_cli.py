"""The whole tool as people use it: the installed command, real files, a real database."""

from __future__ import annotations

import math
import platform
import shutil
import subprocess
import sys
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import optuna
import pytest
from optuna.trial import TrialState
from tiny import (
    SPACE,
    count,
    files_of,
    read_json,
    record,
    rnn_search,
    start,
    trials_of,
    write_study,
)

from search import running
from search.cli import main
from search.diagnosis import ADVICE, TOO_FEW_EPOCHS

SLOW_SPACE: dict[str, object] = {**SPACE, "epochs": [2000, 3000], "batch_size": [8]}
"""Trials of which none ends before it is interrupted."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny study, as a user's own would be."""
    folder = tmp_path_factory.mktemp("user")
    write_study(folder, keep=2, budget={"trials": 5})
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path) -> SimpleNamespace:
    """What one run of the study has printed and left."""
    before = {path.name for path in folder.iterdir()}
    checked = rnn_search(folder, "check", "tiny.toml", "--json")
    after_check = {path.name for path in folder.iterdir()}
    run = rnn_search(folder, "run", "tiny.toml", "--workers", 2)
    return SimpleNamespace(
        folder=folder,
        before=before,
        checked=checked,
        after_check=after_check,
        run=run,
        files=files_of(folder),
        trials=trials_of(folder),
    )


def test_check_creates_nothing(ran: SimpleNamespace) -> None:
    """`check` prints what would run as one JSON object and leaves the folder as it was."""
    assert ran.checked.returncode == 0, ran.checked.stderr
    described = read_json(ran.checked.stdout)
    assert described["config"]["name"] == "tiny"
    assert described.keys() >= {"data", "notes", "baselines", "first trials", "run"}
    assert ran.after_check == ran.before


def test_run_trains_all(ran: SimpleNamespace) -> None:
    """`run` exits with 0 and leaves as many finished trials as were asked for."""
    assert ran.run.returncode == 0, ran.run.stderr
    assert len(ran.trials) == 5
    assert all(trial.state.is_finished() for trial in ran.trials)
    assert [t.params["learning_rate"] for t in ran.trials[:3]] == [0.01, 0.1, 0.001]


def test_run_prints_the_table(ran: SimpleNamespace) -> None:
    """The end of a run shows best trials, baselines, counts and the next commands."""
    words = ("5 of 5 trials", "complete", "trial", "network", "persistence", "ridge", "rmse")
    for word in (*words, "rnn-search resume tiny", "rnn-search show tiny", "rnn-search dashboard"):
        assert word in ran.run.stdout
    best = min(ran.trials, key=lambda trial: trial.value)
    rows = [
        line.split()[0] for line in ran.run.stdout.splitlines() if line.lstrip().startswith("#")
    ]
    assert rows[0] == f"#{best.number}"


def test_output_is_plain_where_there_is_no_terminal(ran: SimpleNamespace) -> None:
    """Into a file go plain lines, one for each trial that ended, without escape codes."""
    assert "\x1b" not in ran.run.stdout + ran.run.stderr
    assert sum(line.startswith("[") for line in ran.run.stdout.splitlines()) == 5


def test_optuna_keeps_silent(ran: SimpleNamespace) -> None:
    """What there is to say of a run is said by the run itself."""
    for words in ("A new study created", "ExperimentalWarning"):
        assert words not in ran.run.stdout + ran.run.stderr


def test_files_of_a_run(ran: SimpleNamespace) -> None:
    """Every trial has its losses, only the best ``keep`` their weights, none a checkpoint."""
    complete = [trial for trial in ran.trials if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: trial.value)[:2]
    expected = {f"{number:05d}/losses.safetensors" for number in range(5)}
    expected |= {f"{trial.number:05d}/weights.safetensors" for trial in best}
    assert set(ran.files) == expected


def test_findings_as_trials_end(ran: SimpleNamespace) -> None:
    """Each trial's line ends with what its losses show and, if it is that, where the rate goes."""
    lines = {line.split()[1]: line for line in ran.run.stdout.splitlines() if line[:1] == "["}
    for trial in ran.trials:
        finding, rate = trial.user_attrs["finding"], trial.params["learning_rate"]
        wanted = f"  ·  {finding}"
        if finding in ("too-slow", "jumping"):
            wanted += f", lr {rate:.2g} → {'raise' if finding == 'too-slow' else 'lower'}"
        assert wanted in lines[f"#{trial.number}"]
    counted = Counter(
        trial.user_attrs["finding"]
        for trial in ran.trials
        if not (trial.state.name == "PRUNED" and trial.user_attrs["finding"] in TOO_FEW_EPOCHS)
    )
    assert read_json(rnn_search(ran.folder, "show", "tiny", "--json").stdout)["verdicts"] == counted
    for finding, count_ in counted.items():
        assert f"  {finding} {count_}: {ADVICE[finding][0]}" in ran.run.stdout


def test_an_encoding_without_our_signs(
    ran: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the terminal knows ASCII only, plain signs stand for arrows, dots and bars."""
    bars = {"utf-8": "▁", "ascii": "_"}
    for encoding, lowest in bars.items():
        monkeypatch.setenv("PYTHONIOENCODING", encoding)
        shown = rnn_search(ran.folder, "show", "tiny")
        assert shown.returncode == 0, shown.stderr
        (line,) = [line for line in shown.stdout.splitlines() if line.startswith("Best so far")]
        assert f"{lowest}  loss " in line
    assert shown.stdout.isascii()
    assert "best trial" in shown.stdout


def test_show_json_has_the_agreed_keys(ran: SimpleNamespace) -> None:
    """`show --json` prints one object with the keys that scripts rely on."""
    shown = rnn_search(ran.folder, "show", "tiny", "--json")
    summary = read_json(shown.stdout)
    keys = "name task metric direction trials best baselines verdicts storage"
    assert summary.keys() >= set(keys.split())
    counts = "total complete pruned diverged failed running waiting"
    assert summary["trials"].keys() >= set(counts.split())
    assert summary["trials"]["total"] == 5
    assert summary["best"].keys() >= {"number", "value", "params", "epoch", "figures"}
    best = min(ran.trials, key=lambda trial: trial.value)
    assert (summary["best"]["number"], summary["best"]["value"]) == (best.number, best.value)
    assert summary["best"]["figures"].keys() >= {"loss", "rmse", "mae"}
    assert len(summary["best"]["params"]) == 11
    assert summary["baselines"]["persistence"].keys() >= {"rmse", "mae"}
    assert (summary["task"], summary["direction"]) == ("forecast", "minimize")


def test_show_a_trial(ran: SimpleNamespace) -> None:
    """`show NAME NUMBER` prints a trial's parameters and curve, and refuses one that is not."""
    shown = rnn_search(ran.folder, "show", "tiny", 0)
    assert shown.returncode == 0
    assert "learning_rate = 0.01" in shown.stdout
    assert shown.stdout.count("epoch  ") == len(ran.trials[0].intermediate_values)
    refused = rnn_search(ran.folder, "show", "tiny", 99)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "has trials 0 to 4" in refused.stderr


def test_a_study_file_names_its_study(ran: SimpleNamespace) -> None:
    """Where a study's name is asked for, its file will do; one that is not there is no study."""
    by_name, by_file = (rnn_search(ran.folder, "show", one) for one in ("tiny", "tiny.toml"))
    assert by_file.returncode == 0
    assert by_file.stdout == by_name.stdout
    refused = rnn_search(ran.folder, "show", "tinny.toml")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no study 'tinny.toml'" in refused.stderr


def test_list(ran: SimpleNamespace) -> None:
    """`list` names the study and how far it is."""
    listed = rnn_search(ran.folder, "list")
    assert listed.returncode == 0
    assert "tiny" in listed.stdout
    assert "5/5" in listed.stdout


def test_no_storage_yet(tmp_path: Path) -> None:
    """`list` and `show` where nothing was run say so, and make no file."""
    listed, shown = rnn_search(tmp_path, "list"), rnn_search(tmp_path, "show", "tiny")
    assert (listed.returncode, shown.returncode) == (0, 2)
    assert "no studies yet" in listed.stdout
    assert "there are no studies yet" in shown.stderr
    assert list(tmp_path.iterdir()) == []


def test_list_where_only_others_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A database in which no study is rnn-search's is not said to be empty."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    optuna.create_study(storage=url, study_name="mine").optimize(lambda trial: 0.0, n_trials=1)
    assert main(["list", "--storage", url]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("no studies yet of rnn-search's (others: mine) in sqlite:")
    assert main(["list", "--json", "--storage", url]) == 0
    assert capsys.readouterr().out == "[]\n"


@pytest.mark.slow
def test_resume_without_the_file(ran: SimpleNamespace, tmp_path: Path) -> None:
    """A run with the same total trains nothing; resume goes on with neither file nor repetition."""
    shutil.copytree(ran.folder, tmp_path, dirs_exist_ok=True)
    again = rnn_search(tmp_path, "run", "tiny.toml", "--json")
    assert again.returncode == 0
    assert read_json(again.stdout)["trials"]["total"] == 5
    assert record(trials_of(tmp_path)) == record(ran.trials)
    assert files_of(tmp_path) == ran.files
    (tmp_path / "tiny.toml").unlink()
    resumed = rnn_search(tmp_path, "resume", "tiny", "--trials", 8)
    assert resumed.returncode == 0, resumed.stderr
    trials = trials_of(tmp_path)
    assert record(trials[:5]) == record(ran.trials)
    assert len(trials) == 8
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 8


def test_fewer_trials_than_there_are(ran: SimpleNamespace, tmp_path: Path) -> None:
    """A total below what the study has trains nothing, takes nothing away, and is not stored."""
    shutil.copytree(ran.folder, tmp_path, dirs_exist_ok=True)
    again = rnn_search(tmp_path, "run", "tiny.toml", "--trials", 2)
    assert again.returncode == 0, again.stderr
    assert "5 of 5 trials done" in again.stdout
    assert "note: the study has 5 trials already, more than the 2 of its budget" in again.stdout
    assert "of 2 trials" not in rnn_search(tmp_path, "show", "tiny").stdout
    assert record(trials_of(tmp_path)) == record(ran.trials)


def test_a_study_that_is_done_needs_no_cluster(
    ran: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing is left to train no cluster is started or asked for."""
    monkeypatch.chdir(ran.folder)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)

    def refuse(wanted: object) -> NoReturn:
        raise AssertionError(f"opened {wanted}")

    monkeypatch.setattr(running, "open_crew", refuse)
    assert main(["run", "tiny.toml", "--cluster", "ray"]) == 0
    assert "5 of 5 trials" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="opened"):
        main(["run", "tiny.toml", "--cluster", "ray", "--trials", "6"])


@pytest.mark.slow
def test_refusals_change_nothing(ran: SimpleNamespace) -> None:
    """A changed study, a foreign one and a fork that cannot be are refused in one line."""
    make_foreign_study(ran.folder)
    write_study(ran.folder, file="wider", space={**SPACE, "epochs": {"low": 2, "high": 9}})
    write_study(ran.folder, name="foreign")
    for arguments, said in (
        (("run", "wider.toml"), "[space] epochs"),
        (("run", "foreign.toml"), "was not made by rnn-search"),
        (("run", "wider.toml", "--fork", "a/b"), "cannot be a study's name"),
    ):
        refused = rnn_search(ran.folder, *arguments)
        assert (refused.returncode, refused.stdout) == (2, ""), refused.stderr
        assert said in refused.stderr
        assert len(refused.stderr.splitlines()) == 1
    assert record(trials_of(ran.folder)) == record(ran.trials)
    (waiting,) = trials_of(ran.folder, "foreign")
    assert waiting.state == TrialState.WAITING
    assert count(ran.folder, "studies") == 2


def make_foreign_study(folder: Path) -> None:
    """Makes a study in the folder's storage as another program would."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / 'studies' / 'studies.db'}")
    optuna.create_study(storage=storage, study_name="foreign").enqueue_trial({"x": 1})
    storage.engine.dispose()


def test_fork_without_a_study_creates_nothing(tmp_path: Path) -> None:
    """Forking from a study that is not there is refused, and no database is made."""
    write_study(tmp_path)
    refused = rnn_search(tmp_path, "run", "tiny.toml", "--fork", "new")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert not (tmp_path / "studies").exists()


def test_fork(ran: SimpleNamespace) -> None:
    """`run --fork` takes over the trials that fit a changed space, with their files."""
    write_study(
        ran.folder,
        file="fork",
        keep=2,
        space={**SPACE, "learning_rate": {"low": 5e-3, "high": 2.0}},
        budget={"trials": 5},
    )
    forked = rnn_search(ran.folder, "run", "fork.toml", "--fork", "forked", "--json")
    assert forked.returncode == 0, forked.stderr
    assert read_json(forked.stdout)["name"] == "forked"
    trials, files = trials_of(ran.folder, "forked"), files_of(ran.folder, "forked")
    fit = [trial for trial in ran.trials if trial.params["learning_rate"] >= 5e-3]
    assert 2 <= len(fit) < 5
    taken, trained = trials[: len(fit)], trials[len(fit) :]
    assert [t.user_attrs["forked_from"] for t in taken] == [["tiny", t.number] for t in fit]
    for new, old in zip(taken, fit, strict=True):
        assert (new.value, new.intermediate_values) == (old.value, old.intermediate_values)
        losses = files[f"{new.number:05d}/losses.safetensors"]
        assert losses == ran.files[f"{old.number:05d}/losses.safetensors"]
    assert len(trained) == 5 - len(fit)
    tried = {trial.params["learning_rate"] for trial in trained}
    assert not tried & {0.01, 0.1}


def test_all_trials_diverge(tmp_path: Path) -> None:
    """A study all of whose trials diverge ends well and says that none has completed."""
    space = {**SPACE, "learning_rate": {"low": 1e4, "high": 9e5}, "optimizer": ["sgd"]}
    space["epochs"] = {"low": 3, "high": 6}
    write_study(tmp_path, space=space)
    run = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 1)
    assert run.returncode == 0, run.stderr
    assert "No trial has completed" in run.stdout
    assert "4 diverged" in run.stdout
    trials = trials_of(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.PRUNED] * 4
    for trial in trials:
        assert trial.constraints == {"diverged": 1.0}
        assert trial.user_attrs["outcome"] == "diverged"
        assert trial.user_attrs["reason"]
        assert all(math.isfinite(value) for value in trial.intermediate_values.values())
    assert set(files_of(tmp_path)) == {f"{n:05d}/losses.safetensors" for n in range(4)}
    shown = read_json(rnn_search(tmp_path, "show", "tiny", "--json").stdout)
    assert shown["best"] is None
    assert (shown["trials"]["pruned"], shown["trials"]["diverged"]) == (4, 4)


@pytest.mark.slow
def test_no_more_workers_than_trials(tmp_path: Path) -> None:
    """A run starts no more trainers than it has trials left to train."""
    write_study(tmp_path)
    run = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 8, "--trials", 1)
    assert "0 of 1 trials done, 1 worker on" in run.stdout, run.stderr
    run = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 8, "--trials", 3)
    assert "1 of 3 trials done, 2 workers on" in run.stdout, run.stderr


@pytest.mark.slow
def test_two_runs_at_once_are_exact(tmp_path: Path) -> None:
    """Two runs of one study at the same time train exactly its total, each trial once."""
    write_study(tmp_path, budget={"trials": 20})
    runs = [start(tmp_path, "run", "tiny.toml", "--workers", 1) for _ in range(2)]
    output = tmp_path / "output.txt"
    assert [run.wait(250) for run in runs] == [0, 0], output.read_text()
    trials = trials_of(tmp_path)
    assert len(trials) == 20
    assert all(trial.state.is_finished() for trial in trials)
    assert len({tuple(sorted(trial.params.items())) for trial in trials}) == 20
    ended = [line for line in output.read_text().splitlines() if line.startswith("[")]
    assert len(ended) == 20
    assert count(tmp_path, "rnn_search_leases") == 0


@pytest.mark.parametrize("asked", ["--help", "--version"])
def test_help_and_versions_are_quick(asked: str, tmp_path: Path) -> None:
    """Neither imports torch, Optuna, numpy, pandas or SQLAlchemy; the versions are one line."""
    command = [sys.executable, "-X", "importtime", "-m", "search", asked]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    imported = {line.split("|")[-1].strip() for line in said.stderr.splitlines()}
    assert "search.cli" in imported
    assert not imported & {"torch", "optuna", "numpy", "pandas", "sqlalchemy"}
    named = [f"{name} {version(name)}" for name in ("rnn-search", "torch", "optuna", "sqlalchemy")]
    named.append(f"python {platform.python_version()}")
    assert (asked == "--version") == all(name in said.stdout for name in named)
    assert (said.stdout.count("\n") == 1) == (asked == "--version")
