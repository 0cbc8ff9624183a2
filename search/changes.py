"""What has changed since a study was begun: refused, or noted if it is the user's own code."""

from __future__ import annotations

from pathlib import Path

from search.config import StudyConfig
from search.errors import ConfigError, DataError, StudyError
from search.factories import Factory
from search.space import differences, fit_to_data
from search.stored_study import StoredStudy

FREE_TO_CHANGE = ("[budget] ", "keep: ", "[data] path: ", "[data] test_path: ", "[model] folder: ")
"""What may differ on resume: how long, how much is kept, where the same data and code lie."""


def require_data(config: StudyConfig) -> StudyConfig:
    """Returns the configuration of a study that was begun, if its data are where they were then.

    Raises:
        DataError: They are not; says what to do if they are elsewhere by now.
    """
    for name in ("path", "test_path"):
        path: Path | None = getattr(config.data, name, None)
        if path is not None and _is_gone(path):
            raise DataError(
                f"{path} does not exist any more; if the data lie elsewhere now, write where into "
                f"the study file, in which name is '{config.name}', and run that file: the study "
                "remembers the new place"
            )
    return config


def _is_gone(path: Path) -> bool:
    try:
        return not path.exists()
    except OSError:  # Whoever reads it says why not.
        return False


def fit_again(config: StudyConfig, train_size: int) -> tuple[StudyConfig, list[str]]:
    """Does what `fit_to_data` does, for a study that was begun: its sizes fitted the data then.

    Raises:
        ConfigError: They do not now.
    """
    try:
        return fit_to_data(config, train_size)
    except ConfigError as error:
        raise ConfigError(f"{error}; or are the data others than they were?") from None


def check_unchanged(stored: StoredStudy, config: StudyConfig, data: str) -> None:
    """Refuses to go on with a study that is not the same any more.

    Args:
        stored: The study.
        config: What is asked for now, fitted to the data.
        data: Fingerprint of the data now.

    Raises:
        StudyError: Something differs that decides what trials give; names it, and the remedy.
    """
    changes = [
        change
        for change in differences(stored.config.resolved(), config.resolved())
        if not change.startswith(FREE_TO_CHANGE)
    ]
    if stored.attributes["data"] != data:
        place = getattr(config.data, "path", None) or config.data.source
        changes.append(f"the data, {place} (fingerprint {stored.attributes['data']} → {data})")
    if changes:
        # What its trials reached is worth nothing on other data, or by another figure.
        same = stored.attributes["data"] == data and stored.config.metric == config.metric
        others = (
            "give another name, take its trials along with --fork NEWNAME, or go on as it was "
            f"begun: rnn-search resume {config.name}"
        )
        remedy = others if same else "or give another name"
        raise StudyError(
            f"the study '{config.name}' was begun otherwise: {'; '.join(changes)}; change it back, "
            f"{remedy}"
        )


def with_all_trials(stored: StoredStudy, config: StudyConfig) -> StoredStudy:
    """Gives a study this configuration, but no fewer trials than are there, because these stay.

    Nor than another run is training it to, as far as its trials in training tell: its last ones
    would be beyond the total.
    """
    others = stored.config.budget.trials if stored.held() else 0
    total = {"trials": max(config.budget.trials, len(stored.trials()), others)}
    config = config.model_copy(update={"budget": config.budget.model_copy(update=total)})
    if stored.config != config:
        stored.remember(config=config.resolved())
        stored.config = config
    return stored


def say_more(stored: StoredStudy, asked: int) -> list[str]:
    """Says why a study is to have more trials than were asked for, if it is."""
    total, there = stored.config.budget.trials, len(stored.trials())
    if total <= asked:
        return []
    if total > there:
        return [f"another run trains the study to {total} trials; so does this one, not to {asked}"]
    return [f"the study has {total} trials already, more than the {asked} of its budget"]


def note_source(stored: StoredStudy, factory: Factory | None) -> list[str]:
    """Says whether the study's code has changed since its last run, and notes it in the study.

    Other code is no reason to refuse, unlike other data: a comment may have changed. But who reads
    the study has to know of it, so it stays among its notes.
    """
    if factory is None or stored.attributes.get("factory") == factory.source:
        return []
    before, trials = stored.attributes.get("factory"), len(stored.trials())
    if not trials:
        stored.remember(factory=factory.source)
        return []
    note = (
        f"the source of {factory.name} changed after trial {trials - 1} ({before} → "
        f"{factory.source}); if it computes otherwise now, trials before and after do not compare: "
        "give the study another name then"
    )
    stored.remember(factory=factory.source, notes=[*stored.attributes["notes"], note])
    return [note]


def source_of(stored: StoredStudy, number: int) -> str | None:
    """Returns the fingerprint of the code that a trial was trained with, if it is known."""
    surroundings = stored.trials()[number].user_attrs.get("surroundings", {})
    found: str | None = surroundings.get("factory")
    return found
