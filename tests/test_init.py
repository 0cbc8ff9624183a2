"""Tests of `rnn-search init`: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import math
import os
import random
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.choices import Proposal, comment
from search.cli import main
from search.config import load_config
from search.data import load_splits
from search.init import initiate
from search.proposals import propose

ROWS = 160
DAYS = [str(day.date()) for day in pd.date_range("2024-01-01", periods=ROWS)]


def table(header: str = "date,y,x", rows: int = ROWS) -> str:
    """Returns a CSV of days, a weekly wave and noise."""
    noise = random.Random(0)
    wave = [math.sin(2 * math.pi * at / 7) + noise.gauss(0, 0.2) for at in range(rows)]
    lines = [f"{DAYS[at]},{y:.4f},{noise.random():.4f}" for at, y in enumerate(wave)]
    return "\n".join([header, *lines]) + "\n"


def gestures(header: str = "recording,t,gesture,x,y") -> str:
    """Returns twelve labelled recordings, one below the other."""
    lines = [
        f"r{one},{step / 10},{'up' if one % 2 else 'down'},{math.sin(step + one):.3f},{one + step}"
        for one in range(12)
        for step in range(10 + one)
    ]
    return "\n".join([header, *lines]) + "\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with some data, which is the current one."""
    monkeypatch.delenv("RNN_SEARCH_STORAGE", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sales.csv").write_text(table())
    (tmp_path / "gestures.csv").write_text(gestures())
    return tmp_path


def data_of(study: Path) -> dict[str, Any]:
    """Returns the ``[data]`` of a study file."""
    data = tomllib.loads(study.read_text(encoding="utf-8"))["data"]
    assert isinstance(data, dict)
    return data


def test_what_it_says(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It prints what it found, the file that it wrote and the next commands, and leaves no more."""
    assert main(["init", "sales.csv"]) == 0
    said = capsys.readouterr().out
    for part in (
        "160 rows, 3 columns, comma-separated",
        "season           7",
        "target           y",
    ):
        assert part in said
    assert "Wrote studies/sales.toml" in said
    assert "check sales" in said
    assert "run sales" in said
    assert [path.name for path in (here / "studies").iterdir()] == ["sales.toml"]


def test_every_choice_has_its_reason(here: Path) -> None:
    """Every key of the file stands below a comment, those left out among the comments."""
    main(["init", "sales.csv"])
    lines = (here / "studies" / "sales.toml").read_text().splitlines()
    keys = [at for at, line in enumerate(lines) if line and line[0] not in "#["]
    assert len(keys) == 11
    assert all(lines[at - 1].startswith("#") for at in keys)
    for left_out in ("# series =", "# missing =", "# timeout ="):
        assert any(line.startswith(left_out) for line in lines)


def test_forecast_choices(here: Path) -> None:
    """Two seasons are seen and, with so few rows, the next row is forecast."""
    main(["init", "sales.csv"])
    assert data_of(here / "studies" / "sales.toml") == {
        "path": "../sales.csv",
        "task": "forecast",
        "target": "y",
        "features": ["y", "x"],
        "time": "date",
        "window": 14,
        "horizon": 1,
        "season": 7,
        "split": [0.7, 0.15, 0.15],
    }


def test_a_target_with_a_stray_word_is_not_replaced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is surely to be forecast is to be mended, not left out for another column."""
    text = table("date,x,sales").replace(f"{DAYS[9]},", f"{DAYS[9]},1,x12\n{DAYS[9]},", 1)
    lines = text.splitlines()
    del lines[11]
    (here / "sales.csv").write_text("\n".join(lines) + "\n")
    assert main(["init", "sales.csv"]) == 2
    assert "column 'sales' has 'x12' in row 11 where a number should be" in capsys.readouterr().err


def test_a_series_that_is_short_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One series that leaves no room for a longer window is named, with what it would be."""
    rows = [
        f"{day},s{shop},{math.sin(at / 7 * 2 * math.pi) + shop:.4f}"
        for shop in range(6)
        for at, day in enumerate(DAYS[: 10 if shop == 3 else ROWS])
    ]
    (here / "shops.csv").write_text("\n".join(["date,shop,y", *rows]) + "\n")
    assert main(["init", "shops.csv"]) == 0
    said = capsys.readouterr().out
    assert "series 's3' has only 10 rows: without it the window could be 14" in said


def test_more_rows_are_forecast_further(here: Path) -> None:
    """Where rows abound, the horizon is a season."""
    wave = "\n".join(f"{math.sin(at / 12 * 2 * math.pi):.4f}" for at in range(600))
    (here / "long.csv").write_text(f"y\n{wave}\n")
    main(["init", "long.csv"])
    data = data_of(here / "studies" / "long.toml")
    assert (data["window"], data["horizon"], data["season"]) == (24, 12, 12)


def test_missing_values_are_counted(here: Path) -> None:
    """`missing` is set only where values are missing, with their number in the comment."""
    lines = table().splitlines()
    lines[40] = f"{DAYS[39]},,0.5"
    lines[80] = f"{DAYS[79]},NA,0.5"
    (here / "sales.csv").write_text("\n".join(lines) + "\n")
    main(["init", "sales.csv"])
    text = (here / "studies" / "sales.toml").read_text()
    assert data_of(here / "studies" / "sales.toml")["missing"] == "interpolate"
    assert "# 2 of 160 rows lack a value." in text


def test_classify_choices(here: Path) -> None:
    """A table of labelled recordings is to be classified."""
    main(["init", "gestures.csv"])
    assert data_of(here / "studies" / "gestures.toml") == {
        "path": "../gestures.csv",
        "task": "classify",
        "series": "recording",
        "label": "gesture",
        "time": "t",
        "features": ["x", "y"],
        "test": 0.2,
        "valid": 0.25,
    }


@pytest.mark.parametrize(
    ("arguments", "task", "target"),
    [
        (["gestures.csv", "--task", "forecast"], "forecast", "y"),
        (["gestures.csv", "--target", "x"], "forecast", "x"),
        (["gestures.csv", "--target", "gesture"], "classify", None),
        (["gestures.csv", "--target", "x, y"], "forecast", ["x", "y"]),
        (["gestures.csv", "--target", "y", "--target", "x"], "forecast", ["y", "x"]),
        (["sales.csv", "--task", "language"], "language", None),
    ],
)
def test_what_is_asked_for(here: Path, arguments: list[str], task: str, target: object) -> None:
    """--task and --target decide, whatever would have been chosen."""
    assert main(["init", *arguments, "--name", "n"]) == 0
    data = data_of(here / "studies" / "n.toml")
    assert (data["task"], data.get("target")) == (task, target)


def test_a_column_with_a_comma(here: Path) -> None:
    """--target takes a name with a comma in it, too."""
    (here / "sales.csv").write_text(table('date,"a, b",b'))
    assert main(["init", "sales.csv", "--target", "a, b"]) == 0
    assert data_of(here / "studies" / "sales.toml")["target"] == "a, b"


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json prints one object with the file, the choices and their reasons."""
    assert main(["init", "sales.csv", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["study"] == "studies/sales.toml"
    assert said["data"]["window"] == 14
    assert said["reasons"].keys() >= said["data"].keys()


def test_force(here: Path) -> None:
    """--force replaces a file, whole."""
    study = here / "studies" / "sales.toml"
    study.parent.mkdir()
    study.write_text("mine")
    assert main(["init", "sales.csv", "--force"]) == 0
    assert data_of(study)["task"] == "forecast"


def test_a_file_that_appears_meanwhile(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study file that somebody else writes at the same time is not replaced."""
    study = here / "studies" / "sales.toml"

    def propose_slowly(*arguments: Any) -> Proposal:
        study.parent.mkdir()
        study.write_text("theirs")
        return propose(*arguments)

    monkeypatch.setattr("search.init.propose", propose_slowly)
    assert main(["init", "sales.csv"]) == 2
    assert "has just appeared" in capsys.readouterr().err
    assert [path.name for path in study.parent.iterdir()] == ["sales.toml"]
    assert study.read_text() == "theirs"


def test_data_elsewhere(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Data outside the current folder get their whole path; the study finds them from anywhere."""
    far = tmp_path_factory.mktemp("far") / "~far.csv"
    far.write_text(table())
    main(["init", str(far)])
    main(["init", "sales.csv"])
    os.chdir(far.parent)
    for name in ("far", "sales"):
        assert load_splits(load_config(here / "studies" / f"{name}.toml").data).train.size == 98


def test_a_file_of_the_same_name_one_folder_up(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data beside `studies/` are meant, also before that folder is there."""
    (here / "inner").mkdir()
    (here / "inner" / "sales.csv").write_text(table(rows=100))
    monkeypatch.chdir(here / "inner")
    assert main(["init", "sales.csv", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)["read"]
    assert "inner/sales.csv: 100 rows" in read[0]


def test_the_test_file_is_found(here: Path) -> None:
    """X_TRAIN.ts and X_TEST.ts are taken together, whichever is named."""
    head = "@classLabel true a b\n@data\n"
    (here / "X_TRAIN.ts").write_text(head + "1,2,3:a\n3,2,1:b\n" * 8)
    (here / "X_TEST.ts").write_text(head + "1,2,4:a\n4,2,1:b\n" * 2)
    for named in ("X_TRAIN.ts", "X_TEST.ts"):
        main(["init", named, "--force"])
        data = data_of(here / "studies" / "X.toml")
        assert (data["path"], data["test_path"]) == ("../X_TRAIN.ts", "../X_TEST.ts")
    (here / "X_TEST.ts").unlink()
    main(["init", "X_TRAIN.ts", "--force"])
    assert "test_path" not in data_of(here / "studies" / "X.toml")


def test_gaps_that_leave_no_window(here: Path) -> None:
    """Times with a gap every few rows are left out, which is said."""
    days = pd.date_range("2024-01-01", periods=400)[pd.Series(range(400)) % 4 != 0]
    rows = "".join(f"{day.date()},{math.sin(at):.3f}\n" for at, day in enumerate(days))
    (here / "gaps.csv").write_text("date,y\n" + rows)
    done = initiate(Path("gaps.csv"))
    assert "time" not in data_of(done.study)
    assert "'date' is left out: its 99 gaps leave no window" in done.notes[0]


@pytest.mark.parametrize(
    ("parts", "form"),
    [
        (("year", "quarter"), "2020Q1"),
        (("year", "month"), "2020-01"),
        (("year", "week"), "2020-W05"),
        (("year", "month", "day"), "2020-01-31"),
        (("date", "time"), "2020-01-31 12:00"),
        (("date", "Uhrzeit"), "2020-01-31 12:00"),
    ],
)
def test_a_time_in_several_columns(here: Path, parts: tuple[str, ...], form: str) -> None:
    """It says once that they must be joined, and how; never that one of them is the time."""
    hours = pd.date_range("2021-01-31", periods=400, freq="3h")
    starts = {"quarter": "QS", "month": "MS", "week": "W-MON", "day": "D"}
    when = hours if "date" in parts else pd.date_range("1900", periods=400, freq=starts[parts[-1]])
    iso = when.isocalendar()
    years = {"year": iso["year"].to_numpy(), "week": iso["week"].to_numpy()}
    known = years if "week" in parts else {}
    table = pd.DataFrame({name: known.get(name, getattr(when, name, when.time)) for name in parts})
    table.assign(y=[math.sin(at) for at in range(400)]).to_csv("parts.csv", index=False)
    done = initiate(Path("parts.csv"))
    assert "time" not in data_of(done.study)
    told = [note for note in done.notes if "the time" in note or "join" in note]
    which = " and ".join(map(repr, parts))
    if "Uhrzeit" in parts:
        assert "name these" in told.pop()
    assert len(told) == 1
    assert f"{which} tell the time together: join them into one column, such as {form}" in told[0]


def test_the_advice_on_joining_works(here: Path) -> None:
    """Quarters joined as it says are the time."""
    lines = [f"{1950 + at // 4}Q{1 + at % 4},{math.sin(at):.3f}" for at in range(200)]
    (here / "joined.csv").write_text("\n".join(["when,y", *lines]) + "\n")
    assert data_of(initiate(Path("joined.csv")).study)["time"] == "when"


def test_compact_stamps_are_the_time(here: Path) -> None:
    """Hours such as 202101010000 are the time, and no feature."""
    stamps = pd.date_range("2021-01-01", periods=400, freq="h").strftime("%Y%m%d%H%M")
    lines = [f"{stamp},{math.sin(at):.3f}" for at, stamp in enumerate(stamps)]
    (here / "compact.csv").write_text("\n".join(["ts,load", *lines]) + "\n")
    data = data_of(initiate(Path("compact.csv")).study)
    assert (data["time"], data.get("features")) == ("ts", None)


def test_prose_with_commas_is_no_table(here: Path) -> None:
    """An essay whose first line has the most commas is learned as text."""
    lines = ["red, green, blue, or black, and then, at last, white"]
    lines += [f"Paragraph {at}, which is short, says little of {at * at}." for at in range(40)]
    (here / "essay.txt").write_text("\n".join([lines[0], *lines[1:] * 3]) + "\n")
    assert data_of(initiate(here / "essay.txt").study)["task"] == "language"


def test_a_class_that_looks_like_a_missing_number(here: Path) -> None:
    """A label column of 1, 2 and null is one of classes, as a study reads it."""
    names = {0: "1", 1: "2", 2: "null"}
    head, *rows = gestures().splitlines()
    cells = [row.split(",") for row in rows]
    lines = [",".join([row[0], row[1], names[int(row[0][1:]) % 3], *row[3:]]) for row in cells]
    (here / "activity.csv").write_text("\n".join([head, *lines]) + "\n")
    study = initiate(here / "activity.csv", task="classify", targets=("gesture",)).study
    assert data_of(study)["label"] == "gesture"
    assert load_splits(load_config(study).data).output_size == 3


def test_comments_are_short() -> None:
    """Comments are wrapped to 100 characters."""
    lines = comment("word " * 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert all(line.startswith("# ") for line in lines)


@pytest.mark.parametrize("sign", [",", "."])
def test_months_with_a_point(here: Path, sign: str) -> None:
    """Months such as 01.2020 are the time, and the study reads them in their order."""
    months = pd.date_range("2001-01-01", periods=96, freq="MS").strftime("%m.%Y")
    values = [f"{math.sin(at):.2f}".replace(".", sign) for at in range(len(months))]
    lines = [f"{month};{value}" for month, value in zip(months, values, strict=True)]
    (here / "sales.csv").write_text("\n".join(["Monat;Umsatz", *lines]) + "\n")
    done = initiate(Path("sales.csv"))
    assert data_of(done.study)["time"] == "Monat"
    assert "2001-01-01 to 2008-12-01, step regular (MS), gaps: 0" in done.lines[1]


@pytest.mark.parametrize("name", ["extra", "label", "day", "site"])
def test_lists_in_parquet(here: Path, name: str) -> None:
    """Lists and records in a Parquet file are left out, with a note."""
    frame = pd.read_csv(here / "sales.csv")
    for kind in ([1, 2], {"a": 1}):
        frame[name] = [kind] * len(frame)
        frame.to_parquet(here / "sales.parquet")
        done = initiate(Path("sales.parquet"), force=True)
        assert data_of(done.study)["time"] == "date"
        assert any(f"'{name}' is left out: lists or records" in note for note in done.notes)
