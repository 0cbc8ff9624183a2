"""One stored trial, trained again from its seed and configuration and compared bit for bit.

What is replayed is what the trial did by itself: its epochs and, if it diverged or an exception
ended it, the batch at which that happened. What others did to it is not: a trial that its peers
ended, or that took its trainer down, is replayed up to the last epoch it had.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from optuna.trial import FrozenTrial

from search.changes import check_unchanged
from search.checkpoints import load_losses
from search.data.splits import Splits
from search.dimensions import Dimension
from search.errors import ConfigError, StudyError
from search.lane_shapes import shape_of
from search.lanes import Lanes
from search.layer_choices import OURS
from search.machine import choose_device
from search.report import find_trial
from search.running import Plan, Request, make_plan
from search.space import HyperParams, differences, ordered
from search.stopping import Divergence, batch_judge
from search.storage import open_study
from search.stored_study import StoredStudy
from search.surroundings import surroundings
from search.training import FAULTS, BatchJudge, Run, failure, one_thread
from search.trial import INFEASIBLE, Curve, Decision, Epoch, Goal, Outcome, derive_seed
from search.trial_files import LOSSES, trial_folder

AT_END = (*INFEASIBLE, Outcome.FAILED)
"""Outcomes that the training itself brought about, in the middle of an epoch."""
DEATHS = "trainers down"
"""Part of the reason of a trial that failed because it killed its trainers."""


@dataclass(frozen=True)
class Replay:
    """What came of it.

    Attributes:
        name: The study's name.
        number: The trial's number.
        outcome: How the trial ended then.
        equal: True if every compared bit is the same.
        epochs: How many epochs were trained again.
        batches: How many batch losses were compared.
        difference: The first difference, in words; empty if there is none.
        changed: What computes otherwise now than then, as ``key: then → now``.
        notes: What could not be compared, and why.
    """

    name: str
    number: int
    outcome: str
    equal: bool
    epochs: int
    batches: int
    difference: str
    changed: list[str]
    notes: list[str]

    def to_json(self) -> dict[str, Any]:
        """Returns what ``--json`` prints."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Returns what a person reads."""
        what = f"trial {self.number} of {self.name} ({self.outcome})"
        extent = f"{self.epochs} epochs, {self.batches} batch losses"
        if self.equal:
            found = [f"equal: {what} gave the same bits again, {extent}"]
        else:
            found = [f"different: {what}; first difference: {self.difference}"]
        found += [f"  changed since then: {change}" for change in self.changed]
        if not self.equal and not self.changed:
            found.append("  versions, platform and device are as they were then")
        return [*found, *(f"  note: {note}" for note in self.notes)]


@dataclass(frozen=True)
class _Again:
    """The trial as it was trained now.

    Attributes:
        run: Its training; None: its network was not built.
        end: What it came to; None if its end was not replayed.
        cut: Whether then batches followed the last epoch that are not replayed either.
    """

    run: Run | None
    end: Decision | None
    cut: bool = False

    @property
    def curve(self) -> Curve:
        """Its epochs."""
        return Curve() if self.run is None else self.run.curve

    @property
    def batch_losses(self) -> list[float]:
        """The training loss of every batch."""
        return [] if self.run is None else self.run.batch_losses

    @property
    def epoch_ends(self) -> list[int]:
        """How many batches had been trained when each epoch was over."""
        return [] if self.run is None else self.run.epoch_ends


def replay(
    stored: StoredStudy, number: int, device: str = "auto", *, trust_code: bool = False
) -> Replay:
    """Trains a finished trial again and compares.

    Args:
        stored: Its study; nothing is written.
        number: The trial's number.
        device: As on the command line; ``auto``: the one it was trained on, if it is here.
        trust_code: Whether the study's factory may be imported.

    Raises:
        StudyError: There is no such trial, it is not finished, or the data is another by now.
        ConfigError: There is no such device.
        FactoryError: The network is the user's own, and cannot be had.
    """
    trial = _finished(stored, number)
    origin, trained = _origin(stored, trial)
    then = trial.user_attrs.get("surroundings") or stored.attributes["versions"]
    plan = _plan(origin, device, then, trust_code)
    params = _whole(trial, origin.config.space)
    with one_thread():
        again, notes = _train(trial, params, trained, plan, beside="lanes" in then)
    found, batches, more = _compare(stored, trial, again, origin.goal)
    same = {name: then.get(name, "") for name in ("lanes", "layers")}  # As they were then.
    now = {**surroundings(plan.device, plan.factory), **same}
    return Replay(
        name=stored.config.name,
        number=number,
        outcome=trial.user_attrs.get("outcome", trial.state.name.lower()),
        equal=not found,
        epochs=len(again.curve),
        batches=batches,
        difference=found,
        changed=[*_moved(then), *differences(then, {key: now[key] for key in then if key in now})],
        notes=[*notes, *more],
    )


