"""Command lines and storages that make no sense are refused: one line, exit code 2."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusing import Files, Refuse, Said, cases, csv, forecast, require_refusal, tree
from tiny import rnn_search, write_study

from search.database import parse_url
from search.errors import StudyError

FILES: Files = {"s.toml": forecast(), "d.csv": csv()}
FORMS = "use sqlite:///FILE.db or postgresql://USER@HOST/DATABASE"

URLS = [
    ("a path", "./study.db", ("the storage './study.db' is no URL", FORMS)),
    ("nonsense", "nonsense", ("the storage 'nonsense' is no URL", FORMS)),
    ("empty", "", ("is no URL", FORMS)),
    ("no file", "sqlite://", ("names no file", FORMS)),
    ("still no file", "sqlite:///", ("names no file", FORMS)),
    ("memory", "sqlite:///:memory:", ("names no file", FORMS)),
    ("one slash", "sqlite:/study.db", ("is no URL", FORMS)),
    ("two slashes", "sqlite://folder/study.db", ("is no plain SQLite file", FORMS)),
    ("query", "sqlite:///study.db?mode=ro", ("is no plain SQLite file", FORMS)),
    ("driver", "sqlite+aiosqlite:///study.db", ("is no plain SQLite file", FORMS)),
    ("unknown driver", "sqlite+foo:///study.db", ("is no plain SQLite file", FORMS)),
    ("NUL in name", "sqlite:///a\0b.db", "cannot be used"),
    ("long name", f"sqlite:///{'x' * 300}.db", "File name too long"),
    ("long name in a new folder", f"sqlite:///new/{'x' * 300}.db", "cannot be used"),
    ("MySQL", "mysql://u:geheim@h/d", ("the storage 'mysql' is not supported", FORMS)),
    ("no database", "postgresql://u:geheim@h", ("names no database", FORMS)),
    ("port", "postgresql://u:geheim@h:port/d", ("is no URL", FORMS)),
    ("no scheme", "postgresql//u:geheim@h/d", ("is no URL", FORMS)),
    ("password with @", "postgresql:/u:ge@geheim@h/d", ("is no URL", FORMS)),
    ("password with /", "postgresql//u:a@geheim/h@h/d", ("is no URL", FORMS)),
    ("password last", "postgresql:u:geheim", ("is no URL", FORMS)),
    ("password in query", "nonsense?password=geheim", ("is no URL", FORMS)),
    ("password with @ and /", "postgresql://u:ge@h/geheim@h/d", "write it as %40"),
    ("settings", "host=h user=u password=geheim dbname=d", ("is no URL", FORMS)),
    ("no colon", "postgresql//u:geheim", ("is no URL", FORMS)),
]


@pytest.mark.parametrize(("url", "says"), cases(URLS))
def test_storage_url(refuse: Refuse, url: str, says: Said) -> None:
    """A storage URL of the wrong form is refused with the right forms and without its password."""
    refuse(FILES, says, "run", "s.toml", "--storage", url)


@pytest.mark.parametrize("command", [("resume", "s"), ("show", "s"), ("list",), ("check", "x")])
def test_storage_url_of_other_commands(refuse: Refuse, command: tuple[str, ...]) -> None:
    """Every command that needs the storage refuses a URL of the wrong form."""
    refuse(FILES, FORMS, *command, "--storage", "postgresql//u:geheim@h/d")


def test_storage_from_the_environment(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong URL in RNN_SEARCH_STORAGE is refused like one on the command line."""
    monkeypatch.setenv("RNN_SEARCH_STORAGE", "postgresql:u:geheim")
    refuse(FILES, FORMS, "run", "s.toml")


URL = "postgresql://u:geheim@h/s1"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"run {URL}", "postgresql://u:***@h/s1 does not exist"),
        (f"show s {URL}", "invalid int value: 'postgresql://u:***@h/s1'"),
        (f"run s.toml --trials {URL}", "'postgresql://u:***' is no whole number"),
        (f"list --strage {URL}", "unrecognized arguments: --strage postgresql://u:***@h/s1"),
        (f"check {URL}?password=geheim", "password=***"),
        (f"init {URL}", "postgresql:/u:***@h/s1"),
        ("run s.toml --trials postgresql://u:1-geheim", "'postgresql://u:***' is no whole number"),
        ("list --x POSTGRESQL://u:geheim", "--x POSTGRESQL://u:***"),
        ("list --x password='geheim'", "password=***"),
        ("list --x postgresql://h:5432/d", "--x postgresql://h:5432/d"),
    ],
)
def test_a_password_in_the_wrong_place(refuse: Refuse, line: str, says: str) -> None:
    """A URL that is given where none belongs is quoted without its password."""
    refuse(FILES, says, *line.split())


