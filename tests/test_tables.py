"""Tables are read as a person would read them, and what is wrong is said with its row."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from search.data.tables import (
    interpolate,
    numbers,
    numeric_columns,
    read_table,
    require_columns,
    take_table,
    treat_missing,
)
from search.errors import DataError


def write(folder: Path, content: str | bytes, name: str = "table.csv") -> Path:
    """Writes a file and returns its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_finds_the_delimiter(tmp_path: Path, delimiter: str) -> None:
    """Comma, semicolon, tab and bar are all found from the lines themselves."""
    lines = ["when,x y,note", "2020-01-01,1.5,a", "2020-01-02,2.5,b"]
    frame = read_table(write(tmp_path, "\n".join(lines).replace(",", delimiter)))
    assert list(frame.columns) == ["when", "x y", "note"]
    assert frame["x y"].tolist() == [1.5, 2.5]


def test_decimal_comma(tmp_path: Path) -> None:
    """With semicolons between fields, 1,5 is one and a half, while a dotted date stays a date."""
    frame = read_table(write(tmp_path, "date;kg, net\n01.02.2020;1,5\n02.02.2020;-2,25\n"))
    assert frame["kg, net"].tolist() == [1.5, -2.25]
    assert frame["date"].tolist() == ["01.02.2020", "02.02.2020"]


def test_decimal_point_beside_semicolons(tmp_path: Path) -> None:
    """A semicolon alone does not make the comma a decimal sign."""
    frame = read_table(write(tmp_path, "a;b\n1.5;2\n2.5;3\n"))
    assert frame["a"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_byte_order_mark_and_line_ends(tmp_path: Path, newline: str) -> None:
    """A byte order mark is no part of the first name, and any line end will do."""
    text = newline.join(["größe,b", "1,2", "3,4", ""])
    frame = read_table(write(tmp_path, text.encode("utf-8-sig")))
    assert frame["größe"].tolist() == [1, 3]


def test_gzip_and_tsv(tmp_path: Path) -> None:
    """Packed files and .tsv are read like any other."""
    packed = write(tmp_path, gzip.compress(b"a,b\n1,2\n"), "table.csv.gz")
    tabbed = write(tmp_path, "a\tb\n1\t2\n", "table.tsv")
    assert read_table(packed).to_dict("list") == read_table(tabbed).to_dict("list")


def test_parquet_is_equal_to_csv(tmp_path: Path) -> None:
    """The same table gives the same columns from Parquet as from CSV, its index included."""
    frame = pd.DataFrame({"x": [1.5, 2.5]}, index=pd.Index(["a", "b"], name="who"))
    frame.to_parquet(tmp_path / "table.parquet")
    frame.to_csv(tmp_path / "table.csv")
    parquet, text = (read_table(tmp_path / f"table.{kind}") for kind in ("parquet", "csv"))
    assert parquet.to_dict("list") == text.to_dict("list") == {"who": ["a", "b"], "x": [1.5, 2.5]}
    assert parquet.index.tolist() == [1, 2]


def test_numbers_written_as_text(tmp_path: Path) -> None:
    """Missing-value markers do not keep a column from being one of numbers."""
    path = write(tmp_path, "a,b,c\n1,nil,NA\n2, 7,x\nn/a,,y\n")
    frame = read_table(path)
    assert numeric_columns(frame) == ["a", "b"]
    np.testing.assert_array_equal(numbers(frame, "a", path), [1, 2, np.nan])
    np.testing.assert_array_equal(numbers(frame, "b", path), [np.nan, 7, np.nan])
    assert frame["c"].tolist() == ["NA", "x", "y"]


def test_numbers_in_text_columns_of_parquet(tmp_path: Path) -> None:
    """Strings and nullable integers of a Parquet file are numbers where they parse."""
    path = tmp_path / "table.parquet"
    nullable = pd.array([1, None], dtype="Int64")
    pd.DataFrame({"a": ["1.5", "nil"], "b": nullable}).to_parquet(path)
    frame = read_table(path)
    np.testing.assert_array_equal(numbers(frame, "a", path), [1.5, np.nan])
    np.testing.assert_array_equal(numbers(frame, "b", path), [1, np.nan])


def test_bytes_in_parquet(tmp_path: Path) -> None:
    """A column of bytes is in nobody's way, and is no column of numbers."""
    path = tmp_path / "table.parquet"
    pd.DataFrame({"x": [1.5, 2.5], "image": [b"\xff\xd8", b"\xff"]}).to_parquet(path)
    frame = read_table(path)
    assert numeric_columns(frame) == ["x"]
    with pytest.raises(DataError, match=r"column 'image' has .* in row 1 where a number"):
        numbers(frame, "image", path)


@pytest.mark.parametrize("notes", [b"{}", b"[]", b"3", b'{"columns": 3, "index_columns": [7]}'])
def test_damaged_notes_in_parquet(tmp_path: Path, notes: bytes) -> None:
    """A Parquet file whose notes by pandas are damaged is refused or read, with no traceback."""
    path = tmp_path / "table.parquet"
    table = pa.table({"x": [1.5, 2.5]}).replace_schema_metadata({b"pandas": notes})
    pq.write_table(table, path)
    with pytest.raises(DataError, match=r"table\.parquet is a broken Parquet file \("):
        read_table(path)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("a,b\n1,2\n3,oops\n", 3),
        ("\n\na,b\n1,2\n3,oops\n", 5),
        ("a,b\n1,2\n\n \n3,oops\n", 5),
        ('c,b\n"x\ny",2\nz,oops\n', 4),
        ("b\n1\n\noops\n", 4),
    ],
)
def test_text_among_numbers(tmp_path: Path, text: str, row: int) -> None:
    """Text in a column of numbers is quoted, with the line an editor shows it in."""
    path = write(tmp_path, text)
    with pytest.raises(DataError, match=rf"table\.csv: column 'b' has 'oops' in row {row} "):
        numbers(read_table(path), "b", path)


