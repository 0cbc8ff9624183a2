"""What `init` makes of odd names, and what it refuses."""

from __future__ import annotations

import csv
import os
import tempfile
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import Files, Refuse, Said, cases
from test_init import DAYS, data_of, gestures, here, table

from search.choices import Choice, study_text
from search.cli import main
from search.config import NAME, load_config
from search.data import load_splits
from search.init import name_for

__all__ = ["here"]


def test_series_are_names(refuse: Refuse) -> None:
    """A series called 01 is called so in what it says, as in the study."""
    sizes = {"01": 1, "02": 60, "03": 60}
    rows = [f"{one},{DAYS[at]},{at % 7}" for one, size in sizes.items() for at in range(size)]
    files = {"panel.csv": "\n".join(["store,date,y", *rows]) + "\n"}
    refuse(files, "series '01' has 1 rows", "init", "panel.csv")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("sales.csv", "sales"),
        ("sales 2020.csv.gz", "sales-2020"),
        ("Größe.parquet", "Grosse"),
        ("X_TRAIN.ts", "X"),
        ("LICENSE", "LICENSE"),
        ("v1.2.csv", "v1.2"),
        (".hidden", "hidden"),
        ("a.toml.csv", "a"),
        ("数据.csv", "study"),
        ("maunaloa_c.dat", "maunaloa_c"),
        ("v1.2", "v1.2"),
        ("x" * 200 + ".csv", "x" * 100),
        ("a..b...c.csv", "a.b.c"),
        ("2020.é.sales.csv", "2020.e.sales"),
        ("2020.数.sales.csv", "2020.sales"),
    ],
)
def test_names(file: str, name: str) -> None:
    """A study is called after its file, in letters that a study's name may have."""
    assert name_for(Path(file)) == name
    assert NAME.fullmatch(name)


REFUSED = [
    ("no file", {}, "a.csv does not exist; give a CSV", "a.csv"),
    ("folder", {"a": None}, "a is a folder", "a"),
    ("empty", {"a.csv": ""}, "a.csv is empty", "a.csv"),
    ("binary", {"a.bin": b"\x00\x01" * 50}, "a.bin is binary", "a.bin"),
    ("latin 1", {"a.txt": "é".encode("latin1") * 900}, ("a.txt is not UTF-8", "iconv"), "a.txt"),
    ("json", {"a.json": "{}"}, ("a.json is JSON", "--task language"), "a.json"),
    ("spreadsheet", {"a.xlsx": b"PK"}, "a.xlsx is a spreadsheet", "a.xlsx"),
    (
        "no header",
        {"a.txt": "5\n2\n3\n" * 30},
        ("row 1 holds only numbers", "or learn its characters: --task language"),
        "a.txt",
    ),
    ("equal numbers", {"a.csv": "0,0\n1,2\n"}, "row 1 holds only numbers", "a.csv"),
    (
        "times and numbers",
        {"a.csv": "2021-01-01,99.35,98.85\n" * 30},
        ("row 1 holds only times and numbers", "must name the columns"),
        "a.csv",
    ),
    ("blanks", {"a.dat": "u v\n" + "1 2\n" * 30}, "delimited by , ; | or a tab", "a.dat"),
    (
        "a sum below dates",
        {"a.csv": table() + "Total,5,5\n"},
        ("column 'date' has 'Total' in row", "which is no time"),
        "a.csv",
    ),
    (
        "money",
        {"a.csv": "when,price\n" + "".join(f"2024-01-{d:02},${d}.50\n" for d in range(1, 32))},
        ("no column of numbers to forecast", "'price': numbers with signs", "write them plainly"),
        "a.csv",
    ),
    (
        "infinite",
        {"a.csv": "when,load,b\n" + "".join(f"{d},{d % 7 or 'inf'},{d % 5}\n" for d in range(60))},
        "column 'load' is infinite in row 2",
        "a.csv",
    ),
    (
        "a word among numbers",
        {"a.csv": table() + "2025-01-01,x12,5\n"},
        "column 'y' has 'x12' in row",
        "a.csv",
        "--target",
        "y",
    ),
    ("no numbers", {"a.csv": "u,v\n" + "a,b\n" * 30}, "no column of numbers", "a.csv"),
    ("few rows", {"a.csv": table(rows=12)}, "12 rows, too few", "a.csv"),
    ("short text", {"a.txt": "So it is."}, ("too few", "give more text"), "a.txt"),
    ("constant", {"a.csv": "y\n" + "5\n" * 60}, "no column of numbers", "a.csv"),
    ("column", {"a.csv": table()}, "did you mean 'date'", "a.csv", "--target", "dat"),
    (
        "text",
        {"a.csv": gestures()},
        ("cannot be classified, and 'recording' is text", "series, of 3 rows each"),
        "a.csv",
        "--target",
        "recording",
    ),
    ("classes", {"a.csv": table()}, "cannot be classified", "a.csv", "--task", "classify"),
    ("target", {"a.txt": "So! " * 900}, "is read as none", "a.txt", "--target", "y"),
    ("series", {"a.ts": "@data\n"}, "labelled series", "a.ts", "--task", "forecast"),
    ("name", {"a.csv": table()}, "--name 'a/b': use up to 100", "a.csv", "--name", "a/b"),
    ("dots", {"a.csv": table()}, "and without '..'", "a.csv", "--name", "a..b"),
    ("there", {"a.csv": table(), "studies/a.toml": "x"}, "--force", "a.csv"),
    ("there as", {"a.csv": table(), "studies/a.toml": None}, "is a folder", "a.csv", "--force"),
    ("no folder", {"a.csv": table(), "studies": ""}, "studies is no folder", "a.csv"),
    ("task", {"a.csv": table()}, "invalid choice: 'x'", "a.csv", "--task", "x"),
]


