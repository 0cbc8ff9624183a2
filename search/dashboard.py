"""optuna-dashboard on the studies and their pictures, in this process, for this machine alone.

It has no login: whoever reaches it may change and delete studies. So it listens on loopback, and
heeds no web page but its own: by itself optuna-dashboard answers to any Host and deletes a study
for any Origin. It runs in this process because another's arguments, a password among them, can be
read by every user of the machine.
"""

from __future__ import annotations

import errno
import io
import ipaddress
import json
import logging
import re
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from types import FrameType
from typing import TYPE_CHECKING, Any, BinaryIO, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from bottle import HTTPError
from optuna.artifacts import FileSystemArtifactStore
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna_dashboard import _bottle_util, _serializer, wsgi

from search.database import Database, exists
from search.errors import RequestError, StudyError
from search.processes import signals_answered
from search.storage import list_studies
from search.trial_pictures import draw_recorded

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PORT = 8080
"""The port if none is asked for and this one is free."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")
ABOUT_A_TRIAL = re.compile(r"dashboard:(?:artifacts:)?(\d+):")
"""How the name of a study's attribute begins that concerns one of its trials."""


RENAMING = re.compile("/api/studies/[^/]*/rename/?")
"""Optuna-dashboard makes another study for it, which is none of ours."""


def _briefly(record: logging.LogRecord) -> bool:
    """Has optuna-dashboard say a fault of the database in a line: every open page asks for more.

    Of all other faults it says the traceback, too.
    """
    said = record.getMessage()
    if "OperationalError" in said or "StorageInternalError" in said:
        first = said.splitlines()[0].removeprefix("Exception: ")
        record.msg, record.args = f"a page was not answered: {first}", ()
    return True


class Dashboard:
    """A dashboard that listens from its making until the end of its ``with`` block.

    Args:
        storage: The database's URL.
        host: The address to listen on.
        port: The port; None: `PORT` if it is free, else any.
        exposed: Whether ``host`` may be one that other machines reach.

    Attributes:
        database: The database.
        url: Where a browser finds it.

    Raises:
        RequestError: There is no study, the port is taken, or the address will not do.
    """

    def __init__(
        self, storage: str, host: str = LOOPBACK[0], port: int | None = None, exposed: bool = False
    ) -> None:
        private = _is_loopback(host)
        if not private and not exposed:
            raise RequestError(
                f"--host {host}: the dashboard has no login, and whoever reaches it can delete "
                "studies; leave --host out, or add --i-know-there-is-no-login"
            )
        self.database = _open(storage)
        logging.getLogger(_bottle_util.__name__).addFilter(_briefly)
        store = _Pictures(self.database)
        _spare_scans()
        self._server = _listen(host, port)
        known = {*LOOPBACK, host} if private else None
        self._server.set_app(guarded(wsgi(self.database.storage, store), known))
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_port}/"
        self._stopped = False
        self._answering = signals_answered(self._stop)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True)

    def __enter__(self) -> Self:
        """Begins to answer, and to heed signals."""
        self._answering.__enter__()
        self._thread.start()
        return self

    def wait(self) -> None:
        """Returns at Ctrl-C, SIGTERM or SIGHUP."""
        while not self._stopped:
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        """Stops listening."""
        self._server.shutdown()
        self._server.server_close()
        self._answering.__exit__(None, None, None)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True


def guarded(app: WSGIApplication, hosts: Iterable[str] | None) -> WSGIApplication:
    """Returns an application that heeds no web page but its own.

    Args:
        app: The application.
        hosts: The names it may be called by; None: any. A page whose own name was made to lead
            here calls it by that name.
    """
    names = None if hosts is None else {host.lower() for host in hosts}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host = environ.get("HTTP_HOST", "").lower()
        origin = environ.get("HTTP_ORIGIN")
        stranger = names is not None and _without_port(host) not in names
        # Browsers send an Origin with what changes something; this they send with everything.
        stranger = stranger or environ.get("HTTP_SEC_FETCH_SITE", "").lower() == "cross-site"
        if stranger or (origin is not None and origin.lower().partition("://")[2] != host):
            start_response("403 Forbidden", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"The dashboard answers to its own pages only, under its own address.\n"]
        if RENAMING.fullmatch(environ.get("PATH_INFO", "")):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [json.dumps({"reason": "A study of rnn-search keeps its name."}).encode()]
        return app(environ, _careful(start_response, environ.get("PATH_INFO", "")))

    return answer


