"""Trainers on a Ray cluster keep every promise of trainers, though workers and nodes are killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conformance import (
    LONG,
    RULES,
    Make,
    TrainersConformance,
    collect,
    epochs_in,
    job,
    make,
    shared,
    splits,
    train_here,
    until_end,
)
from ray_nodes import OPTIONS, home, node_of, nodes
from tiny import wait_until

from search.checkpoints import load_checkpoint
from search.data.splits import Splits
from search.ray_cluster import Cluster, open_cluster
from search.ray_trainers import RayTrainers
from search.surroundings import surroundings
from search.trainers import TrainerDied, TrainerFault, Trainers, TrialEnded
from search.trial import Outcome
from search.trial_files import WEIGHTS
from search.worker import Job

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["home", "make", "nodes", "shared", "splits"]
"""Fixtures of other files."""


@pytest.fixture(scope="module")
def cluster(nodes: Any) -> Iterator[Cluster]:
    """A connection to these nodes."""
    with open_cluster(nodes.address, 1) as found:
        yield found


@pytest.fixture(scope="module")
def hire(splits: Splits, cluster: Cluster) -> Make:
    """Starts new trainers with one actor."""
    return lambda: RayTrainers(splits, RULES, 1, "cpu", None, cluster)


def pid_of(trainers: Trainers, worker: int) -> int:
    """Returns the id of an actor's process."""
    assert isinstance(trainers, RayTrainers)
    collect(trainers, lambda _: trainers._workers[worker].handle.ready, "the actor")
    return int(trainers._workers[worker].handle.place.rpartition(" ")[2])


def until_death(trainers: Trainers) -> None:
    """Waits for the news that worker 0 died with trial 0."""
    died = collect(
        trainers, lambda events: any(isinstance(e, TrainerDied) for e in events), "a death"
    )[-1]
    assert isinstance(died, TrainerDied)
    assert (died.worker, died.number) == (0, 0)


class TestRayTrainers(TrainersConformance):
    """Actors on a cluster."""

    def pid(self, trainers: Trainers, worker: int) -> int:
        """Returns the id of an actor's process."""
        return pid_of(trainers, worker)

    def wait_for_weights(self, one: Job) -> None:
        """An actor writes them to a folder of its own first."""

        def written() -> bool:
            return any(Path(os.environ["TMPDIR"]).glob(f"rnn-trial-*/{WEIGHTS}"))

        wait_until(written, "the trial to end by itself")


def test_other_version_on_a_node_stops_the_run(
    splits: Splits, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose torch is another than the coordinator's is a fault that names both versions."""
    here = {**surroundings("cpu"), "torch": "1.0"}
    monkeypatch.setattr("search.ray_trainers.surroundings", lambda _: here)
    with RayTrainers(splits, RULES, 1, "cpu", None, cluster) as trainers:
        (fault,) = collect(trainers, lambda events: len(events) > 0, "a fault")
    assert isinstance(fault, TrainerFault)
    assert f"has torch {torch.__version__}, and here is 1.0; install the same" in fault.reason


@pytest.mark.usefixtures("cluster")
def test_the_cluster_is_not_told_our_arguments() -> None:
    """What Ray shows of this process to everybody on the cluster is its name alone."""
    import ray  # Not before there is a token, which Ray looks for once.

    jobs = ray._private.state.jobs()
    assert "rnn-search" in [job["Entrypoint"] for job in jobs]
    assert not any("pytest" in job["Entrypoint"] for job in jobs)


def test_fault_of_the_program_stops_it(splits: Splits, cluster: Cluster) -> None:
    """An exception that no trial is to blame for keeps its traceback and ends the program."""
    nonsense = cast(Any, "no rules")
    with RayTrainers(splits, nonsense, 1, "cpu", None, cluster) as trainers:
        trainers.start(0, job(Path("never-written")))
        with pytest.raises(RuntimeError, match="AttributeError: 'str' object has no attribute"):
            until_end(trainers)


def test_trial_of_a_killed_node_goes_on_elsewhere(
    splits: Splits, cluster: Cluster, nodes: Any, tmp_path: Path
) -> None:
    """A trial whose node died goes on, on another node, from the checkpoint that is stored here."""
    one = job(tmp_path, 0, LONG)
    with RayTrainers(splits, RULES, 1, "cpu", None, cluster) as trainers:
        trainers.start(0, one)
        collect(trainers, lambda _: load_checkpoint(one.folder) is not None, "a checkpoint")
        doomed = node_of(nodes, pid_of(trainers, 0))
        other = nodes.add_node(num_cpus=1, **OPTIONS)
        nodes.remove_node(doomed, allow_graceful=False)
        until_death(trainers)
        saved = load_checkpoint(one.folder)
        assert saved is not None
        again = replace(one, params=replace(LONG, epochs=len(saved["run"]["curve"]) + 1))
        trainers.start(0, again)
        said = until_end(trainers)
        assert node_of(nodes, pid_of(trainers, 0)) is other
    # An actor that the cluster sends to the dead node first does not die with the trial.
    assert not any(isinstance(event, TrainerDied) and event.number == 0 for event in said)
    figures = [epoch.figures for epoch in epochs_in(said)]
    expected = train_here(again, splits, again.params.epochs)
    assert figures == [epoch.figures for epoch in expected.curve.epochs]


def test_trial_takes_an_idle_actor_if_its_own_has_no_room(
    splits: Splits, cluster: Cluster, nodes: Any, tmp_path: Path
) -> None:
    """Of two actors on two nodes one is killed with its node: the other takes the trial over.

    When that node is killed too, the trial waits for room, and is interrupted when all is stopped.
    """
    one = job(tmp_path, 0, LONG)
    nodes.add_node(num_cpus=1, **OPTIONS)
    with RayTrainers(splits, RULES, 2, "cpu", None, cluster) as trainers:
        doomed, other = (node_of(nodes, pid_of(trainers, worker)) for worker in (0, 1))
        trainers.start(0, one)
        collect(trainers, lambda _: load_checkpoint(one.folder) is not None, "a checkpoint")
        nodes.remove_node(doomed, allow_graceful=False)
        until_death(trainers)
        trainers.start(0, one)
        collect(trainers, lambda events: len(epochs_in(events)) >= 2, "epochs elsewhere")
        assert trainers.free() == []
        nodes.remove_node(other, allow_graceful=False)
        until_death(trainers)
        trainers.start(0, one)
        assert trainers.busy() == [0]
        trainers.stop()
        (ended,) = until_end(trainers)
        assert isinstance(ended, TrialEnded)
        assert ended.decision.outcome is Outcome.INTERRUPTED
        assert trainers.busy() == []
    assert load_checkpoint(one.folder) is not None
