"""Trainers on a Ray cluster: actors that sit at the same `Desk` as processes on this machine.

The coordinator stays where it is and alone opens the study. An actor gets the data from its node's
object store, where Ray puts them once, and orders by calls; one more call waits for its next words.
The files of its trial come with these words and are stored here; if it dies, the checkpoint goes
with the trial to another. Ray repeats and restarts nothing by itself.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from search.data.splits import Splits
from search.desk import Drop, Order, Stop
from search.errors import TrainerError
from search.factories import Factory
from search.ray_actor import Actor, Crash, Parcel, Ready, Word
from search.ray_cluster import Cluster
from search.surroundings import surroundings
from search.trainers import Event, OneKind, TrainerDied, TrainerFault, TrialEnded, Worker
from search.trial import Decision, Outcome
from search.trial_files import CHECKPOINT, store_file
from search.worker import Job, TrialRules

START_SECONDS = 120.0
"""The first trainer reports within so many seconds, or the cluster is taken to have no room."""
LOOK_SECONDS = 5.0
"""Between two looks whether the cluster's head is there."""
LOOKS = 3
"""So many looks in vain, and the run ends: after a minute Ray would end this process itself."""
SAME = ("rnn-search", "torch", "numpy")
"""What must have the same version on every node, lest results depend on where a trial trains."""


@dataclass(kw_only=True, eq=False)
class _Handle:
    """An actor as seen from here, from its creation on; it may wait long for room."""

    actor: Any
    words: Any = None
    place: str = "not yet on a node"
    surroundings: Mapping[str, str] | None = None

    @property
    def ready(self) -> bool:
        """Whether it has reported."""
        return self.surroundings is not None

    def call(self, method: str, *arguments: Any) -> Any:
        """Calls a method in its own thread; calls of the same one come in this order."""
        return getattr(self.actor, method).options(concurrency_group=method).remote(*arguments)

    def listen(self) -> None:
        """Asks for its next words."""
        self.words = self.call("words")


@dataclass(kw_only=True)
class _Seat(Worker):
    """A worker; ``held`` is its trial as long as its actor waits for room in the cluster."""

    handle: _Handle
    folders: dict[int, Path] = field(default_factory=dict)
    held: Job | None = None


