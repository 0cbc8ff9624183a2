"""HyperParams → network: RNN, LSTM or GRU layers and a linear head, or one of the user's own.

Shapes: B minibatch, T time, F features, H hidden, L layers, O outputs, V vocabulary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from search.data.splits import Splits
from search.dropout import dropped
from search.errors import ConfigError
from search.factories import Factory, OwnNetwork
from search.recurrent import State, recur, recur_to_ends
from search.space import HyperParams

ALIGNED = 16
"""Units that a network is widened to a multiple of where its answers must not depend on their
place in a batch: 16 float32 are the 64 bytes by which matrix kernels want rows to be aligned."""

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
        self.params = params
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
        self.head = nn.Linear(hidden, output_size)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: State | None = None
    ) -> tuple[Tensor, State | None]:
        """Runs the network over a batch.

        Args:
            inputs: (B, T, F) float, or (B, T) int64 if ``per_step``.
            lengths: (B,) number of real steps; None if all T are. Not used if ``per_step``.
            state: Where the hidden state starts; None for zero. Not used with ``lengths``.

        Returns:
            Outputs (B, O), or (B, T, O) if ``per_step``; and the last hidden state, None if rows
            end at different steps.
        """
        steps = inputs if self.embedding is None else self.embedding(inputs)
        share = self.params.dropout
        if lengths is not None and not self.per_step:
            unit = 1 if self.training else ALIGNED
            hidden = recur_to_ends(self.recurrent, steps, lengths, unit)
            return self.head(dropped(hidden, share, training=self.training)), None
        hidden, state = recur(self.recurrent, steps, state)
        if self.per_step:
            # In the order in which the layers left them.
            hidden = dropped(hidden.transpose(0, 1), share, training=self.training).transpose(0, 1)
            return self.head(hidden), state
        return self.head(dropped(hidden[:, -1], share, training=self.training)), state


@torch.no_grad()
def widened(model: SequenceModel) -> SequenceModel:
    """Returns the same network with units added whose weights are zero, up to `ALIGNED`.

    The added units stay exactly 0 in every cell, and what a zero adds to a sum is nothing, so it
    computes the same. Measured: with any other number of units, the last bit of an output depends
    on the row of the batch that it stands in; with these, on nothing but its own input.

    The answer shares nothing with ``model`` and holds until the next call with the same model.
    """
    units = model.params.hidden_units
    if model.per_step or units % ALIGNED == 0:
        return model
    wide = -(-units // ALIGNED) * ALIGNED
    if model not in _TWINS:
        # Else one of inference mode could not be filled outside.
        with torch.inference_mode(False), torch.no_grad():
            _TWINS[model] = _empty_twin(model, wide)
    twin, weight = _TWINS[model], model.head.weight
    if (twin.head.weight.device, twin.head.weight.dtype) != (weight.device, weight.dtype):
        twin.to(weight.device, weight.dtype)
    for target, weights in zip(twin.parameters(), model.parameters(), strict=True):
        window = own_part(target, weights.shape, units, wide)
        window.copy_(weights.view(window.shape))
    return twin


def own_part(target: Tensor, shape: torch.Size, units: int, wide: int) -> Tensor:
    """Returns the part of a widened network's weight in which the network's own lies, as a view.

    Args:
        target: The weight of the network of ``wide`` units.
        shape: Of the same weight of the network of ``units`` units.
        units: H.
        wide: H rounded up.
    """
    if target.shape[0] == shape[0]:
        return target[..., : shape[-1]]
    # One block of rows for each gate; columns are inputs or, likewise widened, units.
    blocks = target.view(-1, wide, *target.shape[1:])
    return blocks[(slice(None), slice(units), *map(slice, shape[1:]))]


_TWINS: WeakKeyDictionary[SequenceModel, SequenceModel] = WeakKeyDictionary()
"""What `widened` made; to build one takes as long as a pass over a small data set."""


def _empty_twin(model: SequenceModel, units: int) -> SequenceModel:
    """Returns a network like ``model``, of ``units`` units, all weights 0."""
    head, params = model.head, replace(model.params, hidden_units=units)
    with torch.device("meta"):
        twin = SequenceModel(
            params, model.recurrent.input_size, head.out_features, per_step=model.per_step
        )
    twin = twin.to(head.weight.dtype).to_empty(device=head.weight.device)
    for weights in twin.parameters():
        weights.zero_()
    return twin


Network = SequenceModel | OwnNetwork
"""What trains, predicts and is exported."""


def require_single() -> None:
    """Refuses another default precision of torch's than data and exported weights have.

    Raises:
        ConfigError: It is another.
    """
    if torch.get_default_dtype() != torch.float32:
        raise ConfigError(
            f"torch makes networks of {torch.get_default_dtype()} now, but data and exported "
            "weights are torch.float32; call torch.set_default_dtype(torch.float32) first"
        )


def build(params: HyperParams, splits: Splits, factory: Factory | None = None) -> Network:
    """Returns an untrained network for the data, on the CPU, initialised from torch's generator.

    Args:
        params: What it is built with.
        splits: The data.
        factory: Builds it, if it is the user's own.

    Raises:
        NetworkError: The factory raised an exception.
    """
    sizes = splits.input_size, splits.output_size
    if factory is not None:
        return factory.build(params, *sizes, per_step=splits.per_step)
    return SequenceModel(params, *sizes, per_step=splits.per_step)


def detach(state: Any) -> Any:
    """Returns the state cut off from the past, so that gradients end here (truncated BPTT).

    Args:
        state: A tensor, or tuples, lists and dicts of tensors, one in another; None for none.
    """
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, dict):
        return {name: detach(part) for name, part in state.items()}
    if isinstance(state, tuple):
        parts = [detach(part) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    return [detach(part) for part in state] if isinstance(state, list) else state
