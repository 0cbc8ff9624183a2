"""Two nodes of a Ray cluster in this network namespace, as fixtures that files of tests import."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

TOKEN = "of-the-tests-0123456789abcdef0123456789abcdef"
OPTIONS = {"node_ip_address": "127.0.0.1", "object_store_memory": 100_000_000}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home and a folder for temporary files that are nobody else's, and a token."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        (folder / "ray").mkdir()
        patch.setenv("HOME", str(folder))
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        yield folder


@pytest.fixture(scope="module")
def nodes(home: Path) -> Iterator[Any]:
    """A head that trains nothing, where the coordinator runs, and a node that trains."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as place:  # Sockets: a short path.
        head = {**OPTIONS, "num_cpus": 0, "include_dashboard": False, "temp_dir": place}
        found = Cluster(initialize_head=True, head_node_args=head)
        found.add_node(num_cpus=6, **OPTIONS)
        yield found
        found.shutdown()


def node_of(nodes: Any, pid: int) -> Any:
    """Returns the node on which a process trains."""
    raylet = psutil.Process(pid).ppid()
    (found,) = [
        node
        for node in nodes.list_all_nodes()
        if node.all_processes["raylet"][0].process.pid == raylet
    ]
    return found
