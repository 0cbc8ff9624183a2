"""The finished trials of one study, taken along into another whose space differs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from search.config import StudyConfig
from search.dimensions import Dimension
from search.space import distributions, fits, ordered
from search.trial import derive_seed
from search.trial_files import copy_files, trial_folder


def copy_trials(
    trials: Sequence[FrozenTrial],
    old: StudyConfig,
    add: Callable[[FrozenTrial], None],
    space: Mapping[str, Dimension],
) -> dict[str, Any]:
    """Copies every complete or pruned trial that fits the new space.

    Args:
        trials: Of the old study.
        old: Its configuration.
        add: Adds a trial to the new study.
        space: Of the new study.

    Returns:
        What the new study is to remember: ``study``, how many were ``taken``, and ``of`` how many;
        each trial says in its attribute ``forked_from`` where it comes from, and in ``trained``
        what `replay` needs of there.
    """
    taken = 0
    searched = distributions(space)
    for trial in trials:
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        params = ordered(trial.params, old.space)
        if not fits(params, space):
            continue
        add(
            create_trial(
                state=trial.state,
                value=trial.value,
                params={name: params[name] for name in searched},
                distributions=searched,
                user_attrs=_attributes(trial, old),
                system_attrs=dict(trial.system_attrs),
                intermediate_values=trial.intermediate_values,
            )
        )
        taken += 1
    return {"study": old.name, "taken": taken, "of": len(trials)}


def _attributes(trial: FrozenTrial, old: StudyConfig) -> dict[str, Any]:
    """Returns a trial's attributes, and what else of its study its training depended on."""
    found = {**trial.user_attrs, "forked_from": [old.name, trial.number]}
    # One that was forked before was trained elsewhere, and has that with it, or leads there.
    if "forked_from" not in trial.user_attrs:
        seed = derive_seed(old.seed, "training", trial.number)
        found["trained"] = {"seed": seed, "divergence": old.stopping.divergence}
    return found


def copy_trial_files(trials: Sequence[FrozenTrial], old: Path, new: Path) -> None:
    """Copies the files of forked trials from the old study's folder to the new one's."""
    for trial in trials:
        source = trial_folder(old, trial.user_attrs["forked_from"][1])
        copy_files(source, trial_folder(new, trial.number))
