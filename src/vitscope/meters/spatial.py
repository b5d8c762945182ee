"""Where in the image a place still finds its own pixels: Gram matrices of places, and of image patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from vitscope.arrays import Pixels
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.gathering import GRAM, GramState
from vitscope.meters.grams import LEAST
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites


@dataclass(frozen=True)
class SpatialGrams:
    """Gram matrices of every place of a site's grid, and of every patch of the pixels beneath.

    The result holds them under the names `place_of` and `patch_of` give, in raster order.

    >>> found = scan(model, source, [SpatialGrams("blocks.11")])["spatial_grams"]   # doctest: +SKIP

    Args:
        site: whose places. Prefix tokens have no pixels of their own and are left out.
        gram: images in a Gram batch; a state grows by 2 `gram` bytes for every image, place and patch.

    Raises:
        BadValue: a Gram batch of fewer than four images.
    """

    site: str
    gram: int = field(default=GRAM, kw_only=True)
    name = "spatial_grams"

    def __post_init__(self) -> None:
        if self.gram < LEAST:
            raise BadValue(f"gram counts the images of a Gram batch and is at least {LEAST}, not {self.gram}")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The site.

        Raises:
            UnknownSite: there is none of that name.
            Unsuited: its places are no grid on the image.
        """
        site = sites.named(self.site)
        if site.grid is None or site.grid == (1, 1):
            raise Unsuited(f"{site.name} has no grid of places on the image: take a site that has one")
        return [site]

    def start(self, sites: Sequence[Site]) -> SpatialState:
        """A state that has seen nothing."""
        return SpatialState(self, sites[0])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> SpatialState:
        """The state that `SpatialState.arrays` described."""
        return self.start(sites).loaded(arrays)


class SpatialState(GramState):
    """The Gram matrices so far. How large a patch is shows with the first images."""

    def __init__(self, meter: SpatialGrams, site: Site) -> None:
        self.meter, self.site = meter, site
        cells = list(np.ndindex(*(site.grid or (1, 1))))
        self._places, self._patches = list(map(place_of, cells)), list(map(patch_of, cells))
        super().__init__(dict.fromkeys((*self._places, *self._patches), site.units), meter.gram)

    def fresh(self) -> SpatialState:
        """A state of the same meter that has seen nothing."""
        return SpatialState(self.meter, self.site)

    def read(self, reading: Reading) -> None:
        """Take in one batch: its activations, and the pixels that the model was shown."""
        patches = patches_of(reading.batch.pixels, self.site.grid or (1, 1))
        self._sizes.update(dict.fromkeys(self._patches, int(patches.shape[2])))
        values = reading.activations.detach()[:, reading.prefix :].float().cpu().numpy()
        both = ((self._places, values), (self._patches, patches))
        for names, features in both:
            for index, name in enumerate(names):
                self.take(name, reading.batch.ids, np.ascontiguousarray(features[:, index]))


def place_of(cell: tuple[int, ...]) -> str:
    """The name of a place's matrix: "place 2,3"."""
    return "place {},{}".format(*cell)


def patch_of(cell: tuple[int, ...]) -> str:
    """The name of the matrix of the pixels beneath: "patch 2,3"."""
    return "patch {},{}".format(*cell)


def patches_of(pixels: Pixels, grid: tuple[int, int]) -> Array:
    """The pixels beneath every place, "image place feature"; a rim that does not divide evenly is left out.

    Raises:
        Unsuited: the grid is finer than the pixels.
    """
    (rows, columns), (high, wide) = grid, pixels.shape[2:]
    down, across = high // rows, wide // columns
    if not (down and across):
        raise Unsuited(f"a grid of {rows} x {columns} is finer than an image of {high} x {wide} pixels")
    top, left = (high - rows * down) // 2, (wide - columns * across) // 2
    inner = pixels[:, :, top : top + rows * down, left : left + columns * across]
    pattern = "image rgb (row down) (column across) -> image (row column) (rgb down across)"
    found: Array = rearrange(inner, pattern, row=rows, column=columns).float().cpu().numpy()
    return found
