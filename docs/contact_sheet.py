"""Draws a contact sheet of an atlas: `python docs/contact_sheet.py vit_tiny.atlas --out sheet.png`.

One row a site, one cell a unit: its dream and, with `--images`, the natural image that excites it most on
average. Below each stand its address, the dream's clean score, that in units of the best natural image's, and
the dream's status. Which units: the first that the atlas has dreams of, none left out.

An atlas with six dreams a site comes from `vitscope build MODEL SOURCE --dreams 6 --out ATLAS`. Photographs
come from the source itself and not from the atlas, and only where they are asked for: a sheet with them is as
free to pass on as they are.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from vitscope.atlas.read import Atlas
from vitscope.atlas.unit import Unit
from vitscope.data import images
from vitscope.data.decode import decode, view
from vitscope.data.source import ImageSource, Skipped, image_id
from vitscope.errors import AtlasError, BadValue, SourceError
from vitscope.house import GROUND, INK, MUTED, RULE
from vitscope.models.vision_model import Preprocessing
from vitscope.provenance import TEXT_CHUNK, Provenance, explain

WARNING = "#8a4b00"
"""The ink of a status that is not ok: that of the viewer's warnings."""
GAP = 10
"""Pixels between two cells, and around the sheet."""
TEXT = 10
"""Height of the letters, in pixels."""
LINE = 14
"""Pixels from one line of text to the next."""
LETTERS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@dataclass(frozen=True)
class Cell:
    """One unit of the sheet.

    Attributes:
        address: of the unit.
        dream: its picture.
        natural: its best natural image; None where none is shown.
        facts: clean score and ratio to the best natural image.
        status: of the dream.
    """

    address: str
    dream: Image.Image
    natural: Image.Image | None
    facts: str
    status: str


class Photographs:
    """The natural images of an atlas, from the source it was built over."""

    def __init__(self, source: ImageSource, preprocessing: Preprocessing) -> None:
        self._source = source
        self._preprocessing = preprocessing

    def best(self, unit: Unit) -> Image.Image | None:
        """What the model saw of the image with the largest mean; None where the atlas has none.

        Raises:
            SourceError: the source does not have this image, or another one under its name.
        """
        if not unit.by_mean:
            return None
        best = unit.by_mean[0]
        entry = self._source.find(best.path)
        if isinstance(entry, Skipped) or image_id(entry.content) != best.image:
            found = entry.reason if isinstance(entry, Skipped) else "another image under that name"
            raise SourceError(
                f"{self._source.name} is not what the atlas was built over: {best.path}: {found}"
            )
        return Image.fromarray(view(decode(entry.content).image, self._preprocessing))


def chosen(atlas: Atlas, pattern: str, count: int) -> list[list[Unit]]:
    """The first units with a dream, site by site; sites without any are left out.

    Raises:
        AtlasError: there is no dream at all.
    """
    rows = []
    for site in atlas.sites:
        if not fnmatchcase(site.name, pattern):
            continue
        found = [
            row.unit
            for leaf in range(site.leaves)
            for row in atlas.leaf(site.name, leaf).units
            if row.has_dream
        ]
        if found:
            rows.append([atlas[f"{site.name}:{unit}"] for unit in found[:count]])
    if not rows:
        raise AtlasError(f"{atlas.name} has no dreams at {pattern!r}: build it with --dreams {count}")
    return rows


def cell(unit: Unit, photographs: Photographs | None) -> Cell:
    """What the sheet says of a unit."""
    dream = unit.dreams[0]
    picture = Image.open(io.BytesIO(dream.image)).convert("RGB")
    natural = photographs.best(unit) if photographs else None
    return Cell(str(unit.address), picture, natural, facts(unit), dream.status)


def facts(unit: Unit) -> str:
    """The clean score, and in units of the best natural image's mean where that is above zero."""
    score = unit.dreams[0].score
    if score is None:
        return "no score"
    best = unit.by_mean[0].value if unit.by_mean else 0.0
    shown = round(score, 2) + 0.0  # never "-0.00"
    return f"{shown:.2f}" + (f"   {round(score / best, 1) + 0.0:.1f} x" if best > 0 else "")


