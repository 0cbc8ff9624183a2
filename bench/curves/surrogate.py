"""A table made continuous: what any configuration would do, for samplers that propose anything.

The logarithm of the lowest loss by each epoch is a Gaussian process over the hyperparameters (one
length scale each, one-hot categories), fitted to the principal components of the rows' curves. A
new configuration gets a real curve, that of a row near it, moved by what the process says that the
two differ in. So a curve keeps its shape and its luck, and the luck of a neighbour is drawn anew
for each trial. How far the process is off is `error`, by rows that it was not fitted to.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.gaussian_process import GaussianProcessRegressor  # type: ignore[import-untyped]
from sklearn.gaussian_process.kernels import (  # type: ignore[import-untyped]
    ConstantKernel,
    Matern,
    WhiteKernel,
)

from bench.curves.proposers import plan_of
from bench.curves.simulation import Plan
from bench.curves.table import EPOCHS, CurveTable, Floats
from search.dimensions import HYPERPARAMETERS, Choices

COMPONENTS = 4
"""Principal components of the curves that are modelled; they hold 99 % of what varies."""
NEIGHBOURS = 5
"""Rows near a configuration, of which one lends it its curve."""
WORST = 3.0
"""A lowest loss above so many times the table's median counts as this."""
LOGARITHMIC = ("learning_rate", "batch_size", "hidden_units")


def features(params: Mapping[str, Any]) -> list[float]:
    """Returns a configuration as numbers, each searched range about 1 long."""
    made: list[float] = []
    for name, known in HYPERPARAMETERS.items():
        if name == "epochs":
            continue
        value, default = params[name], known.default
        if isinstance(default, Choices) and isinstance(value, str):
            made += [float(value == choice) for choice in default.values]
        elif isinstance(default, Choices) and name != "batch_size":
            made.append(float(default.values.index(value)) / (len(default.values) - 1))
        elif name in LOGARITHMIC:
            made.append(math.log(value) / math.log(16))
        else:
            made.append(float(value))
    return made


class Surrogate:
    """Answers for any configuration of the default space.

    Args:
        table: What it is fitted to.
        rows: Rows to fit to; None: all.
    """

    def __init__(self, table: CurveTable, rows: Sequence[int] | None = None) -> None:
        self.table = table
        self._rows = np.arange(len(table)) if rows is None else np.asarray(rows)
        every = np.asarray([features(params) for params in table.params])
        curves = _curves(table)
        self._mean = curves[self._rows].mean(axis=0)
        _, _, axes = np.linalg.svd(curves[self._rows] - self._mean, full_matrices=False)
        self._axes = axes[:COMPONENTS]
        places = (curves - self._mean) @ self._axes.T
        self._inputs = every[self._rows]
        self._scales, self._weights = [], []
        for component in range(COMPONENTS):
            scale, weights = _fit(self._inputs, places[self._rows, component])
            self._scales.append(scale)
            self._weights.append(weights)
        self._fitted = np.asarray([self._foreseen(one) for one in self._inputs])
        self._pace = _fit_pace(table)

    def foreseen(self, params: Mapping[str, Any]) -> Floats:
        """Returns the (E,) logarithm of the lowest loss by each epoch, without luck."""
        return self._foreseen(np.asarray(features(params)))

    def _foreseen(self, inputs: Floats) -> Floats:
        places = [
            float(_matern(inputs, self._inputs, scale) @ weights)
            for scale, weights in zip(self._scales, self._weights, strict=True)
        ]
        curve: Floats = self._mean + np.asarray(places) @ self._axes
        return curve

    def plan(self, params: dict[str, Any], luck: random.Random) -> Plan:
        """Returns what a trial with these hyperparameters does.

        Args:
            params: All of them, ``epochs`` too.
            luck: Draws the neighbour that lends its curve.
        """
        inputs = np.asarray(features(params))
        near = _matern(inputs, self._inputs, self._scales[0])
        ranked = np.argsort(-near)[:NEIGHBOURS]
        chosen = luck.choices(ranked.tolist(), np.maximum(near[ranked], 1e-9).tolist())[0]
        lent = plan_of(self.table, int(self._rows[chosen]), params["epochs"])
        moved = np.exp(self._foreseen(inputs) - self._fitted[chosen])
        values = [float(value * moved[at]) for at, value in enumerate(lent.valid)]
        pace = math.exp(_pace_inputs(params) @ self._pace)
        seconds = [pace] * len(values)
        if lent.diverges:
            seconds.append(max(1e-6, pace * (float(self.table.diverged[lent.row or 0]) % 1.0)))
        return Plan(params, values, seconds, lent.epochs, lent.findings, lent.diverges, lent.row)


