"""Results → tables in Markdown: losses at moments, the goals, claims and retrainings."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence

from bench.race.contestants import CONTESTANTS
from bench.race.progress import (
    Improvements,
    best_at,
    ever_ahead,
    half_in_time,
    last_behind,
    moments,
    quartiles,
    ratios,
    times_to_final,
)
from bench.race.store import Result

AFTER = 20.0
"""Seconds from which on nobody is to be ahead of ours."""
MOMENTS = (10.0, 20.0, 60.0, 180.0)
OURS = "ours"
NONE = "-"
Grouped = dict[str, dict[str, list[Result]]]
"""By data set and contestant."""


def grouped(results: Iterable[Result]) -> Grouped:
    """Returns results by data set and contestant, in the order of `CONTESTANTS`."""
    found: Grouped = defaultdict(dict)
    rank = {name: at for at, name in enumerate(CONTESTANTS)}
    for one in sorted(results, key=lambda one: (one.key.data, rank[one.key.contestant])):
        found[one.key.data].setdefault(one.key.contestant, []).append(one)
    return dict(found)


def curves(results: Iterable[Result]) -> list[Improvements]:
    """Returns their best losses so far."""
    return [one.improvements for one in results]


def loss_table(by_contestant: dict[str, list[Result]], seconds: float) -> str:
    """Returns one data set's table: median (quartiles) of the best loss at some moments.

    ``worst`` is the largest of the last.
    """
    moments = [moment for moment in MOMENTS if moment < seconds] + [seconds]
    rows = [["", "seeds", *(f"{moment:g} s" for moment in moments), "worst", "trials", "others, %"]]
    for name, results in by_contestant.items():
        shown = [
            _spread([best_at(one.improvements, moment) for one in results]) for moment in moments
        ]
        trials = quartiles([one.trials for one in results])[1]
        worst = _number(max(best_at(one.improvements, seconds) for one in results))
        others = _spread([100 * one.others for one in results])
        rows.append([name, str(len(results)), *shown, worst, f"{trials:g}", others])
    return _table(rows)


def claim_table(by_contestant: dict[str, list[Result]]) -> str:
    """Returns one data set's table of what winners claimed and came to with other seeds."""
    rows = [["", "claimed", "retrained", "retrained / claimed"]]
    for name, results in by_contestant.items():
        found = [one for one in results if one.improvements and one.retrained]
        if not found:
            rows.append([name, NONE, NONE, NONE])
            continue
        claimed = [one.improvements[-1][1] for one in found]
        again = [quartiles(one.retrained)[1] for one in found]
        ratio = [new / old for old, new in zip(claimed, again, strict=True)]
        rows.append([name, *(_spread(values) for values in (claimed, again, ratio))])
    return _table(rows)


def goal_table(all_results: Grouped, seconds: float) -> str:
    """Returns when ours has what others have at the end, for each data set and over all.

    Over all data sets it is the median of their medians.
    """
    others = [name for name in CONTESTANTS if name != OURS]
    rows = [["ours reaches the last loss of", *all_results, "median"]]
    behind = [["ours was last behind", *all_results, "latest"]]
    for name in others:
        times, last = [], []
        for by_contestant in all_results.values():
            if name in by_contestant and OURS in by_contestant:
                mine, theirs = curves(by_contestant[OURS]), curves(by_contestant[name])
                times.append(quartiles(times_to_final(mine, theirs))[1])
                last.append(last_behind(mine, theirs, seconds))
            else:
                times.append(math.nan)
                last.append(math.nan)
        raced = [value for value in times if not math.isnan(value)]
        if raced:
            latest = max(value for value in last if not math.isnan(value))
            rows.append([name, *map(_seconds, times), _seconds(quartiles(raced)[1])])
            behind.append([name, *(_seconds(value, 0.0) for value in last), _seconds(latest, 0.0)])
    return f"{_table(rows)}\n\n{_table(behind)}"


def ratio_table(all_results: Grouped, seconds: float) -> str:
    """Returns our loss over theirs where it is largest after `AFTER`, for each set and over all.

    At each moment it is the median of all pairs of seeds; over all data sets, the median of these
    medians at that moment. Above 1, they are ahead.
    """
    at = [float(one) for one in moments(seconds) if one > AFTER]
    rows = [
        [f"largest loss of ours ÷ theirs after {AFTER:g} s", *all_results, "median of the sets"]
    ]
    for name in (name for name in CONTESTANTS if name != OURS):
        found = {
            data: ratios(curves(its[OURS]), curves(its[name]), at)
            for data, its in all_results.items()
            if name in its and OURS in its
        }
        if at and found:
            worst = [_number(max(found[data])) if data in found else "" for data in all_results]
            overall = max(quartiles(each)[1] for each in zip(*found.values(), strict=True))
            rows.append([name, *worst, _number(overall)])
    return _table(rows)


def pair_table(all_results: Grouped, seconds: float) -> str:
    """Returns how single races of others compare with single races of ours.

    ``of one seed``: in how many pairs ours had their last loss within half the time / later /
    never; ``ahead``: in how many of all pairs they were ahead at some moment after `AFTER`.
    """
    rows = [["", "", "of one seed: half the time / later / never", "ahead, of all pairs"]]
    for data, by_contestant in all_results.items():
        mine = {one.key.seed: one.improvements for one in by_contestant.get(OURS, [])}
        for name in (name for name in by_contestant if name != OURS and mine):
            theirs = {one.key.seed: one.improvements for one in by_contestant[name]}
            both = sorted(mine.keys() & theirs.keys())
            found = half_in_time([mine[at] for at in both], [theirs[at] for at in both], seconds)
            counts = " / ".join(str(found.count(word)) for word in ("half", "later", "never"))
            each = [*mine.values()]
            ahead = sum(ever_ahead(one, each, AFTER, seconds) for one in theirs.values())
            rows.append([data, name, counts, f"{ahead} of {len(mine) * len(theirs)}"])
    return _table(rows)


def describe(results: Sequence[Result]) -> str:
    """Returns lines on when, where and with what the results were made."""
    kinds = ["date", "code"]
    when = [sorted({one.surroundings.get(kind, "") for one in results}) for kind in kinds]
    places = {
        ", ".join(f"{key} {value}" for key, value in one.surroundings.items() if key not in kinds)
        for one in results
    }
    dates, codes = (", ".join(values) for values in when)
    return "\n".join([f"- {dates}; code {codes}", *(f"- {place}" for place in sorted(places))])


def all_tables(results: Sequence[Result], seconds: float) -> str:
    """Returns everything there is to say of races of one length."""
    found = grouped(results)
    parts = []
    for data, by_contestant in found.items():
        parts += [f"### {data}", loss_table(by_contestant, seconds), claim_table(by_contestant)]
    tables = (goal_table, ratio_table, pair_table)
    goals = ["### Goals", *(table(found, seconds) for table in tables)]
    return "\n\n".join([*goals, *parts, describe(results)])


def _spread(values: Sequence[float]) -> str:
    low, middle, high = quartiles(values)
    if len(values) == 1:
        return _number(middle)
    return f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float) -> str:
    return NONE if math.isinf(value) else f"{value:.4g}"


def _seconds(value: float, never: float = math.inf) -> str:
    if math.isnan(value):
        return ""
    return "never" if value == never else f"{value:.1f} s"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