def sheet(rows: Sequence[Sequence[Cell]], title: str, *, tile: int) -> Image.Image:
    """All cells, one row after the other, with a title and a key above them."""
    shown = 2 if any(each.natural for row in rows for each in row) else 1
    width, height = shown * tile, tile + 2 * LINE + 4
    columns, top = max(map(len, rows)), GAP + LINE + (1 + shown) * LINE
    canvas = Image.new("RGB", (GAP + columns * (width + GAP), top + GAP + len(rows) * (height + GAP)), GROUND)
    pen = ImageDraw.Draw(canvas)
    pen.text((GAP, GAP), title, fill=INK, font=letters(bold=True))
    for number, line in enumerate(key(shown), start=1):
        pen.text((GAP, GAP + number * LINE), line, fill=MUTED, font=letters())
    for row, cells in enumerate(rows):
        for column, each in enumerate(cells):
            place = (GAP + column * (width + GAP), top + GAP + row * (height + GAP))
            put(canvas, each, place, tile=tile, shown=shown)
    return canvas


def key(shown: int) -> list[str]:
    """What the pictures and the numbers are."""
    pictures = "left the dream, right the natural image with the largest mean" if shown == 2 else ""
    numbers = "clean score, ratio to the best natural image, status"
    return [pictures, numbers] if pictures else [numbers]


def put(canvas: Image.Image, each: Cell, place: tuple[int, int], *, tile: int, shown: int) -> None:
    """One cell: its pictures side by side, and two lines of text."""
    left, top = place
    pen = ImageDraw.Draw(canvas)
    canvas.paste(each.dream.resize((tile, tile), Image.Resampling.LANCZOS), place)
    if each.natural:
        canvas.paste(each.natural.resize((tile, tile), Image.Resampling.LANCZOS), (left + tile, top))
    elif shown == 2:
        pen.rectangle((left + tile, top, left + 2 * tile - 1, top + tile - 1), fill=RULE)
    line = top + tile + 3
    pen.text((left, line), each.address, fill=INK, font=letters(bold=True))
    pen.text((left, line + LINE), each.facts, fill=INK, font=letters())
    ink = MUTED if each.status == "ok" else WARNING
    pen.text((left + shown * tile, line + LINE), each.status, fill=ink, font=letters(), anchor="ra")


def letters(*, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which travels with matplotlib."""
    return ImageFont.truetype(LETTERS / f"DejaVuSans{'-Bold' if bold else ''}.ttf", TEXT)


def drawn(
    path: Path, *, source: str | None = None, pattern: str = "blocks.*.ffn", count: int = 6, tile: int = 112
) -> tuple[Image.Image, Provenance]:
    """The sheet of the atlas at a path, and how it was made.

    Args:
        path: the atlas.
        source: its images, "folder:photos"; None shows dreams alone.
        pattern: a glob of sites.
        count: units a site.
        tile: side of a picture, in pixels.

    Raises:
        BadValue: a number is less than 1.
        AtlasError: there is no atlas, or it has no dreams there.
        SourceError: the source is not the atlas's.
    """
    if count < 1 or tile < 1:
        raise BadValue(f"units and tile must be at least 1, not {count} and {tile}")
    atlas = Atlas.open(path)
    made = explain(path)
    seen: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in made.preprocessing.items()
    }
    photographs = Photographs(images(source), Preprocessing(**seen)) if source else None
    rows = [[cell(unit, photographs) for unit in units] for units in chosen(atlas, pattern, count)]
    recipe = (atlas.manifest.get("dreams") or {}).get("recipe", {}).get("name", "")
    title = "   ".join(filter(None, [atlas.model, f"recipe {recipe}" if recipe else ""]))
    told = {"sites": pattern, "units": count, "tile": tile, "photographs": source is not None}
    settings = {**made.settings, "dreams": atlas.manifest.get("dreams"), **told}
    return sheet(rows, title, tile=tile), replace(made, kind="contact sheet", settings=settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the sheet as a PNG that says how it was made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("atlas", type=Path, help="an atlas with dreams")
    parser.add_argument("-o", "--out", type=Path, default=Path("contact_sheet.png"), help="the PNG")
    parser.add_argument("--images", metavar="SOURCE", help="show the best natural images of this source")
    parser.add_argument("--sites", default="blocks.*.ffn", help="glob of sites (default: %(default)s)")
    parser.add_argument("--units", type=int, default=6, help="units a site (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=112, help="pixels of a picture (default: %(default)s)")
    asked = parser.parse_args(arguments)
    found, made = drawn(
        asked.atlas, source=asked.images, pattern=asked.sites, count=asked.units, tile=asked.tile
    )
    text = PngInfo()
    text.add_text(TEXT_CHUNK, made.to_json())
    found.save(asked.out, pnginfo=text, optimize=True)


if __name__ == "__main__":
    main()
