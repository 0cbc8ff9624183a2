"""One SQLite file: made whole, opened, locked against other runs, and missed when it is gone."""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy.exc import DBAPIError

from search.errors import LostError, StorageError, StudyError, UnknownError

logger = logging.getLogger(__name__)

LOCK_SECONDS = 60
"""How long a statement waits for a locked SQLite database; Optuna's default is 5."""
HOLD_SECONDS = 90.0
"""After so long the holder of the lock between runs is taken to be asleep, and loses it."""
SAY_SECONDS = 10.0
"""After so long in vain, that the lock is waited for is said."""
DISK_FAULT = "disk I/O error"
"""What SQLite says of a disk that is full, among others."""
FILES = ".trials"
"""The ending of the folder beside it that has the files of its studies."""


class SqliteFile:
    """A SQLite file that is to be written, or read if it cannot be written.

    Args:
        path: The file.
        create: Whether it may be made.

    Attributes:
        read_only: Whether it cannot be written.

    Raises:
        StudyError: There is no such file, or it is no database.
        StorageError: It is locked.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self.path = path
        self.read_only = _prepare(path, create)
        self._known = self._identity()

    @contextmanager
    def locked(self, rescue: Callable[[Path], None]) -> Iterator[None]:
        """Keeps other processes that call it out, but a holder that sleeps is not waited for.

        Args:
            rescue: Writes what the database had to a file, if it is not there any more.

        Raises:
            StorageError: The disk does not take the lock's file.
            LostError: The database was removed, emptied or replaced since it was opened.
        """
        if self.read_only:  # Nobody can tell anything.
            yield
            return
        with _lock(self.path):
            self._check(rescue)
            yield

    def flush(self) -> None:
        """Returns when all that was committed is on the disk.

        Raises:
            StorageError: The disk does not take it.
        """
        log, _ = _logs(self.path)
        try:
            with log.open("rb") as file:
                os.fsync(file.fileno())
        except FileNotFoundError:  # SQLite has just moved it into the database, on the disk.
            return
        except OSError as error:
            raise StorageError(f"{log}: {error.strerror}") from error

    def _identity(self) -> tuple[int, int] | None:
        """Returns what tells the file from another of its name; None: it is empty or not there."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino) if found.st_size else None

    def _check(self, rescue: Callable[[Path], None]) -> None:
        if self._identity() == self._known:
            return
        what = f"{self.path} was removed, emptied or replaced while it was in use"
        rescued, gone = self._free_name(), not self.path.exists()
        try:
            rescue(rescued)
        except DBAPIError:
            if gone and self._identity() is None:  # SQLite has made an empty one.
                self.path.unlink(missing_ok=True)
            raise LostError(f"{what}; restore a copy of it") from None
        logs = [log for log in _logs(self.path) if log.exists()]
        remedy = ""
        if not self.path.exists():
            for log in logs:  # SQLite would read them into whatever is given this name.
                log.unlink(missing_ok=True)
        elif logs:
            these = " and ".join(log.name for log in logs)
            remedy = f"when nothing uses what is there now, remove {these} and "
        raise LostError(
            f"{what}; all that it had is in {rescued}: {remedy}give that its name again"
        )

    def _free_name(self) -> Path:
        """Returns a name for what is rescued: others may have rescued something before."""
        numbers = itertools.chain([""], itertools.count(2))
        names = (f"{self.path.stem}.rescued{number}{self.path.suffix}" for number in numbers)
        return next(path for path in map(self.path.with_name, names) if not path.exists())


def _lock(database: Path) -> IO[bytes]:
    """Takes a database's lock and returns its file; closing that gives it back."""
    # A name like those of SQLite's own files, which no file of the user's has.
    real = _real(database)
    path = real.with_name(f"{real.name}-lock")
    begun, said, wait = time.monotonic(), False, 0.001
    while True:
        file = _try_lock(path)
        if file is not None:
            return file
        waited = time.monotonic() - begun
        if waited > HOLD_SECONDS:  # The next file of this name is another lock.
            logger.warning("%s: its holder does not move; going on without it", path)
            path.unlink(missing_ok=True)
        elif waited > SAY_SECONDS and not said:
            said = True
            logger.warning("%s: waiting for another rnn-search that holds it", path)
        time.sleep(wait)
        wait = min(2 * wait, 0.1)


def _try_lock(path: Path) -> IO[bytes] | None:
    try:
        file = path.open("ab")
    except FileNotFoundError:
        raise LostError(
            f"{path.parent} was removed or moved while it was in use; put it back, or a copy of it"
        ) from None
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    file.close()
    return None


def is_there(path: Path) -> bool:
    """Returns whether there is something of this name.

    Raises:
        StudyError: There can be nothing of this name.
    """
    try:
        return path.exists()
    except OSError as error:
        raise StudyError(
            f"{path} can be no file: {error.strerror}; give another --storage"
        ) from None


