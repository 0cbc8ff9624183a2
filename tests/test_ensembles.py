"""Networks that answer as one: the same bits whatever the batch, and the interval they make."""

from __future__ import annotations

import math

import pytest
import torch
from networks import hyper, sine, start, train

from search.data.windows import ForecastSplits
from search.ensembles import Networks, combine, disagreement
from search.intervals import band_of, edges
from search.models import SequenceModel


@pytest.mark.parametrize(("task", "width"), [("forecast", 1), ("forecast", 3), ("classify", 5)])
@pytest.mark.parametrize("networks", [2, 5, 8, 20])
def test_an_ensemble_answers_the_same_in_every_batch(task: str, width: int, networks: int) -> None:
    """An answer is the same to the last bit, whatever others stand before and after it."""
    outputs = torch.randn(networks, 60, width, generator=torch.Generator().manual_seed(0))
    whole = combine(task, outputs)
    spread = disagreement(outputs)
    for first in range(0, 55, 3):
        for last in (first + 1, first + 2, first + 5):
            part = outputs[:, first:last].contiguous()
            assert torch.equal(combine(task, part), whole[first:last])
            assert torch.equal(disagreement(part), spread[first:last])


def test_a_network_by_itself_is_not_changed() -> None:
    """Its outputs go through as they are, and it does not disagree with itself."""
    outputs = torch.randn(1, 7, 3)
    network = SequenceModel(hyper(), 2, 3, per_step=False)
    assert torch.equal(Networks("classify", (network,), joined=False).join(outputs), outputs[0])
    assert torch.equal(disagreement(outputs), torch.zeros(7, 3, dtype=torch.float64))
    two = torch.tensor([[1.0], [3.0]])
    assert disagreement(two).tolist() == [2.0]


def test_an_interval_is_wider_where_the_seeds_disagree() -> None:
    """Nine in ten validation values lie within, and more disagreement makes it wider, lawfully."""
    splits = sine()
    assert isinstance(splits, ForecastSplits)
    runs = [start(splits, seed=seed) for seed in (1, 2, 3)]
    for run in runs:
        train(run, 2)
    networks = Networks("forecast", tuple(run.model for run in runs), joined=True)
    band = band_of(networks, splits)
    assert band.residual is not None
    pairs = list(networks.outputs_of(splits.valid))
    outputs = torch.cat([one for one, _ in pairs], dim=1)
    targets = torch.cat([one for _, one in pairs])
    off = (targets.double() - networks.join(outputs).double()) * splits.scale
    low, high = edges(band, outputs, splits.scale)
    inside = ((low <= off) & (off <= high)).double().mean()
    assert 0.9 - 2 / len(off) <= inside <= 0.9 + 2 / len(off)
    # The spread is made of the residual and of the seeds' variance, which add.
    spread = (band.residual[0] ** 2 + outputs.double().var(0) * splits.scale**2).sqrt()
    assert torch.allclose(high, spread * band.high[0])
    alone = band_of(Networks("forecast", networks.each[:1], joined=False), splits)
    assert alone.residual is None
    low, high = edges(alone, outputs[:1], splits.scale)
    assert torch.equal(high, torch.full_like(high, alone.high[0]))
    assert math.isclose(band.residual[0], float(off.square().mean().sqrt()))
