"""The terminal: what it can show, what ends it, and what to type next.

Nothing heavy is imported before it is needed, so that ``--help`` answers at once.
"""

from __future__ import annotations

import codecs
import errno
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, TYPE_CHECKING, NoReturn

from search.arguments import DEFAULT_STORAGE
from search.errors import without_secrets
from search.whole_files import remove_unfinished

if TYPE_CHECKING:
    from rich.console import Console

    from search.coordinator import Ending
    from search.report import Summary
    from search.stored_study import StoredStudy

UNBOUNDED = 10_000
"""Columns of what has none."""
INTERRUPTED = 130
"""The exit code."""
HUNG_UP = (errno.EIO, errno.ENXIO, errno.EBADF)
"""What writing to a terminal ends in once its window or its line is closed; of a file these are
faults."""
PLAIN_WORDS = {"→": "->", "←": "<-", "·": "|", "…": "...", "±": "+-", "÷": "/"}
"""What is written where the encoding of the output has no such sign; "?" for all others."""


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Lets Python write what an encoding cannot hold in other words, and go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(PLAIN_WORDS.get(sign, "?") for sign in part), error.end


codecs.register_error("rnn-search", _plainly)


def leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """Answers Ctrl-C, SIGTERM and SIGHUP while nothing is in training; nothing is to be saved.

    A file that is being written is removed.

    A KeyboardInterrupt would not do: packages that are just being imported swallow it.
    """
    remove_unfinished()
    with suppress(OSError):
        os.write(2, b"rnn-search: interrupted; run it again to go on\n")
    os._exit(INTERRUPTED)


def complain(line: str) -> None:
    """Writes a line of rnn-search's own to standard error, if anybody is there to read it."""
    with suppress(OSError):
        print("rnn-search:", without_secrets(line), file=sys.stderr)


def settle() -> None:
    """Leaves nothing for Python to write at its end, which would make a failure of any run."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            mute(stream)


def mute(stream: IO[str]) -> None:
    """Sends nowhere what is yet to be written to a stream that nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_console(*, to_stderr: bool) -> Console:
    """Returns a console that outlives its reader."""
    from rich.console import Console

    stream = sys.stderr if to_stderr else sys.stdout
    gone = HUNG_UP if stream is not None and stream.isatty() else ()

    class Patient(Console):
        """A search goes on when `less` is closed, and ends well when its terminal is."""

        def _check_buffer(self) -> None:
            try:
                super()._check_buffer()
            except OSError as error:
                if error.errno not in gone:
                    raise
                self.on_broken_pipe()

        def on_broken_pipe(self) -> None:
            self.quiet = True
            mute(self.file)

    if stream is not None and stream.isatty():
        return Patient(stderr=to_stderr, emoji=False)
    # A file or a pipe has no width, so that tables must not be cut to the 80 columns that rich then
    # assumes; and it is no terminal, whatever FORCE_COLOR says, which rich takes for one.
    return Patient(stderr=to_stderr, width=UNBOUNDED, force_terminal=False, emoji=False)


def print_next_commands(
    console: Console, stored: StoredStudy, storage: str, ending: Ending, summary: Summary
) -> None:
    """Prints what to type next, as it can be typed where this was.

    Args:
        console: Where to.
        stored: The study.
        storage: The URL, as it was asked for.
        ending: How the run ended.
        summary: What it has come to: a best trial may be evaluated and exported.
    """
    from search.wording import trusting

    name, where, first = stored.config.name, "", ""
    if storage != _usual_storage():
        where, first = naming(str(stored.database), secret=stored.database.has_password)
    trust = trusting(stored.config)
    go_on = f" --trials {2 * stored.config.budget.trials}" if ending == "done" else ""
    if ending == "enough":
        go_on = " --target none --stagnation none"
    commands = [
        (f"resume {name}{go_on}{where}{trust}", "go on with this study"),
        (f"show {name}{where}", "this table again; add a number for one trial"),
        (f"dashboard{where}", "look at it in a browser"),
    ]
    if summary.best is not None:
        commands += [
            (f"report {name}{where}", "one page on all of it"),
            (f"evaluate {name}{where}{trust}", "the best on several seeds, then the test part"),
        ]
    if summary.best is not None and stored.config.keep > 0:
        again = len(summary.evaluated.get("seeds", ()))  # What won there is the better choice.
        which = " --ensemble" * (again > 1) + " --winner" * (again == 1)
        what = "what won the evaluation" if again else "the best network"
        commands.append((f"export {name} DIR{which}{where}{trust}", f"{what}, to predict with"))
    console.print(f"\nNext{first}:", style="bold", markup=False, highlight=False)
    _print_commands(console, [(f"  {as_typed('rnn-search')} {it}", why) for it, why in commands])


def _print_commands(console: Console, lines: Sequence[tuple[str, str]]) -> None:
    """Prints commands, and beside each what it is for."""
    width = max(len(line) for line, _ in lines)
    widest = width + max(len(why) for _, why in lines) + 2
    # On a narrow terminal it stands under the command; in a file a line may be long.
    under = console.is_terminal and widest > console.width
    for line, why in lines:
        both = f"{line}\n      {why}" if under else f"{line:<{width}}  {why}"
        console.print(both, markup=False, highlight=False, soft_wrap=True)


def _usual_storage() -> str:
    """Returns the storage of a command that is typed without any, in the caller's shell."""
    by_make = "RNN_SEARCH_STORAGE_BY" in os.environ
    return ("" if by_make else os.environ.get("RNN_SEARCH_STORAGE", "")) or DEFAULT_STORAGE


def naming(storage: str, *, secret: bool = False) -> tuple[str, str]:
    """Returns how a command to type is told its storage.

    Args:
        storage: Its URL, without a password.
        secret: Whether it has one: then it is for the environment, which others cannot read.

    Returns:
        The option, and what is to be done before.
    """
    if secret:
        return "", ", with RNN_SEARCH_STORAGE set to the storage's URL"
    return f" --storage {shlex.quote(storage)}", ""


def as_typed(program: str) -> str:
    """Returns how to call a program of this installation from the caller's shell."""
    if shutil.which(program):
        return program
    here = Path(sys.argv[0]).with_name(program)
    found = min(str(here), os.path.relpath(here), key=len) if here.exists() else program
    return shlex.quote(found)