def test_infinite(tmp_path: Path) -> None:
    """An infinite value is an error that names its row."""
    path = write(tmp_path, "a,b\n1,2\n3,-inf\n")
    with pytest.raises(DataError, match=r"column 'b' is infinite in row 3"):
        numbers(read_table(path), "b", path)


def test_empty_lines_of_a_single_column(tmp_path: Path) -> None:
    """In a file of one column an empty line is a missing value, not nothing."""
    path = write(tmp_path, "a\n1\n\n3\n")
    np.testing.assert_array_equal(numbers(read_table(path), "a", path), [1, np.nan, 3])


@pytest.mark.parametrize("text", [",x\n0,5\n1,6\n", "x,\n5,\n6,\n"])
def test_column_without_a_name(tmp_path: Path, text: str) -> None:
    """An unnamed column that counts the rows, or is empty, is left out."""
    assert read_table(write(tmp_path, text)).to_dict("list") == {"x": [5, 6]}


def test_unnamed_dates_are_kept(tmp_path: Path) -> None:
    """An unnamed column that holds something is kept under a name."""
    frame = read_table(write(tmp_path, ",x\n2020-01-01,5\n2020-02-01,6\n"))
    assert frame["Unnamed"].tolist() == ["2020-01-01", "2020-02-01"]


def test_counted_header(tmp_path: Path) -> None:
    """Columns named 0, 1, 2 are a header, as pandas writes it for an array."""
    assert list(read_table(write(tmp_path, "0,1\n7,8\n")).columns) == ["0", "1"]


PARQUET = "table.parquet"


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (b"", "table.csv", r"is empty; it needs a header"),
        (b"\n\n", "table.csv", r"is empty; it needs a header"),
        (b"", PARQUET, r"is empty"),
        (b"a,b\n", "table.csv", r"has a header but no rows"),
        (b"\x89PNG\x00\x01\x02", "table.csv", r"is binary, not CSV; export it"),
        (b"PK\x03\x04abc", "table.csv", r"is binary, not CSV; export it"),
        (b"\xff\xfea\x00", "table.csv", r"is UTF-16 text; save it as UTF-8"),
        (b"a,b\n1,2\n1,\xe9\n", "table.csv", r"is not UTF-8: byte 0xe9 in row 3"),
        (b"PAR1 and no more", PARQUET, r"is a broken Parquet file"),
        (b"a,b\n1,2\n", PARQUET, r"is a broken Parquet file"),
        (b"\x1f\x8bnonsense", "table.csv.gz", r"is a broken gzip file"),
        (b"a,b\n1,2\n1,2,3\n", "table.csv", r"row 3 has 3 fields but the header names 2"),
        (b"\na,b\n\n1,2,3\n", "table.csv", r"row 4 has 3 fields but the header names 2"),
        (b"a,b\n1,2,3\n", "table.csv", r"row 2 has 3 fields but the header names 2"),
        (b"a,a\n1,2\n", "table.csv", r"the header names 'a' twice"),
        (b"1749,5.5\n1750,6\n", "table.csv", r"row 1 holds only numbers; the first line must"),
        (b"2021-01-01,1.5,2\n", "table.csv", r"row 1 holds only times and numbers; the first"),
        (b"01.02.2021;1,5\n", "table.csv", r"row 1 holds only times and numbers"),
        (b"2021Q1,1.5\n", "table.csv", r"row 1 holds only times and numbers"),
        (b"2021-01-01,,12:00,1.5\n", "table.csv", r"row 1 holds only times and numbers"),
        (b'a,b\n1,"2\n3,4\n', "table.csv", r"never closed"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes, name: str, message: str) -> None:
    """A file that holds no table is refused in one line that names the file and the fault."""
    with pytest.raises(DataError, match=message) as caught:
        read_table(write(tmp_path, content, name))
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    """A path that leads to nothing, or to a folder, is said to do so."""
    with pytest.raises(DataError, match=r"nowhere\.csv does not exist; check the path"):
        read_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"is a folder; give one CSV"):
        read_table(tmp_path)


