"""Studies and data that make no sense are refused: one line that names what, exit code 2."""

from __future__ import annotations

import io
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from refusing import SPACE, Refuse, Said, cases, csv, forecast

TEXT = "the quick brown fox jumps over the lazy dog. " * 200
TS_HEADER = (
    "@problemName p\n@timeStamps false\n@univariate true\n@equalLength true\n@seriesLength 3\n"
    "@classLabel true a b\n@data\n"
)
TS_CASES = "".join(f"{i},{i * 2 % 7},{i % 3}:{'ab'[i % 2]}\n" for i in range(80))


def table(line: str, header: str, count: int = 120) -> str:
    """Returns a CSV of lines; ``{i}`` becomes the line's number and ``{m}`` that modulo 7."""
    return f"{header}\n" + "".join(line.format(i=i, m=i % 7) + "\n" for i in range(count))


def long_form(label: str = "{ab}", last: str = "", cases: int = 40) -> str:
    """Returns labelled series in long form, four rows each, and a last line."""
    rows = (
        f"{case},{label.format(ab='uv'[case % 2], case=case)},{case * step % 5}\n"
        for case in range(cases)
        for step in range(4)
    )
    return f"s,label,x\n{''.join(rows)}{last}"


def classify(data: str = "", path: str = "d.ts") -> str:
    """Returns a study file that classifies ``d.ts``."""
    return f'[data]\ntask = "classify"\npath = "{path}"\n{data}\n{SPACE}'


def in_space(line: str) -> str:
    """Returns a study file whose space has this one line."""
    return forecast(space=f"[space]\n{line}")


