"""What a picture looks like, in numbers: its spectrum, its colours, how small a JPEG of it is."""

from __future__ import annotations

import base64
import io

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image

from vitscope.dream.trust import high_frequency
from vitscope.meters.reading import Array

Picture = UInt8[Array, "row column rgb"]

OCTAVES = tuple(2.0**-n for n in range(7, 0, -1))
"""Upper ends of the bands of frequency, in cycles per pixel, up to the Nyquist frequency of 1/2; a last band
holds the corners of the spectrum beyond it."""
QUALITY = 75
"""Of the JPEG whose size is told: Pillow's default. Colours are kept at full resolution."""
FAINT = 1e-12
"""Added to shares of power before their logarithm: a flat picture has none."""
SIDE = 112
"""Longer side of the small pictures that a result keeps, in pixels, at most."""


def spectral_slope(pixels: Picture) -> float:
    """The slope of log power against log frequency, over the rings of 1 cycle per image up to Nyquist.

    About -2 for photographs, 0 for white noise: the lower, the more of the power is coarse. The power of a
    ring is its mean over directions and colours; rings count alike, and there is no window, so edges that do
    not meet add a little of -2. NaN for a flat picture.
    """
    power, frequency = _power(pixels)
    side = min(pixels.shape[:2])
    ring = np.rint(frequency * side).astype(np.int64)
    within = (ring >= 1) & (ring <= side // 2)
    sums = np.bincount(ring[within], weights=power[within], minlength=side // 2 + 1)[1:]
    means = sums / np.bincount(ring[within], minlength=side // 2 + 1)[1:]
    if not (means > 0).all():
        return float("nan")
    line = np.polyfit(np.log10(np.arange(1, len(means) + 1)), np.log10(means), 1)
    return float(line[0])


def jpeg_bits(pixels: Picture) -> float:
    """Bits a pixel of a JPEG of quality 75, beyond those of a flat grey picture of the same size."""
    grey = np.full_like(pixels, 128)
    bits = 8 * (_jpeg_bytes(pixels) - _jpeg_bytes(grey))
    return float(bits / (pixels.shape[0] * pixels.shape[1]))


def roughness(pixels: Picture) -> float:
    """The share of the power above a quarter of the Nyquist frequency, in per cent."""
    values = torch.from_numpy(rearrange(pixels, "row column rgb -> rgb row column") / 255)
    return 100 * high_frequency(values)


def features(pixels: Picture) -> Float[Array, " feature"]:
    """Seventeen numbers: the logarithm of the share of power in each band of `OCTAVES` and beyond, and of the
    colours the means, standard deviations and correlations with each other."""
    power, frequency = _power(pixels)
    band = np.digitize(frequency, OCTAVES, right=True)
    sums = np.bincount(band.ravel(), weights=power.ravel(), minlength=len(OCTAVES) + 1)
    shares = np.log10(sums / max(power.sum(), FAINT) + FAINT)
    colours = rearrange(pixels / 255, "row column rgb -> rgb (row column)")
    means, deviations = colours.mean(axis=1), colours.std(axis=1)
    scaled = (colours - means[:, None]) / np.maximum(deviations, FAINT)[:, None]
    alike = (scaled @ scaled.T / colours.shape[1])[np.triu_indices(3, 1)]
    return np.concatenate([shares, means, deviations, alike])


def as_text(pixels: Picture) -> str:
    """The picture, at most `SIDE` long, as the base64 text of a WebP: what an array of a result can hold."""
    image = Image.fromarray(pixels)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, format="WEBP", quality=90)
    return base64.b64encode(file.getvalue()).decode()


def from_text(text: str) -> Picture:
    """The picture that `as_text` wrote."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        return np.asarray(image.convert("RGB"))


def _power(pixels: Picture) -> tuple[Float[Array, "row column"], Float[Array, "row column"]]:
    """Power without each colour's mean, added over colours, and the cycles per pixel of every entry."""
    values = pixels / 255
    spectrum = np.fft.fft2(values - values.mean(axis=(0, 1)), axes=(0, 1))
    rows, columns = pixels.shape[:2]
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(columns)[None])
    return (np.abs(spectrum) ** 2).sum(axis=2), frequency


def _jpeg_bytes(pixels: Picture) -> int:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=QUALITY, subsampling=0)
    return len(file.getvalue())