def test_missing_column(tmp_path: Path) -> None:
    """A column that is not there is answered with the nearest name and those that are."""
    path = write(tmp_path, "date,sales\n1,2\n")
    with pytest.raises(DataError, match=r"no column 'sale'; did you mean 'sales'\? it has 'date'"):
        require_columns(read_table(path), ["date", "sale"], path)


def test_unfindable_delimiter(tmp_path: Path) -> None:
    """Where no delimiter cuts the lines, the one column found is shown, and what may delimit."""
    path = write(tmp_path, "date~sales\n1~2\n")
    with pytest.raises(DataError, match=r"it has 'date~sales' \(columns must be delimited by"):
        require_columns(read_table(path), ["sales"], path)


def test_an_index_becomes_columns_once() -> None:
    """An index that is a column as well is left out; one that differs from its column is not."""
    frame = pd.DataFrame({"date": ["a", "b"], "y": [1.5, 2.5]})
    taken = take_table(frame.set_index("date", drop=False), Path("the frame"))
    assert taken.to_dict("list") == frame.to_dict("list")
    for index in (["b", "a"], [1, 2]):
        other = frame.set_axis(pd.Index(index, name="date"))
        with pytest.raises(
            DataError, match=r"the frame: the index and a column.*both named 'date'"
        ):
            take_table(other, Path("the frame"))


@pytest.mark.parametrize(
    ("index", "kept"),
    [
        (pd.RangeIndex(1950, 1953, name="year"), [1950, 1951, 1952]),
        (pd.RangeIndex(0, 6, 2, name="year"), [0, 2, 4]),
        (pd.RangeIndex(1, 4, name="year"), None),
        (pd.RangeIndex(7, 10), None),
    ],
)
def test_a_range_may_be_more_than_a_count(index: pd.Index, kept: list[int] | None) -> None:
    """An index with a name that does not just count the rows is a column of this name."""
    taken = take_table(pd.DataFrame({"y": [1, 2, 3]}, index=index), Path("the frame"))
    assert (taken["year"].tolist() if "year" in taken else None) == kept


def gappy() -> pd.DataFrame:
    """Returns eight rows, numbered from 2, with three values missing in b."""
    nan = np.nan
    values = {"a": np.arange(8.0), "b": [nan, 1.0, nan, 3.0, 10.0, nan, 30.0, 40.0]}
    return pd.DataFrame(values, index=range(2, 10))


def test_missing_is_an_error(tmp_path: Path) -> None:
    """Missing values are refused with the column, how many, the first row and the remedies."""
    with pytest.raises(DataError) as caught:
        treat_missing(gappy(), "error", [slice(0, 8)], tmp_path / "t.csv")
    message = str(caught.value)
    for piece in ("t.csv: column 'b'", "3 rows, first in row 2", "fill", '"interpolate"', '"drop"'):
        assert piece in message


def test_interpolates_within_runs(tmp_path: Path) -> None:
    """Interpolation is linear, never reaches into another run, and ends take the nearest value."""
    filled, keep = treat_missing(gappy(), "interpolate", [slice(0, 3), slice(3, 8)], tmp_path)
    assert filled[:, 1].tolist() == [1, 1, 1, 3, 10, 20, 30, 40]
    assert keep.all()


def test_nothing_to_interpolate_from(tmp_path: Path) -> None:
    """A run without any value cannot be filled and is named by its rows."""
    with pytest.raises(DataError, match=r"column 'b' has no value at all in rows 2 to 2"):
        treat_missing(gappy(), "interpolate", [slice(0, 1), slice(1, 8)], tmp_path)


def test_drops_rows(tmp_path: Path) -> None:
    """Dropping keeps exactly the rows in which nothing is missing, and never all of none."""
    _, keep = treat_missing(gappy(), "drop", [], tmp_path)
    assert np.flatnonzero(~keep).tolist() == [0, 2, 5]
    with pytest.raises(DataError, match=r"every row has a missing value"):
        treat_missing(gappy().iloc[:1], "drop", [], tmp_path)


