"""The command line. Thin: it reads arguments, calls, prints, and turns errors into exit codes.

0 done; 1 the run failed; 2 what was asked makes no sense; 130 interrupted, everything saved.
Nothing heavy is imported before a command needs it, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from search.arguments import NONSENSE, make_parser
from search.errors import LostError, RequestError, RunError, UnknownError, listed
from search.processes import prepare, signals_answered
from search.terminal import (
    INTERRUPTED,
    as_typed,
    complain,
    leave,
    make_console,
    naming,
    print_next_commands,
    settle,
)

if TYPE_CHECKING:
    from search.copying import Copied
    from search.running import Request
    from search.stored_study import StoredStudy

DONE, FAILED = 0, 1
GOES_ON = ("run", "resume", "evaluate")
"""Commands that go on where they stopped."""
SAFE = "every finished trial is safe; run it again to go on"


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
    try:
        with signals_answered(leave):
            return _obey(make_parser().parse_args(argv))
    finally:
        settle()


def _obey(arguments: argparse.Namespace) -> int:
    """Does what was asked for, or says in one line why not; returns the exit code."""
    try:
        code = COMMANDS[arguments.command](arguments)
        # What Python itself writes at its end has nobody to answer for it.
        print(end="", flush=True)
        return code
    except RequestError as error:
        # A column's or a file's name may hold a line break; the message stays one line.
        complain(" ".join(str(error).splitlines()))
        return NONSENSE
    except RunError as error:
        complain(str(error))
        if arguments.command in GOES_ON and not isinstance(error, (LostError, UnknownError)):
            complain(SAFE)
        return FAILED
    except KeyboardInterrupt:
        complain("interrupted; run it again to go on")
        return INTERRUPTED
    except BrokenPipeError:  # The reader (head, less) has seen enough.
        return DONE
    except Exception as error:
        fault = _fault(error, getattr(arguments, "storage", ""))
        if fault is None:
            raise
        complain(fault)
        return FAILED


FULL = (errno.ENOSPC, errno.EDQUOT)
DISK = (*FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENAMETOOLONG)


def _fault(error: Exception, storage: str) -> str | None:
    """Returns what disk, memory or database say that has failed; None: the program has failed."""
    kind, said = type(error).__name__, " ".join(str(error).split()[:12])
    if kind in ("OutOfMemoryError", "AcceleratorError"):  # torch's, which may not be imported
        return f"the GPU is of no use now ({said} …); free its memory, or use --device cpu"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return f"this machine's memory is too small ({said or kind})"
    if isinstance(error, OSError) and error.errno in DISK:
        # Of two, the second is what was to be written.
        place = error.filename2 or error.filename or "the output cannot be written"
        return f"{place}: {(error.strerror or '').lower().removesuffix(' on device')}"
    if "sqlalchemy" not in sys.modules:
        return None
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DBAPIError

    from search.database import parse_url, shown
    from search.database_faults import first_line

    known = isinstance(error, (DBAPIError, StorageInternalError))
    return f"{shown(parse_url(storage))}: {first_line(error)}" if known else None


def _run(arguments: argparse.Namespace) -> int:
    return _train(arguments, from_storage=False)


def _resume(arguments: argparse.Namespace) -> int:
    return _train(arguments, from_storage=True)


def _train(arguments: argparse.Namespace, *, from_storage: bool) -> int:
    as_json = arguments.json
    console = make_console(to_stderr=as_json)
    if console.is_terminal:  # Importing torch and Optuna takes some seconds.
        console.print(f"Reading {arguments.study} …", markup=False, highlight=False)
    if arguments.cluster is None:
        prepare()
    from search.coordinator import Ending
    from search.display import print_summary
    from search.report import summarize
    from search.running import make_plan, run_study
    from search.storage import deletion_told

    request = _request(arguments)
    plan = make_plan(request, from_storage=from_storage)
    with deletion_told(request.storage, request.fork or plan.config.name):
        stored, ending = run_study(request, plan, console)
        summary = summarize(stored)
    if as_json:
        print(json.dumps(summary.to_json(), indent=2))
    else:
        print_summary(console, summary)
        print_next_commands(console, stored, request.storage, ending, summary)
    return INTERRUPTED if ending == Ending.INTERRUPTED else DONE


def _list(arguments: argparse.Namespace) -> int:
    from search.database import Database, exists
    from search.report import names_of_others, summarize_all

    found = exists(arguments.storage)
    database = Database(arguments.storage, create=False) if found else None
    summaries, unread = ([], []) if database is None else summarize_all(database)
    for line in unread:
        complain(f"not shown: {line}")
    console = make_console(to_stderr=False)
    if arguments.json:
        print(json.dumps([summary.to_json() for summary in summaries], indent=2))
    elif not summaries:
        others = [] if database is None else names_of_others(database)
        there = f" of rnn-search's (others: {listed(others)})" if others else ""
        where = f"no studies yet{there} in {database or arguments.storage}"
        console.print(where, markup=False)
    else:
        from search.display import studies_table

        console.print(studies_table(summaries))
    return DONE


def _show(arguments: argparse.Namespace) -> int:
    from search.display import print_summary, print_trial
    from search.report import find_trial, summarize

    stored = _open(arguments)
    console = make_console(to_stderr=False)
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

    plan = make_plan(_request(arguments), training=False)
    described = describe_plan(plan)
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        for title in ("data", "notes", "baselines", "first trials", "run"):
            print(f"# {title}", *described[title], sep="\n#   ")
        print("# the study file, with every default filled in")
        print(plan.config.to_toml())
    return DONE


def _lr_range(arguments: argparse.Namespace) -> int:
    from search.range_testing import measure_range, print_test

    request, console = _request(arguments), make_console(to_stderr=arguments.json)
    options = (arguments.cell, arguments.optimizer, arguments.out, arguments.seed)
    test = measure_range(request, *options, console)
    if arguments.json:
        print(json.dumps(test.to_json(), indent=2))
    else:
        print_test(console, test)
    return DONE


def _init(arguments: argparse.Namespace) -> int:
    from search.init import initiate, say

    done = initiate(
        arguments.data,
        name=arguments.name,
        task=arguments.task,
        targets=tuple(arguments.target),
        force=arguments.force,
    )
    if arguments.json:
        print(json.dumps(done.to_json(), indent=2))
    else:
        print(*say(done, as_typed("rnn-search")), sep="\n")
    return DONE


def _report(arguments: argparse.Namespace) -> int:
    from search.reporting import report

    written = report(_open(arguments), arguments.out)
    if arguments.json:
        print(json.dumps(written.to_json(), indent=2))
    else:
        print(f"{written.html}\n{written.markdown}, with {len(written.pictures)} pictures")
    return DONE


def _dashboard(arguments: argparse.Namespace) -> int:
    from search.dashboard import Dashboard

    exposed = arguments.i_know_there_is_no_login
    with Dashboard(arguments.storage, arguments.host, arguments.port, exposed) as dashboard:
        if arguments.json:
            print(json.dumps({"url": dashboard.url, "storage": str(dashboard.database)}))
        else:
            print(f"{dashboard.database} is shown on {dashboard.url} (Ctrl-C ends it)")
        sys.stdout.flush()
        dashboard.wait()
    return DONE


def _evaluate(arguments: argparse.Namespace) -> int:
    prepare()
    from search.evaluating import evaluate_study, print_evaluation, print_warnings
    from search.storage import deletion_told

    console = make_console(to_stderr=arguments.json)
    options = (_request(arguments), arguments.top, arguments.seeds, console)
    with deletion_told(arguments.storage, arguments.study):
        evaluation, _ = evaluate_study(_open(arguments), *options)
    if evaluation is None:
        complain("interrupted; evaluate again to go on")
        return INTERRUPTED
    if arguments.json:
        print(json.dumps(evaluation.to_json(), indent=2))
        print_warnings(console, evaluation)
    else:
        print_evaluation(console, evaluation)
    return DONE


def _replay(arguments: argparse.Namespace) -> int:
    from search.replay import replay

    trusted, stored = arguments.trust_code, _open(arguments)
    result = replay(stored, arguments.number, arguments.device, trust_code=trusted)
    if arguments.json:
        print(json.dumps(result.to_json(), indent=2))
    else:
        for line in result.lines():
            print(line)
    return DONE if result.equal else FAILED


def _export(arguments: argparse.Namespace) -> int:
    from search.export import export

    done = export(
        _open(arguments),
        arguments.folder,
        arguments.trial,
        source=arguments.source,
        onnx=arguments.onnx,
        force=arguments.force,
        trust_code=arguments.trust_code,
    )
    for note in done.notes:
        print(f"note: {note}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(done.card.model_dump(mode="json"), indent=2))
    else:
        print(f"{done.what} is in {done.folder}; use it with")
        trust = "" if done.card.factory is None else " --trust-code"
        print(f"  {as_typed('rnn-search')} predict {shlex.quote(str(done.folder))} INPUT{trust}")
    return DONE


def _backup(arguments: argparse.Namespace) -> int:
    from search.copying import back_up

    copied = back_up(_open(arguments), arguments.file)
    return _say_copied(copied, naming(copied.storage), as_json=arguments.json)


def _copy(arguments: argparse.Namespace) -> int:
    from search.copying import copy_study
    from search.database import Database

    stored = _open(arguments)
    target = Database(arguments.to, create=True)
    copied = copy_study(stored, target)
    where = naming(copied.storage, secret=target.has_password)
    return _say_copied(copied, where, as_json=arguments.json)


def _say_copied(copied: Copied, where: tuple[str, str], *, as_json: bool) -> int:
    option, first = where
    go_on = f"resume {copied.study}{option}"
    said = f"{copied}; go on with it there by{first}\n  {as_typed('rnn-search')} {go_on}"
    print(json.dumps(copied.to_json(), indent=2) if as_json else said)
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
        trust_code=arguments.trust_code,
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


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "resume": _resume,
    "list": _list,
    "show": _show,
    "init": _init,
    "check": _check,
    "lr-range": _lr_range,
    "report": _report,
    "dashboard": _dashboard,
    "evaluate": _evaluate,
    "replay": _replay,
    "export": _export,
    "backup": _backup,
    "copy": _copy,
    "predict": _predict,
}
"""What each command of `search.arguments` does; it returns the exit code."""
