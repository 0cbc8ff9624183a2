"""`Objective` in other people's Optuna scripts."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.pruners import BasePruner, MedianPruner
from optuna.samplers import RandomSampler
from optuna.trial import TrialState
from own import SPEAKER, clean_imports, write_own
from tiny import SPACE, environment, tiny_config, write_study

import search
from search import Objective, load_config
from search import objective as module
from search.diagnosis import read_finding
from search.errors import ConfigError, DataError, NetworkError
from search.stored_study import MARK

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
__all__ = ["clean_imports"]


class PruneAt(BasePruner):
    """Prunes every trial at one epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
        """Says whether the trial has come to the epoch."""
        return trial.last_step == self.epoch


def study_of(objective: Objective, trials: int = 4, pruner: BasePruner | None = None) -> Any:
    """Returns a study in memory, optimised."""
    study = optuna.create_study(
        direction=objective.direction, sampler=RandomSampler(seed=0), pruner=pruner
    )
    study.optimize(objective, n_trials=trials)
    return study


@pytest.fixture(scope="module")
def objective(tmp_path_factory: pytest.TempPathFactory) -> Objective:
    """An objective from a study file."""
    return Objective(write_study(tmp_path_factory.mktemp("objective")))


def test_ten_lines_of_a_script(objective: Objective) -> None:
    """In a plain study each trial's value is its best epoch's, every epoch is reported."""
    study = study_of(objective, pruner=optuna.pruners.NopPruner())
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 4
    for trial in study.trials:
        reported = trial.intermediate_values
        assert trial.value == min(reported.values())
        assert sorted(reported) == list(range(1, trial.params["epochs"] + 1))
        attributes = trial.user_attrs
        assert attributes["outcome"] == "complete"
        assert attributes["reason"] == f"trained {len(reported)} epochs"
        assert reported[attributes["best_epoch"]] == trial.value
        assert attributes["figures"]["loss"] == trial.value
        assert {"rmse", "mae"} <= attributes["figures"].keys()
        assert read_finding(attributes) is not None
        assert attributes["curve"]["valid"] == pytest.approx(list(reported.values()))
        assert not trial.constraints
        json.dumps(attributes, allow_nan=False)


def test_the_same_script_gives_the_same_study(objective: Objective, tmp_path: Path) -> None:
    """A study made again, from a file or its configuration, has the same parameters and values."""
    other = Objective(load_config(write_study(tmp_path)))
    one, two = (study_of(each, 3).trials for each in (objective, other))
    assert [(t.params, t.value) for t in one] == [(t.params, t.value) for t in two]


def test_the_studys_pruner_is_asked(objective: Objective) -> None:
    """A trial that the pruner stops ends pruned at that epoch, with its reason, and feasible."""
    for trial in study_of(objective, pruner=PruneAt(1)).trials:
        assert trial.state is TrialState.PRUNED
        assert list(trial.intermediate_values) == [1]
        assert trial.user_attrs["outcome"] == "pruned"
        assert trial.user_attrs["reason"] == "the pruner stopped it at epoch 1"
        assert not trial.constraints


