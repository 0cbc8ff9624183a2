"""The arguments of the command line: which commands there are, what each takes, text → value.

Nothing heavy is imported here, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import functools
import math
import os
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from search.errors import without_secrets
from search.surroundings import versions

DEFAULT_STORAGE = "sqlite:///studies/studies.db"
NONSENSE = 2
"""The exit code if what was asked for makes no sense."""


def count(text: str) -> int:
    """Reads a whole number from 1 on."""
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 1 to 999999999")
    return int(text)


def stagnation(text: str) -> float:
    """Reads a number of trials, or ``none``: infinite."""
    return float("inf") if text == "none" else count(text)


def target(text: str) -> float:
    """Reads a finite number, or ``none``: not a number."""
    if text == "none":
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.inf
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no finite number; none: no target")
    return value


def number(text: str) -> int:
    """Reads a trial's number, from 0."""
    if not re.fullmatch("[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number of a trial: 0, 1, 2...")
    return int(text)


def port(text: str) -> int:
    """Reads a port's number."""
    if not re.fullmatch("[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no port: a number from 1 to 65535")
    return int(text)


def temperature(text: str) -> float:
    """Reads a number from 0 on."""
    if not re.fullmatch(r"[0-9]{0,6}\.?[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no number from 0 on, such as 0.8")
    return float(text)


def seed(text: str) -> int:
    """Reads a seed, from 0 to 2^63 - 1."""
    if not re.fullmatch("[0-9]{1,19}", text) or int(text) >= 2**63:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no whole number from 0 to 2^63 - 1")
    return int(text)


def timeout(text: str) -> float:
    """Reads a duration in seconds, or ``none``: infinite."""
    from search.fields import seconds

    if text == "none":
        return float("inf")
    try:
        value = float(str(seconds(text)))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} leaves no time")
    return value


def part(text: str) -> float:
    """Reads how many GPUs a trial takes: a part of one, or a whole number of them."""
    if not re.fullmatch(r"0?\.[0-9]{1,4}|[1-9][0-9]{0,2}", text) or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is neither a part (0.25) nor a number (2)")
    return float(text)


def stored_name(text: str) -> str:
    """Reads a study's name, or a study file: the name that it gives its study."""
    if not text.endswith(".toml"):
        return text
    try:
        name = tomllib.loads(Path(text).read_text(encoding="utf-8-sig")).get(
            "name", Path(text).stem
        )
    except (
        OSError,
        ValueError,
        RecursionError,
    ):  # No such file, or none that names a study: as it is written.
        return text
    return name if isinstance(name, str) else text


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Says what is wrong in one line; the usage is where it points to."""
        said = without_secrets(message)
        self.exit(NONSENSE, f"{self.prog}: {said}; see {self.prog} --help\n")


class Version(argparse.Action):
    """Prints the versions that a report of a fault needs, in one line, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        """Looks them up only when asked."""
        found = versions()
        ours = found.pop("rnn-search")
        print(f"rnn-search {ours} ({', '.join(f'{name} {it}' for name, it in found.items())})")
        parser.exit()


def make_parser() -> Parser:
    """Returns the parser of the whole command line; ``command`` is the name of the one given."""
    parser = Parser(
        prog="rnn-search",
        description="Finds good hyperparameters for a recurrent network on your own sequences.",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print versions and exit")
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for name, (about, add_options) in COMMANDS.items():
        sub = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.")
        sub.add_argument("--json", action="store_true", help="JSON on standard output")
        add_options(sub)
    return parser


def _stored(sub: argparse.ArgumentParser) -> None:
    """Adds what every command has that reads or writes a study."""
    sub.add_argument(
        "--storage",
        default=os.environ.get("RNN_SEARCH_STORAGE") or DEFAULT_STORAGE,
        help=f"database URL (default: RNN_SEARCH_STORAGE, else {DEFAULT_STORAGE})",
    )


def _trained(sub: argparse.ArgumentParser) -> None:
    """Adds what every command has that trains on several trainers."""
    sub.add_argument(
        "--workers",
        type=count,
        help="trials at once (default: one per core, 16 at most; on a GPU 32)",
    )
    sub.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:N or all (run: a GPU and the cores)"
    )
    _trusting(sub)


def _trusting(sub: argparse.ArgumentParser) -> None:
    """Adds what every command has that may import a network of the user's own."""
    sub.add_argument(
        "--trust-code", action="store_true", help="import and call the study's [model] factory"
    )


def _searched(sub: argparse.ArgumentParser) -> None:
    """Adds what decides how long a search goes on."""
    sub.add_argument("--trials", type=count, help="trials that the study is to have in all")
    sub.add_argument("--timeout", type=timeout, help="stop after this long: 90s, 10m, none")
    sub.add_argument("--stagnation", type=stagnation, help="stop when so many were in vain")
    sub.add_argument("--target", type=target, help="stop at this value; none: do not")
    _trained(sub)
    sub.add_argument("--cluster", choices=("ray",), help="train on a Ray cluster")
    sub.add_argument("--address", metavar="HOST:PORT", help="its head (default: Ray, here)")
    sub.add_argument("--gpus-per-trial", metavar="PART", type=part, help="0.25: four on each GPU")


