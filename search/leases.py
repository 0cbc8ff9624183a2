"""Which coordinator trains which trial: leases, kept in the study's own database.

A coordinator takes a trial by writing a lease, renews it while it lives, and removes it when the
trial is told. A lease that has expired, or whose holder on this host is dead, is free to take. A
coordinator that slept past its lease finds it gone and drops the trial: a normal event.
"""

from __future__ import annotations

import math
import os
import platform
import time
import uuid
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import psutil
import sqlalchemy as sa

from search.database import Database

LEASE_SECONDS = 60.0
"""How long a trial stays with a coordinator that is not heard of. Renewed four times as often."""
BOOT = Path("/proc/sys/kernel/random/boot_id")
CONTAINER = Path("/proc/self/ns/pid")

_metadata = sa.MetaData()
_leases = sa.Table(
    "rnn_search_leases",
    _metadata,
    sa.Column("trial_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("study_id", sa.Integer, nullable=False, index=True),
    sa.Column("owner", sa.String(64), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("pid_started", sa.Float(53), nullable=False),
    sa.Column("expires", sa.Float(53), nullable=False),
)

# Made once: to make a statement takes longer than to run it.
_ALL = sa.select(_leases).where(_leases.c.study_id == sa.bindparam("study"))
_MINE = sa.select(_leases.c.trial_id).where(_leases.c.owner == sa.bindparam("mine"))
_CONFIRM = sa.update(_leases).where(
    _leases.c.trial_id == sa.bindparam("trial"), _leases.c.owner == sa.bindparam("mine")
)
_FREE = sa.delete(_leases).where(_leases.c.trial_id == sa.bindparam("trial"))
_TAKE = sa.insert(_leases)
_DROP = sa.delete(_leases).where(
    _leases.c.trial_id == sa.bindparam("trial"), _leases.c.owner == sa.bindparam("mine")
)


class Leases:
    """The leases of one study, as one coordinator sees them.

    Args:
        database: Where they are kept, in a table beside Optuna's.
        study_id: Optuna's id of the study.
    """

    def __init__(self, database: Database, study_id: int) -> None:
        self._database = database
        self._study_id = study_id
        self._owner = uuid.uuid4().hex
        self._host = where_ids_count()
        self._pid = os.getpid()
        self._pid_started = started(psutil.Process())
        self._exists = False
        self._excused: dict[tuple[int, str], float] = {}

    def prepare(self) -> None:
        """Creates the table if need be; call it before the calls that write."""
        if not self._exists:
            _metadata.create_all(self._database.engine)
            self._exists = True

    def held(self) -> set[int]:
        """Returns the ids of the trials that some living coordinator holds; writes nothing."""
        if not self._exists and not sa.inspect(self._database.engine).has_table(_leases.name):
            return set()
        self._exists = True
        return self._read()[0]

    def busy(self, unfinished: Iterable[int]) -> set[int]:
        """Returns the ids of the trials that others hold, in one look.

        Leases of finished trials, left by a run killed between telling and `drop`, are removed.

        Args:
            unfinished: Ids of the study's trials that are in training; call it under
                `Database.exclusive`, so that these are all.
        """
        held, known, mine = self._read()
        if known - set(unfinished):
            # Not what is held: who told a trial and lost the server's answer tells it again, and
            # looks for its lease in doing so.
            self.sweep({*unfinished, *held})
        return held - mine

    def _read(self) -> tuple[set[int], set[int], set[int]]:
        """Returns the ids of the trials that are held, that have a lease, and that are ours."""
        with self._database.engine.begin() as connection:
            now = self._database.now(connection)
            rows = connection.execute(_ALL, {"study": self._study_id}).all()
        held = {row.trial_id for row in rows if row.expires > now and not self._is_dead(row)}
        mine = {row.trial_id for row in rows if row.owner == self._owner}
        return held, {row.trial_id for row in rows}, mine

    def mine(self, within: sa.Connection | None = None) -> set[int]:
        """Returns the ids of the trials that this coordinator holds.

        Args:
            within: The transaction that it is part of; None: one of its own.
        """
        with nullcontext(within) if within else self._database.engine.begin() as connection:
            return set(connection.execute(_MINE, {"mine": self._owner}).scalars())

    def confirm(self, trial_id: int, connection: sa.Connection) -> bool:
        """Returns whether this coordinator holds a trial, and if so until the transaction's end."""
        # It begins with a write, so that SQLite, too, lets nobody else write until the end.
        expires = self._database.now(connection) + LEASE_SECONDS
        which = {"trial": trial_id, "mine": self._owner}
        renewed = connection.execute(_CONFIRM, {**which, "expires": expires})
        return renewed.rowcount == 1

    def take(self, trial_id: int, within: sa.Connection | None = None) -> None:
        """Takes a trial; call it under `Database.exclusive`, for a trial that is not held.

        Args:
            trial_id: Optuna's id.
            within: The transaction that it is part of; None: one of its own.
        """
        with nullcontext(within) if within else self._database.engine.begin() as connection:
            connection.execute(_FREE, {"trial": trial_id})
            lease = {
                "trial_id": trial_id,
                "study_id": self._study_id,
                "owner": self._owner,
                "host": self._host,
                "pid": self._pid,
                "pid_started": self._pid_started,
                "expires": self._database.now(connection) + LEASE_SECONDS,
            }
            connection.execute(_TAKE, lease)

    def sweep(self, unfinished: Iterable[int]) -> None:
        """Removes leases of finished trials, left by a run killed between telling and `drop`.

        Args:
            unfinished: Ids of the study's trials whose leases stay: all that are in training; call
                it under `Database.exclusive`, so that these are all.
        """
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.delete(_leases).where(
                    _leases.c.study_id == self._study_id,
                    _leases.c.trial_id.not_in(list(unfinished)),
                )
            )

    def renew(self) -> None:
        """Extends every lease that this coordinator still holds."""
        with self._database.engine.begin() as connection:
            connection.execute(
                sa.update(_leases)
                .where(_leases.c.owner == self._owner)
                .values(expires=self._database.now(connection) + LEASE_SECONDS)
            )

    def excuse_who_waited(self) -> None:
        """Excuses leases that lapsed while the database, or its lock, was waited for.

        Whatever call has waited here: others may have waited as long, and could not renew theirs.
        Once it is over they may need some time more, until they try again. Had only this process
        slept, theirs have not lapsed.
        """
        waits, now = self._database.waits, time.monotonic()
        if waits.ended - waits.began > LEASE_SECONDS / 4 and now - waits.ended < LEASE_SECONDS / 2:
            self.excuse(now - waits.began)

    def excuse(self, waited: float) -> None:
        """Gives leases that lapsed within the last seconds half of their time again.

        Once, until they are renewed: their holder may be dead.

        Args:
            waited: Seconds.
        """
        excused: dict[tuple[int, str], float] = {}
        with self._database.engine.begin() as connection:
            now = self._database.now(connection)
            until = now + LEASE_SECONDS / 2
            for row in connection.execute(_ALL, {"study": self._study_id}).all():
                one = row.trial_id, row.owner
                renewed = row.expires > self._excused.get(one, -math.inf)
                if renewed and now - waited <= row.expires <= now:
                    which = _leases.c.trial_id == row.trial_id, _leases.c.owner == row.owner
                    connection.execute(sa.update(_leases).where(*which).values(expires=until))
                    excused[one] = until
        self._excused |= excused

    def drop(self, trial_id: int) -> None:
        """Gives a trial back, if this coordinator holds it.

        A crash of the server may undo that: the lease of a finished trial is swept away, another's
        expires.
        """
        with self._database.engine.begin() as connection:
            self._database.spare_the_disk(connection)
            connection.execute(_DROP, {"trial": trial_id, "mine": self._owner})

    def _is_dead(self, row: sa.Row[tuple[int, int, str, str, int, float, float]]) -> bool:
        """True if the holder was a process of this host that is no more; no need to wait then."""
        if row.host != self._host or row.owner == self._owner:
            return False
        try:
            process = psutil.Process(row.pid)
            since = started(process)
            gone = process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return not _is_hidden(row.pid)
        return gone or abs(since - float(row.pid_started)) > 1.0


def _is_hidden(pid: int) -> bool:
    """True if there is a process of another user, whom the system does not show us (hidepid)."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        return False
    return False


def where_ids_count() -> str:
    """Names this machine, since it was started, and the container within which we see processes.

    Its name alone would not do: many are called ``localhost``, and a container may have its host's.
    """
    parts = [platform.node()]
    try:
        parts += [BOOT.read_text().strip(), str(CONTAINER.readlink())]
    except OSError:  # No Linux.
        parts.append(f"{uuid.getnode():x}")
    return " ".join(parts)[-255:]


def started(process: psutil.Process) -> float:
    """Returns when a process was started, in seconds that stay the same when the clock is set.

    Linux knows it as the time since the machine was started, to which psutil adds what the clock
    makes of that at the moment.
    """
    return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)
