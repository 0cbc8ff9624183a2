"""Attaches what optuna-dashboard shows of ours: notes, pictures and plots of a study.

A trial's note and the record of its picture are attached before it is told, as Optuna wants it;
attaching them once more replaces them. The picture itself is drawn when the trainers are busy
again, and if a run is killed before, by the next one. What a person has written stays.

Notes are attributes of the study, under the names that optuna-dashboard gives them. They are
written here one by one, because its `save_note` reads the notes of all trials each time: 0.15 s at
2 000 trials, and over a second once for the packages that it loads.
"""

from __future__ import annotations

import contextlib
import io
import json
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import asdict

import sqlalchemy as sa
from optuna.artifacts import ArtifactMeta, FileSystemArtifactStore, get_all_artifact_meta
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial

from search.coordinator import Attacher
from search.diagnosis import Finding
from search.notes import study_note, trial_note
from search.pictures import curve_picture
from search.plots import best_curves, rate_against_loss
from search.report import TrialLine, summarize, trial_line
from search.storage import StoredStudy, Taken
from search.trial import Curve, Decision

PICTURE = "curve.png"
LINE = "\n\n---\n"
BELOW = (
    f"\n\n*rnn-search writes this anew as it goes on. What you write below the line stays.*{LINE}"
)
"""Ends what is ours of a study's note."""
FEW, SHARE = 3, 10
"""A study's note and plots are written anew when so many trials, or this part of all, are new."""
LATE = 20
"""Pictures that a killed run has left undrawn and that are drawn at a run's end, 30 ms each."""
_attributes = sa.table(
    "study_system_attributes", sa.column("study_id"), sa.column("key"), sa.column("value_json")
)


