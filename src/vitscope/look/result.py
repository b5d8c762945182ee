"""What `look` found in one picture, as values, JSON and files."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vitscope.atlas.commit import write
from vitscope.look.found import Found, by_site
from vitscope.look.page import page
from vitscope.look.sheets import Tile, group_map, heat, over, png, sheet, small
from vitscope.notebook import Picture, card, note, pictures

PAGE = "index.html"
DIGITS = 6
"""Of the numbers of a map."""


class Look(Found):
    """One picture, as a model sees it: what was found, as JSON, as contact sheets and as a page."""

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope look`, without the files it wrote; maps are nested lists."""
        return {
            "model": self.provenance.model,
            "image": self.image,
            "prediction": [asdict(guess) for guess in self.guesses],
            "heads": [
                {"site": one.site, "head": one.head, "prefix": one.prefix, "view": _listed(one.view)}
                for one in self.heads
            ],
            "rollout": [
                {"site": one.site, "prefix": one.prefix, "view": _listed(one.view)} for one in self.rollout
            ],
            "units": [
                {
                    "address": str(one.address),
                    "value": one.value,
                    "place": one.place,
                    "height": one.height,
                    "percentile": one.percentile,
                    "view": _listed(one.view),
                }
                for one in self.units
            ],
            "groups": [
                {"site": one.site, "outliers": one.outliers, "labels": one.labels.tolist()}
                for one in self.groups
            ],
            "notes": list(self.notes),
            "provenance": asdict(self.provenance),
        }

    def sentence(self) -> str:
        """The answer, in a line."""
        told = ", ".join(f"{guess.name} {guess.probability:.1%}" for guess in self.guesses)
        return f"{self.image}: {told or 'no answer'}"

    def _repr_html_(self) -> str:
        base = small(self.picture)
        shown = [Picture(png(base), "What the model is shown", width=base.width, lines=[self.image])]
        for one in self.rollout[-1:] or self.heads[-1:]:
            told = f"where attention comes from, at {one.site}"
            layer = heat(one.view)
            shown.append(Picture(png(base), told, width=base.width, lines=[told], heat=layer))
        return card(self.provenance.model, pictures(shown), note(self.sentence()))

    def sheets(self) -> dict[str, Image.Image]:
        """Contact sheets by name: "heads", "rollout", "units" and "groups", where there is something."""
        base = small(self.picture)

        def tile(layer: bytes, caption: str = "") -> Tile:
            return Tile(over(base, layer), caption)

        made = {
            "heads": [
                (site.removesuffix(".attn.pattern"), [tile(heat(one.view), f"head {one.head}") for one in of])
                for site, of in by_site(self.heads)
            ],
            "rollout": [("", [tile(heat(one.view), one.site) for one in self.rollout])],
            "units": [
                (site, [tile(heat(one.view, span=(0.0, one.value)), f":{one.address.unit}") for one in of])
                for site, of in by_site(self.units)
            ],
            "groups": [("", [tile(group_map(one.labels), one.site) for one in self.groups])],
        }
        return {name: sheet(rows) for name, rows in made.items() if any(tiles for _, tiles in rows)}

    def save(self, folder: str | Path) -> Path:
        """Write `index.html`, which needs no other file, and `picture.png` and the sheets as PNG; the path of
        the page.

        Raises:
            NotWritable: the folder cannot be written.
        """
        folder = Path(folder)
        write(folder / "picture.png", png(self.picture, self.provenance))
        for name, made in self.sheets().items():
            write(folder / f"{name}.png", png(made, self.provenance))
        write(folder / PAGE, page(self))
        return folder / PAGE


def _listed(view: Any) -> list[list[float]]:
    found: list[list[float]] = np.round(view.astype(np.float64), DIGITS).tolist()
    return found
