"""The dashboard as a process: where it listens, when it refuses, whom it heeds, how it ends."""

from __future__ import annotations

import io
import json
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import psutil
import pytest
from asked import Asked
from many import write_many
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna_dashboard import _serializer
from PIL import Image
from refusing import Refuse
from tiny import COMMAND, environment, tiny_config

from search import dashboard as module
from search.dashboard import Dashboard, by_trial
from search.database import Database
from search.errors import RequestError, StudyError
from search.storage import create_study
from search.stored_study import StoredStudy
from search.trial_pictures import record

OPEN = ["127.0.0.1", "localhost"]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A study without trials, in the folder's default storage."""
    database = Database(f"sqlite:///{tmp_path / 'studies' / 'studies.db'}", create=True)
    attributes = {"data": "f00d", "baselines": {}, "notes": []}
    return create_study(database, tiny_config(tmp_path), attributes)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts dashboards in the folder, and ends them."""
    started = []

    def begin(*arguments: str, **more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [str(COMMAND), "dashboard", *arguments],
            cwd=tmp_path,
            env={**environment(), **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    """Returns the line that a dashboard prints when it listens."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return line


def status(url: str) -> int:
    """Returns how a URL is answered."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def end(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Sends a signal to a dashboard and expects it to end in peace."""
    process.send_signal(number)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def test_it_prints_its_url_and_ends_at_ctrl_c(stored: StoredStudy, start: Start) -> None:
    """The URL that is printed answers at once, on loopback alone, and Ctrl-C ends it with 0."""
    process = start()
    (url,) = [word.strip(";") for word in line_of(process).split() if word.startswith("http")]
    assert url.startswith("http://127.0.0.1:")
    assert status(url) == 200
    assert status(f"{url}api/studies/1") == 200
    listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == "LISTEN"]
    assert [c.laddr.ip for c in listening] == ["127.0.0.1"]
    end(process, signal.SIGINT)


def test_a_chosen_port_and_json(stored: StoredStudy, start: Start) -> None:
    """``--port`` is heeded, ``--json`` prints an object, and SIGTERM ends it with 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        number = free.getsockname()[1]
    process = start("--port", str(number), "--json")
    assert json.loads(line_of(process)) == {
        "url": f"http://127.0.0.1:{number}/",
        "storage": "sqlite:///studies/studies.db",
    }
    end(process, signal.SIGTERM)


def test_a_taken_port(stored: StoredStudy) -> None:
    """A port that was asked for and is taken is refused, with the remedy."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(RequestError, match=f"--port {number}: it is taken; give another"):
            Dashboard(str(stored.database), port=number)


