"""rnn-search: finds good hyperparameters for a recurrent network on your own sequences.

`Objective` is training as an ordinary Optuna objective, `load` reads a model that ``rnn-search
export`` has written, to predict with, and `diagnose` says what a curve of losses shows;
`NetworkError` is what a network of the user's own raises. Everything else is the command line's:
``rnn-search --help``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.config import StudyConfig, load_config
    from search.diagnosis import diagnose
    from search.errors import NetworkError
    from search.objective import Objective
    from search.prediction import load

__all__ = ["NetworkError", "Objective", "StudyConfig", "diagnose", "load", "load_config"]

_HOMES = {
    "NetworkError": "search.errors",
    "Objective": "search.objective",
    "StudyConfig": "search.config",
    "diagnose": "search.diagnosis",
    "load": "search.prediction",
    "load_config": "search.config",
}


def __getattr__(name: str) -> object:
    """Imports a public name when it is first used, so that ``--help`` waits for neither torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'search' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
