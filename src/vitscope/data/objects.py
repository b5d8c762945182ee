"""The objects of an image one by one: what its mask or boxes tell apart, beneath what a model is shown.

A mask has one object for each of its values, boxes have one each. Of a mask whose values are classes, as
COCO's are, all things of a class are one object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from PIL import Image
from torch import Tensor

from vitscope.data.decode import decode, placed
from vitscope.data.foregrounds import Boxes, Mask
from vitscope.data.source import (
    Foreground,
    ImageBatch,
    ImageSource,
    OriginalIntervention,
    RawImage,
    ViewIntervention,
)
from vitscope.models.vision_model import Preprocessing

REMEMBERED = 64
"""Images whose objects are kept for the next variant that asks: several batches, and about 10 MB."""


@dataclass(frozen=True)
class ObjectBatch(ImageBatch):
    """Images with their objects.

    Attributes:
        objects: of each image, how much of each pixel each of its objects covers, 0 to 255; cut, resized and
            moved as its pixels were. No object where there is no annotation.
    """

    objects: tuple[UInt8[Tensor, "_ row column"], ...] = field(default=(), kw_only=True)


class Objects:
    """Finds the objects of a source's images, as a model is shown them.

    >>> objects = Objects(source, model.preprocessing)
    >>> Variant("grid 2", images=(objects.under(shuffle_patches(patch=112)),))   # doctest: +SKIP

    Args:
        source: images with masks or boxes.
        preprocessing: what the model is shown.
    """

    def __init__(self, source: ImageSource, preprocessing: Preprocessing) -> None:
        self._source = source
        self._kernel = replace(preprocessing, interpolation="bilinear")  # it does not overshoot
        self.of = lru_cache(REMEMBERED)(self._found)

    def under(self, *moves: ViewIntervention) -> WithObjects:
        """An intervention that makes these moves and brings the objects, moved alike."""
        return WithObjects(self, moves)

    def _found(self, path: str) -> tuple[UInt8[Tensor, "object row column"], tuple[ViewIntervention, ...]]:
        """The objects of an image, and what its source does to the view of it."""
        entry = self._source.find(path)
        if not isinstance(entry, RawImage) or entry.foreground is None:
            return torch.zeros((0, *self._kernel.size), dtype=torch.uint8), ()
        image = decode(entry.content, accept_truncated=entry.accept_truncated).image
        inside = told_apart(entry.foreground, image.height, image.width)
        maps = np.zeros((len(inside), *self._kernel.size), np.uint8)
        for place, one in enumerate(inside):
            maps[place] = np.asarray(placed(Image.fromarray(one.astype(np.uint8) * 255), self._kernel))
        before = tuple(one for one in entry.interventions if not isinstance(one, OriginalIntervention))
        return torch.from_numpy(maps), before


@dataclass(frozen=True)
class WithObjects:
    """Moves the view, and brings its objects. See `Objects.under`.

    Attributes:
        objects: finds them.
        moves: made in order; a move is told the foreground, and moves it with the pixels.
    """

    objects: Objects
    moves: tuple[ViewIntervention, ...]

    def on_view(self, batch: ImageBatch) -> ObjectBatch:
        """The batch, moved, with its objects."""
        found = []
        for place, path in enumerate(batch.paths):
            maps, before = self.objects.of(path)
            found.append(_moved(maps, (*before, *self.moves), batch.ids[place]))
        for move in self.moves:
            batch = move.on_view(batch)
        return ObjectBatch(
            batch.ids, batch.paths, batch.pixels, batch.labels, batch.foreground, objects=tuple(found)
        )


def told_apart(foreground: Foreground, rows: int, columns: int) -> list[Bool[np.ndarray, "row column"]]:
    """The pixels of each object of a picture of that size; boxes may overlap.

    Raises:
        BadValue: the annotation does not fit the picture, or is damaged.
    """
    if isinstance(foreground, Boxes):
        return [Boxes((corners,)).inside(rows, columns) for corners in foreground.corners]
    inside = foreground.inside(rows, columns)
    if not isinstance(foreground, Mask):
        return [inside]
    with Image.open(BytesIO(foreground.content), formats=("PNG",)) as image:
        values = np.asarray(image)
    return [inside & (values == value) for value in np.unique(values[inside])]


def _moved(
    maps: UInt8[Tensor, "object row column"], moves: Sequence[ViewIntervention], name: str
) -> UInt8[Tensor, "object row column"]:
    """Each object as if it were the foreground of the image."""
    if not (len(maps) and moves):
        return maps
    count = len(maps)
    shares = maps.float() / 255
    batch = ImageBatch(
        (name,) * count, (name,) * count, shares[:, None], torch.full((count,), -1), foreground=shares
    )
    for move in moves:
        batch = move.on_view(batch)
    moved = shares if batch.foreground is None else batch.foreground
    return (moved * 255).round().to(torch.uint8)
