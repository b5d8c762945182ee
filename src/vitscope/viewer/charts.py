"""Charts of a whole model: one number of each site, from first to last, as coordinates for an SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vitscope.viewer.pictures import Tick, number

WIDTH, HEIGHT = 300.0, 96.0
"""Of a chart, in its own units."""


@dataclass(frozen=True)
class Dot:
    """One site in a chart."""

    x: float
    y: float
    name: str
    text: str


@dataclass(frozen=True)
class Curve:
    """The sites of one family, such as blocks.*.ffn; `path` joins them in order."""

    family: str
    path: str
    dots: tuple[Dot, ...]


@dataclass(frozen=True)
class DepthChart:
    """One number over the depth of the model."""

    title: str
    meaning: str
    curves: tuple[Curve, ...]
    up: tuple[Tick, ...]
    width: float = WIDTH
    height: float = HEIGHT


def family_of(site: str) -> str:
    """The name of a site without its numbers: blocks.*.ffn."""
    return ".".join("*" if part.isdigit() else part for part in site.split("."))


def depth_chart(
    title: str, values: Mapping[str, float | None], *, meaning: str, per_cent: bool = False
) -> DepthChart | None:
    """Lay out a number that the sites have; None where fewer than two of them have it.

    Args:
        title: what it is, in two words.
        values: site -> its value, in the order of the forward pass; None or NaN where it has none.
        meaning: one sentence.
        per_cent: whether values are shares that are shown as per cent.
    """
    kept = {name: value for name, value in values.items() if value is not None and math.isfinite(value)}
    if len(kept) < 2:
        return None
    low, high = min(0.0, *kept.values()), max(0.0, *kept.values())
    span = (high - low) or 1.0
    places = {name: (index + 0.5) / len(values) * WIDTH for index, name in enumerate(values)}
    families: dict[str, list[Dot]] = {}
    for name, value in kept.items():
        dot = Dot(places[name], HEIGHT * (1 - (value - low) / span), name, _text(value, per_cent))
        families.setdefault(family_of(name), []).append(dot)
    curves = tuple(Curve(family, _path(dots), tuple(dots)) for family, dots in families.items())
    ticks = [low, high] if low < 0 < high else [low or 0.0, high or 0.0]
    up = tuple(Tick(HEIGHT * (1 - (value - low) / span), _text(value, per_cent)) for value in ticks)
    return DepthChart(title, meaning, curves, up)


def _text(value: float, per_cent: bool) -> str:
    return f"{number(100 * value)} %" if per_cent else number(value)


def _path(dots: Sequence[Dot]) -> str:
    return "M" + " L".join(f"{dot.x:.1f} {dot.y:.1f}" for dot in dots)