WHOLE, TABLE = "must be a whole number, not ", "must be a table, not "
COLUMNS = "[data] target: must be the name of a column or a list of names"
SHARES = "[data] split: must be three shares above 0 that add up to 1"
STUDIES = [
    ("unknown key", forecast(top="sed = 3"), ("unknown key 'sed'", "did you mean 'seed'?")),
    ("unknown table", forecast() + "[stoping]\nx = 1", "did you mean 'stopping'?"),
    ("unknown in data", forecast("windw = 3"), "[data] unknown key 'windw'; did you mean 'window'"),
    ("unknown in space", in_space("learning_rat = [0.1, 1]"), "did you mean 'learning_rate'?"),
    ("unknown in budget", forecast(space="[budget]\ntrails = 3"), "did you mean 'trials'?"),
    ("unknown in stopping", forecast(space="[stopping]\npatiense = 1"), "mean 'patience'?"),
    ("of another task", forecast("label = 'y'"), ("[data] unknown key 'label'", "target")),
    ("given", forecast(top="given = ['epochs']"), "unknown key 'given'"),
    ("number as word", forecast("horizon = '3'"), f"[data] horizon: {WHOLE}'3'"),
    ("number as table", forecast("horizon = { a = 1 }"), f"[data] horizon: {WHOLE}{{'a': 1}}"),
    ("number as switch", forecast("horizon = true"), f"[data] horizon: {WHOLE}True"),
    ("number with fraction", forecast("horizon = 1.5"), f"[data] horizon: {WHOLE}1.5"),
    ("number too small", forecast("horizon = 0"), "[data] horizon: must be at least 1, not 0"),
    ("number too large", forecast(f"season = {10**30}"), "[data] season: must be below"),
    ("number of digits", forecast("season = " + "1" * 5000), "s.toml is no TOML"),
    ("trials as word", forecast(space="[budget]\ntrials = 'ten'"), f"trials: {WHOLE}'ten'"),
    ("no duration", forecast(space="[budget]\ntimeout = 'soon'"), ("timeout: 'soon'", "'5m'")),
    ("timeout true", forecast(space="[budget]\ntimeout = true"), "timeout: must be a number"),
    ("data a number", "data = 3", f"[data] {TABLE}3"),
    ("data a list", "[[data]]\npath = 'd.csv'", f"[data] {TABLE}[{{"),
    ("space a number", forecast(space="", top="space = 3"), f"[space] {TABLE}3"),
    ("budget a number", forecast(space="", top="budget = 3"), f"[budget] {TABLE}3"),
    ("stopping a word", forecast(space="", top="stopping = 'no'"), f"[stopping] {TABLE}'no'"),
    ("two shares", forecast("split = [0.7, 0.3]"), f"{SHARES}, such as [0.7, 0.15, 0.15]"),
    ("four shares", forecast("split = [0.7, 0.1, 0.1, 0.1]"), SHARES),
    ("shares as words", forecast("split = ['a', 'b', 'c']"), SHARES),
    ("shares above 1", forecast("split = [0.7, 0.3, 0.3]"), SHARES),
    ("shares nan", forecast("split = [nan, nan, nan]"), SHARES),
    ("share as word", classify("valid = 'a'"), "[data] valid: must be a number, not 'a'"),
    ("target a number", forecast("target = 3"), f"{COLUMNS}, not 3"),
    ("target numbers", forecast("target = [3]"), f"{COLUMNS}, not [3]"),
    ("target empty", forecast("target = []"), f"{COLUMNS}, not []"),
    ("time a list", forecast("time = ['y']"), "[data] time: must be a text in quotes"),
    ("path a number", "[data]\ntask = 'forecast'\npath = 3", "path: must be a text in quotes"),
    ("path empty", forecast(path=""), "[data] path: is empty; give the path of a file"),
    ("path with NUL", forecast(path="d\\u0000.csv"), "[data] path: 'd\\x00.csv' can be no path"),
    ("path too long", forecast(path="x" * 300), "can be no path: File name too long"),
    ("path of nobody", forecast(path="~nobody-here/x"), "[data] path: '~nobody-here/x'"),
    ("missing a word", forecast("missing = 'no'"), "missing: must be 'error', 'interpolate' or"),
    ("no table data", "name = 'x'", "the table [data] is missing"),
    ("no task", "[data]\npath = 'd.csv'", "[data] task must be forecast, classify or language"),
    ("task misspelt", "[data]\ntask = 'forcast'", "forecast, classify or language, not 'forcast'"),
    ("no source", "[data]\ntask = 'forecast'", 'either path = "FILE" or source = "example:NAME"'),
    (
        "unknown example",
        "[data]\ntask = 'forecast'\nsource = 'example:sunspot'",
        "[data] there is no example 'sunspot'; did you mean 'sunspots'?",
    ),
    (
        "example of another task",
        "[data]\ntask = 'language'\nsource = 'example:sunspots'",
        'is for task = "forecast", not "language"',
    ),
    ("name with slash", forecast(top="name = 'a/b'"), "name: 'a/b' cannot be a study's name; use"),
    ("name of dots", forecast(top="name = '..'"), "name: '..' cannot be a study's name; use"),
    ("name emoji", forecast(top="name = '🙂'"), "name: '🙂' cannot be a study's name; use"),
    ("name a number", forecast(top="name = 3"), "name: must be a text in quotes, not 3"),
    ("seed too large", forecast(top=f"seed = {2**63}"), "seed: must be below"),
    ("metric of another task", forecast(top="metric = 'accuracy'"), "known: loss, mae, rmse"),
    ("rate bare", in_space("learning_rate = 0.01"), ("learning_rate", "{ fixed = x }")),
    ("rate alone in list", in_space("learning_rate = [0.01]"), ("learning_rate", "{ fixed = x }")),
    (
        "rate fixed at 0",
        in_space("learning_rate = { fixed = 0 }"),
        "learning_rate: must be above 0",
    ),
    ("low is high", in_space("hidden_units = { low = 8, high = 8 }"), "must be less than high"),
    ("low above high", in_space("epochs = { low = 9, high = 3 }"), "low must be less than high"),
    ("log from 0", in_space("learning_rate = { low = 0, high = 1 }"), "range needs low > 0"),
    ("dropout log", in_space("dropout = { low = 0.0, high = 0.5, log = true }"), "needs low > 0"),
    ("dropout 1", in_space("dropout = { low = 0.0, high = 1.0 }"), "dropout: must be below 1"),
    ("units huge", in_space("hidden_units = 10000000000"), "hidden_units: must be below"),
    ("not finite", in_space("learning_rate = { low = 0.1, high = inf }"), "must be finite"),
    ("low a word", in_space("learning_rate = { low = 'a', high = 1 }"), "'a' is not a number"),
    ("low nan", in_space("learning_rate = { low = nan, high = 1 }"), "nan is not a number"),
    ("rate huge", in_space("learning_rate = { low = 1, high = 1e39 }"), "must be below 1e+06"),
    ("date for epochs", in_space("epochs = 2020-01-01"), "the date 2020-01-01 is not a number"),
    ("date for horizon", forecast("horizon = 2020-01-01"), f"{WHOLE}the date 2020-01-01"),
    ("times for target", forecast("target = [07:30:00]"), f"{COLUMNS}, not [the time 07:30:00]"),
    ("half a range", in_space("epochs = { low = 1 }"), "epochs: must be { low = a, high = b }"),
    ("word for epochs", in_space("epochs = 'many'"), "[space] epochs: 'many' is not a number"),
    ("unknown cell", in_space("cell = ['lsmt']"), "cell: 'lsmt' is not one of rnn, lstm, gru"),
    ("choice twice", in_space("cell = ['rnn', 'rnn']"), "cell: a choice is listed twice"),
    ("batch too large", in_space("batch_size = [32, 5000]"), ("batch_size: 5000", "up to 76")),
    (
        "batch range",
        in_space("batch_size = { low = 2, high = 77 }"),
        ("batch_size: 77", "up to 76"),
    ),
    ("too few peers", forecast(space="[stopping]\npeers = 2"), "peers: must be at least 5"),
    ("switch as word", forecast(space="[stopping]\ndivergence = 'no'"), "must be true or false"),
    ("no TOML", "[data\n", ("s.toml is no TOML", "line 1")),
    ("deep TOML", "a = " + "[" * 5000, "s.toml"),
    ("binary study", bytes(range(256)), "s.toml is no UTF-8 text"),
    ("study a folder", None, "s.toml is a folder; give a study file"),
]


