"""A study of thousands of trials in seconds; by Optuna's own calls it takes minutes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from optuna.artifacts import ArtifactMeta
from optuna.distributions import distribution_to_json
from optuna.samplers import RandomSampler
from optuna.storages._rdb import models
from optuna.trial import TrialState
from tiny import tiny_config

from search.database import Database
from search.diagnosis import diagnose
from search.notes import trial_note
from search.pictures import curve_picture
from search.report import TrialLine
from search.space import distributions, ordered
from search.storage import create_study
from search.stored_study import StoredStudy
from search.trial_pictures import NAME

EPOCHS = 12
BORN = datetime(2026, 11, 1)
Rows = Iterator[tuple[Any, dict[str, Any]]]


def write_many(folder: Path, count: int) -> StoredStudy:
    """Writes a study of complete trials with all that ours have; they share one picture's bytes."""
    config = tiny_config(folder, "many", space={"epochs": EPOCHS}, budget={"trials": max(count, 1)})
    database = Database(f"sqlite:///{folder / 'studies.db'}", create=True)
    stored = create_study(database, config, {"data": "f00d", "baselines": {}, "notes": []})
    database.artifacts.mkdir(parents=True)
    picture = database.artifacts / f"{0:032x}"
    picture.write_bytes(curve_picture([1.0, 0.5], [1.1, 0.6], best_epoch=2))
    rows: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    sampler = RandomSampler(seed=0)
    for number in range(count):
        line = _line(stored, sampler, number)
        for model, row in (*_trial(stored, line), *_attributes(stored, line)):
            rows[model].append(row)
        if number:
            os.link(picture, database.artifacts / f"{number:032x}")
    with database.engine.begin() as connection:
        for model, lines in rows.items():
            connection.execute(sa.insert(model), lines)
    return stored


def _line(stored: StoredStudy, sampler: RandomSampler, number: int) -> TrialLine:
    """Returns a trial whose loss falls towards something between 0 and 1."""
    drawn = {
        # The sampler wants a study and a trial, and looks at neither.
        name: sampler.sample_independent(stored.study, None, name, one)  # type: ignore[arg-type]
        for name, one in distributions(stored.config.space).items()
    }
    low = number * 0.618034 % 1
    valid = [round(low + 1 / (epoch + 1), 5) for epoch in range(EPOCHS)]
    train = [loss - 0.05 for loss in valid]
    return TrialLine(
        number=number,
        outcome="complete",
        value=valid[-1],
        params=ordered(drawn, stored.config.space),
        epoch=EPOCHS,
        epochs=EPOCHS,
        figures={"loss": valid[-1], "rmse": valid[-1], "mae": valid[-1]},
        reason=f"trained {EPOCHS} epochs",
        seconds=2.0,
        curve={"train": list(train), "valid": list(valid)},
        finding=diagnose(train, valid),
    )


def _trial(stored: StoredStudy, line: TrialLine) -> Rows:
    begun = BORN + timedelta(seconds=2 * line.number)
    yield (
        models.TrialModel,
        {
            "trial_id": line.number + 1,
            "number": line.number,
            "study_id": stored.study._study_id,
            "state": TrialState.COMPLETE,
            "datetime_start": begun,
            "datetime_complete": begun + timedelta(seconds=2),
        },
    )
    whose = {"trial_id": line.number + 1}
    for name, one in distributions(stored.config.space).items():
        value = one.to_internal_repr(line.params[name])
        row: dict[str, Any] = {
            "param_name": name,
            "param_value": value,
            "distribution_json": distribution_to_json(one),
        }
        yield models.TrialParamModel, whose | row
    kinds = (
        models.TrialValueModel.TrialValueType,
        models.TrialIntermediateValueModel.TrialIntermediateValueType,
    )
    row = {"objective": 0, "value": line.value, "value_type": kinds[0].FINITE}
    yield models.TrialValueModel, whose | row
    for step, loss in enumerate(line.curve["valid"], start=1):
        row = {
            "step": step,
            "intermediate_value": loss,
            "intermediate_value_type": kinds[1].FINITE,
        }
        yield models.TrialIntermediateValueModel, whose | row


def _attributes(stored: StoredStudy, line: TrialLine) -> Rows:
    assert line.finding is not None
    attributes = {
        "outcome": line.outcome,
        "reason": line.reason,
        "best_epoch": line.epoch,
        "figures": line.figures,
        "curve": line.curve,
        "seconds": line.seconds,
        "worker": 0,
        **line.finding.to_attributes(),
    }
    whose = {"trial_id": line.number + 1}
    for key, value in attributes.items():
        yield models.TrialUserAttributeModel, whose | _pair(key, value)
    study_id, picture = stored.study._study_id, f"{line.number:032x}"
    meta = asdict(ArtifactMeta(picture, NAME, "image/png", None))
    yield models.TrialSystemAttributeModel, whose | _pair(f"artifacts:{picture}", json.dumps(meta))
    note = trial_note(line, "loss", f"/artifacts/{study_id}/{line.number + 1}/{picture}")
    for name, value in (("note_ver", 1), ("note_str:0", note)):
        pair = _pair(f"dashboard:{line.number + 1}:{name}", value)
        yield models.StudySystemAttributeModel, {"study_id": study_id} | pair


def _pair(key: str, value: object) -> dict[str, str]:
    return {"key": key, "value_json": json.dumps(value)}
