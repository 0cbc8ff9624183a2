"""A SQLite file that is locked, full, read-only, empty, corrupt or old: each the real thing."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from disks import fill_up, read_only, small_disk
from faults import LONG_ENOUGH, begin, finished, output_of, reach, reference_of, require_failure
from faults import STUDY as LONG
from optuna.storages import RDBStorage
from refusing import cases, tree
from tiny import (
    count,
    epochs_reported,
    files_in,
    read_json,
    record,
    rnn_search,
    tiny_config,
    trials_of,
    wait_for_end,
    write_study,
)

from search.cli import main
from search.database import Database
from search.errors import LostError, StudyError
from search.storage import create_study
from search.trial import Curve, Decision, Epoch, Outcome

Told = list[dict[str, Any]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """The trials of the study that nothing happened to."""
    return reference_of(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of two trials."""
    folder = tmp_path_factory.mktemp("trained")
    write_study(folder, budget={"trials": 2})
    done = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return folder


def database_of(folder: Path) -> Path:
    """Returns the file in which a folder's studies are."""
    return folder / "studies" / "studies.db"


def a_trial_is_done(folder: Path) -> Callable[[], bool]:
    """Returns a condition: a trial has ended, and another has begun to report."""
    return lambda: count(folder, "trial_values") >= 1 and epochs_reported(folder) >= 14


def require_the_rest(folder: Path, before: list[tuple[Any, ...]], reference: Told) -> None:
    """Goes on, and checks that what was finished was told and not trained again."""
    assert begin(folder).wait(LONG_ENOUGH) == 0, output_of(folder)
    resumed = f"Study tiny (resumed): {len(before)} of {len(reference)} trials done"
    assert resumed in output_of(folder)
    after = trials_of(folder)
    assert finished(after)[: len(before)] == before
    assert record(after) == reference


@pytest.mark.slow
def test_a_lock_of_half_a_minute(reference: Told, tmp_path: Path) -> None:
    """While another program holds the database for 30 s a run waits, loses nothing, and ends."""
    write_study(tmp_path, **LONG)
    run = begin(tmp_path)
    reach(run, a_trial_is_done(tmp_path))
    with closing(sqlite3.connect(database_of(tmp_path), timeout=60)) as other:
        other.execute("BEGIN IMMEDIATE")
        epochs = epochs_reported(tmp_path)
        assert not threading.Event().wait(30)
        assert run.poll() is None
        assert epochs_reported(tmp_path) == epochs
        other.rollback()
    assert run.wait(LONG_ENOUGH) == 0, output_of(tmp_path)
    assert record(trials_of(tmp_path)) == reference


@pytest.mark.slow
def test_a_full_disk(reference: Told, tmp_path: Path) -> None:
    """A disk that fills up ends a run; with room again, what was finished stays finished."""
    write_study(tmp_path, **LONG)
    (tmp_path / "studies").mkdir()
    with small_disk(tmp_path / "studies", kilobytes=4096):
        run = begin(tmp_path)
        children = reach(run, a_trial_is_done(tmp_path))
        ballast = fill_up(tmp_path / "studies")
        require_failure(run, children, tmp_path, "full", "No space left", "I/O error")
        ballast.unlink()
        before = finished(trials_of(tmp_path))
        assert before
        require_the_rest(tmp_path, before, reference)


def test_a_disk_that_is_full_from_the_start(tmp_path: Path) -> None:
    """Where there is no room for a database a run says so in one line and trains nothing."""
    write_study(tmp_path, **LONG)
    (tmp_path / "studies").mkdir()
    with small_disk(tmp_path / "studies", kilobytes=64):
        fill_up(tmp_path / "studies")
        done = rnn_search(tmp_path, "run", "tiny.toml")
        assert done.returncode in (1, 2), done.stderr
        assert "studies.db" in done.stderr
        assert "full" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_fork_on_a_full_disk(trained: Path, tmp_path: Path) -> None:
    """A fork whose files find no room says so in one line, and is made whole once there is."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    home = tmp_path / "studies" / "studies.trials"
    files = home.rename(tmp_path / "files")
    home.mkdir()
    with small_disk(home, kilobytes=256):
        shutil.copytree(files, home, dirs_exist_ok=True)
        ballast = fill_up(home)
        done = rnn_search(tmp_path, "run", "tiny.toml", "--fork", "forked")
        assert done.returncode == 1, done.stderr
        (line,) = done.stderr.splitlines()
        assert line.startswith("rnn-search: studies/studies.trials/forked-")
        assert line.endswith("no space left")
        ballast.unlink()
        assert rnn_search(tmp_path, "run", "tiny.toml", "--fork", "forked").returncode == 0
        assert files_in(home, "forked") == files_in(home)


def remove(file: Path) -> None:
    """Removes a database with its log."""
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()


def replace(file: Path) -> None:
    """Puts another file in a database's place."""
    other = file.with_name("other")
    other.write_bytes(file.read_bytes())
    other.replace(file)


