"""`bench.recurrent` and `bench.lanes`: what they call torch's layers is torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import pytest
import torch
from networks import CPU, LOSS, hyper, series, sine, unjudged
from torch import nn

from bench.recurrent import OURS, TORCHS
from search import models
from search.data.splits import Splits
from search.training import Run


@pytest.mark.parametrize("made", [sine, series])
@pytest.mark.parametrize(("layers", "theirs"), [(TORCHS, True), (OURS, False)])
def test_whose_layers_train(made: Any, layers: Mapping[str, Any], theirs: bool) -> None:
    """On series of one length or of many, each way trains with its own layers, to like losses."""
    splits: Splits = made()
    run = Run(hyper(cell="gru", epochs=1), splits, 0, LOSS, CPU)
    calls: list[torch.Size] = []
    forward = nn.GRU.forward

    def counted(layer: nn.GRU, *rest: Any) -> Any:
        calls.append(rest[0].shape)
        return forward(layer, *rest)

    with mock.patch.object(nn.GRU, "forward", counted), mock.patch.multiple(models, **layers):
        epoch = run.advance(unjudged)
    assert bool(calls) == theirs
    plain = Run(hyper(cell="gru", epochs=1), splits, 0, LOSS, CPU).advance(unjudged)
    assert epoch.train_loss == pytest.approx(plain.train_loss, rel=1e-4)  # type: ignore[union-attr]
