"""Trust in a dream: the verdict, the share of high frequencies, and the spread over seeds."""

import math

import numpy as np
import pytest
import torch

from vitscope.dream.trust import against_natural, high_frequency, picture_facts, spread, status, verdict


def naive_share(pixels: torch.Tensor) -> float:
    """The full spectrum, coefficient by coefficient."""
    total = high = 0.0
    for channel in pixels.double().numpy():
        power = np.abs(np.fft.fft2(channel - channel.mean())) ** 2
        for row, y in enumerate(np.fft.fftfreq(channel.shape[0])):
            for column, x in enumerate(np.fft.fftfreq(channel.shape[1])):
                total += power[row, column]
                high += power[row, column] * (math.hypot(x, y) > 0.125)
    return high / total


@pytest.mark.parametrize("size", [(8, 8), (9, 7), (12, 5), (6, 10)])
def test_the_share_of_high_frequencies_equals_the_full_spectrum(size):
    pixels = torch.rand(3, *size)
    assert high_frequency(pixels) == pytest.approx(naive_share(pixels), rel=1e-6)


def test_its_ends():
    """White noise has the share of the plane outside the circle; waves have all or nothing; grey has none."""
    noise = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    assert high_frequency(noise) == pytest.approx(1 - math.pi * 0.125**2, abs=0.01)
    column = torch.arange(64.0)
    for cycles, share in ((0.0625, 0.0), (0.25, 1.0), (0.5, 1.0)):
        wave = torch.cos(2 * math.pi * cycles * column).expand(3, 64, 64)
        assert high_frequency(wave) == pytest.approx(share, abs=1e-9)
    assert high_frequency(torch.full((3, 8, 8), 0.4)) == 0


def test_facts_of_a_picture():
    facts = picture_facts(torch.full((3, 8, 8), 0.4))
    assert facts == {"total_variation": 0, "high_frequency": 0}


PATH = torch.tensor([0.1, 0.2, 0.3])


def test_the_verdict():
    assert status(PATH, start=0.1, clean=0.4, robust=0.2) == "ok"
    assert status(torch.full((3,), 0.1), start=0.1, clean=0.1, robust=0.1) == "dead"
    assert status(torch.zeros(3), start=0.0, clean=0.0, robust=0.0) == "dead"
    assert status(torch.zeros(3), start=0.0, clean=0.5, robust=0.0) == "ok"
    for broken in ({"start": math.nan}, {"clean": math.inf}, {"robust": math.nan}):
        assert status(PATH, **{"start": 0.1, "clean": 0.4, "robust": 0.2, **broken}) == "diverged"
    assert status(torch.tensor([0.1, math.nan]), start=0.1, clean=0.4, robust=0.2) == "diverged"


def test_spread_over_seeds():
    assert spread([1.0, 2.0, 3.0]) == pytest.approx(np.std([1, 2, 3], ddof=1) / 2)
    assert spread([2.0, 2.0]) == 0
    for unknown in ([2.0], [0.0, 0.0], [-1.0, -2.0]):
        assert spread(unknown) is None


def test_against_natural_images():
    """Of 1,000 images the best three are known: above them all, between them, and below."""
    best = [2.0, 1.5, 1.0]
    facts = against_natural(3.0, best, images=1000)
    assert facts == {"natural_best": 2.0, "natural_ratio": 1.5, "natural_percentile": 100.0}
    assert against_natural(1.2, best, images=1000)["natural_percentile"] == pytest.approx(99.8)
    assert against_natural(2.0, best, images=1000)["natural_percentile"] == pytest.approx(99.9)
    assert against_natural(0.5, best, images=1000)["natural_percentile"] is None
    assert against_natural(0.5, best, images=3)["natural_percentile"] == 0
    assert against_natural(0.5, [-0.1], images=1000)["natural_ratio"] is None


@pytest.mark.parametrize(
    ("natural", "after"),
    [
        ({"natural_percentile": 100.0}, "ok"),
        ({"natural_percentile": 99.9}, "weak"),
        ({"natural_percentile": None}, "weak"),
        ({"natural_percentile": 100.0, "natural_robust": 0.4}, "ok"),
        ({"natural_percentile": 100.0, "natural_robust": 0.5}, "weak"),
        ({}, "ok"),
    ],
)
def test_the_verdict_once_natural_images_are_known(natural, after):
    assert verdict({"status": "ok", "robust": 0.5, **natural}) == after
    assert verdict({"status": "dead", "robust": 0.5, **natural}) == "dead"
    assert verdict({"status": "diverged", "robust": None, **natural}) == "diverged"
