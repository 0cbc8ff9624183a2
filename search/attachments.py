"""Attaches what optuna-dashboard shows of ours: notes, pictures and plots of a study.

A trial's note and the record of its picture are stored together with its end: both or neither. The
picture itself is drawn later. What a person has written stays.

Notes are attributes of the study, under the names that optuna-dashboard gives them. They are
written here, because its `save_note` reads the notes of all trials each time: 0.15 s at 2 000
trials, and over a second once for the packages that it loads.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import sqlalchemy as sa
from optuna.trial import FrozenTrial

from search.diagnosis import Finding
from search.notes import study_note, trial_note
from search.observing import Attacher
from search.plots import best_curves, rate_against_loss
from search.report import TrialLine, summarize, trial_line
from search.stored_study import StoredStudy, Taken
from search.telling import Attached
from search.trial import Curve, Decision
from search.trial_pictures import WAITING, TrialPictures, picture_id, picture_of, record
from search.trial_rows import write_study_attributes

LINE = "\n\n---\n"
BELOW = (
    f"\n\n*rnn-search writes this anew as it goes on. What you write below the line stays.*{LINE}"
)
"""Ends what is ours of a study's note."""
FEW, SHARE = 3, 10
"""A study's note and plots are written anew when so many trials, or this part of all, are new."""
TIME_SHARE, LONGEST_PAUSE = 0.01, 60.0
"""Part of the run's time, at most, in which they are, though they are after so many seconds."""
PARTS = 8
"""Parts of a note that are read at once."""
TOGETHER, TURN_SECONDS, LAST_SECONDS = 20, 0.1, 10.0
"""Notes of a fork's trials that are written together; how long they may keep a run from listening
to its trainers, and from ending."""
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
        self._pictures = TrialPictures(stored, say)
        self._behind: deque[FrozenTrial] | None = None
        self._new, self._wanted, self._not_before = 0, 1, 0.0

    def attach(
        self, taken: Taken, decision: Decision, curve: Curve, finding: Finding | None
    ) -> Attached:
        """Returns note and picture of a trial that is about to be told.

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
        picture = None
        if line.epochs:
            picture = picture_id(self._stored, taken.number)
            self._pictures.add(picture, line)
        self._new += 1
        note = self._stored.database.patiently(lambda: self._note(taken.trial_id, line, picture))
        return Attached(record(picture) if picture else {}, note)

    def idle(self) -> None:
        """Draws if there is time, and writes the study's note anew if it is due."""
        self._look_back(TURN_SECONDS)
        self._pictures.draw_if_time()
        if self._new >= self._wanted and time.monotonic() >= self._not_before:
            self._refresh()

    def close(self) -> None:
        """Draws some of what is left, and writes the study's note for the last time."""
        self._look_back(LAST_SECONDS)
        self._pictures.draw_last()
        self._refresh()

    def _note(self, trial_id: int, line: TrialLine, picture: str | None) -> dict[str, Any]:
        """Returns the study's attributes that make up a trial's note."""
        path = picture and f"/artifacts/{self._study_id}/{trial_id}/{picture}"
        ours = trial_note(line, self._stored.config.metric, path)
        note = _Note(self._stored, f"{trial_id}:")
        # Of what is there already, ours is from a run of an earlier version that was killed before
        # it told the trial; a person's is from the time when the trial was in training.
        had_ours = note.body.startswith(ours) or (path and path in note.body)
        theirs = note.body.partition(LINE)[2] if had_ours else note.body
        return note.changes(ours + LINE + theirs if theirs else ours)

    def _write(self, attributes: Mapping[str, Any]) -> None:
        with self._stored.database.engine.begin() as connection:
            write_study_attributes(connection, self._study_id, attributes)

    def _look_back(self, seconds: float) -> None:
        """Gives finished trials their notes that have none, and finds pictures that are missing.

        Once a run, though in several turns. These are trials of a fork, of a study from before
        there were notes, and what another run, or one on another machine, has not drawn here.

        Args:
            seconds: How long a turn may take; what is left then has to wait for the next.
        """
        if self._behind is None:
            self._behind = self._find_behind()
        until = time.monotonic() + seconds
        while self._behind and time.monotonic() < until:
            some = [self._behind.popleft() for _ in range(min(TOGETHER, len(self._behind)))]
            self._stored.database.patiently(partial(self._give_notes, some))

    def _find_behind(self) -> deque[FrozenTrial]:
        """Returns the trials without a note; pictures that are missing wait to be drawn."""
        known, finished = self._stored.database.patiently(self._noted), self._stored.news().finished
        missing: deque[tuple[str, FrozenTrial]] = deque(maxlen=WAITING)
        for trial in finished:
            picture = picture_of(trial)
            if picture is not None and not self._pictures.has(picture):
                missing.append((picture, trial))
        for picture, trial in missing:
            line = trial_line(self._stored, trial, set())
            if line.curve:
                self._pictures.add(picture, line)
        return deque(trial for trial in finished if trial._trial_id not in known)

    def _give_notes(self, trials: Sequence[FrozenTrial]) -> None:
        """Writes the notes of trials, in one transaction."""
        attributes: dict[str, Any] = {}
        for trial in trials:
            line = trial_line(self._stored, trial, set())
            attributes |= self._note(trial._trial_id, line, picture_of(trial))
        self._write(attributes)

    def _noted(self) -> set[int]:
        """Returns the ids of the trials that have a note."""
        key = _attributes.c.key
        query = sa.select(key).where(
            _attributes.c.study_id == self._study_id, key.like("dashboard:%:note_ver")
        )
        with self._stored.database.engine.begin() as connection:
            return {int(name.split(":")[1]) for name in connection.scalars(query)}

    def _refresh(self) -> None:
        """Writes the study's note and plots anew."""
        begun = time.process_time()  # What the database makes us wait costs the trainers nothing.
        lines = [trial_line(self._stored, trial, set()) for trial in self._stored.trials()]
        if lines:
            self._new, self._wanted = 0, max(FEW, len(lines) // SHARE)
            self._stored.database.patiently(lambda: self._summarize(lines))
        pause = (time.process_time() - begun) / TIME_SHARE
        self._not_before = time.monotonic() + min(pause, LONGEST_PAUSE)

    def _summarize(self, lines: list[TrialLine]) -> None:
        stored, summary = self._stored, summarize(self._stored)
        plots = {
            "rate-against-loss": rate_against_loss(lines, stored.goal),
            "best-curves": best_curves(summary.ranking),
        }
        # One part whatever its length: a reader never meets half of it.
        parts = {f"dashboard:plot_data:{name}:0": plot for name, plot in plots.items()}
        note = _Note(stored, "")
        _, mark, below = note.body.partition(BELOW)
        changes = note.changes(study_note(summary) + BELOW + (below if mark else note.body))
        self._write({**parts, **changes})


class _Note:
    """A note in the database.

    Args:
        stored: Its study.
        whose: ``"17:"`` for the trial with id 17, ``""`` for the study's own.

    Attributes:
        body: What it says; empty if there is none.
    """

    def __init__(self, stored: StoredStudy, whose: str) -> None:
        self._part, self._version = f"dashboard:{whose}note_str:", f"dashboard:{whose}note_ver"
        found = _read(stored, [self._version, *self._names(0)])
        self._now = found.pop(self._version, None)
        # What is typed in the dashboard is cut every 2 045 characters. Asked for by their names,
        # the parts are found without a look at the notes of all other trials.
        while found and len(found) % PARTS == 0:
            more = _read(stored, self._names(len(found)))
            if not more:
                break
            found |= more
        self._parts = len(found)
        self.body = "".join(found[f"{self._part}{i}"] for i in range(self._parts))

    def _names(self, first: int) -> list[str]:
        return [f"{self._part}{i}" for i in range(first, first + PARTS)]

    def changes(self, body: str) -> dict[str, Any]:
        """Returns the study's attributes that replace it, all in one part."""
        # Without a version there is no note to the dashboard, whatever its text.
        if body == self.body and self._now is not None:
            return {}
        emptied = {f"{self._part}{i}": "" for i in range(1, self._parts)}
        # The dashboard then refuses what somebody has begun to write on the note as it was.
        return {f"{self._part}0": body, **emptied, self._version: int(self._now or 0) + 1}


def _read(stored: StoredStudy, names: Iterable[str]) -> dict[str, Any]:
    """Returns those of the study's attributes that there are."""
    query = sa.select(_attributes.c.key, _attributes.c.value_json).where(
        _attributes.c.study_id == stored.study._study_id, _attributes.c.key.in_(list(names))
    )
    with stored.database.engine.begin() as connection:
        return {row.key: json.loads(row.value_json) for row in connection.execute(query)}
