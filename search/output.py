"""Where output goes: in any encoding, to a terminal, a file, or a pipe whose reader leaves."""

from __future__ import annotations

import codecs
import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WORDS = {"→": "->", "←": "<-", "·": "|", "…": "...", "±": "+-", "÷": "/"}
"""What is written where the encoding of the output has no such sign; "?" for all others."""


def speak_plainly() -> None:
    """Lets what the encoding of the output cannot hold be written in other words."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rnn-search")


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Lets Python write what an encoding cannot hold in other words, and go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(PLAIN_WORDS.get(sign, "?") for sign in part), error.end


codecs.register_error("rnn-search", _plainly)


def mute() -> None:
    """The reader (head, less) has seen enough; what more is written goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make_console(*, to_stderr: bool) -> Console:
    """Returns a console, 120 columns wide where there is no terminal."""
    from rich.console import Console

    class Patient(Console):
        """A console that outlives its reader: a search goes on when `less` is closed."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            mute()

    console = Patient(stderr=to_stderr)
    # A file or a pipe has no width; tables must not be cut to the 80 columns rich then assumes.
    return console if console.is_terminal else Patient(stderr=to_stderr, width=120)
