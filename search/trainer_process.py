"""The process that trains: how it is started, what it is told first, and that it ends with us."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import threading
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from search.data.splits import Splits
from search.desk import Desk
from search.errors import FactoryError, TrainerError
from search.factories import Factory, ordinary_path
from search.lane_desk import LaneDesk
from search.processes import context, signals_blocked
from search.worker import TrialRules


@dataclass(frozen=True)
class Setup:
    """What a trainer is told first.

    Attributes:
        splits: The data, pickled.
        rules: What ends a trial without looking at others.
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
    try:
        setup = connection.recv()
    except (EOFError, OSError):  # The coordinator is gone, maybe in the middle of its word.
        return
    device = torch.device(setup.device)
    if device.index is not None:
        torch.cuda.set_device(device)  # Streams and graphs are made there.
    splits: Splits = pickle.loads(setup.splits).to(device)
    with contextlib.suppress(EOFError, ConnectionError):
        try:
            if setup.factory is not None:
                setup.factory.import_here()
        except FactoryError as error:
            connection.send((-1, str(error)))
            return
        if setup.lanes:
            LaneDesk(connection, splits, setup.rules, device).serve()
        else:
            Desk(connection, splits, setup.rules, device, setup.factory).serve()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
