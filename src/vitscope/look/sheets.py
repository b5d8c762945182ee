"""Contact sheets: pictures under heat maps and group colours, in rows and columns, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from vitscope.heat import heat_map
from vitscope.house import GROUND, INK, MUTED
from vitscope.provenance import TEXT_CHUNK, Provenance

Array = NDArray[Any]
GLARE = 0.97
"""The quantile of a map at which its colours end: a few places that drink all attention hide no others."""
GROUP_COLOURS = ("#0f5fc2", "#f2a33a", "#12a37f", "#c2407f", "#7a5cc8", "#e2d14a", "#58b8e8", "#8a5a36")
"""Of groups, in order."""
VEIL = 0.72
"""Opacity of a group's colour over its grey picture."""
SIDE, GAP, LETTERS = 112, 6, 12
"""Of a sheet, in pixels: the shorter side of a tile, the room between two, the height of letters."""


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet, and what stands below it."""

    picture: Image.Image
    caption: str = ""


def heat(view: Float[Array, "row column"], *, span: tuple[float, float] | None = None) -> bytes:
    """A map as a PNG of one pixel a place, transparent where cold: to lay over the picture.

    Args:
        view: values.
        span: where colours begin and end; the smallest value and the `GLARE` quantile where none is given.
    """
    low, high = span or (float(view.min()), float(np.quantile(view, GLARE)))
    levels = np.clip((view - low) / (high - low if high > low else 1.0), 0, 1) * 255
    return heat_map(levels.round().astype(np.uint8), [(0.0, 1.0)])


def group_map(labels: Int[Array, "row column"]) -> bytes:
    """Groups as a PNG of one pixel a place, to lay over a grey picture."""
    colours = [ImageColor.getrgb(colour) for colour in GROUP_COLOURS]
    table = np.array([(*colour, round(255 * VEIL)) for colour in colours], np.uint8)
    return png(Image.fromarray(table[labels % len(table)]))


def small(picture: Image.Image) -> Image.Image:
    """The picture at the size of a tile."""
    scale = SIDE / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def over(picture: Image.Image, layer: bytes) -> Image.Image:
    """The picture in grey with a layer of one pixel a place over it."""
    base = picture.convert("L").convert("RGBA")
    with Image.open(io.BytesIO(layer)) as opened:
        base.alpha_composite(opened.convert("RGBA").resize(base.size, Image.Resampling.NEAREST))
    return base.convert("RGB")


def sheet(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """Rows of tiles with their names at the left."""
    letters = ImageFont.load_default(LETTERS)
    across = max(len(tiles) for _, tiles in rows)
    wide, tall = (max(tile.picture.size[axis] for _, tiles in rows for tile in tiles) for axis in (0, 1))
    line = LETTERS + 4
    below = line if any(tile.caption for _, tiles in rows for tile in tiles) else 0
    margin = round(max(letters.getlength(name) for name, _ in rows)) + 3 * GAP
    whole = Image.new(
        "RGB", (margin + across * (wide + GAP) + GAP, GAP + len(rows) * (tall + below + GAP)), GROUND
    )
    draw = ImageDraw.Draw(whole)
    for down, (name, tiles) in enumerate(rows):
        at = GAP + down * (tall + below + GAP)
        draw.text((GAP, at + tall // 2), name, INK, letters, anchor="lm")
        for place, tile in enumerate(tiles):
            left = margin + place * (wide + GAP)
            whole.paste(tile.picture, (left, at))
            draw.text((left, at + tall + 2), tile.caption, MUTED, letters)
    return whole


def png(picture: Image.Image, provenance: Provenance | None = None) -> bytes:
    """The picture as a PNG, with its provenance in a text chunk."""
    told = PngInfo()
    if provenance:
        told.add_text(TEXT_CHUNK, provenance.to_json())
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=told)
    return file.getvalue()
