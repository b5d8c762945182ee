"""The small drawings of a page: histograms as coordinates for an SVG, numbers as text, and image types.

Nothing here knows an atlas: numbers go in, pictures come out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
}
"""First bytes -> type, for the formats that are served beside WebP. SVG can hold scripts: not here."""


def media_type(content: bytes) -> str | None:
    """The type of an image by its first bytes; None for what may not be served as an image."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "image/webp"
    return next((kind for start, kind in SIGNATURES.items() if content.startswith(start)), None)


@dataclass(frozen=True)
class Bar:
    """One bin of a chart: its rectangle in the chart's units, and what it says when pointed at."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Tick:
    """A place on an axis with its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A histogram with logarithmic counts, as coordinates for an SVG of `width` x `height`."""

    width: float
    height: float
    bars: tuple[Bar, ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    marks: tuple[Tick, ...]
    dream: Tick | None = None


def number(value: float, *, digits: int = 3) -> str:
    """A number for people: few digits, no exponent where it can be avoided, an ASCII-free minus sign."""
    if not math.isfinite(value):
        return "not finite" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return text.replace("-", "−")


def figure(value: float) -> str:
    """A number that stands in a column of its like: three digits, zeros at the end kept."""
    if not (math.isfinite(value) and 0.001 <= abs(value) < 1000):
        return number(value)
    return f"{value:.{2 - math.floor(math.log10(abs(value)))}f}".replace("-", "−")


def fact(value: object) -> str:
    """Any value of a table, for people."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", "−")
    return number(value, digits=4) if isinstance(value, float) else str(value)


def histogram_chart(
    edges: Sequence[float],
    counts: Sequence[int],
    *,
    marks: Sequence[float] = (),
    dream: float | None = None,
    width: float = 420.0,
) -> Chart:
    """Lay out a histogram.

    Bins are drawn equally wide whatever their edges (these are fixed before a scan and need not be even), and
    only from the first to the last that holds something.

    Args:
        edges: finite and rising.
        counts: one more than edges; the first and the last bin are open.
        marks: values to point at on the axis, such as the exemplars'.
        dream: one more value to point at, or None.
        width: of the drawing, in its own units.
    """
    height = 110.0
    first, stop = _filled(counts)
    if dream is not None:
        stop = max(stop, min(len(counts), int(np.searchsorted(edges, dream)) + 1))
    step = width / (stop - first)
    tallest = math.log1p(max([*counts, 1]))
    bars = []
    for index in range(first, stop):
        if counts[index]:
            tall = max(2.0, math.log1p(counts[index]) / tallest * height)
            title = f"{_span(edges, index)}: {counts[index]:,}"
            bars.append(Bar((index - first) * step, height - tall, step, tall, title))
    stride = max(1, math.ceil((stop - first) / 6))
    borders = range(max(first, 1), min(stop, len(edges)) + 1, stride)
    powers = [power for power in range(16) if math.log1p(10**power) <= tallest]
    return Chart(
        width=width,
        height=height,
        bars=tuple(bars),
        across=tuple(Tick((border - first) * step, number(edges[border - 1])) for border in borders),
        up=tuple(
            Tick(height - math.log1p(10**power) / tallest * height, f"{10**power:,}") for power in powers
        ),
        marks=tuple(Tick(_bin_of(value, edges, first, stop) * step, number(value)) for value in marks),
        dream=None if dream is None else Tick(_bin_of(dream, edges, first, stop) * step, number(dream)),
    )


def _filled(counts: Sequence[int]) -> tuple[int, int]:
    """The range of bins to draw: from the first to the last that holds something, and one more each side."""
    full = [index for index, count in enumerate(counts) if count] or [0]
    return max(0, full[0] - 1), min(len(counts), full[-1] + 2)


def _span(edges: Sequence[float], index: int) -> str:
    if index == 0:
        return f"below {number(edges[0])}"
    if index == len(edges):
        return f"{number(edges[-1])} and above"
    return f"{number(edges[index - 1])} to {number(edges[index])}"


def _bin_of(value: float, edges: Sequence[float], first: int, stop: int) -> float:
    """Where a value falls, in bins from the first one drawn; values in an open bin lie in its middle."""
    at = np.interp(value, edges, np.arange(1, len(edges) + 1), left=0.5, right=len(edges) + 0.5)
    return float(np.clip(at, first, stop)) - first
