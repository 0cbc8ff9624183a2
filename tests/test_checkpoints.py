"""The files of a trial are whole or absent, run no code, and are no more than is needed."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import CPU, sine, start, train
from safetensors.torch import load_file
from tiny import environment, wait_until

from search.checkpoints import (
    DIGEST_SIZE,
    cut_losses,
    load_checkpoint,
    save_checkpoint,
    save_losses,
    save_weights,
)
from search.trial_files import (
    CHECKPOINT,
    LOSSES,
    WEIGHTS,
    WRITES,
    copy_files,
    keep_weights,
    remove_checkpoint,
    store_file,
    trial_folder,
)

STATE = {"numbers": torch.arange(5.0), "word": "x", "list": [1, None, {"deep": 2.5}]}

WRITER = """
import sys, torch
from pathlib import Path
from search.checkpoints import save_checkpoint
for round in range(10**9):
    save_checkpoint(Path(sys.argv[1]), {"round": round, "filling": torch.full((300_000,), round)})
"""
"""A process that overwrites its checkpoint for ever; whole ones hold one number throughout."""


def same(one: object, other: object) -> bool:
    """Returns whether two states hold the same."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return (
            isinstance(other, dict)
            and one.keys() == other.keys()
            and all(same(one[key], other[key]) for key in one)
        )
    return one == other


def names(folder: Path) -> set[str]:
    """Returns the files under a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def finished(folder: Path, number: int) -> Path:
    """Writes all files that a trial can have."""
    place = trial_folder(folder, number)
    save_checkpoint(place, STATE)
    save_losses(place, [1.0, 0.5], [1, 2])
    save_weights(place, {"weight": torch.full((2,), float(number))})
    return place


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    """What was saved last is what is loaded, and no other file is left beside it."""
    folder = tmp_path / "study" / "00001"
    assert load_checkpoint(folder) is None
    save_checkpoint(folder, {"old": 1})
    save_checkpoint(folder, STATE)
    assert same(load_checkpoint(folder), STATE)
    assert names(folder) == {CHECKPOINT}


def test_the_state_of_a_run_comes_back_to_the_bit(tmp_path: Path) -> None:
    """A run's whole state is the same after the way through its file."""
    run = start(sine(), dropout=0.2)
    train(run, 2)
    save_checkpoint(tmp_path, run.state_dict())
    assert same(load_checkpoint(tmp_path), run.state_dict())


def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """Whenever a process is killed while it writes, the file is the last one or the one before."""
    checkpoint = tmp_path / CHECKPOINT
    for _ in range(3):
        before = checkpoint.stat() if checkpoint.exists() else None
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], env=environment())
        part = tmp_path / f".{CHECKPOINT}.{process.pid}.part"
        try:
            wait_until(
                lambda before=before: checkpoint.exists() and checkpoint.stat() != before,
                "a checkpoint of this process",
            )
            wait_until(part.exists, "a checkpoint half written")
        finally:
            process.kill()
            process.wait()
        state = load_checkpoint(tmp_path)
        assert state is not None
        assert bool((state["filling"] == state["round"]).all())


def test_every_truncated_checkpoint_is_none(tmp_path: Path) -> None:
    """A checkpoint that ends too early, wherever, counts as none."""
    save_checkpoint(tmp_path, STATE)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for size in {*range(0, len(whole), 13), *range(len(whole) - 30, len(whole))}:
        (tmp_path / CHECKPOINT).write_bytes(whole[:size])
        assert load_checkpoint(tmp_path) is None


