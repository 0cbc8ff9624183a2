"""What ``rnn-search predict`` prints or writes: a table, figures, or text."""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pandas as pd

from search.errors import RequestError, RunError
from search.prediction import Classifier, Forecaster, LanguageModel, load
from search.recurrent import compile_first
from search.whole_files import written_whole

TABLES = (".csv", ".parquet", ".pq")


def answer(
    folder: Path,
    source: Path,
    *,
    out: Path | None = None,
    as_json: bool = False,
    length: int | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    trust_code: bool = False,
) -> str:
    """Predicts from a file, see `search.prediction`.

    Args:
        folder: Of the model.
        source: The file.
        out: Where the answer goes; None: it is returned.
        as_json: Return it as JSON.
        length: Continue a text by so many characters.
        temperature: See `LanguageModel.generate`.
        seed: Decides what is drawn.
        trust_code: See `search.prediction.load`.

    Returns:
        What is to be printed; empty if it went to ``out``.

    Raises:
        SearchError: Something does not fit together, or a file cannot be used; one line.
    """
    _require_place(out, source, as_json)
    model = _load(folder, trust_code)
    drawn = {temperature, seed} != {None}
    if isinstance(model, LanguageModel):
        if length is None and drawn:
            raise RequestError("--temperature and --seed are for text that --length N continues")
        return _text_answer(model, source, out, as_json, length, temperature, seed)
    if length is not None or drawn:
        other = f"{folder} holds a model of the task {model.card.data.task}"
        raise RequestError(f"--length, --temperature and --seed continue a text, and {other}")
    return _table_answer(model, source, out, as_json)


def _load(folder: Path, trust_code: bool) -> Forecaster | Classifier | LanguageModel:
    compile_first(lambda line: print(f"note: {line}", file=sys.stderr))
    with _noting():
        return load(folder, trust_code=trust_code)


@contextmanager
def _noting() -> Iterator[None]:
    """Sends to standard error what a person should know of a model, or of data beside it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    for warning in caught:
        print(f"note: {warning.message}", file=sys.stderr)


def _require_place(out: Path | None, source: Path, as_json: bool) -> None:
    if out is None:
        return
    if as_json:
        raise RequestError("--json prints and --out writes a file; give one of them")
    if not out.parent.is_dir():
        raise RequestError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise RequestError(f"--out {out} is a folder; give a file")
    if out.exists() and source.exists() and out.samefile(source):
        raise RequestError(f"--out {out} is what is to be read; give another file")


def _table_answer(
    model: Forecaster | Classifier, source: Path, out: Path | None, as_json: bool
) -> str:
    if out is not None and out.suffix.lower() not in TABLES:
        raise RequestError(f"--out {out}: the name must end in {', '.join(TABLES)}")
    with _noting():
        table = model.predict(source)
    if out is not None:
        _write(out, lambda part: _save(table, part, out.suffix.lower()))
        return ""
    if as_json:
        return _as_json(table) + "\n"
    return table.to_csv(index=False, lineterminator="\n")


def _as_json(table: pd.DataFrame) -> str:
    """Returns one object a row, whose numbers read back as the same bits, and NaN as null."""
    times = table.select_dtypes(["datetime", "datetimetz"])
    fine = any((times[name].dt.microsecond % 1000 != 0).any() for name in times)
    unit: Literal["us", "ms"] = "us" if fine else "ms"
    records = json.loads(table.to_json(orient="records", date_format="iso", date_unit=unit))
    # pandas itself rounds to 15 decimals at most.
    for name in table.select_dtypes("float"):
        for record, value in zip(records, table[name].tolist(), strict=True):
            record[name] = value if math.isfinite(value) else None
    return json.dumps(records, separators=(",", ":"))


def _text_answer(
    model: LanguageModel,
    source: Path,
    out: Path | None,
    as_json: bool,
    length: int | None,
    temperature: float | None,
    seed: int | None,
) -> str:
    if length is None:
        with _noting():
            figures = model.predict(source)
        plain = "".join(f"{name} {value:.6g}\n" for name, value in figures.items())
        said = json.dumps(figures) + "\n" if as_json else plain
    else:
        heat = 1.0 if temperature is None else temperature
        with _noting():
            text = model.generate(source, length, heat, seed or 0)
        said = json.dumps({"text": text}) if as_json else text
        said = said if out is not None else said + "\n"
    if out is None:
        return said
    _write(out, lambda part: part.write_text(said, encoding="utf-8"))
    return ""


def _save(table: pd.DataFrame, path: Path, kind: str) -> None:
    if kind == ".csv":
        table.to_csv(path, index=False, lineterminator="\n")
    else:
        table.to_parquet(path, index=False)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        with written_whole(path) as part:
            write(part)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror or error}") from None
