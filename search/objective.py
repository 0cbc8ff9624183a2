"""Objective: training as an ordinary Optuna objective, for people with a script of their own."""

from __future__ import annotations

import os
import threading
import warnings
from pathlib import Path

import torch
from optuna import Trial, TrialPruned

from search.config import StudyConfig, load_config
from search.data import load_splits
from search.diagnosis import diagnose_trial
from search.errors import ConfigError, NetworkError
from search.factories import trust_factory
from search.machine import choose_device
from search.models import require_single
from search.network_checks import check_network
from search.space import fit_to_data, suggest
from search.stopping import Divergence, batch_judge, out_of_patience
from search.stored_study import MARK
from search.training import FAULTS, Run, failure, is_out_of_memory, out_of_memory
from search.trial import INFEASIBLE, Decision, Epoch, Goal, Outcome, derive_seed

_ALONE = threading.Lock()
"""Of this process, whose threads share torch's generator."""


class Objective:
    """Trains one network a trial and returns the validation value of its best epoch.

    Reports every epoch's value; asks the study's pruner; ends a diverging trial as pruned and
    infeasible, so that the sampler keeps away from there. The trial's user attributes hold the
    reason, the best epoch, its figures, the curve, and what its losses show.

        study = optuna.create_study(direction=objective.direction)
        study.optimize(objective, n_trials=40)

    One trial at a time: ``n_jobs`` stays 1; several processes may share a storage.

    A network of the user's own that cannot be built for the values of a trial, or raises, ends the
    study, as any exception does, but fails that trial alone with

        study.optimize(objective, n_trials=40, catch=(search.NetworkError,))

    Args:
        study: A study file, or its configuration. ``[budget]`` is not used: that is
            ``optimize``'s business.
        device: ``cpu``, ``cuda``, ``cuda:N``, or ``auto``: a GPU if there is one.
        trust_code: Whether the study's ``[model] factory``, if it has one, may be imported.

    Attributes:
        direction: What the Optuna study must be created with.
        notes: What a person should know of the data and the space; each is also a warning.

    Raises:
        RequestError: The study file or its data makes no sense.
    """

    def __init__(
        self, study: StudyConfig | str | Path, device: str = "cpu", *, trust_code: bool = False
    ) -> None:
        require_single()
        if not isinstance(study, (StudyConfig, str, os.PathLike)):
            raise ConfigError(f"give a study file or its configuration, not {type(study).__name__}")
        config = study if isinstance(study, StudyConfig) else load_config(Path(study))
        device = choose_device(str(device))
        self._factory = trust_factory(config.model, config.name, trusted=trust_code)
        splits = load_splits(config.data)
        self.config, remarks = fit_to_data(config, splits.train.size)
        self.direction = config.direction
        self._device = torch.device(device)
        self.notes = [*splits.notes, *remarks]
        if self._factory is not None:
            self.notes += check_network(self._factory, self.config.space, splits, device)
        for note in self.notes:
            warnings.warn(f"{config.name}: {note}", stacklevel=2)
        self._splits = splits.to(self._device)
        self._constants = splits.constant_valid_loss, splits.constant_loss
        self._goal = Goal(config.metric, config.direction == "minimize")

    def __call__(self, trial: Trial) -> float:
        """Trains what ``trial`` suggests.

        Returns:
            The validation value of the best epoch.

        Raises:
            TrialPruned: The study's pruner said so, the training diverged, or memory ran out.
            ConfigError: The study has another direction, or is rnn-search's; ``n_jobs`` is not 1;
                it is no trial; torch's default precision has changed.
            NetworkError: The user's own network raised an exception; the trial has its reason.
        """
        require_single()
        if not hasattr(trial, "suggest_float"):
            raise ConfigError("give an Optuna trial: study.optimize(objective, n_trials=40)")
        study = getattr(trial, "study", None)  # A FixedTrial has none.
        directions = [] if study is None else [one.name.lower() for one in study.directions]
        if directions not in ([], [self.direction]):
            raise ConfigError(
                f"the Optuna study is to {' and '.join(directions)}, but {self._goal.metric} is to "
                "be otherwise; create it with direction=objective.direction"
            )
        if study is not None and MARK in study.user_attrs:
            raise ConfigError(
                f"the study '{study.study_name}' is one that rnn-search runs, which takes whatever "
                "is in training there for its own; give the script a study of another name (what "
                "optimize began there ends as a failed trial, which counts: add it to --trials)"
            )
        if not _ALONE.acquire(blocking=False):
            raise ConfigError(
                "an Objective trains one trial at a time, because torch has one generator for all "
                "threads; leave n_jobs at 1, and start the script several times on one storage"
            )
        try:
            return self._evaluate(trial)
        except NetworkError as error:
            _tell(trial, failure(error))
            raise
        finally:
            _ALONE.release()

    def _evaluate(self, trial: Trial) -> float:
        run = self._begin(trial)
        decision = self._train(trial, run)
        best = run.curve.best(self._goal)
        _tell(trial, decision)
        trial.set_user_attr("curve", run.curve.compact())
        losses = run.batch_losses[: run.epoch_ends[-1] if run.epoch_ends else 0]
        finding = diagnose_trial(decision.outcome, run.curve, losses, *self._constants)
        for name, value in finding.to_attributes().items() if finding else ():
            trial.set_user_attr(name, value)
        if best is not None:
            trial.set_user_attr("best_epoch", best.index)
            trial.set_user_attr("figures", best.figures)
        if decision.outcome is not Outcome.COMPLETE or best is None:
            raise TrialPruned(decision.reason)
        return best.figures[self._goal.metric]

    def _begin(self, trial: Trial) -> Run:
        params = suggest(trial, self.config.space)
        seed = derive_seed(self.config.seed, "training", trial.number)
        try:
            return Run(params, self._splits, seed, self._goal, self._device, self._factory)
        except FAULTS as error:
            if not is_out_of_memory(error):
                raise
            decision = out_of_memory(error)
            _tell(trial, decision)
            raise TrialPruned(decision.reason) from error

    def _train(self, trial: Trial, run: Run) -> Decision:
        rule = Divergence() if self.config.stopping.divergence else None
        judge = batch_judge(rule, self._splits.constant_loss)
        while len(run.curve) < run.params.epochs:
            result = run.advance(judge)
            if not isinstance(result, Epoch):
                return result
            trial.report(result.figures[self._goal.metric], result.index)
            # After its last epoch it has all that it asked for.
            if result.index < run.params.epochs and trial.should_prune():
                return Decision(Outcome.PRUNED, f"the pruner stopped it at epoch {result.index}")
            values = run.curve.values(self._goal)
            enough = out_of_patience(values, self._goal, self.config.stopping.patience)
            if enough is not None:
                return enough
        return Decision(Outcome.COMPLETE, f"trained {len(run.curve)} epochs")


def _tell(trial: Trial, decision: Decision) -> None:
    """Stores how a trial ended; if it can be no good, so that the sampler keeps away."""
    trial.set_user_attr("outcome", str(decision.outcome))
    trial.set_user_attr("reason", decision.reason)
    if decision.outcome in INFEASIBLE:
        trial.set_constraint(str(decision.outcome), 1.0)
