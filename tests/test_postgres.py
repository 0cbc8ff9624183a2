"""PostgreSQL as storage: a real server, stopped, started and shared, that wants a password."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from faults import LONG_ENOUGH, begin, finished, output_of, reach, reference_of, require_failure
from faults import STUDY as LONG
from optuna.trial import TrialState
from postgres import PASSWORD, QUOTED, Postgres, free_port
from tiny import (
    children_of,
    record,
    rnn_search,
    started,
    trials_at,
    wait_for_end,
    wait_until,
    write_study,
)

from search.database import Database
from search.errors import StudyError

pytestmark = pytest.mark.slow

Told = list[dict[str, Any]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The trials of the study, run on SQLite, that nothing happened to."""
    return reference_of(tmp_path_factory.mktemp("whole"))


class Rows:
    """Counts rows of a database past everything that is tested."""

    def __init__(self, postgres: Postgres, name: str) -> None:
        self._postgres, self._name = postgres, name

    def __call__(self, query: str) -> int:
        """Returns how many rows a query has; 0 if its table is not there yet."""
        with self._postgres.connect(self._name) as connection:
            table = query.split(maxsplit=1)[0]
            (there,) = connection.execute("SELECT to_regclass(%s)", [table]).fetchall()
            if there[0] is None:
                return 0
            (row,) = connection.execute(f"SELECT count(*) FROM {query}").fetchall()
            return int(row[0])

    def reached(self, epochs: int) -> Callable[[], bool]:
        """Returns a condition: a trial has ended, and so many epochs are reported."""
        return lambda: self("trial_values") >= 1 and self("trial_intermediate_values") >= epochs


