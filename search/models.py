"""HyperParams → network: RNN, LSTM or GRU layers and a linear head.

Shapes: B minibatch, T time, F features, H hidden, L layers, O outputs, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from search.data.splits import Splits
from search.space import HyperParams

State = Tensor | tuple[Tensor, Tensor]
"""Hidden state (L, B, H); for LSTM a pair of it and the cell state."""

CELLS: dict[str, type[nn.RNN | nn.LSTM | nn.GRU]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class SequenceModel(nn.Module):
    """A recurrent network that answers after the last real step, or after every step.

    Padding cannot leak: the network runs forward in time only, so what comes after a series' last
    step never reaches the output that is read there, nor its gradient.

    Args:
        params: Gives cell, layers, units H and dropout (between layers and before the head).
        input_size: F; or V + 1 if the inputs are indices of characters.
        output_size: O.
        per_step: True for language: inputs are (B, T) indices, outputs (B, T, O).
    """

    def __init__(
        self, params: HyperParams, input_size: int, output_size: int, *, per_step: bool
    ) -> None:
        super().__init__()
        hidden, layers = params.hidden_units, params.hidden_layers
        self.per_step = per_step
        self.embedding = nn.Embedding(input_size, hidden) if per_step else None
        self.recurrent = CELLS[params.cell](
            hidden if per_step else input_size,
            hidden,
            num_layers=layers,
            batch_first=True,
            dropout=params.dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(params.dropout)
        self.head = nn.Linear(hidden, output_size)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State]:
        """Runs the network over a batch.

        Args:
            inputs: (B, T, F) float, or (B, T) int64 if ``per_step``.
            lengths: (B,) number of real steps; None if all T are. Not used if ``per_step``.
            state: Where the hidden state starts; None for zero.

        Returns:
            Outputs (B, O), or (B, T, O) if ``per_step``; and the last hidden state.
        """
        steps = inputs if self.embedding is None else self.embedding(inputs)
        hidden, state = self.recurrent(steps, state)
        if not self.per_step:
            if lengths is None:
                hidden = hidden[:, -1]
            else:
                hidden = hidden[torch.arange(len(hidden), device=hidden.device), lengths - 1]
        return self.head(self.dropout(hidden)), state


def build(params: HyperParams, splits: Splits) -> SequenceModel:
    """Returns an untrained network for the data, on the CPU, initialised from torch's generator."""
    return SequenceModel(params, splits.input_size, splits.output_size, per_step=splits.per_step)


def detach(state: State) -> State:
    """Returns the state cut off from the past, so that gradients end here (truncated BPTT)."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()  # type: ignore[return-value]
