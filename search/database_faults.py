"""What a database's error says, in one line with a remedy, and whether waiting mends it."""

from __future__ import annotations

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DBAPIError

HOPELESS = (
    "readonly",
    "read-only",
    "disk is full",
    "no space",
    "malformed",
    "not a database",
    "password",
    "authentication failed",
    "pg_hba.conf",
    "permission denied",
    "does not exist",
    "no such table",
)
"""Faults that waiting does not mend, by a part of their message."""
COMING_UP = ("starting up", "shutting down", "recovery mode")
"""What a PostgreSQL server says that will answer soon, by a part of its message."""
DAMAGE = "malformed"
"""What SQLite says of a file that is damaged."""


def first_line(error: BaseException) -> str:
    """Returns what a database error says, without the statement and its parameters."""
    cause = error.__cause__ if isinstance(error, StorageInternalError) else error
    text = str(cause.orig if isinstance(cause, DBAPIError) and cause.orig else cause or error)
    lines = text.strip().splitlines() or [type(error).__name__]
    # A host with several addresses: the first line says no more than that all have failed.
    several = len(lines) > 1 and lines[0].startswith("Multiple connection attempts")
    said = lines[1].strip(" -\t") if several else lines[0]
    if DAMAGE in said:
        return f"{said}: the file is damaged; restore a copy of it, as rnn-search backup makes them"
    missing = 'database "' in said and said.endswith("does not exist")
    return f"{said}; create it, or give another --storage" if missing else said


def is_hopeless(error: BaseException) -> bool:
    """Says whether waiting does not mend it."""
    said = first_line(error).lower()
    return any(sign in said for sign in HOPELESS)


def is_damage(error: BaseException) -> bool:
    """Says whether the file is damaged, so that nobody knows what is left of it."""
    return DAMAGE in first_line(error)


def will_be_there(error: BaseException) -> bool:
    """Says whether it is a server that will answer soon."""
    said = first_line(error)
    return any(sign in said for sign in COMING_UP)
