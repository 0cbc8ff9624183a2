"""A file is written whole or not at all, where a link leads; what is no file stays what it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from search.whole_files import remove_unfinished, unfinished, written_whole


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """What a link leads to is replaced, also if that is not there yet; the link is not."""
    (tmp_path / "far").mkdir()
    link, real = tmp_path / "latest.csv", tmp_path / "far" / "today.csv"
    link.symlink_to(real)
    for text in ("old", "new"):
        with written_whole(link) as part:
            part.write_text(text)
        assert link.is_symlink()
        assert real.read_text() == text
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "latest.csv", "today.csv"]


def test_what_is_no_file_is_written_to(tmp_path: Path) -> None:
    """A pipe gets what is written, and stays a pipe; so does a device."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    with written_whole(pipe) as part:
        part.write_text("through")
    reader.join(30)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with written_whole(Path(os.devnull)) as part:
        assert part == Path(os.devnull)


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    """If the block raises, the file is as it was, and nothing lies beside it."""
    file = tmp_path / "mine"
    file.write_text("whole")

    def fail() -> None:
        with written_whole(file) as part:
            part.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert file.read_text() == "whole"


def test_what_is_unfinished_is_removed(tmp_path: Path) -> None:
    """A file, a folder with all in it, and what is not there: each until the end of its block."""
    for name in ("file", "folder/inside", "nothing"):
        path = tmp_path / name.partition("/")[0]
        with unfinished(path):
            if "/" in name:
                (tmp_path / name).mkdir(parents=True)
            elif name == "file":
                path.write_text("half")
            remove_unfinished()
        assert not path.exists()
    kept = tmp_path / "kept"
    with unfinished(kept):
        kept.write_text("whole")
    remove_unfinished()
    assert kept.exists()
