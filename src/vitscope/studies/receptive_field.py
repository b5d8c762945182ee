"""Which pixels does a place look at, layer by layer? Effective receptive fields (Raghu et al. 2021).

Rows, one for each site; arrays `field` [site][row][column], the mass in cells of a few pixels, and `sites`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitscope.atlas.commit import file_name
from vitscope.data.drawn import Drawn
from vitscope.data.source import ImageSource, Shard, Skipped
from vitscope.data.stream import stream
from vitscope.errors import BadValue, SourceError, UnknownSite
from vitscope.models.vision_model import Site, VisionModel
from vitscope.studies.fields import Field, field_of, weights
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SITES = ("embed", "blocks.*.mid", "blocks.*", "stages.*.*")
"""After the patch embedding or stem, and after every sublayer or block ("post-residual" in the paper)."""
GRADIENTS = ("channels", "sum")
SHOWN = 6
"""Maps of a model that a figure has."""
FAINT = 1e-4
"""Of the largest mass of a map: below, a figure shows nothing."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = SITES,
    sample: int = 32,
    channels: int = 8,
    gradient: str = "channels",
    seed: int = 0,
    batch_size: int = 4,
    on_progress: OnProgress | None = None,
) -> Findings:
    """The receptive field of the centre place at every site, averaged over images and channels.

    Args:
        models: the models.
        source: the images.
        sites: patterns; of each model, the sites on the image that match any of them.
        sample: images drawn from the source (32 in the paper); all where there are fewer.
        channels: channels drawn at each site, each of which costs a backward pass; 0 for all, as the paper.
        gradient: "channels" for the mean size of the gradients of channels, the paper's definition read
            literally; "sum" for the size of the gradient of the sum of all channels, which costs one backward
            pass a site and is another quantity: channels cancel one another in it.
        seed: of the drawing of images and channels.
        batch_size: images a pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: fewer than one image, a negative number of channels, or another word for `gradient`.
        UnknownSite: a model has none of the sites.
        SourceError: no image could be read.
    """
    if sample < 1 or channels < 0 or gradient not in GRADIENTS:
        raise BadValue(
            f"sample is at least 1, channels at least 0 and gradient 'channels' or 'sum', not {sample}, "
            f"{channels} and {gradient!r}"
        )
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {"field": {}, "sites": {}}
    skipped: list[Skipped] = []
    for name, model in models.items():
        chosen = _drawn(_sites(model, sites), channels if gradient == "channels" else 0, seed=seed)
        totals: dict[str, torch.Tensor] = {}
        images, skipped, count = 0, [], min(sample, len(source))
        for batch in stream(
            Drawn(source, seed=seed),
            Shard("drawn", 0, count),
            model.preprocessing,
            batch_size=batch_size,
            on_skip=skipped.append,
        ):
            for site, each in weights(model, batch.pixels, chosen, summed=gradient == "sum").items():
                totals[site] = totals.get(site, torch.zeros(())) + each.sum(0)
            images += len(batch)
            if on_progress:
                on_progress(name, images, count)
        if not images:
            raise SourceError(f"{source.name} has no image that could be read")
        fields = [field_of(site, totals[site.name]) for site in chosen]
        how = {"gradient": gradient, "images": images}
        for field, units in zip(fields, chosen.values(), strict=True):
            table.append({"model": name, **_row(field), **how, "channels": len(units)})
        arrays["field"][name] = np.stack([field.picture() for field in fields])
        arrays["sites"][name] = np.array([field.site.name for field in fields])
    return Findings(table, arrays, images=images, skipped=skipped)


def _sites(model: VisionModel, patterns: Sequence[str]) -> list[Site]:
    """The sites on the image that match any of the patterns, in the order of the pass."""
    names: set[str] = set()
    for pattern in patterns:
        try:
            names |= {site.name for site in model.sites(pattern)}
        except UnknownSite:
            continue
    found = [site for site in model.sites if site.name in names and site.grid]
    if not found:
        asked = ", ".join(patterns) or "no pattern"
        raise UnknownSite(
            f"{model.name} has no site with places on the image that matches {asked}. Give others with "
            f"--set sites=PATTERN, of: vitscope sites {model.name}"
        )
    return found


