"""HyperParams → the shape of the lanes in which a trial can be trained with others: pure.

A network is widened with zeros to the shape of its lanes, and its minibatches are filled up with
rows that do not count. How a matrix product adds up depends on its size: only among trials that are
widened to the same shape is a trial's value the same to the last bit in any company. Where bits are
not promised, on a GPU, lanes take the shape of the largest.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.models import ALIGNED
from search.space import HyperParams


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


def shape_of(params: HyperParams) -> Shape:
    """Returns the smallest shape that a trial can be trained in."""
    units, rows = (
        -(-size // ALIGNED) * ALIGNED for size in (params.hidden_units, params.batch_size)
    )
    return Shape(params.cell, params.hidden_layers, units, rows)
