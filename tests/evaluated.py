"""Evaluated studies of the three tasks and their exports, made once for all tests of a file."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import tomli_w
import torch
from safetensors.torch import load_file
from tiny import SPACE, read_json

from search.cli import main
from search.config import load_config
from search.data import load_splits
from search.data.splits import Splits
from search.model_files import CARD, ONNX
from search.models import SequenceModel, build
from search.space import HyperParams
from search.training import outputs_of
from search.trial_files import WEIGHTS as KEPT

SEEDS = 5
"""From five on, the order in which torch's sums add depends on the place in a batch."""


TEXT = " ".join(random.Random(0).choices(["the", "quick", "brown", "fox", "jumps."], k=200))
"""No two parts of it are alike, so that figures say which of them they are of."""


@dataclass(frozen=True)
class Made:
    """An evaluated study, what its evaluation said, and three exports of it."""

    folder: Path
    name: str
    file: Path
    said: dict[str, Any]

    @property
    def storage(self) -> tuple[str, str]:
        """The options that name its storage."""
        return "--storage", f"sqlite:///{self.folder}/studies/studies.db"

    def path(self, form: str) -> Path:
        """Returns the folder of an export: ``trial``, ``winner`` or ``ensemble``."""
        return self.folder / f"{self.name}-{form}"

    def card(self, form: str) -> dict[str, Any]:
        """Returns an export's card."""
        return read_json((self.path(form) / CARD).read_text())

    def splits(self) -> Splits:
        """Returns the data as the study cut it."""
        return load_splits(load_config(self.folder / f"{self.name}.toml").data)

    def networks(self) -> list[SequenceModel]:
        """Returns the winner's networks, from the evaluation's own files."""
        found = []
        for place in self.said["weights"]:
            network = build(HyperParams(**self.said["params"]), self.splits())
            network.load_state_dict(load_file(Path(place) / KEPT))
            found.append(network)
        return found

    def onnx(self, form: str) -> onnxruntime.InferenceSession:
        """Returns an export's `model.onnx`, ready to run."""
        path = str(self.path(form) / ONNX)
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def make(folder: Path, file: Path, capsys: pytest.CaptureFixture[str], **data: Any) -> Made:
    """Runs a study of two trials, evaluates it, and exports what can be exported."""
    name = data["task"]
    study = {
        "name": name,
        "data": {"path": str(file), **data},
        "space": {**SPACE, "batch_size": [8, 16]},
        "budget": {"trials": 2},
    }
    (folder / f"{name}.toml").write_text(tomli_w.dumps(study))
    made = Made(folder, name, file, {})
    assert main(["run", str(folder / f"{name}.toml"), "--workers", "1", *made.storage]) == 0
    capsys.readouterr()
    options = ["--top", "1", "--seeds", str(SEEDS), "--workers", "1", "--json", *made.storage]
    assert main(["evaluate", name, *options]) == 0
    made.said.update(read_json(capsys.readouterr().out))
    for form, option in (("trial", []), ("winner", ["--winner"]), ("ensemble", ["--ensemble"])):
        assert main(["export", name, str(made.path(form)), "--onnx", *option, *made.storage]) == 0
    assert capsys.readouterr().err == ""
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the studies of this file lie, one for each task, made when first asked for."""
    return tmp_path_factory.mktemp("evaluated")


_MADE: dict[str, Made] = {}


@pytest.fixture(params=["forecast", "classify", "language"])
def made(request: pytest.FixtureRequest, folder: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    """The study of each task."""
    return _once(request.param, folder, capsys)


@pytest.fixture
def sales(folder: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    """The forecasting study: two columns, two steps ahead."""
    return _once("forecast", folder, capsys)


@pytest.fixture
def gestures(folder: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    """The classifying study: 40 series of 2 to 8 steps."""
    return _once("classify", folder, capsys)


@pytest.fixture
def book(folder: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    """The language study: the words of one sentence, in any order."""
    return _once("language", folder, capsys)


def _once(task: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> Made:
    if task not in _MADE:
        file = folder / f"{task}.csv"
        if task == "forecast":
            rows = [(math.sin(at / 4) + at / 50, math.cos(at / 3)) for at in range(110)]
            pd.DataFrame(rows, columns=["a", "b"]).to_csv(file, index=False)
            keys: dict[str, Any] = {"target": ["a", "b"], "window": 6, "horizon": 2}
        elif task == "classify":
            rng = np.random.default_rng(0)
            series = [
                {"take": f"t{one}", "kind": "xyz"[one % 3], "a": a, "b": b}
                for one in range(60)
                for a, b in rng.normal(one % 3, 1, (2 + one % 7, 2)).round(4)
            ]
            pd.DataFrame(series).to_csv(file, index=False)
            keys = {"series": "take", "label": "kind"}
        else:
            file.write_text(TEXT)
            keys = {"sequence_length": 8, "split": [0.6, 0.2, 0.2]}
        _MADE[task] = make(folder, file, capsys, task=task, **keys)
    return _MADE[task]


def answers(networks: list[SequenceModel], splits: Splits, part: str) -> torch.Tensor:
    """Returns (S, N, O) outputs for a part, as an evaluation computes them."""
    return torch.stack(
        [torch.cat([out for out, _ in outputs_of(one, getattr(splits, part))]) for one in networks]
    )
