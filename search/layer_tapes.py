"""A layer's way there and back without autograd: what one keeps for the other is a tape.

Shapes: B minibatch, N steps of all rows, packed (`search.packing`), F inputs of a layer, H hidden.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor

from search.packing import Packing


class Tape(ABC):
    """A layer's way there, kept for its way back, where autograd keeps nothing.

    Args:
        cell: ``rnn``, ``gru`` or ``lstm``.
        into: Where the gradients of the weights go.
        wanted: Whether the gradient of the inputs is.
    """

    @abstractmethod
    def __init__(self, cell: str, into: Sequence[Tensor], *, wanted: bool) -> None: ...

    @abstractmethod
    def there(
        self, inputs: Tensor, packing: Packing, start: Sequence[Tensor], weights: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Goes there, through all steps.

        Args:
            inputs: (N, F).
            packing: Of which steps.
            start: (B, H), one or, for LSTM, two, alike in precision, as weights are.
            weights: Of the layer.

        Returns:
            The state after each step, (N, H); and, for LSTM, (B, H) the cells after the last, if
            all rows have all steps.
        """

    @abstractmethod
    def back(self, gradient: Tensor, places: Tensor | slice | None = None) -> Tensor | None:
        """Puts the gradients of the weights where they go; `there` comes first.

        Args:
            gradient: (N, H) of the states after each step.
            places: Which of them it is of, if that of the others is 0; None: it is of all.

        Returns:
            The gradient of the inputs, if it is wanted.
        """
