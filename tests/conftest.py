"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from refusing import Refuse

pytest_plugins = ["loopback"]

# As trainers do. Where other tests keep the cores busy, threads that wait for one another take
# eight times as long for matrices as small as these.
torch.set_num_threads(1)


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refuse:
    """Runs the command line in this process, in a folder of its own, and expects a refusal."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Refuse(tmp_path, capsys)
