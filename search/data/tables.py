"""Tables from files: CSV and Parquet become frames whose index is the row a person would look for.

The index of every frame that `read_table` returns holds row numbers: for CSV the line of the file
as an editor shows it (the header is line 1 if nothing stands above it), for Parquet the row counted
from 1. Sorting or dropping rows keeps them, so an error can always name the row at fault.

Shapes: L rows, F columns.
"""

from __future__ import annotations

import gzip
import io
import re
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from search.data.delimited import (
    GROUPED,
    MISSING,
    SNIFFED_LINES,
    decode,
    find_dialect,
    read_csv,
)
from search.errors import DataError, listed, nearest

Floats = NDArray[np.float64]

NESTED = (list, tuple, dict, set, np.ndarray)
"""What a cell of Parquet may hold beside a value: lists and records."""


def read_table(path: Path, names: Collection[str | None] = ()) -> pd.DataFrame:
    """Reads a CSV (also .tsv, .csv.gz) or Parquet file.

    The delimiter of a CSV is found among comma, semicolon, tab and bar; the decimal sign may be a
    comma, in all columns or in one. A text column in which everything is a number or one of
    `MISSING` becomes a column of numbers, and so does one of true and false. An unnamed column that
    only counts the rows is left out, and rows of nothing but delimiters at the end.

    Args:
        path: The file.
        names: Columns whose values are names, of series or classes: text, in a CSV exactly as it
            is written, in Parquet without the point of a whole number. Those absent are ignored.

    Returns:
        (L, columns), L >= 1, indexed by row number, see above; column names are unique strings.

    Raises:
        DataError: The file cannot be read or holds no table.
    """
    content = _content(path)
    as_text = [name for name in names if name is not None]
    if _is_parquet(content, path):
        frame = _read_parquet(content, path)
    else:
        frame = read_csv(decode(content, path), path, as_text)
    return _with_kinds(frame, path, as_text)


def describe_form(path: Path) -> str:
    """Says how `read_table` reads a file, such as ``semicolon-separated with a decimal comma``.

    Raises:
        DataError: The file cannot be read.
    """
    content = _content(path)
    if _is_parquet(content, path):
        return "Parquet"
    delimiter, decimal = find_dialect(decode(content, path), path)
    names = {",": "comma", ";": "semicolon", "|": "bar", "\t": "tab"}
    return f"{names[delimiter]}-separated" + (" with a decimal comma" if decimal == "," else "")


def take_table(frame: pd.DataFrame, name: Path, names: Collection[str | None] = ()) -> pd.DataFrame:
    """Returns a frame from memory as `read_table` returns one from a file, rows counted from 1.

    An index that is more than a count of the rows becomes columns, unless it is one already.

    Raises:
        DataError: It has no rows, or two columns of one name; the index counts as one.
    """
    return _with_kinds(_counted(frame, name), name, [one for one in names if one is not None])


def _with_kinds(frame: pd.DataFrame, path: Path, names: list[str]) -> pd.DataFrame:
    """Turns columns of names into text, and text that holds nothing but numbers into numbers."""
    if not len(frame):
        raise DataError(f"{path} has a header but no rows; add the data below it")
    for name in frame.columns:
        if pd.api.types.infer_dtype(frame[name]) == "bytes":
            frame[name] = frame[name].map(_decoded, na_action="ignore").astype("str")
        if name in names:
            frame[name] = _names(frame[name], path)
            continue
        # Most text shows in its first values; parsing all of a long column would be slow.
        if _is_text(frame[name]) and not _parse(frame[name].iloc[:SNIFFED_LINES])[1].any():
            parsed, wrong = _parse(frame[name])
            if not wrong.any():
                frame[name] = parsed
    return frame


def require_columns(frame: pd.DataFrame, names: Iterable[str], path: Path) -> None:
    """Checks that all of ``names`` are columns.

    Raises:
        DataError: One is not; the message has the nearest name and those that exist.
    """
    for name in names:
        if name in frame.columns:
            continue
        found = listed(map(repr, frame.columns))
        hint = nearest(name, frame.columns)
        hint = hint if hint.endswith("?") else ";"
        alone = len(frame.columns) == 1
        delimiter = " (columns must be delimited by , ; | or a tab)" if alone else ""
        raise DataError(f"{path}: no column '{name}'{hint} it has {found}{delimiter}")


def numeric_columns(frame: pd.DataFrame) -> list[str]:
    """Returns the names of the columns that hold numbers (or true and false), in order."""
    return [str(name) for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]


def is_nested(column: pd.Series[Any]) -> bool:
    """Whether a column holds lists or records, which cannot be counted as values can."""
    return column.dtype == np.dtype(object) and any(isinstance(one, NESTED) for one in column)


