"""Tests of `search.data.ts_files`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from search.data.ts_files import TsFile, read_ts
from search.errors import DataError

HEADER = "@problemName Toy\n@timeStamps false\n@classLabel true a b\n@data\n"


def read(tmp_path: Path, text: str | bytes) -> TsFile:
    """Writes a file and reads it."""
    path = tmp_path / "toy.ts"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_ts(path)


def message(tmp_path: Path, text: str | bytes) -> str:
    """Returns the one line with which reading fails."""
    with pytest.raises(DataError) as caught:
        read(tmp_path, text)
    said = str(caught.value)
    assert "toy.ts" in said
    assert "\n" not in said
    return said


def test_reads_cases_labels_and_header(tmp_path: Path) -> None:
    """Dimensions become columns, and labels, lines and header facts are kept."""
    got = read(tmp_path, "# a comment\n" + HEADER + "1,2,3:4,5,6:a\n\n7:8:b\n")
    assert [case.tolist() for case in got.cases] == [[[1, 4], [2, 5], [3, 6]], [[7, 8]]]
    assert (got.labels, got.lines, got.classes) == (["a", "b"], [6, 8], ("a", "b"))
    assert (got.problem, got.notes) == ("Toy", ())


@pytest.mark.parametrize("word", ["?", "NaN", "nan", " ? "])
def test_missing_values_become_nan(tmp_path: Path, word: str) -> None:
    """A question mark and NaN both stand for a missing value."""
    got = read(tmp_path, HEADER + f"1,{word},3:a\n")
    np.testing.assert_array_equal(got.cases[0][:, 0], [1, np.nan, 3])


def test_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    """A file saved on Windows reads like any other."""
    plain = read(tmp_path, HEADER + "1,2:a\n")
    saved = read(tmp_path, b"\xef\xbb\xbf" + (HEADER + "1,2:a\n").replace("\n", "\r\n").encode())
    assert saved.labels == plain.labels
    np.testing.assert_array_equal(saved.cases[0], plain.cases[0])


def test_latin1_in_a_comment_does_no_harm(tmp_path: Path) -> None:
    """Old headers name people in Latin-1; that must not stop anyone."""
    assert read(tmp_path, b"# Ren\xe9\n" + HEADER.encode() + b"1:a\n").labels == ["a"]


def test_directives_in_any_case(tmp_path: Path) -> None:
    """Directive names and flags are not case-sensitive, as in sktime's own files."""
    assert read(tmp_path, "@CLASSLABEL True x\n@DATA\n1:x\n").labels == ["x"]


@pytest.mark.parametrize(
    "case", ["(0,5),(2,6),(4,?):a", "(2020-01-01,5),(2020-01-02,6),(2020-01-03,?):a"]
)
def test_regular_time_stamps(tmp_path: Path, case: str) -> None:
    """Evenly stamped values, by number or date, read like values without stamps."""
    got = read(tmp_path, HEADER.replace("false", "true") + case + "\n")
    np.testing.assert_array_equal(got.cases[0][:, 0], [5, 6, np.nan])


