"""Data sets that strategies and tools are compared on: small, quick, and far from all solved.

Most are files that packages carry, cut short; two are made from a seed. The pruner was chosen on
all but fading together, starting points on CO2, vowels, recall and help, thresholds of findings on
sunspots, vowels and shakespeare (`studies/LOG.md`). `HELD_OUT` has chosen nothing and must not: it
is what defaults are judged on.
`write` puts the file that a study reads into a folder, `config_of` returns a study on it, so that
any tool can read the same.

    python -m bench.data_sets FOLDER      writes each set and its study file, FOLDER/NAME.toml
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from search.config import StudyConfig, make_config
from search.data import load_splits
from search.data.splits import Splits
from search.space import fit_to_data


@dataclass(frozen=True)
class DataSet:
    """One data set and how a study reads it.

    Attributes:
        task: ``forecast``, ``classify`` or ``language``.
        about: What it is and where it comes from.
        settings: Keys of ``[data]``, the source among them if it is an example.
        file: Name of the file that `content` is written to; None: it is an example.
        content: Returns the file's text.
    """

    task: str
    about: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    file: str | None = None
    content: Callable[[], str] = str


def carried(package: str, path: str) -> str:
    """Returns the text of a file that an installed package carries, without importing it."""
    spec = find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise SystemExit(f'{package} is not installed; pip install "rnn-search[examples]"')
    return (Path(folders[0]) / path).read_text(encoding="utf-8")


def _co2() -> str:
    """Returns the means of four weeks, the few missing weeks left out of them."""
    rows = [line.split(",") for line in carried("statsmodels", "datasets/co2/co2.csv").split()]
    weeks = [float(value) if value else np.nan for _, value in rows[1:]]
    months = np.asarray(weeks[: len(weeks) // 4 * 4]).reshape(-1, 4)
    known = np.isfinite(months)
    sums = np.where(known, months, 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    lines = [
        f"{index},{total / count:.3f}" if count else f"{index},"
        for index, (total, count) in enumerate(zip(sums, counts, strict=True))
    ][:215]
    return "\n".join(["month,co2", *lines, ""])


def _elnino() -> str:
    """Returns the monthly temperatures of the sea, one row a month."""
    lines = carried("statsmodels", "datasets/elnino/elnino.csv").splitlines()[1:]
    values = [value for line in lines for value in line.split(",")[1:]][:215]
    rows = [f"{index},{value}" for index, value in enumerate(values)]
    return "\n".join(["month,temperature", *rows, ""])


def _fading(rows: int = 260) -> str:
    """Returns two waves and noise that die down: a validation part far easier than training."""
    random = np.random.default_rng(0)
    times = np.arange(rows)
    waves = np.sin(times / 4) + 0.4 * np.sin(times / 1.7) + random.normal(0.0, 0.3, rows)
    values = waves * np.exp(-times / 120)
    lines = [f"{time},{value:.5f}" for time, value in zip(times, values, strict=True)]
    return "\n".join(["time,value", *lines, ""])


def _power() -> str:
    """Returns the first 240 days of the test file, of which a share becomes the test part."""
    path = "datasets/data/ItalyPowerDemand/ItalyPowerDemand_TEST.ts"
    lines = carried("sktime", path).splitlines(keepends=True)
    start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data") + 1
    return "".join(lines[: start + 240])


def _recall(count: int = 240, steps: int = 14) -> str:
    """Returns series of noise whose class is what the first two steps say: a task of memory.

    The first two steps are each 1 or -1 on the first channel, which makes four classes; then
    noise. The second channel is 1 where it counts.
    """
    random = np.random.default_rng(0)
    lines = [
        "@problemName recall",
        "@timeStamps false",
        "@univariate false",
        "@dimensions 2",
        "@equalLength true",
        f"@seriesLength {steps}",
        "@classLabel true 0 1 2 3",
        "@data",
    ]
    for bits in random.integers(0, 2, (count, 2)):
        values = random.normal(0.0, 1.0, steps)
        values[:2] = 2 * bits - 1
        marks = ["1", "1", *["0"] * (steps - 2)]
        channel = ",".join(f"{value:.4f}" for value in values)
        lines.append(f"{channel}:{','.join(marks)}:{2 * bits[0] + bits[1]}")
    return "\n".join([*lines, ""])


def _help() -> str:
    """Returns the start of Python's language help, reference text of a dry kind."""
    from pydoc_data import topics

    return "\n".join(topics.topics[name] for name in sorted(topics.topics))[:4_200]


def _equipment() -> str:
    """Returns the monthly index of what makers of electrical equipment turned over."""
    lines = carried("statsmodels", "datasets/elec_equip/elec_equip.csv").split()[1:]
    rows = [f"{index},{line.split(',')[1]}" for index, line in enumerate(lines)]
    return "\n".join(["month,turnover", *rows, ""])


