"""``run --cluster ray``: the study of a run that trains here, whatever is killed; no Ray left."""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from loopback import other_address
from ray_nodes import OPTIONS, home, node_of, nodes
from test_resume import OPTIONS as SHORT
from test_resume import TRIALS
from tiny import (
    epochs_reported,
    files_of,
    interrupt_when,
    is_alive,
    record,
    rnn_search,
    start,
    trials_of,
    wait_for_end,
    wait_for_epoch,
    wait_until,
    write_study,
)

pytestmark = [pytest.mark.loopback, pytest.mark.slow, pytest.mark.timeout(600)]
__all__ = ["home", "nodes"]
"""Fixtures of another file."""
STUDY = {**SHORT, "rows": 2000}
"""Longer, for a node takes a second to be gone, in which the study must not end."""
ADDRESS = "8.8.0.1"
"""One that others could reach, were there any here; Ray believes so, because 8.8.8.8 is near."""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[object, object]:
    """Trials and files of the study as it comes out on this machine, uninterrupted."""
    folder = tmp_path_factory.mktemp("reference")
    write_study(folder, **STUDY)
    done = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return record(trials_of(folder)), files_of(folder)


def rays_of(pid: int) -> list[psutil.Process]:
    """Returns the processes of the Ray that a coordinator started, its keeper included."""
    return psutil.Process(pid).children(recursive=True)


