"""A database opens in the right mode, is patient with faults that pass, and refuses nonsense."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import OperationalError
from tiny import started

from search import database as module
from search import sqlite_file
from search.database import Database, exists, parse_url
from search.errors import LostError, StorageError, StudyError
from search.sqlite_file import SqliteFile


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a SQLite file that does not exist yet, in a folder that does not either."""
    return f"sqlite:///{tmp_path / 'deep' / 'studies.db'}"


def pragma(database: Database, name: str) -> object:
    """Returns a setting of a connection that Optuna would get."""
    with database.engine.connect() as connection:
        return connection.execute(sa.text(f"PRAGMA {name}")).scalar_one()


def test_sqlite_is_in_wal_mode(url: str) -> None:
    """A new SQLite database is in WAL mode, waits a minute for locks, and spares the disk."""
    database = Database(url, create=True)
    assert pragma(database, "journal_mode") == "wal"
    assert pragma(database, "busy_timeout") == 60_000
    assert pragma(database, "synchronous") == 1


def test_a_file_of_optunas_own(url: str) -> None:
    """A database that Optuna made, without a log beside it, is opened to be written."""
    Path(str(parse_url(url).database)).parent.mkdir()
    optuna.create_study(storage=url, study_name="another")
    with Database(url, create=True).engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


def test_reading_creates_nothing(url: str, tmp_path: Path) -> None:
    """Opening a file that is not there in order to read makes neither file nor folder."""
    assert not exists(url)
    with pytest.raises(StudyError, match="there are no studies yet"):
        Database(url, create=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("studies.db", "is no URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("mysql://me@here/x", "not supported"),
        ("nonsense://x", "not supported"),
        ("", "is no URL"),
    ],
)
def test_urls_of_the_wrong_form(url: str, said: str) -> None:
    """A URL that cannot work is refused with the forms that do."""
    with pytest.raises(StudyError, match=said) as caught:
        parse_url(url)
    assert "sqlite:///FILE.db" in str(caught.value)


def test_postgresql_means_psycopg() -> None:
    """A PostgreSQL URL gets the driver that is installed, whatever it named."""
    for url in ("postgresql://me@here/x", "postgresql+psycopg2://me@here/x"):
        assert parse_url(url).drivername == "postgresql+psycopg"


def test_password_is_not_said() -> None:
    """A URL that cannot be read is quoted without what may be a password."""
    for url in ("postgres ql://me:secret@here/x", "postgresql://me:my@secret@here/x"):
        with pytest.raises(StudyError) as caught:
            parse_url(url)
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "is empty"), (b"no database at all" * 99, "cannot be used")]
)
def test_files_that_are_no_database(tmp_path: Path, content: bytes, said: str) -> None:
    """An empty or a foreign file is refused and left as it is."""
    file = tmp_path / "studies.db"
    file.write_bytes(content)
    with pytest.raises(StudyError, match=said):
        Database(f"sqlite:///{file}", create=True)
    assert file.read_bytes() == content


def test_folder_is_no_database(tmp_path: Path) -> None:
    """A folder in place of the file is refused."""
    with pytest.raises(StudyError, match="is a folder"):
        Database(f"sqlite:///{tmp_path}", create=True)


def test_passing_fault_is_waited_for(url: str) -> None:
    """A call that meets a fault that passes is made again until it succeeds."""
    database, calls = Database(url, create=True), []

    def call() -> str:
        calls.append(len(calls))
        if len(calls) < 3:
            raise OperationalError("SELECT 1", {}, Exception("database is locked"))
        return "done"

    assert database.patiently(call) == "done"
    assert len(calls) == 3


@pytest.mark.parametrize("fault", ["database or disk is full", "attempt to write a readonly"])
def test_hopeless_fault_ends_at_once(url: str, fault: str) -> None:
    """A fault that waiting does not mend is raised at the first call, with what it says."""
    database, calls = Database(url, create=True), []

    def call() -> None:
        calls.append(1)
        error = OperationalError("SELECT 1", {}, Exception(fault))
        raise StorageInternalError("An exception is raised during the commit.") from error

    with pytest.raises(StorageError, match=fault):
        database.patiently(call)
    assert len(calls) == 1


