"""Rotations and shifts of what a model is shown. The foreground moves with the pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, isfinite, radians, sin

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from vitscope.arrays import Pixels
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue


@dataclass(frozen=True, repr=False)
class Rotation:
    """Turns the view about its centre, counter-clockwise. Corners that nothing reaches become black."""

    degrees: float | int

    def __post_init__(self) -> None:
        if not isfinite(self.degrees):
            raise BadValue(f"an angle must be a number of degrees, not {self.degrees}")

    def __call__(self, pixels: Pixels) -> Pixels:
        """The pixels, turned: exactly by whole right angles of a square, else bilinear."""
        rows, columns = pixels.shape[-2:]
        if self.degrees % 180 == 0 or (self.degrees % 90 == 0 and rows == columns):
            return pixels.rot90(round(self.degrees / 90), (-2, -1))
        turn = radians(self.degrees)
        source = [
            [cos(turn), -sin(turn) * rows / columns, 0.0],
            [sin(turn) * columns / rows, cos(turn), 0.0],
        ]
        each = pixels.new_tensor(source).expand(len(pixels), 2, 3)
        places = affine_grid(each, list(pixels.shape), align_corners=False)
        return grid_sample(pixels, places, mode="bilinear", padding_mode="zeros", align_corners=False)

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, turned."""
        return moved(batch, self)

    def __repr__(self) -> str:
        return f"rotate({self.degrees})"


@dataclass(frozen=True, repr=False)
class Shift:
    """Moves the view down and to the right, by whole pixels."""

    rows: int
    columns: int
    edge: str

    def __post_init__(self) -> None:
        if self.edge not in ("wrap", "black"):
            raise BadValue(f"no edge {self.edge!r}. There are: wrap, black.")

    def __call__(self, pixels: Pixels) -> Pixels:
        """The pixels, moved."""
        found = pixels.roll((self.rows, self.columns), (-2, -1))
        if self.edge == "black":
            for axis, by in ((-2, self.rows), (-1, self.columns)):
                length = found.shape[axis]
                start, stop = (0, min(by, length)) if by > 0 else (max(0, length + by), length)
                found.narrow(axis, start, stop - start).zero_()
        return found

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, moved."""
        return moved(batch, self)

    def __repr__(self) -> str:
        return f"shift({self.rows}, {self.columns}, edge={self.edge!r})"


def rotate(degrees: float | int) -> Rotation:
    """Turn the view counter-clockwise about its centre; black where nothing is.

    Raises:
        BadValue: the angle is no number.

    >>> [rotate(20 * step) for step in range(18)]   # as Ghiasi et al. 2022 do   # doctest: +SKIP
    """
    return Rotation(degrees)


def shift(rows: int, columns: int, *, edge: str = "wrap") -> Shift:
    """Move the view down by `rows` and right by `columns` pixels; negative numbers move up and left.

    What leaves at one edge enters at the other ("wrap", as the code of Ghiasi et al. 2022 does), or is lost.

    Raises:
        BadValue: there is no such edge.
    """
    return Shift(rows, columns, edge)


def moved(batch: ImageBatch, move: Callable[[Tensor], Tensor]) -> ImageBatch:
    """The batch with its pixels and its foreground moved alike; where the foreground is unknown it stays so.

    Args:
        batch: the images.
        move: from "image channel row column" to the same.
    """
    foreground = batch.foreground
    if foreground is not None:
        unknown = foreground.isnan().flatten(1).any(1)
        foreground = move(foreground.nan_to_num()[:, None])[:, 0].clone()
        foreground[unknown] = torch.nan
    return replace(batch, pixels=move(batch.pixels), foreground=foreground)
