"""The detail of another resolution, in a view that keeps its size: how models of different input compare."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch.nn.functional import interpolate

from vitscope.arrays import Pixels
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue


@dataclass(frozen=True, repr=False)
class Coarse:
    """Shrinks the view and enlarges it again; the foreground stays.

    Attributes:
        side: length of the shorter side when it is smallest, in pixels.
    """

    side: int

    def __post_init__(self) -> None:
        if self.side < 1:
            raise BadValue(f"a view is at least 1 pixel wide, not {self.side}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """The pixels with what detail is left; unchanged where the view is as small as that.

        Raises:
            BadValue: the view is smaller than that.
        """
        rows, columns = pixels.shape[-2:]
        shorter = min(rows, columns)
        if shorter < self.side:
            raise BadValue(f"{self!r} cannot be shown to a model whose input is {rows} x {columns} pixels")
        if shorter == self.side:
            return pixels
        small = (round(rows * self.side / shorter), round(columns * self.side / shorter))
        shrunk = interpolate(pixels, small, mode="bilinear", antialias=True, align_corners=False)
        return interpolate(shrunk, (rows, columns), mode="bicubic", align_corners=False).clamp(0, 1)

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch with what detail is left."""
        return replace(batch, pixels=self(batch.pixels))

    def __repr__(self) -> str:
        return f"coarse({self.side})"


def coarse(side: int) -> Coarse:
    """Show no more detail than a view of so many pixels has, by whose shorter side it is measured.

    Shrinking averages (bilinear with antialiasing), enlarging is bicubic: as resizing for models is done.

    Raises:
        BadValue: less than a pixel; when used, a view that is smaller.

    >>> source.map(coarse(224))   # for a model that is shown 384 pixels   # doctest: +SKIP
    """
    return Coarse(side)