@functools.cache
def saved() -> bytes:
    """Returns the content of a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder), STATE)
        return (Path(folder) / CHECKPOINT).read_bytes()


@settings(max_examples=300)
@given(st.data())
def test_every_damaged_checkpoint_is_none(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """A checkpoint with any byte changed counts as none, be it in what torch does not check."""
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    content = bytearray(saved())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / CHECKPOINT).write_bytes(content)
    assert load_checkpoint(folder) is None


@pytest.mark.parametrize("content", [b"", b"\0" * 5000, b"PK\x03\x04", b"no checkpoint at all"])
def test_rubbish_is_no_checkpoint(content: bytes, tmp_path: Path) -> None:
    """An empty file, one of zeros and one of anything else count as none."""
    (tmp_path / CHECKPOINT).write_bytes(content)
    assert load_checkpoint(tmp_path) is None


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("protocol", ["torch", "pickle"])
def test_a_malicious_checkpoint_runs_nothing(protocol: str, tmp_path: Path) -> None:
    """Code in a checkpoint, its digest right, is not run, and the file counts as none."""
    trap, buffer = Malicious(tmp_path / "trapped"), io.BytesIO()
    if protocol == "torch":
        torch.save(trap, buffer)
    else:
        pickle.dump(trap, buffer, protocol=2)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).digest()
    assert len(digest) == DIGEST_SIZE
    (tmp_path / CHECKPOINT).write_bytes(digest + content)
    assert load_checkpoint(tmp_path) is None
    assert not (tmp_path / "trapped").exists()
    pickle.loads(pickle.dumps(trap))
    assert (tmp_path / "trapped").exists()  # the trap works


def test_a_failed_write_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """What cannot be saved leaves the old checkpoint, and no half of a new one."""
    save_checkpoint(tmp_path, STATE)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path, {"a function": lambda: None})
    assert same(load_checkpoint(tmp_path), STATE)
    assert names(tmp_path) == {CHECKPOINT}


def test_a_disk_that_refuses_is_an_os_error(tmp_path: Path) -> None:
    """Whichever file cannot be written, the error is OSError, which stops the run."""
    (tmp_path / "file").touch()
    for write in (
        lambda: save_checkpoint(tmp_path / "file", STATE),
        lambda: save_losses(tmp_path / "file", [1.0], [1]),
        lambda: save_weights(tmp_path / "file", {"a": torch.ones(1)}),
    ):
        with pytest.raises(OSError, match="file"):
            write()
    for name in (LOSSES, WEIGHTS):
        (tmp_path / "trial" / name / "in the way").mkdir(parents=True)
    with pytest.raises(OSError, match=LOSSES):
        save_losses(tmp_path / "trial", [1.0], [1])
    with pytest.raises(OSError, match=WEIGHTS):
        save_weights(tmp_path / "trial", {"a": torch.ones(1)})
    assert not [name for name in names(tmp_path) if name.endswith(".part")]


def test_losses_and_weights_are_safetensors(tmp_path: Path) -> None:
    """Losses come back as float32 with the epochs' ends, weights as they were."""
    save_losses(tmp_path, [1.5, 0.25, 0.125], [2, 3])
    losses = load_file(tmp_path / LOSSES)
    assert losses["train"].tolist() == [1.5, 0.25, 0.125]
    assert losses["train"].dtype == torch.float32
    assert losses["epoch_ends"].tolist() == [2, 3]
    weights = start(sine(), hidden_layers=2).model.state_dict()
    save_weights(tmp_path, weights)
    assert same(load_file(tmp_path / WEIGHTS, device=str(CPU)), dict(weights))


def test_the_losses_of_no_epoch_are_a_file(tmp_path: Path) -> None:
    """A trial that ended in its first epoch has losses and no epoch's end."""
    save_losses(tmp_path, [1.0], [])
    assert load_file(tmp_path / LOSSES)["epoch_ends"].shape == (0,)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 5)), st.sets(st.integers(0, 5)))
def test_exactly_the_best_keep_weights(
    tmp_path_factory: pytest.TempPathFactory, best: set[int], done: set[int]
) -> None:
    """Finished trials keep losses, the best also weights; unfinished ones keep everything."""
    prepared = tmp_path_factory.getbasetemp() / "prepared"
    for number in range(0 if prepared.exists() else 6):
        finished(prepared, number)
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(prepared, folder, dirs_exist_ok=True)
    keep_weights(folder, best, done)
    for number in range(6):
        wanted = {LOSSES}
        if number in best or number not in done:
            wanted |= {WEIGHTS}
        if number not in done:
            wanted |= {CHECKPOINT}
        assert names(trial_folder(folder, number)) == wanted


def test_keeping_weights_needs_no_files(tmp_path: Path) -> None:
    """Trials without files, such as those that failed at once, are passed over."""
    keep_weights(tmp_path, [0], [0, 1, 2])
    assert not names(tmp_path)


def test_a_removed_checkpoint_takes_an_empty_folder_along(tmp_path: Path) -> None:
    """With its checkpoint goes a trial's folder, unless other files are in it."""
    save_checkpoint(tmp_path / "alone", STATE)
    remove_checkpoint(tmp_path / "alone")
    assert not (tmp_path / "alone").exists()
    place = finished(tmp_path, 7)
    remove_checkpoint(place)
    remove_checkpoint(place)
    assert names(place) == {LOSSES, WEIGHTS}