def test_patience_has_an_end(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault that does not pass in time is a storage error."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.25)
    database, calls = Database(url, create=True), []

    def call() -> None:
        calls.append(1)
        raise OperationalError("SELECT 1", {}, Exception("connection refused"))

    with pytest.raises(StorageError, match="connection refused"):
        database.patiently(call)
    assert len(calls) >= 2


def test_programming_errors_are_not_repeated(url: str) -> None:
    """A fault of the program is raised as it is."""
    database = Database(url, create=True)
    with pytest.raises(ZeroDivisionError):
        database.patiently(lambda: 1 // 0)


def test_processes_that_create_it_at_once(url: str) -> None:
    """Of processes that make the same database at the same time none fails."""
    script = (
        "import sys; from search.database import Database\n"
        "print('ready', flush=True); sys.stdin.readline(); Database(sys.argv[1], create=True)\n"
    )
    crew = [
        subprocess.Popen(
            [sys.executable, "-c", script, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in crew:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in crew:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in crew] == [""] * 3
    assert [process.returncode for process in crew] == [0] * 3


def test_lock_keeps_others_out(url: str) -> None:
    """While one object holds the database's lock, another object on the same file waits."""
    one, other = Database(url, create=True), Database(url, create=True)
    entered = threading.Event()

    def enter() -> None:
        with other.exclusive():
            entered.set()

    with one.exclusive():
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(30)
    thread.join()


def test_a_link_to_a_database(tmp_path: Path) -> None:
    """Whoever comes by a link shares lock and log with whoever does not, and misses nothing."""
    (tmp_path / "far").mkdir()
    real, link = tmp_path / "far" / "real.db", tmp_path / "studies.db"
    one = Database(f"sqlite:///{real}", create=True)
    link.symlink_to(real)
    other = Database(f"sqlite:///{link}", create=True)
    optuna.create_study(storage=other.storage, study_name="mine")
    assert one.storage.get_study_id_from_name("mine") == 1
    synced: list[Path] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite_file.os, "fsync", lambda file: synced.append(path_of(file)))
        other.flush()
    assert synced == [real.with_name("real.db-wal")]
    with closing(sqlite_file.connect_to_read(link)) as connection:
        assert connection.execute("SELECT study_name FROM studies").fetchall() == [("mine",)]
    with other.exclusive():
        assert sqlite_file._try_lock(real.with_name("real.db-lock")) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["far", "studies.db"]


def test_waits_that_follow_each_other_are_one() -> None:
    """A wait soon after another goes on with that one; after a calm it is one of its own."""
    waits, now = module.Waits(), time.monotonic()
    waits.note(now)
    assert waits.ended == -math.inf
    waits.note(now - 50)
    assert waits.began == now - 50 <= now <= waits.ended
    waits.note(now - 5)
    assert waits.began == now - 50
    waits.ended = now - 10 - module.CALM_SECONDS
    waits.note(now - 5)
    assert waits.began == now - 5


def test_calls_that_wait_are_noted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for the database, or for its lock, can be asked when that was."""
    monkeypatch.setattr(module, "PROMPT_SECONDS", 0.05)
    one, other = Database(url, create=True), Database(url, create=True)
    faults = [OperationalError("SELECT 1", {}, Exception("database is locked"))]

    def call() -> None:
        if faults:
            raise faults.pop()

    one.waits, other.waits = module.Waits(), module.Waits()
    one.patiently(call)
    assert one.waits.ended > one.waits.began > -math.inf

    def enter() -> None:
        with other.exclusive():
            pass

    with one.exclusive():
        thread = threading.Thread(target=enter)
        thread.start()
        assert not threading.Event().wait(0.5)
    thread.join()
    assert other.waits.ended > other.waits.began > -math.inf


def path_of(file: int) -> Path:
    """Returns the path of an open file."""
    return Path(f"/proc/self/fd/{file}").readlink()


def hold(url: str) -> subprocess.Popen[str]:
    """Starts a process that holds a database's lock, and returns once it does."""
    script = (
        "import sys, time; from search.database import Database\n"
        "with Database(sys.argv[1], create=True).exclusive():\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(holder)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
    return holder


def test_lock_of_a_killed_process_is_free(url: str) -> None:
    """A process that is killed while it holds the lock does not keep it."""
    holder = hold(url)
    holder.kill()
    holder.wait()
    with Database(url, create=False).exclusive():
        pass


def test_lock_of_a_sleeping_process_is_lost(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sleeps (SIGSTOP) with the lock does not keep others out for ever, nor those after it."""
    monkeypatch.setattr(sqlite_file, "HOLD_SECONDS", 0.5)
    holder = hold(url)
    holder.send_signal(signal.SIGSTOP)
    try:
        with Database(url, create=False).exclusive():
            pass
        # From now on the others' lock is one that the sleeper does not hold.
        monkeypatch.setattr(sqlite_file, "HOLD_SECONDS", 1e9)
        with Database(url, create=False).exclusive():
            pass
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("fate", ["removed", "emptied", "replaced"])
def test_a_file_that_is_another_is_missed(tmp_path: Path, fate: str) -> None:
    """Who locks a database that is not the one it opened rescues what that had, and says so."""
    path, copy = tmp_path / "a.db", tmp_path / "copy"
    file = SqliteFile(path, create=True)
    with file.locked(lambda _: pytest.fail("nothing is amiss yet")):
        pass
    shutil.copy(path, copy)
    if fate == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    if fate == "replaced":
        copy.replace(path)
    rescued: list[Path] = []
    with (
        pytest.raises(LostError, match="removed, emptied or replaced"),
        file.locked(rescued.append),
    ):
        pytest.fail("it went on")
    assert rescued == [tmp_path / "a.rescued.db"]
