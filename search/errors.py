"""The exceptions of rnn-search; every message names the thing at fault and the remedy.

`RequestError` and its children mean that what was asked for makes no sense: the command line
prints the message as one line and exits with 2. `RunError` and its children mean that the run
itself failed: one line, exit 1. Anything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import datetime
import difflib
import re
from collections.abc import Iterable

SECRETS = (
    (re.compile(r"(:/{1,2}[^\s/:@]{0,99}:)\S*@"), r"\1***@"),
    (
        re.compile(
            r"(postgres[\w+]{0,20}:/{1,2}[^\s/:@]{0,99}:)(?!\d+(?:[/?\s'\"]|$)|\*\*\*@)[^\s'\"]*",
            re.I,
        ),
        r"\1***",
    ),
    (re.compile(r"(password\s*=\s*)('[^']*'?|\"[^\"]*\"?|[^\s&'\"]+)", re.I), r"\1***"),
)
"""Passwords in URLs, one that is cut off too, and in settings; and what is shown instead."""
LONGEST = 4000
"""Characters of a message; to look through more would take long."""


class SearchError(Exception):
    """Root of every error that rnn-search raises on purpose."""


class RequestError(SearchError):
    """What was asked for makes no sense; nothing has been created or changed."""


class ConfigError(RequestError):
    """A study file, or the configuration made from it, is wrong."""


class DataError(RequestError):
    """The data cannot be used; the message names the file and the column or row."""


class StudyError(RequestError):
    """A study is missing, in the way, or no longer fits what is asked of it."""


class FactoryError(RequestError):
    """The user's own network cannot be had: not trusted, not importable, or not what is needed."""


class RunError(SearchError):
    """The run failed for a reason outside the program: storage, disk, trainers."""


class StorageError(RunError):
    """The database did not answer, or answered with a fault that waiting did not mend."""


class UnknownError(StorageError):
    """The database could not be opened, so that nobody knows what is in it."""


class LostError(StorageError):
    """The database is not there any more, or damaged; the message says what still is."""


class TrainerError(RunError):
    """A trainer could not be started or kept alive."""


class NetworkError(RunError, RuntimeError):
    """The user's own network raised an exception, or answered in another shape.

    A RuntimeError, so that within a trial it fails that trial alone, as torch's own do.
    """


def without_secrets(text: str) -> str:
    """Returns a message in which the passwords of URLs, wherever they were given, are ``***``."""
    text = text[:LONGEST]
    for secret, shown_as in SECRETS:
        text = secret.sub(shown_as, text)
    return text


def nearest(name: str, known: Iterable[str]) -> str:
    """Returns ``; did you mean 'x'?`` for the known name nearest to ``name``, else a list.

    Args:
        name: What the user wrote.
        known: The names that would have been right.

    Returns:
        The end of an error message, starting with a semicolon.
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known: {listed(names)}"


LISTED = 12
"""A message lists so many names, no more."""


def listed(names: Iterable[str]) -> str:
    """Writes names as a message lists them, cut short: ``a, b, c and 4997 more``."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def shown(value: object) -> str:
    """Writes a value of a study file as an error message shows it, cut short."""
    text = _written(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _written(value: object) -> str:
    if isinstance(value, (datetime.date, datetime.time)):
        return f"the {'date' if isinstance(value, datetime.date) else 'time'} {value}"
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key!r}: {_written(part)}' for key, part in value.items())}}}"
    return repr(value)
