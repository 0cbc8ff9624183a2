"""A network of the user's own, from the study file to a prediction, and never without trust."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import signal
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from own import READER, SPACE, SPEAKER, clean_imports, study, write_own
from refusing import require_refusal, tree
from tiny import (
    epochs_reported,
    files_of,
    interrupt_when,
    read_json,
    record,
    rnn_search,
    start,
    trials_of,
    wait_for_end,
)

import search
from search.cli import main
from search.database import Database
from search.errors import FactoryError
from search.storage import open_study

TRUST = "--trust-code"
RUN = ("run", "tiny.toml", "--workers", "1")
pytestmark = pytest.mark.usefixtures("clean_imports")
__all__ = ["clean_imports"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of a network with attention that has run."""
    folder = tmp_path_factory.mktemp("own")
    write_own(folder, trials=6)
    run = rnn_search(folder, *RUN, TRUST)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture
def copy(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same in a folder of the test's own, which is the current one; its study names its own."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    return tmp_path


def forget(folder: Path, code: str = "") -> None:
    """Ends the import of ``mynet``, as the end of a process does, and rewrites it."""
    sys.modules.pop("mynet", None)
    if code:
        (folder / "mynet.py").write_text(code)


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Runs a command in this process, trusted, and returns what it printed."""
    capsys.readouterr()
    code = main([*arguments, TRUST])
    output, errors = capsys.readouterr()
    assert code == 0, errors
    return output


def test_entries_of_the_users_own(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They are searched, stored, shown and tabled as the others are, first by their order."""
    trials = trials_of(copy)
    assert [trial.params["attention"] for trial in trials[:3]] == [True] * 3
    assert [trial.params["kernel_size"] for trial in trials[:3]] == [3] * 3
    assert {type(trial.params["kernel_size"]) for trial in trials} == {int}
    assert trials[0].distributions["attention"].choices == (True, False)
    assert len({(t.params["attention"], t.params["kernel_size"]) for t in trials}) > 1
    assert "cell" not in trials[0].params
    for arguments, said in (
        (["show", "tiny"], "attention kernel_size"),
        (["show", "tiny", "0"], "kernel_size = 3"),
        (["show", "tiny", "--json"], '"kernel_size": '),
    ):
        assert main(arguments) == 0
        assert said in capsys.readouterr().out


def test_importances_name_the_users_entries(folder: Path) -> None:
    """Optuna weighs the user's own entries beside the built-in ones."""
    storage = optuna.storages.RDBStorage(f"sqlite:///{folder}/studies/studies.db")
    loaded = optuna.load_study(study_name="tiny", storage=storage)
    assert optuna.importance.get_param_importances(loaded).keys() >= {"attention", "kernel_size"}
    storage.engine.dispose()


@pytest.mark.parametrize(
    "arguments",
    [
        RUN,
        ("resume", "tiny", "--trials", "9"),
        ("evaluate", "tiny"),
        ("replay", "tiny", "0"),
        ("export", "tiny", "model"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_without_trust(
    copy: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    """Whatever would import the factory says so instead, in one line, and changes nothing."""
    before = tree(copy).keys()
    code = main(list(arguments))
    output, errors = capsys.readouterr()
    require_refusal(code, errors, ("mynet:build", "it imports mynet", "add --trust-code"))
    assert output == ""
    assert "mynet" not in sys.modules
    database = str(copy / "studies" / "studies.db")
    assert tree(copy).keys() - {f"{database}-wal", f"{database}-shm"} == before


def test_what_never_imports_it(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list`, `show` and `check` do without the factory, and `check` says that it does."""
    (copy / "mynet.py").unlink()
    for arguments in (["list"], ["show", "tiny"], ["check", "tiny.toml"]):
        assert main(arguments) == 0
    assert "mynet:build is neither imported nor tried" in capsys.readouterr().out


def test_check_with_trust(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`check --trust-code` builds and tries the network, and prints a file that means the same."""
    (copy / "mynet.py").write_text(SPEAKER.replace('print("building")', "raise ValueError('no')"))
    assert main(["check", "tiny.toml", TRUST]) == 2
    assert "building the network raised ValueError: no (mynet.py, line" in capsys.readouterr().err
    forget(copy, SPEAKER)
    (copy / "again.toml").write_text(call(capsys, "check", "tiny.toml"))
    again = json.loads(call(capsys, "check", "again.toml", "--json"))
    assert again == json.loads(call(capsys, "check", "tiny.toml", "--json"))
    assert again["notes"] == ["none"]


@pytest.mark.slow
def test_killed_study_equals_the_whole(folder: Path, tmp_path: Path) -> None:
    """A study killed with -9 and resumed from the storage alone equals the uninterrupted one."""
    write_own(tmp_path, trials=6)
    run = start(tmp_path, *RUN, TRUST)
    half = epochs_reported(folder) / 2
    children = interrupt_when(run, lambda: epochs_reported(tmp_path) > half, signal.SIGKILL)
    run.wait(60)
    wait_for_end(children)
    (tmp_path / "tiny.toml").unlink()
    again = rnn_search(
        tmp_path / "studies",
        "resume",
        "tiny",
        TRUST,
        "--workers",
        1,
        "--storage",
        f"sqlite:///{tmp_path}/studies/studies.db",
    )
    assert again.returncode == 0, again.stderr
    assert record(trials_of(tmp_path)) == record(trials_of(folder))
    assert files_of(tmp_path) == files_of(folder)


@pytest.mark.slow
def test_evaluate_and_replay(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both build the user's network again: the same bits, and figures of the test part."""
    options = ("--top", "1", "--seeds", "2", "--workers", "1", "--json")
    found = read_json(call(capsys, "evaluate", "tiny", *options))
    assert len(found["test"]["seeds"]) == 2
    assert found["params"].keys() >= {"attention", "kernel_size"}
    replayed = read_json(call(capsys, "replay", "tiny", "1", "--json"))
    assert (replayed["equal"], replayed["changed"]) == (True, [])


def test_export_and_predict(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exported weights have the user's own names, and predict again only with trust."""
    call(capsys, "export", "tiny", "model")
    page = (copy / "model" / "README.md").read_text()
    assert "built by `build` of the Python module `mynet`" in page
    assert 'search.load("DIR", trust_code=True)' in page
    assert "predict --trust-code DIR" in page
    table = pd.read_csv(copy / "series.csv").drop(columns="label")
    with pytest.raises(FactoryError, match=r"model.json: .*mynet:build.* add --trust-code"):
        search.load("model")
    forget(copy)
    model = search.load("model", trust_code=True)
    assert "head.weight" in model.networks.each[0].state_dict()
    predicted = model.predict(table)
    assert (predicted["p_x"] + predicted["p_y"]).between(0.999, 1.001).all()
    assert main(["predict", "model", "series.csv"]) == 2
    assert "add --trust-code" in capsys.readouterr().err
    printed = call(capsys, "predict", "model", "series.csv").splitlines()
    assert len(printed) == 61
    assert [line.split(",")[2] for line in printed[1:]] == list(predicted["class"])


def test_the_module_in_the_models_folder(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Put there as the model's page says, it is loaded, and the next export leaves it there."""
    call(capsys, "export", "tiny", "model")
    shutil.copy(copy / "mynet.py", copy / "model")
    (copy / "model" / "__pycache__").mkdir()
    names = {path.name for path in (copy / "model").iterdir()}
    assert search.load("model", trust_code=True)  # The study has imported the first folder's.
    assert main(["export", "tiny", "model", TRUST]) == 2
    assert "holds an exported model; --force replaces it" in capsys.readouterr().err
    call(capsys, "export", "tiny", "model", "--force")
    assert {path.name for path in (copy / "model").iterdir()} == names
    assert (copy / "model" / "mynet.py").read_text() == SPEAKER
    (copy / "model" / "notes.txt").touch()
    assert main(["export", "tiny", "model", "--force", TRUST]) == 2
    assert "holds other files ('notes.txt')" in capsys.readouterr().err


@pytest.mark.slow
def test_export_of_the_evaluations_networks(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Winner and ensemble are built by the factory, whose fingerprint they carry."""
    options = ("--top", "1", "--seeds", "2", "--workers", "1", "--json")
    call(capsys, "evaluate", "tiny", *options)
    table = pd.read_csv(copy / "series.csv").drop(columns="label")
    for source, size in (("winner", 1), ("ensemble", 2)):
        assert main(["export", "tiny", source, f"--{source}"]) == 2
        assert "add --trust-code" in capsys.readouterr().err
        card = read_json(call(capsys, "export", "tiny", source, f"--{source}", "--json"))
        digest = hashlib.sha256((copy / "mynet.py").read_bytes()).hexdigest()
        assert (card["factory"], card["factory_source"]) == ("mynet:build", digest[:16])
        assert "The network is your own" in (copy / source / "README.md").read_text()
        with pytest.raises(FactoryError, match="add --trust-code"):
            search.load(source)
        forget(copy)  # The study names the first folder's module, the model this one's.
        model = search.load(source, trust_code=True)
        assert len(model.networks.each) == size
        predicted = model.predict(table)
        assert (predicted["p_x"] + predicted["p_y"]).between(0.999, 1.001).all()
        forget(copy)


def test_onnx_is_refused(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only networks of rnn-search's own become ONNX; nothing is written."""
    assert main(["export", "tiny", "model", "--onnx", TRUST]) == 2
    message = "mynet:build builds this one; export without --onnx"
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (copy / "model").exists()


def test_a_model_whose_code_is_gone_or_changed(
    folder: Path,
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said where the module was looked for, that it has changed, or that it does not fit."""
    call(capsys, "export", "tiny", "model")
    forget(copy, SPEAKER + "# changed\n")
    assert main(["predict", "model", "series.csv", TRUST]) == 0
    assert "the source of mynet:build has changed since" in capsys.readouterr().err
    forget(copy, SPEAKER.replace("self.head", "self.last"))
    assert main(["predict", "model", "series.csv", TRUST]) == 2
    assert "of another network than model.json and mynet:build describe" in capsys.readouterr().err
    stored = open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")
    config = stored.config.resolved()
    config["model"]["folder"] = str(copy)
    stored.remember(config=config)
    forget(copy)
    assert main(["export", "tiny", "again", TRUST]) == 2
    said = capsys.readouterr().err
    assert "of another network than the study 'tiny' and mynet:build describe; put the code" in said
    assert "export the model again" not in said
    forget(copy)
    (copy / "mynet.py").unlink()
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(folder)])
    assert main(["predict", "model", "series.csv", TRUST]) == 2
    said = f"there is no module 'mynet' in {copy / 'model'} or {copy}"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_a_fork_with_one_entry_more(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No trial of a study without an entry fits one with it; without more, all of them do."""
    (copy / "tiny.toml").write_text(study("mynet:build", SPACE + "heads = [1, 2]\n", trials=1))
    assert "0 of the 6 trials" in call(capsys, *RUN, "--fork", "more")
    (copy / "tiny.toml").write_text(study("mynet:build", SPACE, trials=6))
    assert "6 of the 6 trials" in call(capsys, *RUN, "--fork", "same")


@pytest.mark.slow
def test_a_combination_that_cannot_be(tmp_path: Path) -> None:
    """An error of the user's code within a trial fails that trial, with its traceback stored."""
    check = '    if not params.extra["attention"]:\n        raise LookupError("none")\n'
    write_own(tmp_path, SPEAKER.replace('    print("building")\n', check), trials=8)
    run = rnn_search(tmp_path, *RUN, TRUST, "--json")
    assert run.returncode == 0, run.stderr
    counts = read_json(run.stdout)["trials"]
    failed = [trial for trial in trials_of(tmp_path) if trial.state.name == "FAIL"]
    assert counts["failed"] == len(failed) > 0
    assert counts["complete"] > 2
    for trial in failed:
        assert trial.user_attrs["reason"].startswith(
            "NetworkError: mynet:build: building the network raised LookupError: none (mynet.py,"
        )
        assert 'raise LookupError("none")' in trial.user_attrs["traceback"]


@pytest.mark.slow
def test_json_although_the_factory_prints(tmp_path: Path) -> None:
    """What the user's code prints goes to standard error, in trainers too; stdout stays JSON.

    A folder named as this package, beside the study, is not in the trainers' way.
    """
    write_own(tmp_path, trials=1)
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    run = rnn_search(tmp_path, *RUN, TRUST, "--json")
    assert run.returncode == 0, run.stderr
    assert read_json(run.stdout)["trials"]["complete"] == 1
    assert run.stderr.count("building") >= 2


def test_a_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A causal convolution that carries a state of its own searches, is exported and writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    (tmp_path / "mynet.py").write_text(READER)
    (tmp_path / "book.txt").write_text("the quick brown fox " * 120)
    (tmp_path / "tiny.toml").write_text(
        '[data]\ntask = "language"\npath = "book.txt"\nsequence_length = 8\n'
        '[model]\nfactory = "mynet:Reader"\n'
        "[space]\nwidth = { low = 2, high = 6 }\nepochs = 6\nhidden_units = 32\n"
        "[budget]\ntrials = 2\n"
    )
    best = read_json(call(capsys, *RUN, "--json"))["best"]
    assert best["figures"]["nats_per_char"] < 1.0
    call(capsys, "export", "tiny", "model")
    (tmp_path / "start.txt").write_text("the quick ")
    options = ("--length", "20", "--temperature", "0")
    told = call(capsys, "predict", "model", "start.txt", *options)
    assert told == "brown fox the quick \n"


def test_objective(copy: Path) -> None:
    """`search.Objective` takes a study with a factory, if it is trusted."""
    with pytest.raises(FactoryError, match="add --trust-code"):
        search.Objective("tiny.toml")
    objective = search.Objective("tiny.toml", trust_code=True)
    sampler = optuna.samplers.RandomSampler(seed=0)
    loaded = optuna.create_study(direction=objective.direction, sampler=sampler)
    loaded.enqueue_trial({"learning_rate": 0.01})
    loaded.optimize(objective, n_trials=1)
    assert loaded.best_params.keys() >= {"attention", "kernel_size"}


def test_the_example_of_the_readme(tmp_path: Path) -> None:
    """What the README shows runs as it stands there, with nothing searched in vain."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    section = readme.split("## Your own network\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```(?:python|toml)\n# ([a-z.]+).*?\n(.*?)```", section, re.DOTALL)
    assert [name for name, _ in blocks] == ["mynet.py", "own.toml"]
    for name, content in blocks:
        (tmp_path / name).write_text(content)
    command = section.split("```\nrnn-search ")[1].split("\n")[0].partition("#")[0]
    run = rnn_search(tmp_path, *command.split(), "--trials", 1, "--json")
    assert run.returncode == 0, run.stderr
    found = read_json(run.stdout)
    assert found["best"]["figures"]["accuracy"] > 0.7
    assert found["notes"] == []
