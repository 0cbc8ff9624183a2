"""Study → Summary: what a study has come to, as plain data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from search.database import Database
from search.diagnosis import TOO_FEW_EPOCHS, Finding, constant_of, read_finding
from search.errors import ConfigError, StudyError
from search.space import ordered
from search.sparkline import best_so_far
from search.storage import MAKING, list_studies, open_study
from search.stored_study import LOOKS, MARK, StoredStudy
from search.trial import INFEASIBLE, Outcome

HEADLINES = {"forecast": "rmse", "classify": "accuracy", "language": "nats_per_char"}
"""The figure of each task that a person looks at first."""


def headline_of(task: str, metric: str, baselines: Mapping[str, Mapping[str, float]]) -> str:
    """Returns the figure to look at first: the searched one or, if that is the loss, the task's.

    Of several targets it stays the loss, which is of standardised ones: their units differ.
    """
    several = any(name.startswith("rmse_") for figures in baselines.values() for name in figures)
    return metric if metric != "loss" or several else HEADLINES[task]


@dataclass(frozen=True)
class TrialLine:
    """One trial as a table shows it.

    Attributes:
        number: Its number in the study.
        outcome: One of `Outcome`, or ``running``, ``waiting``.
        value: The searched figure at the best epoch; None if it has none.
        params: All hyperparameters, the fixed ones too; those not drawn yet are left out.
        epoch: The best epoch, from 1.
        epochs: How many epochs it has trained.
        figures: Validation figures at the best epoch.
        reason: Why it ended.
        seconds: How long it took, since it was interrupted for the last time if it was.
        traceback: Of the exception that failed it.
        curve: Losses per epoch, by ``train`` and ``valid``.
        finding: What its losses say; None if they say nothing, or it is not over.
        follows: Number of the trial whose finding it follows, if it does.
        trained: Seconds of training and validation, in all its lives.
    """

    number: int
    outcome: str
    value: float | None
    params: dict[str, Any]
    epoch: int | None
    epochs: int
    figures: dict[str, float]
    reason: str
    seconds: float | None
    traceback: str = ""
    curve: dict[str, list[float | None]] = field(default_factory=dict)
    finding: Finding | None = None
    follows: int | None = None
    trained: float = 0.0

    @property
    def cost(self) -> float | None:
        """Seconds it took, in all its lives: no less than its epochs did; None: not known."""
        return None if self.seconds is None else max(self.seconds, self.trained)


@dataclass(frozen=True)
class Summary:
    """What a study has come to.

    Attributes:
        counts: ``total``, ``complete``, ``pruned`` (``diverged`` and ``out_of_memory`` are part
            of it), ``diverged``, ``out_of_memory``, ``failed``, ``running``, ``interrupted`` (goes
            on at the next run), ``waiting``.
        ranking: Complete trials, best first.
        reasons: How often trials ended for which reason, by outcome.
        baselines: Validation figures of the naive methods, by name.
        constant_loss: Validation loss of the best prediction that ignores the inputs, if known.
        verdicts: How many trials have which finding.
        enough: Why the study needs no further trials although some are left; else empty.
        progress: The best value so far after each trial, in the order of their numbers, from the
            first that completed.
        evaluated: The last look at the test part: ``trial``, ``metric``, ``mean``, ``std`` and
            ``seeds`` of the winner; empty if there was none.
        described: What was read when the study was created, how it was cut, sizes and units; empty
            for a study of a version that did not store it.
    """

    name: str
    task: str
    metric: str
    direction: str
    target: int
    counts: dict[str, int]
    ranking: list[TrialLine]
    reasons: dict[str, dict[str, int]]
    baselines: dict[str, dict[str, float]]
    verdicts: dict[str, int]
    notes: list[str]
    storage: str
    constant_loss: float | None = None
    enough: str = ""
    progress: list[float] = field(default_factory=list)
    evaluated: dict[str, Any] = field(default_factory=dict)
    described: list[str] = field(default_factory=list)

    @property
    def best(self) -> TrialLine | None:
        """The best complete trial; None if there is none."""
        return self.ranking[0] if self.ranking else None

    @property
    def headline(self) -> str:
        """The figure that a person looks at first."""
        return headline_of(self.task, self.metric, self.baselines)

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints."""
        best = self.best
        return {
            "name": self.name,
            "task": self.task,
            "metric": self.metric,
            "direction": self.direction,
            "target": self.target,
            "trials": self.counts,
            "best": best
            and {
                "number": best.number,
                "value": best.value,
                "params": best.params,
                "epoch": best.epoch,
                "figures": best.figures,
            },
            "baselines": self.baselines,
            "verdicts": self.verdicts,
            "reasons": self.reasons,
            "data": self.described,
            "notes": self.notes,
            "enough": self.enough,
            "evaluated": self.evaluated or None,
            "storage": self.storage,
        }


def summarize(stored: StoredStudy) -> Summary:
    """Reads a study; writes nothing."""
    held = stored.held()
    lines = [trial_line(stored, trial, held) for trial in stored.trials()]
    merit = stored.goal.merit
    complete_lines = [line for line in lines if line.outcome == Outcome.COMPLETE]
    attributes = stored.attributes
    return Summary(
        name=stored.config.name,
        task=stored.config.data.task,
        metric=stored.config.metric,
        direction=stored.config.direction,
        target=stored.config.budget.trials,
        counts=_count(lines),
        ranking=sorted(complete_lines, key=lambda one: merit(one.number, one.value, one.figures)),
        reasons=_reasons(lines),
        baselines=attributes["baselines"],
        constant_loss=constant_of(attributes),
        verdicts=count_findings(
            (one.finding.name if one.finding else "", one.outcome) for one in lines
        ),
        notes=attributes["notes"],
        storage=str(stored.database),
        enough=stored.reached() or stored.stagnated() or "",
        progress=best_so_far([line.value for line in lines], stored.goal),
        evaluated=_evaluated(stored),
        described=attributes.get("described", []),
    )