@pytest.mark.parametrize(
    ("files", "says", "arguments"),
    cases((name, files, says, rest) for name, files, says, *rest in REFUSED),
)
def test_refusals(refuse: Refuse, files: Files, says: Said, arguments: list[str]) -> None:
    """What cannot become a study that runs is refused in one line, and nothing is written."""
    refuse(files, says, "init", *arguments)


@pytest.mark.parametrize("steps", [(), ("t",), ("t", "tick")], ids=["none", "one", "two"])
def test_classes_need_a_channel(refuse: Refuse, steps: tuple[str, ...]) -> None:
    """Labelled recordings without numbers, or with numbers that only count, are refused."""
    rows = [
        ",".join([f"r{one}", "up" if one % 2 else "down", *[str(step)] * len(steps)])
        for one in range(12)
        for step in range(10)
    ]
    text = "\n".join([",".join(["recording", "gesture", *steps]), *rows]) + "\n"
    refuse({"a.csv": text}, "a.csv has no column of numbers by which to tell", "init", "a.csv")


def test_a_name_that_is_no_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file whose name is no UTF-8 is refused: TOML could not hold it."""
    path = Path(os.fsdecode(b"\xe9.csv"))
    path.write_text(table())
    assert main(["init", str(path)]) == 2
    assert "no UTF-8" in capsys.readouterr().err
    assert not (here / "studies").exists()


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\r\n\x00"), min_size=1, max_size=12
)


@settings(max_examples=25)
@given(st.lists(NAMES, min_size=3, max_size=3, unique_by=lambda name: name.strip()), NAMES)
def test_odd_headers(header: list[str], file: str) -> None:
    """Whatever columns and file are called, the study is TOML, loads, and names real columns."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / (file.replace("/", "_") + ".csv")
        with path.open("w", newline="", encoding="utf-8") as out:
            writer = csv.writer(out, quoting=csv.QUOTE_ALL)
            writer.writerow(header)
            writer.writerows(line.split(",") for line in table().splitlines()[1:])
        before = Path.cwd()
        os.chdir(folder)
        try:
            code = main(["init", str(path)])
            if code == 0:
                (study,) = Path("studies").iterdir()
                data = data_of(study)
                names = {*(name.strip() for name in header), "Unnamed"}
                assert {data["target"], *data.get("features", [])} <= names
                assert load_splits(load_config(study).data).train.size > 30
            else:
                assert code == 2
                assert not Path("studies").exists()
        finally:
            os.chdir(before)


@given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
def test_any_text_makes_a_study_file(word: str, why: str) -> None:
    """Values come back as they were, whatever is in them or in the comments beside them."""
    data = [Choice("path", word, why), Choice("features", [word, "x"], why, "features = []")]
    text = study_text(why, Choice("name", word, why), data, "\n[budget]\ntrials = 1\n")
    assert tomllib.loads(text) == {
        "name": word,
        "data": {"path": word, "features": [word, "x"]},
        "budget": {"trials": 1},
    }
