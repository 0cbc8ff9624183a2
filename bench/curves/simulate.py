"""Replays strategies of searching on the tables of learning curves, and says which are quicker.

    python -m bench.curves.simulate rules           what ends trials early
    python -m bench.curves.simulate epochs          how many epochs a trial is asked for
    python -m bench.curves.simulate starts          what is tried first, left out what it is told on
    python -m bench.curves.simulate samplers        what proposes, on a surrogate of each table
    python -m bench.curves.simulate pruning         the same rules with our sampler, likewise
    python -m bench.curves.simulate lanes           how many trials train at once, likewise

Time is that of two workers, in units of one configuration's 36 epochs on the same data. However
many trials train at once, together they train as much in it as two workers do. A study is
as good as the time in which it finds a loss within 1 or 5 % of the table's best, and as its regret:
where its best loss lies between the table's best (0) and the median configuration's (1), averaged
over moments from 1 unit to the horizon.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from bench.curves import table as tables
from bench.curves.proposers import LESSON, Portfolio, Rows, build_portfolio, cost
from bench.curves.samplers import (
    AtRandom,
    ChildrenOfTheBest,
    MoreAtRandom,
    Sampled,
    VariedTPE,
    WithPoints,
    config_of,
    gaussian,
)
from bench.curves.scores import Score, left_out, show
from bench.curves.simulation import Proposer, Stopper, Trace, simulate
from bench.curves.stoppers import (
    AsInSearch,
    Both,
    Everyone,
    Extrapolation,
    Halving,
    Hyperband,
    Narrowing,
    Patience,
    Percentile,
)
from bench.curves.surrogate import Surrogate
from bench.curves.table import CurveTable
from search.config import StudyConfig
from search.sampling import StudySampler
from search.space import starting_points

Make = Callable[[CurveTable, int], Proposer]
HORIZON = 30.0
MOMENTS = 18
WORKERS = 2
"""Whose time it is."""
LANES = (2, 8, 16, 32, 64, 128)
"""How many trials are tried at once."""
DEFAULT = Both((Patience(8), AsInSearch()))
"""The rules of a study file that says nothing."""


@dataclass(frozen=True)
class Strategy:
    """What proposes and what stops.

    Attributes:
        name: In the printed table.
        proposer: Makes what proposes, for a table and a seed.
        stopper: Ends trials early.
        workers: How many train at a time.
    """

    name: str
    proposer: Make
    stopper: Stopper = DEFAULT
    workers: int = WORKERS


def score(strategy: Strategy, table: CurveTable, seeds: int, horizon: float) -> Score:
    """Runs a strategy's studies on a table."""
    # Of more workers, each takes as much longer for its trials.
    unit = table.full_seconds * WORKERS / strategy.workers
    near, best, regret, trials = [], [], [], []
    for seed in range(seeds):
        trace = simulate(
            strategy.proposer(table, seed),
            strategy.stopper,
            horizon * unit,
            table.best,
            strategy.workers,
        )
        near.append(min(horizon, trace.time_to(table.within(0.05)) / unit))
        best.append(min(horizon, trace.time_to(table.within(0.01)) / unit))
        regret.append(mean_regret(trace, table, horizon, unit))
        trials.append(trace.trials)
    return Score(
        statistics.median(near),
        statistics.median(best),
        statistics.mean(regret),
        statistics.median(trials),
    )


def mean_regret(trace: Trace, table: CurveTable, horizon: float, unit: float) -> float:
    """Returns the regret averaged over time; before the first epoch it is 1."""
    moments = np.geomspace(1.0, horizon, MOMENTS)
    bests = np.asarray([trace.best_at(moment * unit) for moment in moments])
    return float(table.regret(bests).mean())


def compare(
    strategies: Sequence[Strategy], on: Sequence[CurveTable], seeds: int, horizon: float
) -> dict[str, dict[str, Score]]:
    """Returns the scores of all strategies, by their names and the tables'."""
    return {
        one.name: {table.name: score(one, table, seeds, horizon) for table in on}
        for one in strategies
    }