def test_a_folder_may_be_tidied_while_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses get written though another coordinator tidies their trial's folder in between."""
    sweeps = iter(range(WRITES - 1))
    settle = os.fsync

    def sweep_and_settle(handle: int) -> None:
        for _ in zip(range(1), sweeps, strict=False):
            remove_checkpoint(tmp_path / "trial")
        settle(handle)

    monkeypatch.setattr(os, "fsync", sweep_and_settle)
    save_losses(tmp_path / "trial", [0.5, 0.25], [2])
    assert not list(sweeps)
    assert names(tmp_path / "trial") == {LOSSES}
    assert load_file(tmp_path / "trial" / LOSSES)["train"].tolist() == [0.5, 0.25]


def test_files_are_copied_without_the_unfinished(tmp_path: Path) -> None:
    """A copy of a trial has its losses and weights, no checkpoint and nothing half written."""
    place = finished(tmp_path, 3)
    (place / f"{WEIGHTS}.123.part").touch()
    copy_files(place, tmp_path / "copy")
    assert names(tmp_path / "copy") == {LOSSES, WEIGHTS}
    copy_files(tmp_path / "nowhere", tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_copy_leaves_out_what_goes_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are tidied away while a trial's files are copied are not copied; that is all."""
    place, copyfile = finished(tmp_path, 3), shutil.copyfile

    def tidy_and_copy(source: Path, target: Path, **options: bool) -> object:
        (place / WEIGHTS).unlink(missing_ok=True)
        return copyfile(source, target, **options)

    monkeypatch.setattr(shutil, "copyfile", tidy_and_copy)
    copy_files(place, tmp_path / "copy")
    assert names(tmp_path / "copy") == {LOSSES}


def test_stored_files_are_those_of_a_trial(tmp_path: Path) -> None:
    """What another machine sends is stored or removed under the names of a trial's files alone."""
    folder = tmp_path / "00003"
    store_file(folder, LOSSES, b"as it came")
    assert (folder / LOSSES).read_bytes() == b"as it came"
    for name in ("../../.bashrc", "/etc/passwd", "losses.pickle", ""):
        with pytest.raises(ValueError, match="a trainer sent a file named"):
            store_file(folder, name, b"malice")
    store_file(folder, LOSSES, None)
    store_file(folder, LOSSES, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("written", [True, False], ids=["too many", "none"])
def test_losses_of_a_pruned_trial_whose_trainer_was_killed(tmp_path: Path, written: bool) -> None:
    """They are those of the epochs told, whatever the trainer had written of what came after."""
    losses, ends = [4.0, 3.0, 2.0, 1.0, 9.0], [2, 4]
    run = {"batch_losses": torch.tensor(losses, dtype=torch.float64), "epoch_ends": ends}
    save_checkpoint(tmp_path, {"run": run, "ended": ["diverged", "grew"]})
    if written:
        save_losses(tmp_path, losses, ends)
    save_losses(tmp_path / "right", losses[:4], ends)
    cut_losses(tmp_path, 2)
    assert (tmp_path / LOSSES).read_bytes() == (tmp_path / "right" / LOSSES).read_bytes()
    cut_losses(tmp_path, 1)
    save_losses(tmp_path / "right", losses[:2], ends[:1])
    assert (tmp_path / LOSSES).read_bytes() == (tmp_path / "right" / LOSSES).read_bytes()


def test_losses_of_a_pruned_trial_without_a_checkpoint(tmp_path: Path) -> None:
    """They are cut to the epochs told as well, and left alone where they are these, or fewer."""
    cut_losses(tmp_path, 1)
    assert names(tmp_path) == set()
    save_losses(tmp_path, [4.0, 3.0, 2.0], [2, 3])
    before = (tmp_path / LOSSES).stat()
    for epochs in (0, 2, 3):
        cut_losses(tmp_path, epochs)
    assert (tmp_path / LOSSES).stat() == before
    cut_losses(tmp_path, 1)
    save_losses(tmp_path / "right", [4.0, 3.0], [2])
    assert (tmp_path / LOSSES).read_bytes() == (tmp_path / "right" / LOSSES).read_bytes()


def test_what_was_half_written_of_a_finished_trial_goes(tmp_path: Path) -> None:
    """Whoever was killed while it wrote a trial's losses leaves no part of them for ever."""
    place = finished(tmp_path, 3)
    (place / f"{LOSSES}.123.part").touch()
    keep_weights(tmp_path, [3], [3])
    assert names(place) == {LOSSES, WEIGHTS}