def refuse_stray_text(frame: pd.DataFrame, special: Iterable[str], path: Path) -> None:
    """Checks that no column is left out of `numeric_columns` for a few words among its numbers.

    Args:
        frame: The table.
        special: Columns that need not be numbers.
        path: The file, for messages.

    Raises:
        DataError: More than half of a column's values are numbers, but not all; names the row.
    """
    for name in frame.columns.difference(pd.Index(list(special))):
        if is_stray(frame[name]):
            numbers(frame, name, path)


def is_stray(column: pd.Series[Any]) -> bool:
    """Whether some words, less than half of all, keep a column from being one of numbers."""
    return _is_text(column) and bool(0 < _parse(column)[1].mean() < 0.5)


def is_dressed(column: pd.Series[Any]) -> bool:
    """Whether most cells are numbers with currency, percent or thousands' signs about them."""
    if not _is_text(column):
        return False
    words = [str(word).strip() for word in column.dropna()]
    return 2 * sum(re.fullmatch(DRESSED, word) is not None for word in words) > len(words)


def is_words(column: pd.Series[Any]) -> bool:
    """Whether a column is text, in which numbers are few or none."""
    return _is_text(column) and not is_stray(column) and not is_dressed(column)


def numbers(frame: pd.DataFrame, column: str, path: Path) -> Floats:
    """Returns a column as numbers.

    Returns:
        (L,) float64; NaN where the value is missing.

    Raises:
        DataError: A value is text or infinite; the message names it and its row.
    """
    values, wrong = _parse(frame[column])
    if wrong.any():
        at = int(np.argmax(wrong))
        text = str(frame[column].iloc[at])
        written = frame[column][wrong].astype(str).str.strip()
        grouped = written.str.fullmatch(GROUPED + r"([.,]\d+)?").any()
        remedy = "write numbers without thousands separators" if grouped else "mend it"
        raise DataError(
            f"{path}: column '{column}' has {text!r} in row {frame.index[at]} where a number "
            f"should be; {remedy}, or leave the column out"
        )
    infinite = np.isinf(values)
    if infinite.any():
        at = int(np.argmax(infinite))
        raise DataError(
            f"{path}: column '{column}' is infinite in row {frame.index[at]}; "
            "give a finite number, or leave it empty and train with missing set"
        )
    return values


def treat_missing(
    frame: pd.DataFrame, how: str, runs: Iterable[slice], path: Path, *, spare: bool = False
) -> tuple[Floats, NDArray[np.bool_]]:
    """Does what a study asks for about missing values.

    Args:
        frame: (L, F) float64, NaN where missing, indexed by row number.
        how: ``error``, ``interpolate`` (linearly within each run; its ends take the nearest
            value) or ``drop``.
        runs: Stretches that may be interpolated over: one series in one part of the split each,
            and no gap.
        path: The file, for messages.
        spare: Drop a stretch in which nothing can be interpolated, instead of refusing all.

    Returns:
        (L, F) values, and (L,) which rows stay: all but those that are dropped, which keep NaN.

    Raises:
        DataError: ``error``, and a value is missing; or no value is left.
    """
    values: Floats = frame.to_numpy(dtype=np.float64, copy=True)
    absent = np.isnan(values)
    keep: NDArray[np.bool_] = np.ones(len(values), dtype=np.bool_)
    if how == "interpolate":
        for run in runs:
            for column in np.flatnonzero(absent[run].any(axis=0)).tolist():
                if not absent[run, column].all():
                    values[run, column] = interpolate(values[run, column])
                elif spare:
                    keep[run] = False
                else:
                    raise DataError(f"{path}: {_nothing_left(frame.iloc[run, [column]])}")
    elif how == "drop":
        keep = np.logical_not(absent.any(axis=1))
    elif absent.any():
        raise DataError(f"{path}: {_missing_message(frame)}")
    if not keep.any():
        raise DataError(f"{path}: {_no_row_left(frame)}{'' if spare else FEWER}")
    return values, keep


def missing_notes(frame: pd.DataFrame, how: str) -> list[str]:
    """Says in one line what `treat_missing` has done, if anything."""
    rows = int(frame.isna().any(axis=1).sum())
    if not rows:
        return []
    done = "dropped, each leaving a gap"
    if how == "interpolate":
        done = (
            "interpolated within their part, never over a gap; no window ends with one or has one "
            "as its target, because the interpolation looks ahead"
        )
    return [f"{rows} of {len(frame)} rows with missing values were {done}"]


def interpolate(values: Floats) -> Floats:
    """Fills NaN linearly from the neighbours; the ends take the nearest value.

    Args:
        values: (L,), at least one of them no NaN.
    """
    known = np.flatnonzero(~np.isnan(values))
    filled: Floats = np.interp(np.arange(len(values)), known, values[known])
    return filled


def _missing_message(frame: pd.DataFrame) -> str:
    column = next(str(name) for name in frame.columns if frame[name].isna().any())
    rows = frame.index[frame[column].isna()].tolist()
    places = f"row {rows[0]}" if len(rows) == 1 else f"{len(rows)} rows, first in row {rows[0]}"
    return (
        f"column '{column}' has no value in {places}; fill it in, or train with "
        'missing = "interpolate" or missing = "drop" under [data] of the study'
    )


