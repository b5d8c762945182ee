"""Coloured and rolled in one go: against torch's own operations, copy by copy, and its slope."""

import numpy as np
import pytest
import torch
from torch import Tensor

from vitscope.dream.rolls import Rolls, shown

ROWS, COLUMNS = 5, 7


def by_hand(base: Tensor, gain: Tensor, offset: Tensor, rolls: Rolls) -> Tensor:
    units = []
    for unit in range(len(gain)):
        copies = []
        for copy in range(gain.shape[1]):
            picture = base[unit, copy if base.shape[1] > 1 else 0]
            coloured = picture * gain[unit, copy, :, None, None] + offset[unit, copy, :, None, None]
            roll = rolls[unit, copy if rolls.shape[1] > 1 else 0]
            copies.append(torch.roll(coloured, tuple(roll.tolist()), dims=(-2, -1)))
        units.append(torch.stack(copies))
    return torch.stack(units)


@pytest.mark.parametrize(("shared", "rolled"), [(1, 3), (3, 1), (3, 3), (1, 1)])
def test_it_is_what_rolling_after_colouring_gives(shared: int, rolled: int):
    base = torch.rand(2, shared, 3, ROWS, COLUMNS, dtype=torch.float64).requires_grad_()
    gain, offset = torch.rand(2, 2, 3, 3, dtype=torch.float64)
    rolls = np.random.default_rng(shared).integers(-9, 10, size=(2, rolled, 2))
    found, expected = shown(base, gain, offset, rolls), by_hand(base, gain, offset, rolls)
    assert torch.equal(found, expected)
    weights = torch.rand_like(found)
    (slope,) = torch.autograd.grad((found * weights).sum(), base)
    (plain,) = torch.autograd.grad((expected * weights).sum(), base)
    torch.testing.assert_close(slope, plain)


def test_its_slope_is_numerically_right():
    base = torch.rand(1, 1, 3, 3, 2, dtype=torch.float64).requires_grad_()
    gain, offset = torch.rand(2, 1, 2, 3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: shown(x, gain, offset, np.array([[[1, 1], [-4, 5]]])), base)
