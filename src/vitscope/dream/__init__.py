"""Dreams: pictures synthesised to excite a unit, a direction or a class.

>>> from vitscope.dream import dream
>>> dream(model, "blocks.5.ffn:40", recipe="ghiasi_2022", seed=0).save("coils.png")
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

from vitscope.address import Address
from vitscope.dream.accentuation import accentuated
from vitscope.dream.diversity import Diverse, diverse
from vitscope.dream.heads import attention, head
from vitscope.dream.likeness import caricature, distance, inversion
from vitscope.dream.objectives import Objective, channel, direction, interpolate, logit, unit
from vitscope.dream.optimize import OnPlan, OnStep
from vitscope.dream.optimize import optimize as _optimize
from vitscope.dream.plan import Plan
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.errors import UnknownName, suggestion
from vitscope.front import callable_as
from vitscope.models.vision_model import VisionModel
from vitscope.registry import Registry

__all__ = [
    "RECIPES",
    "Dream",
    "Objective",
    "Recipe",
    "accentuated",
    "attention",
    "caricature",
    "channel",
    "direction",
    "distance",
    "diverse",
    "dream",
    "head",
    "interpolate",
    "inversion",
    "logit",
    "recipe_named",
    "unit",
]

RECIPES = Registry(
    "recipe",
    {
        "vitscope": "vitscope.dream.recipes:VITSCOPE",
        "ghiasi_2022": "vitscope.dream.recipes:GHIASI_2022",
        "ghiasi_2022:paper": "vitscope.dream.recipes:GHIASI_2022_PAPER",
        "ghiasi_2022:inversion": "vitscope.dream.recipes:GHIASI_2022_INVERSION",
        "olah_2017": "vitscope.dream.recipes:OLAH_2017",
        "olah_2017:short": "vitscope.dream.recipes:OLAH_2017_SHORT",
        "fel_2023": "vitscope.dream.recipes:FEL_2023",
    },
)
"""Recipes by name."""

What = str | Address | Objective
"""What to dream of: an address with a unit, or an objective."""


@overload
def dream(  # type: ignore[overload-overlap]  # of objectives, the diverse ones give several dreams
    model: VisionModel,
    what: Diverse,
    *,
    recipe: str | Recipe = ...,
    seed: int = ...,
    seeds: int = ...,
    batch_size: int | None = ...,
    plan: Plan | None = ...,
    on_plan: OnPlan | None = ...,
    on_step: OnStep | None = ...,
) -> list[Dream]: ...
@overload
def dream(  # type: ignore[overload-overlap]  # a str is a sequence of str
    model: VisionModel,
    what: What,
    *,
    recipe: str | Recipe = ...,
    seed: int = ...,
    seeds: int = ...,
    batch_size: int | None = ...,
    plan: Plan | None = ...,
    on_plan: OnPlan | None = ...,
    on_step: OnStep | None = ...,
) -> Dream: ...
@overload
def dream(
    model: VisionModel,
    what: Sequence[What],
    *,
    recipe: str | Recipe = ...,
    seed: int = ...,
    seeds: int = ...,
    batch_size: int | None = ...,
    plan: Plan | None = ...,
    on_plan: OnPlan | None = ...,
    on_step: OnStep | None = ...,
) -> list[Dream]: ...
def dream(
    model: VisionModel,
    what: What | Sequence[What],
    *,
    recipe: str | Recipe = "vitscope",
    seed: int = 0,
    seeds: int = 1,
    batch_size: int | None = None,
    plan: Plan | None = None,
    on_plan: OnPlan | None = None,
    on_step: OnStep | None = None,
) -> Dream | list[Dream]:
    """A picture that excites a unit, or one for each of a list.

    Args:
        model: the model to dream with; it is left as it was.
        what: an address with a unit ("blocks.5.ffn:40"), an objective, or a list of them.
        recipe: a paper's setting, by name or as a value, such as `GHIASI_2022.replace(steps=64)`.
        seed: fixes, with the address, all random numbers; a dream does not depend on what else is in the
            list.
        seeds: how many seeds to try, from `seed` on; the most robust dream is kept, and its trust tells the
            spread over all. Each costs a whole dream.
        batch_size: units per batch; None chooses by device.
        plan: how passes are computed; measured where none is given.
        on_plan: told how passes are computed, and how long that should take.
        on_step: told after every step how many unit-steps are done, of how many.

    Returns:
        One dream, or a list in the order asked; a diverse objective gives several in a row. A dream whose
        numbers diverge says so in `trust["status"]`.

    Raises:
        BadAddress: the text is not an address, or names a site but no unit.
        UnknownSite, UnknownAddress: the model has no such site, unit or place.
        UnknownName: there is no such recipe.

    >>> dream(model, "blocks.5.ffn:40").score > 0
    True
    """
    single = isinstance(what, (str, Address, Objective))
    asked: Sequence[What] = [what] if isinstance(what, (str, Address, Objective)) else what
    objectives = [each if isinstance(each, Objective) else unit(each) for each in asked]
    setting = recipe_named(recipe) if isinstance(recipe, str) else recipe
    dreams = _optimize(
        model,
        objectives,
        recipe=setting,
        seed=seed,
        seeds=seeds,
        batch_size=batch_size,
        plan=plan,
        on_plan=on_plan,
        on_step=on_step,
    )
    return dreams[0] if single and not isinstance(what, Diverse) else dreams


def recipe_named(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        UnknownName: there is none; the message lists those there are, with year and title.
    """
    if name in RECIPES:
        found: Recipe = RECIPES.get(name)
        return found
    known = [(other, RECIPES.get(other)) for other in RECIPES]
    table = "".join(f"\n  {other:20} {recipe.year}  {recipe.title}" for other, recipe in known)
    raise UnknownName(f"no recipe {name!r}.{suggestion(name, RECIPES.names())} There are:{table}")


callable_as(__name__, dream)