@given(
    st.lists(st.one_of(st.just(np.nan), st.floats(-1e6, 1e6)), min_size=1, max_size=40).filter(
        lambda values: not all(np.isnan(values))
    )
)
def test_interpolation_keeps_what_is_known(values: list[float]) -> None:
    """Known values stay as they are, and the filled ones lie between them."""
    given_values = np.array(values)
    known = ~np.isnan(given_values)
    filled = interpolate(given_values)
    np.testing.assert_array_equal(filled[known], given_values[known])
    assert filled.min() >= given_values[known].min() - 1e-6
    assert filled.max() <= given_values[known].max() + 1e-6


CELLS = st.text(alphabet=st.sampled_from('ab ,;|\t"\n.5é'), min_size=1, max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CELLS, min_size=1, max_size=8), st.sampled_from(",;\t|"))
def test_round_trip(tmp_path: Path, words: list[str], delimiter: str) -> None:
    """Whatever Python's csv module writes comes back, quoted delimiters and line ends included."""
    words = [f"<{word}>" for word in words]
    path = tmp_path / "round.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writerow(["number", "word", "last"])
        writer.writerows([at, word, 1.5] for at, word in enumerate(words))
    frame = read_table(path)
    assert frame["word"].tolist() == words
    assert frame["number"].tolist() == list(range(len(words)))
    breaks = np.cumsum([1 + word.count("\n") for word in words])
    assert frame.index.tolist() == (breaks + 1).tolist()


@pytest.mark.parametrize("written", ["998;1.000;1.237;640", "998;1,000;1,237;640"])
def test_refuses_thousands_read_as_decimals(tmp_path: Path, written: str) -> None:
    """A column in which 998 is followed by 1.000 is refused: 1.0 is not what was meant."""
    path = tmp_path / "t.csv"
    rows = "".join(f"{day};{value}\n" for day, value in enumerate(written.split(";"), 1))
    path.write_text("day;sold\n" + rows)
    with pytest.raises(DataError, match=r"column 'sold' has '1[.,]000' in row 3.*thousands sep"):
        read_table(path)


def test_thousands_after_empty_lines(tmp_path: Path) -> None:
    """The row of a number with thousands is that of the file, empty lines counted."""
    path = write(tmp_path, "\ny\n\n998\n\n1.000\n")
    with pytest.raises(DataError, match=r"column 'y' has '1\.000' in row 6, which"):
        read_table(path)


def test_three_decimals_beside_quoted_text_after_blanks(tmp_path: Path) -> None:
    """A quoted delimiter after a blank is part of the text, also where thousands are looked for."""
    path = write(tmp_path, 't, label,y\n0, ab,1.250\n1, "c, d",0.125\n')
    assert read_table(path)["label"].tolist() == ["ab", "c, d"]


def test_labels_are_no_thousands(tmp_path: Path) -> None:
    """Names may look like numbers with thousands."""
    path = write(tmp_path, "kind,y\n998,1\n1.000,2\n")
    assert read_table(path, ["kind"])["kind"].tolist() == ["998", "1.000"]


def test_a_line_for_the_spreadsheet(tmp_path: Path) -> None:
    """The line sep= of Excel names the delimiter and is no header; rows are counted with it."""
    frame = read_table(write(tmp_path, "sep=;\na,b;y\nx,z;1,5\nx,z;2,5\n"))
    assert frame.to_dict("list") == {"a,b": ["x,z", "x,z"], "y": [1.5, 2.5]}
    assert frame.index.tolist() == [3, 4]


def test_trailing_columns_without_a_name(tmp_path: Path) -> None:
    """Any number of empty columns without a name is left out; two that hold something are not."""
    frame = read_table(write(tmp_path, "a,y,,\n1,2,,\n3,4,,\n"))
    assert frame.to_dict("list") == {"a": [1, 3], "y": [2, 4]}
    with pytest.raises(DataError, match="2 columns have no name; name them in the header"):
        read_table(write(tmp_path, "a,y,,\n1,2,5,6\n"))


def test_three_decimals_are_no_thousands(tmp_path: Path) -> None:
    """Measurements with three decimals stay what they are, beside small whole numbers, too."""
    path = tmp_path / "t.csv"
    path.write_text("day;level\n1;1.250\n2;0.125\n3;12\n4;99.375\n")
    assert read_table(path)["level"].tolist() == [1.25, 0.125, 12.0, 99.375]


def test_several_separators_have_their_own_remedy(tmp_path: Path) -> None:
    """A number such as 1.237,45 is refused with the word that helps."""
    path = tmp_path / "t.csv"
    path.write_text("day;sold\n1;998,10\n2;1.237,45\n")
    with pytest.raises(DataError, match=r"'1.237,45' in row 3.*without thousands separators"):
        numbers(read_table(path), "sold", path)
