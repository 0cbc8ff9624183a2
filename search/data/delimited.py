"""CSV text → frame: delimiter, decimal sign and header are found, not asked for.

Shapes: L rows.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from search.data.encodings import as_utf8, binary_kind
from search.data.timeline import CLOCK, parse_times
from search.errors import DataError

DELIMITERS = "\t;|,"
"""In the order in which they are believed where several cut the lines equally well: a comma may
be a decimal sign or punctuation, a tab hardly ever."""
SNIFFED_LINES = 50

TOLD = re.compile(rf'"?sep=([{DELIMITERS}])"?\n', re.IGNORECASE)
"""The line above the header in which Excel says what the delimiter is."""

MISSING = frozenset(
    (
        *("", "na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "-nan"),
        *("null", "nil", "none", "missing", "?", "-", "--", "."),
    )
)
"""What stands for a missing value in a column of numbers, in lower case; nothing does too."""

NUMBER = r"[-+]?(\d+([.,]\d*)?|[.,]\d+)([eE][-+]?\d+)?"
GROUPED = r"[-+]?[1-9]\d{0,2}(?:[.,' ]\d{3})+"
"""A number that may be written with thousands separators: 1.000 or 12,345."""
YEARS, FIRST_DATE = (1500, 2200), 15_000_101
"""What may be years; and the least number that may be a date such as 20200131."""
SIGNED = r"[-+]?\d*{sign}\d+(?:[eE][-+]?\d+)?"
"""A number with a decimal sign."""
MONTH = r"(?:0?[1-9]|1[0-2])\.(?:1[5-9]|2[01])\d\d"
"""A month such as 01.2020, whose point says nothing of the decimal sign."""


def decode(content: bytes, path: Path) -> str:
    """Returns the text of a file, with Unix line ends and no byte order mark.

    Raises:
        DataError: It is binary, or no UTF-8; names the row.
    """
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{path} is UTF-16 text; save it as UTF-8: {as_utf8(path, 'UTF-16')}")
    if b"\x00" in content or binary_kind(content):
        raise DataError(f"{path} is binary, not CSV; export it as CSV or Parquet")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} in row {row}; save it as "
            f"UTF-8, for example: {as_utf8(path)}"
        ) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def find_dialect(text: str, path: Path) -> tuple[str, str]:
    """Returns the delimiter and the decimal sign with which `read_csv` reads a text.

    Raises:
        DataError: A line is too long for any table.
    """
    text, _, delimiters = _begin(text)
    delimiter, _ = _sniff(text, delimiters, path)
    return delimiter, _decimal_sign(text, delimiter)


def read_csv(text: str, path: Path, as_text: Collection[str] = ()) -> pd.DataFrame:
    """Reads a table from text.

    Args:
        text: The file's.
        path: The file, for messages.
        as_text: Columns that are text, exactly as written, whatever stands in them.

    Returns:
        (L, columns), indexed by the line of the file; unique column names.

    Raises:
        DataError: It is no table, or its numbers can be read in two ways; names the row.
    """
    text, above, delimiters = _begin(text)
    if not text.strip():
        raise DataError(f"{path} is empty; it needs a header and rows")
    delimiter, records = _sniff(text, delimiters, path)
    names = _header(records, above, path)
    form: dict[str, Any] = {
        "sep": delimiter,
        "decimal": _decimal_sign(text, delimiter),
        "names": names,
    }
    kinds = {name: str for name in names if name in as_text}
    try:
        frame = _parse(text, form, kinds)
        frame.index = pd.Index(_rows(text, delimiter, len(frame), len(names) > 1)) + above
        if _may_group(text, delimiter):
            written = _parse(text, form, str).set_axis(frame.index)
            _refuse_thousands(written.drop(columns=list(kinds)), path, delimiter)
        count = _without_tail(frame)
        if count < len(frame):  # Empty rows make fractions of whole numbers.
            frame = _parse(text, {**form, "nrows": count}, kinds).set_axis(frame.index[:count])
    except (pd.errors.ParserError, csv.Error) as error:
        raise DataError(f"{path}: {_tokenizing(error, names, above)}") from None
    _mend_commas(frame, kinds, everywhere=form["decimal"] == ",")
    return _named(frame, path)


def _begin(text: str) -> tuple[str, int, str]:
    """Returns the text from its header on, how many lines are above, and its possible delimiters.

    Excel says which one it is in a first line ``sep=;``.
    """
    begun = text.lstrip("\n")
    told = TOLD.match(begun)
    begun = begun[told.end() :].lstrip("\n") if told else begun
    above = text.count("\n", 0, len(text) - len(begun))
    return begun.rstrip("\n") + "\n", above, told[1] if told else DELIMITERS


def _parse(text: str, form: dict[str, Any], kinds: Any) -> pd.DataFrame:
    frame: pd.DataFrame = pd.read_csv(
        io.StringIO(text),
        **form,
        dtype=kinds,
        skipinitialspace=True,
        header=0,
        index_col=False,
        low_memory=False,
        keep_default_na=False,
        na_values=[""],
        # With one column an empty line is a missing value, with several it is nothing.
        skip_blank_lines=len(form["names"]) > 1,
    )
    return frame


def _mend_commas(frame: pd.DataFrame, kinds: Collection[str], *, everywhere: bool) -> None:
    """Writes decimal commas as points in columns that some word kept from being numbers.

    Args:
        frame: What pandas has made of the file; is changed.
        kinds: Columns that are text.
        everywhere: Whether the comma is the file's decimal sign; else it is that of a column in
            which some number with one cannot be thousands.
    """
    for name in frame.columns.difference(pd.Index(list(kinds))):
        if pd.api.types.infer_dtype(frame[name]) != "string":
            continue
        words = frame[name].str.strip()
        found = words.str.fullmatch(SIGNED.format(sign=",")).fillna(value=False).astype(bool)
        if everywhere or not words[found].str.fullmatch(GROUPED).all():
            frame[name] = frame[name].mask(found, words.str.replace(",", ".", n=1))


def _without_tail(frame: pd.DataFrame) -> int:
    """Returns how many rows there are without those of nothing but delimiters at the end.

    Excel likes to add such. With one column they are missing values.
    """
    if len(frame.columns) == 1:
        return len(frame)
    filled = frame.notna().any(axis=1).to_numpy()
    return int(np.flatnonzero(filled).max(initial=-1)) + 1


def _named(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Leaves out columns without a name that are empty or count the rows, and names another."""
    nameless = [name for name in frame.columns if not name.strip()]
    kept = [name for name in nameless if not frame[name].isna().all()]
    if kept and kept[0] == frame.columns[0] and _counts(frame[kept[0]]):
        kept = kept[1:]
    if len(kept) > 1:
        raise DataError(f"{path}: {len(kept)} columns have no name; name them in the header")
    frame = frame.drop(columns=[name for name in nameless if name not in kept])
    return frame.rename(columns=dict.fromkeys(kept, "Unnamed"))


