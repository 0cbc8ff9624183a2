"""A study in one file, and a study that moves to another database while it is unfinished."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from disks import small_disk
from optuna.trial import TrialState
from test_copying import LONG, fields, fill
from tiny import (
    PATIENCE,
    epochs_reported,
    files_in,
    files_of,
    interrupt_when,
    read_json,
    record,
    rnn_search,
    start,
    trials_at,
    trials_of,
    wait_for_end,
    wait_until,
    write_study,
)

from search import copying
from search.copying import back_up
from search.database import Database
from search.errors import StudyError
from search.storage import list_studies, open_study
from search.trial_files import CHECKPOINT
from search.whole_files import remove_unfinished

if TYPE_CHECKING:
    from postgres import Postgres


def test_backup_is_the_whole_study(tmp_path: Path) -> None:
    """A backup holds the one study, equal in every field, in a file and a folder beside it."""
    source = Database(f"sqlite:///{tmp_path / 'a' / 'x.db'}", create=True)
    stored = fill(source, tmp_path)
    optuna.create_study(storage=source.storage, study_name="another")
    copied = back_up(stored, tmp_path / "b" / "mine.db")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["mine.db", "mine.trials"]
    database = Database(copied.storage, create=False)
    assert [study.study_name for study in list_studies(database)] == ["tiny"]
    copy = open_study(database, "tiny")
    assert [fields(trial) for trial in copy.trials()] == [fields(t) for t in stored.trials()]
    assert files_in(database.folder) == {f"00006/{CHECKPOINT}": b"state"}
    assert len(list(database.artifacts.iterdir())) == 2


def test_backups_in_the_way_of_each_other(tmp_path: Path) -> None:
    """What a killed backup has left is no hindrance; one that is under way is."""
    stored = fill(Database(f"sqlite:///{tmp_path / 'a' / 'x.db'}", create=True), tmp_path)
    file = tmp_path / "mine.db"
    left = tmp_path / ".mine.db.part" / "mine.trials"
    left.mkdir(parents=True)
    (left.parent / "mine.db").write_bytes(b"half")
    with copying._staging(file), pytest.raises(StudyError, match="is under way"):
        back_up(stored, file)
    assert back_up(stored, file).trials == 7
    assert not left.parent.exists()


def test_ended_by_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who ends a backup, or a copy, by a signal finds nothing of it, whatever had been copied."""
    stored = fill(Database(f"sqlite:///{tmp_path / 'a' / 'x.db'}", create=True), tmp_path)
    target = Database(f"sqlite:///{tmp_path / 'b' / 'x.db'}", create=True)
    left: list[list[str]] = []
    for step in ("copy_file", "_copy_artifacts"):

        def leave(*_: object) -> None:
            """Does what the answer to a signal does, but for the end of this process."""
            remove_unfinished()
            files = [path for place in "bc" for path in (tmp_path / place).rglob("*")]
            left.append([path.name for path in files if not path.name.startswith("x.db")])
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(copying, step, leave)
            for copy in (
                lambda: copying.copy_study(stored, target),
                lambda: back_up(stored, tmp_path / "c" / "mine.db"),
            ):
                with pytest.raises(KeyboardInterrupt):
                    copy()
    assert left == [["x.trials"], ["x.trials"], ["x.trials"], ["x.trials"]]


@dataclass(frozen=True)
class Reference:
    """The study that was never copied: what it promises to reproduce, and its files."""

    trials: list[dict[str, Any]]
    files: dict[str, bytes]
    epochs: int


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """The study, run in one go."""
    folder = tmp_path_factory.mktemp("whole")
    write_study(folder, **LONG)
    done = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return Reference(record(trials_of(folder)), files_of(folder), epochs_reported(folder))


def half_way(
    folder: Path, reference: Reference
) -> tuple[subprocess.Popen[str], Callable[[], bool]]:
    """Starts a run and returns it, and when it is in the middle of a trial."""
    write_study(folder, **LONG)
    run = start(folder, "run", "tiny.toml", "--workers", 1, often=True)
    return run, lambda: epochs_reported(folder) >= 0.5 * reference.epochs