def _prepare(path: Path, create: bool) -> bool:
    """Checks the file, or creates it, in WAL mode, which readers and the writer share.

    Returns:
        True if it cannot be written, and is to be read only.
    """
    there = is_there(path)
    if path.is_dir():
        raise StudyError(f"{path} is a folder; the storage must be a file: sqlite:///FILE.db")
    if path.suffix == FILES:
        raise StudyError(
            f"a study's files are to lie in {path.stem}{FILES}; call the database {path.stem}.db"
        )
    if not there and not create:
        raise StudyError(f"there are no studies yet: {path} does not exist")
    if there and path.stat().st_size == 0:
        raise StudyError(f"{path} is empty, not a database; delete it, or give another --storage")
    read_only = there and not _is_writable(path)
    if read_only and create:
        raise StudyError(
            f"{path} cannot be written; make it and its folder writable, or give another --storage"
        )
    with _tidy_refusal(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not there:
            _make_whole(path)
        try:
            _look_into(path, read_only=read_only, create=create)
        except sqlite3.OperationalError as error:
            # A disk that is full has no room for the index of a log, which a writer needs.
            if create or read_only or DISK_FAULT not in str(error):
                raise
            read_only = True
            _look_into(path, read_only=read_only, create=create)
    return read_only


def _look_into(path: Path, *, read_only: bool, create: bool) -> None:
    """Reads the file, and puts it into WAL mode unless it is to be read only."""
    with closing(connect_to_read(path) if read_only else _connect(path)) as connection:
        # A look that is not over would keep the log from being changed.
        found = connection.execute("SELECT name FROM sqlite_master WHERE name = 'studies'")
        if found.fetchone() is None and not create:
            raise StudyError(f"{path} holds no studies; give another --storage")
        if not read_only:
            connection.execute("PRAGMA journal_mode=WAL")


@contextmanager
def _tidy_refusal(path: Path) -> Iterator[None]:
    """Says in one line why a file cannot be used, and leaves no folder that was made for it."""
    missing = [folder for folder in (path.parent, *path.parent.parents) if not is_there(folder)]
    try:
        yield
    except OSError as error:
        _remove(missing)
        raise StudyError(
            f"{path} cannot be used: {error.strerror}; give another --storage"
        ) from None
    except (sqlite3.DatabaseError, ValueError) as error:
        _remove(missing)
        if "locked" in str(error):
            raise StorageError(f"{path}: {error}; another program is writing to it") from None
        if DISK_FAULT in str(error):
            raise UnknownError(
                f"{path}: {error}; if its disk is full, make room there and try again"
            ) from None
        away = "unable to open" in str(error) or "readonly" in str(error)
        remedy = "make it writable" if away else "restore a copy of it"
        raise StudyError(
            f"{path} cannot be used: {error}; {remedy}, or give another --storage"
        ) from None


def _is_writable(path: Path) -> bool:
    """Returns whether SQLite can write a file: the file, and others beside it."""
    return os.access(path, os.W_OK) and os.access(_real(path).parent, os.W_OK)


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=LOCK_SECONDS)


def _real(path: Path) -> Path:
    """Returns the file that a link leads to, and of all others the path as it was given."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Connects to a file that cannot be written.

    SQLite would make a log beside it, even in order to read, unless it is told that nobody writes;
    which is so if there is no log.
    """
    log, _ = _logs(path)
    way = "mode=ro" if log.exists() and log.stat().st_size else "immutable=1"
    uri = f"{path.absolute().as_uri()}?{way}"
    return sqlite3.connect(uri, uri=True, timeout=LOCK_SECONDS, check_same_thread=False)


def _logs(path: Path) -> tuple[Path, Path]:
    """Returns the files beside a database that have what is not yet in it, and the index of it.

    SQLite has them beside the file itself, not beside a link to it.
    """
    real = _real(path)
    return real.with_name(f"{real.name}-wal"), real.with_name(f"{real.name}-shm")


def _make_whole(path: Path) -> None:
    """Makes a database where none is; the log of one that is gone would be read into it."""
    log, index = _logs(path)
    if not log.exists():
        _link_new(path)
        return
    with _lock(path):  # What another process has just made has a log, too.
        if log.exists() and not is_there(path):
            kept = log.with_name(f"{log.name}.old")
            log.replace(kept)
            index.unlink(missing_ok=True)
            logger.warning(
                "%s: there was the log of a database that is gone; it is %s now", path, kept
            )
        _link_new(path)


def _link_new(path: Path) -> None:
    """Makes a database under another name first, so that no other run meets an empty file."""
    part = path.with_name(f".{os.getpid()}.part")
    try:
        with closing(sqlite3.connect(part)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        # It may be there by now; and where there are no links, SQLite makes it in its own way.
        with suppress(OSError):
            os.link(part, path)
    finally:
        part.unlink(missing_ok=True)


def _remove(folders: list[Path]) -> None:
    """Removes the empty folders that a failed attempt has made, the innermost first."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