def _moved(then: Mapping[str, str]) -> list[str]:
    """Says that a trial went on elsewhere than where it began, if so: that rounds otherwise."""
    return [f"device: {then['moved']} in turn → one"] if "moved" in then else []


def _finished(stored: StoredStudy, number: int) -> FrozenTrial:
    find_trial(stored, number)
    trial = stored.trials()[number]
    if not trial.state.is_finished():
        raise StudyError(
            f"trial {number} of '{stored.config.name}' is not finished; let "
            f"rnn-search resume {stored.config.name} finish it first"
        )
    return trial


def _origin(stored: StoredStudy, trial: FrozenTrial) -> tuple[StoredStudy, dict[str, Any]]:
    """Returns the study to replay a trial in, and the seed and rule that it was trained with.

    A forked trial has them from the study that trained it, if it was forked by this version; else
    that study is looked up.

    Raises:
        StudyError: That study is gone.
    """
    if "trained" in trial.user_attrs:
        return stored, trial.user_attrs["trained"]
    number = trial.number
    while "forked_from" in trial.user_attrs:
        name, number = trial.user_attrs["forked_from"]
        try:
            stored = open_study(stored.database, name)
            trial = stored.trials()[number]
        except (StudyError, IndexError):
            raise StudyError(
                f"the trial was forked from trial {number} of '{name}', which is not in "
                f"{stored.database} any more; replay a trial that this study has trained itself"
            ) from None
    seed = derive_seed(stored.config.seed, "training", number)
    return stored, {"seed": seed, "divergence": stored.config.stopping.divergence}


def _plan(stored: StoredStudy, device: str, then: Mapping[str, str], trust_code: bool) -> Plan:
    """Reads the data of the study and checks that it is the same."""
    if device == "auto":
        try:
            device = choose_device(then.get("device", "cpu"))
        except ConfigError:  # That device is not here; the result says what differs.
            device = "cpu"
    name, place = stored.config.name, str(stored.database)
    request = Request(name, place, device=device, trust_code=trust_code)
    plan = make_plan(request, stored=stored.config)
    check_unchanged(stored, plan.config, plan.splits.fingerprint)
    return plan


def _whole(trial: FrozenTrial, space: Mapping[str, Dimension]) -> HyperParams:
    params = ordered(trial.params, space)
    absent = [name for name in space if name not in params]
    if absent:
        raise StudyError(
            f"trial {trial.number} ended before its {absent[0]} was drawn; choose another trial"
        )
    return HyperParams.of(params)


def _train(
    trial: FrozenTrial, params: HyperParams, trained: dict[str, Any], plan: Plan, *, beside: bool
) -> tuple[_Again, list[str]]:
    """Trains the epochs that the trial had, and its end if that was its own.

    A trial that was ``beside`` others in a GPU's lanes trains in lanes again, by itself.
    """
    config, device = plan.config, torch.device(plan.device)
    splits: Splits = plan.splits.to(device)
    goal = Goal(config.metric, config.direction == "minimize")
    rule = Divergence() if trained["divergence"] else None
    judge = batch_judge(rule, splits.constant_loss)
    outcome, reason = (trial.user_attrs.get(name, "") for name in ("outcome", "reason"))
    wanted, notes, cut = len(trial.intermediate_values), [], False
    to_end = outcome in AT_END
    if outcome == Outcome.PRUNED:
        notes.append(f"pruned by its peers ({reason}), which is not replayed; its epochs are")
    elif to_end and (DEATHS in reason or reason.startswith("out of memory")):
        notes.append(f"its end ({reason}) is not replayed; its epochs are")
        to_end, cut = False, True
    if beside:
        notes.append("it trained beside others on a GPU, where who they were changes last bits")
    run: Run | None = None
    if not wanted and not to_end:
        return _Again(run, None, cut), notes
    try:
        layers = trial.user_attrs.get("surroundings", {}).get("layers", OURS)
        run = Run(params, splits, trained["seed"], goal, device, plan.factory, layers)
        advance = _in_lanes(run, judge) if beside else partial(run.advance, judge)
        while len(run.curve) < wanted + to_end:
            result = advance()
            if isinstance(result, Decision):
                return _Again(run, result), notes
    except FAULTS as error:
        return _Again(run, failure(error)), notes
    return _Again(run, None, cut), notes


