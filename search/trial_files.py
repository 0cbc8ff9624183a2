"""The files of a trial: their names, that each is written whole or not at all, and which stay.

    FOLDER/00017/checkpoint.pt          only while trial 17 is unfinished
    FOLDER/00017/losses.safetensors     the training loss of every batch
    FOLDER/00017/weights.safetensors    the best epoch's network, of the best trials only
    FOLDER/evaluation/00017-S/          the same of trial 17 trained again with seed S, and ...
    FOLDER/evaluation/00017-S/result.json     ... what came of it

What is in the first three is for `checkpoints` to say, for which it needs torch; who only looks at
a study does not wait for that.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from search.whole_files import written_whole

CHECKPOINT, LOSSES, WEIGHTS = "checkpoint.pt", "losses.safetensors", "weights.safetensors"
TRAINED = (CHECKPOINT, LOSSES, WEIGHTS)
"""What a trainer writes of a trial."""
RESULT = "result.json"
WRITES = 5
"""A file that is swept away while it is written is written again, so often at most."""


def trial_folder(folder: Path, number: int) -> Path:
    """Returns the folder of a trial's files within its study's."""
    return folder / f"{number:05d}"


def write_file(path: Path, write: Callable[[Path], object], settle: bool = True) -> None:
    """Writes a file whole or not at all; ``settle``: when it returns, the file is on the disk.

    A pruned trial is told while its trainer still writes, so that another coordinator may tidy the
    trial's folder at that moment, and take the unfinished file for a dead trainer's: again, then.
    """
    for _ in range(WRITES - 1):
        with contextlib.suppress(FileNotFoundError):
            _write_once(path, write, settle)
            return
    _write_once(path, write, settle)


def save_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes what came of a retraining: plain data, as JSON; NaN and infinity are refused."""
    text = json.dumps(result, indent=2, allow_nan=False)
    write_file(folder / RESULT, lambda path: path.write_text(text, encoding="utf-8"))


def load_result(folder: Path) -> dict[str, Any] | None:
    """Returns what `save_result` wrote; None if it is not there, or a power cut damaged it."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def store_file(folder: Path, name: str, content: bytes | None) -> None:
    """Stores a file of a trial that trains on another machine as it is there; None: not there.

    Raises:
        OSError: The disk is full or not writable.
        ValueError: No trial has a file of this name.
    """
    if name not in TRAINED:
        raise ValueError(f"a trainer sent a file named {name!r}")
    if content is not None:
        write_file(folder / name, lambda path: path.write_bytes(content))
        return
    (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def copy_files(source: Path, target: Path) -> None:
    """Copies the files of a finished trial, if there are any, to another study."""
    for name in (LOSSES, WEIGHTS):
        if (source / name).exists():
            copy_file(source / name, target / name)


def copy_file(source: Path, target: Path) -> None:
    """Copies a file, whole or not at all, if it is still there: its study may be running.

    Raises:
        OSError: The disk is full or not writable.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError), written_whole(target) as part:
        shutil.copyfile(source, part)


def remove_checkpoint(folder: Path) -> None:
    """Removes the checkpoint of a finished trial, and the folder if it is left empty."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    for part in folder.glob("*.part"):  # of a trainer that was killed while it wrote
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def keep_weights(folder: Path, best: Iterable[int], finished: Iterable[int]) -> None:
    """Removes what finished trials need no more: checkpoints, and weights but those of the best.

    Args:
        folder: The study's folder.
        best: Numbers of the trials whose weights stay.
        finished: Numbers of all finished trials.
    """
    stay = set(best)
    for number in finished:
        place = trial_folder(folder, number)
        if number not in stay:
            (place / WEIGHTS).unlink(missing_ok=True)
        if (place / CHECKPOINT).exists() or any(place.glob("*.part")):
            remove_checkpoint(place)


def _write_once(path: Path, write: Callable[[Path], object], settle: bool) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with written_whole(path) as part:
            write(part)
            if settle:
                _settle(part)
        if settle:
            _settle(path.parent)
    except RuntimeError as error:  # torch and safetensors wrap what the disk says
        raise OSError(f"{path} cannot be written: {error}") from error
    except OSError as error:
        if error.filename is None and error.errno is not None:  # Of a file that is open already.
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _settle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
