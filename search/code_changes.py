"""Whether the user's own code is still what a study's trials were trained with."""

from __future__ import annotations

from search.factories import Factory
from search.storage import StoredStudy


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