def error(table: CurveTable, folds: int = 5) -> dict[str, float]:
    """Returns how well rows are foreseen that the surrogate was not fitted to.

    Returns:
        ``explained``: share of the variance of the logarithm of the lowest loss; ``rank``:
        Spearman's correlation; ``top``: the share of the best tenth that is foreseen to be in the
        best fifth.
    """
    order = np.random.default_rng(0).permutation(len(table))
    truth, said = _curves(table)[:, -1], np.zeros(len(table))
    for fold in range(folds):
        held = order[fold::folds]
        fitted = Surrogate(table, np.setdiff1d(order, held).tolist())
        for row in held:
            said[row] = fitted.foreseen(table.params[row])[-1]
    tenth = np.argsort(truth)[: len(table) // 10]
    fifth = set(np.argsort(said)[: len(table) // 5].tolist())
    return {
        "explained": float(1 - np.mean((truth - said) ** 2) / np.var(truth)),
        "rank": float(np.corrcoef(_ranks(truth), _ranks(said))[0, 1]),
        "top": sum(int(row) in fifth for row in tenth) / len(tenth),
    }


def _ranks(values: Floats) -> Floats:
    """(N,) place of each value in their order."""
    ranks: Floats = np.argsort(np.argsort(values)).astype(np.float64)
    return ranks


def _curves(table: CurveTable) -> Floats:
    """(N, E) logarithm of the lowest loss by each epoch, bounded; after divergence it stays."""
    ends = np.where(np.isnan(table.diverged), EPOCHS, np.floor(table.diverged)).astype(int)
    steps = np.minimum(np.arange(EPOCHS)[None], np.maximum(ends, 1)[:, None] - 1)
    reached = np.take_along_axis(table.reached, steps, axis=1)
    reached[ends == 0] = np.inf
    floor = table.median / 100
    curves: Floats = np.log(floor + np.minimum(reached, WORST * table.median))
    return curves


def _fit(inputs: Floats, outputs: Floats) -> tuple[Floats, Floats]:
    """Returns the length scales of a Gaussian process, and the weight of each of its inputs."""
    spread = float(outputs.std())
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(
        np.ones(inputs.shape[1]), (0.2, 30.0), nu=2.5
    ) + WhiteKernel(0.1, (1e-3, 1.0))
    process = GaussianProcessRegressor(kernel, random_state=0).fit(inputs, outputs / spread)
    found = process.kernel_
    scale = np.asarray(found.k1.k2.length_scale)
    weights: Floats = process.alpha_ * float(found.k1.k1.constant_value) * spread
    return scale, weights


def _matern(inputs: Floats, others: Floats, scale: Floats) -> Floats:
    """(N,) Matérn kernel, 5/2, between one input and others."""
    distance = np.sqrt(5.0 * (((others - inputs) / scale) ** 2).sum(axis=1))
    near: Floats = (1 + distance + distance**2 / 3) * np.exp(-distance)
    return near


def _pace_inputs(params: Mapping[str, Any]) -> Floats:
    layers, units = params["hidden_layers"], params["hidden_units"] / 64
    cells = [float(params["cell"] == cell) for cell in ("rnn", "gru", "lstm")]
    size = math.log(params["batch_size"])
    return np.asarray([*cells, size, math.log(layers), units, units * layers, units * size])


def _fit_pace(table: CurveTable) -> Floats:
    """Returns the coefficients of the logarithm of an epoch's seconds."""
    inputs = np.asarray([_pace_inputs(params) for params in table.params])
    outputs = np.log(np.nanmedian(table.seconds, axis=1))
    coefficients: Floats = np.linalg.lstsq(inputs, outputs, rcond=None)[0]
    return coefficients
