"""The intervals of forecasts: between two quantiles of how far the validation part's values lay.

A single network's are as wide everywhere: its forecast plus the 5 % and 95 % quantiles of actual
minus forecast on the validation part, of each output by itself. Of n errors these are the ones of
rank 0.05 (n + 1), rounded down, and 0.95 (n + 1), rounded up: a new one like them lies between at
least nine times in ten, or, of fewer than 19, between the extremes (n - 1) / (n + 1) of the time.

An ensemble's are wider where its seeds disagree. Its error about a window is taken to have the
variance of its errors on the validation part plus that of its seeds about this very window: the
noise of the data and the ignorance of the model, which add (Heskes 1997, "Practical confidence and
prediction intervals", NIPS 9). The validation part's errors are divided by that spread, and their
5 % and 95 % quantiles, times a window's own spread, are its interval: locally weighted split
conformal prediction (Lei et al. 2018, "Distribution-free predictive inference for regression",
JASA 113, section 5.2), each tail by itself, so that the interval may be lopsided.

The weights were chosen on the same validation part, and series change, so that new values may lie
within less often than nine times in ten. Measured on ensembles of 5 seeds, of values of the test
part, with quantiles interpolated between the errors, which are narrower: sunspots 91.5 % of 47
(89.4 % of the best seed's), weekly CO2 of Mauna Loa, 4 weeks ahead, 89.7 % of 1360 (89.2 %). The
seeds hardly disagreed there: the widths of sunspots vary by 2 %.

Shapes: S networks, N windows, O outputs, horizon-major.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from search.data.windows import ForecastPart, ForecastSplits
from search.ensembles import Networks, disagreement
from search.model_files import Band

ROUNDING = 1e-6
"""Targets are kept in float32: what that takes from a large one, as a share of it."""
TAIL = 0.05
"""The share of new errors that should at most lie beyond each end."""


def band_of(networks: Networks, splits: ForecastSplits) -> Band:
    """Returns what makes the intervals, from the validation part."""
    part = splits.valid
    assert isinstance(part, ForecastPart)
    pairs = list(networks.outputs_of(part))
    outputs = torch.cat([outputs for outputs, _ in pairs], dim=1)
    targets = torch.cat([targets for _, targets in pairs])
    # Outputs and targets share anchor and shift, see ForecastSplits.
    off = (targets.double() - networks.join(outputs).double()) * splits.scale
    rounding = ROUNDING * targets.double().abs().amax(0).clamp(min=1.0) * splits.scale
    residual, spread = None, torch.ones_like(off)
    if networks.joined:
        # Where the ensemble is never wrong and the seeds agree there is nothing to divide.
        residual = off.square().mean(0).sqrt().maximum(rounding)
        spread = _spread(outputs, residual, splits.scale)
    # Errors that are all alike but for their rounding lie within an interval that is wider by it.
    low, high = _quantiles((off - rounding) / spread)[0], _quantiles((off + rounding) / spread)[1]
    kept = None if residual is None else tuple(residual.tolist())
    return Band(low=low, high=high, windows=part.size, residual=kept)


def _quantiles(errors: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (O,) the errors, of (N, O), beyond which `TAIL` of further ones are expected."""
    ordered = errors.sort(dim=0).values
    # Rounded first, because 0.05 x 20 may be a little less than 1.
    beyond = max(1, math.floor(round(TAIL * (len(ordered) + 1), 9)))
    return tuple(ordered[beyond - 1].tolist()), tuple(ordered[-beyond].tolist())


def edges(band: Band, outputs: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far below and above its forecast each interval ends.

    Args:
        band: Of the model.
        outputs: (S, N, O) of the networks.
        scale: (O,) float64, in the targets' units, see `ForecastSplits`.

    Returns:
        Low and high, (N, O) float64, in the targets' units.
    """
    low, high = (torch.tensor(one, dtype=torch.float64) for one in (band.low, band.high))
    spread = torch.ones(outputs.shape[1:], dtype=torch.float64)
    if band.residual is not None:
        spread = _spread(outputs, torch.tensor(band.residual, dtype=torch.float64), scale)
    return spread * low, spread * high


def _spread(outputs: Tensor, residual: Tensor, scale: Tensor) -> Tensor:
    """Returns (N, O) float64: the standard deviation of the error about each window."""
    return (residual.square() + disagreement(outputs) * scale.square()).sqrt()
