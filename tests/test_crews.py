"""How many trainers a cluster gets, and on what."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny_config

from search.crews import ClusterRequest, Crew, crew_here, open_crew
from search.data import load_splits
from search.errors import ConfigError
from search.lane_trainers import LaneTrainers
from search.machine import choose_beside, choose_device, choose_workers
from search.ray_cluster import Cluster
from search.trainers import LocalTrainers


def crew(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    gpus: float,
    part: float | None = None,
    workers: int | None = None,
    device: str = "auto",
) -> Crew:
    """Returns what a cluster of this size gives."""

    @contextmanager
    def opened(address: str | None, _cpus: int) -> Iterator[Cluster]:
        yield Cluster(address or "", cpus, gpus)

    monkeypatch.setattr("search.ray_cluster.open_cluster", opened)
    with open_crew(ClusterRequest("head:1", part, workers, device)) as found:
        return found


@pytest.mark.parametrize(
    ("cpus", "gpus", "part", "device", "expected"),
    [
        (8, 0.0, None, "auto", (8, "cpu")),
        (8, 2.0, None, "auto", (2, "cuda")),
        (8, 2.0, None, "cpu", (8, "cpu")),
        (8, 2.0, 0.25, "auto", (8, "cuda")),
        (64, 2.0, 0.25, "cuda", (8, "cuda")),
        (64, 8.0, 0.3, "auto", (24, "cuda")),
        (4, 2.0, 0.25, "auto", (4, "cuda")),
        (64, 8.0, 2.0, "auto", (4, "cuda")),
    ],
)
def test_as_many_as_there_is_room_for(
    monkeypatch: pytest.MonkeyPatch,
    cpus: int,
    gpus: float,
    part: float | None,
    device: str,
    expected: tuple[int, str],
) -> None:
    """Each trial takes a CPU and its part of one GPU: what a GPU cannot hold whole is not used."""
    found = crew(monkeypatch, cpus, gpus, part, device=device)
    assert (found.workers, found.device) == expected
    assert found.place == " of the Ray cluster head:1"


def test_more_workers_than_room_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """More workers may be asked for, because a cluster may grow; it is said that they wait."""
    found = crew(monkeypatch, 4, 0.0, workers=9)
    assert found.workers == 9
    assert found.place.endswith("which has room for 4 of them now")
    assert crew(monkeypatch, 0, 0.0, workers=1).workers == 1
    # What this machine's memory has room for does not matter there.
    assert crew(monkeypatch, 4, 0.0, workers=100_000).workers == 100_000


@pytest.mark.parametrize(
    ("cpus", "gpus", "part", "says"),
    [
        (0, 0.0, None, "no room for a trial: 0 CPUs"),
        (8, 2.0, 3.0, "no room for a trial: 8 CPUs, 2 GPUs; a trial takes 1 CPU and 3 GPU"),
        (8, 0.0, 0.5, "has no GPU"),
    ],
)
def test_no_room(
    monkeypatch: pytest.MonkeyPatch, cpus: int, gpus: float, part: float | None, says: str
) -> None:
    """A cluster on which no trial finds room is refused before anything is created."""
    with pytest.raises(ConfigError, match=says):
        crew(monkeypatch, cpus, gpus, part)


@pytest.mark.parametrize(
    ("wanted", "device", "own", "expected"),
    [
        (None, "cuda", False, "32 lanes on cuda"),
        (64, "cuda:1", False, "64 lanes on cuda:1"),
        (1, "cuda", False, "1 lane on cuda"),
        (2, "cuda", True, "2 workers on cuda"),
        (2, "cpu", False, "2 workers on cpu"),
        (1, "cpu", True, "1 worker on cpu"),
    ],
)
def test_who_trains_on_this_machine(
    wanted: int | None, device: str, own: bool, expected: str, tmp_path: Path
) -> None:
    """On a GPU trials share lanes of one trainer, unless networks are the user's own."""
    data = load_splits(tiny_config(tmp_path).data)
    found = crew_here(wanted, device, data, own_network=own)
    assert str(found) == expected
    assert found.hire is (LaneTrainers if "lane" in expected else LocalTrainers)


def test_no_more_than_there_are_trials(tmp_path: Path) -> None:
    """A crew for few trials is small, and there is always one."""
    crew = crew_here(None, "cuda", load_splits(tiny_config(tmp_path).data), own_network=False)
    assert str(crew.at_most(5)) == "5 lanes on cuda"
    assert crew.at_most(0).workers == 1