@pytest.mark.parametrize(("study", "says"), cases(STUDIES))
def test_study_file(refuse: Refuse, study: str, says: Said) -> None:
    """A study file that makes no sense is refused with its path, its key and the remedy."""
    says = (says,) if isinstance(says, str) else says
    place = () if "batch_size" in says[0] else ("s.toml",)
    refuse({"s.toml": study, "d.csv": csv()}, (*place, *says))


def test_study_file_of_windows(refuse: Refuse) -> None:
    """A byte order mark before a study file is no reason to refuse it."""
    content = b"\xef\xbb\xbf" + forecast("target = 'z'").encode()
    refuse({"s.toml": content, "d.csv": csv()}, "no column 'z'")


TIMED = "target = 'y'\ntime = 't'"
TABLES = [
    ("missing file", "", None, "d.csv does not exist; check the path"),
    ("empty", "", "", "d.csv is empty; it needs a header and rows"),
    ("header only", "", "y\n", "d.csv has a header but no rows"),
    ("binary", "", bytes(range(256)), "d.csv is binary, not CSV; export it"),
    ("spreadsheet", "", b"PK\x03\x04" + b"x" * 99, "d.csv is binary, not CSV; export it"),
    ("UTF-16", "", csv().encode("utf-16"), "d.csv is UTF-16 text; save it as UTF-8"),
    ("Latin-1", "", csv().encode() + b"\xe9\n", "not UTF-8: byte 0xe9 in row 122; save it"),
    ("delimiter", "target = 'y'", table("{i}:{m}", "t:y"), "must be delimited by , ; | or a tab"),
    ("column", "target = 'yy'", table("{i},{m}", "t,y"), ("no column 'yy'", "it has 't', 'y'")),
    (
        "column of thousands",
        "target = 'k99999'",
        ",".join(f"k{i}" for i in range(5000)) + "\n" + ",".join(["1"] * 5000) + "\n",
        ("no column 'k99999'; did you mean 'k", "'k0', 'k1', ", " and 4988 more"),
    ),
    (
        "no target of thousands",
        "",
        ",".join(f"k{i}" for i in range(5000)) + "\n" + ",".join(["1"] * 5000) + "\n",
        ("d.csv has several columns of numbers: 'k0', 'k1'", " and 4988 more; name the one"),
    ),
    (
        "word among times",
        "time = 't'\ntarget = 'y'",
        table("{i},{m}", "t,y") + "x7,1\n",
        "'x7' in row 122, which is no time",
    ),
    ("feature", "features = ['y', 'q']", csv(), "no column 'q'; it has 'y'"),
    ("time column", "time = 'when'", csv(), "no column 'when'; it has 'y'"),
    ("series column", "series = 's'", csv(), "no column 's'; it has 'y'"),
    ("text", "target = 'y'", csv("oops"), "column 'y' has 'oops' in row 52 where a number"),
    ("text unnamed", "", csv("oops"), "column 'y' has 'oops' in row 52 where a number"),
    ("missing value", "", csv("NA"), ("'y' has no value in row 52", 'missing = "interpolate"')),
    ("infinite", "", csv("-inf"), "column 'y' is infinite in row 52; give a finite number"),
    ("too large", "", csv("1e400"), "column 'y' is infinite in row 52; give a finite number"),
    ("far too large", "", csv("1e200", at=119), "column 'y' has 1e+200 in row 121, too far"),
    ("all too large", "", table("{m}e307", "y"), "too far from the training values"),
    ("constant", "", table("1", "y"), "the target 'y' is constant in the training part"),
    ("short", "", csv()[:30], ("fewer than window 8 + horizon 1", "largest window that fits is")),
    ("horizon", "horizon = 200", csv(), "fewer than window 8 + horizon 200"),
    ("two names", "", table("1,{m}", "y,y"), "the header names 'y' twice; rename one"),
    ("no header", "target = 'y'", table("{m}.5,2", "7.5,3"), "first line must name the columns"),
    ("ragged", "target = 'y'", table("1,{m}", "t,y") + "1,2,3\n", "row 122 has 3 fields but"),
    ("open quote", "target = 'y'", 't,y\n1,"2\n' + "1,2\n" * 99, "opened and never closed"),
    ("line break", 'target = "a\\nb"', '"a\nb",y\n' + "x,2\n" * 99, "column 'a b' has 'x'"),
    ("time twice", TIMED, table("{m},{m}", "t,y"), "have the same time 0; remove one"),
    ("no date", TIMED, table("2020-02-30,{m}", "t,y"), "'2020-02-30' in row 2, which is no time"),
    ("target is time", "target = 't'\ntime = 't'", table("{i},1", "t,y"), "'t' cannot be both"),
    ("broken gzip", "", b"\x1f\x8b" + b"1" * 50, "d.csv is a broken gzip file"),
    ("broken Parquet", "", b"PAR1" + b"1" * 50, "d.csv is a broken Parquet file"),
]


