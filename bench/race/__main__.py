"""The command line of the race.

python -m bench.race short            two data sets, one seed, 45 s: about a quarter of an hour
python -m bench.race long             all of it, 180 s each; goes on where it was stopped, and has
                                      nothing to do where the store has all: --store NEW races anew
python -m bench.race tables           what is in the store, as Markdown and pictures
python -m bench.race throughput       trials a second on a fixed list, and what is not training
python -m bench.race evaluated        what comes of ours when `evaluate` chooses the winner
python -m bench.race landscape        which data sets can decide anything
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.data_sets import ALL_SETS, DATA_SETS
from bench.race.contestants import CONTESTANTS
from bench.race.prepare import prepare
from bench.race.runner import CORES, RaceError, run_race
from bench.race.store import Key, Store
from search.processes import SIGNALS

HERE = Path(__file__).resolve().parent
RESULTS, PICTURES = HERE / "results", HERE / "pictures"
SETS = ("sunspots", "elnino", "vowels", "shakespeare")
"""Chosen by `landscape`, see RESULTS.md."""
SHORT_SETS = ("sunspots", "vowels")


def keys(sets: Sequence[str], names: Sequence[str], seeds: int, seconds: float) -> list[Key]:
    """Returns all races, interleaved: each seed on every data set, each by everybody in turn.

    Who begins changes with the seed, so that nobody always races on a machine that is warm.
    """
    found = []
    for seed in range(seeds):
        turn = seed % max(1, len(names))
        for data in sets:
            found += [Key(data, name, seed, seconds) for name in [*names[turn:], *names[:turn]]]
    return found


def race(wanted: Sequence[Key], store: Store, folder: Path, calm: float) -> list[str]:
    """Runs the races that the store has not, and returns a line for each that cannot be run.

    Args:
        wanted: All races.
        store: Where results go.
        folder: For the data.
        calm: A race is not kept if others took more than this share of the cores; 1: keep all.
    """
    complaints: dict[str, None] = {}
    left = store.missing(wanted)
    if not left:
        print(f"nothing left to race: {len(wanted)} races are in {store.folder}; --store NEW")
    for place, key in enumerate(left, start=1):
        contestant, task = CONTESTANTS[key.contestant], ALL_SETS[key.data].task
        obstacle = contestant.obstacle(task)
        if obstacle is not None:
            complaints[f"{key.contestant} has not run on {key.data}: {obstacle}"] = None
            continue
        print(
            f"{place}/{len(left)} {key.data}, {key.contestant}, seed {key.seed}", end="", flush=True
        )
        try:
            result = run_race(contestant, prepare(key.data, folder), key)
        except RaceError as error:
            print(": failed", flush=True)
            complaints[str(error)] = None
            continue
        best = result.improvements[-1][1] if result.improvements else float("nan")
        print(f": {best:.4g}, {result.trials} trials, others {result.others:.0%}", flush=True)
        if result.others <= calm:
            store.add(result)
        else:
            complaints[f"{key.file} was disturbed and not kept"] = None
    return list(complaints)


def show(stores: Sequence[Store], seconds: float) -> None:
    """Prints the tables of races of one length."""
    from bench.race.tables import all_tables

    results = [one for store in stores for one in store.results(seconds)]
    if not results:
        folders = ", ".join(str(store.folder) for store in stores)
        sys.exit(f"no race of {seconds:g} s in {folders}; run some")
    print(all_tables(results, seconds))


def draw_all(store: Store, seconds: float) -> None:
    """Draws the pictures of races of one length and prints how a page shows them."""
    from bench.race.picture import draw
    from bench.race.tables import grouped

    for data, by_contestant in grouped(store.results(seconds)).items():
        # Those of another store are not what RESULTS.md shows.
        pictures = PICTURES if store.folder.resolve() == RESULTS else store.folder / "pictures"
        pictures.mkdir(parents=True, exist_ok=True)
        path = pictures / f"{data}.png"
        draw(data, by_contestant, seconds, path)
        print(f"\n![{data}]({os.path.relpath(path, HERE.parent)})")


def show_landscape(folder: Path, sets: Sequence[str], count: int) -> None:
    """Prints a line for each data set."""
    from bench.race.landscape import measure

    print("| | best | quartile / best | median / best | quartile / best | s a trial |")
    print("|---|--:|--:|--:|--:|--:|")
    for name in sets:
        found = measure(name, folder, count)
        parts = (f"{found[key]:.2f}" for key in ("low", "middle", "high", "seconds"))
        print(f"| {name} | {found['best']:.4g} | {' | '.join(parts)} |", flush=True)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = ("short", "long", "tables", "throughput", "loops", "evaluated", "landscape")
    parser.add_argument("verb", choices=verbs)
    parser.add_argument("--sets", nargs="+", choices=ALL_SETS, help="data sets")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=[*CONTESTANTS])
    parser.add_argument("--seeds", type=int, help="how many (long: 5, else 1)")
    parser.add_argument("--seconds", type=float, help="of a race (long: 180, short: 45)")
    parser.add_argument(
        "--store",
        nargs="+",
        type=Path,
        default=[RESULTS],
        help="folder of results; tables: also several, as of one race",
    )
    parser.add_argument(
        "--count", type=int, default=20, help="throughput, landscape: trials; loops: turns"
    )
    parser.add_argument(
        "--params", type=json.loads, default={}, help='throughput: {"epochs": 36}, in every trial'
    )
    parser.add_argument("--calm", type=float, default=1.0, help="long: others' largest share")
    args = parser.parse_args()
    if (os.cpu_count() or 1) < CORES:
        sys.exit(f"a race takes {CORES} cores")
    for number in SIGNALS:  # A shell that starts it in the background has Ctrl-C ignored.
        signal.signal(number, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="race-data-") as folder:
        _run(args, Path(folder))


def _run(args: argparse.Namespace, folder: Path) -> None:
    short = args.verb == "short"
    sets = args.sets or (SHORT_SETS if short else SETS)
    seconds = args.seconds or (45.0 if short else 180.0)
    stores = [Store(folder) for folder in args.store]
    if args.verb == "tables":
        show(stores, seconds)
        for store in stores:
            draw_all(store, seconds)
    elif args.verb == "landscape":
        show_landscape(folder, args.sets or list(DATA_SETS), args.count)
    elif args.verb == "loops":
        from bench.race.loops import show_loops

        show_loops(folder, sets, args.count)
    elif args.verb == "evaluated":
        from bench.race.evaluated import show_evaluated

        show_evaluated(folder, sets, args.seeds or 1, seconds)
    elif args.verb == "throughput":
        from bench.race.throughput import show_throughput

        show_throughput(folder, sets, args.count, args.params)
    else:
        if len(stores) > 1:
            sys.exit("a race is written to one folder: --store takes several for tables alone")
        store = Store(folder / "short") if short else stores[0]
        wanted = keys(sets, args.contestants, args.seeds or (1 if short else 5), seconds)
        complaints = race(wanted, store, folder, args.calm)
        if store.results(seconds):
            show([store], seconds)
        print(*complaints, sep="\n")


if __name__ == "__main__":
    main()
