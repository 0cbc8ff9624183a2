"""A trainer on a node of a Ray cluster: an actor at a `Desk`, with files of its own.

Its trial's files lie in a folder of its own; whatever has changed in it travels with the next word
to the coordinator, which keeps them all.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import tempfile
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from search.data.splits import Splits
from search.desk import Desk, Order, try_device
from search.errors import FactoryError
from search.factories import Factory
from search.processes import keep_freed_memory
from search.surroundings import surroundings
from search.trial import Decision
from search.trial_files import CHECKPOINT, TRAINED, store_file
from search.worker import Job, TrialRules


@dataclass(frozen=True)
class Parcel:
    """A trial on its way to an actor, with the checkpoint to go on from."""

    job: Job
    checkpoint: bytes | None


@dataclass(frozen=True)
class Ready:
    """An actor's first word: where it is and what it computes with."""

    place: str
    surroundings: Mapping[str, str]


@dataclass(frozen=True)
class Crash:
    """A fault of the program in an actor; the last word."""

    traceback: str


@dataclass(frozen=True)
class Word:
    """What a `Desk` says of a trial, with the files that have changed; None: removed."""

    number: int
    message: Any
    files: Mapping[str, bytes | None]


class _Outbox:
    """A folder for the files of one trial, which knows what has changed in it since last asked."""

    def __init__(self, parcel: Parcel) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="rnn-trial-")
        self.job = replace(parcel.job, folder=Path(self._folder.name))
        self.over = False
        if parcel.checkpoint is not None:
            store_file(self.job.folder, CHECKPOINT, parcel.checkpoint)
        self._seen = self._look()

    def changes(self) -> dict[str, bytes | None]:
        """Returns the files that are new, other or gone (None)."""
        before, self._seen = self._seen, self._look()
        changed: dict[str, bytes | None] = dict.fromkeys(before.keys() - self._seen)
        for name, state in self._seen.items():
            if state != before.get(name):
                changed[name] = (self.job.folder / name).read_bytes()
        return changed

    def close(self) -> None:
        """Removes the folder."""
        self._folder.cleanup()

    def _look(self) -> dict[str, tuple[int, int]]:
        """Returns the files that are there; each is replaced as a whole, by another inode."""
        found = {}
        for name in TRAINED:
            with contextlib.suppress(FileNotFoundError):
                status = (self.job.folder / name).stat()
                found[name] = (status.st_ino, status.st_mtime_ns)
        return found


class _Line:
    """An actor's end of what connects it with the coordinator."""

    def __init__(self) -> None:
        self.orders: queue.SimpleQueue[Order | Parcel] = queue.SimpleQueue()
        self.words: queue.SimpleQueue[Ready | Word | Crash] = queue.SimpleQueue()
        self._outboxes: dict[int, _Outbox] = {}

    def send(self, message: Any, /) -> None:
        number, said = message
        outbox = self._outboxes.get(number)
        if outbox is None or isinstance(said, str):
            self.words.put(Word(number, said, {}))
            return
        self.words.put(Word(number, said, outbox.changes()))
        # The order to drop a trial may yet cross its end.
        outbox.over = said is None or isinstance(said[0], Decision)

    def recv(self) -> Order:
        order = self.orders.get()
        if not isinstance(order, Parcel):
            return order
        for number, outbox in list(self._outboxes.items()):
            if outbox.over or number == order.job.number:
                self._outboxes.pop(number).close()
        outbox = self._outboxes[order.job.number] = _Outbox(order)
        return outbox.job

    def poll(self) -> bool:
        return not self.orders.empty()

    def close(self) -> None:
        for outbox in self._outboxes.values():
            outbox.close()


class Actor:
    """A trainer on a node of the cluster. Ray calls each method in a thread of its own."""

    def __init__(self) -> None:
        self._line = _Line()

    def serve(
        self, splits: Splits, rules: TrialRules, device: str, factory: Factory | None
    ) -> None:
        """Trains one trial after another until told to stop."""
        place = f"{socket.gethostname()}, process {os.getpid()}"
        try:
            torch.set_num_threads(1)
            keep_freed_memory()
            target = torch.device(device)
            if factory is not None:
                factory.import_here()
            try:
                found, splits = surroundings(device, factory), splits.to(target)
                try_device(target)
            except (RuntimeError, MemoryError) as error:  # Torch's lack of memory is the former.
                said = " ".join(str(error).splitlines()[:1]) or type(error).__name__
                self._line.send((-1, f"a trainer cannot work on {device} ({said})"))
                return
            self._line.words.put(Ready(place, found))
            Desk(self._line, splits, rules, target, factory).serve()
        except (FactoryError, OSError) as error:
            self._line.send((-1, str(error)))
        except torch.AcceleratorError:  # Another process may use the GPU; this one no more.
            traceback.print_exc()
            os._exit(1)
        except BaseException:
            self._line.words.put(Crash(f"{place}:\n{traceback.format_exc()}"))
        finally:
            self._line.close()

    def order(self, order: Order | Parcel) -> None:
        """Takes an order."""
        self._line.orders.put(order)

    def words(self) -> list[Ready | Word | Crash]:
        """Waits for a word and returns it with all that follow at once."""
        said = [self._line.words.get()]
        with contextlib.suppress(queue.Empty):
            while True:
                said.append(self._line.words.get_nowait())
        return said
