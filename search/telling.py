"""What is told of a trial's end, and telling it: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa
from optuna.trial import TrialState

from search import trial_rows
from search.trial import INFEASIBLE, Curve, Decision, Goal, Outcome

STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.PRUNED,
    Outcome.OUT_OF_MEMORY: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}


@dataclass(frozen=True)
class Attached:
    """What is stored with a trial's end for optuna-dashboard.

    Attributes:
        trial: Attributes of the trial among Optuna's own, by name.
        study: Attributes of the study among Optuna's own, by name.
    """

    trial: Mapping[str, Any] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Told:
    """A trial's end.

    Attributes:
        state: As Optuna names it.
        value: Of a complete trial.
        attributes: Of the trial.
        constraints: By name; above 0 they say that the trial was not feasible.
        attached: What optuna-dashboard shows of it.
        reports: The value of each of its epochs, if earlier lives may have reported others.
    """

    state: TrialState
    value: float | None
    attributes: Mapping[str, Any]
    constraints: Mapping[str, float]
    attached: Attached
    reports: Mapping[int, float] | None = None

    @classmethod
    def of(
        cls,
        decision: Decision,
        curve: Curve,
        goal: Goal,
        extra: Mapping[str, Any],
        attached: Attached,
        *,
        again: bool = False,
    ) -> Told:
        """Says of a trial how and why it ended, its best epoch, its curve, and what is extra.

        Another life, on another machine maybe, may have come further than the one that is told, or
        to other last bits: ``again`` has all epochs stored as this one had them.
        """
        best = curve.best(goal)
        attributes = {
            "outcome": str(decision.outcome),
            "reason": decision.reason,
            "best_epoch": best.index if best else None,
            "figures": best.figures if best else {},
            "curve": curve.compact(),
            **extra,
        }
        state = STATES[decision.outcome]
        value = best.figures[goal.metric] if best and state == TrialState.COMPLETE else None
        broken = {str(decision.outcome): 1.0} if decision.outcome in INFEASIBLE else {}
        reports = {epoch.index: epoch.figures[goal.metric] for epoch in curve.epochs}
        return cls(state, value, attributes, broken, attached, reports if again else None)

    def tell(self, connection: sa.Connection, study_id: int, trial_id: int) -> None:
        """Tells it in the connection's transaction, unless the trial is over already."""
        if trial_rows.is_over(connection, trial_id):
            return
        systems = {f"constraints:{name}": value for name, value in self.constraints.items()}
        systems |= self.attached.trial
        if self.reports is not None:
            trial_rows.forget_reports(connection, trial_id)
            values = [(trial_id, step, value) for step, value in self.reports.items()]
            trial_rows.report(connection, values)
        trial_rows.end(connection, trial_id, self.state, self.value, self.attributes, systems)
        trial_rows.write_study_attributes(connection, study_id, self.attached.study)

    def is_told(self, connection: sa.Connection, trial_id: int) -> bool:
        """Returns whether just this has been told of a trial, by a call whose answer was lost."""
        return trial_rows.has_attributes(connection, trial_id, self.attributes)
