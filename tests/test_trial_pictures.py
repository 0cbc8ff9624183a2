"""Pictures of trials: drawn while there is time, a few at the end, and the newest first."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from many import write_many
from optuna.trial import FrozenTrial
from PIL import Image

from search import trial_pictures as module
from search.attachments import Attachments
from search.database import Database
from search.report import trial_line
from search.storage import open_study
from search.stored_study import StoredStudy
from search.trial_pictures import TrialPictures, draw_recorded, picture_id, picture_of, record

FIRST = 4


@pytest.fixture
def stored(tmp_path: Path) -> StoredStudy:
    """A study of four trials with no picture in a file."""
    stored = write_many(tmp_path, FIRST)
    for path in drawn(stored):
        path.unlink()
    return stored


@pytest.fixture
def said() -> list[str]:
    """What a person is told."""
    return []


@pytest.fixture
def waiting(stored: StoredStudy, said: list[str]) -> TrialPictures:
    """Those of a run that has just begun, all four to be drawn."""
    pictures = TrialPictures(stored, said.append)
    for trial in stored.trials():
        pictures.add(name_of(trial), trial_line(stored, trial, set()))
    return pictures


def name_of(trial: FrozenTrial) -> str:
    """Returns the id of a trial's picture, which it has."""
    picture = picture_of(trial)
    assert picture is not None
    return picture


def drawn(stored: StoredStudy) -> list[Path]:
    """Returns the files of all pictures."""
    return sorted(stored.database.artifacts.glob("*"))


def test_a_run_that_has_just_begun_draws_nothing(
    stored: StoredStudy, waiting: TrialPictures
) -> None:
    """Before a run has lasted long enough for a picture to be a small part of it, none is drawn."""
    for _ in range(100):
        waiting.draw_if_time()
    assert drawn(stored) == []


