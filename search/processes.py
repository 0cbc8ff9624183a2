"""How trainers come to life: forked from a server that has imported torch while others were busy.

A new Python takes seconds to import torch, every trainer as long as the first. The server imports
it once, on another core while the coordinator imports Optuna; a trainer is then forked in
milliseconds, when the search begins and when one has died. The server computes next to nothing, so
that what is forked from it is as good as new.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What people and machines send to a whole process group; the coordinator alone answers it."""

SERVED = ["search.trainer_process"]
"""What the server imports: all that a trainer needs."""

FORKS = sys.platform == "linux"
"""macOS's own libraries do not survive a fork, Windows has none: there, each trainer is new."""


def prepare() -> None:
    """Starts the server, if there is none, without waiting until it has imported anything."""
    if not FORKS:
        return
    forkserver.set_forkserver_preload(SERVED)
    with signals_blocked(), _safe_path():
        forkserver.ensure_running()


def context() -> ForkServerContext | SpawnContext:
    """Returns what processes and pipes are made with."""
    if not FORKS:
        return multiprocessing.get_context("spawn")
    prepare()
    return multiprocessing.get_context("forkserver")


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