@pytest.mark.parametrize(("data", "content", "says"), cases(TABLES))
def test_table(refuse: Refuse, data: str, content: str | bytes | None, says: Said) -> None:
    """A table that cannot be forecast is refused with its path, its column and its row."""
    files = {} if content is None else {"d.csv": content}
    refuse(
        {"s.toml": forecast(data), **files}, ("d.csv", *((says,) if type(says) is str else says))
    )


@pytest.mark.parametrize(
    ("values", "shown"),
    cases(
        [
            (
                "lists",
                [[1.0, 2.0]] * 120,
                "column 'y' has '[1. 2.]' in row 1 where a number should be",
            ),
            (
                "structs",
                [{"a": 1}] * 120,
                "column 'y' has \"{'a': 1}\" in row 1 where a number should be",
            ),
            ("nothing", [None] * 120, "column 'y' has no value in 120 rows, first in row 1"),
        ]
    ),
)
def test_parquet(refuse: Refuse, values: list[object], shown: str) -> None:
    """Nested and empty columns of a Parquet file are refused like text in a CSV."""
    content = io.BytesIO()
    pq.write_table(pa.table({"y": values}), content)
    study = forecast("target = 'y'", path="d.parquet")
    refuse({"s.toml": study, "d.parquet": content.getvalue()}, ("d.parquet", shown))


TS = TS_HEADER + TS_CASES
SERIES = [
    ("missing file", "", None, "d.ts does not exist; check the path"),
    ("empty", "", "", "d.ts is empty"),
    ("binary", "", bytes(range(256)), "d.ts, line 1: holds a NUL byte"),
    ("no @data", "", TS.replace("@data\n", ""), "comes before @data"),
    ("no cases", "", TS_HEADER, "d.ts has no cases after its @data line"),
    ("no labels", "", TS.replace("@classLabel true a b\n", ""), "the header has no @classLabel"),
    ("directive", "", TS.replace("@equalL", "@eqalL"), "line 4: unknown directive '@eqallength'"),
    ("flag", "", TS.replace("ate true", "ate maybe"), "line 3: @univariate must be true or false"),
    ("word", "", f"{TS}1,x,3:a\n", "line 88: dimension 1, value 2: 'x' is no number"),
    ("infinite", "", f"{TS}1,inf,3:a\n", "line 88: channel 1 is infinite at step 2"),
    ("missing value", "", f"{TS}1,?,3:a\n", ("line 88: channel 1 has no value", "interpolate")),
    ("huge", "", f"{TS}1e308,-1e308,1:a\n", "channel 1 has values too large to scale"),
    ("undeclared", "", f"{TS}1,2,3:c\n", "line 88: the label 'c' is not one that @classLabel"),
    ("Latin-1", "", TS.encode() + b"1,2,3:\xe9\n", "line 88: is not UTF-8; convert the file"),
    (
        "constant",
        "",
        re.sub(r"^\d.*:", "1,1,1:", TS, flags=re.MULTILINE),
        "the only channel is constant in the training part",
    ),
    ("one class", "", TS.replace(":b", ":a"), "every series has the label 'a'"),
    ("one case", "", TS_HEADER + "1,2,3:a\n4,5,6:b\n", "no class has two series"),
    ("key of tables", "label = 'x'", TS, ("s.toml: [data] the key 'label'", "remove the key")),
    ("no test file", "test_path = 'q.ts'", TS, "q.ts does not exist"),
    (
        "test a table",
        "test_path = 's.toml'",
        TS,
        "test_path: ",
    ),
]


