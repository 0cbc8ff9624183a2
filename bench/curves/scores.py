"""What strategies are worth on the tables, side by side, and what leaving one out would choose."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """What a strategy is worth on one table; medians over seeds but for the regret, a mean.

    Attributes:
        near: Time to within 5 % of the best; the horizon if it is not reached by then.
        best: Time to within 1 %.
        regret: Averaged over moments from 1 unit to the horizon by equal ratios.
        trials: How many ended.
    """

    near: float
    best: float
    regret: float
    trials: float


def show(scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Prints one row a strategy: ratios to the first one's, and each table's regret."""
    reference = next(iter(scores.values()))
    names = list(reference)
    print(f"| strategy | to 5 % | to 1 % | regret | worst | {' | '.join(names)} |")
    print("|---|" + "--:|" * (4 + len(names)))
    for name, by_table in scores.items():
        ratios = {
            field: [_ratio(by_table[t], reference[t], field) for t in names]
            for field in ("near", "best", "regret")
        }
        means = [statistics.geometric_mean(ratios[field]) for field in ratios]
        each = [
            f"{s.near:.1f} {s.best:.1f} {s.regret:.3f} ({s.trials:.0f})" for s in by_table.values()
        ]
        worst = max(ratios["regret"])
        print(
            f"| {name} | {' | '.join(f'{m:.2f}' for m in [*means, worst])} | {' | '.join(each)} |"
        )


def _ratio(mine: Score, first: Score, field: str) -> float:
    """Returns how many times a field is that of another; without any regret it is next to none."""
    return float(max(1e-9, getattr(mine, field)) / max(1e-9, getattr(first, field)))


def left_out(scores: Mapping[str, Mapping[str, Score]]) -> None:
    """Prints, for each table, what the others choose by time to 1 %, and what it is worth there.

    What is so near the best is said by `bench.curves.table.CurveTable.within`.
    """
    reference = next(iter(scores.values()))

    def ratio(field: str, strategy: str, among: Sequence[str]) -> float:
        pairs = ((scores[strategy][table], reference[table]) for table in among)
        return statistics.geometric_mean(_ratio(*pair, field) for pair in pairs)

    for name in reference if len(reference) > 1 else ():
        others = [other for other in reference if other != name]
        chosen = min(scores, key=lambda one: ratio("best", one, others))
        print(
            f"  without {name}: {chosen}; there {ratio('best', chosen, [name]):.2f} of the first's "
            f"time to 1 %, {ratio('regret', chosen, [name]):.2f} of its regret"
        )
