"""Memory in which a layer's passes over minibatches take turns, with the views of every step.

To a small network a view of a tensor costs half as much as a calculation with it, and a pass needs
a dozen for every step. Memory that the next pass uses again has them already.

It is lent, and comes back by itself as soon as nobody needs it: what a forward pass has left there
for its backward pass is safe as long as autograd's graph lives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from typing import Generic, TypeVar

from torch import Tensor

MOST_BYTES = 1 << 24
"""Larger memory is not kept; beside what is calculated in it, its views are nothing."""
MOST_SHAPES = 32
"""Of memory that is kept; a study's trials have ever new ones."""


class Memory(ABC):
    """Room for the steps of a pass.

    Args:
        like: (…, B, H) the state after one step.
        steps: T.
    """

    @abstractmethod
    def __init__(self, like: Tensor, steps: int) -> None: ...

    @property
    @abstractmethod
    def parts(self) -> tuple[Tensor, ...]:
        """Its tensors, (T, …) each; their contents are arbitrary."""


M = TypeVar("M", bound=Memory)
_SPARE: dict[Hashable, list[Memory]] = {}


class Loan(Generic[M]):
    """Memory for T steps or more, until nobody refers to the loan.

    Args:
        kind: What for.
        like: (…, B, H) the state after one step.
        steps: T.

    Attributes:
        memory: What is lent.
    """

    def __init__(self, kind: type[M], like: Tensor, steps: int) -> None:
        # A GPU repeats what it recorded, in memory that must be nobody else's.
        self._kept = like.device.type == "cpu"
        self._key = kind, like.shape, like.dtype
        spare = _spare(self._key, kind, steps) if self._kept else None
        self.memory = spare or kind(like, steps)

    def __del__(self, spare: dict[Hashable, list[Memory]] = _SPARE) -> None:
        """Takes the memory back."""
        memory = getattr(self, "memory", None)  # There may have been too little to make it.
        if memory is None or not self._kept:
            return
        if sum(part.nbytes for part in memory.parts) > MOST_BYTES:
            return
        if self._key not in spare and len(spare) >= MOST_SHAPES:
            spare.clear()
        spare.setdefault(self._key, []).append(memory)


def _spare(key: Hashable, kind: type[M], steps: int) -> M | None:
    """Returns memory of that kind that is free and has room for so many steps, if there is any."""
    try:
        found = _SPARE.get(key, []).pop()
    except IndexError:
        return None
    return found if isinstance(found, kind) and len(found.parts[0]) >= steps else None
