"""What a full disk and a damaged database leave to do, and what is said of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from disks import fill_up, small_disk
from test_storage_faults import trained
from tiny import rnn_search

__all__ = ["trained"]


def test_what_can_be_done_on_a_full_disk(trained: Path, tmp_path: Path) -> None:
    """A study whose disk is full can be read and backed up; who would write hears why it cannot."""
    disk, elsewhere = tmp_path / "studies", tmp_path / "elsewhere"
    disk.mkdir()
    elsewhere.mkdir()
    shutil.copy(trained / "tiny.toml", tmp_path)
    for data in trained.glob("*.csv"):
        shutil.copy(data, tmp_path)
    with small_disk(disk, kilobytes=8192):
        shutil.copytree(trained / "studies", disk, dirs_exist_ok=True)
        fill_up(disk)
        for line in ("list", "show tiny", "backup tiny elsewhere/copy.db"):
            done = rnn_search(tmp_path, *line.split())
            assert done.returncode == 0, done.stderr
        done = rnn_search(tmp_path, "resume", "tiny", "--trials", "9")
        assert done.returncode == 1
        (said,) = done.stderr.splitlines()
        assert said.endswith(
            "studies.db: disk I/O error; if its disk is full, make room there and try again"
        )
    assert (elsewhere / "copy.db").exists()


@pytest.mark.parametrize("line", ["run tiny.toml --trials 9", "show tiny", "list"])
def test_a_damaged_database(trained: Path, tmp_path: Path, line: str) -> None:
    """One line names the file and says to restore a copy; nothing is called safe."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "studies" / "studies.db"
    content = bytearray(file.read_bytes())
    content[4096:] = os.urandom(len(content) - 4096)
    file.write_bytes(content)
    done = rnn_search(tmp_path, *line.split())
    assert done.returncode in (1, 2), done.stderr
    (said,) = done.stderr.splitlines()
    assert "studies.db" in said
    assert "restore a copy of it" in said
