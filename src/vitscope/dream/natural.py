"""A finished dream beside the natural images that excite its unit most."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from statistics import mean

import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.address import Address
from vitscope.dream.ascent import Ascent
from vitscope.dream.augment import whole
from vitscope.dream.judge import robust_score
from vitscope.dream.objectives import unit
from vitscope.dream.path import path_similarity
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.dream.scoring import scoring
from vitscope.dream.trust import against_natural, verdict
from vitscope.models.vision_model import Site, VisionModel


@dataclass(frozen=True, eq=False)
class Natural:
    """What natural images do to a unit.

    Attributes:
        best: their greatest scores, falling.
        images: how many were looked at.
        exemplars: those that have these scores, as the model is shown them; perhaps fewer, perhaps none.
        others: unrelated images.
    """

    best: Sequence[float]
    images: int
    exemplars: Float[Tensor, "exemplar rgb row column"]
    others: Float[Tensor, "other rgb row column"]


def beside_natural(model: VisionModel, dream: Dream, natural: Natural, *, recipe: Recipe) -> Dream:
    """The dream, trusted as far as natural images let it be.

    Its trust gains the facts of `against_natural`; `natural_robust`, the mean score of the best image under
    the very augmentations that gave the dream's `robust`; `path_by_site`, the facts of `path_similarity` at
    every block before the unit, and their mean, `path`; and its status may become "weak" (see `verdict`).

    Args:
        model: the model that dreamt.
        dream: of one unit of it; one that diverged is returned as it is.
        natural: what is known of natural images.
        recipe: what made the dream.
    """
    if dream.score is None or not natural.best:
        return dream
    facts = {**dream.trust, **against_natural(dream.score, natural.best, images=natural.images)}
    if len(natural.exemplars):
        facts["natural_robust"] = robust_under(model, dream, natural.exemplars[:1], recipe)
    if len(natural.exemplars) > 1 and len(natural.others) and (sites := _before(model, dream)):
        shown = whole(dream.pixels[None], model.preprocessing.size).to(model.device)
        alike = path_similarity(model, shown, natural.exemplars, natural.others, sites=sites)
        known = [value for value in alike.values() if value is not None]
        facts |= {"path": mean(known) if known else None, "path_by_site": alike}
    return replace(dream, trust={**facts, "status": verdict(facts)})


def robust_under(
    model: VisionModel, dream: Dream, image: Float[Tensor, "1 rgb row column"], recipe: Recipe
) -> float:
    """The mean score of an image under the very augmentations that gave the dream its `robust`."""
    ascent = Ascent(model, [unit(dream.address).bind(model)], recipe, dream.seed)
    with scoring(model, ascent.objectives) as score, torch.no_grad():
        return robust_score(ascent, whole(image, ascent.canvas_size).to(model.device), 0, score)


def _before(model: VisionModel, dream: Dream) -> list[Site]:
    """The outputs of the blocks on the way to a unit; for the first block what enters it."""
    own = Address.parse(dream.address).site
    way = list(takewhile(lambda site: site.name != own, model.sites))
    return [site for site in way if _OUTPUT.fullmatch(site.name)] or [
        site for site in way if site.name == "embed"
    ]


_OUTPUT = re.compile(r"(blocks|stages)(\.\d+)+")
