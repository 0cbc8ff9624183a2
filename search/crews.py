"""Which trainers a run gets: processes on this machine, or actors on a Ray cluster."""

from __future__ import annotations

import functools
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from search.data.splits import Splits
from search.errors import ConfigError
from search.factories import Factory
from search.lane_trainers import LaneTrainers
from search.machine import ALL, choose_beside, choose_lanes, choose_workers
from search.mixed_trainers import MixedTrainers, Part
from search.surroundings import surroundings
from search.trainers import LocalTrainers, Trainers
from search.worker import TrialRules

if TYPE_CHECKING:
    from search.ray_cluster import Cluster


class Hire(Protocol):
    """Starts trainers; the parameters are those of `LocalTrainers`."""

    def __call__(
        self,
        splits: Splits,
        rules: TrialRules,
        workers: int,
        device: str,
        factory: Factory | None = None,
    ) -> Trainers:
        """Returns them."""


@dataclass(frozen=True)
class Crew:
    """Trainers that a run may start.

    Attributes:
        workers: How many trials they train at once.
        device: What each trains on, as torch writes it.
        hire: Starts them.
        place: Where they are, for people; empty: this machine.
        noun: What each is called.
        beside: Others, who are given trials first.
    """

    workers: int
    device: str
    hire: Hire = LocalTrainers
    place: str = ""
    noun: str = "worker"
    beside: Crew | None = None

    @property
    def size(self) -> int:
        """How many trials train at once, with those beside."""
        return self.workers + (self.beside.size if self.beside else 0)

    @property
    def on_cores(self) -> bool:
        """Whether any of them train on this machine's own cores."""
        beside = self.beside is not None and self.beside.on_cores
        return beside or (not self.place and self.device == "cpu")

    def at_most(self, trials: int) -> Crew:
        """Returns no more than there are trials for, but one; those beside are the first to go."""
        fewer = replace(self, workers=max(1, min(self.workers, trials)))
        if self.beside is None:
            return fewer
        left = trials - fewer.workers
        return replace(fewer, beside=self.beside.at_most(left) if left > 0 else None)

    def alone(self) -> Crew:
        """Returns these without those beside."""
        return replace(self, beside=None)

    def start(self, splits: Splits, rules: TrialRules, factory: Factory | None = None) -> Trainers:
        """Starts them all.

        Raises:
            TrainerError: They do not start.
        """
        if self.beside is None:
            return self.hire(splits, rules, self.workers, self.device, factory)
        other, beside = surroundings(self.beside.device), self.beside.start(splits, rules, factory)
        try:
            mine = self.alone().start(splits, rules, factory)
        except BaseException:
            beside.kill()
            raise
        return MixedTrainers([Part(beside, self.beside.size, other), Part(mine, self.workers, {})])

    def __str__(self) -> str:
        """Says how many there are, and where."""
        mine = f"{self.workers} {self.noun}{'s' * (self.workers > 1)} on {self.device}{self.place}"
        return f"{mine}, {self.beside}" if self.beside else mine


def crew_here(
    wanted: int | None, device: str, data: Splits, *, own_network: bool, beside: bool = False
) -> Crew:
    """Returns this machine's trainers: on a GPU one with many lanes, else one process each.

    The cores may train beside a GPU, a process on each but a few.

    Args:
        wanted: How many; None: as many as do well here.
        device: What to train on, as torch writes it.
        data: Of which each process has its own copies.
        own_network: Whether networks are the user's own; those cannot share lanes.
        beside: Whether the cores are to train beside a GPU.

    Raises:
        ConfigError: There cannot be so many, or not of this kind.
    """
    if own_network and beside:
        raise ConfigError(f"--device {ALL}: networks of your own train on one device; use {device}")
    if not device.startswith("cuda") or own_network:
        return Crew(choose_workers(wanted, 0 if wanted else _size(data)), device)
    lanes = Crew(choose_lanes(wanted), device, LaneTrainers, noun="lane")
    others = choose_beside(_size(data)) if beside else 0
    return replace(lanes, beside=Crew(others, "cpu")) if others else lanes


class _Scale:
    """A file that keeps nothing of what is written but how much it was."""

    size = 0

    def write(self, content: Any) -> None:
        """Counts bytes."""
        self.size += memoryview(content).nbytes


def _size(data: Splits) -> int:
    """Returns how many bytes the data takes on its way to a trainer."""
    scale = _Scale()
    pickle.dump(data, scale)
    return scale.size


@dataclass(frozen=True)
class ClusterRequest:
    """What was asked for of a cluster; None: not said.

    Attributes:
        address: ``HOST:PORT`` of its head; None: a Ray on this machine, for this run.
        gpus_per_trial: The part of a GPU that each trial takes.
        workers: How many trainers.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        ConfigError: It makes no sense.
    """

    address: str | None
    gpus_per_trial: float | None
    workers: int | None
    device: str

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ConfigError(f"--device {self.device}: Ray chooses which; use auto, cpu or cuda")
        if self.device == "cpu" and self.gpus_per_trial is not None:
            raise ConfigError("--gpus-per-trial and --device cpu contradict each other")


@contextmanager
def open_crew(wanted: ClusterRequest) -> Iterator[Crew]:
    """Connects to a cluster for the time of a block.

    Raises:
        ConfigError: There is no such cluster, or it has not what is asked for.
        TrainerError: Ray does not start here.
    """
    from search.ray_cluster import open_cluster
    from search.ray_trainers import RayTrainers

    # A cluster elsewhere has a memory of its own.
    here = choose_workers(wanted.workers) if wanted.address is None else 0
    with open_cluster(wanted.address, here) as cluster:
        part = _part_of_a_gpu(wanted, cluster)
        room = cluster.room(part)
        if room == 0 and (part or wanted.workers is None):
            raise ConfigError(
                f"the cluster {cluster.address} has no room for a trial: {cluster.cpus} CPUs, "
                f"{cluster.gpus:g} GPUs; a trial takes 1 CPU and {part:g} GPU"
            )
        workers = wanted.workers or room
        hire = functools.partial(RayTrainers, cluster=cluster, gpus_per_trial=part)
        place = f" of the Ray cluster {cluster.address}"
        if workers > room:
            place += f", which has room for {room} of them now"
        yield Crew(workers, "cuda" if part else "cpu", hire, place)


def _part_of_a_gpu(wanted: ClusterRequest, cluster: Cluster) -> float:
    """Returns what part of a GPU a trial takes: 0 if it trains on a CPU."""
    asked = wanted.device == "cuda" or wanted.gpus_per_trial is not None
    if asked and cluster.gpus == 0:
        raise ConfigError(f"the cluster {cluster.address} has no GPU; use --device cpu")
    if wanted.device == "cpu" or cluster.gpus == 0:
        return 0.0
    return wanted.gpus_per_trial or 1.0
