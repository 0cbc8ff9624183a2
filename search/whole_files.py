"""A file written whole or not at all: nobody reads half of it, whatever happens meanwhile."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields the path to write to, which takes ``path``'s place at the end of the block.

    If the block raises, ``path`` is as it was, and what was written is removed. Processes that
    write the same file at once do not meet: the last one's is kept. Of a link it is the file that
    the link leads to. What is no file (a pipe, ``/dev/null``) is written to as it is.

    Args:
        path: The file; its folder is there.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    part = real.with_name(f".{real.name}.{os.getpid()}.part")
    with unfinished(part):
        try:
            yield part
            part.replace(real)
        finally:
            part.unlink(missing_ok=True)


_unfinished: set[Path] = set()


@contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Has `remove_unfinished` remove a file or folder until the end of the block."""
    _unfinished.add(path)
    try:
        yield
    finally:
        _unfinished.discard(path)


def remove_unfinished() -> None:
    """Removes what is being written, for a process that ends here and now."""
    for part in list(_unfinished):
        with suppress(OSError):
            part.unlink() if not part.is_dir() else shutil.rmtree(part)
