"""Thumbnails as tiles of sheets, where an export would have too many files with one file each."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitscope.atlas.leaf import webp
from vitscope.atlas.read import Atlas
from vitscope.errors import AtlasError, UnknownName

SIDES = (4, 16)
"""Tiles in a row of a sheet, and rows: the first that is enough."""
QUALITY = 80
"""Of the WebP of a sheet, as of a thumbnail."""


@dataclass(frozen=True)
class Tile:
    """Where a thumbnail lies.

    Attributes:
        number: of the sheet.
        row, column: of the tile.
        side: how many tiles a row of the sheet has.
    """

    number: int
    row: int
    column: int
    side: int


@dataclass(frozen=True, eq=False)
class Sheets:
    """All thumbnails of an atlas in the order of their identities, so many to a sheet.

    Attributes:
        images: their identities, in order.
        each: thumbnails a sheet.
    """

    images: NDArray[Any] = field(repr=False)
    each: int

    @classmethod
    def of(cls, images: NDArray[Any], *, files: int) -> Sheets:
        """As few to a sheet as leave at most so many files."""
        return cls(images, min(-(-len(images) // max(1, files)), SIDES[-1] ** 2))

    @property
    def side(self) -> int:
        """How many tiles a row has."""
        return next(side for side in SIDES if side * side >= self.each)

    def __len__(self) -> int:
        return -(-len(self.images) // self.each)

    def tile(self, image: str) -> Tile:
        """Where the thumbnail of an image lies.

        Raises:
            AtlasError: there is no such image.
        """
        at = int(np.searchsorted(self.images, image.encode()))
        if at == len(self.images) or self.images[at] != image.encode():
            raise AtlasError(f"the image {image} is in no sheet")
        number, place = divmod(at, self.each)
        return Tile(number, *divmod(place, self.side), self.side)

    def sheet(self, atlas: Atlas, number: int) -> bytes:
        """One sheet as WebP; the tile of a thumbnail that cannot be read stays grey.

        Raises:
            UnknownName: there is no such sheet.
            AtlasError: none of its thumbnails can be read.
        """
        if not 0 <= number < len(self):
            raise UnknownName(f"There are the sheets 0 to {len(self) - 1}.")
        found = dict(self._pictures(atlas, number))
        if not found:
            raise AtlasError(f"no thumbnail of sheet {number} can be read")
        width, height = next(iter(found.values())).size
        side = self.side
        whole = Image.new("RGB", (side * width, side * height), (128, 128, 128))
        for place, picture in found.items():
            row, column = divmod(place, side)
            whole.paste(picture, (column * width, row * height))
        return webp(whole, quality=QUALITY)

    def _pictures(self, atlas: Atlas, number: int) -> Iterator[tuple[int, Image.Image]]:
        for place, image in enumerate(self.images[number * self.each : (number + 1) * self.each]):
            try:
                content = atlas.thumbnail(image.decode())
                with Image.open(io.BytesIO(content), formats=["WEBP"]) as picture:
                    yield place, picture.convert("RGB")
            except (AtlasError, OSError):
                continue