def _evaluated(stored: StoredStudy) -> dict[str, Any]:
    looks = stored.study.user_attrs.get(LOOKS, [])
    last = looks[-1] if looks else {}
    return {key: last[key] for key in ("trial", "metric", "mean", "std", "seeds") if key in last}


def summarize_all(database: Database) -> tuple[list[Summary], list[str]]:
    """Reads every study in the database that is ours.

    Returns:
        The studies; and a line on each whose configuration or name makes no sense to this version.
    """
    found, unread = [], []
    for study in list_studies(database):
        if MARK in study.user_attrs:
            try:
                found.append(summarize(open_study(database, study.study_name)))
            except (ConfigError, StudyError) as error:
                unread.append(str(error))
    return found, unread


def names_of_others(database: Database) -> list[str]:
    """Returns the names of the studies in the database that rnn-search has not made."""
    return [
        study.study_name
        for study in list_studies(database)
        if not {MARK, MAKING} & study.user_attrs.keys()
    ]


def find_trial(stored: StoredStudy, number: int) -> TrialLine:
    """Returns what is known of one trial.

    Raises:
        StudyError: There is no such trial.
    """
    trials = stored.trials()
    if not 0 <= number < len(trials):
        has = f"has trials 0 to {len(trials) - 1}" if trials else "has no trials yet"
        raise StudyError(f"no trial {number}: the study '{stored.config.name}' {has}")
    return trial_line(stored, trials[number], stored.held())


def trial_line(stored: StoredStudy, trial: FrozenTrial, held: set[int]) -> TrialLine:
    """Returns what is known of one trial.

    Args:
        stored: Its study.
        trial: The trial.
        held: Ids of the trials that some running coordinator holds.
    """
    attributes = trial.user_attrs
    if trial.state == TrialState.RUNNING:
        outcome = "running" if trial._trial_id in held else str(Outcome.INTERRUPTED)
    elif trial.state == TrialState.WAITING:
        outcome = "waiting"
    else:
        outcome = attributes.get("outcome", _PLAIN[trial.state])
    return TrialLine(
        number=trial.number,
        outcome=outcome,
        value=trial.value if trial.state == TrialState.COMPLETE else None,
        params=ordered(trial.params, stored.config.space),
        epoch=attributes.get("best_epoch"),
        epochs=len(trial.intermediate_values),
        figures=attributes.get("figures", {}),
        reason=attributes.get("reason", ""),
        seconds=attributes.get("seconds"),
        traceback=attributes.get("traceback", ""),
        curve=attributes.get("curve", {}),
        finding=read_finding(attributes),
        # A forked trial follows one of another study's numbers.
        follows=None if "forked_from" in attributes else attributes.get("follows"),
        trained=attributes.get("epochs_seconds", 0.0),
    )


_PLAIN = {
    TrialState.COMPLETE: str(Outcome.COMPLETE),
    TrialState.PRUNED: str(Outcome.PRUNED),
    TrialState.FAIL: str(Outcome.FAILED),
}


def _count(lines: list[TrialLine]) -> dict[str, int]:
    counted = Counter(line.outcome for line in lines)
    return {
        "total": len(lines),
        "complete": counted[Outcome.COMPLETE],
        "pruned": sum(counted[outcome] for outcome in (Outcome.PRUNED, *INFEASIBLE)),
        "diverged": counted[Outcome.DIVERGED],
        "out_of_memory": counted[Outcome.OUT_OF_MEMORY],
        "failed": counted[Outcome.FAILED],
        "running": counted["running"],
        "interrupted": counted[Outcome.INTERRUPTED],
        "waiting": counted["waiting"],
    }


def count_findings(found: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Counts findings, the most frequent first.

    That a trial trained too few epochs is no finding where its peers ended it for being worse.

    Args:
        found: Of each trial its finding, empty if it has none, and how it ended.
    """
    counted = Counter(
        name
        for name, outcome in found
        if name and (outcome != Outcome.PRUNED or name not in TOO_FEW_EPOCHS)
    )
    return dict(sorted(counted.items(), key=lambda pair: (-pair[1], pair[0])))


def _reasons(lines: list[TrialLine]) -> dict[str, dict[str, int]]:
    """Counts reasons of trials that did not complete, leaving the figures in them aside."""
    found: dict[str, Counter[str]] = {}
    for line in lines:
        if line.outcome in (Outcome.PRUNED, *INFEASIBLE, Outcome.FAILED) and line.reason:
            found.setdefault(line.outcome, Counter())[_kind(line)] += 1
    return {outcome: dict(counter.most_common()) for outcome, counter in sorted(found.items())}


def _kind(line: TrialLine) -> str:
    if line.outcome == Outcome.PRUNED:
        median = "the median" in line.reason
        return f"not among the best {'half' if median else 'third'} of its peers"
    if line.reason.startswith("the training loss grew"):
        return "the training loss grew far beyond its start"
    return line.reason.splitlines()[0].split(": ")[0] if "memory" in line.reason else line.reason