def _drawn(sites: Sequence[Site], channels: int, *, seed: int) -> dict[Site, list[int]]:
    """Of every site some of its channels, drawn by lot, or all."""
    found = {}
    for index, site in enumerate(sites):
        some = np.random.default_rng([seed, index]).permutation(site.units)[: channels or site.units]
        found[site] = sorted(some.tolist())
    return found


def _row(field: Field) -> Row:
    rows, columns = field.site.grid or (1, 1)
    return {
        "site": field.site.name,
        "centre_share": field.centre_share,
        "radius50": field.radius(0.5),
        "radius90": field.radius(0.9),
        "effective_share": field.effective_share,
        "cell": f"{field.mass.shape[0] / rows:g}x{field.mass.shape[1] / columns:g}",
    }


def draw(result: Result) -> dict[str, Figure]:
    """Radii and the share of the centre against depth, and maps of some sites of each model."""
    from vitscope.plots import Line, heat_maps, lines

    titles = {"radius50": "Half of the mass", "radius90": "90 % of the mass"}
    panels = {}
    for column, title in titles.items():
        panels[title] = [
            Line(name, _depth(result, name), _values(result, name, column)) for name in result.models
        ]
    x_label = "depth: sites in order, first to last (%)"
    figures = {"radius": lines(panels, x_label=x_label, y_label="lies within (px)", y_range=(0, None))}
    shares = [
        Line(name, _depth(result, name), _values(result, name, "centre_share")) for name in result.models
    ]
    figures["centre_share"] = lines(
        {"Mass on the place's own cell": shares}, x_label=x_label, y_label="share (0 to 1)", y_range=(0, 1)
    )
    names = result.by_model("sites")
    for model, fields in result.by_model("field").items():
        shown = sorted({round(place) for place in np.linspace(0, len(fields) - 1, SHOWN)})
        stem = "fields" if len(result.models) == 1 else f"fields.{file_name(model)}"
        with np.errstate(divide="ignore", invalid="ignore"):
            maps = {
                str(names[model][place]): np.log10(np.maximum(fields[place] / fields[place].max(), FAINT))
                for place in shown
            }
        figures[stem] = heat_maps(
            maps,
            x_label="column (cells of a map)",
            y_label="row",
            value_label="mass, as a power of ten of the largest",
            value_range=(float(np.log10(FAINT)), 0),
        )
    return figures


def _depth(result: Result, model: str) -> Array:
    count = len(result.rows(model=model))
    return np.linspace(0, 100, count) if count > 1 else np.array([100.0])


def _values(result: Result, model: str, column: str) -> list[float]:
    values = [row[column] for row in result.rows(model=model)]
    return [float("nan") if value is None else float(value) for value in values]


RECEPTIVE_FIELD = Study(
    name="receptive_field",
    question="Which pixels does a place look at, layer by layer?",
    method=(
        "The gradient of a channel at the centre place by every pixel says how much the pixel weighs there. "
        "Its size is summed over colours and averaged over channels and images; of this field the share on "
        "the place's own cell, and the radii that hold 50 and 90 % of it, are told."
    ),
    citation="Raghu et al. 2021, section 4, Figures 6 and C.1 to C.4 (arXiv 2108.08810)",
    run=run,
    draw=draw,
    caveats=(
        "The paper shows maps and no numbers; share, radii and effective share are our summaries. Its "
        "ViT-B/32 looks wide from the first layers on and keeps a peak on its own patch; its CNN grows.",
        "A gradient is what the model would do if a pixel changed a little. It is not what the pixel gives.",
        "A few channels stand for all where channels is not 0: their number is in the table. The rows of "
        "'sum' are another quantity than those of 'channels'; do not compare the two.",
        "Where the grid has an even number of rows, the centre is the place below and right of the middle.",
        "The share of the place's own cell falls with the size of the cell, which differs between sites.",
    ),
)
