"""Memory of layers: lent to one pass at a time, and used again by the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search import layer_memory
from search.layer_memory import Loan, Memory


class Room(Memory):
    """One tensor."""

    def __init__(self, like: Tensor, steps: int) -> None:
        self.room = like.new_empty(steps, *like.shape)

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The tensor."""
        return (self.room,)


class Other(Room):
    """For something else."""


@pytest.fixture(autouse=True)
def _nothing_spare() -> None:
    layer_memory._SPARE.clear()


def lend(shape: tuple[int, ...] = (2, 3), steps: int = 5, kind: type[Room] = Room) -> Loan[Room]:
    """Returns a loan."""
    return Loan(kind, torch.zeros(shape), steps)


def test_what_came_back_is_lent_again() -> None:
    """The memory of a pass that is over serves the next of its shape, if it has steps enough."""
    first = lend()
    place = first.memory.room.data_ptr()
    del first
    shorter = lend(steps=3)
    assert shorter.memory.room.data_ptr() == place
    del shorter
    longer = lend(steps=6)
    assert len(longer.memory.room) == 6


def test_nobody_shares() -> None:
    """While it is lent, others get memory of their own; so does what has another shape or use."""
    loans = [lend(), lend(), lend((2, 4)), lend(kind=Other)]
    places = {loan.memory.room.data_ptr() for loan in loans}
    assert len(places) == 4
    del loans
    again = [lend(), lend()]
    assert {loan.memory.room.data_ptr() for loan in again} <= places
    assert lend((2, 4)).memory.room.shape == (5, 2, 4)
    assert isinstance(lend(kind=Other).memory, Other)


def test_another_dtype_is_another_shape() -> None:
    """Memory of single precision is not lent to double."""
    lend()
    assert Loan(Room, torch.zeros(2, 3, dtype=torch.float64), 5).memory.room.dtype == torch.float64


def test_large_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than the most that is kept goes back to the machine."""
    monkeypatch.setattr(layer_memory, "MOST_BYTES", 4 * 2 * 3 * 5)
    lend()
    assert len(layer_memory._SPARE) == 1
    lend(steps=6)
    assert [len(memories) for memories in layer_memory._SPARE.values()] == [0]


def test_ever_new_shapes_do_not_pile_up() -> None:
    """However many shapes there have been, memory of few is kept."""
    for width in range(1, 4 * layer_memory.MOST_SHAPES):
        lend((1, width))
    assert len(layer_memory._SPARE) <= layer_memory.MOST_SHAPES


def test_memory_that_could_not_be_had() -> None:
    """If there is no memory, the loan ends with the exception and leaves nothing."""

    class Huge(Room):
        """Too much."""

        def __init__(self, like: Tensor, steps: int) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        Loan(Huge, torch.zeros(1), 1)
    assert layer_memory._SPARE == {}