def test_the_last_epoch_is_not_pruned(objective: Objective) -> None:
    """A trial that has trained all that it asked for is complete, whatever a pruner says then."""

    class PruneLast(BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return trial.last_step == trial.params["epochs"]

    states = {trial.state for trial in study_of(objective, 3, PruneLast()).trials}
    assert states == {TrialState.COMPLETE}


def test_the_median_pruner_works(objective: Objective) -> None:
    """With Optuna's own pruner the study ends with every trial complete or pruned."""
    study = study_of(objective, 8, MedianPruner(n_startup_trials=2, n_warmup_steps=0))
    states = [trial.state for trial in study.trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    assert math.isfinite(study.best_value)


def diverging(folder: Path, **changes: object) -> Objective:
    """Returns an objective whose every trial diverges."""
    space = SPACE | {
        "learning_rate": {"low": 50.0, "high": 100.0},
        "optimizer": "sgd",
        "cell": "rnn",
        "epochs": {"fixed": 30},
    }
    return Objective(tiny_config(folder, space=space, **changes))


def test_diverging_trials_are_pruned_and_infeasible(tmp_path: Path) -> None:
    """A diverging trial ends pruned, its constraint violated, its last value finite, and why."""
    study = study_of(diverging(tmp_path))
    for trial in study.trials:
        assert trial.state is TrialState.PRUNED
        assert trial.user_attrs["outcome"] == "diverged"
        assert "training loss" in trial.user_attrs["reason"]
        assert all(math.isfinite(value) for value in trial.intermediate_values.values())
        assert max(trial.constraints.values()) > 0
    with pytest.raises(ValueError, match=r"No (feasible )?trials are completed"):
        _ = study.best_trial


def test_divergence_can_be_turned_off(tmp_path: Path) -> None:
    """With divergence off, a growing but finite error trains to its end."""
    objective = diverging(tmp_path, stopping={"divergence": False, "patience": 0})
    trials = study_of(objective, 2).trials
    assert any(trial.user_attrs["outcome"] == "complete" for trial in trials)
    for trial in trials:
        finite = trial.user_attrs["outcome"] == "complete"
        assert finite or "not finite" in trial.user_attrs["reason"]


def test_patience_completes_a_trial(tmp_path: Path) -> None:
    """A trial without progress is complete once the study file's patience is over."""
    space = SPACE | {"learning_rate": {"fixed": 1e-30}, "epochs": {"fixed": 9}}
    objective = Objective(tiny_config(tmp_path, space=space, stopping={"patience": 2}))
    for trial in study_of(objective, 2).trials:
        assert trial.state is TrialState.COMPLETE
        assert len(trial.intermediate_values) == 3
        assert trial.user_attrs["reason"] == "no better for 2 epochs"


def test_the_script_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that README shows works as it is, and goes on with its storage."""
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (script,) = [block for block in blocks if "search.Objective(" in block]
    assert "n_trials=20" in script
    write_study(tmp_path, file="mine")
    monkeypatch.chdir(tmp_path)
    for trials in (2, 4):
        names: dict[str, Any] = {}
        exec(compile(script.replace("n_trials=20", "n_trials=2"), "README.md", "exec"), names)
        assert len(names["study"].trials) == trials


def test_another_direction_is_refused(objective: Objective) -> None:
    """A study that is to maximise a loss would take the worst network for its best."""
    for directions in (["maximize"], ["minimize", "minimize"]):
        study = optuna.create_study(directions=directions)
        with pytest.raises(ConfigError, match=r"direction=objective\.direction"):
            study.optimize(objective, n_trials=1)
        assert "outcome" not in study.trials[0].user_attrs


def test_a_study_of_ours_is_refused(objective: Objective) -> None:
    """A run of ours would take the script's trial for one that was left, and train it, too."""
    study = optuna.create_study(study_name="mine")
    study.set_user_attr(MARK, {})
    with pytest.raises(ConfigError, match=r"'mine' is one that rnn-search runs.* failed trial"):
        study.optimize(objective, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL]


def test_one_trial_at_a_time(objective: Objective) -> None:
    """Threads would draw from each other's random numbers, so a second one is refused."""

    class Second(BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            with pytest.raises(ConfigError, match="n_jobs at 1"):
                objective(optuna.trial.FixedTrial(trial.params))  # type: ignore[arg-type]
            return False

    (trial,) = study_of(objective, 1, Second()).trials
    assert trial.state is TrialState.COMPLETE
    assert study_of(objective, 1).best_value == trial.value


def test_a_network_without_memory_is_pruned(
    objective: Objective, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What memory is not enough to build ends its trial, which is infeasible, and not the study."""

    def greedy(*_: object) -> None:
        torch.empty(10**14)

    monkeypatch.setattr(module, "Run", greedy)
    (trial,) = study_of(objective, 1).trials
    assert trial.state is TrialState.PRUNED
    assert trial.user_attrs["outcome"] == "out-of-memory"
    assert trial.constraints == {"out-of-memory": 1.0}


def test_other_metrics_and_directions(tmp_path: Path) -> None:
    """The metric of the study file is what is reported and returned, and gives the direction."""
    rows = [
        f"{number},{'xy'[number % 2]},{number % 2 + step / 10}"
        for number in range(80)
        for step in range(5)
    ]
    (tmp_path / "long.csv").write_text("series,label,a\n" + "\n".join(rows))
    data = {"task": "classify", "path": "long.csv", "series": "series", "label": "label"}
    objective = Objective(write_study(tmp_path, data=data, metric="accuracy"))
    assert objective.direction == "maximize"
    for trial in study_of(objective, 2, PruneAt(99)).trials:
        assert trial.value == max(trial.intermediate_values.values())
        assert trial.value == trial.user_attrs["figures"]["accuracy"]


def test_what_a_run_would_note_is_a_warning(tmp_path: Path) -> None:
    """A script is warned of what `rnn-search run` says of data and space, and can read it."""
    study = write_study(tmp_path, space={"epochs": {"low": 1, "high": 2}})
    with pytest.warns(UserWarning, match="tiny: batch sizes limited to the training part of"):
        objective = Objective(study)
    assert [note for note in objective.notes if note.startswith("batch sizes limited")]


def test_data_that_cannot_be_used_is_told_at_once(tmp_path: Path) -> None:
    """Bad data is an error when the objective is made, not in the first trial."""
    with pytest.raises(DataError, match="nowhere"):
        Objective(write_study(tmp_path, data={"task": "forecast", "path": "nowhere.csv"}))


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "meta", None])
def test_a_device_that_is_none(device: Any, tmp_path: Path) -> None:
    """It is refused in one line, before anything is trained."""
    with pytest.raises(ConfigError, match="use auto, cpu, cuda, cuda:N or all"):
        Objective(tiny_config(tmp_path), device)


def test_another_default_precision(tmp_path: Path) -> None:
    """Where torch makes networks in double precision, that is said, and not that they differ."""
    config = tiny_config(tmp_path)
    torch.set_default_dtype(torch.float64)
    try:
        for call in (lambda: Objective(config), lambda: search.load(tmp_path)):
            with pytest.raises(ConfigError, match=r"networks of torch\.float64 now"):
                call()
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_name_instead_of_a_file() -> None:
    """The name of a study is no file, and the message says what is wanted."""
    with pytest.raises(ConfigError, match=r"^vowels cannot be read: .*; give the path of a study"):
        Objective("vowels")


@pytest.mark.usefixtures("clean_imports")
def test_a_network_that_cannot_be_built(tmp_path: Path) -> None:
    """Its trial has outcome and reason, whether or not the script goes on."""
    check = '    if not params.extra["attention"]:\n        raise LookupError("none")\n'
    write_own(tmp_path, SPEAKER.replace('    print("building")\n', check))
    objective = Objective(tmp_path / "tiny.toml", trust_code=True)
    study = optuna.create_study(direction=objective.direction, sampler=RandomSampler(seed=0))
    for attention in (False, True):
        study.enqueue_trial({"attention": attention, "learning_rate": 0.01})
    study.optimize(objective, n_trials=2, catch=(NetworkError,))
    study.enqueue_trial({"attention": False})
    with pytest.raises(NetworkError, match="raised LookupError: none"):
        study.optimize(objective, n_trials=1)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "FAIL"]
    reason = "NetworkError: mynet:build: building the network raised LookupError: none (mynet.py,"
    for trial in (study.trials[0], study.trials[2]):
        assert trial.user_attrs["outcome"] == "failed"
        assert trial.user_attrs["reason"].startswith(reason)


def test_optuna_speaks_as_ever(tmp_path: Path) -> None:
    """A script hears of its trials from Optuna, as it would without an objective of ours."""
    script = (
        f"import optuna, search\nobjective = search.Objective({str(write_study(tmp_path))!r})\n"
        "study = optuna.create_study(direction=objective.direction)\n"
        "study.optimize(objective, n_trials=1)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search("Trial 0 (finished|pruned)", done.stderr)