def rules() -> list[Strategy]:
    """Returns pruners and patiences, ours first."""
    made: dict[str, Stopper] = {
        "halving, patience 8 (ours)": DEFAULT,
        "median, patience 8": _with(Percentile()),
        "none": Patience(0),
        "patience 8": Patience(8),
        "patience 4": Patience(4),
        "median, no patience": Percentile(),
        **{f"median, patience {n}": Both((Patience(n), Percentile())) for n in (3, 4, 5, 6, 12)},
        **{f"median after {n}": _with(Percentile(0.5, n)) for n in (0, 2, 3, 5)},
        **{
            f"best {100 * s:.0f} %": _with(Percentile(s)) for s in (0.1, 0.2, 0.25, 0.33, 0.4, 0.67)
        },
        **{f"best 25 % after {n}": _with(Percentile(0.25, n)) for n in (0, 2, 3, 5)},
        "narrowing 50 to 25 %": _with(Narrowing(0.5, 0.25)),
        "narrowing 50 to 10 %": _with(Narrowing(0.5, 0.1)),
        "narrowing 33 to 10 %": _with(Narrowing(0.33, 0.1)),
        "narrowing 33 to 5 %": _with(Narrowing(0.33, 0.05)),
        **{f"halving x{f} from {n}": _with(Halving(f, n)) for f in (2, 3, 4) for n in (1, 2, 4)},
        "hyperband": _with(Hyperband()),
        **{
            f"extrapolated x{m:g} + {s:.0%}": _with(Extrapolation(m, s))
            for m in (1.0, 2.0, 4.0)
            for s in (0.0, 0.1)
        },
        **{
            f"median and extrapolated x{m:g}": _with(Both((Percentile(), Extrapolation(m))))
            for m in (1.0, 2.0, 4.0)
        },
    }
    return [Strategy(name, Rows, stopper) for name, stopper in made.items()]


def _with(rule: Stopper) -> Stopper:
    return Both((Patience(8), rule))


def epochs() -> list[Strategy]:
    """Returns numbers of epochs and orders of trials."""

    def rows(asked: int | None, **more: Any) -> Make:
        return lambda table, seed: Rows(table, seed, epochs=asked, **more)

    made = [Strategy("drawn from 4 to 36 (ours)", Rows)]
    made += [Strategy(f"all {n}", rows(n)) for n in (6, 12, 18, 24, 36)]
    made += [
        Strategy("all 36, best 25 %", rows(36), _with(Percentile(0.25))),
        Strategy("all 36, patience 5", rows(36), Both((Patience(5), Percentile()))),
        Strategy("cheap first of 10", rows(None, key=cost, window=10, ordered=10)),
        Strategy("cheap first of 20", rows(None, key=cost, window=20, ordered=20)),
        Strategy("cheap first of 40", rows(None, key=cost, window=40, ordered=40)),
        Strategy("cheap first of each 20", rows(None, key=cost)),
        Strategy("dear first of 20", rows(None, key=lambda t, r: -cost(t, r), ordered=20)),
    ]
    return made


def chosen_by_others(
    on: Sequence[CurveTable], table: CurveTable, count: int, asked: int, by_cost: bool = False
) -> Portfolio:
    """Returns the portfolio that all tables but this one choose."""
    others = [other for other in on if other.name != table.name]
    return build_portfolio(others, count, asked, by_cost)


def starts(on: Sequence[CurveTable]) -> list[Strategy]:
    """Returns what comes first: the lesson's points, none, or a portfolio that others chose.

    Ours come after the lesson's three and are no rows of a table: `samplers` has them.
    """

    def portfolio(count: int, asked: int, by_cost: bool) -> Make:
        chosen = {
            table.name: chosen_by_others(on, table, count, asked, by_cost).first() for table in on
        }
        return lambda table, seed: Rows(table, seed, chosen[table.name])

    made = [
        Strategy("the lesson's three", Rows),
        Strategy("none", lambda table, seed: Rows(table, seed, ())),
    ]
    for count in (1, 2, 4, 8, 16):
        for asked in (12, 36):
            made.append(Strategy(f"{count} more, {asked} epochs", portfolio(count, asked, False)))
        made.append(Strategy(f"{count} more by cost, 24 epochs", portfolio(count, 24, True)))
    return made


def with_points(on: Sequence[CurveTable], worlds: Mapping[str, Surrogate]) -> Make:
    """Returns what tries first what the other tables chose, four points of 36 epochs."""
    points = {
        table.name: [
            {**table.params[row], "epochs": asked}
            for row, asked in chosen_by_others(on, table, 4, 36).first()[len(LESSON) :]
        ]
        for table in on
    }
    return lambda table, seed: Sampled(
        worlds[table.name], seed, lambda config: WithPoints(config, points[table.name])
    )


def by_gaussian_process(worlds: Mapping[str, Surrogate]) -> Make:
    """Returns Optuna's Gaussian process, after our starting points."""
    points = starting_points(config_of(0).space)
    return lambda table, seed: Sampled(worlds[table.name], seed, gaussian, points)


