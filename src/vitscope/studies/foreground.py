"""How much of the class do a model's object alone, and its background alone, give away (Ghiasi et al. 2022)?

Rows, one for each `region` and `fill`, of each model:

    full                the picture as it is
    foreground          what lies in the boxes, or on the mask; the rest is filled
    background          what lies outside; the object is filled
    random_foreground   for control: what lies in one box of the same area, anywhere in the picture
    random_background   for control: what lies outside of that box
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageIntervention, ImageSource, Skipped
from vitscope.errors import BadValue, SourceError
from vitscope.interventions.boxes import drop_boxes, keep_boxes
from vitscope.interventions.resolution import coarse
from vitscope.meters.accuracy import Accuracies, Accuracy
from vitscope.meters.coverage import Coverage, Covered
from vitscope.meters.share import CONFIDENCE, RESAMPLES
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, MAX_SKIP, Scanned
from vitscope.studies.classifiers import classifiers
from vitscope.studies.depth import column
from vitscope.studies.foreground_published import PUBLISHED
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = (1, 5)
"""Of every accuracy; the paper's table is about the first 5."""
COMPARED = 5
"""Models are compared by the paper's measure: normalised top-5."""
REGIONS = ("foreground", "background", "random_foreground", "random_background")
"""What may be left of a picture."""


