"""What becomes of a model when the pieces of an image change places (Nguyen et al. 2022; Naseer et al. 2021)?

Rows, one for each of `positions` ("kept", "none") and `grid` of each model; all but accuracy compares with
whole images under the same positions. Arrays: `cka` [positions][grid][site], with whole images, and `sites`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.drawn import Drawn
from vitscope.data.objects import Objects
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.patches import shuffle_patches
from vitscope.interventions.positions import table_of_positions, without_positions
from vitscope.meters.clusters import STREAMS, Clustered, Clusters
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import LEAST
from vitscope.meters.hsic import CKA, MEAN
from vitscope.meters.meter import Meter
from vitscope.meters.predictions import Predictions
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.answers import LEFT, left_of
from vitscope.studies.classifiers import classifiers
from vitscope.studies.depth import DEPTH, along, column, first_pattern
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import NEEDS, Findings, Models, OnProgress, Study, label_notes
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

WHOLE = 1
"""The grid of an image in one piece."""
MEASURES = (
    "purity",
    "silhouette",
    "in_object_cosine",
    "between_cosine",
    "neighbour_purity",
    "neighbour_place",
)
"""Of clusters, those that the table holds."""


def run(
    models: Models,
    source: ImageSource,
    *,
    grids: Sequence[int] = (2, 4, 8, 14),
    positions: Sequence[str] = ("kept", "none"),
    sites: Sequence[str] = STREAMS,
    features: str = MEAN,
    gram: int = GRAM,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Answers, similarity of sites and clusters, with images in one piece and in k x k shuffled pieces.

    Args:
        models: classifiers.
        source: the images; with labels there is accuracy, with masks or boxes there are clusters.
        grids: into how many pieces along each side (the authors use 2, 4, 8 and 14); those that do not divide
            what a model is shown are left out.
        positions: "kept"; and "none", with the table of positions set to zero, where a model has one.
        sites: patterns; of each model the first is used that it has sites for.
        features: what CKA compares, as the study `similarity`: by default means over places, which do not
            know where a place lies.
        gram: images in a Gram batch.
        seed: of the shuffles, and of the order of the images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: an unknown word for positions, or fewer than four images.
        UnknownSite: a model has none of the sites.
        Unsuited: no model has logits.
    """
    if not positions or {*positions} - {"kept", "none"}:
        raise BadValue(f"positions are 'kept' or 'none', not {', '.join(positions) or 'nothing'}")
    if len(source) < LEAST:
        raise BadValue(f"shuffle needs at least {LEAST} images, and {source.name} has {len(source)}")
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    asked, notes = classifiers(models)
    whole: Scanned | None = None
    for name, model in asked.items():
        pattern = first_pattern(model, sites)
        meters: list[Meter] = [CKA(pattern, gram=gram, features=features), Predictions()]
        objects = None
        if NEEDS["foreground"].holds(models, source):
            meters.append(Clusters(_last(model, pattern)))
            objects = Objects(source, model.preprocessing)
        where, told = _positions(model, positions), partial(on_progress, name) if on_progress else None
        variants = _variants(model, objects, grids, where, seed=seed)
        seen = scan_variants(
            model,
            Drawn(source, seed=seed),
            list(variants.values()),
            meters,
            batch_size=batch_size,
            on_progress=told,
        )
        found = {key: seen[variant.name] for key, variant in variants.items()}
        whole = found[where[0], WHOLE]
        table += [{"model": name, **row} for row in _rows(found, seed=seed)]
        arrays.setdefault("cka", {})[name] = _similar(found, where)
        arrays.setdefault("sites", {})[name] = np.array(whole["cka"].sites)
        notes += [f"{name}: {note}" for note in _notes(model, grids, positions, found)]
    if whole is None:
        raise Unsuited(f"no model is a classifier. {'. '.join(notes)}")
    notes += label_notes(models, source) if source.classes else []
    return Findings(table, arrays, images=len(whole.images), skipped=whole.skipped, notes=notes)


_Found = Mapping[tuple[str, int], Scanned]
"""What was seen, by positions and grid."""


def _last(model: VisionModel, pattern: str) -> str:
    """The last site that has places to cluster."""
    return list(Clusters(pattern).sites(model.sites))[-1].name


def _positions(model: VisionModel, asked: Sequence[str]) -> list[str]:
    """Those of the model: one without a table of positions keeps what it has."""
    try:
        table_of_positions(model)
    except Unsuited:
        return ["kept"]
    return list(dict.fromkeys(asked))


def _variants(
    model: VisionModel, objects: Objects | None, grids: Sequence[int], positions: Sequence[str], *, seed: int
) -> dict[tuple[str, int], Variant]:
    found = {}
    for where in positions:
        for grid in (WHOLE, *_dividing(model, grids)):
            piece = model.preprocessing.size[0] // grid
            moves = (shuffle_patches(patch=piece, seed=seed),) if grid > WHOLE else ()
            found[where, grid] = Variant(
                f"{where} {grid}",
                images=(objects.under(*moves),) if objects else moves,
                model=(without_positions,) if where == "none" else (),
            )
    return found


def _dividing(model: VisionModel, grids: Sequence[int]) -> list[int]:
    """Those that cut what the model is shown into equal squares."""
    side, other = model.preprocessing.size
    return [grid for grid in dict.fromkeys(grids) if grid > WHOLE and side == other and side % grid == 0]


