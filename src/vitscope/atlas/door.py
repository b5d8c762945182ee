"""The front door to building an atlas: recipes by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from vitscope.atlas.building import Built, OnProgress
from vitscope.atlas.building import build as _build
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.dream import recipe_named
from vitscope.dream.recipe import Recipe
from vitscope.engine.engine import Engine
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, MAX_SKIP


def build(
    model: VisionModel,
    source: ImageSource,
    *,
    out: str | Path,
    sites: str = "blocks.*.ffn",
    dreams: int | Literal["all"] = 0,
    k: int = 9,
    recipe: str | Recipe | Sequence[str | Recipe] = ("vitscope",),
    seed: int = 0,
    seeds: int = 1,
    repeats: int = 1,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    engine: Engine | None = None,
    max_skip: float = MAX_SKIP,
    on_progress: OnProgress | None = None,
    on_plan: Callable[[str], None] | None = None,
) -> Built:
    """Build an atlas, or go on with one, with a recipe, or several, by name or as a value; see
    `vitscope.atlas.building.build`.

    Raises:
        UnknownName: there is no such recipe; and what `vitscope.atlas.building.build` raises.

    >>> import vitscope as vs
    >>> vs.build(model, images, sites="blocks.*.ffn", dreams=5, out="val.atlas")  # doctest: +SKIP
    """
    recipes = (recipe,) if isinstance(recipe, str | Recipe) else recipe
    return _build(
        model,
        source,
        out=out,
        sites=sites,
        dreams=dreams,
        k=k,
        recipe=[recipe_named(one) if isinstance(one, str) else one for one in recipes],
        seed=seed,
        seeds=seeds,
        repeats=repeats,
        batch_size=batch_size,
        shard_size=shard_size,
        engine=engine,
        max_skip=max_skip,
        on_progress=on_progress,
        on_plan=on_plan,
    )