def _named(sub: argparse.ArgumentParser, metavar: str = "NAME") -> None:
    """Adds the study: the NAME of one in the storage, or a STUDY that may be made from its file."""
    _stored(sub)
    sub.add_argument("study", metavar=metavar, type=stored_name if metavar == "NAME" else str)


def _run(sub: argparse.ArgumentParser) -> None:
    _named(sub, "STUDY")
    _searched(sub)
    sub.add_argument("--seed", type=seed, help="the study's seed (default: the file's)")
    sub.add_argument("--fork", metavar="NEWNAME", help="a new study, with these trials")


def _resume(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    _searched(sub)


def _check(sub: argparse.ArgumentParser) -> None:
    _named(sub, "STUDY")
    _trusting(sub)


def _lr_range(sub: argparse.ArgumentParser) -> None:
    _named(sub, "STUDY")
    sub.add_argument("--cell", action="append", help="only this one (may be repeated)")
    sub.add_argument("--optimizer", action="append", help="only this one (may be repeated)")
    sub.add_argument("--out", metavar="FILE", type=Path, help="default: NAME-lr-range.png")
    sub.add_argument("--seed", type=seed, default=0, help="of weights and batches (default: 0)")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def _show(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("number", metavar="NUMBER", type=int, nargs="?")


def _init(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("data", metavar="DATA", type=Path, help="CSV, Parquet, .ts or text")
    sub.add_argument("--task", choices=("forecast", "classify", "language"))
    sub.add_argument(
        "--target",
        metavar="COLUMN",
        action="append",
        default=[],
        help="what to forecast (again, or with commas, for several), or the class",
    )
    sub.add_argument("--name", help="the study's name (default: the file's)")
    sub.add_argument("--force", action="store_true", help="replace a study file that is there")


def _report(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("--out", metavar="DIR", type=Path, help="default: with the study's files")


def _evaluate(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("--top", type=count, default=3, help="configurations (default: 3)")
    sub.add_argument("--seeds", type=count, default=5, help="seeds of each (default: 5)")
    _trained(sub)


def _replay(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("number", metavar="NUMBER", type=int)
    sub.add_argument("--device", default="auto", help="default: what the trial was trained on")
    _trusting(sub)


def _export(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("folder", metavar="DIR", type=Path)
    which = sub.add_mutually_exclusive_group()
    which.add_argument("--trial", metavar="NUMBER", type=number, help="default: the best")
    add = functools.partial(which.add_argument, action="store_const", dest="source")
    add("--winner", const="winner", help="the evaluation's, its best seed by validation")
    add("--ensemble", const="ensemble", help="all seeds of the evaluation's winner, as one")
    sub.set_defaults(source="trial")
    sub.add_argument("--onnx", action="store_true", help="model.onnx, too, for other programs")
    sub.add_argument("--force", action="store_true", help="replace an earlier export in DIR")
    _trusting(sub)


def _predict(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("folder", metavar="DIR", type=Path)
    sub.add_argument("input", metavar="INPUT", type=Path)
    sub.add_argument("--out", metavar="FILE", type=Path, help="CSV or Parquet (text: text)")
    sub.add_argument("--length", type=count, help="text: continue it by so many characters")
    sub.add_argument("--temperature", type=temperature, help="0: the likeliest (default: 1)")
    sub.add_argument("--seed", type=seed, help="of what is drawn (default: 0)")
    _trusting(sub)


def _backup(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("file", metavar="FILE", type=Path)


def _copy(sub: argparse.ArgumentParser) -> None:
    _named(sub)
    sub.add_argument("--to", metavar="URL", required=True, help="the other database")


def _dashboard(sub: argparse.ArgumentParser) -> None:
    _stored(sub)
    sub.add_argument("--port", type=port, help="default: 8080 if it is free, else another")
    sub.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine alone")
    sub.add_argument(
        "--i-know-there-is-no-login",
        action="store_true",
        help="allows a --host that others reach: they may change and delete studies",
    )


COMMANDS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "run": ("create or resume a study and train until it has its trials", _run),
    "resume": ("go on with a study from the storage alone, no file needed", _resume),
    "list": ("the studies in the storage", _stored),
    "show": ("what a study has come to, or one of its trials", _show),
    "init": ("look at a data file and write a study for it", _init),
    "check": ("read file and data, print what would run", _check),
    "lr-range": ("find the learning rates that are worth searching", _lr_range),
    "report": ("one page on all that a study has found: HTML, Markdown, PNG", _report),
    "dashboard": ("look at the studies in a browser, also while they run", _dashboard),
    "evaluate": ("retrain the best, then look at the test part", _evaluate),
    "replay": ("train one trial again and compare bit for bit", _replay),
    "export": ("write a network, or an ensemble, as files to predict with", _export),
    "backup": ("copy a study, also while it runs, into a file of its own", _backup),
    "copy": ("copy a study into another database, to go on there", _copy),
    "predict": ("forecast, classify, judge or continue a file with an exported model", _predict),
}
"""Every command in the order in which ``--help`` lists them: what it is for, what it takes."""
