"""The command line. Thin: it reads arguments, calls, prints, and turns errors into exit codes.

0 done; 1 the run failed; 2 what was asked makes no sense; 130 interrupted, everything saved.
Nothing heavy is imported before a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import codecs
import io
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from search.arguments import DEFAULT_STORAGE, NONSENSE, make_parser
from search.errors import RequestError, RunError

if TYPE_CHECKING:
    from rich.console import Console

    from search.coordinator import Ending
    from search.running import Request
    from search.storage import StoredStudy

DONE, FAILED, INTERRUPTED = 0, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: The arguments; None: the process's own.

    Returns:
        The exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="rnn-search")
    arguments = make_parser().parse_args(argv)
    before = signal.signal(signal.SIGINT, _leave)
    try:
        return COMMANDS[arguments.command](arguments)
    except RequestError as error:
        # A column's or a file's name may hold a line break; the message stays one line.
        print("rnn-search:", " ".join(str(error).splitlines()), file=sys.stderr)
        return NONSENSE
    except RunError as error:
        print(f"rnn-search: {error}", file=sys.stderr)
        print("rnn-search: every finished trial is safe; run it again to go on", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("rnn-search: interrupted; run it again to go on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has seen enough; Python must not complain when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    finally:
        signal.signal(signal.SIGINT, before)


PLAIN_WORDS = {"→": "->", "←": "<-", "·": "|", "…": "...", "±": "+-", "÷": "/"}
"""What is written where the encoding of the output has no such sign; "?" for all others."""


def _plainly(error: UnicodeError) -> tuple[str, int]:
    """Lets Python write what an encoding cannot hold in other words, and go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(PLAIN_WORDS.get(sign, "?") for sign in part), error.end


codecs.register_error("rnn-search", _plainly)


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """Answers Ctrl-C while nothing is in training; there is nothing to save then.

    A KeyboardInterrupt would not do: packages that are just being imported swallow it.
    """
    os.write(2, b"rnn-search: interrupted; run it again to go on\n")
    os._exit(INTERRUPTED)


def _run(arguments: argparse.Namespace) -> int:
    return _train(_request(arguments), arguments.json, from_storage=False)


def _resume(arguments: argparse.Namespace) -> int:
    return _train(_request(arguments), arguments.json, from_storage=True)


def _train(request: Request, as_json: bool, *, from_storage: bool) -> int:
    from search.coordinator import Ending
    from search.display import print_summary
    from search.report import summarize
    from search.running import make_plan, run_study

    console = _console(to_stderr=as_json)
    if console.is_terminal:  # Importing torch and Optuna takes some seconds.
        console.print(f"Reading {request.study} …", markup=False, highlight=False)
    plan = make_plan(request, from_storage=from_storage)
    stored, ending = run_study(request, plan, console)
    summary = summarize(stored)
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        print_summary(console, summary)
        _next_commands(console, stored, request, ending)
    return INTERRUPTED if ending == Ending.INTERRUPTED else DONE


def _list(arguments: argparse.Namespace) -> int:
    from search.database import Database, exists
    from search.report import summarize_all

    found = exists(arguments.storage)
    summaries = summarize_all(Database(arguments.storage, create=False)) if found else []
    console = _console(to_stderr=False)
    if arguments.json:
        print(json.dumps([summary.to_json() for summary in summaries], indent=2))
    elif not summaries:
        console.print(f"no studies yet in {arguments.storage}", markup=False)
    else:
        from search.display import studies_table

        console.print(studies_table(summaries))
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from search.display import print_summary, print_trial
    from search.report import find_trial, summarize

    stored = _open(arguments)
    console = _console(to_stderr=False)
    if arguments.number is not None:
        line = find_trial(stored, arguments.number)
        if arguments.json:
            print(json.dumps(asdict(line), indent=2))
        else:
            print_trial(console, line, stored.config.metric)
        return DONE
    summary = summarize(stored)
    if arguments.json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        print_summary(console, summary)
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from search.running import describe_plan, make_plan

    plan = make_plan(_request(arguments))
    described = describe_plan(plan)
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        for title in ("data", "notes", "baselines", "first trials", "run"):
            print(f"# {title}", *described[title], sep="\n#   ")
        print("# the study file, with every default filled in")
        print(plan.config.to_toml())
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from search.reporting import report

    written = report(_open(arguments), arguments.out)
    if arguments.json:
        print(json.dumps(written.to_json(), indent=2))
    else:
        print(f"{written.html}\n{written.markdown}, with {len(written.pictures)} pictures")
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    from search.evaluating import evaluate_study, print_evaluation

    console = _console(to_stderr=arguments.json)
    options = (_request(arguments), arguments.top, arguments.seeds, console)
    evaluation, _ = evaluate_study(_open(arguments), *options)
    if evaluation is None:
        print("rnn-search: interrupted; evaluate again to go on", file=sys.stderr)
        return INTERRUPTED
    if arguments.json:
        print(json.dumps(evaluation.to_json(), indent=2))
    else:
        print_evaluation(console, evaluation)
    return DONE


