"""Trainers on a Ray cluster keep every promise of trainers, though workers and nodes are killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from test_trainers import (
    LONG,
    RULES,
    Make,
    TrainersConformance,
    collect,
    epochs_in,
    job,
    splits,
    train_here,
    until_end,
)
from tiny import wait_until

from search.checkpoints import WEIGHTS, load_checkpoint
from search.data.splits import Splits
from search.ray_cluster import Cluster, open_cluster
from search.ray_trainers import RayTrainers
from search.trainers import TrainerDied, Trainers
from search.worker import Job

pytestmark = [pytest.mark.loopback, pytest.mark.timeout(600)]
__all__ = ["splits"]
TOKEN = "of-the-tests-0123456789abcdef0123456789abcdef"
MEMORY = 100_000_000
"""Bytes of each node's object store."""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Two nodes: a head that trains nothing, and one that trains."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", TOKEN)
        from ray.cluster_utils import Cluster as Nodes

        options = {"node_ip_address": "127.0.0.1", "object_store_memory": MEMORY}
        with tempfile.TemporaryDirectory(prefix="ray-") as place:
            head = {**options, "num_cpus": 0, "include_dashboard": False, "temp_dir": place}
            found = Nodes(initialize_head=True, head_node_args=head)
            found.add_node(num_cpus=6, **options)
            yield found
            found.shutdown()


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> Iterator[Cluster]:
    """A connection to these nodes."""
    with open_cluster(nodes.address, 1) as found:
        yield found


@pytest.fixture(scope="module")
def make(splits: Splits, cluster: Cluster) -> Iterator[Make]:
    """Makes trainers that are killed at the end of the module."""
    made: list[RayTrainers] = []

    def make_one() -> RayTrainers:
        made.append(RayTrainers(splits, RULES, 1, "cpu", None, cluster))
        return made[-1]

    yield make_one
    for trainers in made:
        trainers.kill()


@pytest.fixture(scope="module")
def shared(make: Make) -> list[Trainers]:
    """One actor that trains, for one test after another."""
    return [make()]


def pid_of(trainers: Trainers, worker: int) -> int:
    """Returns the id of an actor's process."""
    assert isinstance(trainers, RayTrainers)
    collect(trainers, lambda _: trainers._workers[worker].handle.ready, "the actor")
    return int(trainers._workers[worker].handle.place.rpartition(" ")[2])


class TestRayTrainers(TrainersConformance):
    """Actors on a cluster."""

    @pytest.fixture
    def trainers(self, shared: list[Trainers], make: Make) -> Trainers:
        """The shared actor, or a new one if the test before has failed to leave it free."""
        if shared[0].busy():
            shared[0] = make()
        collect(shared[0], lambda _: shared[0].free() != [], "a free actor")
        return shared[0]

    def pid(self, trainers: Trainers, worker: int) -> int:
        """Returns the id of an actor's process."""
        return pid_of(trainers, worker)

    def wait_for_weights(self, one: Job) -> None:
        """An actor writes them to a folder of its own first."""

        def written() -> bool:
            folders = Path(tempfile.gettempdir()).glob(f"rnn-trial-*/{WEIGHTS}")
            return any(file.stat().st_mtime > started for file in folders)

        started = one.folder.parent.stat().st_mtime
        wait_until(written, "the trial to end by itself")