CLUSTERS = [
    ("address alone", ("--address", "127.0.0.1:6379"), "--address 127.0.0.1:6379 goes with"),
    ("GPUs alone", ("--gpus-per-trial", "0.5"), "--gpus-per-trial 0.5 goes with --cluster ray"),
    ("unknown", ("--cluster", "dask"), "invalid choice: 'dask'"),
    ("no port", ("--cluster", "ray", "--address", "host"), "--address host: give HOST:PORT"),
    ("port", ("--cluster", "ray", "--address", "host:0"), "--address host:0: give HOST:PORT"),
    ("no host", ("--cluster", "ray", "--address", "no-host.invalid:1"), "no Ray answers there"),
    ("nobody", ("--cluster", "ray", "--address", "127.0.0.1:1"), "(Connection refused)"),
    ("0 GPUs", ("--cluster", "ray", "--gpus-per-trial", "0"), "'0' is neither a part"),
    ("1.5 GPUs", ("--cluster", "ray", "--gpus-per-trial", "1.5"), "'1.5' is neither a part"),
    ("which GPU", ("--cluster", "ray", "--device", "cuda:1"), "--device cuda:1: Ray chooses which"),
    ("CPU and GPU", ("--cluster", "ray", "--device", "cpu", "--gpus-per-trial", "1"), "contradict"),
]


@pytest.mark.parametrize(("options", "says"), cases(CLUSTERS))
def test_cluster(refuse: Refuse, options: tuple[str, ...], says: Said) -> None:
    """Options of a cluster that make no sense, or lead nowhere, are refused before anything is."""
    refuse(FILES, says, "run", "s.toml", *options)


