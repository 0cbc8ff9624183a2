"""One database: its URL, its connections, its lock, and patience with its faults.

SQLite is opened in WAL mode with a long wait for locks: with Optuna's own settings a lock held
9 s lost a result. Where it cannot be written it can still be read. PostgreSQL is pinged before each
use, so that a restart passes unnoticed.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from optuna.storages import get_storage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError

from search.database_faults import first_line, is_damage, is_hopeless, will_be_there
from search.errors import LostError, StorageError, StudyError, UnknownError
from search.reading import QuickStorage
from search.sqlite_file import (
    HOLD_SECONDS,
    LOCK_SECONDS,
    SAY_SECONDS,
    SqliteFile,
    connect_to_read,
    is_there,
)

logger = logging.getLogger(__name__)
T = TypeVar("T")

PATIENCE_SECONDS = 90.0
"""How long a call is tried again while the database does not answer."""
PROMPT_SECONDS = 1.0
"""A call that takes longer has waited."""
CALM_SECONDS = 15.0
"""Waits with less than this between them are one: who else waits may just have been between two
tries, or been connecting."""
LOCKED = "55P03"
"""PostgreSQL's code for a lock that was waited for in vain, as long as it was told to wait."""
SECRET = ("password", "sslpassword")
"""Settings of PostgreSQL's that may stand in a URL and are not shown."""
POSTGRES = {
    "connect_timeout": 10,
    "keepalives_idle": 15,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_encoding": "utf8",
}
"""Else a server that vanishes is waited for, for hours; and text without an encoding is bytes."""
TABLES = ("studies", "trials", "version_info")
"""Some of Optuna's: one of these names may be another program's."""


class Waits:
    """When calls have waited for a database or its lock, by a clock that nobody sets.

    Attributes:
        began, ended: Of the last wait, and those before it that it followed closely.
    """

    def __init__(self) -> None:
        self.began = self.ended = -math.inf

    def note(self, begun: float) -> None:
        """Notes that a call that began then has waited until now, unless it was prompt."""
        now = time.monotonic()
        if now - begun > PROMPT_SECONDS:
            apart = begun - self.ended > CALM_SECONDS
            self.began = begun if apart else min(self.began, begun)
            self.ended = now


