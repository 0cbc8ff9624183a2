"""Attaches what optuna-dashboard shows of ours: notes, pictures and plots of a study.

A trial's note and picture are attached before it is told, as Optuna wants it; attaching them once
more replaces them. What a person has written in the dashboard stays.

Notes are attributes of the study, under the names that optuna-dashboard gives them. They are
written here one by one, because its `save_note` reads the notes of all trials each time: 0.15 s at
2 000 trials, and over a second once for the packages that it loads.
"""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from optuna.artifacts import FileSystemArtifactStore, get_all_artifact_meta, upload_artifact
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
BELOW = (
    "\n\n*rnn-search writes this anew as it goes on. What you write below the line stays.*\n\n---\n"
)
"""Ends what is ours of a study's note."""
FEW, SHARE = 3, 10
"""A study's note and plots are written anew when so many trials, or this part of all, are new."""
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
        self._due = 0
        self._prepared = False

    def prepare(self) -> None:
        """Does what takes a while, the first time that it is called.

        Loads what draws, and gives finished trials their notes that have none: those of a fork,
        and of a study from before there were notes.
        """
        if not self._prepared:
            self._prepared = True
            curve_picture([], [])
            self._stored.database.patiently(self._fill_in)

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

    def refresh(self, *, last: bool = False) -> None:
        """Writes the study's note and plots anew, if enough has happened.

        Args:
            last: The run is over: write them in any case.
        """
        finished = sum(trial.state.is_finished() for trial in self._stored.trials())
        if finished and (last or finished >= self._due):
            self._due = finished + max(FEW, finished // SHARE)
            self._stored.database.patiently(self._refresh)

    def _attach(self, trial_id: int, line: TrialLine) -> None:
        picture = self._draw(trial_id, line) if line.epochs else None
        self._note(trial_id, line, picture)

    def _note(self, trial_id: int, line: TrialLine, picture: str | None) -> None:
        path = picture and f"/artifacts/{self._study_id}/{trial_id}/{picture}"
        ours = trial_note(line, self._stored.config.metric, path)
        note = _Note(self._stored, f"{trial_id}:")
        # What is there already is ours, of a run that was killed before it told the trial, or a
        # person's, of the time when the trial was in training.
        theirs = "" if ours in note.body or (path and path in note.body) else note.body
        note.write(f"{ours}\n\n---\n{theirs}" if theirs else ours)

    def _draw(self, trial_id: int, line: TrialLine) -> str | None:
        """Stores the picture; returns its id, or None if the disk does not take it."""
        config, storage = self._stored.config, self._stored.database.storage
        png = curve_picture(
            line.curve["train"],
            line.curve["valid"],
            metric=config.metric,
            best_epoch=line.epoch,
            title=f"{config.name} #{line.number}: {line.outcome}",
        )
        trial = storage.get_trial(trial_id)
        try:
            known = self._picture(trial)
            if known is not None:  # by a run that was killed before it told the trial
                self._store.write(known, io.BytesIO(png))
                return known
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as folder:
                file = Path(folder) / PICTURE
                file.write_bytes(png)
                return upload_artifact(
                    artifact_store=self._store,
                    file_path=str(file),
                    study_or_trial=trial,
                    storage=storage,
                    mimetype="image/png",
                )
        except OSError as error:
            self._say(f"trial {line.number} has no picture: {error}")
            return None

    def _picture(self, trial: FrozenTrial) -> str | None:
        """Returns the id of the picture that a trial has already."""
        storage = self._stored.database.storage
        known = get_all_artifact_meta(trial, storage=storage)
        return next((one.artifact_id for one in known if one.filename == PICTURE), None)

    def _fill_in(self) -> None:
        finished = [trial for trial in self._stored.trials() if trial.state.is_finished()]
        storage = self._stored.database.storage
        known = storage.get_study_system_attrs(self._study_id) if finished else {}
        for trial in finished:
            if f"dashboard:{trial._trial_id}:note_ver" not in known:
                line = trial_line(self._stored, trial, set())
                self._note(trial._trial_id, line, self._picture(trial))

    def _refresh(self) -> None:
        stored, summary = self._stored, summarize(self._stored)
        lines = [trial_line(stored, trial, set()) for trial in stored.trials()]
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
        self._next_version = int(found.pop(self._version, 0)) + 1
        # What is typed in the dashboard is cut every 2 045 characters.
        self._parts = len(found)
        self.body = "".join(found[f"{self._part}{i}"] for i in range(self._parts))

    def write(self, body: str) -> None:
        """Replaces it, in one part, so that a reader never meets half of it."""
        if body == self.body:
            return
        self._set(f"{self._part}0", body)
        for i in range(1, self._parts):
            self._set(f"{self._part}{i}", "")
        # The dashboard then refuses what somebody has begun to write on the note as it was.
        self._set(self._version, self._next_version)

    def _set(self, name: str, value: str | int) -> None:
        self._storage.set_study_system_attr(self._study_id, name, value)