def _rows(found: _Found, *, seed: int) -> list[Row]:
    rows = []
    for (where, grid), seen in found.items():
        plain = found[where, WHOLE]
        similar = seen["cka"].cka(plain["cka"])
        row: Row = {
            "positions": where,
            "grid": grid,
            "images": len(seen.images),
            **left_of(plain, seen, seed=seed),
        }
        for name, of in (
            ("cka", lambda values: values.diagonal().mean()),
            ("cka_last", lambda values: values[-1, -1]),
        ):
            row[name], row[f"{name}_error"] = similar.estimate(of)
        if "clusters" in seen.results:
            (clusters,) = seen["clusters"].values()
            row |= _clusters(clusters)
        rows.append(row)
    return rows


def _clusters(found: Clustered) -> Row:
    means = {measure: found.mean(measure) for measure in MEASURES}
    return {"site": found.site.name, "images_with_objects": len(found.ids), **means}


def _similar(found: _Found, positions: Sequence[str]) -> Array:
    """CKA of every site with itself on whole images."""
    return np.stack(
        [
            np.stack(
                [
                    seen["cka"].cka(found[where, WHOLE]["cka"]).value.diagonal()
                    for (at, _), seen in found.items()
                    if at == where
                ]
            )
            for where in positions
        ]
    )


def _notes(model: VisionModel, grids: Sequence[int], positions: Sequence[str], found: _Found) -> list[str]:
    left = [grid for grid in grids if grid > WHOLE and grid not in _dividing(model, grids)]
    notes = [f"a grid of {grid} is left out: it does not divide what the model is shown" for grid in left]
    if "none" in positions and not any(where == "none" for where, _ in found):
        notes.append("it has no table of positions to take away")
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """Answers against the grid; CKA of every site; and clusters, where there are objects."""
    from vitscope.plots import Line, lines

    drawn = partial(lines, x_label="pieces along each side", x_scale="log", ticks=_grids(result))
    titles = {"agreement": "Same answer as of whole images", "top1": "Right answer"}
    answers = {title: _series(result, name) for name, title in titles.items()}
    figures = {
        "answers": drawn(
            {title: of for title, of in answers.items() if of}, y_label="images (%)", y_range=(0, 100)
        )
    }
    panels: dict[str, list[Line]] = {}
    for model, values in result.by_model("cka").items():
        rows = result.rows(model=model)
        for where, of in zip(dict.fromkeys(row["positions"] for row in rows), values, strict=True):
            grids = [row["grid"] for row in rows if row["positions"] == where]
            panels[f"{model}\npositions {where}"] = [
                Line(f"{grid} x {grid}", along(len(each)), each) for grid, each in zip(grids, of, strict=True)
            ]
    figures["cka"] = lines(panels, x_label=DEPTH, y_label="CKA with whole images", y_range=(None, 1))
    named = {
        "purity": "Purity of clusters",
        "neighbour_purity": "Neighbours of the same object",
        "in_object_cosine": "Cosine within objects",
    }
    clusters = {title: _series(result, name) for name, title in named.items()}
    if any(clusters.values()):
        figures["clusters"] = drawn(clusters, y_label="last site, mean over images")
    return figures


def _grids(result: Result) -> list[int]:
    return sorted({row["grid"] for row in result.table})


def _series(result: Result, name: str) -> list[Line]:
    """A line for each model and positions that have the column, with its interval if it has one."""
    from vitscope.plots import Line

    found = []
    for model in result.models:
        for where in ("kept", "none"):
            rows = [row for row in result.rows(model=model, positions=where) if name in row]
            if rows:
                ends = [column(rows, f"{name}_{end}") if name in LEFT else None for end in ("low", "high")]
                label = model if where == "kept" else f"{model}, no positions"
                found.append(Line(label, [row["grid"] for row in rows], column(rows, name), *ends))
    return found


NASEER = "Naseer et al. 2021 (arXiv 2105.10497)"
SHUFFLE = Study(
    name="shuffle",
    question="What becomes of a model when the pieces of an image change places?",
    method=(
        "Images are cut into k x k pieces that are put in a random order, as the model is shown them, with "
        "and without the model's position embeddings. Answers are compared with those to whole images, sites "
        "by CKA, and at the last site the clusters of patches with the objects, which move with the pieces."
    ),
    citation=f"Nguyen et al. 2022, authors' dataset class (arXiv 2210.07646); {NASEER}",
    run=run,
    draw=draw,
    needs=("logits",),
    caveats=(
        "Nguyen et al. report clusters of shuffled images (see the study `clusters`) and no accuracy.",
        "Without position embeddings, and with pieces no larger than a patch, a transformer cannot know the "
        "order: agreement of 100 % is then a check of the code and nothing else.",
        "Taking positions away from a model that was trained with them costs accuracy by itself: top1 at a "
        "grid of 1 says how much. All other columns compare with whole images under the same positions.",
        "CKA of means over places does not see where things lie, which is its point here; with "
        "features=places it does.",
        "Edges of pieces are new to a model, the more so where they cut its patches: 4 x 4 and 8 x 8 pieces "
        "of 224 pixels do, of patches of 16, and 2 x 2 and 14 x 14 do not.",
    ),
)
