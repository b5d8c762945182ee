"""What live work tells the browser: values as plain JSON, pictures as addresses that hold them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from vitscope.dream.ascent import Glimpse
from vitscope.dream.plan import Plan
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.notebook import data_uri
from vitscope.viewer.shelf import UNITS_PER_PAGE, Volume, plain

if TYPE_CHECKING:
    from vitscope.look.result import Look
    from vitscope.look.units import Firing

QUALITY = 85
"""Of the pictures that are sent."""
TILES = 16
"""Tiles in a row of a sprite."""


def planned(plan: Plan, recipe: Recipe) -> dict[str, Any]:
    """Before the first step of a dream."""
    return {"steps": recipe.steps, "seconds": round(plan.seconds, 1), "citation": recipe.citation}


def step(glimpse: Glimpse) -> dict[str, Any]:
    """After a step of the dream of one unit."""
    (pixels,) = glimpse.pixels()
    steps = glimpse.ascent.recipe.steps
    facts = {"step": glimpse.step + 1, "steps": steps, "score": glimpse.scores.item()}
    return {**plain(facts), "image": _image(_picture(pixels))}


def finished(made: Dream) -> dict[str, Any]:
    """Of a finished dream."""
    facts = {"score": made.score, "seed": made.seed, "recipe": made.recipe, "trust": made.trust}
    return {**plain(facts), "image": _image(_picture(made.pixels))}


def shown(seen: Look, volume: Volume) -> dict[str, Any]:
    """What a look found, for the page: site by site, in order."""
    sites: dict[str, list[dict[str, Any]]] = {}
    for fired in seen.units:
        sites.setdefault(fired.address.site, []).append(_fired(fired, volume))
    return {
        "picture": _image(seen.picture),
        "guesses": [{"name": one.name, "probability": one.probability} for one in seen.guesses],
        "notes": list(seen.notes),
        "sites": [{"name": name, "link": volume.grid(name), "units": units} for name, units in sites.items()],
    }


def _fired(fired: Firing, volume: Volume) -> dict[str, Any]:
    from vitscope.look.sheets import heat

    leaf, tile = divmod(fired.address.unit or 0, UNITS_PER_PAGE)
    facts = {
        "address": str(fired.address),
        "value": fired.value,
        "percentile": fired.percentile,
        "place": fired.place,
    }
    return {
        **plain(facts),
        "link": volume.unit(fired.address),
        "heat": data_uri("image/png", heat(fired.view)),
        "sprite": volume.picture("sprite", fired.address.site, f"{leaf + 1}.webp"),
        "column": tile % TILES,
        "row": tile // TILES,
    }


def _picture(pixels: Float[Tensor, "rgb row column"]) -> Image.Image:
    levels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(rearrange(levels, "rgb row column -> row column rgb").numpy())


def _image(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=QUALITY)
    return data_uri("image/jpeg", file.getvalue())