def samplers(on: Sequence[CurveTable]) -> list[Strategy]:
    """Returns what proposes, on surrogates of the tables.

    A study whose portfolio comes first has the one that the other tables chose.
    """
    worlds = {table.name: Surrogate(table) for table in on}

    def sampled(sampler: Callable[[StudyConfig], BaseSampler], **more: Any) -> Make:
        return lambda table, seed: Sampled(worlds[table.name], seed, sampler, **more)

    def tpe(**options: Any) -> Make:
        return sampled(lambda config: VariedTPE(config, **options))

    made = {
        "ours": sampled(StudySampler),
        "random": sampled(AtRandom),
        "TPE, each alone": tpe(multivariate=False),
        "TPE, no liar": tpe(constant_liar=False),
        "TPE after 5": tpe(n_startup_trials=5),
        "TPE after 20": tpe(n_startup_trials=20),
        "TPE, 96 candidates": tpe(n_ei_candidates=96),
        "TPE, 8 candidates": tpe(n_ei_candidates=8),
        "TPE, a fifth is good": tpe(good=lambda n: min(25, math.ceil(0.2 * n))),
        "TPE, root of n is good": tpe(good=lambda n: math.ceil(0.5 * math.sqrt(n))),
        "10 random after the points": sampled(partial(MoreAtRandom, first=10)),
        "20 random after the points": sampled(partial(MoreAtRandom, first=20)),
        "10 % of all at random": sampled(partial(MoreAtRandom, share=0.1)),
        "20 % of all at random": sampled(partial(MoreAtRandom, share=0.2)),
        "the lesson's points alone": sampled(partial(MoreAtRandom, points=3)),
        "the lesson's points, 10 random": sampled(partial(MoreAtRandom, points=3, first=10)),
        "Gaussian process": by_gaussian_process(worlds),
        "children of the best": sampled(ChildrenOfTheBest),
        "follow-ups": sampled(StudySampler, changes={"follow_advice": True}),
        "asked 4 at a time": sampled(StudySampler, at_once=4),
        "asked 8 at a time": sampled(StudySampler, at_once=8),
        "asked 16 at a time": sampled(StudySampler, at_once=16),
        "4 more points": with_points(on, worlds),
        "epochs 36": sampled(StudySampler, changes={"space": {"epochs": 36}}),
    }
    return [Strategy(name, proposer) for name, proposer in made.items()]


def pruning(on: Sequence[CurveTable]) -> list[Strategy]:
    """Returns rules that end trials, on surrogates of the tables.

    Unlike a random row, a proposal depends on what the rule let live before it.
    """
    worlds = {table.name: Surrogate(table) for table in on}
    made: dict[str, Stopper] = {
        "median": _with(Percentile()),
        "third at 2, 6, 18 (ours)": DEFAULT,
        "none": Patience(8),
        **{f"best {100 * s:.0f} %": _with(Percentile(s)) for s in (0.6, 0.67, 0.75, 0.8)},
        "median at 2, 4, 8, 16": _with(Percentile(only=(2, 4, 8, 16))),
        "best 67 % at 2, 4, 8, 16": _with(Percentile(0.67, only=(2, 4, 8, 16))),
        "third at 3, 9, 27": _with(Percentile(0.33, only=(3, 9, 27))),
        "half at 2, 6, 18": _with(Percentile(0.5, only=(2, 6, 18))),
        "half at 3, 6, 12, 24": _with(Percentile(0.5, only=(3, 6, 12, 24))),
        "fifth at 3, 12": _with(Percentile(0.2, only=(3, 12))),
        "fifth at 4, 16": _with(Percentile(0.2, only=(4, 16))),
        **{f"best {100 * s:.0f} % of all": _with(Everyone(s)) for s in (0.5, 0.33, 0.2, 0.1)},
        "best 20 % of all after 2": _with(Everyone(0.2, 2)),
        "best 20 % of all after 3": _with(Everyone(0.2, 3)),
    }
    return [
        Strategy(name, lambda t, seed: Sampled(worlds[t.name], seed, StudySampler), stopper)
        for name, stopper in made.items()
    ]


def lanes(on: Sequence[CurveTable]) -> list[Strategy]:
    """Returns numbers of trials that train at once, the more the slower each of them."""
    worlds = {table.name: Surrogate(table) for table in on}

    def proposer(table: CurveTable, seed: int) -> Proposer:
        return Sampled(worlds[table.name], seed, StudySampler)

    return [Strategy(f"{count} at once", proposer, workers=count) for count in LANES]


COMPARISONS: dict[str, Callable[[Sequence[CurveTable]], list[Strategy]]] = {
    "rules": lambda _: rules(),
    "epochs": lambda _: epochs(),
    "starts": starts,
    "samplers": samplers,
    "pruning": pruning,
    "lanes": lanes,
}


def main() -> None:
    """Reads the command line and prints one comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(COMPARISONS))
    parser.add_argument("--tables", type=Path, default=tables.FOLDER)
    parser.add_argument("--on", nargs="+", help="names of tables; left out: all of them")
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--horizon", type=float, default=HORIZON, help="in units of time")
    parser.add_argument("--only", nargs="+", help="strategies whose names hold one of these")
    args = parser.parse_args()
    on = [tables.load(name, args.tables) for name in args.on or tables.names(args.tables)]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    strategies = COMPARISONS[args.what](on)
    if args.only:
        strategies = [one for one in strategies if any(part in one.name for part in args.only)]
    scores = compare(strategies, on, args.seeds, args.horizon)
    show(scores)
    left_out(scores)


if __name__ == "__main__":
    main()