def _replay(arguments: argparse.Namespace) -> int:
    from search.replay import replay

    result = replay(_open(arguments), arguments.number, arguments.device)
    if arguments.json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        for line in result.lines():
            print(line)
    return DONE if result.equal else FAILED


def _export(arguments: argparse.Namespace) -> int:
    from search.export import export

    done = export(_open(arguments), arguments.folder, arguments.trial, force=arguments.force)
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(done.card.model_dump(mode="json"), indent=2))
    else:
        print(f"trial {done.card.trial} of {done.card.study} is in {done.folder}; use it with")
        print(f"  {_as_typed('rnn-search')} predict {done.folder} INPUT")
    return DONE


def _predict(arguments: argparse.Namespace) -> int:
    from search.answers import answer

    said = answer(
        arguments.folder,
        arguments.input,
        out=arguments.out,
        as_json=arguments.json,
        length=arguments.length,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
    print(said, end="")
    return DONE


def _open(arguments: argparse.Namespace) -> StoredStudy:
    from search.database import Database
    from search.storage import open_study

    return open_study(Database(arguments.storage, create=False), arguments.study)


def _request(arguments: argparse.Namespace) -> Request:
    from search.running import Request

    given = vars(arguments)
    names = [one.name for one in fields(Request)]
    return Request(**{name: given[name] for name in names if given.get(name) is not None})


def _console(*, to_stderr: bool) -> Console:
    from rich.console import Console

    console = Console(stderr=to_stderr)
    # A file or a pipe has no width; tables must not be cut to the 80 columns rich then assumes.
    return console if console.is_terminal else Console(stderr=to_stderr, width=120)


def _next_commands(console: Console, stored: StoredStudy, request: Request, ending: Ending) -> None:
    name, where = stored.config.name, ""
    if request.storage != DEFAULT_STORAGE and "RNN_SEARCH_STORAGE" not in os.environ:
        where = f" --storage {stored.database}"
    total = stored.config.budget.trials
    go_on = f" --trials {2 * total}" if ending == "done" else ""
    if ending == "enough":
        go_on = " --target none --stagnation none"
    console.print("\nNext:", style="bold")
    for program, arguments, why in (
        ("rnn-search", f"resume {name}{go_on}{where}", "go on with this study"),
        ("rnn-search", f"show {name}{where}", "this table again; add a number for one trial"),
        ("optuna-dashboard", str(stored.database), "look at it in a browser"),
    ):
        line = f"  {_as_typed(program)} {arguments}"
        console.print(f"{line:<60}  {why}", markup=False, highlight=False, soft_wrap=True)


def _as_typed(program: str) -> str:
    """Returns how to call a program of this installation from the caller's shell."""
    if shutil.which(program):
        return program
    here = Path(sys.argv[0]).with_name(program)
    return min(str(here), os.path.relpath(here), key=len) if here.exists() else program


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "resume": _resume,
    "list": _list,
    "show": _show,
    "check": _check,
    "report": _report,
    "evaluate": _evaluate,
    "replay": _replay,
    "export": _export,
    "predict": _predict,
}
"""What each command of `search.arguments` does; it returns the exit code."""
