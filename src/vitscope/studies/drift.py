"""What changed between two checkpoints of one architecture, by block and by unit (Raghu et al. 2021)?

Rows, by `part`:

    site    how alike both represent the same images at the same site
    units   how the units of a site correlate, each with itself in the other checkpoint
    unit    the units that changed most, first those of the lowest correlation

Arrays: `cka` [site] with `sites`, and `correlation` [site][unit] with `unit_sites`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from vitscope.data.drawn import Drawn
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.errors import BadValue
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import Grams, Similarity
from vitscope.meters.hsic import CKA
from vitscope.meters.meter import matching
from vitscope.meters.unit_means import SiteMeans, UnitMeans
from vitscope.models.vision_model import Site
from vitscope.parts import BATCH_SIZE
from vitscope.scan import scan
from vitscope.studies.depth import PATTERNS, column, first_pattern, padded, quartiles
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SITES = ("blocks.*", "stages.*.*")
"""The outputs of blocks, as in the paper's figures."""
Correlations = Mapping[str, Float[Array, " unit"]]


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = SITES,
    units: Sequence[str] = PATTERNS,
    most: int = 20,
    gram: int = GRAM,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """CKA of each site with itself in the other checkpoint, and correlations of each unit with itself.

    Args:
        models: the two checkpoints: before and after.
        source: the images; labels are not needed.
        sites: patterns; the sites whose representations are compared.
        units: patterns; the units of the first that matches are compared, by their mean over the places on
            each image: 8 bytes for each unit and image.
        most: how many of the units that changed most are listed.
        gram: images in a Gram matrix; with as many as there are images, CKA is exact.
        seed: of the order in which images are drawn.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: not two models, or two of different architecture; fewer than four images.
        UnknownSite: they have no such site.
    """
    if len(models) != 2:
        raise BadValue(
            f"drift compares two checkpoints of one architecture: give two models, not {len(models)}. The "
            "same name twice, with --weights once for each, is one way"
        )
    compared = _shared(models, sites)
    watched = _shared(models, [first_pattern(next(iter(models.values())), units)])
    scans = []
    for name, model in models.items():
        told = partial(on_progress, name) if on_progress else None
        meters = (CKA(tuple(sites), gram=gram), UnitMeans({site.name: range(site.units) for site in watched}))
        shard_size = max(1, SHARD_SIZE // gram) * gram
        images = Drawn(source, seed=seed)
        scans.append(
            scan(model, images, meters, batch_size=batch_size, shard_size=shard_size, on_progress=told)
        )
    grams: list[Grams] = [each["cka"] for each in scans]
    similar = {"cka": grams[0].cka(grams[1]), "spherical_cka": grams[0].cka(grams[1], spherical=True)}
    means: list[Mapping[str, SiteMeans]] = [each["unit_means"] for each in scans]
    units_alike = {site: correlations(of.values, means[1][site].values) for site, of in means[0].items()}
    rows = [*_sites(compared, similar), *_units(units_alike), *_most(units_alike, most)]
    arrays = {
        "sites": np.array([site.name for site in compared]),
        "cka": similar["cka"].value.diagonal(),
        "unit_sites": np.array(list(units_alike)),
        "correlation": padded(list(units_alike.values())),
    }
    name = next(iter(models))
    return Findings(
        [{"model": name, **row} for row in rows],
        {array: {name: values} for array, values in arrays.items()},
        images=len(scans[0].images),
        skipped=scans[0].skipped,
        notes=_notes(models, grams[0]),
    )


def _shared(models: Models, patterns: Sequence[str]) -> list[Site]:
    """The sites that match, which must be the same in both."""
    (name, here), (other, there) = ((name, matching(model.sites, patterns)) for name, model in models.items())
    if [(site.name, site.units) for site in here] == [(site.name, site.units) for site in there]:
        return here
    told = [f"{len(sites)} sites, from {_told(sites[0])} to {_told(sites[-1])}" for sites in (here, there)]
    raise BadValue(
        f"drift compares two checkpoints of one architecture. Of {', '.join(patterns)}, {name} has "
        f"{told[0]}, and {other} {told[1]}. The study similarity compares any two models"
    )


def _told(site: Site) -> str:
    return f"{site.name} ({site.units} units)"


def correlations(
    before: Float[Array, "image unit"], after: Float[Array, "image unit"]
) -> Float[Array, " unit"]:
    """Pearson's correlation over images of every unit with itself; NaN where one of the two never changes."""
    centred = [values - values.mean(axis=0) for values in (before, after)]
    lengths = [np.sqrt(np.square(values).sum(axis=0)) for values in centred]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((centred[0] * centred[1]).sum(axis=0) / (lengths[0] * lengths[1]))


def _sites(compared: Sequence[Site], similar: Mapping[str, Similarity]) -> Iterator[Row]:
    for index, site in enumerate(compared):
        row: Row = {"part": "site", "site": site.name, "depth": (index + 1) / len(compared)}
        for measure, found in similar.items():
            row |= {measure: found.value[index, index], f"{measure}_error": found.error[index, index]}
        yield row


def _units(units_alike: Correlations) -> Iterator[Row]:
    for index, (site, values) in enumerate(units_alike.items()):
        known = int(np.isfinite(values).sum())
        start = {"part": "units", "site": site, "depth": (index + 1) / len(units_alike)}
        yield {**start, **quartiles("correlation", values), "units": known}


def _most(units_alike: Correlations, most: int) -> Iterator[Row]:
    """Those of the lowest correlation; of NaN nothing is known."""
    every = [(site, unit) for site, values in units_alike.items() for unit in range(len(values))]
    values = np.concatenate(list(units_alike.values()))
    for place in np.argsort(values, kind="stable")[: min(most, int(np.isfinite(values).sum()))].tolist():
        site, unit = every[place]
        yield {"part": "unit", "site": site, "unit": unit, "correlation": float(values[place])}


def _notes(models: Models, grams: Grams) -> list[str]:
    first, second = models.values()
    notes = []
    if first.fingerprint == second.fingerprint:
        notes.append("the two were loaded with the same weights")
    if first.preprocessing != second.preprocessing:
        notes.append("the two are shown the images under different preprocessing: part of the drift is that")
    if grams.dropped:
        notes.append(
            f"{grams.dropped} images were left out of CKA: too few for a last batch, which needs four"
        )
    if len(grams.ids) == 1:
        notes.append(
            f"one Gram matrix holds all {grams.images} images: CKA is exact for them, without an error"
        )
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """CKA and the correlation of units against depth."""
    from vitscope.plots import Line, lines

    name, other = result.models
    series = []
    for measure, label in (("cka", "CKA"), ("spherical_cka", "spherical CKA")):
        rows = result.rows(part="site")
        value, error = column(rows, measure), column(rows, f"{measure}_error")
        series.append(Line(label, column(rows, "depth"), value, value - error, value + error))
    rows = result.rows(part="units")
    ends = (column(rows, f"correlation{end}") for end in ("", "_q25", "_q75"))
    series.append(Line("correlation of units: median and quartiles", column(rows, "depth"), *ends))
    return {
        "drift": lines(
            {f"{name} and {other}": series},
            x_label="depth: number of the site / number of sites",
            y_label="alike before and after",
            y_range=(None, 1),
        )
    }


DRIFT = Study(
    name="drift",
    question="What changed between two checkpoints of one architecture: which blocks, and which units?",
    method=(
        "Both are shown the same images. Unbiased minibatch CKA compares each site with the same one of the "
        "other checkpoint, and of every unit the means over the places on each image are correlated, over "
        "images, with those of the same unit."
    ),
    citation="Raghu et al. 2021, section 6 and appendix G, Figures 12 and G.1 (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "Two models that were trained alike from different starts are not at 1 either, and their units have "
        "nothing to do with one another: give such a pair as well to know what comes from the start alone.",
        "Units keep their places only between checkpoints that descend from one another. CKA does not depend "
        "on the order of units; correlations do. A unit that hardly differs between images correlates little "
        "after a small change.",
        "The paper finds the first four or five blocks preserved by every finetuning, and of later ones the "
        "less, the further the images are from those of before; its axis begins at 0.65.",
    ),
)