@pytest.fixture
def name(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.new_database()


@pytest.fixture
def rows(postgres: Postgres, name: str) -> Rows:
    """Counts the rows of the database."""
    return Rows(postgres, name)


def require_the_whole(url: str, folder: Path, run: subprocess.Popen[str], reference: Told) -> None:
    """Checks that a run ends well, with the trials it would have had without the fault."""
    assert run.wait(LONG_ENOUGH) == 0, output_of(folder)
    assert record(trials_at(url)) == reference
    assert "Traceback" not in output_of(folder)


def test_restarts_between_calls(
    reference: Told, tmp_path: Path, postgres: Postgres, name: str, rows: Rows
) -> None:
    """A server that is killed and started twice costs a study nothing."""
    write_study(tmp_path, **LONG)
    url = postgres.url(name)
    run = begin(tmp_path, "--storage", url)
    for epochs in (14, 28):
        reach(run, rows.reached(epochs))
        postgres.stop()
        postgres.start()
    require_the_whole(url, tmp_path, run, reference)


@pytest.mark.parametrize("table", ["trial_values", "trial_user_attributes", "rnn_search_leases"])
def test_a_restart_during_a_call(
    reference: Told, tmp_path: Path, postgres: Postgres, name: str, rows: Rows, table: str
) -> None:
    """A server that is killed while it works on a call of ours costs a study nothing."""
    write_study(tmp_path, **LONG)
    url = postgres.url(name)
    run = begin(tmp_path, "--storage", url)
    reach(run, rows.reached(14))
    waiting = "pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'relation'"
    with suppress(psycopg.OperationalError), postgres.connect(name) as other, other.transaction():
        other.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
        reach(run, lambda: rows(waiting) > 0)
        postgres.stop()
        other.execute("SELECT 1")
    postgres.start()
    require_the_whole(url, tmp_path, run, reference)


def test_down_for_a_minute(
    reference: Told, tmp_path: Path, postgres: Postgres, name: str, rows: Rows
) -> None:
    """A server that is away for a minute is waited for, and the study is none the worse."""
    write_study(tmp_path, **LONG)
    url = postgres.url(name)
    run = begin(tmp_path, "--storage", url)
    reach(run, rows.reached(14))
    postgres.stop()
    try:
        assert not threading.Event().wait(60)
        assert run.poll() is None, output_of(tmp_path)
    finally:
        postgres.start()
    require_the_whole(url, tmp_path, run, reference)
    assert "trying again" in output_of(tmp_path)


def test_down_for_good(
    reference: Told, tmp_path: Path, postgres: Postgres, name: str, rows: Rows
) -> None:
    """A server that does not come back ends the run; when it is back, the next run goes on."""
    write_study(tmp_path, **LONG)
    url = postgres.url(name)
    run = begin(tmp_path, "--storage", url)
    children = reach(run, rows.reached(14))
    postgres.stop()
    try:
        require_failure(run, children, tmp_path, "Connection refused")
    finally:
        postgres.start()
    before = finished(trials_at(url))
    assert before
    require_the_whole(url, tmp_path, begin(tmp_path, "--storage", url), reference)
    assert f"(resumed): {len(before)} of {len(reference)} trials done" in output_of(tmp_path)
    assert finished(trials_at(url))[: len(before)] == before


@pytest.mark.parametrize("line", ["run tiny.toml", "list", "show tiny"])
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("port", "Connection refused"),
        ("password", 'password authentication failed for user "postgres"'),
        ("database", 'database "nowhere" does not exist'),
    ],
)
def test_a_server_that_will_not_have_us(
    tmp_path: Path, postgres: Postgres, line: str, fault: str, says: str
) -> None:
    """One line says what the server says, without the password; nothing is made or trained."""
    write_study(tmp_path)
    url = postgres.url("nowhere" if fault == "database" else "postgres")
    if fault == "port":
        url = url.replace(f":{postgres.port}/", f":{free_port()}/")
    elif fault == "password":
        url = url.replace(QUOTED, "geheimer")
    before = sorted(tmp_path.iterdir())
    done = rnn_search(tmp_path, *line.split(), "--storage", url)
    assert done.returncode == 1, done.stdout + done.stderr
    (first,) = done.stderr.splitlines()
    assert first.startswith("rnn-search: ")
    assert says in first
    assert first.endswith("; create it, or give another --storage") == (fault == "database")
    assert "geheim" not in done.stdout + done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_reading_makes_no_tables(postgres: Postgres, name: str, rows: Rows) -> None:
    """A database without studies is refused by those who only read, and stays empty."""
    with pytest.raises(StudyError, match="holds no studies"):
        Database(postgres.url(name), create=False)
    assert rows("pg_tables WHERE schemaname = 'public'") == 0


def test_lock_of_a_sleeping_process_is_lost(postgres: Postgres, name: str) -> None:
    """Who sleeps (SIGSTOP) with the lock does not keep others out for ever, and wakes up calmly."""
    script = (
        "import sys; from search import database\n"
        "database.HOLD_SECONDS = 1\n"
        "one = database.Database(sys.argv[1], create=True)\n"
        "with one.exclusive():\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()\n"
        "with one.exclusive():\n"
        "    pass\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, postgres.url(name)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    started.append(holder)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGSTOP)
    database = Database(postgres.url(name), create=False)
    with database.exclusive():
        pass
    database.engine.dispose()
    holder.send_signal(signal.SIGCONT)
    assert holder.communicate() == ("", "")
    assert holder.returncode == 0


def test_processes_that_create_it_at_once(postgres: Postgres, name: str) -> None:
    """Of processes that make Optuna's tables in an empty database at once none fails."""
    script = (
        "import sys; from search.database import Database\n"
        "print('ready', flush=True); sys.stdin.readline(); Database(sys.argv[1], create=True)\n"
    )
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    arguments = [sys.executable, "-c", script, postgres.url(name)]
    crew = [subprocess.Popen(arguments, text=True, **pipes) for _ in range(4)]
    for process in crew:
        assert process.stdout.readline() == "ready\n"
    for process in crew:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate()[1] for process in crew] == [""] * 4
    assert [process.returncode for process in crew] == [0] * 4


