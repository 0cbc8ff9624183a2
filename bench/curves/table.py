"""A table of learning curves on one data set: written from finished lines, and read again.

The same configuration has the same row in every table. Arrays of N configurations and E epochs;
where a training ended before its last epoch, what is missing is NaN.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.diagnosis import ADVICE

FOLDER = Path(__file__).parent / "tables"
EPOCHS = 36
FINDINGS = tuple(ADVICE)
"""What the stored numbers of findings mean; -1 is none."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurveTable:
    """What random configurations came to on one data set.

    Attributes:
        name: The data set's.
        params: Hyperparameters of each row, without ``epochs``.
        valid: (N, E) validation loss after each epoch.
        train: (N, E) mean training loss of each epoch.
        seconds: (N, E) processor time of each epoch, that of one cut short by its end included.
        findings: (N, E) index in `FINDINGS` of what `search.diagnosis` says after each epoch.
        diverged: (N,) epochs after which the rule of divergence ends the training; NaN: never.
    """

    name: str
    params: tuple[dict[str, Any], ...]
    valid: Floats
    train: Floats
    seconds: Floats
    findings: NDArray[np.int8]
    diverged: Floats

    def __len__(self) -> int:
        return len(self.params)

    @cached_property
    def reached(self) -> Floats:
        """(N, E) lowest loss of the epochs so far; infinite where there is none."""
        lowest: Floats = np.fmin.accumulate(np.where(np.isnan(self.valid), np.inf, self.valid), 1)
        return lowest

    @cached_property
    def allowed(self) -> Floats:
        """(N,) lowest loss before the rule of divergence ends the training."""
        whole = np.floor(np.where(np.isnan(self.diverged), EPOCHS, self.diverged)).astype(int)
        rows = np.arange(len(self))
        return np.where(whole > 0, self.reached[rows, np.maximum(whole, 1) - 1], np.inf)

    @property
    def best(self) -> float:
        """The lowest loss that a search can find in the table."""
        return float(self.allowed.min())

    @cached_property
    def median(self) -> float:
        """The median configuration's lowest loss."""
        return float(np.median(self.allowed))

    def within(self, share: float) -> float:
        """Returns the loss that is so near the best, as a share of it.

        Where the best is next to nothing, a share of it has no meaning: a share of a tenth of the
        median configuration's loss is as near.
        """
        return self.best + share * max(self.best, self.median / 10)

    def regret(self, loss: Floats | float) -> Floats:
        """Returns where a loss is between the best (0) and the median (1), by its logarithm.

        A hundredth of the median's is added to each, so that a solved task has an end.
        """
        floor = self.median / 100
        scale = np.log((self.median + floor) / (self.best + floor))
        place: Floats = np.clip(np.log((loss + floor) / (self.best + floor)) / scale, 0.0, 1.0)
        return place

    @cached_property
    def full_seconds(self) -> float:
        """Mean time of a configuration that trains to its last epoch."""
        whole = ~np.isnan(self.valid[:, -1])
        return float(self.seconds[whole].sum(axis=1).mean())

    def first(self, count: int) -> CurveTable:
        """Returns the table of the first rows."""
        return CurveTable(
            self.name,
            self.params[:count],
            self.valid[:count],
            self.train[:count],
            self.seconds[:count],
            self.findings[:count],
            self.diverged[:count],
        )


def pack(lines: Path, table: Path) -> None:
    """Writes the finished configurations, up to the first that is missing, as a table.

    Args:
        lines: What `bench.curves.train` has written, one JSON object a line.
        table: The file to write, .npz without pickles.
    """
    records = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    by_number = {record["number"]: record for record in records}
    rows: list[dict[str, Any]] = []
    while len(rows) in by_number:
        rows.append(by_number[len(rows)])
    if not rows:
        return
    columns: dict[str, Any] = {
        f"param_{name}": np.asarray([row["params"][name] for row in rows])
        for name in rows[0]["params"]
        if name != "epochs"
    }
    table.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        table,
        valid=_padded([row["valid"] for row in rows]),
        train=_padded([row["train"] for row in rows]),
        seconds=_padded([row["seconds"] for row in rows]),
        findings=_findings([row["findings"] for row in rows]),
        diverged=np.asarray([_end(row) for row in rows], dtype=np.float32),
        cut=np.asarray([row["cut"] for row in rows]),
        **columns,
    )


def load(name: str, folder: Path = FOLDER) -> CurveTable:
    """Reads a table.

    Raises:
        FileNotFoundError: There is none of this name.
    """
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        columns = {key.removeprefix("param_"): file[key] for key in file if "param_" in key}
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        params = tuple(dict(zip(columns, row, strict=True)) for row in values)
        return CurveTable(
            name,
            params,
            valid=file["valid"].astype(np.float64),
            train=file["train"].astype(np.float64),
            seconds=file["seconds"].astype(np.float64),
            findings=file["findings"],
            diverged=file["diverged"].astype(np.float64),
        )


def unpack(table: Path, lines: Path) -> None:
    """Writes a table's rows as finished lines, so that more can be added to them."""
    made = load(table.stem, table.parent)
    with np.load(table, allow_pickle=False) as file:
        cut = file["cut"].tolist()
    with lines.open("w", encoding="utf-8") as out:
        for row, params in enumerate(made.params):
            count = int(np.isfinite(made.valid[row]).sum())
            spent = int(np.isfinite(made.seconds[row]).sum())
            until = float(made.diverged[row])
            record = {
                "number": row,
                "params": {**params, "epochs": EPOCHS},
                "outcome": "complete" if count == EPOCHS else "diverged",
                "diverged": None if np.isnan(until) else until,
                "cut": cut[row],
                "valid": made.valid[row, :count].tolist(),
                "train": made.train[row, :count].tolist(),
                "seconds": made.seconds[row, :spent].tolist(),
                "findings": [FINDINGS[index] for index in made.findings[row, :count]],
            }
            out.write(json.dumps(record) + "\n")


def names(folder: Path = FOLDER) -> list[str]:
    """Returns the names of all tables."""
    return sorted(path.stem for path in folder.glob("*.npz"))


def _end(row: dict[str, Any]) -> float:
    """Returns after how many epochs a search would have ended the training as diverged."""
    if row["diverged"] is not None:
        return float(row["diverged"])
    return float("nan") if row["outcome"] == "complete" else float(len(row["valid"]))


def _padded(rows: Sequence[Sequence[float]]) -> NDArray[np.float32]:
    array = np.full((len(rows), EPOCHS), np.nan, dtype=np.float32)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array


def _findings(rows: Sequence[Sequence[str]]) -> NDArray[np.int8]:
    array = np.full((len(rows), EPOCHS), -1, dtype=np.int8)
    for index, row in enumerate(rows):
        array[index, : len(row)] = [FINDINGS.index(name) for name in row]
    return array
