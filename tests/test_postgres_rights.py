"""PostgreSQL that is not as usual: who may only read, no encoding, another program's tables."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import psycopg
import pytest
from postgres import QUOTED, Postgres, free_port
from test_dashboard import Start, line_of, start
from tiny import read_json, rnn_search, trials_at, write_study

from search.database import Database
from search.errors import StudyError, UnknownError

__all__ = ["start"]

pytestmark = pytest.mark.slow


@pytest.fixture
def name(postgres: Postgres) -> str:
    """An empty database."""
    return postgres.new_database()


def reader_of(postgres: Postgres, name: str) -> str:
    """Makes a role that may only read all that there is now, and returns its URL."""
    with postgres.connect(name) as connection:
        connection.execute(f"CREATE ROLE reader_{name} LOGIN PASSWORD 'geheim'")
        connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}")
    return postgres.url(name).replace(f"postgres:{QUOTED}", f"reader_{name}:geheim")


def test_who_may_only_read_trains_nothing(tmp_path: Path, postgres: Postgres, name: str) -> None:
    """What would be written in the end is refused in the beginning; reading works."""
    write_study(tmp_path)
    assert rnn_search(tmp_path, "run", "tiny.toml", "--storage", postgres.url(name)).returncode == 0
    url = reader_of(postgres, name)
    before = trials_at(postgres.url(name))
    for line in ("evaluate tiny", "resume tiny --trials 50"):
        done = rnn_search(tmp_path, *line.split(), "--storage", url)
        assert done.returncode == 1
        assert done.stdout == ""
        (said,) = done.stderr.splitlines()
        assert "can only be read, by this user or by all; give a --storage that can" in said
        assert "geheim" not in said
    assert trials_at(postgres.url(name)) == before
    shown = rnn_search(tmp_path, "show", "tiny", "--json", "--storage", url)
    assert read_json(shown.stdout)["trials"]["total"] == len(before)


def test_a_session_that_may_only_read(postgres: Postgres, name: str) -> None:
    """A server that takes no writing, as a standby does, is told from one that does."""
    Database(postgres.url(name), create=True).require_writable()
    url = f"{postgres.url(name)}?options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(UnknownError, match="can only be read"):
        Database(url, create=False).require_writable()


def test_a_database_without_an_encoding(tmp_path: Path, postgres: Postgres) -> None:
    """What initdb makes where there is no locale (SQL_ASCII) holds studies as any other does."""
    with postgres.connect("postgres") as connection:
        connection.execute(
            "CREATE DATABASE plain ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' "
            "TEMPLATE template0"
        )
    write_study(tmp_path)
    url = postgres.url("plain")
    assert rnn_search(tmp_path, "run", "tiny.toml", "--storage", url).returncode == 0
    done = rnn_search(tmp_path, "show", "tiny", "--json", "--storage", url)
    told = trials_at(f"{url}?client_encoding=utf8")
    assert read_json(done.stdout)["trials"]["total"] == len(told)


def test_another_programs_studies_are_none(postgres: Postgres, name: str) -> None:
    """A table that happens to be called studies is left alone by those who only read."""
    with postgres.connect(name) as connection:
        connection.execute("CREATE TABLE studies (study_id int PRIMARY KEY, note text)")
    with pytest.raises(StudyError, match="holds no studies; give another --storage"):
        Database(postgres.url(name), create=False)
    with postgres.connect(name) as connection:
        found = connection.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        assert found.fetchall() == [(1,)]


def test_a_dashboard_whose_server_is_away(
    tmp_path: Path, start: Start, postgres: Postgres, name: str
) -> None:
    """Each request that cannot be answered is a line, without a traceback or a password."""
    write_study(tmp_path)
    url = postgres.url(name)
    assert rnn_search(tmp_path, "run", "tiny.toml", "--storage", url).returncode == 0
    port = free_port()
    process = start("--storage", url, "--port", str(port))
    assert f"http://127.0.0.1:{port}/" in line_of(process)
    studies = f"http://127.0.0.1:{port}/api/studies"
    assert urllib.request.urlopen(studies, timeout=30).status == 200
    postgres.stop()
    try:
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.urlopen(f"{studies}/1", timeout=60)
    finally:
        postgres.start()
    with psycopg.connect(url):
        assert urllib.request.urlopen(studies, timeout=30).status == 200
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert "a page was not answered: " in errors
    assert "Traceback" not in errors
    assert "File " not in errors
    assert QUOTED not in errors