def actors(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Returns those that train."""
    return [
        process
        for process in processes
        if is_alive(process.pid) and "ray::Actor" in " ".join(process.cmdline())
    ]


def next_actor(killed: set[int]) -> psutil.Process:
    """Waits for the cluster's one actor that has not been killed."""
    living: list[psutil.Process] = []

    def is_there() -> bool:
        found = actors(psutil.Process().children(recursive=True))
        living[:] = [actor for actor in found if actor.pid not in killed]
        return len(living) == 1

    wait_until(is_there, "an actor")
    return living[0]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_study_equals_one_that_trained_here(
    number: signal.Signals, reference: tuple[object, object], tmp_path: Path
) -> None:
    """A study begun on a Ray of its own, stopped or killed, and ended here is the same, bit by bit.

    Nothing of that Ray is left, whether its coordinator could say goodbye or not.
    """
    write_study(tmp_path, **STUDY)
    run = start(tmp_path, "run", "tiny.toml", "--cluster", "ray", "--workers", 1)
    wait_until(lambda: epochs_reported(tmp_path) > 30, "some epochs")
    (actor,) = actors(rays_of(run.pid))
    place = Path(actor.environ()["TMPDIR"])
    children = interrupt_when(run, lambda: True, number)
    run.wait(timeout=100)
    wait_for_end(children)
    assert run.returncode == (130 if number is signal.SIGINT else -signal.SIGKILL)
    wait_until(lambda: not place.exists(), "the end of Ray's folder")
    done = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert (record(trials_of(tmp_path)), files_of(tmp_path)) == reference


@pytest.mark.usefixtures("home")
def test_own_ray_listens_on_loopback_alone(tmp_path: Path) -> None:
    """No process of the Ray that a run starts can be reached from outside, nor without a token."""
    write_study(tmp_path, **STUDY)
    with other_address(ADDRESS):
        run = start(tmp_path, "run", "tiny.toml", "--cluster", "ray", "--workers", 1)
        wait_for_epoch(tmp_path)
        sockets = psutil.net_connections("tcp")
        ours = {run.pid, *(process.pid for process in rays_of(run.pid))}
        listening = {
            s.laddr.ip for s in sockets if s.pid in ours and s.status == psutil.CONN_LISTEN
        }
        modes = {p.environ().get("RAY_AUTH_MODE") for p in actors(rays_of(run.pid))}
        run.send_signal(signal.SIGINT)
        run.wait(timeout=100)
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert len(listening) > 0
    assert modes == {"token"}


def test_killed_node_changes_nothing(
    reference: tuple[object, object], nodes: Any, tmp_path: Path
) -> None:
    """A study on a cluster that loses the node that trains goes on on another, to the same end."""
    write_study(tmp_path, **STUDY)
    options = ("--cluster", "ray", "--address", nodes.address, "--workers", 1)
    nodes.add_node(num_cpus=1, **OPTIONS)  # Whichever is lost, the other has room.
    run = start(tmp_path, "run", "tiny.toml", *options)
    wait_until(lambda: epochs_reported(tmp_path) > 30, "some epochs")
    (actor,) = actors(psutil.Process().children(recursive=True))
    doomed = node_of(nodes, actor.pid)
    nodes.remove_node(doomed, allow_graceful=False)
    assert run.wait(timeout=200) == 0, (tmp_path / "output.txt").read_text()
    assert (
        "a trainer died (its process or its node is gone" in (tmp_path / "output.txt").read_text()
    )
    assert (record(trials_of(tmp_path)), files_of(tmp_path)) == reference


def test_three_deaths_fail_a_trial(nodes: Any, tmp_path: Path) -> None:
    """A trial that has taken three actors down is failed; with --json, stdout stays JSON."""
    space = {**STUDY["space"], "epochs": {"low": 100_000, "high": 100_001}}
    stopping = {"patience": 0, "pruner": "none"}
    write_study(tmp_path, rows=400, space=space, budget={"trials": 1}, stopping=stopping)
    options = ("--cluster", "ray", "--address", nodes.address, "--workers", 1, "--json")
    run = start(tmp_path, "run", "tiny.toml", *options, apart=True)
    killed: set[int] = set()
    for _ in range(3):
        actor = next_actor(killed)
        # The dead one's last epochs are written at most once, the living one's again and again.
        for _ in range(2):
            wait_for_epoch(tmp_path)
        killed.add(actor.pid)
        actor.kill()
    assert run.wait(timeout=100) == 0, (tmp_path / "errors.txt").read_text()
    assert json.loads((tmp_path / "output.txt").read_text())["trials"]["failed"] == 1
    said = (tmp_path / "errors.txt").read_text()
    assert "took 3 trainers down, the last with its process or its node is gone" in said


def test_killed_coordinator_leaves_no_actor(nodes: Any, tmp_path: Path) -> None:
    """On a cluster that goes on without it, the actors of a killed coordinator end."""
    write_study(tmp_path, **STUDY)
    options = ("--cluster", "ray", "--address", nodes.address, "--workers", 1)
    run = start(tmp_path, "run", "tiny.toml", *options)
    wait_for_epoch(tmp_path)
    left = [actor.pid for actor in actors(psutil.Process().children(recursive=True))]
    assert len(left) == 1
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    wait_for_end(left)


@pytest.mark.parametrize(
    ("token", "options", "says"),
    [
        ("x" * 40, (), "the cluster does not take this token"),
        (None, ("--gpus-per-trial", "0.25"), "has no GPU"),
        (None, ("--device", "cuda"), "has no GPU"),
    ],
)
def test_cluster_that_refuses(
    token: str | None,
    options: tuple[str, ...],
    says: str,
    nodes: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A wrong token, or a wish that the cluster cannot fulfil, is one line; nothing is created."""
    if token is not None:
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    write_study(tmp_path, **STUDY)
    address = ("--cluster", "ray", "--address", nodes.address)
    done = rnn_search(tmp_path, "run", "tiny.toml", *address, *options)
    assert done.returncode == 2, done.stderr
    ours = [line for line in done.stderr.splitlines() if "network_util.cc" not in line]
    assert len(ours) == 1, done.stderr
    assert says in ours[0]
    assert not (tmp_path / "studies").exists()


@pytest.mark.usefixtures("home")
def test_something_else_at_the_address(tmp_path: Path) -> None:
    """What takes connections and is no Ray is found out in half a minute, not never."""
    write_study(tmp_path, **STUDY)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        done = rnn_search(tmp_path, "run", "tiny.toml", "--cluster", "ray", "--address", address)
    assert done.returncode == 2
    assert done.stderr == f"rnn-search: --address {address}: what answers there is no Ray\n"


def test_trials_say_where_they_trained(nodes: Any, tmp_path: Path) -> None:
    """Each trial keeps what its node computes with, and replay on this machine finds it equal."""
    write_study(tmp_path, **{**STUDY, "budget": {"trials": 1}})
    done = rnn_search(tmp_path, "run", "tiny.toml", "--cluster", "ray", "--address", nodes.address)
    assert done.returncode == 0, done.stderr
    (trial,) = trials_of(tmp_path)
    assert trial.user_attrs["surroundings"]["threads"] == "1"
    replayed = rnn_search(tmp_path, "replay", "tiny", 0)
    assert replayed.returncode == 0, replayed.stdout


def test_total_is_kept(reference: tuple[object, object]) -> None:
    """The study that all others are compared with has its trials, some of them pruned."""
    trials, _ = reference
    assert isinstance(trials, list)
    assert len(trials) == TRIALS
    assert {"COMPLETE", "PRUNED"} <= {trial["state"] for trial in trials}
