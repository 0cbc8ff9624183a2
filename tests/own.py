"""Modules that a user might write, as text, and a study that uses one of them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from search import own_modules

HEAD = "import torch\nfrom torch import nn\n\n"

SPEAKER = (
    HEAD
    + '''
class Speaker(nn.Module):
    """A causal convolution, a GRU, and attention over its steps or the last of them."""

    def __init__(self, params, input_size, output_size):
        super().__init__()
        hidden, width = params.hidden_units, params.extra["kernel_size"]
        self.convolution = nn.Conv1d(input_size, hidden, width, padding=width - 1)
        self.recurrent = nn.GRU(hidden, hidden, batch_first=True)
        self.dropout = nn.Dropout(params.dropout)
        self.score = nn.Linear(hidden, 1) if params.extra["attention"] else None
        self.head = nn.Linear(hidden, output_size)

    def forward(self, inputs, lengths):
        steps = inputs.shape[1]
        hidden = self.convolution(inputs.mT)[..., :steps].relu().mT
        hidden, _ = self.recurrent(hidden)
        if self.score is None:
            return self.head(self.dropout(hidden[torch.arange(len(inputs)), lengths - 1]))
        padding = torch.arange(steps) >= lengths[:, None]
        shares = self.score(hidden)[..., 0].masked_fill(padding, -torch.inf).softmax(1)
        return self.head(self.dropout((shares[..., None] * hidden).sum(1)))


def build(params, input_size, output_size, per_step):
    print("building")
    return Speaker(params, input_size, output_size)
'''
)
"""Takes ``kernel_size`` and ``attention``, and reads neither ``cell`` nor ``hidden_layers``."""

READER = (
    HEAD
    + '''
class Reader(nn.Module):
    """A causal convolution over characters that carries its last inputs on."""

    def __init__(self, params, input_size, output_size, per_step):
        super().__init__()
        assert per_step
        self.width = params.extra.get("width", 3)
        self.embedding = nn.Embedding(input_size, params.hidden_units)
        self.convolution = nn.Conv1d(params.hidden_units, params.hidden_units, self.width)
        self.head = nn.Linear(params.hidden_units, output_size)

    def forward(self, inputs, state=None):
        steps = self.embedding(inputs).mT
        if state is None:
            state = {"past": steps.new_zeros(*steps.shape[:2], self.width - 1)}
        steps = torch.cat([state["past"], steps], 2)
        hidden = self.convolution(steps).relu().mT
        return self.head(hidden), {"past": steps[..., 1 - self.width :]}
'''
)
"""Carries a state that is a dict; the class itself is the factory."""

SPACE = """[space]
kernel_size = { low = 2, high = 5 }
attention = [true, false]
hidden_units = { low = 4, high = 8 }
epochs = { low = 2, high = 4 }
batch_size = [8, 16]
hidden_layers = 1
cell = "gru"
"""


def write_series(path: Path, count: int = 60) -> Path:
    """Writes labelled series of two channels and 3 to 9 steps as a table."""
    rng = np.random.default_rng(0)
    rows = ["series,label,a,b"]
    for number in range(count):
        for a, b in rng.normal(number % 2, 1, (3 + number % 7, 2)):
            rows.append(f"{number},{'xy'[number % 2]},{a:.4f},{b:.4f}")
    path.write_text("\n".join(rows))
    return path


def study(factory: str, space: str = SPACE, trials: int = 4, name: str = "tiny") -> str:
    """Returns a study file that classifies ``series.csv``."""
    return f"""name = "{name}"
[data]
path = "series.csv"
task = "classify"
series = "series"
label = "label"
[model]
factory = "{factory}"
{space}
[budget]
trials = {trials}
"""


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imports of users' modules end with the test, as they end with a process."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    monkeypatch.setattr(own_modules, "_trusted", set())
    monkeypatch.setattr(own_modules, "_added", set())
    monkeypatch.setattr(own_modules, "_imported", {})
    monkeypatch.delitem(sys.modules, "mynet", raising=False)
    monkeypatch.setitem(sys.modules, "mynet", None)  # so that it is taken out again afterwards
    del sys.modules["mynet"]


def write_own(folder: Path, module: str = SPEAKER, space: str = SPACE, trials: int = 4) -> None:
    """Writes a study, its series, and the module ``mynet`` that it takes its network from."""
    write_series(folder / "series.csv")
    (folder / "mynet.py").write_text(module)
    (folder / "tiny.toml").write_text(study("mynet:build", space, trials))
