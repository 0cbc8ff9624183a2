"""Trainers of several kinds, as if they were of one: a GPU's lanes and processes beside it.

A machine with a GPU has cores, too, which in a search of small networks may train more trials a
second than the GPU does (`bench/RESULTS.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait

from search.trainers import Event, Trainers
from search.worker import Job


@dataclass(frozen=True)
class Part:
    """Trainers of one kind.

    Attributes:
        trainers: They.
        size: How many they are.
        surroundings: What they compute with that the machine's other trainers do not.
    """

    trainers: Trainers
    size: int
    surroundings: Mapping[str, str]


class MixedTrainers(Trainers):
    """Trainers of several kinds, numbered one after another.

    Args:
        parts: The kinds; who comes first is given a trial first.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._firsts = [sum(part.size for part in parts[:place]) for place in range(len(parts))]

    def free(self) -> list[int]:
        """Returns the workers without a trial."""
        return [first + free for first, part in self._numbered() for free in part.trainers.free()]

    def start(self, worker: int, job: Job) -> None:
        """Gives a free worker a trial; it goes on from the trial's checkpoint if there is one."""
        part, own = self._of(worker)
        part.trainers.start(own, job)

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial whose result is settled as of ``epoch``; nothing more comes from it."""
        for part in self._parts:
            if number in part.trainers.busy():
                part.trainers.drop(number, epoch)

    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""
        for part in self._parts:
            part.trainers.stop()

    def busy(self) -> list[int]:
        """Returns the numbers of the trials in training, or dropped with files yet to settle."""
        return [number for part in self._parts for number in part.trainers.busy()]

    def surroundings(self, worker: int) -> Mapping[str, str]:
        """Returns what a trainer computes with where that may differ from this machine."""
        part, own = self._of(worker)
        return {**part.surroundings, **part.trainers.surroundings(own)}

    def kind(self, worker: int) -> int:
        """Returns the place of a worker's part."""
        return max(at for at, first in enumerate(self._firsts) if first <= worker)

    def connections(self) -> list[Connection]:
        """Returns what a word can come by."""
        return [one for part in self._parts for one in part.trainers.connections()]

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the trainers have to say, waiting at most ``timeout`` seconds for a word."""
        wait(self.connections(), timeout)
        for first, part in self._numbered():
            for event in part.trainers.events(0.0):
                yield replace(event, worker=first + event.worker)

    def kill(self) -> None:
        """Ends every trainer now; what has a checkpoint goes on from it one day."""
        for part in self._parts:
            part.trainers.kill()

    def _numbered(self) -> Iterator[tuple[int, Part]]:
        yield from zip(self._firsts, self._parts, strict=True)

    def _of(self, worker: int) -> tuple[Part, int]:
        """Returns whose a worker is, and its number there."""
        place = self.kind(worker)
        return self._parts[place], worker - self._firsts[place]
