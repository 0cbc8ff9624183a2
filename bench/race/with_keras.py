"""Contestant: KerasTuner's Hyperband on Keras with PyTorch beneath.

As KerasTuner's guide: a `HyperModel` that builds a compiled model and fits it with a searched batch
size; Hyperband decides on the epochs. A tuner is one process; torch has both cores.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import keras_tuner
import torch

from bench.race.exported import Exported, Facts, read
from bench.race.lines import Lines, Race, enter
from bench.race.network import IGNORED, MOST_EPOCHS, suggest

LAYERS = {"rnn": keras.layers.SimpleRNN, "lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
FOREVER = 1000
"""Rounds of Hyperband: more than a race has time for."""
FAILURES = 10
"""Trials in a row that may fail; one whose loss is not finite has failed for KerasTuner."""


class AsTrial:
    """KerasTuner's hyperparameters, asked as an Optuna trial is.

    Args:
        hyper: The hyperparameters.
    """

    def __init__(self, hyper: keras_tuner.HyperParameters) -> None:
        self.hyper = hyper

    def suggest_float(self, name: str, low: float, high: float, log: bool = False) -> float:
        """Returns a number."""
        return float(self.hyper.Float(name, low, high, sampling="log" if log else "linear"))

    def suggest_int(self, name: str, low: int, high: int, log: bool = False) -> int:
        """Returns a whole number; Hyperband itself decides on the epochs."""
        if name == "epochs":
            return MOST_EPOCHS
        return int(self.hyper.Int(name, low, high, sampling="log" if log else "linear"))

    def suggest_categorical(self, name: str, values: tuple[Any, ...]) -> Any:
        """Returns one of several values."""
        return self.hyper.Choice(name, list(values))


class Model(keras_tuner.HyperModel):  # type: ignore[misc]
    """Builds and fits a network.

    Args:
        data: The data.
    """

    def __init__(self, data: Exported) -> None:
        super().__init__()
        self.data = data

    def build(self, hp: Any) -> keras.Model:
        """Returns a compiled model."""
        return build(suggest(AsTrial(hp), self.data.facts.batch_sizes), self.data)

    def fit(self, hp: Any, model: keras.Model, **options: Any) -> Any:
        """Trains it."""
        return fit(suggest(AsTrial(hp), self.data.facts.batch_sizes), model, self.data, **options)


class Tuner(keras_tuner.Hyperband):  # type: ignore[misc]
    """Hyperband that writes a line for every trial that ends.

    Args:
        lines: The race's.
        options: Of Hyperband.
    """

    def __init__(self, lines: Lines, **options: Any) -> None:
        self._race_lines = lines
        super().__init__(**options)

    def on_trial_end(self, trial: Any) -> None:
        """Is called by KerasTuner."""
        super().on_trial_end(trial)
        self._race_lines.write(trial.score, trial.hyperparameters.values)


class CarriedLoss(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets ``val_loss`` of a text, whose state is carried from chunk to chunk, as the race has it.

    Args:
        data: The data.
    """

    def __init__(self, data: Exported) -> None:
        super().__init__()
        self.data = data

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Is called by Keras, before the history and the tuner see ``logs``."""
        assert logs is not None
        logs["val_loss"] = self._loss()

    @torch.no_grad()
    def _loss(self) -> float:
        valid, streams = self.data.valid, self.data.facts.streams
        layers: list[Any] = self.model.layers[1:]  # The first is the input.
        states: list[Any] = [None] * len(layers)
        total, count = 0.0, 0
        for first in range(0, len(valid.targets), streams):
            values = valid.inputs[first : first + streams]
            targets = valid.targets[first : first + streams]
            for at, layer in enumerate(layers):
                if type(layer) in LAYERS.values():
                    values, *states[at] = layer(values, initial_state=states[at], training=False)
                else:
                    values = layer(values, training=False)
            total += torch.nn.functional.cross_entropy(
                values.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
            count += int((targets != IGNORED).sum())
        return total / count


def build(params: Mapping[str, Any], data: Exported) -> keras.Model:
    """Returns a compiled model of a configuration."""
    facts = data.facts
    text = facts.task == "language"
    inputs = keras.Input((None,) if text else (None, facts.input_size), dtype=_kind(text))
    hidden = inputs
    if text:
        hidden = keras.layers.Embedding(facts.input_size, params["hidden_units"])(inputs)
    elif data.train.lengths is not None:
        hidden = keras.layers.Masking(0.0)(inputs)
    for number in range(1, params["hidden_layers"] + 1):
        last = number == params["hidden_layers"]
        layer = LAYERS[params["cell"]](
            params["hidden_units"], return_sequences=text or not last, return_state=text
        )
        hidden = layer(hidden)[0] if text else layer(hidden)
        hidden = keras.layers.Dropout(params["dropout"])(hidden)
    model = keras.Model(inputs, keras.layers.Dense(facts.output_size)(hidden))
    model.compile(optimizer=_optimizer(params, data), loss=_loss(facts))
    return model


def fit(params: Mapping[str, Any], model: keras.Model, data: Exported, **options: Any) -> Any:
    """Trains a model; ``options`` are those of `keras.Model.fit`."""
    callbacks = list(options.pop("callbacks", []))
    options["verbose"] = 0
    if params["decay"] == "plateau":
        callbacks.append(keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=2))
    if data.facts.streams:
        callbacks.insert(0, CarriedLoss(data))
        options["validation_data"] = None
    else:
        options["validation_data"] = data.valid.inputs.numpy(), data.valid.targets.numpy()
    return model.fit(
        data.train.inputs.numpy(),
        data.train.targets.numpy(),
        batch_size=params["batch_size"],
        callbacks=callbacks,
        **options,
    )


def search(race: Race) -> None:
    """Searches until the runner ends it: a tuner has no time limit."""
    keras.utils.set_random_seed(race.seed)
    tuner = Tuner(
        Lines(race),
        hypermodel=Model(read(race.data)),
        objective=keras_tuner.Objective("val_loss", "min"),
        max_epochs=MOST_EPOCHS,
        hyperband_iterations=FOREVER,
        seed=race.seed,
        directory=str(race.folder / "keras"),
        project_name="race",
        max_consecutive_failed_trials=FAILURES,
    )
    tuner.search(verbose=0)


def retrain(race: Race, params: Mapping[str, Any], seed: int) -> float:
    """Returns the best epoch's loss, which is a trial's score."""
    keras.utils.set_random_seed(seed)
    data = read(race.data)
    epochs = int(params.get("tuner/epochs", MOST_EPOCHS))
    history = fit(params, build(params, data), data, epochs=epochs)
    return float(min(history.history["val_loss"]))


def _kind(text: bool) -> str:
    return "int64" if text else "float32"


def _loss(facts: Facts) -> Any:
    if facts.task == "forecast":
        return "mse"
    ignored = IGNORED if facts.task == "language" else None
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored)


def _optimizer(params: Mapping[str, Any], data: Exported) -> keras.optimizers.Optimizer:
    rate: Any = params["learning_rate"]
    steps = 5 * -(-len(data.train.targets) // params["batch_size"])
    if params["decay"] in ("step", "exponential"):
        stairs = params["decay"] == "step"
        rate = keras.optimizers.schedules.ExponentialDecay(rate, steps, 0.5, staircase=stairs)
    clip = params["gradient_clipping"] or None
    shared = {"weight_decay": params["weight_decay"] or None, "global_clipnorm": clip}
    if params["optimizer"] == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9, **shared)
    kinds = {"adam": keras.optimizers.Adam, "rmsprop": keras.optimizers.RMSprop}
    return kinds.get(params["optimizer"], keras.optimizers.Adagrad)(rate, **shared)


if __name__ == "__main__":
    enter(search, retrain)
