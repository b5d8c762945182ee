"""Where the elements of a tensor lie: which image and place each belongs to, and which unit it is.

A layout is carried along while a model runs, from the pixels on. Functions that only move elements (views,
permutations, windows, rolls, padding) are run again on the numbers themselves, so whatever order a model
puts its tokens in is known exactly. Functions that compute (linear maps, convolutions, attention) have a rule
each in `layout_rules`. What no rule knows has no layout, and no site that needs one is offered there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

PREFIXES = 64
"""The most prefix tokens (CLS, distillation, registers) a layout can tell apart."""

Shape = tuple[int, ...]
Grid = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Layout:
    """Which image and place, and which unit, every element of a tensor belongs to.

    Attributes:
        grid: rows and columns of the grid that places are counted on.
        place: of the tensor's shape; 0 for elements that belong nowhere (padding), else
            1 + image * span + place, where grid cells come first in raster order, then prefix tokens.
        unit: of the tensor's shape; 0, or 1 + the unit. Of attention weights: 1 + the place of the key.
        source: number of the value whose units these are: the last linear map or convolution.
        keys: of attention weights: the grid of the keys; None for anything else.
    """

    grid: Grid
    place: Tensor
    unit: Tensor
    source: int
    keys: Grid | None = None

    @property
    def cells(self) -> int:
        """How many places lie on the image."""
        return self.grid[0] * self.grid[1]

    @property
    def span(self) -> int:
        """How far apart the numbers of two images are."""
        return self.cells + PREFIXES

    @property
    def shape(self) -> Shape:
        """The shape of the tensor."""
        return tuple(self.place.shape)

    @cached_property
    def lies_alike(self) -> tuple[bool, ...]:
        """For every axis: whether all along it has the same place."""
        return tuple(is_constant(self.place, axis) for axis in range(self.place.ndim))

    def same_places(self, other: Layout) -> bool:
        """Whether both put the same places at the same positions, padding aside."""
        if self is other:
            return True
        return self.grid == other.grid and self.shape == other.shape and _agree(self.place, other.place)

    def same_keys(self, other: Layout) -> bool:
        """Whether both, of attention weights, put the same keys at the same positions, padding aside."""
        if self is other:
            return True
        return self.keys == other.keys and self.shape == other.shape and _agree(self.unit, other.unit)

    @cached_property
    def has_padding(self) -> bool:
        """Whether some elements belong nowhere."""
        return bool((_thin(self.place) == 0).any())

    @cached_property
    def has_cells(self) -> bool:
        """Whether some elements lie on the image, and not all are prefix tokens or padding."""
        thin = _thin(self.place)
        parts = (thin[(slice(-2, None),) * thin.ndim], thin)  # a corner tells most often, and fast
        return any(bool(((part > 0) & ((part - 1) % self.span < self.cells)).any()) for part in parts)

    @cached_property
    def is_nowhere(self) -> bool:
        """Whether no element lies at any place: sums over all of them."""
        return not bool(_thin(self.place).any())

    @cached_property
    def image(self) -> Tensor:
        """The image of every element, 0 if it lies nowhere, without axes along which it is repeated."""
        thin = _thin(self.place)
        return torch.where(thin > 0, (thin - 1) // self.span, 0)

    def units_at_ends(self) -> tuple[Tensor, Tensor] | None:
        """The units, in order, at the first and at the last of its places; None if it has none."""
        thin = _thin(self.place)
        last = int(thin.max())
        if last == 0:
            return None
        first = int(torch.where(thin > 0, thin, last).min())
        return self._units_at(first), self._units_at(last)

    def _units_at(self, place: int) -> Tensor:
        """The units at one place, without comparing the axes along which places are repeated."""
        thin = _thin(self.place)
        spread = [axis for axis in range(thin.ndim) if thin.shape[axis] == self.shape[axis]]
        rest = [axis for axis in range(thin.ndim) if axis not in spread]
        rows = self.unit.permute(*spread, *rest)
        positions = thin.permute(*spread, *rest).flatten(len(spread)) if rest else thin.unsqueeze(-1)
        return rows[(positions[..., 0] == place)].flatten()

    def on(self, grid: Grid) -> Layout:
        """The same prefix tokens, numbered as those of another grid."""
        cells = grid[0] * grid[1]
        image, slot = (self.place - 1) // self.span, (self.place - 1) % self.span - self.cells
        place = torch.where(self.place > 0, 1 + image * (cells + PREFIXES) + cells + slot, 0)
        return replace(self, grid=grid, place=place.to(torch.int32))

    def turned(self) -> Layout:
        """The layout with its last two axes exchanged."""
        return self.move(lambda numbers: numbers.mT)

    def move(self, function: Callable[[Tensor], Tensor]) -> Layout:
        """The layout after a function that only moves elements."""
        return replace(self, place=function(self.place), unit=function(self.unit))

    def with_units(self, count: int, *, source: int) -> Layout | None:
        """The layout after a map from all units of a place to `count` new ones; None if it mixes places."""
        if not self.lies_alike[-1] or (self.keys and not is_constant(self.unit, -1)):
            return None
        shape = (*self.shape[:-1], count)
        unit = self.unit[..., :1] if self.keys else 1 + torch.arange(count, dtype=torch.int32)
        return Layout(self.grid, self.place[..., :1].expand(shape), unit.expand(shape), source, self.keys)


def of_map(shape: Shape, *, source: int) -> Layout:
    """The layout of a feature map "image unit row column" whose cells are places of their own."""
    images, units, rows, columns = shape
    span = rows * columns + PREFIXES
    cells = torch.arange(rows * columns, dtype=torch.int32).view(1, 1, rows, columns)
    image = torch.arange(images, dtype=torch.int32).view(images, 1, 1, 1)
    unit = torch.arange(units, dtype=torch.int32).view(1, units, 1, 1)
    return Layout((rows, columns), (1 + image * span + cells).expand(shape), (1 + unit).expand(shape), source)


def fresh(grid: Grid, place: Tensor, *, source: int) -> Layout:
    """The layout of a tensor whose axes, but for those along which the place changes, count new units."""
    axes = [axis for axis in range(place.ndim) if is_constant(place, axis)]
    shape = [size if axis in axes else 1 for axis, size in enumerate(place.shape)]
    unit = 1 + torch.arange(prod(shape), dtype=torch.int32).view(shape)
    return Layout(grid, place, unit.expand(place.shape), source)


def pairs(query: Layout, key: Layout, *, source: int) -> Layout | None:
    """The layout of attention weights "... query key", from those of queries and keys "... place unit".

    None where a query would see keys of another image.
    """
    if not (query.lies_alike[-1] and key.lies_alike[-1]):
        return None
    rows, columns = query.place[..., :1], key.place[..., :1].mT
    (low, high), (other_low, other_high) = _images(rows, query.span), _images(columns, key.span)
    if bool((torch.maximum(high, other_high) > torch.minimum(low, other_low)).any()):
        return None
    shape = tuple(torch.broadcast_shapes(rows.shape, columns.shape))  # type: ignore[no-untyped-call,unused-ignore]
    at = torch.where(columns > 0, 1 + (columns - 1) % key.span, 0).to(torch.int32)
    return Layout(query.grid, rows.expand(shape), at.expand(shape), source, key.grid)


def _images(place: Tensor, span: int) -> tuple[Tensor, Tensor]:
    """The first and the last image among the places of the last two axes; padding is of none."""
    image = (place - 1) // span
    first = torch.where(place > 0, image, torch.iinfo(place.dtype).max)
    return first.amin((-2, -1)), image.amax((-2, -1))


def is_map(layout: Layout) -> bool:
    """Whether it is that of a feature map "image unit row column"."""
    return (
        len(layout.shape) == 4
        and layout.keys is None
        and layout.shape[2:] == layout.grid
        and layout.same_places(of_map(layout.shape, source=0))
    )


def maps_like(layout: Layout, shape: Shape, *, source: int) -> Layout | None:
    """The layout after one feature map became another, of any size; heads may share the first axis.

    None where the last two axes are not the rows and columns of a grid.
    """
    if len(layout.shape) != 4 or layout.keys is not None or layout.shape[2:] != layout.grid:
        return None
    corner = layout.place[:, :1, :1, :1]
    cells = torch.arange(layout.cells, dtype=torch.int32).view(1, 1, *layout.grid)
    image = (corner - 1) // layout.span
    if not torch.equal(corner - 1, image * layout.span) or not _agree(
        layout.place, (corner + cells).expand(layout.shape)
    ):
        return None
    heads = shape[0] // (int(image.max()) + 1)
    made = of_map((shape[0], *shape[1:]), source=source)
    span = made.span
    place = 1 + image * span + torch.arange(made.cells, dtype=torch.int32).view(1, 1, *shape[2:])
    head = torch.arange(heads, dtype=torch.int32).repeat(shape[0] // heads).view(-1, 1, 1, 1)
    unit = 1 + head * shape[1] + torch.arange(shape[1], dtype=torch.int32).view(1, -1, 1, 1)
    return Layout(made.grid, place.expand(shape), unit.expand(shape), source)


def without_margins(layout: Layout) -> Layout:
    """The layout of a feature map without the rows and columns that padding put around it."""
    if len(layout.shape) != 4 or layout.shape[2:] == layout.grid:
        return layout
    real = layout.place[:1, :1] > 0
    rows, columns = (real.any(dim=axis).flatten().nonzero().flatten() for axis in (3, 2))
    if len(rows) != layout.grid[0] or len(columns) != layout.grid[1]:
        return layout
    return layout.move(lambda numbers: numbers[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def is_constant(numbers: Tensor, axis: int) -> bool:
    """Whether all slices along an axis are the same."""
    if numbers.shape[axis] == 1 or numbers.stride(axis) == 0:
        return True
    thin = _thin(numbers, keep=axis)
    return bool((thin == thin.narrow(axis, 0, 1)).all())


def coarser(layout: Layout, place: Tensor) -> tuple[Grid, Tensor] | None:
    """The grid and places after all that lies along the last axis became one, if it was blocks of a grid.

    Blocks are such as patch merging and patch embedding read: rectangles of one size that tile the grid, two
    or more of them. `place` is "... inside". None if they are not, so that places get mixed.
    """
    (rows, columns), span = layout.grid, layout.span
    cell = (place.long() - 1) % span
    known, real = place > 0, (place - 1) // span
    if bool((cell[known] >= layout.cells).any()) or not bool(known.any(-1).all()):
        return None
    low = [torch.where(known, part, rows * columns).amin(-1) for part in (cell // columns, cell % columns)]
    high = [torch.where(known, part, -1).amax(-1) for part in (cell // columns, cell % columns)]
    image = torch.where(known, real, -1).amax(-1)
    height, width = (int((top - base).amax()) + 1 for top, base in zip(high, low, strict=True))
    new = (-(-rows // height), -(-columns // width))
    if new == (1, 1) or height * width == 1 or not _tiles(low, (height, width), new, place.shape[-1]):
        return None
    if not bool((torch.where(known, real, image[..., None]) == image[..., None]).all()):
        return None
    inside = (cell // columns - low[0][..., None]) * width + cell % columns - low[1][..., None]
    if not _alike(torch.where(known, inside, 0), known, height * width):
        return None
    index = (low[0] // height) * new[1] + low[1] // width
    return new, (1 + image * (new[0] * new[1] + PREFIXES) + index).to(torch.int32)


def _tiles(low: list[Tensor], block: Grid, grid: Grid, inside: int) -> bool:
    """Whether blocks begin on multiples of their size, are full, and every one of the grid is there."""
    aligned = all(bool((base % side == 0).all()) for base, side in zip(low, block, strict=True))
    index = (low[0] // block[0]) * grid[1] + low[1] // block[1]
    return aligned and inside % (block[0] * block[1]) == 0 and len(torch.unique(index)) == grid[0] * grid[1]


def _alike(offsets: Tensor, known: Tensor, count: int) -> bool:
    """Whether no cell of a block lies along the last axis more often than its share."""
    times = torch.zeros((*offsets.shape[:-1], count), dtype=torch.int64)
    times.scatter_add_(-1, offsets, known.long())
    return bool((times * count <= offsets.shape[-1]).all())


def _thin(numbers: Tensor, *, keep: int | None = None) -> Tensor:
    """The same numbers without the axes along which they are repeated by construction."""
    for axis, step in enumerate(numbers.stride()):
        if step == 0 and (keep is None or axis != keep % numbers.ndim):
            numbers = numbers.narrow(axis, 0, 1)
    return numbers


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors of numbers are equal wherever neither is 0."""
    for axis in range(one.ndim):
        if one.stride(axis) == other.stride(axis) == 0:
            one, other = one.narrow(axis, 0, 1), other.narrow(axis, 0, 1)
    return torch.equal(one, other) or bool(((one == other) | (one == 0) | (other == 0)).all())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