def test_the_newest_is_drawn_first_one_at_a_time(
    stored: StoredStudy, waiting: TrialPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is time, each call draws one picture, that of the newest trial."""
    monkeypatch.setattr(module, "SHARE", 1e9)
    for count in range(1, FIRST + 2):
        waiting.draw_if_time()
        newest = [name_of(trial) for trial in stored.trials()[-count:]]
        assert [path.name for path in drawn(stored)] == newest
        Image.open(io.BytesIO(drawn(stored)[0].read_bytes())).verify()


def test_drawing_takes_no_more_than_its_share(
    stored: StoredStudy, waiting: TrialPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked all the time, a run spends no more than its share on pictures, and draws some."""
    share, each = 0.2, []

    def slowly(*_: object) -> bytes:
        begun = time.monotonic()
        time.sleep(0.02)
        each.append(time.monotonic() - begun)
        return b""

    monkeypatch.setattr(module, "draw", slowly)
    monkeypatch.setattr(module, "SHARE", share)
    line = trial_line(stored, stored.trials()[0], set())
    for number in range(90):
        waiting.add(f"{number:032x}", line)
    waiting._cost, waiting._began = 0.0, time.monotonic()
    while time.monotonic() < waiting._began + 1:
        waiting.draw_if_time()
    # One is drawn by what the one before took, and may take longer.
    assert len(each) > 1
    assert sum(each[:-1]) <= share * (time.monotonic() - waiting._began) + max(each)


def test_the_end_of_a_run_draws_a_few(
    stored: StoredStudy, waiting: TrialPictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its end a run draws so many at once, however many more there are."""
    monkeypatch.setattr(module, "LATE", 3)
    waiting.draw_last()
    assert [path.name for path in drawn(stored)] == [name_of(t) for t in stored.trials()[1:]]
    waiting.draw_last()
    assert len(drawn(stored)) == FIRST


def test_only_the_newest_are_remembered(
    stored: StoredStudy, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that could not draw for long remembers the latest, so its memory does not grow."""
    monkeypatch.setattr(module, "WAITING", 2)
    pictures = TrialPictures(stored, said.append)
    for trial in stored.trials():
        pictures.add(name_of(trial), trial_line(stored, trial, set()))
    pictures.draw_last()
    assert [path.name for path in drawn(stored)] == [name_of(t) for t in stored.trials()[2:]]


def test_a_later_run_draws_what_an_earlier_one_has_not(
    stored: StoredStudy, said: list[str]
) -> None:
    """A run that trains nothing draws what is missing; one after it finds nothing to draw."""
    Attachments(stored, said.append).close()
    times = [path.stat().st_mtime_ns for path in drawn(stored)]
    assert len(times) == FIRST
    Attachments(stored, said.append).close()
    assert [path.stat().st_mtime_ns for path in drawn(stored)] == times


def test_a_disk_that_takes_no_picture_stops_nothing(
    stored: StoredStudy, waiting: TrialPictures, said: list[str]
) -> None:
    """If pictures cannot be written, that is said of each, and the run goes on."""
    stored.database.artifacts.rmdir()
    stored.database.artifacts.write_text("no folder")
    waiting.draw_last()
    assert len(said) == FIRST
    assert said[0].startswith(f"trial {FIRST - 1} has no picture: ")


def test_what_is_drawn_for_the_dashboard_is_what_a_run_draws(
    stored: StoredStudy, waiting: TrialPictures
) -> None:
    """A picture in no file is drawn from the database, to the same bytes as the file would have."""
    names = [name_of(trial) for trial in stored.trials()]
    asked = [draw_recorded(stored.database, name) for name in names]
    waiting.draw_last()
    assert asked == [(stored.database.artifacts / name).read_bytes() for name in names]


def test_a_file_that_was_deleted(stored: StoredStudy, said: list[str]) -> None:
    """A person's own file at a trial, and the trace of one deleted, neither hide nor break ours."""
    first, second = stored.trials()[:2]
    for trial, text in ((first, "null"), (second, record("x")["artifacts:x"])):
        with stored.database.engine.begin() as connection:
            # Before ours, as what is uploaded while a trial is in training.
            connection.execute(
                sa.text(
                    "INSERT INTO trial_system_attributes (trial_system_attribute_id, trial_id, "
                    "key, value_json) VALUES (:place, :trial, :key, :text)"
                ),
                {
                    "place": -trial._trial_id,
                    "trial": trial._trial_id,
                    "key": f"artifacts:{'a' * 8}",
                    "text": json.dumps(text),
                },
            )
    again = open_study(Database(str(stored.database), create=False), stored.config.name)
    assert draw_recorded(again.database, name_of(second)) is not None
    assert picture_of(again.trials()[0]) == name_of(first)
    Attachments(again, said.append).close()
    assert said == []
    assert name_of(first) in {path.name for path in drawn(stored)}


def test_a_study_of_others_first(stored: StoredStudy) -> None:
    """A picture that a study not of ours has, too, is drawn from ours, whichever comes first."""
    name = name_of(stored.trials()[0])
    with stored.database.engine.begin() as connection:
        values = {"study": 7, "trial": -5, "key": f"artifacts:{name}", "text": "{}"}
        for statement in (
            "INSERT INTO studies (study_id, study_name) VALUES (:study, 'theirs')",
            "INSERT INTO trials (trial_id, number, study_id, state) "
            "VALUES (:trial, 0, :study, 'COMPLETE')",
            "INSERT INTO trial_system_attributes (trial_id, key, value_json) "
            "VALUES (:trial, :key, :text)",
        ):
            connection.execute(sa.text(statement), values)
    assert draw_recorded(stored.database, name) is not None


def test_a_torn_picture_is_no_picture(
    stored: StoredStudy, waiting: TrialPictures, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fills up in the middle of a picture leaves no file under its name."""

    def fail(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    waiting.draw_last()
    assert drawn(stored) == []
    assert len(said) == FIRST


@pytest.mark.parametrize("picture", ["", "%", "0" * 32 + "0", "' OR 1=1 --", "../studies.db", "ü"])
def test_no_pictures_id(stored: StoredStudy, picture: str) -> None:
    """Whatever is no picture's id, the answer is that there is none."""
    assert draw_recorded(stored.database, picture) is None


def test_a_trial_always_has_the_same_picture(stored: StoredStudy) -> None:
    """A trial's picture has one id, no other trial has it, and its record is read again."""
    ids = [picture_id(stored, number) for number in range(1000)]
    assert len(set(ids)) == 1000
    assert ids[7] == picture_id(stored, 7)
    trial = stored.trials()[0]
    trial.system_attrs = {"else": "x", **record(ids[7])}
    assert picture_of(trial) == ids[7]
