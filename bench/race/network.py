"""What every contestant but ours and NeuralForecast has in common: space, network, validation.

Written as a user of PyTorch would, with nothing of ours in it, so that only the loops differ.
Shapes: B minibatch, T time, F features, H hidden, O outputs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from bench.race.exported import Examples, Facts

IGNORED = -100
CELLS = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
DECAYS = ("none", "step", "exponential", "plateau")
MOST_EPOCHS = 36
STARTS: tuple[dict[str, Any], ...] = tuple(
    {
        "learning_rate": rate,
        "batch_size": 32,
        "epochs": 12,
        "hidden_layers": 1,
        "hidden_units": 64,
        "cell": "lstm",
        "optimizer": "adam",
        "decay": "none",
        "dropout": 0.0,
        "weight_decay": 0.0,
        "gradient_clipping": 0.0,
    }
    for rate in (0.01, 0.1, 0.001)
)
"""What an expert tries first; our first three trials are the same."""
Batch = tuple[Tensor, Tensor, Tensor | None]
"""Inputs, targets, lengths."""


def suggest(trial: Any, batch_sizes: tuple[int, ...]) -> dict[str, Any]:
    """Returns a configuration of the default space, asked of an Optuna trial or what acts as one.

    Args:
        trial: Has ``suggest_float``, ``suggest_int`` and ``suggest_categorical``.
        batch_sizes: Those that the training part is large enough for.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1.0, log=True),
        "batch_size": trial.suggest_categorical("batch_size", batch_sizes),
        "epochs": trial.suggest_int("epochs", 4, MOST_EPOCHS),
        "hidden_layers": trial.suggest_int("hidden_layers", 1, 3),
        "hidden_units": trial.suggest_int("hidden_units", 16, 128, log=True),
        "cell": trial.suggest_categorical("cell", tuple(CELLS)),
        "optimizer": trial.suggest_categorical("optimizer", ("adam", "sgd", "rmsprop", "adagrad")),
        "decay": trial.suggest_categorical("decay", DECAYS),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "weight_decay": trial.suggest_categorical("weight_decay", (0.0, 1e-5, 1e-4, 1e-3)),
        "gradient_clipping": trial.suggest_categorical("gradient_clipping", (0.0, 1.0, 5.0)),
    }


class Network(nn.Module):
    """A recurrent network with a linear head on its last real step, or on every step of a text."""

    def __init__(self, params: Mapping[str, Any], facts: Facts) -> None:
        super().__init__()
        hidden, layers, dropout = params["hidden_units"], params["hidden_layers"], params["dropout"]
        self.text = facts.task == "language"
        self.embedding = nn.Embedding(facts.input_size, hidden) if self.text else nn.Identity()
        self.recurrent = CELLS[params["cell"]](
            hidden if self.text else facts.input_size,
            hidden,
            num_layers=layers,
            batch_first=True,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(hidden, facts.output_size)

    def forward(
        self, inputs: Tensor, lengths: Tensor | None = None, state: Any = None
    ) -> tuple[Tensor, Any]:
        """Returns (B, O) outputs, or (B, T, O) for text, and the last state."""
        hidden, state = self.recurrent(self.embedding(inputs), state)
        if not self.text:
            rows = torch.arange(len(hidden))
            hidden = hidden[:, -1] if lengths is None else hidden[rows, lengths - 1]
        return self.head(self.dropout(hidden)), state


def loss_of(outputs: Tensor, targets: Tensor, task: str, reduction: str = "mean") -> Tensor:
    """Returns the mean squared error, or the cross-entropy in nats."""
    if task == "forecast":
        return nn.functional.mse_loss(outputs, targets, reduction=reduction)
    flat = outputs.flatten(0, -2)
    return nn.functional.cross_entropy(
        flat, targets.flatten(), ignore_index=IGNORED, reduction=reduction
    )


@torch.no_grad()
def validation_loss(model: Network, batches: Iterable[Batch], facts: Facts) -> float:
    """Returns the figure of the race: the validation part's mean loss, dropout off.

    Args:
        model: The network.
        batches: The validation part in its order; of a text `Facts.streams` sequences at a time.
        facts: Of the data.
    """
    model.eval()
    total, count, state = 0.0, 0, None
    for inputs, targets, lengths in batches:
        outputs, last = model(inputs, lengths, state)
        state = last if facts.streams else None
        total += loss_of(outputs, targets, facts.task, "sum").item()
        count += targets.numel() if facts.task == "forecast" else int((targets != IGNORED).sum())
    return total / count


def in_order(examples: Examples, size: int) -> list[Batch]:
    """Returns a part's examples as batches of ``size``, in their order."""
    return [
        (
            examples.inputs[first : first + size],
            examples.targets[first : first + size],
            None if examples.lengths is None else examples.lengths[first : first + size],
        )
        for first in range(0, len(examples.targets), size)
    ]


def make_scheduler(decay: str, optimizer: torch.optim.Optimizer) -> Any:
    """Returns the scheduler that is stepped with the validation loss after every epoch."""
    if decay == "plateau":
        return lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=2)
    if decay == "step":
        return lr_scheduler.StepLR(optimizer, 5, 0.5)
    if decay == "exponential":
        return lr_scheduler.ExponentialLR(optimizer, 0.5**0.2)
    return lr_scheduler.ConstantLR(optimizer, 1.0)


def step_scheduler(scheduler: Any, loss: float) -> None:
    """Ends an epoch for a scheduler, of which one kind wants to know the loss."""
    if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau):
        scheduler.step(loss)
    else:
        scheduler.step()
