"""Numbers of pictures: the spectrum against sums over every coefficient, sizes against Pillow itself."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from vitscope.studies.appearance import (
    OCTAVES,
    as_text,
    features,
    from_text,
    jpeg_bits,
    roughness,
    spectral_slope,
)


def noise(rows, columns, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), dtype=np.uint8)


def coefficients(pixels):
    """Power and cycles of every coefficient of every colour, one after another."""
    rows, columns = pixels.shape[:2]
    for colour in range(3):
        values = pixels[..., colour].astype(np.float64) / 255
        power = np.abs(np.fft.fft2(values - values.mean())) ** 2
        for row, down in enumerate(np.fft.fftfreq(rows)):
            for column, across in enumerate(np.fft.fftfreq(columns)):
                yield math.hypot(down, across), power[row, column]


@pytest.mark.parametrize("size", [(16, 16), (12, 20), (15, 15)])
def test_the_slope_equals_rings_by_hand(size):
    pixels = noise(*size)
    side = min(size)
    rings = {}
    for frequency, power in coefficients(pixels):
        rings.setdefault(round(frequency * side), []).append(power)
    x = [math.log10(ring) for ring in range(1, side // 2 + 1)]
    # the mean over three colours and their sum differ by a constant, which a slope does not see
    y = [math.log10(np.mean(rings[ring])) for ring in range(1, side // 2 + 1)]
    middle = sum(x) / len(x)
    slope = sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)
    assert spectral_slope(pixels) == pytest.approx(slope, abs=1e-9)


@pytest.mark.parametrize("slope", [-3.0, -2.0, 0.0])
def test_a_picture_of_known_slope(slope):
    """Noise whose amplitude falls as f^(slope / 2)."""
    side, draw = 128, np.random.default_rng(0)
    far = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None])
    far[0, 0] = 1
    white = np.fft.fft2(draw.normal(size=(side, side, 3)), axes=(0, 1))
    grey = np.fft.ifft2(white * (far ** (slope / 2))[..., None], axes=(0, 1)).real
    pixels = np.clip(128 + 30 * grey / grey.std(), 0, 255).round().astype(np.uint8)
    assert spectral_slope(pixels) == pytest.approx(slope, abs=0.15)


def test_a_flat_picture():
    flat = np.full((16, 16, 3), 77, np.uint8)
    assert math.isnan(spectral_slope(flat))
    assert roughness(flat) == 0
    assert jpeg_bits(flat) <= 0.1
    assert np.isfinite(features(flat)).all()


def test_jpeg_bits_are_those_of_a_file():
    def size(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, format="JPEG", quality=75, subsampling=0)
        return len(file.getvalue())

    pixels = noise(24, 16)
    grey = np.full_like(pixels, 128)
    assert jpeg_bits(pixels) == pytest.approx(8 * (size(pixels) - size(grey)) / (24 * 16))
    assert jpeg_bits(pixels) > 1


def test_roughness_is_a_share_of_power():
    pixels = noise(9, 14)
    every = list(coefficients(pixels))
    share = sum(power for far, power in every if far > 0.125) / sum(power for _, power in every)
    assert roughness(pixels) == pytest.approx(100 * share, rel=1e-5)


def test_features_by_hand():
    pixels = noise(20, 16, seed=2)
    found = features(pixels)
    assert found.shape == (len(OCTAVES) + 1 + 9,)
    bands = [0.0] * (len(OCTAVES) + 1)
    for far, power in coefficients(pixels):
        bands[sum(far > end for end in OCTAVES)] += power
    assert 10 ** found[: len(bands)] == pytest.approx(np.array(bands) / sum(bands), abs=1e-9)
    colours = pixels.reshape(-1, 3) / 255
    means, spread, alike = found[-9:-6], found[-6:-3], found[-3:]
    assert means == pytest.approx(colours.mean(axis=0))
    assert spread == pytest.approx(colours.std(axis=0))
    assert alike == pytest.approx(np.corrcoef(colours.T)[[0, 0, 1], [1, 2, 2]])


def test_pictures_as_text():
    smooth = np.repeat(np.arange(0, 224, dtype=np.uint8)[None, :, None], 112, axis=0).repeat(3, axis=2)
    back = from_text(as_text(smooth))
    assert back.shape == (56, 112, 3)
    assert abs(back[:, 10].mean() - smooth[:, 20].mean()) < 4
    small = from_text(as_text(noise(8, 6)))
    assert small.shape == (8, 6, 3)
