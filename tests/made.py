"""Studies made of invented trials, in a real database: quicker than training, and of any kind."""

from __future__ import annotations

import datetime
import json
import math
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.distributions import distribution_to_json
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState, create_trial
from tiny import tiny_config

from search.config import StudyConfig
from search.database import Database
from search.space import distributions, starting_points
from search.storage import create_study
from search.stored_study import StoredStudy
from search.trial import Outcome

START = datetime.datetime(2026, 3, 1, 12, 0, 0)
STATES = {
    Outcome.COMPLETE: TrialState.COMPLETE,
    Outcome.PRUNED: TrialState.PRUNED,
    Outcome.DIVERGED: TrialState.PRUNED,
    Outcome.OUT_OF_MEMORY: TrialState.PRUNED,
    Outcome.FAILED: TrialState.FAIL,
}


def made_study(
    folder: Path, trials: Iterable[FrozenTrial] = (), notes: Sequence[str] = (), **changes: Any
) -> StoredStudy:
    """Stores a study ``tiny`` with these trials in ``folder``; ``changes`` go into its file."""
    config = tiny_config(folder, **changes)
    attributes = {
        "data": "0123456789abcdef",
        "baselines": {"persistence": {"loss": 0.9, "rmse": 0.7}, "ridge": {"rmse": 0.2}},
        "constant_loss": 0.9,
        "notes": list(notes),
    }
    database = Database(f"sqlite:///{folder / 'studies' / 'studies.db'}", create=True)
    stored = create_study(database, config, attributes)
    _insert(stored, list(trials))
    return stored


def _insert(stored: StoredStudy, trials: Sequence[FrozenTrial]) -> None:
    """Stores trials in one transaction: Optuna's own way takes one, or more, for each."""
    first = {"study_id": stored.study._study_id}
    rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for number, trial in enumerate(trials):
        mine = {"trial_id": number + 1}
        times = {
            "datetime_start": trial.datetime_start,
            "datetime_complete": trial.datetime_complete,
        }
        rows[models.TrialModel].append(
            {**mine, **first, "number": number, "state": trial.state, **times}
        )
        for name, value in trial.params.items():
            kind = trial.distributions[name]
            drawn = {"param_name": name, "param_value": kind.to_internal_repr(value)}
            rows[models.TrialParamModel].append(
                {**mine, **drawn, "distribution_json": distribution_to_json(kind)}
            )
        for key, value in trial.user_attrs.items():
            text = json.dumps(value)
            rows[models.TrialUserAttributeModel].append({**mine, "key": key, "value_json": text})
        for step, value in trial.intermediate_values.items():
            reported = {"intermediate_value": value, "intermediate_value_type": "FINITE"}
            rows[models.TrialIntermediateValueModel].append({**mine, "step": step, **reported})
        if trial.value is not None:
            rows[models.TrialValueModel].append(
                {**mine, "objective": 0, "value": trial.value, "value_type": "FINITE"}
            )
    with stored.database.engine.begin() as connection:
        for table, lines in rows.items():
            connection.execute(sa.insert(table), lines)


def made_trial(
    config: StudyConfig,
    number: int,
    outcome: Outcome = Outcome.COMPLETE,
    valid: Sequence[float | None] = (0.8, 0.5, 0.4),
    *,
    params: dict[str, Any] | None = None,
    seconds: float = 2.0,
    begun: float | None = None,
    **attributes: Any,
) -> FrozenTrial:
    """Returns a trial that is over, as a coordinator would have stored it.

    Args:
        config: Of its study.
        number: Decides worker and time.
        outcome: How it ended.
        valid: Its validation losses by epoch; its training losses are a tenth lower.
        params: What differs from the study's first starting point.
        seconds: How long it took.
        begun: Seconds after `START`; None: after the trials before it, on one of two workers.
        attributes: What else it stores.
    """
    best = min((loss for loss in valid if loss is not None), default=None)
    stored = _attributes(outcome, valid, best)
    trial = create_trial(
        state=STATES[outcome],
        value=best if outcome is Outcome.COMPLETE else None,
        params={**starting_points(config.space)[0], **(params or {})},
        distributions=distributions(config.space),
        user_attrs={**stored, "seconds": seconds, "worker": number % 2, **attributes},
        intermediate_values={i: loss for i, loss in enumerate(valid, 1) if loss is not None},
    )
    start = (number // 2) * seconds if begun is None else begun
    trial.datetime_start = START + datetime.timedelta(seconds=start)
    trial.datetime_complete = trial.datetime_start + datetime.timedelta(seconds=seconds)
    return trial


def _attributes(
    outcome: Outcome, valid: Sequence[float | None], best: float | None
) -> dict[str, Any]:
    figures = {} if best is None else {"loss": best, "rmse": math.sqrt(abs(best)), "mae": best / 2}
    train = [None if loss is None else 0.9 * loss for loss in valid]
    return {
        "outcome": str(outcome),
        "reason": "for a test",
        "best_epoch": None if best is None else valid.index(best) + 1,
        "figures": figures,
        "curve": {"train": train, "valid": list(valid)},
    }


def many_trials(config: StudyConfig, count: int) -> list[FrozenTrial]:
    """Returns trials with random parameters, of all outcomes, good around a learning rate 0.01."""
    chooser = random.Random(0)
    made = []
    for number in range(count):
        rate = 10 ** chooser.uniform(-4, 0)
        level = 0.05 + 0.2 * (math.log10(rate) + 2) ** 2 * chooser.uniform(0.5, 1.5)
        outcome = Outcome.COMPLETE if chooser.random() < 0.4 else Outcome.PRUNED
        valid: list[float | None] = [level + 0.5 ** (k + 1) for k in range(3)]
        if rate > 0.3 and chooser.random() < 0.5:
            outcome, valid = Outcome.DIVERGED, [50.0, None]
        params = {
            "learning_rate": rate,
            "hidden_units": chooser.randint(4, 8),
            "cell": chooser.choice(["rnn", "lstm", "gru"]),
            "optimizer": chooser.choice(["adam", "sgd"]),
            "dropout": chooser.uniform(0.0, 0.5),
        }
        made.append(made_trial(config, number, outcome, valid, params=params, seconds=3.0))
    return made
