"""Real disks that are small, full or read-only: file systems in memory, mounted on a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[None]:
    """Mounts an empty disk of this size on a folder."""
    _call("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder)
    try:
        yield
    finally:
        _call("umount", folder)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Makes a folder's content unwritable for everybody, root included."""
    _call("mount", "--bind", folder, folder)
    try:
        _call("mount", "-o", "remount,ro,bind", folder)
        yield
    finally:
        _call("umount", folder)


def fill_up(folder: Path) -> Path:
    """Writes to a disk until it is full, and returns the file that fills it."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return ballast


def _call(*command: str | Path) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command[0]} needs root (uid {os.geteuid()}): {done.stderr}"
