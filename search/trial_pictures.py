"""The picture of each trial: drawn while there is time for it, else when somebody looks.

To draw one takes as long as some epochs of a small network, on a processor that the trainers need.
So a run spends only a small part of its time on pictures, the newest trials first, and the
dashboard draws a picture that is in no file, also one of a trial of another machine.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import sqlalchemy as sa
from optuna.artifacts import ArtifactMeta
from optuna.trial import FrozenTrial

from search.database import Database
from search.errors import RequestError
from search.pictures import curve_picture
from search.report import TrialLine, trial_line
from search.storage import open_study
from search.stored_study import StoredStudy
from search.whole_files import written_whole

NAME = "curve.png"
SHARE = 0.02
"""Part of a run's time in which pictures are drawn while trainers are at work."""
COST = 1.0
"""Seconds that the first picture takes, with the package that draws, beside two trainers; what
others take is seen."""
WAITING = 100
"""Pictures that a run remembers to draw, the newest."""
LATE = 20
"""Of these, how many it draws at its end: a second or less."""
_attributes = sa.table(
    "trial_system_attributes", sa.column("trial_id"), sa.column("key"), sa.column("value_json")
)
_trials = sa.table("trials", sa.column("trial_id"), sa.column("study_id"))


class TrialPictures:
    """The pictures that a run has to draw.

    Args:
        stored: The study.
        say: Is told what a person should know.
    """

    def __init__(self, stored: StoredStudy, say: Callable[[str], None]) -> None:
        self._stored = stored
        self._say = say
        self._folder = stored.database.artifacts
        self._undrawn: deque[tuple[str, TrialLine]] = deque(maxlen=WAITING)
        self._began, self._spent, self._cost = time.monotonic(), 0.0, COST

    def has(self, picture: str) -> bool:
        """Says whether a picture is in a file on this machine."""
        return (self._folder / picture).exists()

    def add(self, picture: str, line: TrialLine) -> None:
        """Remembers to draw a trial's picture, before those added earlier."""
        self._undrawn.append((picture, line))

    def draw_if_time(self) -> None:
        """Draws one, if the run has spent so little time on pictures that one more is no harm."""
        allowed = SHARE * (time.monotonic() - self._began)
        if self._undrawn and self._spent + self._cost <= allowed:
            self._draw()

    def draw_last(self) -> None:
        """Draws a few: the run is over."""
        for _ in range(min(LATE, len(self._undrawn))):
            self._draw()

    def _draw(self) -> None:
        """Writes the newest; it is not worth a run that the disk does not take it."""
        picture, line = self._undrawn.pop()
        begun = time.monotonic()
        if self.has(picture):  # Another run has drawn it meanwhile.
            return
        png = draw(self._stored, line)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # The dashboard takes what there is for whole.
            with written_whole(self._folder / picture) as part:
                part.write_bytes(png)
        except OSError as error:
            self._say(f"trial {line.number} has no picture: {error}")
        self._cost = time.monotonic() - begun
        self._spent += self._cost


def picture_id(stored: StoredStudy, number: int) -> str:
    """Returns the id of a trial's picture; always the same, so that there is never a second."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{stored.folder.name}/{number:05d}"))


def record(picture: str) -> dict[str, str]:
    """Returns the attribute of a trial that says that it has a picture, as Optuna writes it."""
    meta = ArtifactMeta(picture, NAME, "image/png", None)
    return {f"artifacts:{picture}": json.dumps(asdict(meta))}


def picture_of(trial: FrozenTrial) -> str | None:
    """Returns the id of the picture that a finished trial has."""
    for name, text in trial.system_attrs.items():
        if name.startswith("artifacts:") and _is_picture(text):
            return name.partition(":")[2]
    return None


def _is_picture(text: str) -> bool:
    """Says whether a record is of a picture; of a file that was deleted there is but ``null``."""
    meta = json.loads(text)
    return bool(meta) and meta.get("filename") == NAME


def draw(stored: StoredStudy, line: TrialLine) -> bytes:
    """Draws a trial's training and validation loss as a PNG."""
    config = stored.config
    return curve_picture(
        line.curve["train"],
        line.curve["valid"],
        metric=config.metric,
        best_epoch=line.epoch,
        title=f"{config.name} #{line.number}: {line.outcome}",
    )


def draw_recorded(database: Database, picture: str) -> bytes | None:
    """Draws a picture that trial attributes tell of.

    Args:
        database: Any of Optuna's studies may be in it.
        picture: The picture's id; may be anything.

    Returns:
        A PNG; None if no trial of ours has such a picture.
    """
    query = (
        sa.select(_trials.c.trial_id, _trials.c.study_id)
        .join_from(_trials, _attributes, _trials.c.trial_id == _attributes.c.trial_id)
        .where(_attributes.c.key == f"artifacts:{picture}")
        .order_by(_trials.c.trial_id)
    )
    with database.engine.connect() as connection:
        found = connection.execute(query).all()
    storage = database.storage
    # A fork's trials have the pictures of those that they are copies of.
    for trial_id, study_id in found:
        # What was deleted meanwhile, was made by others, or is of another version is left out.
        with suppress(KeyError, RequestError):
            stored = open_study(database, storage.get_study_name_from_id(study_id))
            trial = storage.get_trial(trial_id)
            line = trial_line(stored, trial, set())
            if line.curve and _is_picture(trial.system_attrs[f"artifacts:{picture}"]):
                return draw(stored, line)
    return None
