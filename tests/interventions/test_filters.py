"""Low and high frequencies: against a naive transform, and the checks of Ghiasi et al.'s filter."""

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.interventions.filters import high_pass, low_pass

SHAPES = ["disk", "gaussian", "square"]


def noise(*size, seed=0):
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(channel, radius, shape):
    """A filtered channel by the definition of the transform, one frequency and one pixel at a time."""
    rows, columns = channel.shape
    found = np.zeros((rows, columns), complex)
    for down in range(-(rows // 2), (rows + 1) // 2):
        for across in range(-(columns // 2), (columns + 1) // 2):
            distance = math.hypot(down, across)
            weight = {
                "disk": float(distance <= radius),
                "square": float(max(abs(down), abs(across)) <= radius),
                "gaussian": math.exp(-(distance**2) / (2 * radius**2)) if radius else float(distance == 0),
            }[shape]
            wave = np.array(
                [
                    [cmath.exp(2j * math.pi * (down * row / rows + across * column / columns))
                     for column in range(columns)]
                    for row in range(rows)
                ]
            )  # fmt: skip
            found += weight * (channel * wave.conj()).sum() / channel.size * wave
    assert np.abs(found.imag).max() < 1e-6
    return found.real


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("size", "radius"), [((8, 8), 2.5), ((7, 10), 3), ((6, 5), 0)])
def test_it_is_the_transform_by_definition(shape, size, radius):
    pixels = noise(1, 2, *size)
    image = pixels[0].numpy()
    expected = np.stack([naive(channel, radius, shape) for channel in image])
    low, high = low_pass(radius=radius, shape=shape), high_pass(radius=radius, shape=shape)
    np.testing.assert_allclose(low.unclamped(pixels)[0], expected, atol=1e-12)
    np.testing.assert_allclose(low(pixels)[0], expected.clip(0, 1), atol=1e-12)
    np.testing.assert_allclose(high.unclamped(pixels)[0], image - expected, atol=1e-12)
    np.testing.assert_allclose(high(pixels)[0], (image - expected + 0.5).clip(0, 1), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    radius=st.floats(0, 30),
    shape=st.sampled_from(SHAPES),
)
def test_low_and_high_add_up_and_lose_energy(rows, columns, radius, shape):
    pixels = noise(2, 3, rows, columns, seed=rows * columns)
    low = low_pass(radius=radius, shape=shape).unclamped(pixels)
    high = high_pass(radius=radius, shape=shape).unclamped(pixels)
    torch.testing.assert_close(low + high, pixels, atol=1e-12, rtol=0)
    for part in (low, high):
        assert part.square().sum() <= pixels.square().sum() * (1 + 1e-12)
    if shape != "gaussian":
        again = low_pass(radius=radius, shape=shape).unclamped(low)
        torch.testing.assert_close(again, low, atol=1e-12, rtol=0)
        assert (low * high).sum().abs() < 1e-9


@pytest.mark.parametrize("shape", SHAPES)
def test_radius_nothing_leaves_the_mean_of_each_channel(shape):
    pixels = noise(2, 3, 32, 32)
    found = low_pass(radius=0, shape=shape)(pixels)
    torch.testing.assert_close(found, pixels.mean((2, 3), keepdim=True).expand_as(pixels))


def test_half_the_diagonal_is_the_identity_and_half_the_side_is_not():
    pixels = noise(1, 3, 32, 32)
    beyond = low_pass(radius=32 / math.sqrt(2) + 0.01).unclamped(pixels)
    torch.testing.assert_close(beyond, pixels, atol=4e-15, rtol=0)
    assert (low_pass(radius=16).unclamped(pixels) - pixels).abs().max() > 0.1
    square = low_pass(radius=16, shape="square").unclamped(pixels)
    torch.testing.assert_close(square, pixels, atol=4e-15, rtol=0)


@pytest.mark.parametrize("cycles", [1, 3, 7, 15])
@pytest.mark.parametrize("radius", [2, 3, 7.5])
def test_a_sinusoid_passes_when_its_cycles_do_not_exceed_the_radius(cycles, radius):
    wave = 0.5 + 0.4 * torch.sin(2 * math.pi * cycles * torch.arange(32, dtype=torch.float64) / 32)
    for pixels in (wave.expand(1, 3, 20, 32), wave[:, None].expand(1, 3, 32, 20)):
        expected = pixels if cycles <= radius else torch.full_like(pixels, 0.5)
        torch.testing.assert_close(low_pass(radius=radius)(pixels), expected, atol=1e-12, rtol=0)


def test_a_level_of_nothing_is_the_filter_itself():
    pixels = noise(1, 3, 16, 16)
    bare = high_pass(radius=4, level=0)
    torch.testing.assert_close(bare(pixels), bare.unclamped(pixels).clamp(0, 1))


def test_float32_stays_float32_and_close_to_float64():
    pixels = noise(1, 3, 224, 224)
    found = low_pass(radius=32)(pixels.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), low_pass(radius=32)(pixels), atol=2e-6, rtol=0)


def test_a_batch_of_two_equals_two_of_one_and_keeps_the_rest():
    pixels = noise(2, 3, 16, 16).float()
    batch = ImageBatch(("a", "b"), ("1", "2"), pixels, torch.tensor([0, 1]), pixels[:, 0])
    before = pixels.clone()
    found = low_pass(radius=3).on_view(batch)
    assert torch.equal(batch.pixels, before)
    assert (found.ids, found.paths) == (batch.ids, batch.paths)
    assert torch.equal(found.foreground, pixels[:, 0])
    for image in (0, 1):
        alone = low_pass(radius=3)(pixels[image : image + 1])
        torch.testing.assert_close(found.pixels[image : image + 1], alone, atol=1e-6, rtol=0)


def test_their_names_make_them_again():
    for one in (low_pass(radius=32), high_pass(radius=8, shape="gaussian", level=0.25)):
        assert eval(repr(one)) == one
    assert repr(low_pass(radius=32)) == "low_pass(radius=32, shape='disk')"


def test_what_makes_no_sense_is_refused():
    with pytest.raises(
        BadValue, match=r"no filter 'disc'\. Nearest: 'disk'\. There are: disk, gaussian, square"
    ):
        low_pass(radius=1, shape="disc")
    for radius in (-1, math.nan, math.inf):
        with pytest.raises(BadValue, match=f"from 0 up, in cycles per image, not {radius}"):
            high_pass(radius=radius)
