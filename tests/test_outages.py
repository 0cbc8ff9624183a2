"""Several hosts on one PostgreSQL server that goes away, or whose lock is held for long."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import Postgres
from test_copying import fill
from test_storage import ATTRIBUTES, COMPLETE, curve
from tiny import tiny_config, wait_until

from search import copying, leases, stored_study
from search import database as module
from search.copying import copy_study
from search.database import Database
from search.errors import StorageError
from search.storage import create_study, list_studies, open_study
from search.stored_study import StoredStudy, Taken

pytestmark = pytest.mark.slow

LEASE = 8.0
"""Seconds, in place of a minute."""
Hosts = tuple[StoredStudy, StoredStudy]


@pytest.fixture
def url(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database; the files of its studies lie in the test's folder."""
    monkeypatch.chdir(tmp_path)
    return postgres.url(postgres.new_database())


@pytest.fixture
def hosts(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """A study as two hosts have it, with short leases."""
    for one in (leases, stored_study):
        monkeypatch.setattr(one, "LEASE_SECONDS", LEASE)
    here = create_study(Database(url, create=True), tiny_config(tmp_path), ATTRIBUTES)
    there = open_study(Database(url, create=False), "tiny")
    yield here, there
    for stored in (here, there):
        stored.database.engine.dispose()


def away_for_a_lease(postgres: Postgres, hosts: Hosts) -> Taken:
    """Has the server go away while both hosts train a trial, which the second notices as it renews.

    Returns:
        The trial of the first, whose lease has lapsed.
    """
    here, there = hosts
    mine, theirs = here.take(2), there.take(2)
    assert mine is not None
    assert theirs is not None
    postgres.stop()
    again = threading.Timer(LEASE + 1, postgres.start)
    again.start()
    try:
        there._renewed = 0.0  # It is time to renew.
        assert there.renew() == []
    finally:
        again.join()
    assert here.held() == {theirs.trial_id}
    return mine


def test_who_waited_in_vain_keeps_its_trial(postgres: Postgres, hosts: Hosts) -> None:
    """After an outage that outlasted a lease, who comes back first takes no other's trial."""
    mine = away_for_a_lease(postgres, hosts)
    here, there = hosts
    assert there.take(2) is None
    here._renewed = 0.0
    assert here.renew() == []
    assert here.finish(mine, COMPLETE, curve(1.0), {})


def test_who_does_not_come_back_loses_its_trial(postgres: Postgres, hosts: Hosts) -> None:
    """A host that an outage has taken along is given half a lease more, and no longer."""
    mine = away_for_a_lease(postgres, hosts)
    found: list[Taken] = []

    def take() -> bool:
        taken = hosts[1].take(2)
        found.extend([taken] if taken else [])
        return bool(found)

    assert not take()
    wait_until(take, "the trial is another's")
    assert found[0].number == mine.number


def test_a_long_wait_for_the_lock_is_said(
    url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits for another's lock says so, once, and has it when that is over."""
    monkeypatch.setattr(module, "SAY_SECONDS", 0.2)
    one, other = Database(url, create=True), Database(url, create=False)
    entered = threading.Event()

    def enter() -> None:
        with other.exclusive():
            entered.set()

    def said() -> int:
        return caplog.text.count("waiting for another rnn-search that holds its lock")

    thread = threading.Thread(target=enter)
    with one.exclusive():
        thread.start()
        wait_until(lambda: said() > 0, "it is said")
        assert not entered.wait(1.0)
    assert entered.wait(30)
    thread.join()
    assert said() == 1
    one.engine.dispose()
    other.engine.dispose()


def target_of(folder: Path) -> Database:
    """Returns an empty SQLite database to copy to."""
    return Database(f"sqlite:///{folder / 'target' / 'x.db'}", create=True)


def test_a_backup_that_hangs_loses_the_lock(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on after a while; the backup says what became of it, and leaves nothing."""
    monkeypatch.setattr(module, "HOLD_SECONDS", 1.0)
    source, target = Database(url, create=True), target_of(tmp_path)
    stored, other = fill(source, tmp_path), Database(url, create=False)
    entered: list[str] = []

    def hang(*_: object) -> None:
        with other.exclusive():
            entered.append("the other")

    monkeypatch.setattr(copying, "copy_file", hang)
    with pytest.raises(StorageError, match=r"^postgresql\S+: .*; nothing was copied$"):
        copy_study(stored, target)
    assert entered == ["the other"]
    assert list_studies(target) == []
    source.engine.dispose()
    other.engine.dispose()


def test_a_backup_at_work_keeps_the_lock(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that takes longer than a sleeper may hold the lock is made whole all the same."""
    monkeypatch.setattr(module, "HOLD_SECONDS", 3.0)
    source, target = Database(url, create=True), target_of(tmp_path)
    stored, copy_file = fill(source, tmp_path), copying.copy_file
    for number in range(10):
        (stored.folder / f"{number:05d}.txt").write_text("x")
    other, entered = Database(url, create=False), threading.Event()

    def enter() -> None:
        with other.exclusive():
            entered.set()

    thread = threading.Thread(target=enter)

    def slowly(*files: Path) -> None:
        if thread.ident is None:
            thread.start()
        time.sleep(0.5)
        assert not entered.is_set()
        copy_file(*files)

    monkeypatch.setattr(copying, "copy_file", slowly)
    assert copy_study(stored, target).trials == 7
    assert entered.wait(30)
    thread.join()
    source.engine.dispose()
    other.engine.dispose()


def test_a_source_that_restarts_once_all_is_read(
    postgres: Postgres, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is copied whole is not said to be nothing because the original's server went away."""
    source, target = Database(url, create=True), target_of(tmp_path)
    stored, copy_artifacts = fill(source, tmp_path), copying._copy_artifacts

    def restart(*arguments: object) -> None:
        copy_artifacts(*arguments)  # type: ignore[arg-type]
        postgres.stop()
        postgres.start()

    monkeypatch.setattr(copying, "_copy_artifacts", restart)
    assert copy_study(stored, target).trials == 7
    assert len(open_study(target, "tiny").trials()) == 7
    source.engine.dispose()
