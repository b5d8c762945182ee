"""A second start: a dream that natural images beat is made once more, from the best of them."""

from __future__ import annotations

from dataclasses import replace

from vitscope.dream.natural import Natural, beside_natural, robust_under
from vitscope.dream.objectives import unit
from vitscope.dream.optimize import optimize
from vitscope.dream.plan import Plan
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.models.vision_model import VisionModel

BEATEN = ("dead", "weak")
"""Statuses of a dream that did not find what a natural image shows."""


def with_second_start(
    model: VisionModel, dream: Dream, natural: Natural, *, recipe: Recipe, plan: Plan | None = None
) -> Dream:
    """The dream, or one from the best natural image where that is more robust.

    Noise may lie at the foot of a lesser peak: a unit that wants one colour, say, is dreamt in two. Both are
    judged under the same augmentations. Where a second start was made, `second_start` in the trust tells
    whether the picture is that one's; the rest of its trust is its own, but for `seeds` and `spread`.

    Args:
        model: the model that dreamt.
        dream: of one unit, as `beside_natural` returns it.
        natural: what is known of natural images.
        recipe: what made the dream; only where it has a `second_start` is anything done.
        plan: how passes are computed; measured where none is given.
    """
    if not (recipe.second_start and dream.trust["status"] in BEATEN and len(natural.exemplars)):
        return dream
    objective = unit(dream.address).starting_from(natural.exemplars[0])
    found = optimize(model, [objective], recipe=recipe, seed=dream.seed, plan=plan)[0]
    if found.score is None:
        return dream
    other = replace(found, address=dream.address, trust={**dream.trust, **found.trust})
    robust = robust_under(model, other, found.pixels[None], recipe)
    better = robust > dream.trust["robust"]
    other = replace(other, trust={**other.trust, "robust": robust})
    kept = beside_natural(model, other, natural, recipe=recipe) if better else dream
    return replace(kept, trust={**kept.trust, "second_start": better})
