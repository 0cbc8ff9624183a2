"""Dropout: the right share, the same each way and by the same seed, from a known generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from search.dropout import dropped, noise
from search.threefry import _words

precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def threefry(counter: tuple[int, int], key: tuple[int, int]) -> tuple[int, int]:
    """Returns what Salmon et al. 2011 define, in Python's whole numbers."""
    keys = (*key, 0x1BD11BDA ^ key[0] ^ key[1])
    one, two = (counter[0] + key[0]) % 2**32, (counter[1] + key[1]) % 2**32
    for number in range(20):
        turn = (13, 15, 26, 6, 17, 29, 16, 24)[number % 8]
        one = (one + two) % 2**32
        two = ((two << turn | two >> 32 - turn) % 2**32) ^ one
        if number % 4 == 3:
            group = number // 4 + 1
            one = (one + keys[group % 3]) % 2**32
            two = (two + keys[(group + 1) % 3] + group) % 2**32
    return one, two


def test_the_generator_is_threefry() -> None:
    """Its numbers are those of the definition, which gives the published ones."""
    full = 0xFFFFFFFF
    assert threefry((0, 0), (0, 0)) == (0x6B200159, 0x99BA4EFE)
    assert threefry((full, full), (full, full)) == (0x1CB996FC, 0xBB002BE7)
    pi = (0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344)
    assert threefry(*pi) == (0xC4923A9C, 0x483DF7A0)
    for key in (0, 1, -1, 0x0370734413198A2E, -(2**63), 2**63 - 1):
        first, second = np.empty((2, 9), np.uint32)
        _words(key, first, second)
        halves = key % 2**32, key % 2**64 >> 32
        expected = [threefry((place, 0), halves) for place in range(9)]
        assert list(zip(first.tolist(), second.tolist(), strict=True)) == expected


@precisions
@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.9])
def test_the_share(dtype: torch.dtype, share: float) -> None:
    """The share that is dropped is as asked, the rest is larger, so that the mean stays."""
    torch.manual_seed(0)
    count = 200_001
    found = dropped(torch.ones(count, dtype=dtype), share, training=True)
    assert found.dtype == dtype
    error = (share * (1 - share) / count) ** 0.5
    assert (found == 0).double().mean().item() == pytest.approx(share, abs=4 * error)
    assert set(found.unique().tolist()) == {0.0, torch.tensor(1 / (1 - share), dtype=dtype).item()}
    # Neither neighbours nor the halves, which are drawn together, know of each other.
    gone = (found[:-1] == 0).double() - share
    for other in (gone.roll(1), gone.view(2, -1).flip(0).flatten()):
        assert abs((gone * other).mean().item()) < 4 * share * (1 - share) / count**0.5


@precisions
def test_both_ways_are_the_same(dtype: torch.dtype) -> None:
    """A gradient is multiplied by what the value was, also in memory of another order."""
    torch.manual_seed(0)
    values = torch.randn(7, 5, 3, dtype=dtype).transpose(0, 2).requires_grad_()
    found = dropped(values, 0.4, training=True)
    weights = torch.randn(3, 7, 5, dtype=dtype).transpose(1, 2)
    [grad] = torch.autograd.grad((found * weights).sum(), [values])
    factor = torch.where(found == 0, 0, torch.tensor(1 / 0.6, dtype=dtype))
    torch.testing.assert_close(grad, weights * factor)
    torch.testing.assert_close(found, values * factor)


def test_the_seed_decides() -> None:
    """The same state of torch's generator drops the same, each draw something else."""
    values = torch.ones(500)
    torch.manual_seed(3)
    one, two = (dropped(values, 0.5, training=True) for _ in range(2))
    torch.manual_seed(3)
    again = dropped(values, 0.5, training=True)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)


def test_noise_is_what_is_dropped() -> None:
    """A generator of its own draws what torch's own would in its state."""
    torch.manual_seed(5)
    values = torch.randn(40, 6)
    random = torch.Generator().manual_seed(9)
    torch.manual_seed(9)
    for share in (0.3, 0.6):
        factors = noise(values, share, random)
        assert torch.equal(dropped(values, share, training=True), values * factors)


@pytest.mark.parametrize(("share", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_drawn_in_vain(share: float, training: bool) -> None:
    """Out of training, or without dropout, values are what they were, and no number is drawn."""
    before = torch.get_rng_state()
    values = torch.randn(3, generator=torch.Generator())
    assert dropped(values, share, training=training) is values
    assert torch.equal(torch.get_rng_state(), before)


def test_what_is_no_number_is_not_dropped() -> None:
    """NaN stays NaN, as a network that diverges must be seen to."""
    torch.manual_seed(0)
    assert dropped(torch.full((99,), torch.nan), 0.5, training=True).isnan().all()


def test_no_values() -> None:
    """Of nothing, nothing is dropped."""
    assert dropped(torch.ones(0, 4), 0.5, training=True).shape == (0, 4)
