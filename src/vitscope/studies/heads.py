"""Do global heads compute other features than local ones? Heads against a CNN's layers (Raghu et al. 2021).

Rows with `part` "set", one for each set of heads and each layer of another model, and with `part` "trend",
one for each layer; array `distance` [head].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.data.drawn import Drawn
from vitscope.data.source import SHARD_SIZE, ImageSource
from vitscope.errors import UnknownSite, Unsuited
from vitscope.meters.attention_distance import AttentionDistance
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import Grams
from vitscope.meters.head_grams import HeadGrams, of_sets
from vitscope.meters.hsic import CKA
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.scan import scan
from vitscope.studies.depth import column
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGAINST = ("stages.0.*", "stages.1.0")
"""The first stage of a CNN and the first block of its second, as in the paper (block 1 units 1 to 3, block 2
unit 1, of a network whose blocks are counted from 1)."""


def run(
    models: Models,
    source: ImageSource,
    *,
    block: int = 0,
    window: int = 0,
    against: Sequence[str] = AGAINST,
    gram: int = GRAM,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """CKA of sets of heads, from the most local to the most global, with layers of models without attention.

    Args:
        models: at least one with attention, and one without that has the layers.
        source: the images.
        block: the block whose heads are compared.
        window: heads in a set, which slides over the heads in order of distance; 0 for a quarter of them (the
            paper does not say how many).
        against: patterns of the layers.
        gram: images in a Gram batch.
        seed: of the order of the images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        Unsuited: no model has such heads, or none without them has the layers.
        BadValue: fewer than four images.
    """
    notes: list[str] = []
    headed: dict[str, Scanned] = {}
    layered: dict[str, Scanned] = {}
    for name, model in models.items():
        meters = _head_meters(model, block, gram=gram)
        try:
            meters = meters or [_layers(model, against, gram=gram)]
        except UnknownSite:
            notes.append(
                f"{name} is left out: it has neither heads in block {block} nor {', '.join(against)}"
            )
            continue
        told = partial(on_progress, name) if on_progress else None
        shard_size = max(1, SHARD_SIZE // gram) * gram
        found = scan(
            model,
            Drawn(source, seed=seed),
            meters,
            batch_size=batch_size,
            shard_size=shard_size,
            on_progress=told,
        )
        (headed if len(meters) > 1 else layered)[name] = found
    if not headed or not layered:
        lacking = f"attention in block {block}" if not headed else f"no attention and {', '.join(against)}"
        every = ", ".join(models)
        raise Unsuited(f"heads needs a model with attention and a CNN: none of {every} has {lacking}")
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {"distance": {}}
    for name, found in headed.items():
        distance = next(iter(found["attention_distance"].values())).distance
        arrays["distance"][name] = distance
        sets = windows(distance, size=window)
        for other, layers in layered.items():
            rows = _rows(distance, sets, of_sets(found["head_grams"], sets), layers["cka"])
            table += [{"model": name, "part": row.pop("part"), "other": other, **row} for row in rows]
    last = next(iter(headed.values()))
    return Findings(table, arrays, images=len(last.images), skipped=last.skipped, notes=notes)


def _head_meters(model: VisionModel, block: int, *, gram: int) -> list[Any]:
    """The heads of a block and their distances; none where the model has no such heads."""
    names = {site.name for site in model.sites}
    site, pattern = (f"blocks.{block}.attn.{part}" for part in ("heads", "pattern"))
    if site not in names or pattern not in names:
        return []
    heads = model.sites.named(pattern).heads
    return [HeadGrams(site, heads=heads, gram=gram), AttentionDistance(pattern)]


def _layers(model: VisionModel, against: Sequence[str], *, gram: int) -> CKA:
    meter = CKA(tuple(against), gram=gram)
    meter.sites(model.sites)
    return meter


def windows(distance: Array, *, size: int = 0) -> list[list[int]]:
    """Sets of heads that follow one another in order of distance; a quarter of them if no size is given."""
    order = np.argsort(distance, kind="stable").tolist()
    size = min(size or max(1, len(order) // 4), len(order))
    return [order[start : start + size] for start in range(len(order) - size + 1)]


def _rows(distance: Array, sets: Sequence[Sequence[int]], heads: Grams, layers: Grams) -> list[Row]:
    from scipy.stats import spearmanr

    similar = heads.cka(layers)
    means = [float(distance[list(of)].mean()) for of in sets]
    rows: list[Row] = []
    for place, layer in enumerate(layers.sites):
        for row, of in enumerate(sets):
            rows.append(
                {
                    "part": "set",
                    "layer": layer,
                    "heads": "+".join(map(str, of)),
                    "distance": means[row],
                    "cka": float(similar.value[row, place]),
                    "cka_error": float(similar.error[row, place]),
                }
            )
    for place, layer in enumerate(layers.sites):
        known = similar.value[:, place]
        varied = len(sets) > 2 and np.isfinite(known).all() and len(set(means)) > 1 and len(set(known)) > 1
        trend = float(spearmanr(means, known).statistic) if varied else float("nan")
        rows.append({"part": "trend", "layer": layer, "sets": len(sets), "spearman": trend})
    return rows


def draw(result: Result) -> dict[str, Figure]:
    """CKA against the mean distance of a set's heads, a panel for each two models, a line for each layer."""
    from vitscope.plots import Line, lines

    panels: dict[str, list[Line]] = {}
    for row in result.rows(part="trend"):
        sets = result.rows(part="set", **{name: row[name] for name in ("model", "other", "layer")})
        distance, cka, error = (column(sets, name) for name in ("distance", "cka", "cka_error"))
        line = Line(row["layer"], distance, cka, cka - error, cka + error)
        panels.setdefault(f"{row['model']} and {row['other']}", []).append(line)
    return {
        "heads": lines(
            panels, x_label="mean attention distance of the heads (px)", y_label="CKA with a layer"
        )
    }


HEADS = Study(
    name="heads",
    question="Do global heads compute other features than local ones do?",
    method=(
        "The heads of a low block are put in the order of their attention distance, and the context vectors "
        "of those that follow one another are compared, by unbiased minibatch CKA, with the low layers of a "
        "CNN, which looks at its surroundings only."
    ),
    citation="Raghu et al. 2021, section 4, Figure 5 (arXiv 2108.08810)",
    run=run,
    draw=draw,
    needs=("attention",),
    caveats=(
        "The paper does not say how many heads a set has; window slides, and with 1 shows single heads.",
        "A trend over three heads is three numbers. Small models show a tendency at most.",
        "The paper's models are pre-trained on JFT-300M. Its CKA falls from about 0.60 to 0.25 (ViT-L/16 "
        "with a 50-layer CNN, 35 to 100 px) and from 0.60 to 0.30 (ViT-H/14, 20 to 100 px).",
        "Sets overlap where window is above 1: their values are not independent.",
    ),
)
