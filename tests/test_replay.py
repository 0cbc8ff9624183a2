"""`rnn-search replay`: a stored trial trained again, and what it says when bits differ."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.trial import FrozenTrial
from own import SPACE as OWN_SPACE
from own import SPEAKER, clean_imports, write_own
from rich.console import Console
from safetensors.torch import load_file, save_file
from sqlalchemy import text
from tiny import write_study

from search import layer_choices
from search.checkpoints import load_losses
from search.cli import main
from search.config import Budget
from search.coordinator import Ending
from search.copying import copy_study
from search.crews import Crew
from search.database import Database
from search.lane_trainers import LaneTrainers
from search.replay import replay
from search.running import Request, _attributes, make_plan, run_study
from search.storage import create_study, open_study
from search.stored_study import StoredStudy
from search.trial import Outcome
from search.trial_files import LOSSES, trial_folder

__all__ = ["clean_imports"]

SPACE: dict[str, Any] = {
    "learning_rate": {"low": 1e-5, "high": 1e4},
    "epochs": {"low": 4, "high": 8},
    "hidden_units": 4,
    "batch_size": [8, 16],
    "dropout": {"low": 0.1, "high": 0.5},
}
"""Some of these trials diverge, and some are pruned."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The storage of a study that has run, with trials of several outcomes, and of its fork."""
    folder = tmp_path_factory.mktemp("replay")
    write_study(folder, space=SPACE, budget={"trials": 20}, stopping={"warmup_epochs": 0})
    url = f"sqlite:///{folder / 'studies.db'}"
    for fork in (None, "forked"):
        request = Request(str(folder / "tiny.toml"), url, workers=1, device="cpu", fork=fork)
        run_study(request, make_plan(request), Console(quiet=True))
    return url


@pytest.fixture
def stored(url: str, tmp_path: Path) -> StoredStudy:
    """The study, in a copy that is the test's own."""
    shutil.copytree(Path(url.removeprefix("sqlite:///")).parent, tmp_path / "copy")
    copied = f"sqlite:///{tmp_path / 'copy' / 'studies.db'}"
    return open_study(Database(copied, create=False), "tiny")


def first(stored: StoredStudy, outcome: str) -> int:
    """Returns the number of the first trial that ended so."""
    return next(t.number for t in stored.trials() if t.user_attrs["outcome"] == outcome)