@pytest.mark.slow
@pytest.mark.parametrize("harm", [remove, replace, Path.unlink])
def test_a_file_that_goes_away(
    reference: Told, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    """A database removed or replaced under a run ends it, and is there again with all it had."""
    write_study(tmp_path, **LONG)
    run = begin(tmp_path)
    children = reach(run, a_trial_is_done(tmp_path))
    harm(database_of(tmp_path))
    assert run.wait(LONG_ENOUGH) == 1, output_of(tmp_path)
    wait_for_end(children)
    said = output_of(tmp_path)
    assert "Traceback" not in said
    assert "studies.db was removed, emptied or replaced while it was in use" in said
    for log in tmp_path.glob("studies/studies.db-[ws]*"):
        assert log.name in said
        log.unlink()
    database_of(tmp_path).with_name("studies.rescued.db").replace(database_of(tmp_path))
    before = finished(trials_of(tmp_path))
    assert before
    require_the_rest(tmp_path, before, reference)


def test_what_was_rescued_twice(tmp_path: Path) -> None:
    """Two runs that miss the same database each rescue it, under names of their own."""
    file = tmp_path / "studies.db"
    databases = [Database(f"sqlite:///{file}", create=True) for _ in range(2)]
    for database in databases:  # A connection that is open sees what was there.
        with database.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1 FROM studies")
    file.unlink()
    for database, name in zip(databases, ("rescued", "rescued2"), strict=True):
        says = pytest.raises(LostError, match=rf"is in .*studies\.{name}\.db: give")
        with says, database.exclusive():
            pass
        assert (tmp_path / f"studies.{name}.db").exists()
    assert not list(tmp_path.glob("studies.db-[ws]*"))


def test_a_folder_that_goes_away(tmp_path: Path) -> None:
    """Whoever moves a running study's folder is told, and not that everything is safe."""
    database = Database(f"sqlite:///{tmp_path / 'a' / 'studies.db'}", create=True)
    (tmp_path / "a").rename(tmp_path / "b")
    with (
        pytest.raises(LostError, match="removed or moved while it was in use"),
        database.exclusive(),
    ):
        pass


READING = [
    ("list", "list"),
    ("show", "show tiny"),
    ("show a trial", "show tiny 0"),
    ("report", "report tiny --out page"),
    ("backup", "backup tiny copy.db"),
]


@pytest.mark.parametrize("line", cases(READING))
def test_reading_what_cannot_be_written(trained: Path, tmp_path: Path, line: str) -> None:
    """Commands that only read work on a read-only disk, and print what they would elsewhere."""
    storage = ("--storage", f"sqlite:///{database_of(trained)}")
    with read_only(trained / "studies"):
        there = rnn_search(tmp_path, *line.split(), *storage)
    assert there.returncode == 0, there.stderr
    if line.startswith(("list", "show")):
        assert there.stdout == rnn_search(tmp_path, *line.split(), *storage).stdout


def test_reading_what_a_killed_run_left(tmp_path: Path) -> None:
    """On a read-only disk the last commits of a killed run, still in SQLite's log, are seen.

    Once somebody has removed the database, to begin anew, they are not read into the next.
    """
    write_study(tmp_path, **LONG)
    run = begin(tmp_path)
    children = reach(run, a_trial_is_done(tmp_path))
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    wait_for_end(children)
    assert database_of(tmp_path).with_name("studies.db-wal").stat().st_size > 0
    with read_only(tmp_path / "studies"):
        there = rnn_search(tmp_path, "show", "tiny", "--json")
    assert there.returncode == 0, there.stderr
    counts = read_json(there.stdout)["trials"]
    assert (counts["complete"] >= 1, counts["interrupted"]) == (True, 1)
    database_of(tmp_path).unlink()
    write_study(tmp_path, budget={"trials": 1})
    anew = rnn_search(tmp_path, "run", "tiny.toml", "--workers", 1)
    assert anew.returncode == 0, anew.stderr
    assert "the log of a database that is gone; it is studies/studies.db-wal.old now" in anew.stderr
    assert [trial.state.name for trial in trials_of(tmp_path)] == ["COMPLETE"]


@pytest.mark.parametrize("verb", ["run tiny.toml", "resume tiny", "evaluate tiny"])
def test_training_on_what_cannot_be_written(trained: Path, verb: str) -> None:
    """Commands that write refuse a read-only disk in one line, before they train."""
    before = tree(trained)
    with read_only(trained / "studies"):
        done = rnn_search(trained, *verb.split())
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr
    assert "studies" in done.stderr.splitlines()[0]
    assert "cannot be written" in done.stderr.splitlines()[0]
    assert tree(trained) == before


def cut_short(content: bytes) -> bytes:
    """Returns the first half of a database."""
    return content[: len(content) // 2]


def scribbled(content: bytes) -> bytes:
    """Returns a database whose pages but the first are overwritten."""
    return content[:4096] + b"\xa5" * (len(content) - 4096)


@pytest.mark.parametrize("damage", [cut_short, scribbled, lambda _: b"", lambda _: b"text" * 999])
@pytest.mark.parametrize("line", ["run tiny.toml", "list", "show tiny", "backup tiny b.db"])
def test_a_damaged_file(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[bytes], bytes],
    line: str,
) -> None:
    """A damaged database is named in one line, and left as it is for whoever can mend it."""
    write_study(tmp_path, budget={"trials": 3})
    (tmp_path / "studies").mkdir()
    content = damage(database_of(trained).read_bytes())
    database_of(tmp_path).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) in (1, 2)
    errors = capsys.readouterr().err
    assert "studies.db" in errors.splitlines()[0]
    assert len(errors.splitlines()) <= 2
    assert database_of(tmp_path).read_bytes() == content


