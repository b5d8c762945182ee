"""The pieces of work of a build, as engines want them: each commits what it made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange

from vitscope.address import Address
from vitscope.atlas.leaf import webp
from vitscope.atlas.store import Store, write_arrays
from vitscope.data.source import ImageSource, Shard
from vitscope.dream.natural import Natural, beside_natural
from vitscope.dream.objectives import unit as unit_objective
from vitscope.dream.optimize import optimize
from vitscope.dream.plan import Plan
from vitscope.dream.recipe import Recipe
from vitscope.dream.result import Dream
from vitscope.dream.second import with_second_start
from vitscope.meters.meter import Meter
from vitscope.models.vision_model import VisionModel
from vitscope.scan import scan_shard

DREAM_QUALITY = 90
"""Of the WebP of a dream: at 80 the fine texture of the Fourier recipes shows blocks."""


@dataclass(frozen=True)
class DreamGroup:
    """Some units of one site that are dreamt of together, in the same way, and committed together; `way`
    counts the ways of an atlas from 0."""

    site: str
    units: tuple[int, ...]
    way: int = 0

    def __str__(self) -> str:
        return f"dreams-{self.site}-{self.units[0]}{f'-{self.way}' if self.way else ''}"


@dataclass(frozen=True)
class Way:
    """How an atlas dreams of every unit that it dreams of: a recipe, and the first of the seeds it tries."""

    recipe: Recipe
    seed: int


def ways_of(recipes: Sequence[Recipe], *, seed: int, seeds: int, repeats: int) -> list[Way]:
    """Every recipe `repeats` times, each time from seeds that are tried nowhere else."""
    return [Way(recipe, seed + time * seeds) for recipe in recipes for time in range(repeats)]


@dataclass(frozen=True)
class ShardName:
    """A shard under a name that a file can have."""

    shard: Shard
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass
class ScanTask:
    """The work on one shard, as engines want it: it commits its own part. A batch that memory forced is
    remembered."""

    model: VisionModel
    source: ImageSource
    store: Store
    meters: Sequence[Meter]
    batch_size: int

    def __call__(self, work: ShardName) -> None:
        """Scan and commit."""
        part = scan_shard(self.model, self.source, work.shard, self.meters, batch_size=self.batch_size)
        self.batch_size = part.batch_size
        write_arrays(self.store.part_file(work.shard.id), part.arrays(), facts=part.header())


@dataclass(frozen=True)
class DreamTask:
    """The work on one group of dreams, as engines want it: it commits each as a file of its own."""

    model: VisionModel
    store: Store
    ways: Sequence[Way]
    seeds: int
    plans: Mapping[str, Plan]
    natural: Callable[[str, int], Natural]

    def __call__(self, group: DreamGroup) -> None:
        """Dream and commit."""
        objectives = [unit_objective(Address(group.site, unit)) for unit in group.units]
        recipe, seed = self.ways[group.way].recipe, self.ways[group.way].seed
        plan = self.plans[recipe.name]
        made = optimize(self.model, objectives, recipe=recipe, seed=seed, seeds=self.seeds, plan=plan)
        for unit, dream in zip(group.units, made, strict=True):
            natural = self.natural(group.site, unit)
            beside = beside_natural(self.model, dream, natural, recipe=recipe)
            kept = with_second_start(self.model, beside, natural, recipe=recipe, plan=plan)
            picture = np.frombuffer(_picture(kept), np.uint8)
            facts = {"dream": _facts(kept)}
            file = self.store.dream_file(group.site, unit, group.way)
            write_arrays(file, {"webp": picture}, facts=facts)


def _picture(dream: Dream) -> bytes:
    levels = (dream.pixels.clamp(0, 1) * 255).round().byte().cpu().numpy()
    return webp(rearrange(levels, "rgb row column -> row column rgb"), quality=DREAM_QUALITY)


def _facts(dream: Dream) -> str:
    """The columns of a dream, but for where it lies in the pack."""
    trust = dream.trust
    facts = {
        "recipe": dream.recipe,
        "seed": dream.seed,
        "score": dream.score,
        "robust": trust["robust"],
        "trust": json.dumps(trust, sort_keys=True),
        "status": trust["status"],
    }
    return json.dumps(facts, sort_keys=True)