@pytest.mark.slow
def test_there_and_back_again(reference: Reference, tmp_path: Path, postgres: Postgres) -> None:
    """Killed, copied to PostgreSQL, gone on with, killed, copied back: the end is the same."""
    run, moment = half_way(tmp_path, reference)
    wait_for_end(interrupt_when(run, moment, signal.SIGKILL))
    run.wait()
    name = postgres.new_database()
    url = postgres.url(name)
    done = rnn_search(tmp_path, "copy", "tiny", "--to", url, "--json")
    assert done.returncode == 0, done.stderr
    # The kill may have come between two trials.
    unfinished = [trial for trial in trials_of(tmp_path) if not trial.state.is_finished()]
    assert read_json(done.stdout)["unfinished"] == len(unfinished) <= 1
    known = sum(len(trial.intermediate_values) for trial in trials_at(url))
    again = start(tmp_path, "resume", "tiny", "--storage", url, "--workers", 1, often=True)

    def further() -> bool:
        with postgres.connect(name) as connection:
            query = "SELECT count(*) FROM trial_intermediate_values"
            (row,) = connection.execute(query).fetchall()
        return int(row[0]) >= known + 5

    wait_for_end(interrupt_when(again, further, signal.SIGKILL))
    again.wait()
    back = f"sqlite:///{tmp_path / 'back.db'}"
    done = rnn_search(tmp_path, "copy", "tiny", "--storage", url, "--to", back)
    assert done.returncode == 0, done.stderr
    done = rnn_search(tmp_path, "resume", "tiny", "--storage", back, "--workers", 1)
    assert done.returncode == 0, done.stderr
    assert record(trials_at(back)) == reference.trials
    assert files_in(tmp_path / "back.trials") == reference.files


@pytest.mark.slow
def test_backup_of_a_running_study(reference: Reference, tmp_path: Path) -> None:
    """A backup made while a study runs goes on to the same end, and so does the study."""
    run, moment = half_way(tmp_path, reference)
    wait_until(lambda: moment() or run.poll() is not None, "the middle of the study")
    source = Database(f"sqlite:///{tmp_path / 'studies' / 'studies.db'}", create=False)
    copied = back_up(open_study(source, "tiny"), tmp_path / "safe" / "mine.db")
    assert run.poll() is None, "the study ended before its backup"
    # None, if one trial has just ended and the next has not begun.
    assert (copied.unfinished, copied.in_training) in ((1, 1), (0, 0))
    assert run.wait(PATIENCE) == 0
    url = f"sqlite:///{tmp_path / 'safe' / 'mine.db'}"
    shown = rnn_search(tmp_path, "show", "tiny", "--storage", url, "--json")
    finished = read_json(shown.stdout)["trials"]
    assert 0 < finished["complete"] < len(reference.trials)
    done = rnn_search(tmp_path, "resume", "tiny", "--storage", url, "--workers", 1)
    assert done.returncode == 0, done.stderr
    for trials, files in (
        (trials_of(tmp_path), files_of(tmp_path)),
        (trials_at(url), files_in(tmp_path / "safe" / "mine.trials")),
    ):
        assert record(trials) == reference.trials
        assert files == reference.files


@pytest.mark.slow
def test_backup_of_postgresql(tmp_path: Path, postgres: Postgres) -> None:
    """A study on PostgreSQL is backed up to a SQLite file that goes on without the server."""
    write_study(tmp_path, budget={"trials": 2})
    url = postgres.url(postgres.new_database())
    done = rnn_search(tmp_path, "run", "tiny.toml", "--storage", url)
    assert done.returncode == 0, done.stderr
    done = rnn_search(tmp_path, "backup", "tiny", "mine.db", "--storage", url)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    arguments = line.split()[1:]
    assert arguments == ["resume", "tiny", "--storage", "sqlite:///mine.db"]
    done = rnn_search(tmp_path, *arguments, "--trials", 3)
    assert done.returncode == 0, done.stderr
    first = trials_at(url)
    after = trials_at(f"sqlite:///{tmp_path / 'mine.db'}")
    assert [fields(trial) for trial in after[:2]] == [fields(trial) for trial in first]
    assert [trial.state for trial in after] == [TrialState.COMPLETE] * 3


@pytest.mark.slow
def test_backup_on_a_full_disk(tmp_path: Path) -> None:
    """A backup that does not fit says so in one line, exits with 1, and leaves nothing."""
    write_study(tmp_path, budget={"trials": 2})
    assert rnn_search(tmp_path, "run", "tiny.toml").returncode == 0
    (tmp_path / "small").mkdir()
    with small_disk(tmp_path / "small", kilobytes=64):
        done = rnn_search(tmp_path, "backup", "tiny", "small/mine.db")
        assert done.returncode == 1, done.stdout + done.stderr
        assert "full" in done.stderr or "space" in done.stderr
        assert "Traceback" not in done.stderr
        assert list((tmp_path / "small").iterdir()) == []
    assert rnn_search(tmp_path, "backup", "tiny", "small/mine.db").returncode == 0
