"""The process that trains: how it is started, what it is told first, and that it ends with us."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import queue
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from search.data.splits import Splits
from search.desk import Desk, try_device
from search.errors import FactoryError, TrainerError
from search.factories import Factory
from search.lane_desk import LaneDesk
from search.own_modules import ordinary_path
from search.processes import context, keep_freed_memory, signals_blocked
from search.worker import TrialRules

READY = (-1, None)
"""A trainer's first word: it has all that it needs. What ends it sooner is no trial's fault."""


@dataclass(frozen=True)
class Setup:
    """What a trainer is told first.

    Attributes:
        splits: The data, pickled.
        rules: What ends a trial, and where others judge it.
        device: As torch writes it.
        factory: Builds the networks, if they are the user's own.
        lanes: Whether it has many trials at once, in lanes; then there is no factory.
    """

    splits: bytes
    rules: TrialRules
    device: str
    factory: Factory | None = None
    lanes: bool = False


def start_process(setup: Setup) -> tuple[BaseProcess, Connection]:
    """Starts a trainer; returns it with our end of what connects us.

    Raises:
        TrainerError: It could not be started.
    """
    starting = context()
    ours, theirs = starting.Pipe()
    process = starting.Process(target=_main, args=(theirs,), daemon=True, name="trainer")
    try:
        # The mask is inherited, so a Ctrl-C while the child comes to life cannot end it.
        with signals_blocked(), ordinary_path():
            process.start()
    except (OSError, EOFError) as error:
        raise TrainerError(f"a trainer could not be started: {error}") from error
    theirs.close()
    # Not as an argument: a child whose coordinator is killed while it writes these would print
    # a traceback before anything of ours runs.
    with contextlib.suppress(ConnectionError):
        ours.send(setup)
    return process, ours


def _main(connection: Connection) -> None:
    """Runs in the trainer's process until the coordinator says stop or is gone."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        setup = connection.recv()
    except (EOFError, OSError):  # The coordinator is gone, maybe in the middle of its word.
        return
    device = torch.device(setup.device)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            splits = _set_up(setup, device)
        except FactoryError as error:
            connection.send((-1, str(error)))
            return
        except (RuntimeError, MemoryError) as error:  # Torch's lack of memory is the former.
            said = " ".join(str(error).splitlines()[:1]) or type(error).__name__
            remedy = "free its memory, use fewer --workers, or another --device"
            connection.send((-1, f"a trainer cannot work on {device} ({said}); {remedy}"))
            return
        setup = replace(setup, splits=b"")  # Else every trainer keeps the data twice.
        connection.send(READY)
        inbox = _Inbox(connection)
        if setup.lanes:
            LaneDesk(inbox, splits, setup.rules, device).serve()
        else:
            Desk(inbox, splits, setup.rules, device, setup.factory).serve()


def _set_up(setup: Setup, device: torch.device) -> Splits:
    """Returns the data on the device, with which all that comes before a trial has been done."""
    if device.index is not None:
        torch.cuda.set_device(device)  # Streams and graphs are made there.
    splits: Splits = pickle.loads(setup.splits)
    if setup.factory is not None:
        setup.factory.import_here()
    splits = splits.to(device)
    try_device(device)
    return splits


class _Inbox:
    """The end of a connection that takes what comes at once, so that who sends never waits.

    With many trials, both ends might else wait for each other to read. And to ask a connection
    whether there is an order, as is done before every batch, takes it 40 µs, a queue less than one.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._orders: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, message: Any, /) -> None:
        """Sends what a desk says."""
        self._connection.send(message)

    def recv(self) -> Any:
        """Waits for an order.

        Raises:
            EOFError: None will come any more.
        """
        order = self._orders.get()
        if order is None:
            raise EOFError
        return order

    def poll(self) -> bool:
        """Says whether there is an order, or none will come any more."""
        return not self._orders.empty()

    def _read(self) -> None:
        try:
            with contextlib.suppress(EOFError, OSError):
                while True:
                    self._orders.put(self._connection.recv())
        finally:
            self._orders.put(None)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
