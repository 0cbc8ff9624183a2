"""Windows cut from series: the parts that a forecasting network trains on and is judged by.

Shapes: L rows, N windows of a part, B minibatch, T window, F features, H horizon, K targets,
O = H x K outputs, horizon-major (all targets one step ahead, then two steps ahead...).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from search.config import ForecastData
from search.data.calendars import Step
from search.data.cards import ForecastCard
from search.data.forecast_baselines import (
    fit_ridge,
    persistence,
    seasonal_naive,
    useful_seasons,
    windows_for_ridge,
)
from search.data.season import likely_seasons
from search.data.splits import Batch, EpochPlan, Part, Splits

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHUNK = 4_000_000
"""So many numbers are gathered at once for ridge's predictions."""


@dataclass(frozen=True, eq=False)
class ForecastPart(Part):
    """The windows of one part.

    Attributes:
        values: (L, F) float32, standardised features of all rows; the parts share it.
        starts: (N,) int64, first row of each window.
        targets: (N, O) float32, standardised.
        window: T.
    """

    values: Tensor
    starts: Tensor
    targets: Tensor
    window: int

    @property
    def size(self) -> int:
        """Number of windows N."""
        return len(self.starts)

    @property
    def steps(self) -> int:
        """The window T."""
        return self.window

    def inputs(self, starts: Tensor) -> Tensor:
        """Returns the (B, T, F) inputs of the windows that begin at ``starts``, (B,)."""
        rows, features = self.values.shape
        # A window is T x F numbers in a row, so overlapping windows are a view, copied by row.
        shape, strides = (rows - self.window + 1, self.window * features), (features, 1)
        windows = self.values.contiguous().as_strided(shape, strides).index_select(0, starts)
        return windows.view(len(starts), self.window, features)

    def batches(self, batch_size: int, generator: torch.Generator | None) -> Iterator[Batch]:
        """Yields minibatches, see `Part.batches`."""
        starts, targets = self.starts, self.targets
        if generator is not None:
            order = torch.randperm(self.size, generator=generator).to(starts.device)
            starts = starts.index_select(0, order)
            targets = targets.index_select(0, order)
        for first in range(0, self.size, batch_size):
            chosen = slice(first, first + batch_size)
            yield Batch(self.inputs(starts[chosen]), targets[chosen])

    def plan(self, batch_size: int, generator: torch.Generator) -> EpochPlan:
        """Returns which windows come when, see `Part.plan`."""
        order = torch.randperm(self.size, generator=generator)
        firsts = range(0, self.size, batch_size)
        sizes = tuple((min(batch_size, self.size - first), self.window) for first in firsts)
        return EpochPlan(order, torch.full_like(order, self.window), batch_size, sizes)

    def cut(self, places: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (T, K, B, F) inputs and (K, B, O) targets, see `Part.cut`."""
        del counts  # A row that does not count is left out of the loss.
        windows = self.inputs(self.starts[places].flatten())
        inputs = windows.view(*places.shape, self.window, -1).permute(2, 0, 1, 3)
        return inputs, self.targets[places]

    def to(self, device: torch.device) -> ForecastPart:
        """Returns this part with its tensors on ``device``."""
        return replace(
            self,
            values=self.values.to(device),
            starts=self.starts.to(device),
            targets=self.targets.to(device),
        )


@dataclass(frozen=True, eq=False)
class ForecastSplits(Splits):
    """Windows of one or several series, cut in time.

    The network predicts ``(y - anchor - shift) / scale``, where the anchor is the target's last
    observed value if ``anchored``, else 0. Outputs and targets share anchor and shift, so errors
    in the data's units are simply ``(outputs - targets) * scale``.

    Attributes:
        targets: The K targets' names.
        features: The F features' names.
        window: T.
        horizon: H.
        data: How the table is read.
        step: Between time stamps, see `search.data.timeline.find_step`.
        time_format: Of the time stamps, see `search.data.timeline.Stamps`.
        anchored: True if the network predicts the change from the last observed value.
        shift: (O,) float64, in the targets' units.
        scale: (O,) float64, in the targets' units.
        feature_mean: (F,) float64, in the features' units.
        feature_std: (F,) float64, in the features' units; 1 for a constant feature.
        observed: (L, K) float64, the targets of all rows in their units.
        segments: (L,) int64, number of the stretch without a gap that a row belongs to.
        slots: (L,) int64, a row's place in time, see `search.data.rows.Rows`.
        parts: (L,) int8, the part that a row belongs to: 0 train, 1 valid, 2 test.
        lines: What `describe` returns.
    """

    targets: tuple[str, ...]
    features: tuple[str, ...]
    window: int
    horizon: int
    data: ForecastData
    step: Step
    time_format: str | None
    anchored: bool
    shift: Tensor
    scale: Tensor
    feature_mean: Tensor
    feature_std: Tensor
    observed: Tensor
    segments: Tensor
    slots: Tensor
    parts: Tensor
    lines: tuple[str, ...]

    @property
    def per_step(self) -> bool:
        """False: the network answers at the last step, for the whole horizon."""
        return False

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error of what is predicted, standardised; a constant has about 1."""
        return torch.nn.functional.mse_loss(outputs, targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared errors."""
        return torch.nn.functional.mse_loss(outputs, targets, reduction="none")

    def tally(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Returns (1 + 2 O,): windows, then sums of squared and of absolute errors per output."""
        errors = outputs.double() - targets.double()
        count = errors.new_full((1,), len(errors))
        return torch.cat([count, errors.square().sum(0), errors.abs().sum(0)])

    def figures(self, tally: Tensor) -> dict[str, float]:
        """Returns loss, and rmse and mae in the targets' units over all steps of the horizon.

        With several targets, rmse and mae pool them, and each has its own, rmse_NAME and mae_NAME.
        """
        count, sums = tally[0].cpu(), tally[1:].cpu()
        squared, absolute = sums.view(2, -1) / count
        in_units = (squared * self.scale.square()).view(self.horizon, -1)
        off = (absolute * self.scale).view(self.horizon, -1)
        figures = {
            "loss": float(squared.mean()),
            "rmse": float(in_units.mean().sqrt()),
            "mae": float(off.mean()),
        }
        if len(self.targets) > 1:
            for at, name in enumerate(self.targets):
                figures[f"rmse_{name}"] = float(in_units[:, at].mean().sqrt())
                figures[f"mae_{name}"] = float(off[:, at].mean())
        return figures

    def last(self, part: str) -> Tensor:
        """Returns (N, K) float64: the last observed targets of a part's windows, in units."""
        return self.observed[self._part(part).starts.cpu() + self.window - 1]

    def to(self, device: torch.device) -> ForecastSplits:
        """Returns these splits with every part on ``device``, where they share their rows, too."""
        assert isinstance(self.train, ForecastPart)
        shared = self.train.values
        values = shared.to(device)

        def moved(part: Part) -> Part:
            assert isinstance(part, ForecastPart)
            same = part.values is shared
            return replace(part, values=values if same else part.values).to(device)

        parts = moved(self.train), moved(self.valid), moved(self.test)
        return replace(self, train=parts[0], valid=parts[1], test=parts[2])

    def to_units(self, outputs: Tensor, last: Tensor) -> Tensor:
        """Turns what the network predicts into the data's units.

        Args:
            outputs: (N, O), or targets of a `Batch`.
            last: (N, K), each target's last observed value, in its units.

        Returns:
            (N, O) float64, in the targets' units, on the device of ``outputs``.
        """
        return in_units(outputs, last, self.shift, self.scale, self.anchored)

    def card(self) -> dict[str, Any]:
        """Returns a `ForecastCard` as plain data."""
        card = ForecastCard(
            task="forecast",
            targets=self.targets,
            features=self.features,
            window=self.window,
            horizon=self.horizon,
            anchored=self.anchored,
            shift=tuple(self.shift.tolist()),
            scale=tuple(self.scale.tolist()),
            feature_mean=tuple(self.feature_mean.tolist()),
            feature_std=tuple(self.feature_std.tolist()),
            time=self.data.time,
            series=self.data.series,
            missing=self.data.missing,
            step=self.step,
            time_format=self.time_format,
        )
        return card.model_dump(mode="json")

    def baselines(self, part: str) -> dict[str, dict[str, float]]:
        """Figures of persistence, seasonal_naive (if there is a season) and ridge.

        Where a season is a day and a week foresees the training part better, it is there, too, by
        its steps: ``seasonal_naive_168``.
        """
        chosen, observed, slots = self._part(part), self.observed.numpy(), self.slots.numpy()
        train, first = (
            one.starts.cpu().numpy() + self.window for one in (self._part("train"), chosen)
        )
        forecasts = {"persistence": persistence(observed, first, self.horizon)}
        usual = self.data.season
        if usual is not None:
            longer = likely_seasons(self.step)
            for season in useful_seasons(observed, slots, train, self.horizon, usual, longer):
                name = "seasonal_naive" + (f"_{season}" if season != usual else "")
                forecasts[name] = seasonal_naive(observed, slots, first, self.horizon, season)
        actual = observed[first[:, None] + np.arange(self.horizon)]
        figures = {
            name: self._judge(torch.from_numpy((forecast - actual).reshape(len(first), -1)))
            for name, forecast in forecasts.items()
        }
        return figures | {"ridge": self.figures(self._ridge_tally(chosen))}

    def describe(self) -> list[str]:
        """Lines for `rnn-search check`."""
        return list(self.lines)

    def _judge(self, errors: Tensor) -> dict[str, float]:
        """Returns the figures of (N, O) errors in the targets' units."""
        return self.figures(self.tally(errors / self.scale, torch.zeros_like(errors)))

    def _ridge_tally(self, part: ForecastPart) -> Tensor:
        train = self._part("train")
        inputs = self.window * len(self.features)
        chosen = torch.from_numpy(windows_for_ridge(train.size, inputs))
        predict = fit_ridge(_flat(train, chosen), train.targets.cpu()[chosen].double().numpy())
        tallies = []
        for rows in torch.split(torch.arange(part.size), max(1, CHUNK // inputs)):
            outputs = torch.from_numpy(predict(_flat(part, rows)))
            tallies.append(self.tally(outputs, part.targets.cpu()[rows]))
        return torch.stack(tallies).sum(0)

    def _part(self, name: str) -> ForecastPart:
        part = {"train": self.train, "valid": self.valid, "test": self.test}[name]
        if not isinstance(part, ForecastPart):
            raise TypeError(f"the {name} part is a {type(part).__name__}, not a ForecastPart")
        return part


@dataclass(frozen=True)
class Aim:
    """What the network predicts: ``(y - anchor - shift) / scale``, see `ForecastSplits`.

    Attributes:
        anchored: True if the anchor is the last observed value, False if it is 0.
        shift: (H, K) in the targets' units.
        scale: (H, K) in the targets' units.
    """

    anchored: bool
    shift: Floats
    scale: Floats

    def targets(self, observed: Floats, first: Ints) -> Floats:
        """Returns the (N, O) float64 targets of windows.

        Args:
            observed: (L, K) in the targets' units.
            first: (N,) row of each window's first target.
        """
        future, last = _future(observed, first, len(self.shift))
        aimed = (future - (last if self.anchored else 0.0) - self.shift) / self.scale
        return aimed.reshape(len(first), -1)


def choose_aim(
    observed: Floats, statistics: tuple[Floats, Floats], first: Ints, horizon: int, visible: bool
) -> Aim:
    """Anchors at the last value if, on the training windows, it forecasts better than the mean.

    Args:
        observed: (L, K) targets.
        statistics: Their mean and std in the training rows, (K,) each.
        first: (N,) first target rows of the training windows.
        horizon: H.
        visible: Whether the targets are among the features; if not, there is no anchor.
    """
    mean, std = statistics
    future, last = _future(observed, first, horizon)
    change = (future - last) / std
    spread = change.std(axis=0)
    # Changes that are all the same have no scale, so a straight line is forecast by its value.
    varies = bool((spread > 1e-9).all())
    if visible and varies and (change**2).mean() < (((future - mean) / std) ** 2).mean():
        return Aim(True, change.mean(axis=0) * std, spread * std)
    shape = (horizon, len(mean))
    return Aim(False, np.broadcast_to(mean, shape).copy(), np.broadcast_to(std, shape).copy())


def _future(observed: Floats, first: Ints, horizon: int) -> tuple[Floats, Floats]:
    """Returns (N, H, K) targets from row ``first``, (N,), on, and (N, 1, K) the ones before."""
    return observed[first[:, None] + np.arange(horizon)], observed[first - 1][:, None]


def _flat(part: ForecastPart, chosen: Tensor) -> Floats:
    """Returns the (N, T * F) float64 inputs of some windows."""
    inputs = part.inputs(part.starts[chosen.to(part.starts.device)])
    return inputs.flatten(1).double().cpu().numpy()


def standardised(values: Floats, mean: Floats, std: Floats) -> Tensor:
    """Returns what the network sees.

    Args:
        values: (L, F) features in their units.
        mean: (F,) of the training rows.
        std: (F,) of the training rows.

    Returns:
        (L, F) float32.
    """
    return torch.from_numpy(((values - mean) / std).astype(np.float32, order="C"))


def in_units(outputs: Tensor, last: Tensor, shift: Tensor, scale: Tensor, anchored: bool) -> Tensor:
    """Turns what a network predicts into the data's units.

    Args:
        outputs: (N, O) standardised.
        last: (N, K), each target's last observed value, in its units; used only if ``anchored``.
        shift: (O,) see `ForecastSplits`.
        scale: (O,) see `ForecastSplits`.
        anchored: Whether the network predicts the change from ``last``.

    Returns:
        (N, O) float64, in the targets' units, on the device of ``outputs``.
    """
    device = outputs.device
    units = outputs.double() * scale.to(device) + shift.to(device)
    if not anchored:
        return units
    last = last.to(device).double()
    return units + last.repeat(1, outputs.shape[1] // last.shape[1])
