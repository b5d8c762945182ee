"""The detail of another resolution: sizes, what stays, what goes."""

import math

import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.interventions.resolution import coarse


def waves(cycles, side=32):
    """A grating of so many cycles per image, around mid-grey."""
    place = (torch.arange(side) + 0.5) / side
    return (0.5 + 0.4 * torch.sin(2 * math.pi * cycles * place)).expand(1, 3, side, side)


def test_fine_gratings_go_and_coarse_ones_stay():
    assert (coarse(16)(waves(15)) - 0.5).abs().max() < 0.1
    assert (coarse(16)(waves(2)) - waves(2)).abs().max() < 0.08
    grey = torch.full((2, 3, 32, 48), 0.3)
    assert torch.allclose(coarse(8)(grey), grey)


def test_a_view_of_that_size_is_left_alone_and_a_smaller_one_refused():
    pixels = torch.rand(2, 3, 24, 32)
    assert coarse(24)(pixels) is pixels
    assert coarse(12)(pixels).shape == pixels.shape
    with pytest.raises(BadValue, match=r"coarse\(25\) cannot be shown to a model whose input is 24 x 32"):
        coarse(25)(pixels)
    with pytest.raises(BadValue, match="at least 1 pixel wide, not 0"):
        coarse(0)


def test_results_are_pixels_and_the_foreground_stays():
    pixels, foreground = (torch.rand(3, 3, 32, 32) > 0.5).float(), torch.rand(3, 32, 32)
    batch = ImageBatch(
        ("a", "b", "c"), ("a", "b", "c"), pixels, torch.zeros(3, dtype=torch.int64), foreground
    )
    found = coarse(8).on_view(batch)
    assert found.pixels.min() >= 0
    assert found.pixels.max() <= 1
    assert torch.equal(found.foreground, foreground)
    ones = torch.cat([coarse(8)(pixels[place : place + 1]) for place in range(3)])
    assert torch.allclose(found.pixels, ones, atol=1e-6)
