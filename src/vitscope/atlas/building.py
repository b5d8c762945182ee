"""Building an atlas. Every step is committed, so the same call goes on after a kill."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from vitscope.atlas.commit import clear_leases, write
from vitscope.atlas.manifest import Manifest, SiteLayout
from vitscope.atlas.rows import RANKINGS
from vitscope.atlas.store import Store, check_writable
from vitscope.atlas.work import OnProgress as OnProgress
from vitscope.atlas.work import Work
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.dream.recipe import Recipe
from vitscope.engine.engine import Engine
from vitscope.engine.local import LocalEngine
from vitscope.errors import AtlasError, BadValue
from vitscope.meters.meter import Meter
from vitscope.meters.moments import EDGES, Moments
from vitscope.meters.topk import TopK
from vitscope.models.vision_model import Site, VisionModel
from vitscope.parts import BATCH_SIZE, MAX_SKIP
from vitscope.provenance import Provenance, versions


@dataclass(frozen=True)
class Built:
    """What a build did.

    Attributes:
        atlas: the folder.
        images: images read, over all runs.
        skipped: entries of the source that could not be used, over all runs.
        units: units of the atlas.
        dreams: dreams in it.
        seconds: of this run.
    """

    atlas: Path
    images: int
    skipped: int
    units: int
    dreams: int
    seconds: float

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope build`."""
        return {**asdict(self), "atlas": str(self.atlas), "seconds": round(self.seconds, 2)}

    def sentence(self) -> str:
        """The same for people."""
        skipped = f" ({self.skipped} skipped)" if self.skipped else ""
        return (
            f"{self.atlas}: {self.units} units and {self.dreams} dreams over {self.images} images{skipped}, "
            f"{self.seconds:.1f} s"
        )


