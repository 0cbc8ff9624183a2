"""What a trial keeps in its files: its state while it trains, losses and weights when it is over.

None of them can run code when it is read.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from search.trial_files import CHECKPOINT, LOSSES, WEIGHTS, write_file

DIGEST_SIZE = 32
"""A checkpoint begins with so many bytes of SHA-256 of the rest, which is what torch saves."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Replaces the trial's checkpoint: tensors, numbers, strings, lists and dicts of them.

    Raises:
        OSError: The disk is full or not writable; the old checkpoint is still there.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    # A power cut may spoil it, which its digest tells; so it need not wait for the disk.
    write_file(
        folder / CHECKPOINT, lambda path: path.write_bytes(_digest(content) + content), settle=False
    )


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Returns the trial's last checkpoint, on the CPU.

    Returns:
        None if there is none, or if a power cut has left one that is not what was written: the
        trial then starts over, to the same result.
    """
    try:
        written = (folder / CHECKPOINT).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
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


def devices_of(folder: Path, code: str | None) -> list[str]:
    """Returns on what kinds of devices a trial was trained as far as its checkpoint.

    Args:
        folder: The trial's folder.
        code: Fingerprint of the user's own code now; None: there is none.

    Returns:
        None of them if there is no checkpoint, or one of other code: the trial begins anew.
    """
    saved = load_checkpoint(folder) or {}
    same = saved.get("job", {"code": code}).get("code") == code
    return list(saved.get("devices", [])) if same else []


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
    write_file(folder / LOSSES, lambda path: path.write_bytes(save(tensors)), settle)


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
    write_file(folder / WEIGHTS, lambda path: path.write_bytes(save(weights)))


def load_weights(folder: Path) -> dict[str, Tensor] | None:
    """Returns what `save_weights` wrote, on the CPU; None if it is not there, or damaged."""
    try:
        return load_file(folder / WEIGHTS)
    except (FileNotFoundError, SafetensorError):
        return None


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
