"""The exceptions of rnn-search; every message names the thing at fault and the remedy.

`RequestError` and its children mean that what was asked for makes no sense: the command line
prints the message as one line and exits with 2. `RunError` and its children mean that the run
itself failed: one line, exit 1. Anything else is a fault of the program and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class TrainerError(RunError):
    """A trainer could not be started or kept alive."""


class NetworkError(RunError, RuntimeError):
    """The user's own network raised an exception, or answered in another shape.

    A RuntimeError, so that within a trial it fails that trial alone, as torch's own do.
    """


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
    return f"; known: {', '.join(names)}"
