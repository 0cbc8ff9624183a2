"""A network of the user's own whose code has changed since its study was begun."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks import CPU, LOSS, figures, hyper, sine
from own import HEAD, SPACE, SPEAKER, clean_imports, study, write_own
from test_own_network import RUN, TRUST, call, copy, folder, forget

from search.checkpoints import devices_of
from search.cli import main
from search.config import OwnModel
from search.data import load_splits
from search.database import Database
from search.factories import trust_factory
from search.storage import open_study
from search.stored_study import LOOKS
from search.trial import Decision, Outcome, derive_seed
from search.trial_files import trial_folder
from search.worker import Job, TrialRules, TrialWorker

pytestmark = pytest.mark.usefixtures("clean_imports")
__all__ = ["clean_imports", "copy", "folder"]


def test_changed_code_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On resume a changed source is said and stays among the study's notes; replay names it."""
    forget(copy, SPEAKER.replace(".relu()", ".tanh()"))
    said = "the source of mynet:build changed after trial 5"
    assert said in call(capsys, *RUN, "--fork", "another")
    assert said in call(capsys, *RUN, "--trials", "7")
    stored = open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")
    assert said in stored.attributes["notes"][-1]
    sources = [trial.user_attrs["surroundings"]["factory"] for trial in stored.trials()]
    assert len(set(sources[:6])) == 1
    assert sources[6] == stored.attributes["factory"] != sources[0]
    assert main(["replay", "tiny", "0", TRUST]) == 1
    assert f"factory: {sources[0]} → {sources[6]}" in capsys.readouterr().out
    call(capsys, *RUN, "--trials", "7")
    notes = open_study(stored.database, "tiny").attributes["notes"]
    assert len([note for note in notes if said in note]) == 1


def test_a_trial_begun_with_other_code_begins_anew(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A trial that was interrupted is one code's work alone: the epochs of the former are gone."""
    stored = open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")
    taken = stored.take(7)
    assert taken is not None
    place = trial_folder(stored.folder, taken.number)
    splits = load_splits(stored.config.data)
    seed = derive_seed(stored.config.seed, "training", taken.number)
    assert stored.config.model is not None
    factory = trust_factory(stored.config.model, "tiny", trusted=True)
    rules = TrialRules(stored.goal, 0, divergence=True)
    job = Job(taken.number, taken.params, seed, place)
    member = TrialWorker(job, splits, rules, torch.device("cpu"), factory=factory)
    first = next(member.epochs())
    stored.report(taken, first)
    stored.report(taken, replace(first, index=99))  # Further than the new one can come.
    stored.release(taken)
    place.mkdir(parents=True, exist_ok=True)
    member.save()
    assert devices_of(place, factory.source if factory else None) == ["cpu"]
    forget(copy, SPEAKER.replace(".relu()", ".tanh()").replace("self.head", "self.last"))
    call(capsys, *RUN, "--trials", "7")
    trial = open_study(stored.database, "tiny").trials()[taken.number]
    assert trial.user_attrs["outcome"] in ("complete", "pruned")
    assert trial.intermediate_values[1] != first.figures[stored.goal.metric]
    assert max(trial.intermediate_values) <= taken.params.epochs
    assert json.loads(call(capsys, "replay", "tiny", str(taken.number), "--json"))["equal"]


@pytest.mark.slow
def test_an_evaluation_is_one_codes_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Networks that other code has trained are trained anew, and exported with no others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    write_own(tmp_path, trials=1)
    call(capsys, *RUN)
    options = ("--top", "1", "--workers", "1", "--json")
    call(capsys, "evaluate", "tiny", *options, "--seeds", "2")
    forget(tmp_path, SPEAKER.replace(".relu()", ".tanh()"))
    found = json.loads(call(capsys, "evaluate", "tiny", *options, "--seeds", "1"))
    assert len(found["looks"]) == 2
    old, new = (look["figures"]["seeds"][0] for look in found["looks"])
    assert old != new
    stored = open_study(Database("sqlite:///studies/studies.db", create=False), "tiny")
    looks = stored.study.user_attrs[LOOKS]
    # As if it had been cut off after the first seed: of the second there is the old code's network.
    stored.study.set_user_attr(LOOKS, [*looks, {**looks[0], "id": "another"}])
    assert main(["export", "tiny", "model", "--ensemble", TRUST]) == 2
    assert "no longer has a network that won" in capsys.readouterr().err


LAYERS = f"""{HEAD}
class Net(nn.Module):
    def __init__(self, params, input_size, output_size, per_step):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(input_size, WIDTH), nn.Linear(WIDTH, output_size))

    def forward(self, inputs):
        return self.layers(inputs[:, -1])
"""


def worker_with(folder: Path, width: int, place: Path) -> TrialWorker:
    """Returns a worker whose network is imported by its module from another one, of this width."""
    forget(folder, "from own_layers import Net as build\n")
    sys.modules.pop("own_layers", None)
    (folder / "own_layers.py").write_text(LAYERS.replace("WIDTH", str(width)))
    own = OwnModel(factory="mynet:build", folder=folder)
    factory = trust_factory(own, "a test", trusted=True)
    rules = TrialRules(LOSS, 0, divergence=True)
    return TrialWorker(Job(7, hyper(epochs=2), 1, place), sine(), rules, CPU, factory=factory)


def test_a_checkpoint_of_other_layers_is_not_gone_on_from(tmp_path: Path) -> None:
    """They may come from a file that the module imports, of which no fingerprint is known."""
    place = tmp_path / "trial"
    first = worker_with(tmp_path, 3, place)
    next(first.epochs())
    first.save()
    again = worker_with(tmp_path, 5, place)
    new = worker_with(tmp_path, 5, tmp_path / "new")
    assert figures(list(again.epochs())) == figures(list(new.epochs()))
    assert again.decision == Decision(Outcome.COMPLETE, "trained 2 epochs")


def test_another_factory_is_another_study(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another factory, or another entry, is refused as a changed space is, also for a fork."""
    (copy / "mynet.py").write_text(SPEAKER.replace("def build", "def other"))
    for text, said in (
        (study("mynet:other"), "[model] factory: mynet:build → mynet:other"),
        (study("mynet:other", SPACE + "heads = [1, 2]\n"), "[space] heads: not set → [1, 2]"),
    ):
        (copy / "tiny.toml").write_text(text)
        assert main([*RUN, TRUST]) == 2
        assert said in capsys.readouterr().err
    assert main([*RUN, TRUST, "--fork", "new"]) == 2
    assert "the factories differ (mynet:build → mynet:other)" in capsys.readouterr().err