def test_dates_with_colons_do_not_split_a_dimension(tmp_path: Path) -> None:
    """A colon in a time of day is not a border between dimensions."""
    case = "(2020-01-01 00:00:00,1),(2020-01-01 00:00:10,2):(0,3),(10,4):b\n"
    got = read(tmp_path, HEADER.replace("false", "true") + case)
    assert got.cases[0].tolist() == [[1, 3], [2, 4]]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("(0,1),(1,2),(3,4):a", "not evenly spaced at step 3"),
        ("(0,1),(0,2):a", "not evenly spaced at step 2"),
        ("1,2:a", "not of the form (time,value)"),
        ("(0,1),oops,(1,2):a", "not of the form (time,value)"),
        ("(x,1),(y,2):a", "neither all numbers nor all ISO dates"),
        ("(0,1),(1,2):(0,1),(2,2):a", "different time steps"),
        ("(0,1),(1,2):a\n(0,1),(5,2):a", "sampled every 5"),
    ],
)
def test_irregular_time_stamps_are_errors(tmp_path: Path, case: str, said: str) -> None:
    """A network steps evenly, so stamps that do not are refused with the reason."""
    assert said in message(tmp_path, HEADER.replace("false", "true") + case + "\n")


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("1,2:a\n1,2:3,4:a", "line 6: has 2 dimensions where the cases before have 1"),
        ("1,2:3:a", "line 5: dimension 2 has 1 values but dimension 1 has 2"),
        ("1,2:c", "line 5: the label 'c' is not one that @classLabel declares"),
        ("1,2", "line 5: the label '1,2'"),
        ("a", "has 0 dimensions"),
        ("1,two:a", "line 5: dimension 1, value 2: 'two' is no number"),
        ("1,1_0:a", "'1_0' is no number"),
        ("1,,3:a", "value 2: '' is no number"),
    ],
)
def test_broken_cases_name_the_line(tmp_path: Path, case: str, said: str) -> None:
    """Whatever is wrong with a case, the message says in which line and what."""
    assert said in message(tmp_path, HEADER + case + "\n")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@classLabel true a\n1:a\n", "line 2: comes before @data"),
        ("@classLabel true a\n", "no @data line"),
        ("", "is empty; it needs a header and cases"),
        (HEADER, "no cases"),
        ("@clasLabel true a\n@data\n", "line 1: unknown directive '@claslabel'; did you mean"),
        ("@classLabel false\n@data\n1\n", "classification needs labels"),
        ("@data\n1:a\n", "line 1: the header has no @classLabel"),
        ("@targetLabel true\n@data\n", "for regression"),
        ("@classLabel true\n@data\n", "must be followed by the labels"),
        ("@classLabel maybe a\n@data\n", "must be true or false"),
        ("@missing perhaps\n@data\n", "@missing must be true or false, not 'perhaps'"),
        ("@dimensions few\n@data\n", "@dimensions must be a whole number above 0"),
        ("@seriesLength\n@data\n", "is given no value"),
        ("@univariate true\n@dimensions 3\n@classLabel true a\n@data\n", "correct one"),
        ("@dimensions 2\n" + HEADER + "1:a\n", "where the header declares 2"),
    ],
)
def test_broken_headers(tmp_path: Path, text: str, said: str) -> None:
    """Whatever is wrong with the header, the message says what."""
    assert said in message(tmp_path, text)


def test_other_encodings_and_binaries(tmp_path: Path) -> None:
    """Data in another encoding and binary files are told apart from broken values."""
    assert "is not UTF-8" in message(tmp_path, HEADER.encode() + b"1:\xe9\n")
    assert "NUL" in message(tmp_path, b"\0\0\0")


def test_missing_files_and_folders(tmp_path: Path) -> None:
    """A path that is no file is an error of one line."""
    with pytest.raises(DataError, match=r"none.ts does not exist; check the path"):
        read_ts(tmp_path / "none.ts")
    with pytest.raises(DataError, match=r"is a folder"):
        read_ts(tmp_path)


@pytest.mark.parametrize("word", ["false", "False", "FALSE"])
def test_labels_that_need_not_be(tmp_path: Path, word: str) -> None:
    """A header that says that there are no labels is one of a file to be classified."""
    path = tmp_path / "toy.ts"
    path.write_text(f"@univariate true\n@classLabel {word}\n@data\n1,2,3\n4,5,6\n")
    assert len(read_ts(path, labelled=False).cases) == 2
    assert "@classLabel is false" in message(tmp_path, path.read_text())


def test_a_length_that_contradicts_the_header_is_noted(tmp_path: Path) -> None:
    """A case shorter than @seriesLength may be a cut file, so it is noted with its line."""
    text = "@equalLength true\n@seriesLength 3\n" + HEADER + "1,2,3:a\n1,2:b\n"
    assert (
        "line 8: 2 steps, though the header says @seriesLength 3" in read(tmp_path, text).notes[0]
    )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    st.lists(
        st.integers(1, 5).flatmap(
            lambda steps: arrays(
                np.float64, (steps, 2), elements=st.floats(allow_infinity=False, allow_nan=True)
            )
        ),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_written_is_read(tmp_path: Path, cases: list[np.ndarray]) -> None:
    """Any values, written in full, come back bit by bit."""
    lines = [
        ":".join([*(",".join(map(repr, row.tolist())) for row in case.T), "a"]) for case in cases
    ]
    got = read(tmp_path, HEADER + "\n".join(lines))
    for case, expected in zip(got.cases, cases, strict=True):
        np.testing.assert_array_equal(case, expected)
