"""The foreground of one image: the pixels inside its boxes, or those that its mask marks."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from math import ceil, floor
from typing import TypeAlias

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from vitscope.errors import BadValue

Corners: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom of a box, in pixels, as lines between pixels: (0, 0, 1, 1) is one pixel."""
MODES = ("1", "L", "P", "I;16", "I;16B", "I")
"""What a mask may be: values or palette indices, one a pixel."""


@dataclass(frozen=True)
class Boxes:
    """Some boxes; a pixel that several of them cover counts once, and one that is cut counts whole.

    Attributes:
        corners: of each box. One without extent has no pixel.
    """

    corners: tuple[Corners, ...]

    def inside(self, rows: int, columns: int) -> Bool[np.ndarray, "row column"]:
        """Which pixels of a picture of that size lie in a box."""
        found = np.zeros((rows, columns), bool)
        for left, top, right, bottom in self.corners:
            if left < right and top < bottom:
                down, across = slice(max(0, floor(top)), max(0, ceil(bottom))), (floor(left), ceil(right))
                found[down, max(0, across[0]) : max(0, across[1])] = True
        return found


@dataclass(frozen=True)
class Mask:
    """A PNG with one value a pixel.

    Attributes:
        name: of the file.
        content: its bytes.
        values: those that mark the foreground; None for all but 0.
    """

    name: str
    content: bytes = field(repr=False)
    values: frozenset[int] | None = None

    def inside(self, rows: int, columns: int) -> Bool[np.ndarray, "row column"]:
        """Which pixels the mask marks.

        Raises:
            BadValue: it is no readable PNG with one channel, or of another size than the picture.
        """
        found = self._decoded(rows, columns)
        marked: Bool[np.ndarray, "row column"] = (
            found != 0 if self.values is None else np.isin(found, list(self.values))
        )
        return marked

    def _decoded(self, rows: int, columns: int) -> np.ndarray:
        try:
            with self._open() as image:
                size, mode = image.size, image.mode
            if size == (columns, rows) and mode in MODES:
                return self._loaded()
        except Exception as error:  # what damaged bytes raise has no end
            raise BadValue(f"the mask {self.name} cannot be read: {error}") from error
        if mode not in MODES:
            raise BadValue(f"the mask {self.name} has the mode {mode}, not one value a pixel")
        raise BadValue(f"the mask {self.name} is {size[0]} x {size[1]}, its image {columns} x {rows}")

    def _loaded(self) -> np.ndarray:
        with self._open() as image:
            image.verify()  # the checksums, which loading does not look at
        with self._open() as image:
            image.load()
            return np.asarray(image)

    def _open(self) -> Image.Image:
        return Image.open(BytesIO(self.content), formats=("PNG",))


def shares(
    foreground: Float[Tensor, "image row column"], grid: tuple[int, int]
) -> Float[Tensor, "image place"]:
    """The share of foreground in each place of a grid, in raster order, in [0, 1]; NaN stays NaN.

    Places whose edges cut pixels count these in part, so that all places have the same size.

    >>> shares(batch.foreground, site.grid)   # doctest: +SKIP
    """
    for axis, count in zip((1, 2), grid, strict=True):
        foreground = foreground.movedim(axis, -1) @ _overlap(foreground.shape[axis], count).to(foreground)
        foreground = foreground.movedim(-1, axis)
    return rearrange(foreground, "image row column -> image (row column)").clamp(0, 1)


def _overlap(length: int, count: int) -> Float[Tensor, "pixel place"]:
    """Of each place, how much of it each pixel is: columns sum to one."""
    edges = torch.arange(count + 1, dtype=torch.float64) * (length / count)
    pixels = torch.arange(length, dtype=torch.float64)[:, None]
    common = torch.minimum(pixels + 1, edges[1:]) - torch.maximum(pixels, edges[:-1])
    return common.clamp(min=0) * (count / length)
