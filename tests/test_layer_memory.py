"""Workspace of layers: lent to one pass at a time, and used again by the next."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from search import layer_memory
from search.layer_memory import Loan, Workspace, give_up_workspaces


class Room(Workspace):
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
    give_up_workspaces()


def lend(shape: tuple[int, ...] = (2, 3), steps: int = 5, kind: type[Room] = Room) -> Loan[Room]:
    """Returns a loan."""
    return Loan(kind, torch.zeros(shape), steps)


def test_what_came_back_is_lent_again() -> None:
    """The memory of a pass that is over serves the next of its shape, if it has steps enough."""
    first = lend()
    place = first.space.room.data_ptr()
    del first
    shorter = lend(steps=3)
    assert shorter.space.room.data_ptr() == place
    del shorter
    longer = lend(steps=6)
    assert len(longer.space.room) == 6


def test_nobody_shares() -> None:
    """While it is lent, others get memory of their own; so does what has another shape or use."""
    loans = [lend(), lend(), lend((2, 4)), lend(kind=Other)]
    places = {loan.space.room.data_ptr() for loan in loans}
    assert len(places) == 4
    del loans
    again = [lend(), lend()]
    assert {loan.space.room.data_ptr() for loan in again} <= places
    assert lend((2, 4)).space.room.shape == (5, 2, 4)
    assert isinstance(lend(kind=Other).space, Other)


def test_another_dtype_is_another_shape() -> None:
    """Memory of single precision is not lent to double."""
    lend()
    assert Loan(Room, torch.zeros(2, 3, dtype=torch.float64), 5).space.room.dtype == torch.float64


def kept() -> int:
    """Returns how many workspaces are kept."""
    return sum(map(len, layer_memory._SPARE.spaces.values()))


def kept_bytes() -> int:
    """Returns how much is kept, which must be what is counted along."""
    spare = layer_memory._SPARE
    whole = sum(
        part.nbytes for lent in spare.spaces.values() for _, one in lent for part in one.parts
    )
    assert spare.bytes == whole
    return whole


def test_a_large_workspace_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than the most that is kept goes back to the machine."""
    monkeypatch.setattr(layer_memory, "LARGEST_BYTES", 4 * 2 * 3 * 5)
    lend()
    assert kept() == 1
    lend(steps=6)
    assert kept() == 0


def test_ever_new_shapes_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many shapes there have been, so many bytes are kept, of the latest."""
    monkeypatch.setattr(layer_memory, "MOST_BYTES", 4 * 5 * 100)
    for width in range(1, 60):
        lend((1, width))
    assert 0 < kept_bytes() <= 4 * 5 * 100
    assert {key[1] for key in layer_memory._SPARE.spaces} == {(1, 59)}  # type: ignore[index]
    loans = [lend((1, 10)) for _ in range(11)]
    assert kept_bytes() == 4 * 5 * 59
    loans.clear()
    assert kept_bytes() <= 4 * 5 * 100
    layer_memory.give_up_workspaces()
    assert kept_bytes() == 0


def test_inference_mode_is_kept_apart() -> None:
    """A workspace of inference mode is not lent outside, where nothing may be written to it."""
    with torch.inference_mode():
        lend()
    outside = lend()
    outside.space.room.fill_(1)
    del outside
    assert kept() == 1
    with torch.inference_mode():
        lend().space.room.fill_(2)
    assert kept() == 1


def test_a_workspace_that_could_not_be_had() -> None:
    """If there is no memory, the loan ends with the exception and leaves nothing."""

    class Huge(Room):
        """Too much."""

        def __init__(self, like: Tensor, steps: int) -> None:
            raise MemoryError

    with pytest.raises(MemoryError):
        Loan(Huge, torch.zeros(1), 1)
    assert kept() == 0