@pytest.mark.parametrize(("data", "content", "says"), cases(SERIES))
def test_ts_file(refuse: Refuse, data: str, content: str | bytes | None, says: Said) -> None:
    """A .ts file that is broken or cannot be classified is refused with its line."""
    files = {} if content is None else {"d.ts": content}
    refuse({"s.toml": classify(data), **files}, says)


def test_class_absent_from_train(refuse: Refuse) -> None:
    """A class that only the test file has is refused with its name and both files."""
    train, test = (TS.replace("a b", "a b c") + more for more in ("", "1,2,3:c\n"))
    study = classify("test_path = 't.ts'")
    refuse({"s.toml": study, "d.ts": train, "t.ts": test}, ("t.ts: no series", "d.ts", "'c'"))


LONG = [
    ("no label key", "series = 's'", long_form(), "s.toml: [data] the key 'label' is missing"),
    ("column", "series = 's'\nlabel = 'lable'", long_form(), "did you mean 'label'?"),
    ("blanks", "", long_form(last="99,u ,1\n98, v,1\n97,u v,1\n96,uv,1\n"), "only in blanks"),
    ("two labels", "", long_form(last="3,u,1\n"), "row 162 gives series '3' the label 'u'"),
    ("one class", "", long_form("u"), "every series has the label 'u'"),
    (
        "features with label",
        "series = 's'\nlabel = 'label'\nfeatures = ['x', 'label']",
        long_form("{ab}").replace("u", "1").replace("v", "2"),
        "[data] features: 'label' is the label column",
    ),
    (
        "features with series",
        "series = 's'\nlabel = 'label'\nfeatures = 's'",
        long_form(),
        "[data] features: 's' is the series column",
    ),
    ("own classes", "", long_form("l{case}"), "no class has two series"),
    ("no label", "", long_form(last="99,,1\n"), "column 'label' is empty in row 162"),
    ("text", "", long_form(last="3,v,oops\n"), "column 'x' has 'oops' in row 162"),
    ("missing value", "", long_form(last="3,v,\n"), "series '3': channel x has no value at step 5"),
    ("infinite", "", long_form(last="3,v,inf\n"), "infinite"),
]


@pytest.mark.parametrize(("data", "content", "says"), cases(LONG))
def test_long_form(refuse: Refuse, data: str, content: str, says: Said) -> None:
    """Labelled series in a table that cannot be classified are refused with the column or row."""
    study = classify(data or "series = 's'\nlabel = 'label'", path="d.csv")
    refuse({"s.toml": study, "d.csv": content}, says)


TEXTS = [
    ("missing file", "", None, "d.txt does not exist; check the path"),
    ("empty", "", "", "d.txt is empty; give a text"),
    ("Latin-1", "", TEXT.encode() + b"\xe9", ("d.txt is not UTF-8: byte 9000", "iconv")),
    ("NUL", "", TEXT + "\0", "d.txt is binary: character 9000"),
    ("short", "", "abc", ("d.txt: the training part has 3 of 3 characters", "sequence_length")),
    ("short part", "", TEXT[:700], "the validation part has 35 of 700 characters"),
    ("few characters", f"characters = {10**30}", "abc", "the training part has 3 of 3 characters"),
    ("one character", "", "a" * 9000, "the training part is all 'a'"),
]


@pytest.mark.parametrize(("data", "content", "says"), cases(TEXTS))
def test_text(refuse: Refuse, data: str, content: str | bytes | None, says: Said) -> None:
    """A text that cannot be learned from is refused with its path and the remedy."""
    files = {} if content is None else {"d.txt": content}
    study = f'[data]\ntask = "language"\npath = "d.txt"\n{data}\n{SPACE}'
    refuse({"s.toml": study, **files}, says)


@pytest.mark.parametrize("ending", ["csv", "ts", "txt"])
def test_folder_as_data(refuse: Refuse, ending: str) -> None:
    """A folder in place of a data file is refused."""
    task = {"csv": "forecast", "ts": "classify", "txt": "language"}[ending]
    study = f'[data]\ntask = "{task}"\npath = "d.{ending}"\n'
    refuse({"s.toml": study, f"d.{ending}": None}, f"d.{ending} is a folder; give ")
