"""Fixtures that several test files share."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings
from refusing import Refuse
from tiny import kill_started

if TYPE_CHECKING:
    from postgres import Postgres

pytest_plugins = ["loopback"]

# As trainers do. Where other tests keep the cores busy, threads that wait for one another take
# eight times as long for matrices as small as these.
torch.set_num_threads(1)


# A script's shell has what it runs in the background ignore Ctrl-C, nohup the end of the terminal;
# the processes of the tests would ignore them, too.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL)

# No test is timed: one stall of a machine that others use, or what is compiled when it is first
# called, would be a failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def no_run_is_left() -> Iterator[None]:
    """Ends the runs that a test started and, having failed, did not end."""
    yield
    kill_started()


@pytest.fixture
def refuse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Refuse:
    """Runs the command line in this process, in a folder of its own, and expects a refusal."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    return Refuse(tmp_path, capsys)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server; a test that stops it starts it again."""
    from postgres import serve

    with serve() as server:
        yield server
