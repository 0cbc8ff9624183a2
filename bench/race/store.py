"""The results: one JSON file for each race, written when it is over, never run again.

A race is one contestant on one data set with one seed for so many seconds. What is interrupted
leaves nothing, so the long form can be made over several days.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Key:
    """Which race.

    Attributes:
        data: Name of the data set.
        contestant: Its name.
        seed: The contestant's.
        seconds: How long it is, from the start of the process.
    """

    data: str
    contestant: str
    seed: int
    seconds: float

    @property
    def file(self) -> str:
        """The file's name."""
        return f"{self.data}-{self.contestant}-{self.seconds:g}s-{self.seed}.json"


@dataclass(frozen=True)
class Result:
    """What came of a race.

    Attributes:
        key: Which one.
        improvements: Seconds since the process was started, and validation loss, each better than
            the one before.
        trials: How many trials ended in time.
        params: The winner's hyperparameters; None: nothing ended in time.
        retrained: Losses of the winner trained again by the contestant's own recipe, other seeds.
        others: Share of the cores' time that other processes took meanwhile.
        surroundings: Versions, machine and date.
    """

    key: Key
    improvements: tuple[tuple[float, float], ...]
    trials: int
    params: Mapping[str, Any] | None
    retrained: tuple[float, ...]
    others: float
    surroundings: Mapping[str, str] = field(default_factory=dict)


class Store:
    """A folder of results.

    Args:
        folder: Is made when the first result is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, key: Key) -> bool:
        """True if this race has been run."""
        return (self.folder / key.file).exists()

    def missing(self, keys: Iterable[Key]) -> list[Key]:
        """Returns the races that have not been run, in their order."""
        return [key for key in keys if not self.has(key)]

    def add(self, result: Result) -> None:
        """Writes a result, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / result.key.file
        begun = path.with_suffix(".part")
        begun.write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
        begun.replace(path)

    def results(self, seconds: float | None = None) -> list[Result]:
        """Returns all results, or those of races of one length, by file name."""
        found = [_read(path) for path in sorted(self.folder.glob("*.json"))]
        return [one for one in found if seconds is None or one.key.seconds == seconds]


def _read(path: Path) -> Result:
    written = json.loads(path.read_text(encoding="utf-8"))
    return Result(
        **{
            **written,
            "key": Key(**written["key"]),
            "improvements": tuple((at, loss) for at, loss in written["improvements"]),
            "retrained": tuple(written["retrained"]),
        }
    )