def _careful(start_response: StartResponse, path: str) -> Callable[..., Any]:
    """Adds what keeps uploaded files from being run, and pages from being framed elsewhere."""
    added = [("X-Content-Type-Options", "nosniff"), ("X-Frame-Options", "SAMEORIGIN")]
    if path.startswith("/artifacts"):
        added.append(("Content-Security-Policy", "sandbox; default-src 'none'"))

    def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
        kept = [pair for pair in headers if pair[0] != "Access-Control-Allow-Origin"]
        return start_response(status, [*kept, *added], *error)

    return start


def _without_port(host: str) -> str:
    return host.rpartition("]")[0].strip("[") if "[" in host else host.partition(":")[0]


def _is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _open(storage: str) -> Database:
    remedy = "rnn-search run STUDY makes one"
    if not exists(storage):
        raise StudyError(f"there are no studies yet in {storage}; {remedy}")
    database = Database(storage, create=False)
    if not list_studies(database):
        raise StudyError(f"there are no studies yet in {database}; {remedy}")
    return database


class _Pictures(FileSystemArtifactStore):
    """The pictures of the trials: files of this machine, and else drawn when they are asked for.

    Args:
        database: Where the trials are.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database.artifacts)
        self._database = database

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Opens a picture, or answers that it is not there."""
        with suppress(ArtifactNotFound):
            return super().open_reader(artifact_id)
        png = draw_recorded(self._database, artifact_id)
        if png is None:
            raise HTTPError(404, "This file is not on this machine.")
        return io.BytesIO(png)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keeps what somebody uploads; there may be no folder yet, because there is no picture."""
        self._database.artifacts.mkdir(parents=True, exist_ok=True)
        super().write(artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        """Removes a picture if it is there; else its study could not be deleted."""
        with suppress(ArtifactNotFound):
            super().remove(artifact_id)


class _QuietHandler(WSGIRequestHandler):
    """Does not print every request."""

    def log_message(self, *_: object) -> None:
        """Prints nothing."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _QuietHandler)


def _listen(host: str, port: int | None) -> _Server:
    try:
        return _Server(host, PORT if port is None else port)
    except UnicodeError:  # No name of a machine: it may not be written so.
        raise RequestError(f"--host {host}: is no address; give one of this machine") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE and port is None:
            return _Server(host, 0)
        if error.errno == errno.EADDRINUSE:
            what, remedy = f"--port {port}: it is taken", "give another, or leave it out"
        elif error.errno == errno.EACCES:
            what, remedy = f"--port {port}: {error.strerror}", "give one from 1024 on"
        else:
            what, remedy = f"--host {host}: {error.strerror}", "give an address of this machine"
        raise RequestError(f"{what}; {remedy}") from None


def _spare_scans() -> None:
    """Hands optuna-dashboard, for each trial, only what concerns this trial.

    By itself it looks through the notes of all trials once for every trial: 8 s of a page's load
    at 2 000 trials, and four times that at 4 000.
    """
    _serializer.serialize_frozen_trial = _serialize_trial


_plain = _serializer.serialize_frozen_trial
_sorted = threading.local()


def _serialize_trial(study_id: int, trial: Any, attributes: dict[str, Any]) -> dict[str, Any]:
    # Each request has a thread of its own and reads the attributes once.
    if getattr(_sorted, "attributes", None) is not attributes:
        _sorted.attributes, _sorted.by_trial = attributes, by_trial(attributes)
    serialized: dict[str, Any] = _plain(study_id, trial, _sorted.by_trial.get(trial._trial_id, {}))
    return serialized


def by_trial(attributes: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Sorts a study's system attributes by the id of the trial that they concern."""
    found: dict[int, dict[str, Any]] = defaultdict(dict)
    for name, value in attributes.items():
        match = ABOUT_A_TRIAL.match(name)
        if match:
            found[int(match[1])][name] = value
    return found