def _nothing_left(frame: pd.DataFrame) -> str:
    return (
        f"column '{frame.columns[0]}' has no value at all in rows {frame.index.min()} to "
        f"{frame.index.max()}, which are one part of the split or lie between two gaps, so that "
        'nothing can be interpolated there; leave the column out, or set missing = "drop"'
    )


FIGURE = r"[-+]?\d[\d.,'\s]*"
DRESSED = rf"[-+]?\s*[$€£¥]\s*{FIGURE}|{FIGURE}\s*[%$€£¥]|{GROUPED}([.,]\d+)?"
"""A number with a sign of money or percent, or with signs between its thousands."""
FEWER = ", or name fewer columns"
"""What a study can do, too, and a model cannot."""


def _no_row_left(frame: pd.DataFrame) -> str:
    empty = frame.columns[frame.isna().all().to_numpy()]
    where = f", all of them in column '{empty[0]}'" if len(empty) else ""
    return f"every row has a missing value{where}; fill some in"


def _is_parquet(content: bytes, path: Path) -> bool:
    return content[:4] == b"PAR1" or path.suffix.lower() in (".parquet", ".pq")


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; check the path") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder; give one CSV or Parquet file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a broken gzip file ({error}); make it again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    if not content:
        raise DataError(f"{path} is empty; it needs a header and rows")
    return content


BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, NotImplementedError)
"""What pandas raises on a Parquet file whose data, or whose notes by pandas itself, are damaged."""


def _read_parquet(content: bytes, path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(io.BytesIO(content))
    except BROKEN as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise DataError(f"{path} is a broken Parquet file ({cause}); write it again") from None
    return _counted(frame, path)


def _counted(frame: pd.DataFrame, path: Path) -> pd.DataFrame:
    index = frame.index
    # A frame that was filtered or sorted keeps an index of numbers without a name: no data.
    nameless = pd.api.types.is_integer_dtype(index) and index.name is None
    counting = isinstance(index, pd.RangeIndex) and index.start in (0, 1) and index.step == 1
    drop = nameless or counting
    twins = [] if drop else [name for at, name in enumerate(index.names) if _twin(frame, at, name)]
    frame = frame.drop(columns=twins).reset_index(drop=drop, allow_duplicates=True)
    frame.columns = pd.Index([str(name) for name in frame.columns])
    if not frame.columns.is_unique:
        twice = frame.columns[frame.columns.duplicated()][0]
        which = f"the index and a column, which differs, are both named '{twice}'"
        which = which if twice in map(str, index.names) else f"two columns are named '{twice}'"
        raise DataError(f"{path}: {which}; rename one")
    frame.index = pd.RangeIndex(1, len(frame) + 1)
    return frame


def _twin(frame: pd.DataFrame, level: int, name: Any) -> bool:
    """Whether a level of the index is a column as well, as ``set_index(drop=False)`` leaves it."""
    if list(frame.columns).count(name) != 1:
        return False
    return bool(frame.index.get_level_values(level).equals(pd.Index(frame[name])))


def _names(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    """Returns names as text; a whole number without a point, however it was stored.

    One of nothing but blanks is missing, as it is in a CSV.
    """
    if isinstance(column.dtype, pd.StringDtype):
        return column.mask((column.fillna("-").str.strip() == "").to_numpy(dtype=np.bool_))
    for row, value in column.items():
        if isinstance(value, NESTED):
            raise DataError(
                f"{path}: column '{column.name}' holds lists in row {row} where a name should be; "
                "name another column"
            )
    present = column.dropna()
    if pd.api.types.is_float_dtype(present) and (present % 1 == 0).all():
        present = present.map(int)
    words = present.map(str).astype("str")
    return words[words.str.strip() != ""].reindex(column.index)


def _decoded(value: bytes) -> str:
    return value.decode("utf-8", "backslashreplace")


def _is_text(column: pd.Series[Any]) -> bool:
    return isinstance(column.dtype, pd.StringDtype) or column.dtype == np.dtype(object)


def _parse(column: pd.Series[Any]) -> tuple[Floats, NDArray[np.bool_]]:
    """Returns (L,) numbers, NaN where missing or no number, and (L,) where it is no number."""
    if pd.api.types.is_numeric_dtype(column):
        values: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values, np.zeros(len(values), dtype=np.bool_)
    if pd.api.types.is_datetime64_any_dtype(column):
        return np.full(len(column), np.nan), column.notna().to_numpy()
    words = column.astype(str).str.strip()
    lower = words.str.lower()
    absent = (column.isna() | lower.isin(MISSING)).to_numpy()
    if (absent | lower.isin(("true", "false")).to_numpy()).all():  # As without a missing one.
        words = lower.map({"true": "1", "false": "0"})
    values = pd.to_numeric(words.mask(absent), errors="coerce").to_numpy(np.float64)
    return values, np.isnan(values) & ~absent