def test_cluster_without_ray(refuse: Refuse, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is not installed, one line says how to install it."""
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: None if name == "ray" else find_spec(name, *rest),
    )
    says = "--cluster ray needs Ray; install it: pip install 'rnn-search[ray]'"
    refuse(FILES, says, "run", "s.toml", "--cluster", "ray")


@given(
    st.sampled_from(["postgresql//u:{}@h/d", "postgres:u:{}", "mysql://u:{}@h/d", "x?password={}"]),
    st.text(st.characters(codec="ascii", exclude_categories=("C",)), min_size=12),
)
def test_no_password_is_printed(form: str, password: str) -> None:
    """Whatever its characters, the password of a URL that is refused is not in the message."""
    with pytest.raises(StudyError) as caught:
        parse_url(form.replace("{}", password))
    assert password not in str(caught.value)


def test_more_workers_than_memory(refuse: Refuse) -> None:
    """Trainers that cannot fit in this machine's memory are refused before one is started."""
    says = ("--workers 99999: each takes about 300 MB", "room for")
    refuse(FILES, says, "run", "s.toml", "--workers", "99999")


DATABASES = [
    ("folder", {"x.db": None}, "x.db", "x.db is a folder; the storage must be a file"),
    ("empty file", {"x.db": b""}, "x.db", "x.db is empty, not a database; delete it"),
    ("text", {"x.db": "no database\n" * 500}, "x.db", "x.db cannot be used: file is not"),
    ("cut off", {"x.db": b"SQLite format 3\0" + b"\0" * 50}, "x.db", "x.db cannot be used"),
    ("below a file", {}, "d.csv/x.db", "d.csv/x.db cannot be used"),
    ("far below a file", {}, "d.csv/y/x.db", "cannot be used"),
    ("unwritable", {}, "/proc/x.db", "/proc/x.db cannot be used: unable to open database file"),
    ("unwritable folder", {}, "/proc/new/x.db", "/proc/new/x.db cannot be used"),
]


@pytest.mark.parametrize(("files", "path", "says"), cases(DATABASES))
def test_storage_file(refuse: Refuse, files: Files, path: str, says: str) -> None:
    """A storage that is no database, or cannot be made, is refused with its path and a remedy."""
    refuse({**FILES, **files}, says, "run", "s.toml", "--storage", f"sqlite:///{path}")


@pytest.mark.parametrize("command", [("resume", "s"), ("show", "s"), ("list",)])
@pytest.mark.parametrize("content", [b"", b"no database" * 500])
def test_reading_a_broken_storage(refuse: Refuse, command: tuple[str, ...], content: bytes) -> None:
    """Commands that only read refuse a file that is no database, too."""
    refuse({"x.db": content}, "x.db", *command, "--storage", "sqlite:///x.db")


@pytest.mark.parametrize("command", [("resume", "s"), ("show", "s"), ("list",)])
def test_reading_the_database_of_another_program(refuse: Refuse, command: tuple[str, ...]) -> None:
    """A database without studies is refused, and no table is made in it."""
    with closing(sqlite3.connect(refuse.folder / "x.db")) as connection:
        connection.execute("create table other (a)")
    refuse(
        {}, "x.db holds no studies; give another --storage", *command, "--storage", "sqlite:///x.db"
    )


def test_studies_folder_that_is_a_file(refuse: Refuse) -> None:
    """A file where the studies folder should be is refused before anything trains."""
    refuse({**FILES, "studies": ""}, "studies/studies.db cannot be used")


COMMANDS = [
    ("trials 0", "run s.toml --trials 0", "argument --trials: '0' is no whole number from 1"),
    ("trials word", "run s.toml --trials ten", "argument --trials: 'ten' is no whole number"),
    ("trials power", "run s.toml --trials ²", "argument --trials: '²' is no whole number"),
    ("trials endless", f"run s.toml --trials {'9' * 5000}", "argument --trials: '999"),
    ("timeout", "run s.toml --timeout soon", ("--timeout: 'soon' is no duration", "'5m'")),
    ("timeout 0", "run s.toml --timeout 0", "--timeout: '0' leaves no time"),
    ("timeout less", "run s.toml --timeout=-5m", "--timeout: '-5m' is no duration"),
    ("device", "run s.toml --device gpu", "--device gpu: use auto, cpu, cuda, cuda:N or all"),
    ("device number", "run s.toml --device cuda:-1", "use auto, cpu, cuda, cuda:N or all"),
    ("device far", "run s.toml --device cuda:999", "--device cuda:999: "),
    ("workers", "run s.toml --workers -1", "argument --workers: '-1' is no whole number"),
    ("workers 0", "run s.toml --workers 0", "argument --workers: '0' is no whole number"),
    ("seed", "run s.toml --seed -1", "argument --seed: '-1' is no whole number from 0"),
    ("option", "run s.toml --trails 3", "unrecognized arguments: --trails 3"),
    ("no command", "--json", "required: COMMAND"),
    ("no study", "run", "rnn-search run: the following arguments are required: STUDY"),
    ("command", "rum s.toml", "invalid choice: 'rum'"),
    ("unknown study", "run vowel", ("'vowel' is neither a study file", "did you mean 'vowels'?")),
    ("unknown file", "run nope.toml", "nope.toml does not exist; give a study file"),
    ("unknown folder", "run x/nope", "x/nope does not exist; give a study file"),
    ("dots", "run ..", "'..' is neither a study file"),
    ("long", f"run {'x' * 300}", "is neither a study file"),
    ("long file", f"run {'x' * 300}.toml", "does not exist; give a study file"),
    ("data", "run d.csv", "'d.csv' is neither a study file"),
    ("check", "check nope", "'nope' is neither a study file"),
    ("resume", "resume nope", "there are no studies yet: studies/studies.db does not exist"),
    ("show", "show nope", "there are no studies yet: studies/studies.db does not exist"),
    ("number", "show nope x", "argument NUMBER"),
    ("fork of nothing", "run s.toml --fork new", "there are no studies yet"),
]


@pytest.mark.parametrize(("line", "says"), cases(COMMANDS))
def test_command_line(refuse: Refuse, line: str, says: Said) -> None:
    """A command line that makes no sense is refused on one line, without the usage."""
    refuse(FILES, says, *line.split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a folder with a study ``tiny`` of two trials in it."""
    folder = tmp_path_factory.mktemp("trained")
    write_study(folder, budget={"trials": 2})
    done = rnn_search(folder, "run", "tiny.toml", "--workers", 1)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "says"),
    cases(
        [
            (
                "show",
                "show tny",
                ("no study 'tny' in sqlite:///studies/studies.db", "mean 'tiny'?"),
            ),
            ("resume", "resume tny", ("no study 'tny' in", "did you mean 'tiny'?")),
            ("trial", "show tiny 2", "no trial 2: the study 'tiny' has trials 0 to 1"),
            (
                "seed",
                "run tiny.toml --seed 5",
                ("the study 'tiny' was begun otherwise: seed: 0", "--fork", "resume tiny"),
            ),
            ("fork", "run tiny.toml --fork a/b", "'a/b' cannot be a study's name"),
            ("fork taken", "run tiny.toml --fork tiny", "there is a study of this name already"),
            ("usage", "run tiny.toml --trials 0", "rnn-search run: argument --trials: '0'"),
        ]
    ),
)
def test_real_command_line_beside_a_study(trained: Path, line: str, says: Said) -> None:
    """The console script refuses what does not fit the study that is there, and changes nothing."""
    before = tree(trained)
    refused = rnn_search(trained, *line.split())
    require_refusal(refused.returncode, refused.stderr, says)
    assert refused.stdout == ""
    after = tree(trained)
    assert sorted(after) == sorted(before)
    assert {path for path in after if after[path] != before[path]} == set()