def test_the_cores_train_beside_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Who asks for all gets lanes and the cores but two, the latter cut first for few trials."""
    data = load_splits(tiny_config(tmp_path).data)
    monkeypatch.setattr("search.machine._cores", lambda: 16)
    both = crew_here(None, "cuda", data, own_network=False, beside=True)
    assert str(both) == "32 lanes on cuda, 14 workers on cpu"
    assert both.size == 46
    assert str(both.alone()) == "32 lanes on cuda"
    assert str(both.at_most(40)) == "32 lanes on cuda, 8 workers on cpu"
    assert str(both.at_most(32)) == "32 lanes on cuda"
    assert str(both.at_most(0)) == "1 lane on cuda"
    assert str(crew_here(8, "cuda", data, own_network=False, beside=True).at_most(9)) == (
        "8 lanes on cuda, 1 worker on cpu"
    )
    monkeypatch.setattr("search.machine._cores", lambda: 64)
    assert crew_here(None, "cuda", data, own_network=False, beside=True).size == 48
    monkeypatch.setattr("search.machine._cores", lambda: 2)
    assert crew_here(None, "cuda", data, own_network=False, beside=True).beside is None


@pytest.mark.parametrize(
    ("limits", "workers"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "150000 100000"}, 2),
        ({"job/cpu.max": "50000 100000"}, 1),
        ({"job/memory.max": "max"}, 8),
        ({"job/memory.max": "2000000000"}, 5),
        ({"memory.max": "1000000", "memory.current": "999999"}, 1),
    ],
)
def test_no_more_than_the_container_may_have(
    limits: dict[str, str], workers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Workers are as many as cores, unless a control group allows less time or memory."""
    (tmp_path / "job").mkdir()
    (tmp_path / "own").write_text("4:memory:/other\n0::/job\n")
    usual = {
        "memory.max": "max",
        "memory.current": "500000000",
        "memory.stat": "anon 5\ninactive_file 7",
    }
    for name, text in (
        {f"{at}{one}": text for at in ("", "job/") for one, text in usual.items()} | limits
    ).items():
        (tmp_path / name).write_text(text)
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr("search.machine.psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("search.machine.GROUPS", tmp_path)
    monkeypatch.setattr("search.machine.OWN_GROUP", tmp_path / "own")
    monkeypatch.setattr("search.machine.os.sched_getaffinity", lambda _: set(range(8)))
    assert choose_workers(None) == workers


def test_data_that_is_large_leaves_room_for_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of the data take at most half of the memory that is free."""
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr("search.machine.psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("search.machine.OWN_GROUP", Path("/nowhere"))
    monkeypatch.setattr("search.machine._cores", lambda: 16)
    assert choose_beside(0) == 13
    assert choose_beside(int(350e6)) == 4
    assert choose_beside(int(5e9)) == 0


def test_every_trainer_has_room_for_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By default there are as many workers as memory has room for, each with two copies."""
    free = SimpleNamespace(available=8e9)
    monkeypatch.setattr("search.machine.psutil.virtual_memory", lambda: free)
    monkeypatch.setattr("search.machine.OWN_GROUP", Path("/nowhere"))
    monkeypatch.setattr("search.machine._cores", lambda: 16)
    assert (choose_workers(None), choose_workers(None, int(850e6))) == (16, 4)
    assert choose_workers(None, int(1e12)) == 1
    data = load_splits(tiny_config(tmp_path).data)
    assert crew_here(None, "cpu", data, own_network=False).workers == 16
    monkeypatch.setattr("search.machine.TRAINER_BYTES", 2e9 - 2 * len(pickle.dumps(data)))
    assert crew_here(None, "cpu", data, own_network=False).workers == 4


@pytest.mark.parametrize(
    "wanted", ["cpu:", "cpu:0", "cuda:", "cuda:01", "cuda:²", "cuda:-1", "gpu"]
)
def test_devices_that_torch_does_not_know(wanted: str) -> None:
    """What is no device in torch's own words is refused in one line, before anything is made."""
    with pytest.raises(ConfigError, match=f"--device {wanted}: use auto, cpu, cuda, cuda:N or all"):
        choose_device(wanted)


def test_all_is_a_gpu_and_needs_networks_of_ours(tmp_path: Path) -> None:
    """Without a GPU, or with a network of the user's own, all is refused in one line."""
    with pytest.raises(ConfigError, match="--device all: torch finds no CUDA device here"):
        choose_device("all")
    data = load_splits(tiny_config(tmp_path).data)
    with pytest.raises(ConfigError, match="--device all: networks of your own train on one device"):
        crew_here(None, "cuda", data, own_network=True, beside=True)


def test_more_lanes_than_make_sense(tmp_path: Path) -> None:
    """What no GPU gains by is refused in one line that says how many there can be."""
    data = load_splits(tiny_config(tmp_path).data)
    with pytest.raises(ConfigError, match=r"--workers 5000: a GPU trains at most 1024 trials"):
        crew_here(5000, "cuda", data, own_network=False)