@pytest.mark.parametrize("name", ["poetry.db", "poetry.lock", "poetry"])
def test_files_beside_it_are_left_alone(tmp_path: Path, name: str) -> None:
    """No file of the user's that lies beside a database is emptied, nor the database itself."""
    (tmp_path / "poetry.lock").write_text("precious")
    (tmp_path / name).unlink(missing_ok=True)
    write_study(tmp_path)
    database = Database(f"sqlite:///{tmp_path / name}", create=True)
    attributes = {"data": "f00d", "baselines": {}, "notes": []}
    stored = create_study(database, tiny_config(tmp_path), attributes)
    assert stored.take(1) is not None
    assert len(stored.trials()) == 1
    if name != "poetry.lock":
        assert (tmp_path / "poetry.lock").read_text() == "precious"


def test_a_database_in_the_place_of_its_files(tmp_path: Path) -> None:
    """A name that its trials' folder has to have is refused, and nothing is made."""
    with pytest.raises(StudyError, match=r"call the database mine\.db"):
        Database(f"sqlite:///{tmp_path / 'mine.trials'}", create=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_older_schema(trained: Path, tmp_path: Path) -> None:
    """A database of an older Optuna is refused with the remedy, which mends it."""
    write_study(tmp_path, budget={"trials": 3})
    (tmp_path / "studies").mkdir()
    database_of(tmp_path).write_bytes(database_of(trained).read_bytes())
    storage = RDBStorage(f"sqlite:///{database_of(tmp_path)}")
    with closing(sqlite3.connect(database_of(tmp_path), isolation_level=None)) as connection:
        # What Optuna 3.2 added to what 3.1 made.
        connection.execute("DROP INDEX ix_trials_study_id")
        connection.execute("UPDATE alembic_version SET version_num = 'v3.0.0.d'")
    for line in ("run tiny.toml", "list"):
        done = rnn_search(tmp_path, *line.split())
        assert done.returncode == 1
        assert "optuna storage upgrade --storage $STORAGE_URL" in done.stderr
        assert "Traceback" not in done.stderr
    assert len(finished(trials_of(trained))) == 2
    storage.upgrade()
    done = rnn_search(tmp_path, "run", "tiny.toml")
    assert done.returncode == 0, done.stderr
    assert "(resumed): 2 of 3 trials done" in done.stdout


def test_results_are_on_disk_before_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`finish` returns only when the log that holds the result has been forced to the disk."""
    database = Database(f"sqlite:///{tmp_path / 'studies.db'}", create=True)
    write_study(tmp_path)
    attributes = {"data": "f00d", "baselines": {}, "notes": []}
    stored = create_study(database, tiny_config(tmp_path), attributes)
    taken = stored.take(1)
    assert taken is not None
    forced: list[tuple[str, bool]] = []

    def fsync(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        forced.append((path.name, b"trained to the end" in path.read_bytes()))

    monkeypatch.setattr(os, "fsync", fsync)
    curve = Curve((Epoch(1, 1.0, {"loss": 0.5}, 0.01, 0.1),))
    stored.finish(taken, Decision(Outcome.COMPLETE, "trained to the end"), curve, {})
    assert forced == [("studies.db-wal", True)]


@pytest.mark.slow
def test_the_umask_is_heeded(trained: Path, tmp_path: Path) -> None:
    """Every file and folder that a study makes has the permissions that the user's umask leaves."""
    write_study(tmp_path, budget={"trials": 2})
    before = os.umask(0o027)
    try:
        for line in (
            "run tiny.toml",
            "backup tiny safe/mine.db",
            "report tiny --out page",
            "export tiny model",
        ):
            done = rnn_search(tmp_path, *line.split())
            assert done.returncode == 0, done.stderr
    finally:
        os.umask(before)
    made = [
        path
        for name in ("studies", "safe", "page", "model")
        for path in (tmp_path / name).rglob("*")
    ]
    modes = {path: path.stat().st_mode & 0o777 for path in made}
    assert len(made) > 20
    wrong = {
        str(path): oct(mode)
        for path, mode in modes.items()
        if mode != (0o750 if path.is_dir() else 0o640)
    }
    assert wrong == {}
