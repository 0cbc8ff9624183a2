"""Who races: each a script of its own, started as a process of its own."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Contestant:
    """One of them.

    Attributes:
        name: In tables and file names.
        module: Of this package, run with ``python -m``.
        about: What it is, in a few words.
        threads: Of each of its processes that trains; with their number it makes two cores.
        needs: Packages that ``make setup`` does not install.
        tasks: What it can do.
        own_network: True if it is run in a network namespace that has nothing but 127.0.0.1.
    """

    name: str
    module: str
    about: str
    threads: int = 1
    needs: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ("forecast", "classify", "language")
    own_network: bool = False

    def obstacle(self, task: str) -> str | None:
        """Returns why it cannot race on data of a task here, or None."""
        if task not in self.tasks:
            return f"is for {', '.join(self.tasks)} only"
        missing = [name for name in self.needs if find_spec(name) is None]
        if missing:
            return f"{' and '.join(missing)} not installed; make bench does it"
        if self.own_network and shutil.which("unshare") is None:
            return "unshare is not there, and Ray would listen on every interface without it"
        return None


CONTESTANTS = {
    one.name: one
    for one in (
        Contestant("ours", "ours", "rnn-search run, 2 workers"),
        Contestant("expert", "expert", "Optuna, by somebody who knows where the time goes"),
        Contestant("optuna", "plain", "Optuna, as its documentation writes it", threads=2),
        Contestant(
            "ray",
            "with_ray",
            "Ray Tune, OptunaSearch and ASHA, two at once",
            needs=("ray", "tensorboardX"),
            own_network=True,
        ),
        Contestant(
            "neuralforecast",
            "with_neuralforecast",
            "NeuralForecast AutoLSTM, Optuna backend",
            threads=2,
            needs=("neuralforecast",),
            tasks=("forecast",),
        ),
        Contestant(
            "kerastuner",
            "with_keras",
            "KerasTuner Hyperband, Keras on torch",
            threads=2,
            needs=("keras", "keras_tuner"),
        ),
    )
}
"""By name."""
