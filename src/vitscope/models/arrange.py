"""From a layout to how a site is read: which axes it has, and how to bring it to "image place unit"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import torch
from torch import Tensor

from vitscope.models.layout import Grid, Layout, is_constant
from vitscope.models.vision_model import MAP, MAP_LAST, PATTERN, TOKENS, VECTOR, Keys


@dataclass(frozen=True)
class Rearrange:
    """Brings a tensor to "image place unit", or attention weights to "image head query key"; a `Site.derive`.

    Attributes:
        order: the axes of the tensor, those of places first, then heads if there are any, then units or keys.
        heads: how many heads; 0 where there are none.
        units: how many units, or keys.
        rows: of one image, how many there are before any are dropped.
        table: of one image, the row of every place; None if they are in order.
        columns: the units to keep, in order; None for all.
        split: into how many the first axis is split before all else, where images and heads share it; 0: not.
    """

    order: tuple[int, ...]
    units: int
    rows: int
    table: Tensor | None = None
    heads: int = 0
    columns: Tensor | None = None
    split: int = 0

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor rearranged; differentiable."""
        tail = (self.heads, self.units) if self.heads else (self.units,)
        tensor = _split(tensor, self.split)
        found = tensor.permute(self.order).reshape(-1, self.rows, *tail)
        if self.table is not None:
            found = found.index_select(1, self.table.to(found.device))
        if self.columns is not None:
            found = found.index_select(-1, self.columns.to(found.device))
        return found.movedim(2, 1) if self.heads else found


@dataclass(frozen=True)
class Arranged:
    """How a tensor of some layout is read.

    Attributes:
        axes: of the site, after `derive`.
        units, grid, prefix_tokens, keys: as a `Site` has them.
        derive: what brings the tensor to these axes; None if it has them.
    """

    axes: str
    units: int
    grid: Grid | None
    prefix_tokens: int
    derive: Rearrange | None
    keys: Keys | None = None


def arranged(layout: Layout | None, *, columns: Tensor | None = None) -> Arranged | None:
    """How to read a tensor of this layout; None if it is not one row of units for every place of a grid.

    `columns` picks units. All places of a regular grid must be there once, or prefix tokens alone.
    """
    if layout is None or layout.keys or not layout.shape:
        return None
    split = _merged_heads(layout)
    if split:
        layout = layout.move(partial(_split, many=split))
    axes = range(len(layout.shape))
    units = [axis for axis in axes if not is_constant(layout.unit, axis)]
    spread = [axis for axis in axes if not layout.lies_alike[axis]]
    loose = [axis for axis in axes if axis not in units and axis not in spread]
    if set(units) & set(spread) or any(layout.shape[axis] > 1 for axis in loose):
        return None
    spread = _image_first(layout, spread)
    found = _rows(layout, spread)
    if found is None:
        return None
    rows, table, grid, prefix = found
    count = prod(layout.shape[axis] for axis in units)
    if columns is not None and torch.equal(columns, torch.arange(count)):
        columns = None
    order = (*spread, *loose, *units)
    rearrange = Rearrange(order, count, rows, table, columns=columns, split=split)
    kept = count if columns is None else len(columns)
    axes_now = _plain_axes(layout, order, rearrange, units)
    return Arranged(axes_now or TOKENS, kept, grid, prefix, None if axes_now else rearrange)


def arranged_weights(layout: Layout | None) -> Arranged | None:
    """How to read attention weights of this layout, as "image head query key"."""
    if layout is None or (over := layout.keys) is None:
        return None
    split = _merged_heads(layout)
    if split:
        layout = layout.move(partial(_split, many=split))
    axes = range(len(layout.shape))
    spread = _image_first(layout, [axis for axis in axes if not layout.lies_alike[axis]])
    keys = [axis for axis in axes if axis not in spread and not is_constant(layout.unit, axis)]
    heads = [axis for axis in axes if axis not in spread and axis not in keys]
    found = _rows(layout, spread)
    if found is None or not keys:
        return None
    rows, table, grid, prefix = found
    count, many = (prod(layout.shape[axis] for axis in group) for group in (keys, heads))
    rearrange = Rearrange((*spread, *heads, *keys), count, rows, table, heads=many, split=split)
    plain = rearrange.order == (0, 2, 1, 3) and table is None and rows == layout.shape[2] and not split
    seen = replace(rearrange, split=0)(layout.unit)[0, 0]
    derive = None if plain else rearrange
    return Arranged(PATTERN, many * count, grid, prefix, derive, _keys(seen, over))


def _split(tensor: Tensor, many: int) -> Tensor:
    """The first axis in two, the second of this length; 0 leaves it as it is."""
    return tensor.reshape(-1, many, *tensor.shape[1:]) if many else tensor