def run(
    models: Models,
    source: ImageSource,
    *,
    fills: Sequence[str] = ("black",),
    resolution: int | None = None,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Accuracy on whole pictures, on objects, on backgrounds and on random boxes of equal area.

    Every picture is decoded once a model, and seen five times; four times more for every further fill.

    Args:
        models: the models.
        source: labelled images. Those without boxes or mask are left out of everything.
        fills: of "black" (the paper's), "mean" and "blur": what stands where pixels were.
        resolution: the detail that all models are shown, in pixels of the shorter side, whatever their
            input; their own where it is None.
        seed: of the random boxes, which depend on it and the image alone, and of resampling.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: no fill or an unknown one, or a model whose input is smaller than `resolution`.
        SourceError: no image has a foreground, or too many cannot be read.
    """
    if not fills:
        raise BadValue("foreground needs at least one fill: black, mean or blur")
    seen: dict[str, dict[str, Scanned]] = {}
    asked, notes = classifiers(models)
    for name, model in asked.items():
        variants = _variants(_shown(model, resolution), fills=fills, seed=seed)
        told = partial(on_progress, name) if on_progress else None
        seen[name] = scan_variants(
            model,
            source,
            variants,
            [Accuracy(TOP), Coverage()],
            batch_size=batch_size,
            max_skip=1.0,
            on_progress=told,
        )
        notes += [f"{name}: {note}" for note in _empty(seen[name]["full"]["coverage"])]
    first = next(iter(seen.values()))["full"]
    _check(source, first.skipped)
    table = [{"model": name, **row} for name, of in seen.items() for row in _rows(of, fills, seed=seed)]
    for region in REGIONS:
        notes += _compared(seen, region=region, fill=fills[0], seed=seed)
    return Findings(table, images=len(first.images), skipped=first.skipped, notes=notes)


def _shown(model: VisionModel, resolution: int | None) -> tuple[ImageIntervention, ...]:
    if resolution is None:
        return ()
    rows, columns = model.preprocessing.size
    if resolution > min(rows, columns):
        raise BadValue(
            f"{model.name} is shown {rows} x {columns} pixels, fewer than a resolution of {resolution}: give "
            "at most what the smallest model is shown"
        )
    return (coarse(resolution),)


def _variants(shown: tuple[ImageIntervention, ...], *, fills: Sequence[str], seed: int) -> list[Variant]:
    variants = [Variant("full", images=shown)]
    for fill in fills:
        for region in REGIONS:
            kept = keep_boxes if region.endswith("foreground") else drop_boxes
            boxes = "random" if region.startswith("random") else "given"
            variants.append(
                Variant(f"{region} {fill}", images=(kept(fill=fill, boxes=boxes, seed=seed), *shown))
            )
    return variants


def _rows(seen: Mapping[str, Scanned], fills: Sequence[str], *, seed: int) -> list[Row]:
    full: Accuracies = seen["full"]["accuracy"]
    covered = 100 * float(np.nanmean(seen["full"]["coverage"].shares))
    images = {"images": len(full)}
    rows: list[Row] = [{"region": "full", "fill": None, **full.row(), "area": 100.0, **images}]
    for fill in fills:
        for region in REGIONS:
            found: Accuracies = seen[f"{region} {fill}"]["accuracy"]
            row: Row = {"region": region, "fill": fill, **found.row()}
            for k in TOP:
                ratio = found.relative_to(full, k=k, seed=seed)
                name = f"normalised_top{k}"
                row |= {name: ratio.value, f"{name}_low": ratio.low, f"{name}_high": ratio.high}
            given = {"foreground": covered, "background": 100 - covered}
            rows.append({**row, "area": given.get(region), **images})
    return rows


def _empty(covered: Covered) -> list[str]:
    """Images that are all background, or all foreground, as far as the model is shown them."""
    nothing, everything = int((covered.shares == 0).sum()), int((covered.shares == 1).sum())
    found = []
    if nothing:
        found.append(f"{nothing} of {len(covered.shares)} images show no foreground, and count")
    if everything:
        found.append(f"{everything} of {len(covered.shares)} images show nothing but foreground, and count")
    return found


def _check(source: ImageSource, skipped: Sequence[Skipped]) -> None:
    """Refuse a source of which much was skipped for another reason than that it has no annotation."""
    broken = [entry for entry in skipped if entry.reason != "no_annotation"]
    if len(broken) > MAX_SKIP * len(source):
        raise SourceError(
            f"{len(broken)} of {len(source)} images were skipped, more than {MAX_SKIP:.0%}. First: "
            f"{broken[0].path!r}, {broken[0].reason}"
        )


def _compared(seen: Mapping[str, Mapping[str, Scanned]], *, region: str, fill: str, seed: int) -> list[str]:
    """How much more of its accuracy the first model keeps than each other does, over the same images."""
    (first, ours), *others = seen.items()
    notes = []
    for other, theirs in others:
        right = (
            found[variant]["accuracy"].right(COMPARED)
            for found in (ours, theirs)
            for variant in (f"{region} {fill}", "full")
        )
        low, high = difference(*right, seed=seed)
        if np.isfinite(low):
            notes.append(
                f"{region}, {fill}: normalised top-{COMPARED} of {first} exceeds {other}'s by {low:+.1f} to "
                f"{high:+.1f} points (95 %)"
            )
    return notes


def difference(
    ours: Array, our_full: Array, theirs: Array, their_full: Array, *, seed: int
) -> tuple[float, float]:
    """The interval of 95 % of the difference of two normalised accuracies over the same images, in points.

    A percentile bootstrap over images, which are drawn by how often each of the 16 outcomes occurs. NaN where
    one of the two is never right on whole pictures.

    Args:
        ours, our_full, theirs, their_full: of every image whether it is right; on a part of it, and whole.
        seed: of the resampling.
    """
    if not (our_full.any() and their_full.any()):
        return float("nan"), float("nan")
    columns = np.stack([ours, our_full, theirs, their_full])
    outcomes = np.array([[outcome >> bit & 1 for bit in range(4)] for outcome in range(16)])
    met = np.bincount((columns.T @ (1 << np.arange(4))).astype(np.int64), minlength=16)
    draws = np.random.default_rng(seed).multinomial(met.sum(), met / met.sum(), size=RESAMPLES) @ outcomes
    draws = draws[(draws[:, 1] > 0) & (draws[:, 3] > 0)]
    apart = 100 * (draws[:, 0] / draws[:, 1] - draws[:, 2] / draws[:, 3])
    low, high = np.quantile(apart, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def draw(result: Result) -> dict[str, Figure]:
    """Normalised accuracies as bars with their intervals, and raw ones, by region."""
    return {
        "normalised": _figure(result, "normalised_top", REGIONS, y_label="normalised accuracy (%)"),
        "accuracy": _figure(result, "top", ("full", *REGIONS), y_label="accuracy (%)"),
    }


def _figure(result: Result, name: str, regions: Sequence[str], *, y_label: str) -> Figure:
    from vitscope.plots import Bars, bars

    fills = [fill for fill in dict.fromkeys(row["fill"] for row in result.table) if fill]
    panels = {}
    for fill in fills:
        for k in (5, 1):
            series = []
            for model in result.models:
                rows = [_found(result, model, region, fill) for region in regions]
                value, low, high = (column(rows, f"{name}{k}{end}") for end in ("", "_low", "_high"))
                series.append(Bars(model, value, low, high))
            panels[f"top-{k}, {fill}"] = series
    names = [region.replace("_", " ") for region in regions]
    return bars(panels, groups=names, y_label=y_label)


def _found(result: Result, model: str, region: str, fill: str) -> Row:
    rows = result.rows(model=model, region=region, fill=None if region == "full" else fill)
    return rows[0] if rows else {}


FOREGROUND = Study(
    name="foreground",
    question="How much class evidence is in the background, and how much is lost without it?",
    method=(
        "Each picture is shown whole, with only its object, and with only its background, cut at its "
        "original size by boxes or masks. Accuracies are divided by that on whole pictures. A box of the "
        "same area at a random place tells what a hole of that size costs anyway."
    ),
    citation="Ghiasi et al. 2022, Table 2 and Figure 7b (arXiv 2212.06727)",
    run=run,
    draw=draw,
    needs=("labels", "foreground", "logits"),
    caveats=(
        "The published ViTs see 384 pixels, the CNNs 224: they differ in more than architecture. Give "
        "resolution=224 to show all models the same detail.",
        "The published images are training images of the models, those of ImageNet that have boxes: accuracy "
        "on whole pictures is 96 to 99 %. Numbers on other images are comparable in order, not in level.",
        "The published models differ in capacity and training data as well; larger ones use backgrounds "
        "better within each family.",
        "Boxes keep some background around the object, and black shapes show its outline: a model may read "
        "either. Masks and other fills say how much that matters.",
    ),
    published=PUBLISHED,
)