def _in_lanes(run: Run, judge: BatchJudge) -> Callable[[], Epoch | Decision]:
    """Returns what trains an epoch in lanes."""
    lanes = Lanes(shape_of(run.params), run.splits, roomy=True)
    lanes.join(run, judge)

    def advance() -> Epoch | Decision:
        while not (ends := lanes.advance()):
            pass
        (_, result) = ends[0]
        if isinstance(result, Exception):
            raise result
        return result

    return advance


def _compare(
    stored: StoredStudy, trial: FrozenTrial, again: _Again, goal: Goal
) -> tuple[str, int, list[str]]:
    """Returns the first difference or "", how many batch losses were compared, and notes."""
    batches, at_batch, batch_difference, notes = _compare_losses(stored, trial, again)
    epochs = again.curve.epochs
    ends = [0, *again.epoch_ends]
    steps = sorted(trial.intermediate_values.items())
    curve = trial.user_attrs.get("curve", {})
    for (index, value), epoch in zip(steps, epochs, strict=False):
        if batch_difference and at_batch < ends[index]:
            return batch_difference, batches, notes
        now = epoch.figures[goal.metric]
        if now != value:
            said = f"epoch {index}: {goal.metric} was {value!r}, is {now!r}"
            return said, batches, notes
        said = _rounded_difference(curve, again.curve.compact(), epoch)
        if said:
            return said, batches, notes
    if batch_difference:
        return batch_difference, batches, notes
    return _compare_end(trial, again, len(steps), goal), batches, notes


def _compare_losses(
    stored: StoredStudy, trial: FrozenTrial, again: _Again
) -> tuple[int, int, str, list[str]]:
    """Compares the loss of every batch, as the float32 that the file holds.

    Returns:
        How many were compared; the index of the first that differs, with what differs; notes.
    """
    folder = trial_folder(stored.folder, trial.number)
    kept = load_losses(folder)
    if kept is None:
        return 0, 0, "", [f"{folder / LOSSES} is not there or damaged: batches are not compared"]
    now = torch.tensor(again.batch_losses, dtype=torch.float32)
    kept = kept[: len(now)] if again.cut else kept
    count = min(len(kept), len(now))
    # As bits, because a diverged trial's last loss may be NaN, which equals nothing.
    apart = kept[:count].view(torch.int32) != now[:count].view(torch.int32)
    if apart.any():
        at = int(apart.int().argmax())
        epoch = 1 + sum(end <= at for end in again.epoch_ends)
        values = f"was {kept[at].item()!r}, is {now[at].item()!r}"
        return count, at, f"epoch {epoch}, batch {at + 1}: the training loss {values}", []
    if len(kept) != len(now):
        return count, count, f"it trained {len(kept)} batches, now {len(now)}", []
    return count, count, "", []


def _rounded_difference(
    then: Mapping[str, list[float | None]], now: Mapping[str, list[float | None]], epoch: Epoch
) -> str:
    """Compares an epoch's mean losses as the trial's curve has them, to seven digits."""
    at = epoch.index - 1
    for name, values in then.items():
        if at < len(values) and values[at] != now[name][at]:
            return f"epoch {epoch.index}: {name} loss was {values[at]}, is {now[name][at]}"
    return ""


def _compare_end(trial: FrozenTrial, again: _Again, epochs: int, goal: Goal) -> str:
    """Compares number of epochs, best epoch, its figures, and how the trial ended."""
    attributes, curve = trial.user_attrs, again.curve
    if len(curve) != epochs:
        why = f" ({again.end.reason})" if again.end else ""
        return f"it trained {epochs} epochs, now {len(curve)}{why}"
    best, told = curve.best(goal), attributes.get("best_epoch")
    figures = best.figures if best else {}
    if told and told <= len(curve) and curve.values(goal)[told - 1] == figures.get(goal.metric):
        figures = curve.epochs[told - 1].figures  # An older version took the first of several.
    for name, value in attributes.get("figures", {}).items():
        now = figures.get(name, math.nan)
        if now != value:
            return f"best epoch: {name} was {value!r}, is {now!r}"
    if again.end is None:
        return ""
    then = (attributes.get("outcome"), attributes.get("reason"))
    if then != (str(again.end.outcome), again.end.reason):
        return f"it ended {then[0]} ({then[1]}), now {again.end.outcome} ({again.end.reason})"
    return ""
