"""How many trainers a cluster gets, and on what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from search.crews import ClusterRequest, Crew, open_crew
from search.errors import ConfigError
from search.ray_cluster import Cluster


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
