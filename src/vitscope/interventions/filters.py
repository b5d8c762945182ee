"""Filters of spatial frequencies: what a model sees of an image without its fine, or its coarse, detail.

Ghiasi et al. 2022 show such a figure but not its settings; radii are in cycles per image, so that models with
inputs of different sizes can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, suggestion

SHAPES = ("disk", "gaussian", "square")
"""What may be let through: see `Filter`."""
GREY = 0.5
"""What a high-pass adds by default: without it all that is darker than the mean would become black, and half
of the detail would be lost."""


@dataclass(frozen=True, repr=False)
class Filter:
    """Keeps the frequencies below or above a radius, in each channel.

    Attributes:
        direction: whether "low" or "high" frequencies are kept.
        radius: in cycles per image, along each axis of the view.
        shape: "disk" keeps distances of at most the radius from frequency 0, "square" keeps both components
            of at most the radius, "gaussian" weighs by exp(-distance^2 / 2 radius^2).
        level: added before the result is cut to [0, 1].
    """

    direction: Literal["low", "high"]
    radius: float | int
    shape: str
    level: float | int = 0.0

    def __post_init__(self) -> None:
        if not (self.radius >= 0 and isfinite(self.radius)):
            raise BadValue(f"the radius must be a number from 0 up, in cycles per image, not {self.radius}")
        if self.shape not in SHAPES:
            near = suggestion(self.shape, SHAPES)
            raise BadValue(f"no filter {self.shape!r}.{near} There are: {', '.join(SHAPES)}.")

    def unclamped(self, pixels: Pixels) -> Pixels:
        """What passes, neither raised nor cut: low and high of one radius and shape add up to the pixels."""
        rows, columns = pixels.shape[-2:]
        passing = transmission(rows, columns, self.radius, self.shape).to(pixels)
        if self.direction == "high":
            passing = 1 - passing
        found: Tensor = torch.fft.irfft2(torch.fft.rfft2(pixels) * passing, s=(rows, columns))
        return found

    def __call__(self, pixels: Pixels) -> Pixels:
        """What passes, raised by `level` and cut to [0, 1]."""
        return self.unclamped(pixels).add_(self.level).clamp_(0, 1)

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, filtered."""
        return replace(batch, pixels=self(batch.pixels))

    def __repr__(self) -> str:
        level = f", level={self.level}" if self.direction == "high" else ""
        return f"{self.direction}_pass(radius={self.radius}, shape={self.shape!r}{level})"


def low_pass(*, radius: float | int, shape: str = "disk") -> Filter:
    """Keep frequencies of at most `radius` cycles per image; the result is cut to [0, 1].

    With the radius 0 each channel is its mean. Half the side is no "no filter": a disk of that radius still
    lacks the corners, up to half the diagonal.

    Raises:
        BadValue: the radius is negative or no number, or there is no such shape.

    >>> images.map(low_pass(radius=32))   # doctest: +SKIP
    """
    return Filter("low", radius, shape)


def high_pass(*, radius: float | int, shape: str = "disk", level: float | int = GREY) -> Filter:
    """Keep what `low_pass` with the same settings removes, around the grey `level`; cut to [0, 1].

    Raises:
        BadValue: the radius is negative or no number, or there is no such shape.

    >>> images.map(high_pass(radius=8))   # doctest: +SKIP
    """
    return Filter("high", radius, shape, level)


@lru_cache(maxsize=64)
def transmission(rows: int, columns: int, radius: float | int, shape: str) -> Float[Tensor, "row half"]:
    """How much of each frequency passes a low-pass, 0 to 1, in the order of `torch.fft.rfft2`."""
    down = torch.fft.fftfreq(rows, 1 / rows, dtype=torch.float64)[:, None].abs()
    across = torch.fft.rfftfreq(columns, 1 / columns, dtype=torch.float64)[None].abs()
    distance = torch.hypot(down, across)
    if shape == "square":
        weights: Tensor = torch.maximum(down, across) <= radius
    elif shape == "disk" or radius == 0:  # a Gaussian of no width lets the mean pass alone
        weights = distance <= radius
    else:
        weights = torch.exp(-((distance / radius) ** 2) / 2)
    return weights.double()
