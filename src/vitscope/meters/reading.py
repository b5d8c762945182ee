"""One batch at one site, with the reductions over places that several meters share, each made once.

A scan may cost at most 15 % more than the bare forward pass, so the places are gone through image by image,
while one image's activations lie in the processor's cache, with float32 reductions over at most `STRETCH`
places that are then added up in float64. What float32 cannot be trusted with (not finite, or nearly
constant) is done again exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.data.source import ImageBatch
from vitscope.models.vision_model import Site

STRETCH = 256
"""Places that one float32 sum may span: an error below 256 x 2^-24, and 0.8 MB of cache for 768 units."""
CANCELLATION = 0.02
"""A spread below this share of the sum of squares lost digits in float32 and is done again in float64."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Reduced:
    """What is left of each image's places, per unit. What is not finite counts in `nan` and `infinite` only.

    Attributes:
        count: finite values.
        mean: of the finite values; NaN where there is none.
        spread: sum of squared deviations from `mean`.
        low: the smallest finite value; +inf where there is none.
        high: the largest finite value; -inf where there is none.
        zeros: values that are exactly zero.
        nan: values that are NaN.
        infinite: values that are +inf or -inf.
    """

    count: Int[Array, "*image unit"]
    mean: Float[Array, "*image unit"]
    spread: Float[Array, "*image unit"]
    low: Float[Array, "*image unit"]
    high: Float[Array, "*image unit"]
    zeros: Int[Array, "*image unit"]
    nan: Int[Array, "*image unit"]
    infinite: Int[Array, "*image unit"]

    @cached_property
    def all_finite(self) -> bool:
        """Nothing was left out."""
        return not (self.nan.any() or self.infinite.any())


class Reading:
    """One batch at one site, as a scan hands it to every meter that wants the site. Valid during the call.

    Args:
        site: where it was read.
        activations: "image place unit", any float type, on any device.
        batch: the images.
    """

    def __init__(self, site: Site, activations: Activations, batch: ImageBatch) -> None:
        self.site = site
        self.activations = activations
        self.batch = batch
        self.prefix = site.prefix_tokens if site.grid else 0
        """How many places come before those that lie on the image."""
        cuda = activations.device.type == "cuda"
        self._values = activations.detach().float() if cuda else activations.detach().float().cpu()
        self._host: Array | None = None if cuda else self._values.numpy()
        self._reduced: dict[bool, Reduced] = {}

    @property
    def units(self) -> int:
        """Length of the unit axis, as read."""
        return self.activations.shape[-1]

    def reduced(self, *, prefix_included: bool = False) -> Reduced:
        """The reductions over each image's places: those on the image, and the prefix only where included."""
        if prefix_included not in self._reduced:
            first = 0 if prefix_included else self.prefix
            if self._host is None:
                self._reduced[prefix_included] = _exact(self._values[:, first:])
            else:
                self._reduced[prefix_included] = _quick(self._host[:, first:])
        return self._reduced[prefix_included]

    def rows(
        self, images: Int[Array, " pick"], units: Int[Array, " pick"], *, first: int = 0
    ) -> Float[Array, "pick place"]:
        """The places from `first` on, prefix before grid, of some (image, unit) pairs; a copy."""
        if self._host is not None:
            return self._host[:, first:].transpose(0, 2, 1)[images, units]
        device = self._values.device
        pairs = torch.from_numpy(images).to(device), torch.from_numpy(units).to(device)
        found: Array = self._values[:, first:].transpose(1, 2)[pairs].cpu().numpy()
        return found


def _quick(values: Float[Array, "image place unit"]) -> Reduced:
    """On a processor: float32 within a stretch, float64 beyond, and once more where that is not enough."""
    images, count, units = values.shape
    total, squares = np.zeros((2, images, units))
    low = np.full((images, units), np.inf, np.float32)
    high = np.full((images, units), -np.inf, np.float32)
    zeros = np.zeros((images, units), np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        for image in range(images):
            for start in range(0, count, STRETCH):
                part = values[image, start : start + STRETCH]
                total[image] += np.add.reduce(part, axis=0)
                squares[image] += np.einsum("pu,pu->u", part, part)
                np.minimum(low[image], np.minimum.reduce(part, axis=0), out=low[image])
                np.maximum(high[image], np.maximum.reduce(part, axis=0), out=high[image])
                is_zero = part == 0
                if is_zero.any():
                    zeros[image] += np.add.reduce(is_zero, axis=0, dtype=np.int64)
        mean = total / count
        spread = squares - total * mean
        flat = spread < CANCELLATION * squares
        wild = ~np.isfinite(squares)
    whole, none = np.full((images, units), count), np.zeros((2, images, units), np.int64)
    found = Reduced(whole, mean, spread, low, high, zeros, none[0], none[1])
    flat &= ~wild
    for image in range(images):
        if flat[image].any():
            _refine(found, values, image, np.flatnonzero(flat[image]))
        if wild[image].any():
            _replace(found, values, image, np.flatnonzero(wild[image]))
    return found


def _refine(found: Reduced, values: Array, image: int, units: Int[Array, " unit"]) -> None:
    """Mean and spread of a few columns in float64 and two passes, for finite values that hardly differ."""
    wide = values[image].T[units].astype(np.float64)
    mean = wide.mean(axis=1)
    wide -= mean[:, None]
    found.mean[image, units], found.spread[image, units] = mean, np.einsum("up,up->u", wide, wide)


def _replace(found: Reduced, values: Array, image: int, units: Int[Array, " unit"]) -> None:
    """All reductions of a few columns, exactly, for values that are not finite or whose squares are not."""
    again = _exact(torch.from_numpy(values[image][:, units]))
    for field in fields(Reduced):
        getattr(found, field.name)[image, units] = getattr(again, field.name)


def _exact(values: Float[Tensor, "*image place unit"]) -> Reduced:
    """In float64 and two passes, each value looked at: slow on a processor, fine on a GPU."""
    wide = values.double()
    finite = wide.isfinite()
    count = finite.sum(-2)
    mean = torch.where(finite, wide, 0.0).sum(-2) / count
    spread = torch.where(finite, wide - mean.unsqueeze(-2), 0.0).square().sum(-2)
    low = torch.where(finite, values, torch.inf).amin(-2)
    high = torch.where(finite, values, -torch.inf).amax(-2)
    nan = wide.isnan().sum(-2)
    infinite = wide.isinf().sum(-2)
    zeros = (wide == 0).sum(-2)
    return Reduced(*(one.cpu().numpy() for one in (count, mean, spread, low, high, zeros, nan, infinite)))
