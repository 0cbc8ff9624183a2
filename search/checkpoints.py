"""The files of a trial: its checkpoint while it trains, its losses and weights when it is over.

    FOLDER/00017/checkpoint.pt          only while trial 17 is unfinished
    FOLDER/00017/losses.safetensors     the training loss of every batch
    FOLDER/00017/weights.safetensors    the best epoch's network, of the best trials only
    FOLDER/evaluation/00017-S/          the same of trial 17 trained again with seed S, and ...
    FOLDER/evaluation/00017-S/result.json     ... what came of it

Files are written whole or not at all, and none of them can run code when it is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from search.whole_files import written_whole

CHECKPOINT, LOSSES, WEIGHTS = "checkpoint.pt", "losses.safetensors", "weights.safetensors"
TRAINED = (CHECKPOINT, LOSSES, WEIGHTS)
"""What a trainer writes of a trial."""
RESULT = "result.json"
WRITES = 5
"""A file that is swept away while it is written is written again, so often at most."""
DIGEST_SIZE = 32
"""A checkpoint begins with so many bytes of SHA-256 of the rest, which is what torch saves."""


def trial_folder(folder: Path, number: int) -> Path:
    """Returns the folder of a trial's files within its study's."""
    return folder / f"{number:05d}"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the trial's checkpoint: tensors, numbers, strings, lists and dicts of them.

    Raises:
        OSError: The disk is full or not writable; the old checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    # A power cut may spoil it, which its digest tells; so it need not wait for the disk.
    _write(folder / CHECKPOINT, lambda path: path.write_bytes(_digest(content) + content), False)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Returns the trial's last checkpoint, on the CPU.

    Returns:
        None if there is none, or if a power cut has left one that is not what was written: the
        trial then starts over, to the same result.
    """
    try:
        written = (folder / CHECKPOINT).read_bytes()
    except FileNotFoundError:
        return None
    digest, content = written[:DIGEST_SIZE], written[DIGEST_SIZE:]
    # torch notices few damages by itself, and raises whatever the bytes lead it to.
    if digest != _digest(content):
        return None
    try:
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location="cpu", weights_only=True
        )
    except UnpicklingError:
        return None
    return state


def devices_of(folder: Path) -> list[str]:
    """Returns on what kinds of devices a trial with a checkpoint was trained; without: none."""
    return list((load_checkpoint(folder) or {}).get("devices", []))


def remove_checkpoint(folder: Path) -> None:
    """Removes the checkpoint of a finished trial, and the folder if it is left empty."""
    (folder / CHECKPOINT).unlink(missing_ok=True)
    for part in folder.glob("*.part"):  # of a trainer that was killed while it wrote
        part.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def save_losses(
    folder: Path, losses: list[float], epoch_ends: list[int], *, settle: bool = True
) -> None:
    """Writes the training loss of every batch.

    Args:
        folder: The trial's folder.
        losses: Becomes the tensor ``train``, (batches,) float32.
        epoch_ends: Becomes the tensor ``epoch_ends``, (epochs,) int64: batches by each epoch's end.
        settle: When it returns, the file is on the disk, and a power cut leaves it whole.
    """
    tensors = {
        "train": torch.tensor(losses, dtype=torch.float32),
        "epoch_ends": torch.tensor(epoch_ends, dtype=torch.int64),
    }
    _write(folder / LOSSES, lambda path: path.write_bytes(save(tensors)), settle)


def cut_losses(folder: Path, epochs: int) -> None:
    """Makes the losses of a trial told as pruned those of the epochs that were told.

    Its trainer goes on until it reads that the trial is pruned, and may have come to an end of its
    own by then and written the losses of more epochs, or none, when it was killed.

    Args:
        folder: The trial's folder.
        epochs: How many were told.
    """
    written, saved = _read_losses(folder), None
    if written is None:
        saved = load_checkpoint(folder)
        if saved is None:
            return
        losses, ends = saved["run"]["batch_losses"].tolist(), list(saved["run"]["epoch_ends"])
    else:
        losses, ends = written["train"].tolist(), written["epoch_ends"].tolist()
    if 0 < epochs <= len(ends) and (saved or len(losses) > ends[epochs - 1]):
        save_losses(folder, losses[: ends[epochs - 1]], ends[:epochs])


def load_losses(folder: Path) -> Tensor | None:
    """Returns what `save_losses` wrote as ``train``, (batches,) float32; None if it is not there.

    A file that a power cut has damaged counts as not there.
    """
    written = _read_losses(folder)
    return None if written is None else written["train"]


def _read_losses(folder: Path) -> dict[str, Tensor] | None:
    try:
        written = load_file(folder / LOSSES)
    except (FileNotFoundError, SafetensorError):
        return None
    return written if {"train", "epoch_ends"} <= written.keys() else None


def save_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    """Writes the network's weights by parameter name."""
    _write(folder / WEIGHTS, lambda path: path.write_bytes(save(weights)))


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


def save_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes what came of a retraining: plain data, as JSON; NaN and infinity are refused."""
    text = json.dumps(result, indent=2, allow_nan=False)
    _write(folder / RESULT, lambda path: path.write_text(text, encoding="utf-8"))


def load_result(folder: Path) -> dict[str, Any] | None:
    """Returns what `save_result` wrote; None if it is not there, or a power cut damaged it."""
    try:
        result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def load_weights(folder: Path) -> dict[str, Tensor] | None:
    """Returns what `save_weights` wrote, on the CPU; None if it is not there, or damaged."""
    try:
        return load_file(folder / WEIGHTS)
    except (FileNotFoundError, SafetensorError):
        return None


def store_file(folder: Path, name: str, content: bytes | None) -> None:
    """Stores a file of a trial that trains on another machine as it is there; None: not there.

    Raises:
        OSError: The disk is full or not writable.
        ValueError: No trial has a file of this name.
    """
    if name not in TRAINED:
        raise ValueError(f"a trainer sent a file named {name!r}")
    if content is not None:
        _write(folder / name, lambda path: path.write_bytes(content))
        return
    (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def copy_files(source: Path, target: Path) -> None:
    """Copies the files of a finished trial, if there are any, to another study."""
    if source.is_dir():
        shutil.copytree(
            source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CHECKPOINT, "*.part")
        )


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _write(path: Path, write: Callable[[Path], object], settle: bool = True) -> None:
    """Writes a file whole or not at all; ``settle``: when it returns, the file is on the disk.

    A pruned trial is told while its trainer still writes, so that another coordinator may tidy the
    trial's folder at that moment, and take the unfinished file for a dead trainer's: again, then.
    """
    for _ in range(WRITES - 1):
        with contextlib.suppress(FileNotFoundError):
            _write_once(path, write, settle)
            return
    _write_once(path, write, settle)


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


def _settle(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