def _merged_heads(layout: Layout) -> int:
    """How many heads share the first axis with the images, "(image head) query key"; 0 where none do."""
    images = int(layout.image.max()) + 1
    if images < 2 or layout.lies_alike[0] or len(layout.shape) < 3:
        return 0
    many = layout.shape[0] // images
    if many < 2 or layout.shape[0] % images:
        return 0
    alike = layout.move(partial(_split, many=many))
    return many if alike.lies_alike[1] else 0


def _keys(seen: Tensor, grid: Grid) -> Keys:
    """What "query key" numbers of key places mean: a table, unless every query sees every key in order."""
    cells = grid[0] * grid[1]
    there = torch.unique(seen).long()
    slots, on_image = there[there > cells], there[(there > 0) & (there <= cells)]
    own = (_sub_grid(on_image - 1, grid) if len(on_image) else None) or grid
    if own == grid:
        on_image = 1 + torch.arange(cells)
    place = torch.full((int(there.max()) + cells + 1,), -1, dtype=torch.long)
    place[slots] = torch.arange(len(slots))
    place[on_image] = len(slots) + torch.arange(len(on_image))
    table = place[seen.long()]
    whole = table.shape[-1] == len(slots) + len(on_image)
    whole = whole and torch.equal(table, torch.arange(table.shape[-1]).expand_as(table))
    return Keys(own, len(slots), None if whole else table)


def _image_first(layout: Layout, axes: Sequence[int]) -> list[int]:
    """Axes of places with the one along which only the image changes in front, if there is one."""
    at = [axis for axis in axes if not is_constant(layout.image, axis)]
    return [*at, *[axis for axis in axes if axis not in at]] if len(at) == 1 else list(axes)


def _rows(layout: Layout, axes: Sequence[int]) -> tuple[int, Tensor | None, Grid | None, int] | None:
    """Of one image: how many rows, the row of every place (None: in order), the grid, the prefix tokens."""
    rest = [axis for axis in range(len(layout.shape)) if axis not in axes]
    place = (
        layout.place.permute(*axes, *rest).flatten(len(axes))[..., 0] if rest else layout.place.permute(*axes)
    )
    images = int(((place.max() - 1) // layout.span).item()) + 1
    if place.numel() % images or images < 2:
        return None
    each = place.reshape(images, -1)
    shift = torch.arange(images, dtype=each.dtype)[:, None] * layout.span
    if not torch.equal(torch.where(each > 0, each - shift, 0), each[:1].expand_as(each)):
        return None
    if bool(((each[0] > 0) & (each[0] > layout.span)).any()):
        return None
    return _table(each[0] - 1, layout)


def _table(local: Tensor, layout: Layout) -> tuple[int, Tensor | None, Grid | None, int] | None:
    prefix = (local >= layout.cells).nonzero().flatten()
    prefix = prefix[local[prefix].argsort()]
    on_image = ((local >= 0) & (local < layout.cells)).nonzero().flatten()
    on_image = on_image[local[on_image].argsort()]
    for part in (prefix, on_image):
        if len(torch.unique(local[part])) != len(part):
            return None  # a place twice
    grid = _sub_grid(local[on_image], layout.grid) if len(on_image) else None
    if len(on_image) and grid is None:
        return None
    table = torch.cat((prefix, on_image))
    in_order = torch.equal(table, torch.arange(len(local)))
    return len(local), None if in_order else table, grid, len(prefix)


def _sub_grid(cells: Tensor, grid: Grid) -> Grid | None:
    """The grid that some cells form by themselves: all rows and columns they touch, evenly apart.

    They must reach over the whole of the other grid: a row of it, or a cell, is none.
    """
    rows, columns = torch.unique(cells // grid[1]), torch.unique(cells % grid[1])
    if len(rows) * len(columns) != len(cells):
        return None
    steps = [torch.unique(side.diff()) for side in (rows, columns)]
    if any(len(step) > 1 for step in steps):
        return None
    # a side of which one is left shows no step: it is that of the other side, or two
    most = max((int(step[0]) for step in steps if len(step)), default=2)
    covers = all(
        -(-full // (int(step[0]) if len(step) else most)) == len(side)
        for full, step, side in zip(grid, steps, (rows, columns), strict=True)
    )
    return (len(rows), len(columns)) if covers else None


def _plain_axes(
    layout: Layout, order: tuple[int, ...], rearrange: Rearrange, units: Sequence[int]
) -> str | None:
    """The axes the tensor has by itself, if its first axis is that of images and its places are in order."""
    changed = rearrange.table is not None or rearrange.columns is not None or rearrange.split
    if changed or len(units) != 1:
        return None
    kinds = {(0, 1, 2): TOKENS, (0, 2, 3, 1): MAP, (0, 1, 2, 3): MAP_LAST, (0, 1): VECTOR}
    spread = [layout.shape[axis] for axis in order[1:] if axis not in units]
    return kinds.get(order) if prod(spread) == rearrange.rows else None
