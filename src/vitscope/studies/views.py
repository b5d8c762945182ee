"""What do units see through the patch embedding, and what of it reaches them? Views (Nguyen et al. 2022).

Rows with `part` "level", one for each level of each model, and with `part` "filters", one for each measure;
arrays `auc` and `auc_size` [image][filter], `served` [filter], `best` [image][n], `paths` [image],
`components` [n], `component_share` [n] and `pictures` [view][level].
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vitscope.data.foregrounds import shares
from vitscope.data.source import ImageBatch, ImageSource, Skipped
from vitscope.data.stream import stream
from vitscope.errors import BadValue, SourceError, Unsuited
from vitscope.flow import rolling_sites
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE
from vitscope.studies.appearance import as_text
from vitscope.studies.result import Array, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.studies.view_levels import GOOD, LEVELS, aucs, clearest, drawn_levels, foremost, good, of_flow
from vitscope.studies.views_drawn import draw
from vitscope.views import HEADS, Filters, displayed, flow_of, head_of, patch_filters

MEASURES = {"sum": "auc", "size": "auc_size"}
"""What a filter makes of a patch -> the array of its AUCs."""
BEST = 5
"""Filters of an image that are named."""
COMPONENTS = 28
"""Principal components that are shown, as in Dosovitskiy et al. 2021, Figure 7."""


def run(
    models: Models,
    source: ImageSource,
    *,
    heads: str = "mean",
    residual: bool = True,
    shown: int = 2,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Attention flow level by level, and every filter on every image, in one pass of each model.

    Args:
        models: the models; one without patch filters is left out, with a note.
        source: the images; what is said of objects comes from those with a mask or boxes.
        heads: "mean" follows the mean of all heads, "own" each head by itself.
        residual: whether the skip connection counts as half of every block.
        shown: how many images are drawn through their best filter.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: another word for `heads`, or a negative `shown`.
        Unsuited: no model has patch filters.
        SourceError: no image could be read.
    """
    if heads not in HEADS or shown < 0:
        raise BadValue(f"heads is 'mean' or 'own' and shown at least 0, not {heads!r} and {shown}")
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    seen = _Seen()
    refused: Unsuited | None = None
    for name, model in models.items():
        try:
            filters = patch_filters(model)
        except Unsuited as error:
            refused = error
            notes.append(f"{name} is left out: {error}")
            continue
        seen = _Seen(shown=shown)
        follows = _followed(model, filters, notes)
        for shard in source.shards():
            batches = stream(
                source, shard, model.preprocessing, batch_size=batch_size, on_skip=seen.skipped.append
            )
            for batch in batches:
                flow = flow_of(model, batch.pixels, heads=heads, residual=residual).cpu() if follows else None
                seen.take(filters, batch, flow)
                if on_progress:
                    on_progress(name, len(seen.paths), len(source))
        if not seen.paths:
            raise SourceError(f"{source.name} has no image that could be read")
        table += [{"model": name, **row} for row in (*seen.levels(), *seen.filters())]
        for array, values in {**seen.arrays(), **_components(filters)}.items():
            arrays.setdefault(array, {})[name] = values
    if refused and not table:
        raise refused
    return Findings(table, arrays, images=len(seen.paths), skipped=seen.skipped, notes=notes)


