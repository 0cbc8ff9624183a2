"""The trainer of a GPU: one process that trains many trials at once, in lanes.

To the coordinator each seat of it is a trainer with one trial. Should the process die, nobody knows
whose fault it was: a death is counted for each trial that was in it. But each then trains in it
alone, one after another, so that further deaths are counted for the guilty one only.
"""

from __future__ import annotations

import contextlib
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, wait

from search.data.splits import Splits
from search.desk import INTERRUPTED, Order, Stop
from search.factories import Factory
from search.trainer_process import READY, Setup, start_process
from search.trainers import Event, OneKind, TrainerDied, TrialEnded, Worker
from search.worker import Job, TrialRules


class LaneTrainers(OneKind):
    """A process with a seat for each worker.

    Args:
        splits: The data; the process gets a copy.
        rules: What ends a trial, and where others judge it.
        workers: How many trials it has at once.
        device: As torch writes it.
        factory: None: networks of the user's own cannot be trained in lanes.
    """

    def __init__(
        self,
        splits: Splits,
        rules: TrialRules,
        workers: int,
        device: str,
        factory: Factory | None = None,
    ) -> None:
        assert factory is None
        self._setup = Setup(pickle.dumps(splits), rules, device, lanes=True)
        self._workers = [Worker() for _ in range(workers)]
        self._stopping = False
        self._jobs: deque[tuple[int, Job]] = deque()
        """Those that the process has not been given yet."""
        self._inside: dict[int, tuple[int, Job]] = {}
        """Those that it has, by number."""
        self._suspects: set[int] = set()
        """The numbers of those that were in a process which died, and have not ended since."""
        self._ready = False
        self._process, self._connection = start_process(self._setup)

    @property
    def pid(self) -> int | None:
        """The number of the process."""
        return self._process.pid

    def start(self, worker: int, job: Job) -> None:
        """Gives a free worker a trial; it goes on from the trial's checkpoint if there is one."""
        self._workers[worker].number = job.number
        self._jobs.append((worker, job))
        self._give()

    def drop(self, number: int, epoch: int) -> None:
        """Ends a trial whose result is settled as of ``epoch``; nothing more comes from it."""
        if number in self._inside:
            super().drop(number, epoch)
        else:
            self._jobs = deque(one for one in self._jobs if one[1].number != number)
            for worker in self._workers:
                worker.number = None if worker.number == number else worker.number
        self._over(number)

    def stop(self) -> None:
        """Asks for an end at the trials' next epochs; `events` then tells of interruptions."""
        self._stopping = True
        self._send(0, Stop())

    def surroundings(self, worker: int) -> Mapping[str, str]:
        """Returns that trials have company, in which a GPU rounds otherwise."""
        del worker
        return {"lanes": "yes"}

    def connections(self) -> list[Connection]:
        """Returns what a word can come by."""
        return [] if self._connection.closed else [self._connection]

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields what the process has to say, waiting at most ``timeout`` seconds for a word."""
        if self._stopping:
            yield from self._send_home()
        if wait(self.connections(), timeout):
            yield from self._hear()

    def kill(self) -> None:
        """Ends the process now; what has a checkpoint goes on from it one day."""
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _hear(self) -> Iterator[Event]:
        """Yields what has been said; one word of each trial at most, for others are waiting."""
        for _ in self._workers:
            try:
                if not self._connection.poll():
                    return
                number, message = self._connection.recv()
            except (EOFError, OSError):
                yield from self._bury()
                return
            self._ready |= (number, message) == READY
            index = self._seat(number)
            events = self._read(index, number, message)
            if any(isinstance(event, TrialEnded) for event in events):
                self._over(number)
            yield from events

    def _seat(self, number: int) -> int:
        """Returns whose word it is: of one that was dropped, until it says that it has been."""
        both = [[one.dropping for one in self._workers], [one.number for one in self._workers]]
        return next((numbers.index(number) for numbers in both if number in numbers), 0)

    def _over(self, number: int) -> None:
        self._inside.pop(number, None)
        self._suspects.discard(number)
        self._give()

    def _give(self) -> None:
        """Gives the process the trials that wait; suspects before the others, and each alone."""
        suspects = [one for one in self._jobs if one[1].number in self._suspects]
        if self._stopping or (self._inside and (suspects or self._inside.keys() & self._suspects)):
            return
        for worker, job in suspects[:1] or list(self._jobs):
            self._jobs.remove((worker, job))
            self._inside[job.number] = worker, job
            self._send(worker, job)

    def _send_home(self) -> Iterator[Event]:
        """Ends trials that the process was never given."""
        while self._jobs:
            index, job = self._jobs.popleft()
            self._workers[index].number = None
            yield TrialEnded(index, job.number, INTERRUPTED)

    def _bury(self) -> Iterator[Event]:
        self._process.join(timeout=5)
        self.kill()
        code, dead, self._inside = self._process.exitcode, self._inside, {}
        if not self._ready and not self._stopping:  # It has not reached them.
            self._jobs.extendleft(reversed(dead.values()))
            dead = {}
        self._suspects |= dead.keys()
        if not self._stopping:
            self._ready = False
            self._process, self._connection = start_process(self._setup)
        died = []
        for index, worker in enumerate(self._workers):
            worker.dropping = None
            if worker.number in dead:
                died.append(TrainerDied(index, worker.number, code))
                worker.number = None
        yield from died or [TrainerDied(0, None, code)]
        # Those that are not started again, because it was their last life, keep no other waiting.
        self._give()

    def _send(self, index: int, order: Order) -> None:
        # A dead process is noticed by `events`, which also knows what it was doing.
        with contextlib.suppress(ConnectionError):
            self._connection.send((index, order))
