"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from refusing import Refuse

pytest_plugins = ["loopback"]


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refuse:
    """Runs the command line in this process, in a folder of its own, and expects a refusal."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Refuse(tmp_path, capsys)
