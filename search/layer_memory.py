"""Workspace in which a layer's passes over minibatches take turns.

Memory that is new to a process is given to it page by page as it is first written, which to a small
network costs more than what is calculated there. A workspace that the next pass uses again is not
new.

It is lent, and comes back by itself as soon as nobody needs it: what a forward pass has left there
for its backward pass is safe as long as autograd's graph lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import torch
from torch import Tensor

MOST_BYTES = 1 << 26
"""What is kept in all, the least lately used given up first."""
LARGEST_BYTES = 1 << 24
"""A larger workspace is not kept; beside what is calculated in it, to be given it is nothing."""


class Workspace(ABC):
    """Room for the steps of a pass.

    Args:
        like: (B, H) the state after one step.
        steps: T.
    """

    @abstractmethod
    def __init__(self, like: Tensor, steps: int) -> None: ...

    @property
    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]:
        """Its tensors, (T, …) each; their contents are arbitrary."""


EVEN = 8
"""Columns of whose multiples products of matrices are made quickest: one of 110 columns takes as
long as one of 130 (`studies/LOG.md`)."""


def even(columns: int) -> int:
    """Returns how many columns to make room for, of which the last are not looked at."""
    return -(-columns // EVEN) * EVEN


W = TypeVar("W", bound=Workspace)


class Loan(Generic[W]):
    """A workspace for T steps or more, until nobody refers to the loan.

    Args:
        kind: What for.
        like: (B, H) the state after one step.
        steps: T.

    Attributes:
        space: What is lent.
    """

    def __init__(self, kind: type[W], like: Tensor, steps: int) -> None:
        # What is made in inference mode is of no use outside.
        self._kept = not torch.is_inference_mode_enabled()
        self._key = kind, like.shape, like.dtype
        spare = _SPARE.take(self._key) if self._kept else None
        fits = isinstance(spare, kind) and len(spare.parts[0]) >= steps
        self.space: W = spare if fits else kind(like, steps)  # type: ignore[assignment]

    def __del__(self) -> None:
        """Takes the workspace back."""
        space = getattr(self, "space", None)  # There may have been too little memory to make it.
        if space is not None and self._kept:
            _SPARE.put(self._key, space)


class _Spare:
    """What is kept for passes to come.

    Attributes:
        spaces: By kind, shape and dtype, the latest last; with the bytes of each.
        bytes: Of all of them; counted along, as there may be dozens at every pass.
    """

    def __init__(self) -> None:
        self.spaces = OrderedDict[Hashable, list[tuple[int, Workspace]]]()
        self.bytes = 0

    def take(self, key: Hashable) -> Workspace | None:
        """Returns a workspace, or None if there is none."""
        try:
            size, space = self.spaces[key].pop()
        except LookupError:
            return None
        self.bytes -= size
        return space

    def put(self, key: Hashable, space: Workspace) -> None:
        """Keeps a workspace, unless it is too large; gives up others until there is room for it."""
        size = sum(part.nbytes for part in space.parts)
        if size > LARGEST_BYTES:
            return
        # A loan that is given up anywhere in here may call this again.
        self.spaces.setdefault(key, []).append((size, space))
        self.spaces.move_to_end(key)
        self.bytes += size
        while self.bytes > MOST_BYTES and self.spaces:
            _, oldest = self.spaces.popitem(last=False)
            self.bytes -= sum(one for one, _ in oldest)

    def clear(self) -> None:
        """Gives up all."""
        self.spaces.clear()
        self.bytes = 0


_SPARE = _Spare()


def give_up_workspaces() -> None:
    """Gives back all that is kept, where memory has run out."""
    _SPARE.clear()