class Database:
    """An open database.

    Args:
        url: ``sqlite:///FILE``, or ``postgresql://…`` (the driver is psycopg).
        create: Whether a SQLite file, and Optuna's tables, may be made.

    Attributes:
        url: The parsed URL.
        engine: SQLAlchemy's engine, shared with Optuna.
        read_only: Whether it is a file that cannot be written; then it can be read all the same.
        storage: Optuna's storage, cached: one for all studies of this process.
        waits: When calls last had to wait for it; whoever else uses it may have waited as long.

    Raises:
        StudyError: The URL makes no sense, or there is no such file and ``create`` is False.
        StorageError: The database does not open.
    """

    def __init__(self, url: str, *, create: bool) -> None:
        self.url = parse_url(url)
        self.waits = Waits()
        self._file = SqliteFile(self.path, create=create) if self.is_sqlite else None
        self.read_only = self._file is not None and self._file.read_only
        try:
            backend = self._open_patiently(create)
        except ImportError:
            raise StudyError(
                'PostgreSQL needs a driver; install it: pip install "rnn-search[postgres]"'
            ) from None
        except (DBAPIError, StorageInternalError, RuntimeError) as error:
            raise UnknownError(f"{self}: {first_line(error)}") from error
        self.engine = backend.engine
        self.storage = get_storage(backend)
        sa.event.listen(self.engine, "connect", _relax_sync if self.is_sqlite else _leave_sleepers)
        self.engine.dispose()

    def _open_patiently(self, create: bool) -> QuickStorage:
        """Opens it, waiting only for a server that says it will be there soon."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._open(create)
            except DBAPIError as error:
                if not will_be_there(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def _open(self, create: bool) -> QuickStorage:
        options: dict[str, Any] = {"connect_args": {"timeout": LOCK_SECONDS}}
        if self.read_only:
            options = {"creator": lambda: connect_to_read(self.path)}
        elif not self.is_sqlite:
            ours = {key: value for key, value in POSTGRES.items() if key not in self.url.query}
            options = {"pool_pre_ping": True, "connect_args": ours}
        full = self.url.render_as_string(hide_password=False)
        self.engine = sa.create_engine(full, **options)
        try:
            if not (self.is_sqlite or create or self._has_studies()):
                raise StudyError(f"{self} holds no studies; give another --storage")
            # Two runs that start at once would both make Optuna's tables, and one would fail.
            with self.exclusive() if create else nullcontext():
                return QuickStorage(full, options)
        finally:
            self.engine.dispose()

    def _has_studies(self) -> bool:
        return all(map(sa.inspect(self.engine).has_table, TABLES))

    def __str__(self) -> str:
        """Returns the URL without its password."""
        return shown(self.url)

    @property
    def has_password(self) -> bool:
        """Whether its URL has one."""
        return any((self.url.password, *map(self.url.query.get, SECRET)))

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is a file."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return Path(str(self.url.database))

    @property
    def folder(self) -> Path:
        """Where the files of its studies live: beside a SQLite file, else under ``studies/``."""
        if self.is_sqlite:
            return self.path.parent / f"{self.path.stem}.trials"
        return Path("studies") / f"{quote(str(self.url.database), safe='')}.trials"

    @property
    def artifacts(self) -> Path:
        """Where the trials' pictures lie, for optuna-dashboard: those of all studies together."""
        return self.folder / "artifacts"

    def require_writable(self) -> None:
        """Refuses what is to be written where one can only read: a file, or a user of a server.

        Raises:
            UnknownError: It is so.
            StorageError: The server does not answer.
        """
        if self.read_only:
            raise UnknownError(
                f"{self} cannot be written: its disk is full, or it or its folder is read-only; "
                "mend that and try again"
            )
        if not self.is_sqlite and not self.patiently(self._may_write):
            raise UnknownError(
                f"{self} can only be read, by this user or by all; give a --storage that can be "
                "written"
            )

    def _may_write(self) -> bool:
        asked = (
            "SELECT current_setting('transaction_read_only') = 'off' "
            "AND has_table_privilege('study_user_attributes', 'INSERT')"
        )
        with self.engine.connect() as connection:
            return bool(connection.execute(sa.text(asked)).scalar_one())

    @contextmanager
    def exclusive(self) -> Iterator[Callable[[], None]]:
        """Holds the database's own lock: no other coordinator takes or tells a trial meanwhile.

        The lock is the operating system's or the server's, so it ends with its holder; and a holder
        that sleeps (SIGSTOP) loses it in time. So it only spares coordinators each other's way:
        who holds a trial is for its lease to say, in the transaction that tells it.

        Yields:
            What a holder calls again and again whose work takes long, or a server takes it to be
            asleep; it raises a DBAPIError if that has happened.

        Raises:
            StorageError: The disk does not take the lock's file, or the database is not there any
                more.
        """
        begun = time.monotonic()
        if self._file is not None:
            with self._file.locked(self._rescue):
                self.waits.note(begun)
                yield lambda: None
            return
        with self.engine.connect() as connection:
            self._lock(connection)
            self.waits.note(begun)
            try:
                yield _keeping_awake(connection)
            finally:
                with suppress(DBAPIError):  # The server has ended it, while this process slept.
                    connection.rollback()

    def _lock(self, connection: sa.Connection) -> None:
        """Takes a server's lock for the transaction; says so if that takes a while."""
        key = int.from_bytes(hashlib.sha256(b"rnn-search").digest()[:8], "big", signed=True)
        said = False
        while True:
            # No limit once it is said: to ask anew would be to stand behind all who wait by then.
            limit = 0 if said else int(1000 * SAY_SECONDS)
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {limit}")
            try:
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": key})
                return
            except OperationalError as error:
                if getattr(error.orig, "sqlstate", None) != LOCKED:
                    raise
            connection.rollback()
            if not said:
                said = True
                logger.warning("%s: waiting for another rnn-search that holds its lock", self)

    def take_time(self, connection: sa.Connection) -> None:
        """Lets a transaction be idle for as long as it wants."""
        if not self.is_sqlite:
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")

    def spare_the_disk(self, connection: sa.Connection) -> None:
        """Lets a commit not wait for the disk: a crash of the server may undo it."""
        if not self.is_sqlite:  # Of a file no commit waits, see `_relax_sync`.
            connection.exec_driver_sql("SET LOCAL synchronous_commit = off")

    def flush(self) -> None:
        """Returns when all that was committed is on the disk; a server sees to that by itself.

        Raises:
            StorageError: The disk does not take it.
        """
        if self._file is not None:
            self._file.flush()

    def _rescue(self, file: Path) -> None:
        """Writes what a connection that is still open to a removed file sees."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM studies")
            connection.exec_driver_sql("VACUUM INTO ?", (str(file),))

    def now(self, connection: sa.Connection) -> float:
        """Returns the time in seconds that all coordinators on this database share."""
        if self.is_sqlite:
            return time.time()
        return float(
            connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )

    def patiently(self, call: Callable[[], T]) -> T:
        """Returns what ``call`` returns, trying again with back-off while the database is away.

        Args:
            call: Must be harmless to repeat: a call whose answer was lost may have taken effect.

        Raises:
            StorageError: The fault is one that waiting does not mend, or it did not pass in
                `PATIENCE_SECONDS`.
        """
        begun, wait = time.monotonic(), 0.1
        while True:
            try:
                answer = call()
            except (DBAPIError, StorageInternalError) as error:
                self.waits.note(begun)
                if is_hopeless(error) or time.monotonic() + wait > begun + PATIENCE_SECONDS:
                    kind = LostError if is_damage(error) else StorageError
                    raise kind(f"{self}: {first_line(error)}") from error
                logger.warning("%s: %s; trying again", self, first_line(error))
                time.sleep(wait)
                wait = min(2 * wait, 5.0)
            else:
                self.waits.note(begun)
                return answer


def parse_url(url: str) -> URL:
    """Reads a storage URL.

    Raises:
        StudyError: It is not of a form that works here; the message says which do.
    """
    forms = "use sqlite:///FILE.db or postgresql://USER@HOST/DATABASE"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError):
        raise StudyError(f"the storage{_if_harmless(url)} is no URL; {forms}") from None
    if backend == "sqlite":
        if parsed.drivername not in ("sqlite", "sqlite+pysqlite") or parsed.host or parsed.query:
            raise StudyError(f"the storage{_if_harmless(url)} is no plain SQLite file; {forms}")
        if not parsed.database or parsed.database == ":memory:":
            raise StudyError(
                f"the storage {url!r} names no file, so nothing would be kept; {forms}"
            )
        return parsed
    if backend not in ("postgresql", "postgres"):
        raise StudyError(f"the storage {backend!r} is not supported; {forms}")
    if not parsed.database:
        raise StudyError(f"the storage names no database; {forms}")
    # A part of the password would be taken for the host or the database, and shown.
    if "@" in f"{parsed.host}{parsed.database}":
        raise StudyError("the storage has an @ in its password; write it as %40")
    return parsed.set(drivername="postgresql+psycopg")


def exists(url: str) -> bool:
    """Returns whether there is a database to open; servers are taken to have theirs."""
    parsed = parse_url(url)
    return parsed.get_backend_name() != "sqlite" or is_there(Path(str(parsed.database)))


def shown(url: URL) -> str:
    """Writes a URL without its password."""
    return url.difference_update_query(SECRET).render_as_string(hide_password=True)


def _if_harmless(url: str) -> str:
    """Returns a malformed URL for a message, or nothing if it may hold a password."""
    return f" {url!r}" if re.fullmatch(r"(sqlite:)?[^:=@?]*", url) else ""


def _keeping_awake(connection: sa.Connection) -> Callable[[], None]:
    """Returns what shows the server that a transaction is not asleep; it can be called often."""
    shown = time.monotonic()

    def show() -> None:
        nonlocal shown
        if time.monotonic() - shown > HOLD_SECONDS / 10:
            connection.exec_driver_sql("SELECT 1")
            shown = time.monotonic()

    return show


def _relax_sync(connection: Any, _record: object) -> None:
    """Spares SQLite an fsync per commit: with WAL, a power cut can undo the last commits only.

    What they held is then trained again from its checkpoint, to the same result.
    """
    connection.execute("PRAGMA synchronous=NORMAL")


def _leave_sleepers(connection: Any, _record: object) -> None:
    """Has PostgreSQL end a session that sleeps in a transaction, or whose client has vanished.

    Else what it has locked, the lock of all coordinators for one, would stay locked for hours.
    """
    for setting in (
        f"idle_in_transaction_session_timeout = {int(1000 * HOLD_SECONDS)}",
        "tcp_keepalives_idle = 15",
        "tcp_keepalives_interval = 5",
        "tcp_keepalives_count = 3",
    ):
        connection.execute(f"SET {setting}")
    connection.commit()