def _sniff(text: str, delimiters: str, path: Path) -> tuple[str, list[tuple[int, list[str]]]]:
    """Returns the delimiter and how it cuts the first lines: their numbers and their fields.

    The one wins that cuts all lines into equally many fields, and most; failing that, the header.
    """
    head = text[: len("\n".join(text.split("\n", SNIFFED_LINES)[:SNIFFED_LINES])) + 1]

    def cut(delimiter: str) -> list[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(head), delimiter=delimiter, skipinitialspace=True)
        return [(reader.line_num, record) for record in reader if record]

    def merit(delimiter: str) -> tuple[bool, int]:
        widths = [len(record) for _, record in cuts[delimiter]]
        return (widths[0] > 1 and len(set(widths)) == 1, widths[0])

    try:
        cuts = {delimiter: cut(delimiter) for delimiter in {*delimiters, ","}}
    except csv.Error as error:
        raise DataError(f"{path} is no CSV table ({error}); mend it") from None
    best = max(delimiters, key=merit)
    best = best if merit(best)[1] > 1 else ","
    return best, cuts[best]


def _header(records: list[tuple[int, list[str]]], above: int, path: Path) -> list[str]:
    """Returns the column names, or says why the first record cannot be a header.

    Columns without a name are named by so many blanks that no two are alike.
    """
    names = [name.strip() or " " * at for at, name in enumerate(records[0][1])]
    line = above + records[0][0]
    if len(records) > 1 and len(records[1][1]) > len(names):
        raise DataError(
            f"{path}: row {above + records[1][0]} has {len(records[1][1])} fields but the header "
            f"names {len(names)}; give every column a name, and end no line with a delimiter"
        )
    held = _data_in(names, path)
    if held:
        raise DataError(
            f"{path}: row {line} holds only {held}; the first line must name the columns"
        )
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise DataError(f"{path}: the header names '{twice[0]}' twice; rename one")
    return names


def _data_in(names: list[str], path: Path) -> str:
    """Says what data the first record holds, if it holds nothing that could be a name.

    Numbers that count are the names that pandas gives columns without one; times alone are those
    of a table that lies on its side.
    """
    others = [name for name in names if not re.fullmatch(NUMBER, name)]
    if not others:
        counted = [str(first + at) for first in (0, 1) for at in range(len(names))]
        return "" if names in (counted[: len(names)], counted[len(names) :]) else "numbers"
    words = [name for name in others if name.strip()]
    if len(others) == len(names) or not words:
        return ""
    return "times and numbers" if all(_is_time(name, path) for name in words) else ""


def _is_time(word: str, path: Path) -> bool:
    if re.fullmatch(CLOCK, word):
        return True
    try:
        parse_times(pd.Series([word]), path)
    except DataError:
        return False
    return True


def _may_group(text: str, delimiter: str) -> bool:
    """Whether there is a number with what may be a separator of thousands."""
    ends = re.escape(delimiter)
    found = re.search(rf'(?:^|{ends})[ "]*{GROUPED}[ "]*(?={ends}|$)', text, re.MULTILINE)
    return found is not None