@dataclass
class _Seen:
    """What the images of one model said so far."""

    shown: int = 0
    paths: list[str] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    flows: list[Array] = field(default_factory=list)
    area: list[float] = field(default_factory=list)
    found: dict[str, list[Array]] = field(default_factory=lambda: {measure: [] for measure in MEASURES})
    drawn: list[list[str]] = field(default_factory=list)

    def take(self, filters: Filters, batch: ImageBatch, flow: Tensor | None) -> None:
        """Take in one batch, and the attention flow in it where there is any."""
        inside = torch.full((len(batch), filters.grid[0] * filters.grid[1]), torch.nan)
        if batch.foreground is not None:
            inside = shares(batch.foreground.cpu(), filters.grid)
        pixels = batch.pixels.to(filters.kernel.device)
        sums = filters.sums(pixels).cpu()
        self.found["sum"].append(aucs(sums, inside))
        self.found["size"].append(aucs(filters.sizes(pixels).cpu(), inside))
        self.paths += batch.paths
        self.area += inside.mean(-1).tolist()
        if flow is None:
            return
        prefix = flow.shape[-1] - inside.shape[-1]
        self.flows.append(of_flow(flow, inside, prefix=prefix))
        for image in range(min(len(batch), self.shown - len(self.drawn) // 3)):
            unit = clearest(self.found["sum"][-1][0, image])
            self.drawn += _drawn(filters, pixels[image : image + 1], flow[:, image], inside[image], unit)

    def levels(self) -> list[Row]:
        """A row for each level."""
        if not self.flows:
            return []
        every = np.concatenate(self.flows)
        area = float(np.nanmean(self.area)) if np.isfinite(self.area).any() else float("nan")
        rows = []
        for level, values in enumerate(np.moveaxis(every, 1, 0)):
            known = [values[np.isfinite(values[:, which]), which] for which in range(len(LEVELS))]
            means = [float(one.mean()) if one.size else float("nan") for one in known]
            told = dict(zip(LEVELS, means, strict=True))
            rows.append({"part": "level", "level": level, **told, **_gain(values), "object_area": area})
        return rows

    def filters(self) -> list[Row]:
        """A row for what is told by sums, and one for what is told by sizes."""
        return [
            {"part": "filters", "measure": measure, **_told(np.concatenate(found, axis=1))}
            for measure, found in self.found.items()
        ]

    def arrays(self) -> dict[str, Array]:
        """AUCs, whom each filter serves, and the best of each image."""
        found = {MEASURES[name]: np.concatenate(one, axis=1)[0] for name, one in self.found.items()}
        known = np.isfinite(found["auc"]).all(axis=1)
        served = good(found["auc"][known]).mean(axis=0) if known.any() else found["auc"][0]
        best = np.argsort(-abs(found["auc"] - 0.5), axis=1, kind="stable")[:, :BEST]
        return {
            **found,
            "served": served,
            "best": np.where(known[:, None], best, np.nan),
            "paths": np.array(self.paths),
            **({"pictures": np.array(self.drawn)} if self.drawn else {}),
        }


def _gain(values: Float[Array, "image measure"]) -> Row:
    """By how much tokens of the object draw on it more than on its turned self, paired over images, and the
    standard error of that."""
    own, turned = (values[:, LEVELS.index(name)] for name in ("from_object", "from_object_turned"))
    apart = (own - turned)[np.isfinite(own)]
    error = float(apart.std(ddof=1) / np.sqrt(len(apart))) if len(apart) > 1 else float("nan")
    return {
        "object_gain": float(apart.mean()) if apart.size else float("nan"),
        "object_gain_error": error,
    }


def _followed(model: VisionModel, filters: Filters, notes: list[str]) -> bool:
    """Whether attention can be followed from the last block to the patches of the embedding."""
    try:
        site = rolling_sites(model)[0]
    except Unsuited as error:
        notes.append(f"only filters, no levels: {error}")
        return False
    return site.grid == filters.grid


def _told(found: Float[Array, "side image filter"]) -> Row:
    """What the AUCs of one measure say; the turned foreground says what chance gives."""
    own, turned = found[:, np.isfinite(found).all(axis=(0, 2))]
    kinds, chance = good(own), good(turned)
    if not len(own):
        kinds = chance = np.full((1, found.shape[2]), np.nan)
    best = int(np.nan_to_num(kinds.mean(axis=0)).argmax())
    distance = abs(own - 0.5) if len(own) else np.full(1, np.nan)
    return {
        "filters": found.shape[2],
        "images": len(own),
        "auc_distance": float(np.median(distance)),
        "auc_distance_turned": float(np.median(abs(turned - 0.5))) if len(own) else float("nan"),
        "good": float(kinds.mean()),
        "good_turned": float(chance.mean()),
        "best": best if len(own) else None,
        "best_served": float(kinds.mean(axis=0)[best]),
        "best_served_turned": float(chance.mean(axis=0).max()),
        "helped": float(kinds.max(axis=1).mean()),
        "helped_turned": float(chance.max(axis=1).mean()),
    }


def _drawn(
    filters: Filters,
    pixels: Float[Tensor, "1 rgb row column"],
    flow: Float[Tensor, "level head query key"],
    inside: Float[Tensor, " place"],
    unit: int,
) -> list[list[str]]:
    """One image through one filter, from CLS, the patch most in the background, and the one most in the
    object: three rows of the image, the filter, and the views at the levels of `drawn_levels`."""
    prefix = flow.shape[-1] - len(inside)
    known = torch.nan_to_num(inside)
    queries = [0, prefix + foremost(-known), prefix + foremost(known)]
    view = filters.views(pixels, [unit])[0, 0].cpu()
    head = head_of(unit, len(filters), flow.shape[1])
    first = [pixels[0].cpu().movedim(0, -1), displayed(filters.kernel[unit].cpu())]
    rows = []
    for query in queries:
        later = [
            displayed(filters.weighted(view, flow[level, head, query, prefix:]))
            for level in drawn_levels(len(flow))
        ]
        rows.append([as_text((255 * one.numpy()).round().astype(np.uint8)) for one in (*first, *later)])
    return rows


def _components(filters: Filters) -> dict[str, Array]:
    """The principal components, as pictures around mid-grey, and their shares of the variance."""
    found, parts = filters.components(COMPONENTS)
    largest = found.abs().amax((1, 2, 3), keepdim=True)
    levels = ((found / largest + 1) * 127.5).round().to(torch.uint8).movedim(1, -1).cpu().numpy()
    texts = np.array([as_text(np.kron(one, np.ones((2, 2, 1), np.uint8))) for one in levels])
    return {"components": texts, "component_share": parts.cpu().numpy()}


VIEWS = Study(
    name="views",
    question="What do units see through the patch embedding, and what of it reaches them at later levels?",
    method=(
        "Each unit of the embedding multiplies every patch with its filter. How well the sum and the size of "
        "that product tell the object from the rest is the filter's AUC. Attention rolled out says which "
        "patches reach a token at every level: a unit's view there is the product, each patch dimmed to its "
        "share."
    ),
    citation="Nguyen et al. 2022, views and good filters (arXiv 2210.07646)",
    run=run,
    draw=draw,
    caveats=(
        "Views follow attention and skips; values, MLPs and norms are left out. They are an attention-flow "
        "heuristic of where information could come from, no attribution.",
        "The paper leaves open which head a unit follows and what skips count for. Here heads are averaged "
        "and a skip counts as half, which alone leaves a token at least 0.5^n of itself after n blocks.",
        "Artefacts, patches of very large norm that draw attention from everywhere (Darcet et al. 2024), "
        "show as patches that reach every token.",
        "Objects stand in the middle of pictures. What the foreground turned by half a turn reaches as well "
        "says nothing of objects; attention to one's own neighbourhood keeps to the object by itself.",
        f"Good is an AUC of at least {GOOD} or at most {1 - GOOD}: the paper judges by eye. Its filters 714 "
        "and 732 are those of one checkpoint of a ViT-B/16.",
    ),
)
