"""What a curve of losses says: the lesson's examples, every finding, what may change none."""

from __future__ import annotations

import pytest

import search


def test_the_lesson_of_the_small_rate() -> None:
    """Training error that falls by almost nothing is too-slow: raise the learning rate."""
    finding = search.diagnose([8.4181, 8.4177, 8.4177, 8.4173, 8.4169])
    assert finding.name == "too-slow"
    assert finding.rate_factor == 3
    assert finding.advice.startswith("raise the learning rate")


def test_the_lesson_of_the_large_rate() -> None:
    """Training error that jumps is jumping: lower the learning rate."""
    finding = search.diagnose([8.71, 3.25, 4.93, 3.30, 4.82])
    assert finding.name == "jumping"
    assert finding.rate_factor == pytest.approx(1 / 3)
    assert finding.advice.startswith("lower the learning rate")


def test_no_losses() -> None:
    """Without a loss there is nothing to judge, which is said."""
    with pytest.raises(ValueError, match="train_losses is empty"):
        search.diagnose([])


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(broken: float) -> None:
    """A loss that is no number is diverging, in training or validation, first or last."""
    for train, valid in (([broken], None), ([2.0, 1.0, broken], None), ([2.0], [1.0, broken])):
        assert search.diagnose(train, valid).name == "diverging"
