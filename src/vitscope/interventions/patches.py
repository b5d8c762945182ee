"""Patches of a view that are blackened or change places (Nguyen et al. 2022; Naseer et al. 2021, PatchDrop).

Which patches is drawn for each image by itself, from the seed and the image's id, so that the other images of
a batch do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import floor

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitscope.arrays import Pixels
from vitscope.data.foregrounds import shares
from vitscope.data.source import ImageBatch
from vitscope.draws import generator
from vitscope.errors import BadValue, suggestion
from vitscope.interventions.movements import moved

AMONG = ("all", "foreground", "background")
"""Which patches may be dropped."""
COVERED = 0.15
"""A patch counts as foreground where more than this share of it is (Nguyen et al. 2022, their
`OcclusionCreate.ipynb`)."""
_SPLIT = "image rgb (row r) (column c) -> image (row column) rgb r c"
_JOIN = "image (row column) rgb r c -> image rgb (row r) (column c)"


@dataclass(frozen=True, repr=False)
class DroppedPatches:
    """Fills a share of the patches with one value.

    Attributes:
        share: of the patches concerned, 0 to 1; what is left of a patch is not dropped.
        patch: side of a patch, in pixels of the view.
        among: the patches concerned: "all", or those that are mostly "foreground", or the other ones.
        seed: of the choice. With a larger share the same patches are dropped, and more.
        fill: what they are filled with, 0 to 1.
    """

    share: float | int
    patch: int
    among: str
    seed: int
    fill: float | int

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 <= self.fill <= 1):
            raise BadValue(f"share and fill must lie between 0 and 1, not {self.share} and {self.fill}")
        if self.among not in AMONG:
            near = suggestion(self.among, AMONG)
            raise BadValue(f"no patches {self.among!r}.{near} There are: {', '.join(AMONG)}.")

    def chosen(
        self,
        ids: Sequence[str],
        grid: tuple[int, int],
        *,
        foreground: Float[Tensor, "image row column"] | None = None,
    ) -> Bool[Tensor, "image place"]:
        """Which places of the grid are dropped, in raster order.

        Raises:
            BadValue: it depends on the foreground, and that of an image is unknown.
        """
        concerned = self._concerned(ids, grid, foreground)
        found = torch.zeros(len(ids), grid[0] * grid[1], dtype=torch.bool)
        for image, name in enumerate(ids):
            places = concerned[image].nonzero()[:, 0]
            order = generator(self.seed, name).permutation(len(places))
            count = floor(self.share * len(places) + 1e-9)  # 0.29 * 100 is 28.999999999999996
            found[image, places[torch.from_numpy(order[:count])]] = True
        return found

    def _concerned(
        self, ids: Sequence[str], grid: tuple[int, int], foreground: Float[Tensor, "image row column"] | None
    ) -> Bool[Tensor, "image place"]:
        if self.among == "all":
            return torch.ones(len(ids), grid[0] * grid[1], dtype=torch.bool)
        if foreground is None or foreground.isnan().any():
            raise BadValue(f"{self!r} needs to know the foreground of every image: give boxes or masks")
        covered = shares(foreground.cpu(), grid) > COVERED
        return covered if self.among == "foreground" else ~covered

    def __call__(
        self,
        pixels: Pixels,
        *,
        ids: Sequence[str],
        foreground: Float[Tensor, "image row column"] | None = None,
    ) -> Pixels:
        """The pixels with the chosen patches filled."""
        grid = grid_of(pixels, self.patch)
        dropped = self.chosen(ids, grid, foreground=foreground).to(pixels.device)
        parts = rearrange(pixels, _SPLIT, r=self.patch, c=self.patch)
        filled = torch.where(dropped[:, :, None, None, None], self.fill, parts)
        return rearrange(filled, _JOIN, row=grid[0])

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch without the chosen patches; nothing of the foreground is left in them either."""
        pixels = self(batch.pixels, ids=batch.ids, foreground=batch.foreground)
        if batch.foreground is None:
            return replace(batch, pixels=pixels)
        black = replace(self, fill=0.0)
        visible = black(batch.foreground[:, None], ids=batch.ids, foreground=batch.foreground)[:, 0]
        return replace(batch, pixels=pixels, foreground=visible)

    def __repr__(self) -> str:
        return (
            f"drop_patches(share={self.share}, patch={self.patch}, among={self.among!r}, seed={self.seed}, "
            f"fill={self.fill})"
        )


@dataclass(frozen=True, repr=False)
class ShuffledPatches:
    """Puts the patches of each image in a random order.

    Attributes:
        patch: side of a patch, in pixels of the view.
        seed: of the order.
    """

    patch: int
    seed: int

    def orders(self, ids: Sequence[str], count: int) -> Int[Tensor, "image place"]:
        """Of each image, which of its `count` patches comes to which place."""
        drawn = [generator(self.seed, name).permutation(count) for name in ids]
        return torch.from_numpy(np.stack(drawn))

    def __call__(self, pixels: Pixels, *, ids: Sequence[str]) -> Pixels:
        """The pixels, shuffled: place t shows what was at place `orders(...)[t]`."""
        rows, columns = grid_of(pixels, self.patch)
        order = self.orders(ids, rows * columns).to(pixels.device)
        parts = rearrange(pixels, _SPLIT, r=self.patch, c=self.patch)
        images = torch.arange(len(pixels), device=pixels.device)[:, None]
        return rearrange(parts[images, order], _JOIN, row=rows)

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, shuffled, and its foreground likewise."""
        return moved(batch, lambda pixels: self(pixels, ids=batch.ids))

    def __repr__(self) -> str:
        return f"shuffle_patches(patch={self.patch}, seed={self.seed})"


def drop_patches(
    *, share: float | int, patch: int, among: str = "all", seed: int = 0, fill: float | int = 0.0
) -> DroppedPatches:
    """Fill a share of the patches, of the whole view or of its foreground or background, with one value.

    Raises:
        BadValue: a number outside its range. Later, where the patches do not tile the view, or where the
            foreground matters and is unknown.

    >>> images.map(drop_patches(share=0.5, patch=16))   # doctest: +SKIP
    """
    return DroppedPatches(share, patch, among, seed, fill)


def shuffle_patches(*, patch: int, seed: int = 0) -> ShuffledPatches:
    """Put the patches of each image in a random order; the foreground moves with them.

    Raises:
        BadValue: later, where the patches do not tile the view.

    >>> images.map(shuffle_patches(patch=112))   # 2 x 2 of a view of 224   # doctest: +SKIP
    """
    return ShuffledPatches(patch, seed)


def grid_of(pixels: Float[Tensor, "image rgb row column"], patch: int) -> tuple[int, int]:
    """How many rows and columns of patches there are.

    Raises:
        BadValue: they do not tile the pixels.
    """
    rows, columns = pixels.shape[-2:]
    if patch < 1 or rows % patch or columns % patch:
        raise BadValue(f"patches of {patch} pixels do not tile a view of {rows} x {columns}")
    return rows // patch, columns // patch
