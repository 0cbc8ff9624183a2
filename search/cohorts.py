"""HyperParams → groups that can be trained together, within capacity: pure.

A network is widened with zeros to the shape of its cohort, and its minibatches are filled up with
rows that do not count. On a CPU the shape must follow from a trial's own hyperparameters, because
how a matrix product adds up depends on its size: so only trials that are widened to the same shape
train together, and a trial's value is the same to the last bit in any company. Where bits are not
promised, on a GPU, a cohort takes the shape of the largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from search.models import ALIGNED
from search.space import HyperParams

LANE_UNITS = {"rnn": 64, "gru": 48}
"""The largest networks that train in lanes on a CPU, by cell. When each of torch's calls cost more
than what it did, five of them took a fifth to two fifths less time there; since their layers are
compiled, hardly any less (`bench/RESULTS.md`, "Seeds of an evaluation")."""
LANE_WORK = 64 * 32 * 26
"""Units of all layers, or outputs, x minibatch x steps of the largest networks that gained. Larger
ones lose: GRU of 48 units with batches of 128 x 24 steps, or of 64 x 168, take 1.5 times as long in
company. A series far longer than the others makes every step as long in lanes, so it counts."""
CAPACITY = 16
"""The most networks that were measured together."""


@dataclass(frozen=True, order=True)
class Shape:
    """What networks that train together have in common.

    Attributes:
        cell: ``rnn``, ``gru`` or ``lstm``.
        layers: L.
        units: H of the widened networks, a multiple of `ALIGNED`.
        rows: B of the filled minibatches, a multiple of `ALIGNED`.
    """

    cell: str
    layers: int
    units: int
    rows: int

    def holds(self, params: HyperParams) -> bool:
        """True if a trial can be trained in this shape."""
        own = shape_of(params)
        same = (own.cell, own.layers) == (self.cell, self.layers)
        return same and own.units <= self.units and own.rows <= self.rows

    def with_room_for(self, other: Shape) -> Shape:
        """Returns this shape, as large as it must be for the other's units and rows."""
        units, rows = max(self.units, other.units), max(self.rows, other.rows)
        return Shape(self.cell, self.layers, units, rows)


@dataclass(frozen=True)
class Cohort:
    """Trials that can be trained together.

    Attributes:
        shape: That of their networks.
        members: Their places in the list that `cohorts` was given.
    """

    shape: Shape
    members: tuple[int, ...]


def shape_of(params: HyperParams) -> Shape:
    """Returns the smallest shape that a trial can be trained in."""
    units, rows = (
        -(-size // ALIGNED) * ALIGNED for size in (params.hidden_units, params.batch_size)
    )
    return Shape(params.cell, params.hidden_layers, units, rows)


def gains_in_lanes(params: HyperParams, steps: int, outputs: int) -> bool:
    """Says whether trials like this are better trained in lanes on a CPU, in any company.

    Args:
        params: Of the trial.
        steps: T of the longest training example.
        outputs: O, C or V of the data.
    """
    width = max(params.hidden_units * params.hidden_layers, outputs)
    small = width * params.batch_size * steps <= LANE_WORK
    return small and params.hidden_units <= LANE_UNITS.get(params.cell, 0)


def cohorts(params: Sequence[HyperParams], capacity: int, *, exact: bool) -> list[Cohort]:
    """Groups trials, in as few cohorts as there can be.

    Args:
        params: The trials.
        capacity: The most trials in a cohort.
        exact: Whether a trial's value must not depend on its company, to the last bit.

    Returns:
        The cohorts, each trial in one of them; within a cohort in the order of the list if
        ``exact``, else by size, so that little is widened for the others' sake.
    """
    shapes = [shape_of(one) for one in params]
    order = sorted(range(len(shapes)), key=shapes.__getitem__)
    found: list[Cohort] = []
    for at in order:
        own, last = shapes[at], found[-1] if found else None
        if last is None or len(last.members) == capacity or not _alike(own, last.shape, exact):
            found.append(Cohort(own, (at,)))
            continue
        found[-1] = Cohort(last.shape.with_room_for(own), (*last.members, at))
    return found


def _alike(one: Shape, other: Shape, exact: bool) -> bool:
    return one == other if exact else (one.cell, one.layers) == (other.cell, other.layers)