class Attachments(Attacher):
    """Attaches notes, pictures and plots to one study while it runs.

    Args:
        stored: The study.
        say: Is told what a person should know.
    """

    def __init__(self, stored: StoredStudy, say: Callable[[str], None]) -> None:
        self._stored = stored
        self._study_id = stored.study._study_id
        self._say = say
        self._folder = stored.database.artifacts
        self._store = FileSystemArtifactStore(self._folder)
        self._undrawn: deque[tuple[str, TrialLine]] = deque()
        self._missing: deque[tuple[str, TrialLine]] | None = None
        self._new, self._wanted = 0, 1

    def attach(
        self, taken: Taken, decision: Decision, curve: Curve, finding: Finding | None
    ) -> None:
        """Attaches note and picture to a trial that is about to be told.

        Args:
            taken: The trial.
            decision: How and why it ended.
            curve: Its epochs; if there are none, there is no picture.
            finding: What its losses say.
        """
        best = curve.best(self._stored.goal)
        line = TrialLine(
            number=taken.number,
            outcome=str(decision.outcome),
            value=None,
            params=taken.params.to_dict(),
            epoch=best.index if best else None,
            epochs=len(curve),
            figures=best.figures if best else {},
            reason=decision.reason,
            seconds=None,
            curve=curve.compact(),
            finding=finding,
        )
        # Another run may have taken over and told a trial while this one slept.
        with contextlib.suppress(UpdateFinishedTrialError):
            self._stored.database.patiently(lambda: self._attach(taken.trial_id, line))
            self._new += 1

    def idle(self) -> None:
        """Draws what is to be drawn, and writes the study's note anew if it is time."""
        if self._missing is None:
            self._missing = self._look_back()
            curve_picture([], [])  # Loads what draws, while the first trials begin.
        if not self._draw() and self._missing:
            self._paint(*self._missing.popleft())
        if self._new >= self._wanted:
            self._refresh()

    def close(self) -> None:
        """Draws what is left, and writes the study's note for the last time."""
        missing = self._look_back() if self._missing is None else self._missing
        self._draw()
        for _ in range(min(LATE, len(missing))):
            self._paint(*missing.popleft())
        self._refresh()

    def _attach(self, trial_id: int, line: TrialLine) -> None:
        picture = None
        if line.epochs:
            # The same at a second try, so that there is never a second picture.
            picture = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self._stored.folder.name}/{trial_id}"))
            meta = ArtifactMeta(picture, PICTURE, "image/png", None)
            self._stored.database.storage.set_trial_system_attr(
                trial_id, f"artifacts:{picture}", json.dumps(asdict(meta))
            )
            self._undrawn.append((picture, line))
        self._write(trial_id, line, picture)

    def _write(self, trial_id: int, line: TrialLine, picture: str | None) -> None:
        path = picture and f"/artifacts/{self._study_id}/{trial_id}/{picture}"
        ours = trial_note(line, self._stored.config.metric, path)
        note = _Note(self._stored, f"{trial_id}:")
        # Of what is there already, ours is from a run that was killed before it told the trial; a
        # person's is from the time when the trial was in training.
        had_ours = note.body.startswith(ours) or (path and path in note.body)
        theirs = note.body.partition(LINE)[2] if had_ours else note.body
        note.write(ours + LINE + theirs if theirs else ours)

    def _draw(self) -> bool:
        """Draws the pictures of this run's trials; returns False if there was none to draw."""
        any_left = bool(self._undrawn)
        while self._undrawn:
            self._paint(*self._undrawn.popleft())
        return any_left

    def _paint(self, picture: str, line: TrialLine) -> None:
        """Writes a picture; it is not worth a run that the disk does not take it."""
        config = self._stored.config
        png = curve_picture(
            line.curve["train"],
            line.curve["valid"],
            metric=config.metric,
            best_epoch=line.epoch,
            title=f"{config.name} #{line.number}: {line.outcome}",
        )
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._store.write(picture, io.BytesIO(png))
        except OSError as error:
            self._say(f"trial {line.number} has no picture: {error}")

    def _look_back(self) -> deque[tuple[str, TrialLine]]:
        """Gives finished trials their notes that have none; returns the pictures that are missing.

        These are trials of a fork, of a study from before there were notes, and what a killed
        run, or one on another machine, has not drawn here.
        """
        storage = self._stored.database.storage
        finished = [trial for trial in self._stored.trials() if trial.state.is_finished()]
        known = (
            self._stored.database.patiently(lambda: storage.get_study_system_attrs(self._study_id))
            if finished
            else {}
        )
        missing: deque[tuple[str, TrialLine]] = deque()
        for trial in finished:
            picture = self._picture(trial)
            line = trial_line(self._stored, trial, set())
            if f"dashboard:{trial._trial_id}:note_ver" not in known:
                self._write(trial._trial_id, line, picture)
            if picture is not None and line.curve and not (self._folder / picture).exists():
                missing.append((picture, line))
        return missing

    def _picture(self, trial: FrozenTrial) -> str | None:
        """Returns the id of the picture that a finished trial has."""
        known = get_all_artifact_meta(trial, storage=self._stored.database.storage)
        return next((one.artifact_id for one in known if one.filename == PICTURE), None)

    def _refresh(self) -> None:
        """Writes the study's note and plots anew."""
        lines = [trial_line(self._stored, trial, set()) for trial in self._stored.trials()]
        if lines:
            self._new, self._wanted = 0, max(FEW, len(lines) // SHARE)
            self._stored.database.patiently(lambda: self._summarize(lines))

    def _summarize(self, lines: list[TrialLine]) -> None:
        stored, summary = self._stored, summarize(self._stored)
        plots = {
            "rate-against-loss": rate_against_loss(lines, stored.goal),
            "best-curves": best_curves(summary.ranking),
        }
        for name, plot in plots.items():
            # One part whatever its length: a reader never meets half of it.
            stored.database.storage.set_study_system_attr(
                self._study_id, f"dashboard:plot_data:{name}:0", plot
            )
        note = _Note(stored, "")
        _, mark, below = note.body.partition(BELOW)
        note.write(study_note(summary) + BELOW + (below if mark else note.body))


class _Note:
    """A note in the database.

    Args:
        stored: Its study.
        whose: ``"17:"`` for the trial with id 17, ``""`` for the study's own.

    Attributes:
        body: What it says; empty if there is none.
    """

    def __init__(self, stored: StoredStudy, whose: str) -> None:
        self._storage, self._study_id = stored.database.storage, stored.study._study_id
        self._part, self._version = f"dashboard:{whose}note_str:", f"dashboard:{whose}note_ver"
        key = _attributes.c.key
        wanted = key.startswith(self._part, autoescape=True) | (key == self._version)
        query = sa.select(key, _attributes.c.value_json).where(
            _attributes.c.study_id == self._study_id, wanted
        )
        with stored.database.engine.begin() as connection:
            found = {row.key: json.loads(row.value_json) for row in connection.execute(query)}
        # Without a version there is no note to the dashboard, whatever its text.
        self._shown = self._version in found
        self._next_version = int(found.pop(self._version, 0)) + 1
        # What is typed in the dashboard is cut every 2 045 characters.
        self._parts = len(found)
        self.body = "".join(found[f"{self._part}{i}"] for i in range(self._parts))

    def write(self, body: str) -> None:
        """Replaces it, in one part, so that a reader never meets half of it."""
        if body == self.body and self._shown:
            return
        self._set(f"{self._part}0", body)
        for i in range(1, self._parts):
            self._set(f"{self._part}{i}", "")
        # The dashboard then refuses what somebody has begun to write on the note as it was.
        self._set(self._version, self._next_version)

    def _set(self, name: str, value: str | int) -> None:
        self._storage.set_study_system_attr(self._study_id, name, value)
