"""What a result depends on besides configuration and data: versions, platform, device, kernels."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.factories import Factory


def versions() -> dict[str, str]:
    """Returns what a result depends on besides the configuration: versions and platform."""
    packages = ("rnn-search", "torch", "numba", "optuna", "numpy", "sqlalchemy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


def surroundings(device: str, factory: Factory | None = None) -> dict[str, str]:
    """Returns all that may change a bit of a trial trained here: `versions`, device and kernels.

    Args:
        device: Where trials train, as torch writes it.
        factory: Builds the networks, if they are the user's own.
    """
    import torch  # Not above: who only looks at a study does not wait for it.

    from search.object_code import ENABLED

    kernels = torch.backends.cpu.get_cpu_capability() + ("" if ENABLED else " without Numba")
    if device.startswith("cuda"):
        kernels = torch.cuda.get_device_name(device)
    # A trainer computes with one thread, whatever the machine has.
    found = {**versions(), "device": device, "threads": "1", "kernels": kernels}
    return found if factory is None else {**found, "factory": factory.source}
