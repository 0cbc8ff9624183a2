"""Trials as a report needs them: what came of each, when and where it trained, and how long."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from search.diagnosis import Finding, constant_of, diagnose
from search.report import TrialLine, trial_line
from search.stored_study import StoredStudy
from search.trial import INFEASIBLE, Goal, Outcome

PAUSE_SECONDS = 60.0
"""Shorter pauses between trials are shown as they were."""
PAUSE_SHARE = 0.05
"""Pauses of a smaller share of all the work are shown as they were, too."""


@dataclass(frozen=True)
class Entry:
    """One trial.

    Attributes:
        line: What a table shows of it; its finding is made now if it stores none.
        loss: The validation loss of its best epoch; None if no epoch had a finite one.
        values: The searched figure by epoch; None or not finite: there was none.
        worker: Which trainer had it; None: not known.
        begun: When its last life began, in seconds since 1970; None: not known.
        ended: When it was told; None if it is not over.
        along: Whether it was trained in another study, and taken along from there by --fork, which
            is when it began and ended here.
    """

    line: TrialLine
    loss: float | None
    values: tuple[float | None, ...]
    worker: int | None
    begun: float | None
    ended: float | None
    along: bool = False

    @property
    def finding(self) -> str:
        """The name of its finding; empty if nothing can be said."""
        return self.line.finding.name if self.line.finding else ""


def read_entries(stored: StoredStudy) -> list[Entry]:
    """Returns every trial of a study, by number; reads nothing but the database."""
    held = stored.held()
    constant = constant_of(stored.attributes)
    return [
        _entry(trial, trial_line(stored, trial, held), constant, stored.goal)
        for trial in stored.trials()
    ]


def _entry(trial: FrozenTrial, line: TrialLine, constant: float | None, goal: Goal) -> Entry:
    if line.finding is None and trial.state.is_finished():
        line = replace(line, finding=_late_finding(line, constant))
    known = [loss for loss in line.curve.get("valid", []) if loss is not None]
    loss = line.figures.get("loss", min(known, default=None))
    values = tuple(trial.intermediate_values[step] for step in sorted(trial.intermediate_values))
    if not known and loss is None and goal.metric == "loss":
        loss = min((value for value in values if math.isfinite(value)), default=None)
    told = trial.datetime_complete
    ended = _seconds(told) if trial.state.is_finished() else None
    begun, along = _seconds(trial.datetime_start), "forked_from" in trial.user_attrs
    if along:
        begun = ended
    elif ended is not None and line.seconds is not None:
        begun = ended - line.seconds  # a trial that was interrupted began long before
    return Entry(line, loss, values, trial.user_attrs.get("worker"), begun, ended, along)


def trained_here(entries: Iterable[Entry]) -> list[Entry]:
    """Returns the trials that are over and whose time is known and this study's own."""
    return [e for e in entries if e.begun is not None and e.ended is not None and not e.along]


def _late_finding(line: TrialLine, constant: float | None) -> Finding | None:
    """Diagnoses a trial of a study that is older than findings, from its epochs."""
    if line.outcome in (Outcome.FAILED, Outcome.OUT_OF_MEMORY):
        return None
    train, valid = (
        [math.nan if loss is None else loss for loss in line.curve.get(part, [])]
        for part in ("train", "valid")
    )
    if line.outcome == Outcome.DIVERGED:
        train.append(math.nan)
    return diagnose(train, valid, constant_loss=constant) if train else None


def _seconds(moment: datetime.datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def ranks(entries: Iterable[Entry], goal: Goal) -> list[tuple[Entry, float]]:
    """Returns every trial that was judged, with what it is to be ranked by: small is good.

    That is the best value it ever had; infinite if it diverged or ran out of memory.
    """
    sign = 1 if goal.minimize else -1
    found = []
    for entry in entries:
        known = [sign * v for v in entry.values if v is not None and math.isfinite(v)]
        if entry.line.value is not None:
            known.append(sign * entry.line.value)
        if entry.line.outcome in INFEASIBLE:
            found.append((entry, math.inf))
        elif known and entry.ended is not None and entry.line.outcome != Outcome.FAILED:
            found.append((entry, min(known)))
    return found


@dataclass(frozen=True)
class Clock:
    """Time as it was worked: long pauses, in which nothing trained, are cut out.

    Attributes:
        start: When the first trial began, in seconds since 1970.
        pauses: When each pause began and ended, in order.
    """

    start: float
    pauses: tuple[tuple[float, float], ...]

    def worked(self, moment: float) -> float:
        """Returns the seconds from the start to a moment, without the pauses."""
        out = sum(min(moment, end) - begin for begin, end in self.pauses if moment > begin)
        return moment - self.start - out


def make_clock(entries: Sequence[Entry]) -> Clock:
    """Finds the pauses between the trials."""
    spans = sorted(
        (e.begun, e.ended) for e in entries if e.begun is not None and e.ended is not None
    )
    if not spans:
        return Clock(0.0, ())
    gaps, worked = [], 0.0
    until = spans[0][0]
    for begun, ended in spans:
        if begun > until:
            gaps.append((until, begun))
        worked += max(0.0, ended - max(until, begun))
        until = max(until, ended)
    least = max(PAUSE_SECONDS, PAUSE_SHARE * worked)
    return Clock(spans[0][0], tuple(gap for gap in gaps if gap[1] - gap[0] > least))


def time_unit(seconds: float) -> tuple[float, str]:
    """Returns the unit, in seconds and by name, in which a duration has one or two digits."""
    units = ((1.0, "seconds"), (60.0, "minutes"), (3600.0, "hours"), (86400.0, "days"))
    return next(unit for unit in reversed(units) if seconds >= 2 * unit[0] or unit[0] == 1.0)
