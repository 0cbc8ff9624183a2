"""What this machine has to train with: its devices, and room for how many trainers."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psutil

from search.errors import ConfigError

ALL = "all"
"""What is said for a GPU and the cores beside it."""
TRAINER_BYTES = 300e6
"""Memory that a trainer takes before it has any data, mostly torch."""
LARGEST_CREW = 16
"""Trainers that are started at most unless ``--workers`` asks for more."""
LANES = 32
"""Trials that train at once on a GPU unless ``--workers`` says how many. On an H100, 96 were no
quicker (`bench/RESULTS.md`); where all are of one shape they are, but a search comes to a good loss
no sooner, as it learns from what has ended (`studies/LOG.md`, 2026-11-28)."""
CORES_OF_LANES = 2
"""Cores that trainers beside a GPU leave to the coordinator and to what feeds the GPU."""
MEMORY_SHARE = 0.5
"""Part of the memory that is free which they take at most."""
GROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux says what control groups there are, and which one a process is in."""
MOST_LANES = 1024
"""What is beyond this is a mistake: these were the most that gained anything, all of one shape."""


def choose_device(wanted: str) -> str:
    """Returns the device to train on, as torch writes it; of `ALL`, the GPU.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    device = "cuda" if wanted == ALL else wanted
    if device == "cpu":
        return device
    if not re.fullmatch("cuda(:(0|[1-9][0-9]*))?", device):
        raise ConfigError(f"--device {wanted}: use auto, cpu, cuda, cuda:N or all")
    if not torch.cuda.is_available():
        raise ConfigError(f"--device {wanted}: torch finds no CUDA device here; use --device cpu")
    index = int(device.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise ConfigError(f"--device {wanted}: there are only {torch.cuda.device_count()} devices")
    return device


def choose_workers(wanted: int | None, data: int = 0) -> int:
    """Returns how many trainers there may be; by default one per core, if memory has room.

    Args:
        wanted: How many were asked for; None: not said.
        data: Bytes of the data, of which each has two copies while it starts.

    Raises:
        ConfigError: So many cannot fit in this machine's memory.
    """
    if wanted is None:
        room = int(_free_memory() / (TRAINER_BYTES + 2 * data))
        return max(1, min(_cores(), LARGEST_CREW, room))
    most = int(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / TRAINER_BYTES)
    if wanted > most:
        raise ConfigError(
            f"--workers {wanted}: each takes about {TRAINER_BYTES / 1e6:.0f} MB, and this "
            f"machine's memory has room for {most}; it has {os.cpu_count()} cores"
        )
    return wanted


def choose_lanes(wanted: int | None) -> int:
    """Returns how many trials may train at once in a GPU's lanes.

    Raises:
        ConfigError: No GPU gains by so many.
    """
    if wanted is not None and wanted > MOST_LANES:
        raise ConfigError(f"--workers {wanted}: a GPU trains at most {MOST_LANES} trials at once")
    return wanted or LANES


def choose_beside(data: int) -> int:
    """Returns how many trainers work on this machine's cores while its GPU trains.

    Args:
        data: Bytes of the data, of which each has two copies.
    """
    room = int(MEMORY_SHARE * _free_memory() / (TRAINER_BYTES + 2 * data))
    return max(0, min(_cores() - CORES_OF_LANES, LARGEST_CREW, room))


def _cores() -> int:
    """Returns how many cores' time this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux has it.
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    allowed = [int(quota) / int(period) for quota, period in _limits("cpu.max") if quota != "max"]
    return max(1, math.ceil(min([cores, *allowed])))


def _free_memory() -> float:
    """Returns how many bytes of memory this process may still use."""
    most = [math.inf if words[0] == "max" else int(words[0]) for words in _limits("memory.max")]
    used = [int(words[0]) for words in _limits("memory.current")]
    # Of files that were read; the system takes that back where memory is short.
    cached = [int(words[words.index("inactive_file") + 1]) for words in _limits("memory.stat")]
    parts = zip(most, used, cached, strict=False)
    left = [limit - taken + files for limit, taken, files in parts]
    return max(0.0, min([psutil.virtual_memory().available, *left]))


def _limits(file: str) -> Iterator[list[str]]:
    """Yields the words of a file of each control group that this process is in, the inmost first.

    A container or a batch system may so give it less than the machine has.
    """
    try:
        # The line of version 2: 0::/its/path.
        lines = OWN_GROUP.read_text().splitlines()
        own = next(line[4:] for line in lines if line.startswith("0::/"))
        groups = [GROUPS / own, *(GROUPS / own).parents]
        for group in groups[: groups.index(GROUPS) + 1]:
            if (group / file).exists():
                yield (group / file).read_text().split()
    except (OSError, ValueError, StopIteration):
        return
