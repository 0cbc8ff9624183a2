"""No trial is ever with two coordinators, and none stays with one that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from tiny import is_alive, wait_until

from search import leases as module
from search.database import Database
from search.leases import LEASE_SECONDS, Leases

Make = Callable[[], Leases]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a new SQLite file."""
    return f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def make(url: str) -> Make:
    """Makes the leases of one more coordinator of the same study, with a connection of its own."""

    def make_one() -> Leases:
        leases = Leases(Database(url, create=True), study_id=1)
        leases.prepare()
        return leases

    return make_one


def change(url: str, **values: object) -> None:
    """Rewrites every lease, as time or another process would."""
    with Database(url, create=False).engine.begin() as connection:
        connection.execute(sa.update(module._leases).values(**values))


def test_everyone_sees_a_lease(make: Make) -> None:
    """A trial that one coordinator takes is held in the eyes of all, and is its alone."""
    one, other = make(), make()
    one.take(7)
    assert one.held() == other.held() == {7}
    assert one.mine() == {7}
    assert other.mine() == set()


def test_ones_own_are_not_busy(make: Make) -> None:
    """A trial is busy for all but the coordinator that holds it."""
    one, other = make(), make()
    one.take(7)
    assert one.busy([7]) == set()
    assert other.busy([7]) == {7}


def test_dropped_lease_is_free(make: Make) -> None:
    """A trial that is given back is held by nobody; one cannot give back what others hold."""
    one, other = make(), make()
    one.take(7)
    other.drop(7)
    assert other.held() == {7}
    one.drop(7)
    assert other.held() == set()


def test_expired_lease_is_free(make: Make, url: str) -> None:
    """A trial whose holder was not heard of in time is held by nobody, and can be taken."""
    one, other = make(), make()
    one.take(7)
    change(url, expires=0.0)
    assert other.held() == set()
    other.take(7)
    assert one.mine() == set()
    assert other.mine() == {7}


def test_renewing_extends_only_ones_own(make: Make, url: str) -> None:
    """A renewed lease is held again; one that was taken over stays with its new holder."""
    one, other = make(), make()
    one.take(7)
    one.take(8)
    other.take(8)
    change(url, expires=0.0)
    one.renew()
    assert other.held() == {7}
    assert other.mine() == {8}


def test_lease_lasts_as_long_as_it_says(make: Make, url: str) -> None:
    """A new lease expires after LEASE_SECONDS."""
    one = make()
    one.take(7)
    database = Database(url, create=False)
    with database.engine.connect() as connection:
        expires = connection.execute(sa.select(module._leases.c.expires)).scalar_one()
        left = expires - database.now(connection)
    assert 0.5 * LEASE_SECONDS < left <= LEASE_SECONDS


