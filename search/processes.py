"""How trainers come to life: forked from a server that has imported torch and little else.

A new Python takes seconds to import torch, every trainer as long as the first. The server has
imported it once; a trainer is then forked in milliseconds, when the search begins and when one has
died. The server computes next to nothing, so that what is forked from it is as good as new. It is
itself forked from a coordinator that has imported no more than that, so that torch is imported
once for both; where there is more already, it is a new Python that imports by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import forkserver, resource_tracker, util
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What people and machines send to a whole process group; the coordinator alone answers it."""

SERVED = ["search.trainer_process"]
"""What the server imports: all that a trainer needs."""

_DESCRIPTORS = Path("/proc/self/fd")

FORKS = sys.platform == "linux"
"""macOS's own libraries do not survive a fork: there, each trainer is new."""


HEAVY = ("torch", "optuna", "sqlalchemy")
"""Who has imported one of these may have used it: connections are open, a GPU is set up. From such
a process no server is forked."""


def prepare() -> None:
    """Starts the server, if there is none.

    Where this process is as good as new, it imports what the server needs and is forked; that takes
    seconds, and none from a coordinator, which needs the same. Else a new Python is started, which
    is not waited for.
    """
    if not FORKS:
        return
    forkserver.set_forkserver_preload(SERVED)
    new = not any(name in sys.modules for name in HEAVY) and threading.active_count() == 1
    if new:
        for name in SERVED:
            importlib.import_module(name)
    with signals_blocked(), _safe_path(), _forked() if new else contextlib.nullcontext():
        forkserver.ensure_running()


@contextlib.contextmanager
def _forked() -> Iterator[None]:
    """Has `multiprocessing` fork its server from this process instead of starting a new Python."""
    original = util.spawnv_passfds
    util.spawnv_passfds = _fork  # type: ignore[assignment]
    try:
        yield
    finally:
        util.spawnv_passfds = original


def _fork(_path: bytes, arguments: Sequence[Any], passed: Sequence[int]) -> int:
    """Returns the id of a child that does what a new Python was to do, and has what it was to have.

    Args:
        _path: Of Python.
        arguments: Its command line. After -c come the statements to run; newer releases of Python
            have them read words of ours that stand behind.
        passed: The file descriptors that it needs beside the standard ones.
    """
    for stream in (sys.stdout, sys.stderr):
        # One that was closed on the command line is None, or no longer open.
        with contextlib.suppress(AttributeError, ValueError):
            stream.flush()
    child = os.fork()
    if child:
        return child
    try:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        # The server ends when the last copy of what only its clients are to have is closed.
        for one in {int(open_.name) for open_ in _DESCRIPTORS.iterdir()} - {0, 1, 2, *passed}:
            with contextlib.suppress(OSError):
                os.close(one)
        for known in (forkserver._forkserver, resource_tracker._resource_tracker):
            known.__init__()  # type: ignore[misc]
        place = arguments.index("-c") + 1
        sys.argv = ["-c", *arguments[place + 1 :]]
        exec(arguments[place], {})
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def context() -> ForkServerContext | SpawnContext:
    """Returns what processes and pipes are made with."""
    if not FORKS:
        return multiprocessing.get_context("spawn")
    prepare()
    return multiprocessing.get_context("forkserver")


@contextlib.contextmanager
def signals_answered(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Has `SIGNALS` answered for a while, but those that whoever started us had us ignore.

    That is what nohup does with SIGHUP, and a script's shell with SIGINT in the background.
    """
    heeded = [one for one in SIGNALS if signal.getsignal(one) is not signal.SIG_IGN]
    before = [signal.signal(number, handler) for number in heeded]
    try:
        yield
    finally:
        for number, former in zip(heeded, before, strict=True):
            signal.signal(number, former)


class Signals:
    """Counts requests to stop; the second one stops at once."""

    def __init__(self) -> None:
        self.count = 0

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """Is called by Python between two instructions of the main thread."""
        self.count += 1
        # Of a terminal that closes the shell may tell its jobs once more than the system.
        if self.count > 1 and number != signal.SIGHUP:
            raise KeyboardInterrupt


@contextlib.contextmanager
def catch_signals() -> Iterator[Signals]:
    """Turns Ctrl-C, SIGTERM and SIGHUP into a request to stop at the next epoch."""
    signals = Signals()
    with signals_answered(signals.handle):
        yield signals


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Blocks `SIGNALS` for a while; processes started meanwhile inherit that and keep it."""
    # Python starts this helper with the first process, and unblocks signals in doing so.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _safe_path() -> Iterator[None]:
    """Keeps a ``random.py`` in the current folder from being imported by the server."""
    name = "PYTHONSAFEPATH"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def keep_freed_memory() -> None:
    """Has the C library keep what tensors give back, for those that will soon want as much.

    Glibc hands larger pieces back to the system, which clears every page that it gives out again:
    that took about 2 % of the time of random trials, and a fifth of an LSTM's with minibatches of
    128.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if FORKS else None
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)


KEPT_BYTES, LARGEST_KEPT_BYTES = 1 << 27, 1 << 25
"""In all, and of one piece; the latter is the most that glibc takes."""
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