def build(
    model: VisionModel,
    source: ImageSource,
    *,
    out: str | Path,
    sites: str = "blocks.*.ffn",
    dreams: int | Literal["all"] = 0,
    k: int = 9,
    recipe: Recipe | Sequence[Recipe] = (),
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
    """Build an atlas, or go on with one: what is finished is never done again.

    Two processes may build one atlas at the same time; they share the work.

    Args:
        model: the model.
        source: the images.
        out: the folder of the atlas.
        sites: a glob of sites.
        dreams: how many units of each site to dream of, or "all" whose status is "ok"; see `rows.chosen`.
        k: exemplars a unit and ranking.
        recipe: how to dream, one recipe or several, whose dreams then stand side by side; needed where
            `dreams` is not 0. The first recipe's are shown where there is room for one.
        seed: of the dreams, and of the choice of units.
        seeds: how many seeds to try for every dream, from `seed` on; the most robust is kept.
        repeats: dreams of a unit by each recipe, which stand side by side: each is the best of other seeds.
        batch_size: images a forward pass, and units a group of dreams; a group is committed as a whole.
        shard_size: images a shard; a shard is committed as a whole.
        engine: runs shards and groups of dreams; in this process where none is given.
        max_skip: the share of entries that may be skipped, 0 to 1.
        on_progress: told how far each stage is.
        on_plan: told in a sentence how dreams are computed and when they should be done.

    Raises:
        NotWritable: the folder cannot be written; found before any work.
        AtlasError: it holds an atlas with other settings (each difference is named), or the disk is full.
        UnknownSite: the model has no such site.
        BadValue: a number outside its range.
        SourceError: no image could be read, or more than `max_skip` of the entries were skipped.
    """
    begun = time.time()
    check_writable(Path(out))
    _check_numbers(dreams, batch_size, shard_size, max_skip)
    recipes = (recipe,) if isinstance(recipe, Recipe) else tuple(recipe)
    plan = _dreams(dreams, recipes, seed=seed, seeds=seeds, repeats=repeats)
    meters: tuple[Meter, ...] = (*(TopK(sites, k=k, rank=rank) for rank in RANKINGS), Moments(sites))
    manifest = _manifest(
        model, source, model.sites(sites), k=k, meters=meters, plan=plan, shard_size=shard_size
    )
    store = Store.prepare(out, manifest)
    told = on_progress or _silent, on_plan or (lambda _: None)
    work = Work(model, source, store, meters, recipes, batch_size, engine or LocalEngine(), *told)
    outcome = "interrupted"
    try:
        work.run(max_skip)
        outcome = "finished"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
        raise
    finally:
        clear_leases(work.leases)
        _record(work, begun, outcome)
    units = sum(site.units for site in manifest.sites)
    images, skipped = len(work.part.images), len(work.part.skipped)
    return Built(Path(out), images, skipped, units, work.dreams, time.time() - begun)


def _silent(_stage: str, _done: int, _total: int) -> None:
    """Nobody wants to know."""


def _check_numbers(dreams: int | str, batch_size: int, shard_size: int, max_skip: float) -> None:
    if dreams != "all" and (isinstance(dreams, str) or dreams < 0):
        raise BadValue(f"dreams is a number of units a site, or 'all', not {dreams!r}")
    if batch_size < 1 or shard_size < 1 or not 0 <= max_skip <= 1:
        raise BadValue(
            "batch_size and shard_size must be at least 1 and max_skip between 0 and 1, "
            f"not {batch_size}, {shard_size} and {max_skip}"
        )


def _dreams(
    count: int | str, recipes: Sequence[Recipe], *, seed: int, seeds: int, repeats: int
) -> dict[str, Any] | None:
    """What the manifest says of dreams. Several recipes or repeats are told only where there are several:
    an atlas of one is as it always was."""
    if count == 0:
        return None
    if not recipes:
        raise BadValue(f"dreams={count!r} needs a recipe, such as vitscope.dream.recipes.GHIASI_2022")
    if seeds < 1 or repeats < 1:
        raise BadValue(f"seeds and repeats must be at least 1, not {seeds} and {repeats}")
    names = [recipe.name for recipe in recipes]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BadValue(f"the recipe {twice[0]!r} is asked for twice; dreams of other seeds are `repeats`")
    first, *others = (recipe.describe() for recipe in recipes)
    plan = {"count": count, "recipe": first, "seed": seed, "seeds": seeds}
    return plan | ({"beside": others} if others else {}) | ({"repeats": repeats} if repeats > 1 else {})


def _manifest(
    model: VisionModel,
    source: ImageSource,
    sites: Iterable[Site],
    *,
    k: int,
    meters: Sequence[Meter],
    plan: dict[str, Any] | None,
    shard_size: int,
) -> Manifest:
    layouts = tuple(
        SiteLayout(site.name, site.axes, site.units, site.grid, site.prefix_tokens) for site in sites
    )
    provenance = Provenance(
        "atlas",
        model.name,
        model.fingerprint,
        model.preprocessing.describe(),
        source=source.fingerprint,
        settings={"dtype": str(model.dtype).removeprefix("torch.")},
        device=model.device.type,
    )
    facts = {"name": source.name, **source.describe(), "classes": len(source.classes or ()) or None}
    edges = tuple(float(edge) for edge in EDGES)
    return Manifest(
        provenance, facts, layouts, k, tuple(map(repr, meters)), edges, plan, shard_size, len(source)
    )


def _record(work: Work, begun: float, outcome: str) -> None:
    """Write what this run did. The host is left out on purpose."""
    manifest = work.store.manifest
    part = work.__dict__.get("part")
    name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(begun))}-{secrets.token_hex(4)}"
    facts = {
        "outcome": outcome,
        "begun": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begun)),
        "seconds": round(time.time() - begun, 3),
        "settings": {
            "sites": [site.name for site in manifest.sites],
            "k": manifest.k,
            "dreams": manifest.dreams,
            "batch_size": work.batch_size,
            "shard_size": manifest.shard_size,
            "engine": type(work.engine).__name__,
        },
        "device": work.model.device.type,
        "versions": versions(),
        "images": len(part.images) if part else None,
        "skipped": [asdict(entry) for entry in (part.skipped if part else ())],
        "without_thumbnail": [asdict(entry) for entry in work.not_shown],
    }
    try:
        write(work.store.root / "runs" / f"{name}.json", (json.dumps(facts, indent=1) + "\n").encode())
    except AtlasError:
        if outcome == "finished":  # otherwise the first error says more, often of the same full disk
            raise