@pytest.mark.parametrize("outcome", ["complete", "pruned", "diverged"])
def test_a_trial_replays_to_the_same_bits(
    stored: StoredStudy, outcome: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever its outcome, a trial gives the same epochs and batch losses, and the exit is 0."""
    number = first(stored, outcome)
    arguments = ["replay", "tiny", str(number), "--storage", str(stored.database), "--json"]
    assert main(arguments) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["equal"], result["difference"], result["outcome"]) == (True, "", outcome)
    assert result["changed"] == []
    kept = load_file(trial_folder(stored.folder, number) / LOSSES)
    assert result["batches"] == len(kept["train"]) > 0
    assert result["epochs"] == len(stored.trials()[number].intermediate_values)
    assert any("peers" in note for note in result["notes"]) == (outcome == "pruned")


def test_a_forked_trial_replays_with_its_first_seed(stored: StoredStudy) -> None:
    """A trial that came by --fork is trained with the seed that it had in its own study."""
    forked = open_study(stored.database, "forked")
    trial = next(t for t in forked.trials() if t.user_attrs["forked_from"][1] > 0)
    assert replay(forked, trial.number).equal


def test_a_forked_trial_needs_its_first_study_no_more(stored: StoredStudy, tmp_path: Path) -> None:
    """Copied to where another study has its first one's name, it is still replayed as it was."""
    forked = open_study(stored.database, "forked")
    trial = next(t for t in forked.trials() if t.user_attrs["forked_from"][1] > 0)
    target = Database(f"sqlite:///{tmp_path / 'other.db'}", create=True)
    other = stored.config.model_copy(update={"seed": stored.config.seed + 1})
    create_study(target, other, {"data": "f00d", "baselines": {}, "notes": []})
    copy_study(forked, target)
    assert replay(open_study(target, "forked"), trial.number).equal


def change(stored: StoredStudy, statement: str, **values: object) -> None:
    """Alters the database behind the study's back."""
    with stored.database.engine.begin() as connection:
        assert connection.execute(text(statement), values).rowcount == 1


def say(stored: StoredStudy, trial: FrozenTrial, surroundings: dict[str, str]) -> None:
    """Alters what a trial says that it was trained with."""
    change(
        stored,
        "UPDATE trial_user_attributes SET value_json = :value "
        "WHERE trial_id = :trial AND key = 'surroundings'",
        value=json.dumps(surroundings),
        trial=trial._trial_id,
    )


def alter_value(stored: StoredStudy, number: int) -> str:
    """Changes the last bit or so of an epoch's value."""
    trial = stored.trials()[number]
    value = trial.intermediate_values[2]
    change(
        stored,
        "UPDATE trial_intermediate_values SET intermediate_value = :value "
        "WHERE trial_id = :trial AND step = 2",
        value=value * (1 + 4e-16),
        trial=trial._trial_id,
    )
    return "epoch 2: loss was"


def alter_batch(stored: StoredStudy, number: int) -> str:
    """Changes the last bit of the loss of the fourth batch."""
    path = trial_folder(stored.folder, number) / LOSSES
    tensors = load_file(path)
    tensors["train"].view(torch.int32)[3] += 1
    save_file(tensors, path)
    return "batch 4: the training loss was"


def alter_attribute(stored: StoredStudy, number: int, key: str, value: object) -> None:
    """Changes what a trial stores."""
    change(
        stored,
        "UPDATE trial_user_attributes SET value_json = :value "
        "WHERE trial_id = :trial AND key = :key",
        value=json.dumps(value),
        trial=stored.trials()[number]._trial_id,
        key=key,
    )


def alter_curve(stored: StoredStudy, number: int) -> str:
    """Changes the training loss of an epoch."""
    curve = stored.trials()[number].user_attrs["curve"]
    curve["train"][1] *= 1.000001
    alter_attribute(stored, number, "curve", curve)
    return "epoch 2: train loss was"


def alter_figure(stored: StoredStudy, number: int) -> str:
    """Changes a figure of the best epoch."""
    figures = stored.trials()[number].user_attrs["figures"]
    alter_attribute(stored, number, "figures", figures | {"mae": figures["mae"] * (1 + 4e-16)})
    return "best epoch: mae was"


@pytest.mark.parametrize("alter", [alter_value, alter_batch, alter_curve, alter_figure])
def test_one_bit_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    alter: Callable[[StoredStudy, int], str],
) -> None:
    """One bit less of what is stored is the first difference, and the exit is 1."""
    path = write_study(tmp_path, budget={"trials": 1}, space={**SPACE, "learning_rate": [0.01, 1]})
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request(str(path), url, workers=1, device="cpu")
    stored, _ = run_study(request, make_plan(request), Console(quiet=True))
    expected = alter(stored, 0)
    assert main(["replay", "tiny", "0", "--storage", url]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith("different: trial 0 of tiny")
    assert expected in printed
    assert "versions, platform and device are as they were then" in printed


def test_another_end_is_told(stored: StoredStudy) -> None:
    """A trial that diverged for another reason then than it does now is not the same."""
    number = first(stored, "diverged")
    alter_attribute(stored, number, "reason", "the moon was full")
    again = open_study(Database(str(stored.database), create=False), "tiny")
    result = replay(again, number)
    assert not result.equal
    assert result.difference.startswith("it ended diverged (the moon was full), now diverged (")


def test_what_has_changed_is_told(stored: StoredStudy) -> None:
    """Versions and devices that are others now than when the trial was trained are named."""
    number = first(stored, "complete")
    trial = stored.trials()[number]
    then = {**trial.user_attrs["surroundings"], "torch": "1.0", "device": "cuda:63"}

    say(stored, trial, then)
    again = open_study(Database(str(stored.database), create=False), "tiny")
    result = replay(again, number)
    assert result.equal
    assert [line.split(":")[0] for line in result.changed] == ["device", "torch"]
    assert "changed since then" in "\n".join(result.lines())


def test_replays_with_the_layers_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial is trained by the layers again that it says, whichever are quicker by now."""
    space = {**SPACE, "cell": "lstm", "hidden_units": 96, "learning_rate": {"fixed": 0.01}}
    path = write_study(tmp_path, budget={"trials": 1}, space=space)
    request = Request(str(path), f"sqlite:///{tmp_path / 'studies.db'}", workers=1, device="cpu")
    stored, _ = run_study(request, make_plan(request), Console(quiet=True))
    [trial] = stored.trials()
    had = trial.user_attrs["surroundings"]["layers"]
    other = {"ours": "torch's", "torch's": "ours"}[had]
    monkeypatch.setattr(layer_choices, "_ratio", lambda _: 0.5 if other == "torch's" else 2.0)
    again = replay(stored, 0)
    assert again.equal
    assert again.changed == []
    then = {**trial.user_attrs["surroundings"], "layers": other}
    say(stored, trial, then)
    altered = open_study(Database(str(stored.database), create=False), "tiny")
    assert not replay(altered, 0).equal


def test_a_search_in_lanes_and_its_trials_again(tmp_path: Path) -> None:
    """A search whose trials train beside others finishes each once; in lanes each comes again."""
    path = write_study(tmp_path, space=SPACE, budget={"trials": 16}, stopping={"warmup_epochs": 0})
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request(str(path), url, device="cpu")
    plan = replace(make_plan(request), crew=Crew(5, "cpu", LaneTrainers, noun="lane"))
    console = Console(record=True, width=200)
    stored, ending = run_study(request, plan, console)
    assert ending is Ending.DONE
    assert "5 lanes on cpu" in console.export_text()
    trials = open_study(Database(url, create=False), "tiny").trials()
    assert [trial.state.is_finished() for trial in trials] == [True] * 16
    assert {trial.user_attrs["outcome"] for trial in trials} >= {"complete", "diverged"}
    for outcome in ("complete", "diverged"):
        result = replay(stored, first(stored, outcome))
        assert result.equal, result.difference
        assert "beside others on a GPU" in "\n".join(result.lines())


@pytest.mark.parametrize("number", ["99", "-1"])
def test_no_such_trial(
    stored: StoredStudy, number: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A number that no trial has is one line that says which there are, and the exit is 2."""
    assert main(["replay", "tiny", "--storage", str(stored.database), "--", number]) == 2
    assert "has trials 0 to 19" in capsys.readouterr().err


def test_an_unfinished_trial_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A trial that is in training or interrupted cannot be replayed yet."""
    path = write_study(tmp_path)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request(str(path), url, timeout=1e-9, workers=1, device="cpu")
    plan = make_plan(request)
    plan = type(plan)(
        plan.config.model_copy(update={"budget": Budget(trials=1)}), *list(vars(plan).values())[1:]
    )
    stored, _ = run_study(request, plan, Console(quiet=True))
    assert stored.take(1) is not None
    assert main(["replay", "tiny", "0", "--storage", url]) == 2
    assert "is not finished; let rnn-search resume tiny" in capsys.readouterr().err


def test_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If the data file has changed, a replay would mean nothing and is refused."""
    path = write_study(tmp_path, budget={"trials": 1})
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request(str(path), url, workers=1, device="cpu")
    run_study(request, make_plan(request), Console(quiet=True))
    series = tmp_path / "series120.csv"
    series.write_text(series.read_text() + "0.5\n")
    assert main(["replay", "tiny", "0", "--storage", url]) == 2
    assert "fingerprint" in capsys.readouterr().err


def test_a_trial_that_killed_its_trainers(stored: StoredStudy) -> None:
    """Of a trial that took trainers down only the epochs are trained again, and it says so."""
    number = first(stored, "complete")
    trial = stored.trials()[number]
    for key, value in (("outcome", "failed"), ("reason", "took 3 trainers down, the last with 9")):
        alter_attribute(stored, number, key, value)
    again = open_study(Database(str(stored.database), create=False), "tiny")
    result = replay(again, number)
    assert (result.equal, result.outcome) == (True, "failed")
    assert result.epochs == len(trial.intermediate_values)
    assert any("took 3 trainers down" in note for note in result.notes)


BROKEN = SPEAKER.replace(
    '    print("building")\n',
    "    if params.extra['kernel_size'] == 5:\n"
    "        raise ValueError('five is too wide')\n"
    "    if params.extra['kernel_size'] == 2:\n"
    "        torch.empty(10**14)\n",
)
"""Cannot be built for some values."""


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(("size", "outcome"), [(5, Outcome.FAILED), (2, Outcome.OUT_OF_MEMORY)])
def test_a_trial_whose_network_was_not_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, outcome: Outcome
) -> None:
    """It is the same again if its network cannot be built again, and nothing is compared."""
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path, BROKEN, OWN_SPACE, trials=1)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request("tiny.toml", url, workers=1, device="cpu", trust_code=True)
    plan = make_plan(request)
    stored = create_study(Database(url, create=True), plan.config, _attributes(plan))
    stored.study.enqueue_trial({"kernel_size": size})
    run_study(request, plan, Console(quiet=True))
    stored = open_study(Database(url, create=False), "tiny")
    (trial,) = stored.trials()
    assert trial.user_attrs["outcome"] == outcome
    result = replay(stored, 0, trust_code=True)
    assert (result.equal, result.difference, result.epochs, result.batches) == (True, "", 0, 0)


GREEDY = SPEAKER.replace(
    "        steps = inputs.shape[1]\n",
    "        steps = inputs.shape[1]\n"
    "        self.batches = getattr(self, 'batches', 0) + self.training\n"
    "        if self.batches > 12:\n"
    "            torch.empty(10**14)\n",
)
"""Runs out of memory in its second epoch, of which it has trained some batches then."""


@pytest.mark.usefixtures("clean_imports")
def test_a_trial_that_ran_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is replayed up to its last epoch; the batches that came after that are not compared."""
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path, GREEDY, OWN_SPACE.replace("[8, 16]", "4"), trials=1)
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    request = Request("tiny.toml", url, workers=1, device="cpu", trust_code=True)
    stored, _ = run_study(request, make_plan(request), Console(quiet=True))
    (trial,) = stored.trials()
    kept = load_losses(trial_folder(stored.folder, 0))
    assert (trial.user_attrs["outcome"], len(trial.intermediate_values)) == ("out-of-memory", 1)
    assert kept is not None
    result = replay(stored, 0, trust_code=True)
    assert (result.equal, result.difference, result.epochs) == (True, "", 1)
    assert 0 < result.batches < len(kept) == 12
    assert any("out of memory" in note for note in result.notes)
