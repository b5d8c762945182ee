"""Heat maps: activations over the places of a site, as pictures to lay over what the model saw.

Nothing here knows an atlas: numbers go in, pictures come out.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

OPACITY = 0.92
"""Opacity of the hottest cell; below it falls with the value, so that cold cells hide nothing."""

INFERNO = (
    (30, 12, 69), (62, 9, 102), (92, 18, 110), (120, 28, 109), (151, 39, 102),
    (179, 50, 90), (204, 66, 72), (227, 89, 51), (242, 116, 28), (250, 148, 7),
    (251, 184, 29), (245, 219, 76), (245, 249, 146),
)  # fmt: skip
"""Matplotlib's inferno (CC0) at 13 even steps from 0.12 to 0.98: its lightness rises evenly, and colour-blind
readers see it; importing matplotlib would hold up the first page by a second. Steps between are mixed."""


@cache
def _colours() -> UInt8[np.ndarray[Any, Any], "256 4"]:
    """The colours of the levels 0 to 255, with rising opacity."""
    steps, levels = np.linspace(0, 1, len(INFERNO)), np.linspace(0, 1, 256)
    rgb = [np.interp(levels, steps, channel) for channel in np.array(INFERNO).T]
    return np.stack([*rgb, levels**1.4 * OPACITY * 255], axis=1).round().astype(np.uint8)


def heat_map(
    levels: UInt8[np.ndarray[Any, Any], "row column"], spans: Sequence[tuple[float, float]]
) -> bytes:
    """A PNG of one pixel a place, to be laid over its picture: transparent where cold, bright where hot.

    Args:
        levels: the patch map of one exemplar; 0 means the first span's low end, 255 its high end.
        spans: that of this map, then those of the maps it is shown with; colours are shared by all of them.
    """
    low, high = spans[0]
    coldest, hottest = shared_span(spans)
    values = low + levels / 255 * (high - low)
    heat = np.clip((values - coldest) / ((hottest - coldest) or 1), 0, 1)
    return _png(_colours()[(heat * 255).round().astype(np.uint8)])


def shared_span(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """The values that the ends of the colour scale stand for: lowest low and highest high that are finite."""
    ends = [end for span in spans for end in span if math.isfinite(end)] or [0.0]
    return min(ends), max(ends)


def colour_scale() -> bytes:
    """The legend of `heat_map`, 256 x 1 pixels, as PNG."""
    return _png(_colours()[None])


def _png(pixels: UInt8[np.ndarray[Any, Any], "row column 4"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
