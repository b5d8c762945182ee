"""Do the patches of an object lie together, layer by layer (Nguyen et al. 2022)?

Rows, one for each `grid` and site of each model: 1 for whole images, k for images whose k x k pieces are
shuffled. `meters.grouping` says what the measures are. Arrays: `error` [grid][site][measure], their
standard errors; `tsne` [layer][patch][2], the patches of one picture at a few layers, with `tsne_objects`
[patch], `tsne_sites` and `tsne_purity` [layer].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.objects import Objects
from vitscope.data.source import ImageSource, Shard
from vitscope.data.stream import stream
from vitscope.errors import BadValue
from vitscope.interventions.patches import shuffle_patches
from vitscope.meters.clusters import COLUMNS, STREAMS, Clustered, Clusters
from vitscope.meters.grouping import NONE, neighbour_purity, patch_objects
from vitscope.models.vision_model import Site, VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.clusters_published import CURVES, PUBLISHED
from vitscope.studies.depth import DEPTH, along, column, first_pattern
from vitscope.studies.exemplars import Few
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.tap import read
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = (0.0, 0.5, 1.0)
"""Depths of the layers that are drawn: 0, 6 and 11 of twelve, as the authors have them."""
TITLES = {
    "in_object_cosine": "Cosine within objects",
    "between_cosine": "Cosine between objects",
    "in_cluster_cosine": "Cosine within clusters",
    "silhouette": "Silhouette",
    "purity": "Purity",
    "unique_labels": "Labels found",
}
"""Measures that are drawn."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = STREAMS,
    grids: Sequence[int] = (2, 8),
    patches: str = "all",
    picture: str = "",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Cluster measures at every site, of whole and of shuffled images, and a few maps of one picture.

    Args:
        models: the models.
        source: images with masks, whose values tell objects apart, or boxes.
        sites: patterns; of each model the first is used that it has sites for.
        grids: into how many pieces along each side images are cut and shuffled, beside whole ones (2 and 8 in
            the authors' notebook).
        patches: "all", or the "ordinary" ones, without those of extreme norm.
        picture: the path of the image whose patches are drawn; the first that is used if not given.
        seed: of the shuffles and of the maps.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        UnknownSite: a model has none of the sites.
        BadValue: no image has two objects of some size, or another word for `patches`.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    for name, model in models.items():
        meter = Clusters(first_pattern(model, sites), patches=patches)
        objects = Objects(source, model.preprocessing)
        variants, left = _variants(model, objects, grids, seed=seed)
        told = partial(on_progress, name) if on_progress else None
        seen = scan_variants(model, source, variants, [meter], batch_size=batch_size, on_progress=told)
        found = {
            grid: list(of["clusters"].values()) for grid, of in zip((1, *left), seen.values(), strict=True)
        }
        whole = seen[variants[0].name]
        middle = found[1][len(found[1]) // 2]
        if not len(middle.ids):
            raise BadValue(
                f"no image of {source.name} has two objects that {name} is shown at some size. Masks tell "
                "objects apart by their values, boxes by each other"
            )
        table += [
            {"model": name, "grid": grid, "site": one.site.name, "images": len(one.ids), **one.row()}
            for grid, of in found.items()
            for one in of
        ]
        errors = [[[one.error(measure) for measure in COLUMNS] for one in of] for of in found.values()]
        shown = [one.site for one in found[1] if one.site.grid == middle.site.grid]
        path = picture or _first(whole, middle)
        maps = _maps(model, source, objects, shown, path, seed=seed)
        for array, values in {"error": np.array(errors), **maps}.items():
            arrays.setdefault(array, {})[name] = values
        notes += [f"{name}: {note}" for note in _notes(found[1], grids, left)]
    return Findings(table, arrays, images=len(whole.images), skipped=whole.skipped, notes=notes)


def _variants(
    model: VisionModel, objects: Objects, grids: Sequence[int], *, seed: int
) -> tuple[list[Variant], list[int]]:
    """Whole images, and those of the grids that divide what the model is shown."""
    side, other = model.preprocessing.size
    left = [grid for grid in grids if grid > 1 and side == other and side % grid == 0]
    moves = [shuffle_patches(patch=side // grid, seed=seed) for grid in left]
    shuffled = [
        Variant(f"grid {grid}", images=(objects.under(move),)) for grid, move in zip(left, moves, strict=True)
    ]
    return [Variant("whole", images=(objects.under(),)), *shuffled], left


def _first(whole: Scanned, found: Clustered) -> str:
    """The first image of the source that is used at a site."""
    used = {one.tobytes().hex() for one in found.ids}
    return next(image.path for image in whole.images if image.id in used)


def _maps(
    model: VisionModel,
    source: ImageSource,
    objects: Objects,
    sites: Sequence[Site],
    path: str,
    *,
    seed: int,
) -> dict[str, Array]:
    """The patches of one image on a plane, at a few of the sites, which have the same grid."""
    from vitscope.studies.embedded import embedded

    batches = stream(
        Few(source, [path]), Shard("one", 0, 1), model.preprocessing, batch_size=1, on_skip=lambda _: None
    )
    batch = next((objects.under().on_view(batch) for batch in batches), None)
    owners = patch_objects(batch.objects[0], sites[0].grid or (1, 1)) if batch else None
    if batch is None or owners is None:
        raise BadValue(f"{path!r} has no two objects of some size, or cannot be read: choose another picture")
    chosen = [sites[round(share * (len(sites) - 1))] for share in SHOWN]
    seen = read(model, batch.pixels.to(model.device), chosen)
    tokens = {site.name: seen[site.name][0].double().cpu().numpy() for site in dict.fromkeys(chosen)}
    on = owners != NONE
    purities = [neighbour_purity(values[-len(on) :][on], owners[on]) for values in tokens.values()]
    planes = [embedded(values, seed=seed)[-len(on) :] for values in tokens.values()]
    return {
        "tsne": np.stack(planes),
        "tsne_objects": owners,
        "tsne_sites": np.array(list(tokens)),
        "tsne_purity": np.array(purities),
    }


def _notes(found: Sequence[Clustered], grids: Sequence[int], left: Sequence[int]) -> list[str]:
    """The paper's claim in numbers: that the cosine within objects rises with depth."""
    from scipy.stats import spearmanr

    notes = [
        f"a grid of {grid} is left out: it does not divide what the model is shown"
        for grid in grids
        if grid > 1 and grid not in left
    ]
    count = len(found[0].ids)
    if any(len(one.ids) != count for one in found):
        notes.append("sites of another grid use other images: an object needs three places")
    rises = {}
    curves = {
        measure: np.array([one.mean(measure) for one in found]) for measure in (*CURVES, "between_cosine")
    }
    curves["in_object_cosine less between_cosine"] = curves["in_object_cosine"] - curves["between_cosine"]
    for measure, values in curves.items():
        if len(values) > 2 and np.ptp(values) > 0:
            rises[measure] = float(spearmanr(np.arange(len(values)), values).statistic)
    if rises:
        told = ", ".join(f"{measure} {value:+.2f}" for measure, value in rises.items())
        notes.append(f"rank correlation with depth over {len(found)} sites: {told}")
    far = max(one.mean("artefacts") for one in found)
    if far > 0:
        notes.append(f"up to {100 * far:.1f} % of the patches of a site are artefacts: see patches=ordinary")
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """Each measure against depth beside the paper's curve; that of shuffled images; and the maps."""
    from vitscope.plots import Line, lines
    from vitscope.studies.embedded import Embedded, scattered

    panels: dict[str, list[Line]] = {}
    shuffled: dict[str, list[Line]] = {}
    for measure, title in TITLES.items():
        for model in result.models:
            rows = result.rows(model=model, grid=1)
            panels.setdefault(title, []).append(Line(model, along(len(rows)), column(rows, measure)))
        if measure in CURVES:
            curve = CURVES[measure]
            panels[title].append(Line("published, ViT-B/16", along(len(curve)), curve))
    for measure in ("in_object_cosine", "purity"):
        for model in result.models:
            series = shuffled.setdefault(f"{TITLES[measure]}\n{model}", [])
            for grid in dict.fromkeys(row["grid"] for row in result.rows(model=model)):
                rows = result.rows(model=model, grid=grid)
                label = "whole images" if grid == 1 else f"{grid} x {grid} pieces, shuffled"
                series.append(Line(label, along(len(rows)), column(rows, measure)))
    maps = {}
    sites, purities, objects = (result.by_model(f"tsne_{what}") for what in ("sites", "purity", "objects"))
    for model, planes in result.by_model("tsne").items():
        for site, plane, purity in zip(sites[model], planes, purities[model], strict=True):
            maps[f"{model}\n{site}"] = Embedded(plane, objects[model], float(purity))
    drawn = partial(lines, x_label=DEPTH, y_label="mean over images")
    return {"clusters": drawn(panels), "shuffled": drawn(shuffled), "tsne": scattered(maps)}


CLUSTERS = Study(
    name="clusters",
    question="Do the patches of an object lie together, layer by layer, in whole and in shuffled images?",
    method=(
        "In every image with two or more objects, the patches of objects are clustered (DBSCAN, with a "
        "radius taken from the distances within objects) and compared with the objects: by purity, "
        "silhouette and cosines within clusters and objects. Maps of one picture stand beside the purity of "
        "neighbours in the original space."
    ),
    citation="Nguyen et al. 2022, authors' notebook of cluster metrics (arXiv 2210.07646)",
    run=run,
    draw=draw,
    needs=("foreground",),
    caveats=(
        "The radius of the clusters is computed from the objects themselves, as the authors do: clusters "
        "know what they are compared with.",
        "Patches that lie side by side are alike, and an object is in one place. neighbour_place is the "
        "purity that nearness in the image alone gives; a neighbour_purity that is not above it says nothing "
        "of objects. Small grids of shuffled pieces leave most of it.",
        "A cosine within objects that rises may mean that all patches become alike: see between_cosine.",
        "A few patches of extreme norm can rule distances and cosines: see artefacts, and patches=ordinary.",
        "Where the values of a mask are classes, all things of a class are one object. The paper has masks "
        "of instances (PASCAL VOC), and squashes images, which here are cut as the model wants.",
        "A map by t-SNE is a picture, no evidence: sizes and distances in it mean little.",
    ),
    published=PUBLISHED,
)
