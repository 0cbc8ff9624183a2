"""optuna-dashboard without a server: a request in, status and body out."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from optuna_dashboard import wsgi

from search.dashboard import guarded
from search.database import Database


class Asked:
    """The dashboard's own API on a database, called in this process.

    Attributes:
        headers: Of the last answer.
    """

    def __init__(self, database: Database, hosts: list[str] | None = None) -> None:
        self._app = guarded(wsgi(database.storage), hosts)
        self.headers: dict[str, str] = {}

    def __call__(
        self, path: str, method: str = "GET", body: object = None, **headers: str
    ) -> tuple[int, bytes]:
        """Asks.

        Args:
            path: Without a query.
            method: The verb.
            body: Sent as JSON.
            headers: By name, such as ``Host``.

        Returns:
            Status and body.
        """
        sent = b"" if body is None else json.dumps(body).encode()
        status: list[str] = []

        def start(line: str, answered: list[tuple[str, str]], *_: object) -> None:
            status.append(line)
            self.headers = dict(answered)

        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(sent)),
            "wsgi.input": io.BytesIO(sent),
            "wsgi.errors": sys.stderr,
            "wsgi.url_scheme": "http",
            **{f"HTTP_{name.upper()}": value for name, value in headers.items()},
        }
        answer = b"".join(self._app(environ, start))
        return int(status[0].split()[0]), answer

    def study(self, study_id: int = 1) -> dict[str, Any]:
        """Returns what the dashboard knows of a study."""
        status, body = self(f"/api/studies/{study_id}")
        assert status == 200, body
        read = json.loads(body)
        assert isinstance(read, dict)
        return read
