"""The choices that make a study file: keys, values and reasons, and their text.

Shapes: none; this is about words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

WIDTH = 98
"""Of a comment, without its ``# ``."""


@dataclass(frozen=True)
class Choice:
    """One key of ``[data]``.

    Attributes:
        key: Its name.
        value: What it is set to; None: it is left out.
        why: Why, and what else could be chosen.
        example: How the line could look, where it is left out.
    """

    key: str
    value: Any
    why: str
    example: str = ""


@dataclass(frozen=True)
class Proposal:
    """A study for a file.

    Attributes:
        path: The file, the training part if there are two.
        form: What kind of file it is, how large, how it is read.
        choices: The keys of ``[data]`` but ``path``.
        notes: What a person should know.
    """

    path: Path
    form: str
    choices: tuple[Choice, ...]
    notes: tuple[str, ...] = ()


def study_text(title: str, name: Choice, data: Iterable[Choice], rest: str) -> str:
    """Writes a study file.

    Args:
        title: A comment for its head.
        name: The study's name.
        data: The keys of ``[data]``.
        rest: What follows, as TOML.

    Returns:
        TOML, whatever characters are in the names of files and columns.
    """
    head = f"{comment(title)}\n{_lines(name)}\n[data]\n"
    return head + "\n".join(map(_lines, data)) + rest


def comment(text: str) -> str:
    """Returns a text as a comment of TOML, which may hold no control characters."""
    safe = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    lines = textwrap.wrap(safe, WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _lines(choice: Choice) -> str:
    line = f"# {choice.example}\n" if choice.example else ""
    if choice.value is not None:
        line = f"{choice.key} = {_value(choice.value)}\n"
    return comment(choice.why) + line


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    return tomli_w.dumps({"x": value}).removeprefix("x = ").rstrip("\n")