class RayTrainers(OneKind):
    """Actors on a cluster.

    Args:
        splits: The data; each node gets a copy.
        rules: What ends a trial, and where others judge it.
        workers: How many actors; those that find no room wait for it.
        device: ``cpu`` or ``cuda``.
        factory: Builds the networks, if they are the user's own; every node has its source.
        cluster: The cluster that this process is connected to.
        gpus_per_trial: The part of a GPU that an actor takes; 0 on a CPU.

    Raises:
        TrainerError: No trainer could be started.
    """

    def __init__(
        self,
        splits: Splits,
        rules: TrialRules,
        workers: int,
        device: str,
        factory: Factory | None,
        cluster: Cluster,
        gpus_per_trial: float = 0.0,
    ) -> None:
        import ray

        self._ray, self._cluster = ray, cluster
        self._class = ray.remote(
            num_cpus=1,
            num_gpus=gpus_per_trial,
            max_restarts=0,
            max_task_retries=0,
            concurrency_groups={"serve": 1, "order": 1, "words": 1},
        )(Actor)
        self._setup = (ray.put(splits), rules, device, factory)
        self._expected = surroundings("cpu")
        self._stopping = False
        self._looked, self._looks = time.monotonic(), 0
        self._workers: list[_Seat] = [_Seat(handle=self._hire()) for _ in range(workers)]
        self._said: list[Event] = []
        try:
            self._wait_for_one()
        except BaseException:
            self.kill()
            raise

    def free(self) -> list[int]:
        """Returns the workers without a trial whose actors have room."""
        self._place()
        return [index for index in super().free() if self._workers[index].handle.ready]

    def start(self, worker: int, job: Job) -> None:
        """Gives a worker a trial; it goes on from the trial's checkpoint if there is one."""
        seat = self._workers[worker]
        seat.number, seat.held = job.number, job
        seat.folders[job.number] = job.folder
        self._place()

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial whose result is settled as of ``epoch``; nothing more comes from it."""
        for seat in self._workers:
            if seat.number == number and epoch == 0:
                del seat.folders[number]
            if seat.number == number and seat.held is not None:
                seat.number = seat.held = None
        super().drop(number, epoch)

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the trainers have to say, waiting at most ``timeout`` seconds for a word."""
        self._place()
        said, self._said = self._said, []
        yield from said
        if self._stopping:
            yield from self._interrupt_held()
        waiting = {seat.handle.words: seat.handle for seat in self._workers if not seat.gone}
        ready, rest = self._ray.wait(list(waiting), timeout=0 if said else timeout)
        if rest:
            ready += self._ray.wait(rest, num_returns=len(rest), timeout=0)[0]
        for reference in ready:
            yield from self._hear(waiting[reference], reference)
        yield from self._look_at_head()

    def stop(self) -> None:
        """Asks every trainer to stop at its next epoch; `events` then tells of interruptions."""
        self._stopping = True
        super().stop()

    def surroundings(self, worker: int) -> Mapping[str, str]:
        """Returns what a trainer's node computes with."""
        return self._workers[worker].handle.surroundings or {}

    def kill(self) -> None:
        """Ends every trainer now; what has a checkpoint goes on from it one day."""
        for seat in self._workers:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(seat.handle.actor)

    def _hire(self) -> _Handle:
        handle = _Handle(actor=self._class.remote())
        handle.call("serve", *self._setup)
        handle.listen()
        return handle

    def _wait_for_one(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not self._said and not any(seat.handle.ready for seat in self._workers):
            self._said += self.events(1.0)
            if time.monotonic() > deadline:
                raise TrainerError(
                    f"no trainer started on {self._cluster.address} within {START_SECONDS:.0f} "
                    "seconds; `ray status` shows whether others take all its CPUs and GPUs"
                )

    def _place(self) -> None:
        """Sends trials that are held to actors that have room, whichever seat these are at."""
        for seat in self._workers:
            if seat.held is None or self._stopping:
                continue
            if not seat.handle.ready:
                other = self._idle()
                if other is None:  # Those at actors that are there do not wait for it.
                    continue
                seat.handle, other.handle = other.handle, seat.handle
            job, seat.held = seat.held, None
            seat.handle.call("order", Parcel(job, self._checkpoint(job)))

    def _checkpoint(self, job: Job) -> bytes | None:
        try:
            return (job.folder / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            self._said.append(TrainerFault(0, str(error)))
            return None

    def _idle(self) -> _Seat | None:
        for seat in self._workers:
            if seat.handle.ready and seat.number is None and seat.dropping is None:
                return seat
        return None

    def _interrupt_held(self) -> Iterator[Event]:
        for index, seat in enumerate(self._workers):
            if seat.held is not None:
                number, seat.number, seat.held = seat.held.number, None, None
                reason = "stopped while it waited for room in the cluster"
                yield TrialEnded(index, number, Decision(Outcome.INTERRUPTED, reason))

    def _hear(self, handle: _Handle, reference: Any) -> Iterator[Event]:
        """Yields what an actor has said; its handle may change its seat meanwhile."""
        try:
            words = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError:
            raise  # A fault of the program.
        except self._ray.exceptions.RayError as error:
            yield self._bury(self._index(handle), error)
            return
        handle.listen()
        for word in words:
            yield from self._understand(handle, word)

    def _index(self, handle: _Handle) -> int:
        return [seat.handle for seat in self._workers].index(handle)

    def _understand(self, handle: _Handle, word: Ready | Word | Crash) -> Sequence[Event]:
        index = self._index(handle)
        if isinstance(word, Crash):
            raise RuntimeError(f"a trainer failed on {word.traceback}")
        if isinstance(word, Ready):
            handle.place, handle.surroundings = word.place, word.surroundings
            return self._compare(index, word)
        seat, folders = self._workers[index], self._workers[index].folders
        # What was dropped may have been started here again since: its files are not the new ones.
        late = seat.number == seat.dropping == word.number
        folder = None if late else folders.get(word.number)
        if folder is not None:
            try:
                for name, content in word.files.items():
                    store_file(folder, name, content)
            except OSError as error:
                return [TrainerFault(index, str(error))]
        if isinstance(word.message, str):
            return [TrainerFault(index, f"{handle.place}: {word.message}")]
        events = self._read(index, word.number, word.message)
        over = word.message is None or any(isinstance(event, TrialEnded) for event in events)
        if over and not late:
            folders.pop(word.number, None)
        return events

    def _compare(self, index: int, word: Ready) -> Sequence[Event]:
        for name in SAME:
            here, there = self._expected[name], word.surroundings[name]
            if here.partition("+")[0] != there.partition("+")[0]:
                reason = f"{word.place} has {name} {there}, and here is {here}; install the same"
                return [TrainerFault(index, reason)]
        return []

    def _bury(self, index: int, error: Exception) -> TrainerDied:
        seat = self._workers[index]
        self._ray.kill(seat.handle.actor)  # It may yet live behind a network that does not.
        waits = seat.held is not None  # A trial that had yet to reach it waits for the next.
        died = TrainerDied(index, None if waits else seat.number, None, _end_of(seat.handle, error))
        if not waits:
            seat.number, seat.folders = None, {}
        seat.dropping, seat.gone = None, self._stopping
        if not self._stopping:
            seat.handle = self._hire()
        return died

    def _look_at_head(self) -> Iterator[Event]:
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looks = 0 if self._cluster.is_there() else self._looks + 1
            self._looked = time.monotonic()
            if self._looks == LOOKS:
                yield TrainerFault(0, f"the head of the cluster, {self._cluster.address}, is gone")

    def _send(self, index: int, order: Order) -> None:
        seat = self._workers[index]
        if isinstance(order, (Drop, Stop)):
            seat.handle.call("order", order)


def _end_of(handle: _Handle, error: Exception) -> str:
    """Returns in a few words which trainer died, and of what if it never worked."""
    if handle.ready:
        return f"its process or its node is gone: {handle.place}"
    return f"{handle.place}: {' '.join(str(error).split())[-300:]}"
