"""An epoch's minibatches, planned and cut for many networks at once, are those of batches()."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import series, sine, text

from search.data.splits import IGNORED, Batch, Splits


def cut_one(splits: Splits, batch_size: int, seed: int) -> list[Batch]:
    """Returns an epoch's minibatches, cut for two networks of which the other has none."""
    part = splits.train
    plan = part.plan(batch_size, torch.Generator().manual_seed(seed))
    batches = []
    rows = len(plan.places)
    for at, (size, steps) in enumerate(plan.sizes):
        chosen = slice(at * plan.rows, min((at + 1) * plan.rows, rows))
        assert chosen.stop - chosen.start == size
        places, counts = plan.places[chosen], plan.counts[chosen]
        pair = torch.stack([places, torch.zeros_like(places)])
        counted = torch.stack([counts, torch.zeros_like(counts)])
        inputs, targets = part.cut(pair, counted)
        if not targets.is_floating_point():
            other = targets[:, 1] if splits.per_step else targets[1]
            assert (other == IGNORED).all()
        mine = targets[:steps, 0].t() if splits.per_step else targets[0]
        batches.append(Batch(inputs[:steps, 0].transpose(0, 1), mine, counts))
    return batches


@pytest.mark.parametrize("task", [sine, series, text], ids=["sine", "series", "text"])
@settings(max_examples=25)
@given(batch_size=st.integers(1, 300), seed=st.integers(0, 2**31))
def test_cut_is_what_batches_yields(task: Callable[[], Splits], batch_size: int, seed: int) -> None:
    """Inputs, targets, lengths and order are the same, and the generator has drawn the same."""
    splits = task()
    random = torch.Generator().manual_seed(seed)
    expected = list(splits.train.batches(batch_size, random))
    found = cut_one(splits, batch_size, seed)
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.inputs, theirs.inputs)
        assert torch.equal(mine.targets, theirs.targets)
        if theirs.lengths is not None:
            assert mine.lengths is not None
            assert torch.equal(mine.lengths, theirs.lengths)
