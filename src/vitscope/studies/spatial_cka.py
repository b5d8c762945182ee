"""Does a place in the last block still know its own pixels (Raghu et al. 2021, section 5)?

Rows, for each model, by `places`: "interior", those not on the border of the grid, and "border".

    own, others    mean CKA of a place with the pixels beneath it, and with those of other patches
    score          mean over places of (own - mean of others) / standard deviation of others: our choice
    peak_at_own    the share of places that are most like their own pixels, in per cent

Arrays: `spatial_cka` [row of place][column of place][row of patch][column of patch], `own` and `score`
[row][column].
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float

from vitscope.data.drawn import Drawn
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.errors import Unsuited
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import Similarity
from vitscope.meters.spatial import SpatialGrams, patch_of, place_of
from vitscope.models.vision_model import Site, VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.plots import heat_maps
from vitscope.scan import scan
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ((0, 0), (2, 3), (2, 7), (4, 5))
"""Places of the paper's figure for ViT-L/16, tokens 0, 31, 35 and 61 of 14 x 14; other grids are scaled."""
Map = Float[Array, "place patch"]


def run(
    models: Models,
    source: ImageSource,
    *,
    site: str = "",
    gram: int = GRAM,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """CKA of every place with the pixels of every patch.

    Args:
        models: the models.
        source: the images; labels are not needed.
        site: whose places, such as "blocks.10"; each model's last block if not given.
        gram: images in a Gram matrix.
        seed: of the order in which images are drawn.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        Unsuited: no model has such a site with a grid of places.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {"spatial_cka": {}, "own": {}, "score": {}}
    notes: list[str] = []
    scanned: Scanned | None = None
    for name, model in models.items():
        where = _site(model, site)
        if where is None:
            notes.append(f"{name} is left out: it has no block whose places are a grid on the image")
            continue
        told = partial(on_progress, name) if on_progress else None
        scanned = scan(
            model,
            Drawn(source, seed=seed),
            [SpatialGrams(where.name, gram=gram)],
            batch_size=batch_size,
            shard_size=max(1, SHARD_SIZE // gram) * gram,
            on_progress=told,
        )
        grid = where.grid or (1, 1)
        cells = list(np.ndindex(*grid))
        grams = scanned["spatial_grams"]
        found = grams.chosen([*map(place_of, cells)]).cka(grams.chosen([*map(patch_of, cells)]))
        table += [{"model": name, "site": where.name, **row} for row in _rows(found, grid)]
        rows, columns = grid
        arrays["spatial_cka"][name] = rearrange(
            found.value, "(a b) (r c) -> a b r c", a=rows, r=rows, b=columns, c=columns
        )
        arrays["own"][name] = found.value.diagonal().reshape(grid)
        arrays["score"][name] = scores(found.value).reshape(grid)
    if scanned is None:
        raise Unsuited("spatial_cka needs a model with a block whose places are a grid: " + "; ".join(notes))
    return Findings(table, arrays, images=len(scanned.images), skipped=scanned.skipped, notes=notes)


def _site(model: VisionModel, asked: str) -> Site | None:
    """The site asked for, or the last block's whose places are a grid."""
    if asked:
        return model.sites.named(asked)
    names = (pattern for pattern in ("blocks.*", "stages.*.*"))
    sites = chain(*(model.sites(name) for name in names if _has(model, name)))
    found = [site for site in sites if site.grid and site.grid != (1, 1)]
    return found[-1] if found else None


def _has(model: VisionModel, pattern: str) -> bool:
    return any(site.name.startswith(pattern.partition("*")[0]) for site in model.sites)


def scores(values: Map) -> Float[Array, " place"]:
    """How far every place's own pixels stand out, in standard deviations of the others."""
    count = len(values)
    others = values[~np.eye(count, dtype=bool)].reshape(count, count - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((values.diagonal() - others.mean(axis=1)) / others.std(axis=1))


def _border(grid: tuple[int, int]) -> Bool[Array, " place"]:
    inside = np.zeros(grid, bool)
    inside[1:-1, 1:-1] = True
    return ~inside.ravel()


def _rows(found: Similarity, grid: tuple[int, int]) -> list[Row]:
    border, count = _border(grid), grid[0] * grid[1]
    off = ~np.eye(count, dtype=bool)
    rows = []
    for places, chosen in (("interior", ~border), ("border", border)):
        if not chosen.any():
            continue
        row: Row = {"places": places, "count": int(chosen.sum())}
        measures = {
            "own": lambda values, at=chosen: values.diagonal()[at].mean(),
            "others": lambda values, at=chosen: values[at][off[at]].mean(),
            "score": lambda values, at=chosen: scores(values)[at].mean(),
        }
        for name, of in measures.items():
            row[name], row[f"{name}_error"] = found.estimate(of)
        own = found.value.argmax(axis=1) == np.arange(count)
        rows.append({**row, "peak_at_own": 100 * float(own[chosen].mean())})
    return rows


def draw(result: Result) -> dict[str, Figure]:
    """Of a few places of each model, the CKA with every patch; and of all places the CKA with their own."""
    panels, own = {}, {}
    for name, maps in result.by_model("spatial_cka").items():
        short = name.partition(":")[2] or name
        rows, columns = maps.shape[:2]
        for row, column in SHOWN:
            at = round(row * (rows - 1) / 13), round(column * (columns - 1) / 13)
            panels[f"{short}\nplace {at[0]},{at[1]}"] = maps[at]
        own[short] = result.by_model("own")[name]
    drawn = partial(heat_maps, x_label="column", y_label="row")
    return {
        "spatial_cka": drawn(panels, value_label="CKA of the place with the pixels"),
        "own": drawn(own, value_label="CKA of a place with its own pixels"),
    }


SPATIAL_CKA = Study(
    name="spatial_cka",
    question="Does a place in the last block still know which pixels it came from?",
    method=(
        "Of every place, unbiased minibatch CKA over images compares its activations with the flattened "
        "pixels of every patch of the image. A place that kept its position is most like its own patch."
    ),
    citation="Raghu et al. 2021, section 5 and appendix D (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "Neighbouring patches of natural images are alike: a map that is broad is partly the images' own.",
        "Pixels are those a model is shown, in [0, 1], before its own normalisation.",
        "The score is our choice; the paper shows maps only.",
        "A place of a CNN's last stage lies over 32 x 32 pixels, one of a ViT of patches of 16 over 16 x 16.",
    ),
)