def test_the_port_is_8080_or_another(stored: StoredStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a port it is 8080; while that is taken, any that is free."""
    assert module.PORT == 8080
    with socket.create_server(("127.0.0.1", 0)) as usual:
        monkeypatch.setattr(module, "PORT", usual.getsockname()[1])
        with Dashboard(str(stored.database)) as dashboard:
            number = int(dashboard.url.rstrip("/").rpartition(":")[2])
            assert number not in (0, module.PORT)
            assert status(f"http://localhost:{number}/api/studies") == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_every_signal_ends_it(stored: StoredStudy, number: signal.Signals) -> None:
    """Ctrl-C, SIGTERM and SIGHUP, also before it waits, end it, and are as they were afterwards."""
    before = signal.getsignal(number)
    with Dashboard(str(stored.database)) as dashboard:
        signal.raise_signal(number)
        dashboard.wait()
    assert signal.getsignal(number) == before
    with pytest.raises(urllib.error.URLError):
        status(dashboard.url)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "example.org", "::"])
def test_other_addresses_need_to_be_asked_for(refuse: Refuse, host: str) -> None:
    """An address that others might reach is refused unless it is asked for in so many words."""
    refuse({}, ("no login", "--i-know-there-is-no-login"), "dashboard", "--host", host)


def test_other_addresses_can_be_asked_for(stored: StoredStudy) -> None:
    """Asked for in so many words, it listens there and answers by whatever name it is called."""
    with Dashboard(str(stored.database), "0.0.0.0", exposed=True) as dashboard:
        port = dashboard.url.rstrip("/").rpartition(":")[2]
        request = urllib.request.Request(f"http://127.0.0.1:{port}/api/studies")
        request.add_header("Host", "mine.example.org")
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 200


def test_the_other_loopback(stored: StoredStudy) -> None:
    """IPv6's loopback needs no asking, and the URL is written as browsers want it."""
    with Dashboard(str(stored.database), "::1") as dashboard:
        assert dashboard.url.startswith("http://[::1]:")
        assert status(f"{dashboard.url}api/studies") == 200


def test_an_address_of_another_machine(stored: StoredStudy) -> None:
    """An address that this machine has not got is refused."""
    with pytest.raises(RequestError, match=r"--host 192\.0\.2\.1: .*an address of this machine"):
        Dashboard(str(stored.database), "192.0.2.1", exposed=True)


def test_nothing_to_show_is_refused(refuse: Refuse) -> None:
    """Without a database it says how to make one, and creates none."""
    refuse({}, ("no studies yet", "rnn-search run"), "dashboard")


def test_an_empty_database_is_refused(tmp_path: Path) -> None:
    """A database without a study is refused likewise."""
    url = f"sqlite:///{tmp_path / 'a.db'}"
    Database(url, create=True)
    with pytest.raises(StudyError, match=r"no studies yet in .*; rnn-search run"):
        Dashboard(url)


@pytest.mark.parametrize("number", ["0", "65536", "-1", "http", "8080.5", ""])
def test_a_port_that_is_none(refuse: Refuse, number: str) -> None:
    """What is no port is refused before anything is opened."""
    refuse({}, "is no port", "dashboard", f"--port={number}")


def test_the_password_is_nowhere_to_be_seen(start: Start, tmp_path: Path) -> None:
    """A password in the environment's URL is neither in the output nor in any argument."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://me:geheim@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=5"
        process = start(RNN_SEARCH_STORAGE=url)
        silent.accept()[0].close()
        running = psutil.Process(process.pid)
        everyone = [running, *running.children(recursive=True)]
        arguments = " ".join(word for one in everyone for word in one.cmdline())
        output, errors = process.communicate(timeout=60)
    assert "dashboard" in arguments
    assert process.returncode == 1
    assert "geheim" not in arguments + output + errors


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {"host": "evil.example.org"}),
        ("GET", {"host": "evil.example.org:8080"}),
        ("GET", {}),
        ("DELETE", {"host": "127.0.0.1:8080", "origin": "http://evil.example.org"}),
        ("DELETE", {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:9999"}),
        ("DELETE", {"host": "127.0.0.1:8080", "origin": "null"}),
        ("GET", {"host": "localhost:8080", "origin": "http://127.0.0.1:8080"}),
        ("GET", {"host": "127.0.0.1:8080", "sec_fetch_site": "cross-site"}),
        ("DELETE", {"host": "127.0.0.1:8080", "sec_fetch_site": "cross-site"}),
    ],
)
def test_foreign_pages_are_not_heeded(
    stored: StoredStudy, method: str, headers: dict[str, str]
) -> None:
    """A request from another page, or under another name, is refused and deletes nothing."""
    ask = Asked(stored.database, OPEN)
    code, body = ask("/api/studies/1", method, **headers)
    assert code == 403
    assert b"own pages only" in body
    assert ask("/api/studies/1", host="127.0.0.1")[0] == 200


def test_its_own_pages_are_heeded(stored: StoredStudy) -> None:
    """The dashboard's own page may write a note and delete a study, but not rename one."""
    ask = Asked(stored.database, OPEN)
    own = {"host": "127.0.0.1:8080", "origin": "http://127.0.0.1:8080"}
    own["sec_fetch_site"] = "same-origin"
    assert ask("/api/studies/1", host="127.0.0.1:8080", **{"sec_fetch_site": "none"})[0] == 200
    note = {"version": 1, "body": "mine"}
    assert ask("/api/studies/1/note", "PUT", note, **own)[0] == 204
    renamed = ask("/api/studies/1/rename", "POST", {"study_name": "other"}, **own)
    assert renamed == (403, b'{"reason": "A study of rnn-search keeps its name."}')
    assert ask("/api/studies/1", "DELETE", {"remove_associated_artifacts": False}, **own)[0] == 204


def test_uploaded_files_cannot_run(stored: StoredStudy) -> None:
    """What comes from the artifacts is sandboxed, keeps its type, and is for this page alone."""
    ask = Asked(stored.database)
    ask("/artifacts/1/00ff")
    assert ask.headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert ask.headers["X-Content-Type-Options"] == "nosniff"
    assert "Access-Control-Allow-Origin" not in ask.headers


def test_a_file_can_be_uploaded(stored: StoredStudy) -> None:
    """It is kept and served, also where no picture has made the folder of the files yet."""
    assert not stored.database.artifacts.exists()
    body = {"file": "data:text/plain;base64,aGk=", "filename": "a.txt"}
    with Dashboard(str(stored.database)) as dashboard:
        request = urllib.request.Request(
            f"{dashboard.url}api/artifacts/1",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert answer.status == 201
            name = json.load(answer)["artifact_id"]
        with urllib.request.urlopen(f"{dashboard.url}artifacts/1/{name}", timeout=60) as answer:
            assert answer.read() == b"hi"


def picture(url: str) -> bytes:
    """Returns what is served as a PNG, which can be opened."""
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"] == "image/png"
        png: bytes = answer.read()
    Image.open(io.BytesIO(png)).verify()
    return png


def test_pictures_are_served(tmp_path: Path) -> None:
    """A trial's picture is served, and drawn if it is in no file; then a study can be deleted."""
    stored = write_many(tmp_path, 3)
    (stored.database.artifacts / f"{2:032x}").unlink()
    with Dashboard(str(stored.database)) as dashboard:
        in_file = picture(f"{dashboard.url}artifacts/1/2/{1:032x}")
        drawn = picture(f"{dashboard.url}artifacts/1/3/{2:032x}")
        assert drawn != in_file
        request = urllib.request.Request(
            f"{dashboard.url}api/studies/1", b"{}", {"Content-Type": "application/json"}
        )
        request.method = "DELETE"
        with urllib.request.urlopen(request) as answer:
            assert answer.status == 204
    assert list(stored.database.artifacts.iterdir()) == []


def test_many_ask_for_a_picture_at_once(tmp_path: Path) -> None:
    """A picture that has to be drawn is the same for all of several browsers."""
    stored = write_many(tmp_path, 2)
    for file in stored.database.artifacts.iterdir():
        file.unlink()
    with Dashboard(str(stored.database)) as dashboard, ThreadPoolExecutor(8) as browsers:
        urls = [f"{dashboard.url}artifacts/1/{1 + i % 2}/{i % 2:032x}" for i in range(16)]
        pngs = list(browsers.map(picture, urls))
    assert len(set(pngs[::2])) == len(set(pngs[1::2])) == 1
    assert pngs[0] != pngs[1]


def test_what_cannot_be_drawn_is_not_there(tmp_path: Path) -> None:
    """404 is the answer for no picture's id, somebody's own file, and a study of others."""
    stored = write_many(tmp_path, 1)
    database = stored.database
    store = FileSystemArtifactStore(database.artifacts)
    (tmp_path / "own.txt").write_text("own")
    own = upload_artifact(
        artifact_store=store, file_path=str(tmp_path / "own.txt"), study_or_trial=stored.study
    )
    others = optuna.create_study(storage=database.storage, study_name="others")
    theirs = others.ask()
    database.storage.set_trial_system_attr(
        theirs._trial_id, f"artifacts:{7:032x}", record("x")["artifacts:x"]
    )
    (database.artifacts / own).unlink()
    with Dashboard(str(database)) as dashboard:
        base = f"{dashboard.url}artifacts"
        assert status(f"{base}/1/1/{9:032x}") == 404
        assert status(f"{base}/1/{own}") == 404
        assert status(f"{base}/2/{theirs._trial_id}/{7:032x}") == 404


def test_the_shortcut_changes_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a trial is handed by the shortcut gives the very answer that all attributes give."""
    ask = Asked(write_many(tmp_path, 12).database)
    monkeypatch.setattr(_serializer, "serialize_frozen_trial", module._plain)
    plain = ask.study()
    monkeypatch.setattr(_serializer, "serialize_frozen_trial", module._serialize_trial)
    assert ask.study() == plain
    assert plain["trials"][11]["note"]["body"]


def test_attributes_are_sorted_by_trial() -> None:
    """Notes and artifacts of trial 1 are not those of 11; the study's own are no trial's."""
    attributes = {
        "dashboard:1:note_ver": 1,
        "dashboard:11:note_str:0": "b",
        "dashboard:artifacts:1:ff": "c",
        "dashboard:note_ver": 4,
        "artifacts:00": "d",
    }
    assert by_trial(attributes) == {
        1: {"dashboard:1:note_ver": 1, "dashboard:artifacts:1:ff": "c"},
        11: {"dashboard:11:note_str:0": "b"},
    }