def test_dead_process_holds_nothing(make: Make, url: str) -> None:
    """The lease of a process of this host that has died is free at once."""
    script = (
        "import sys; from search.database import Database; from search.leases import Leases\n"
        "leases = Leases(Database(sys.argv[1], create=True), 1)\n"
        "leases.prepare(); leases.take(7); print('taken', flush=True); sys.stdin.read()\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder.stdin, holder.stdout:
        assert holder.stdout.readline() == "taken\n"
        assert make().held() == {7}
        holder.kill()
    holder.wait()
    assert make().held() == set()


def test_a_process_that_waits_to_be_reaped_holds_nothing(make: Make, url: str) -> None:
    """A holder that is dead holds nothing, though whoever started it has not asked for its end."""
    make().take(7)
    holder = psutil.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        change(url, pid=holder.pid, pid_started=module.started(psutil.Process(holder.pid)))
        assert make().held() == {7}
        holder.kill()
        wait_until(lambda: not is_alive(holder.pid), "the holder's death")
        assert psutil.pid_exists(holder.pid)
        assert make().held() == set()
    finally:
        holder.kill()
        holder.wait()


def test_a_process_that_is_not_shown_lives(
    make: Make, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system hides other users' processes, they keep what they hold until it lapses."""
    one, other = make(), make()
    one.take(7)
    hidden = psutil.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        change(url, pid=hidden.pid, owner="another", pid_started=0.0)
        known = psutil.Process

        def shown(pid: int | None = None) -> psutil.Process:
            if pid == hidden.pid:
                raise psutil.NoSuchProcess(pid)
            return known(pid)

        def kill(pid: int, _number: int) -> None:
            raise PermissionError if pid == hidden.pid else ProcessLookupError

        monkeypatch.setattr(module.psutil, "Process", shown)
        assert other.held() == set()
        monkeypatch.setattr(module.os, "kill", kill)
        assert other.held() == {7}
    finally:
        monkeypatch.undo()
        hidden.kill()
        hidden.wait()


def test_reused_process_id_holds_nothing(make: Make, url: str) -> None:
    """A process that has got a dead holder's id, but started at another time, is not the holder."""
    make().take(7)
    change(url, pid_started=1.0)
    assert make().held() == set()


def test_another_host_is_believed(make: Make, url: str) -> None:
    """Of another host's process only the clock can tell: its id says nothing here."""
    make().take(7)
    change(url, host="elsewhere", pid=2**22 + 1)
    assert make().held() == {7}
    change(url, host=module.where_ids_count(), pid=os.getpid())
    assert make().held() == {7}


def test_a_container_of_the_same_name_is_another_host(make: Make, url: str) -> None:
    """Where other processes are seen, as in a container, a living holder is not taken for dead."""
    make().take(7)
    script = (
        "import sys; from search.database import Database; from search.leases import Leases\n"
        "print(Leases(Database(sys.argv[1], create=True), 1).held())\n"
    )
    namespace = ["unshare", *([] if os.getuid() == 0 else ["-r"]), "--pid", "--fork"]
    seen = subprocess.run(
        [*namespace, "--mount-proc", sys.executable, "-c", script, url],
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout == "{7}\n", seen.stderr


def test_a_clock_that_is_set_kills_nobody(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the clock is set, psutil has other times at which processes started; they still live."""
    make().take(7)
    before, booted = psutil.Process.create_time, psutil.boot_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: before(process) - 3600)
    monkeypatch.setattr(psutil, "boot_time", lambda: booted() - 3600)
    assert make().held() == {7}


def test_studies_do_not_mix(make: Make, url: str) -> None:
    """The leases of one study are not those of another."""
    make().take(7)
    other = Leases(Database(url, create=False), study_id=2)
    assert other.held() == set()


def test_looking_writes_nothing(url: str) -> None:
    """Asking who holds what in a database without leases creates no table."""
    database = Database(url, create=True)
    assert Leases(database, study_id=1).held() == set()
    assert not sa.inspect(database.engine).has_table("rnn_search_leases")


def test_who_waited_as_long_is_excused(make: Make, url: str) -> None:
    """A lease that lapsed while one waited in the queue holds on for a while, an older one not."""
    one, other = make(), make()
    one.take(7)
    change(url, expires=time.time() - 20)
    other.excuse(10)
    assert other.held() == set()
    other.excuse(30)
    assert other.held() == {7}
    assert LEASE_SECONDS / 2 - 5 < expiry(url) - time.time() < LEASE_SECONDS / 2 + 5
    change(url, expires=time.time() - 20)
    other.excuse(30)  # Once: it may be dead.
    assert other.held() == set()


def test_who_is_heard_of_again_is_excused_again(make: Make, url: str) -> None:
    """A lease that was renewed since it was excused is excused once more when it lapses again."""
    one, other = make(), make()
    one.take(7)
    change(url, expires=time.time() - 20)
    other.excuse(30)
    one.renew()
    later = time.time() + 2 * LEASE_SECONDS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Database, "now", lambda *_: later)
        assert other.held() == set()
        other.excuse(2 * LEASE_SECONDS)
        assert other.held() == {7}


@pytest.mark.parametrize(
    ("waited", "over", "held"),
    [
        (50.0, 5.0, {7}),
        (50.0, LEASE_SECONDS, set()),
        (LEASE_SECONDS / 4 - 1, 10.0, set()),
        (LEASE_SECONDS / 4 + 1, 10.0, {7}),
    ],
)
def test_a_wait_in_any_call_excuses(
    make: Make, url: str, waited: float, over: float, held: set[int]
) -> None:
    """Whatever call has waited long, and not long ago: others may have waited, too."""
    one, other = make(), make()
    one.take(7)
    change(url, expires=time.time() - 20)
    other.excuse_who_waited()
    assert other.held() == set()
    waits, now = other._database.waits, time.monotonic()
    waits.began, waits.ended = now - over - waited, now - over
    other.excuse_who_waited()
    assert other.held() == held


def expiry(url: str) -> float:
    """Returns when the only lease ends."""
    with Database(url, create=False).engine.connect() as connection:
        return connection.execute(sa.select(module._leases.c.expires)).scalar_one()


def test_sweeping_leaves_the_unfinished(make: Make, url: str) -> None:
    """Leases of finished trials go; those in training stay, and so do other studies'."""
    leases = make()
    other = Leases(Database(url, create=False), study_id=2)
    for trial_id in (3, 4):
        leases.take(trial_id)
    other.take(5)
    leases.sweep([4])
    assert (leases.held(), other.held()) == ({4}, {5})


def test_who_loses_an_answer_finds_its_lease(make: Make, url: str) -> None:
    """The lease of a trial just told stays while its holder lives and has not dropped it."""
    teller, looker = make(), make()
    teller.take(3)
    assert looker.busy([]) == {3}
    assert teller.mine() == {3}
    change(url, expires=0.0)
    assert looker.busy([]) == set()
    assert teller.mine() == set()