def _motions() -> str:
    """Returns both parts of the recordings, every second step of each: 50 steps rather than 100."""
    rows: list[str] = []
    for part in ("TRAIN", "TEST"):
        lines = carried("sktime", f"datasets/data/BasicMotions/BasicMotions_{part}.ts").split("\n")
        start = next(i for i, line in enumerate(lines) if line.strip().lower() == "@data")
        for line in filter(None, map(str.strip, lines[start + 1 :])):
            *channels, label = line.split(":")
            rows.append(":".join([*(",".join(c.split(",")[::2]) for c in channels), label]))
    head = [line.strip() for line in lines[:start] if line.startswith("@")]
    head = [line for line in head if not line.lower().startswith("@serieslength")]
    return "\n".join([*head, "@seriesLength 50", "@data", *rows, ""])


def _newsgroups() -> str:
    """Returns the start of what scikit-learn says of newsgroups, with code and tables in it."""
    return carried("sklearn", "datasets/descr/twenty_newsgroups.rst")[:4_200]


TEXT = {"sequence_length": 24, "split": (0.8, 0.1, 0.1)}

DATA_SETS: Mapping[str, DataSet] = {
    "sunspots": DataSet("forecast", "yearly sunspot numbers", {"source": "example:sunspots"}),
    "co2": DataSet(
        "forecast",
        "CO2 of Mauna Loa, means of 4 weeks, a quarter ahead (statsmodels)",
        {"target": "co2", "time": "month", "window": 13, "horizon": 3, "missing": "interpolate"},
        "co2.csv",
        _co2,
    ),
    "elnino": DataSet(
        "forecast",
        "monthly temperatures of the Pacific, half a year ahead (statsmodels)",
        {"target": "temperature", "time": "month", "window": 12, "horizon": 6},
        "elnino.csv",
        _elnino,
    ),
    "fading": DataSet(
        "forecast",
        "a wave that dies down, two steps ahead, made from a seed",
        {"target": "value", "time": "time", "window": 16, "horizon": 2},
        "fading.csv",
        _fading,
    ),
    "vowels": DataSet(
        "classify",
        "two vowels spoken by 9 men",
        {"source": "example:japanese-vowels", "valid": 0.5},
    ),
    "power": DataSet(
        "classify",
        "days of Italy's power demand, winter or summer (sktime)",
        {},
        "power.ts",
        _power,
    ),
    "recall": DataSet(
        "classify",
        "what the first two of 14 steps said, made from a seed",
        {},
        "recall.ts",
        _recall,
    ),
    "shakespeare": DataSet(
        "language",
        "the first 4 200 characters of Shakespeare's plays",
        {"source": "example:shakespeare", "characters": 4_200, **TEXT},
    ),
    "help": DataSet("language", "4 200 characters of Python's help", TEXT, "help.txt", _help),
}

HELD_OUT: Mapping[str, DataSet] = {
    "equipment": DataSet(
        "forecast",
        "monthly turnover of electrical equipment, a quarter ahead (statsmodels)",
        {"target": "turnover", "time": "month", "window": 12, "horizon": 3},
        "equipment.csv",
        _equipment,
    ),
    "motions": DataSet(
        "classify",
        "what a wrist moves like, at rest and in three sports, 80 series of 6 channels (sktime)",
        {"valid": 0.3, "test": 0.2},
        "motions.ts",
        _motions,
    ),
    "newsgroups": DataSet(
        "language", "4 200 characters of scikit-learn's guide", TEXT, "newsgroups.txt", _newsgroups
    ),
}
"""Sets for judging alone: nothing may be chosen on them, whatever they show."""

ALL_SETS: Mapping[str, DataSet] = {**DATA_SETS, **HELD_OUT}


def write(name: str, folder: Path) -> dict[str, Any]:
    """Writes a set's file, if it has one, and returns the ``[data]`` of a study on it."""
    chosen = ALL_SETS[name]
    data: dict[str, Any] = {"task": chosen.task, **chosen.settings}
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.file is not None:
        path = folder / chosen.file
        path.write_text(chosen.content(), encoding="utf-8")
        data["path"] = str(path.resolve())
    return data


def config_of(name: str, folder: Path, **changes: Any) -> tuple[StudyConfig, Splits]:
    """Returns a study on a set, its space limited to the data as a run does it, and the data.

    Args:
        name: A key of `ALL_SETS`.
        folder: Where its file is written.
        changes: Tables and keys of the study file besides ``[data]``.
    """
    config = make_config({"name": name, "data": write(name, folder), **changes}, name)
    splits = load_splits(config.data)
    return fit_to_data(config, splits.train.size)[0], splits


def main() -> None:
    """Writes all sets and their study files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name in ALL_SETS:
        study = {"name": name, "data": write(name, folder)}
        (folder / f"{name}.toml").write_text(tomli_w.dumps(study), encoding="utf-8")


if __name__ == "__main__":
    main()