def _refuse_thousands(written: pd.DataFrame, path: Path, delimiter: str) -> None:
    """Refuses a column in which 998 is followed by 1.000: thousands, read as decimals.

    The sign is taken for a separator of thousands where all numbers that have it have three digits
    behind it, and a number without it has three digits, too, unless as decimals all are about one
    level; or where it is a point, and all decimals are written with a comma.

    Args:
        written: (L, columns) text, indexed by the line of the file.
        path: The file, for messages.
        delimiter: Between its fields.
    """
    commas = delimiter != "," and _decimals_have_commas(written)
    for name in written.columns:
        values = _present(written[name])
        thousands = _thousands(values, commas)
        if thousands.any():
            at = values.index[thousands][0]
            raise DataError(
                f"{path}: column '{name}' has '{values[at]}' in row {at}, which "
                "looks like thousands; write numbers without thousands separators"
            )


def _present(column: pd.Series[str]) -> pd.Series[str]:
    """Returns what is no missing value."""
    words = column.dropna().str.strip()
    return words[~words.str.lower().isin(MISSING)]


def _thousands(values: pd.Series[Any], commas: bool) -> pd.Series[bool]:
    points = values.str.fullmatch(r"[-+]?[1-9]\d{0,2}\.\d{3}")
    if commas and points.any():
        return points
    grouped = values.str.fullmatch(GROUPED)
    plain = values[~grouped]
    whole = plain.str.fullmatch(r"[-+]?\d+").all()
    three = bool(whole and plain.str.fullmatch(r"[-+]?[1-9]\d\d").any())
    return grouped & (three and not _alike(values[grouped], plain))


def _alike(grouped: pd.Series[Any], plain: pd.Series[Any]) -> bool:
    """Whether numbers are decimals about one level, whole ones among them: 120.333 beside 119."""
    if not grouped.str.fullmatch(r"[-+]?\d+\.\d{3}").all() or not len(plain):
        return False
    near = grouped.astype(float).abs()
    others = plain.astype(float).abs()
    level = float(near.max()) <= 10 * float(near.min())
    return level and bool(others.between(0.5 * near.min(), 2 * near.max()).all())


def _decimals_have_commas(written: pd.DataFrame) -> bool:
    """Whether some number must have a decimal comma, and no number a decimal point."""
    found = {",": False, ".": False}
    for name in written.columns:
        values = _present(written[name])
        others = values[~values.str.fullmatch(f"(?:{GROUPED}|{MONTH})")]
        for sign in found:
            number = SIGNED.format(sign=re.escape(sign))
            found[sign] |= bool(others.str.fullmatch(number).any())
    return found[","] and not found["."]


def _decimal_sign(text: str, delimiter: str) -> str:
    if delimiter == ",":
        return "."
    ends = re.escape(delimiter)

    def occurs(number: str) -> bool:
        field = rf'(?:^|{ends})[ "]*{number}[ "]*(?={ends}|$)'
        return re.search(field, text, re.MULTILINE) is not None

    with_point = rf'(?!{MONTH}[ "]*(?:{ends}|$)){SIGNED.format(sign=re.escape("."))}'
    return "," if occurs(SIGNED.format(sign=",")) and not occurs(with_point) else "."


def _tokenizing(error: Exception, names: list[str], above: int) -> str:
    """Says in a table's words what pandas' tokenizer stumbled over."""
    fields = re.search(r"line (\d+), saw (\d+)", str(error))
    if fields:
        return (
            f"row {int(fields[1]) + above} has {fields[2]} fields but the header names "
            f"{len(names)}; mend the row, or put quotes around a text with a delimiter in it"
        )
    if "EOF inside string" in str(error):
        return 'a quotation mark (") is opened and never closed; close or remove it'
    return f"is no CSV table ({str(error).splitlines()[0]}); mend it"


def _rows(text: str, delimiter: str, count: int, blanks_skipped: bool) -> list[int]:
    """Returns the ``count`` records' line numbers, not counting lines cut off above the header."""
    if not blanks_skipped:
        return list(range(2, count + 2))
    blank = " \t".replace(delimiter, "")
    lines = [at for at, line in enumerate(text.split("\n"), 1) if line.strip(blank)]
    if len(lines) != count + 1:  # A quoted field runs over several lines.
        reader = csv.reader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        lines = [reader.line_num for record in reader if record]
    return lines[1:] if len(lines) == count + 1 else list(range(2, count + 2))


def _counts(column: pd.Series[Any]) -> bool:
    """Whether a column without a name is the index that pandas and R write: 0, 1, 2...

    Where rows were left out or sorted, or tables put below each other, some numbers are missing,
    out of order, or begin again. What may be years, dates or seconds is none.
    """
    if not pd.api.types.is_integer_dtype(column):
        return False
    values = column.to_numpy()
    steps = np.diff(values)
    if values[0] in (0, 1) and ((steps == 1) | (values[1:] == values[0])).all():
        return True
    times = (values.min() >= YEARS[0] and values.max() <= YEARS[1]) or values.max() >= FIRST_DATE
    times |= len(steps) > 0 and steps.min() > 1
    return bool(values.min() >= 0 and len(np.unique(values)) == len(values) and not times)