def test_four_coordinators(tmp_path: Path, postgres: Postgres, name: str, rows: Rows) -> None:
    """Four runs begun at once on an empty database, two of them killed, train exactly 60 trials."""
    write_study(tmp_path, budget={"trials": 60})
    url = postgres.url(name)
    crew = [begin(tmp_path, "--storage", url) for _ in range(4)]
    children = []
    for run, trials in zip(crew[:2], (12, 30), strict=True):
        wait_until(lambda least=trials: rows("trial_values") >= least, f"{trials} trials")  # type: ignore[misc]
        assert run.poll() is None
        children += children_of(run.pid)
        os.killpg(run.pid, signal.SIGKILL)
    assert [run.wait(LONG_ENOUGH) for run in crew] == [-9, -9, 0, 0], output_of(tmp_path)
    wait_for_end(children)
    trials = trials_at(url)
    assert [trial.number for trial in trials] == list(range(60))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({str(sorted(trial.params.items())) for trial in trials}) == 60
    assert [trial.params["learning_rate"] for trial in trials[:3]] == [0.01, 0.1, 0.001]
    assert rows("rnn_search_leases") == 0


def test_the_password_is_nowhere(tmp_path: Path, postgres: Postgres, name: str) -> None:
    """No output, file or stored attribute has the server's password, however it is written."""
    write_study(tmp_path, budget={"trials": 2})
    url = postgres.url(name)
    Database(url, create=True).engine.dispose()
    said = ""
    for line in (
        "list",
        "run tiny.toml",
        "list",
        "list --json",
        "show tiny",
        "show tiny --json",
        "show tiny 0 --json",
        "report tiny --out page",
        "backup tiny safe.db --json",
        f"copy tiny --to {postgres.url(postgres.new_database())}",
    ):
        done = rnn_search(tmp_path, *line.split(), "--storage", url)
        assert done.returncode == 0, done.stderr
        said += done.stdout + done.stderr
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(stored) > 8
    assert "postgres:***@" in said
    for secret in (PASSWORD, QUOTED, "geheim"):
        assert secret not in said
        assert not any(secret.encode() in content for content in stored)
    # What is to be typed next works where the environment has the URL.
    typed = [line for line in said.splitlines() if line.startswith("  ") and "rnn-search " in line]
    assert len(typed) == 7
    assert not any("***" in line or "--storage" in line for line in typed)
    assert said.count("RNN_SEARCH_STORAGE set to the storage's URL") == 2


def test_a_traceback_has_no_password(tmp_path: Path, postgres: Postgres, name: str) -> None:
    """A fault of the program in the middle of a run prints its traceback without the password."""
    write_study(tmp_path)
    script = (
        "import sys; from search import cli, storage\n"
        "def fail(*_): raise ZeroDivisionError\n"
        "storage.StoredStudy._take = fail\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = ["run", "tiny.toml", "--storage", postgres.url(name)]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_drivers_and_settings(postgres: Postgres, name: str) -> None:
    """``postgresql://`` and ``postgresql+psycopg://`` are the same; a lost server is noticed."""
    for form in ("postgresql://", "postgresql+psycopg://"):
        database = Database(postgres.url(name).replace("postgresql://", form), create=True)
        with database.engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            settings = driver.info.get_parameters()
        assert settings["connect_timeout"] == "10"
        assert settings["keepalives_idle"] == "15"
        database.engine.dispose()
    asked = Database(postgres.url(name) + "?connect_timeout=3", create=True)
    with asked.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert driver.info.get_parameters()["connect_timeout"] == "3"
    asked.engine.dispose()


def test_names_stay_in_the_studies_folder(postgres: Postgres) -> None:
    """A database whose name looks like a path has its files below the studies folder, too."""
    with postgres.connect("postgres") as connection:
        connection.execute('CREATE DATABASE "../../x"')
    database = Database(postgres.url("../../x"), create=True)
    assert database.folder.parent == Path("studies")
    assert ".." not in database.folder.parts
    database.engine.dispose()
