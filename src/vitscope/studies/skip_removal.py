"""What becomes of a model when a block loses its skip connections? At test time (after Raghu et al. 2021).

Rows, one for the plain model and one for each block; array `cka` [removed][block][block], that of the plain
model first.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.atlas.commit import file_name
from vitscope.data.drawn import Drawn
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.trunk import answer, noise
from vitscope.interventions.units import remove_skip
from vitscope.meters.gathering import GRAM
from vitscope.meters.grams import LEAST
from vitscope.meters.hsic import CKA
from vitscope.meters.meter import Meter
from vitscope.meters.predictions import Predictions
from vitscope.meters.share import Share
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.classifiers import NO_LOGITS, has_logits
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN = "none"
"""What is removed from the plain model."""
SHOWN = (0.25, 0.5, 0.75)
"""Depths of the blocks whose heat maps stand beside that of the plain model."""


def run(
    models: Models,
    source: ImageSource,
    *,
    blocks: Sequence[int | str] = (),
    which: str = "both",
    gram: int = GRAM,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Accuracy, agreement with the plain model and CKA of all blocks, with the skips of one block removed.

    Args:
        models: the models; one whose blocks have no skips around two branches is left out, with a note.
        source: the images; with labels there are accuracies too.
        blocks: of which blocks the skips are removed, one block at a time; all if none is given (1, 7 and 10
            in the paper). A block that a model does not have is passed over.
        which: "first" around attention, "mlp", or "both" as in the paper.
        gram: images in a Gram batch.
        seed: of the order of the images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        BadValue: fewer than four images, or a block that is no number, or another word for `which`.
        Unsuited: no model has such blocks.
    """
    if not all(str(block).isdigit() for block in blocks):
        raise BadValue(f"blocks are numbers from 0, not {', '.join(map(str, blocks))}")
    if len(source) < LEAST:
        raise BadValue(f"skip_removal needs at least {LEAST} images, and {source.name} has {len(source)}")
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    plain: Scanned | None = None
    for name, model in models.items():
        chosen, why = _chosen(model, [int(block) for block in blocks], which)
        if not chosen:
            notes.append(f"{name} is left out: {why}")
            continue
        variants = [Variant(PLAIN)] + [
            Variant(
                f"blocks.{block}",
                model=(partial(remove_skip, block=block, which=which),),
                unchanged=block,
            )
            for block in chosen
        ]
        told = partial(on_progress, name) if on_progress else None
        meters: list[Meter] = [CKA("blocks.*", gram=gram), Predictions()]
        seen = scan_variants(
            model, Drawn(source, seed=seed), variants, meters, batch_size=batch_size, on_progress=told
        )
        plain = seen[PLAIN]
        maps = np.stack([found["cka"].cka().value for found in seen.values()])
        arrays.setdefault("cka", {})[name] = maps
        arrays.setdefault("removed", {})[name] = np.array(list(seen))
        for removed, found, similar in zip(seen, seen.values(), maps, strict=True):
            table.append({"model": name, "removed": removed, **_row(plain, found, removed)})
            if removed != PLAIN:
                table[-1] |= _halves(similar, maps[0], int(removed.rpartition(".")[2]))
    if plain is None:
        raise Unsuited(f"no model has blocks whose skips can be removed. {'. '.join(notes)}")
    return Findings(table, arrays, images=len(plain.images), skipped=plain.skipped, notes=notes)


def _chosen(model: VisionModel, blocks: Sequence[int], which: str) -> tuple[list[int], str]:
    """Of these blocks, or of all, those whose skips can be removed; and why not, where none can."""
    count = sum(site.name.count(".") == 1 and site.name.startswith("blocks.") for site in model.sites)
    wanted = [block for block in (blocks or range(count)) if block < count]
    found, why = [], "it has no such block" if count else "it has no blocks of two branches with skips"
    if wanted and not has_logits(model):
        return [], NO_LOGITS
    for block in wanted:
        try:
            with remove_skip(model, block=block, which=which):
                answer(model, noise(model, images=1))
            found.append(block)
        except Unsuited as error:
            why = str(error)
    return found, why


def _row(plain: Scanned, found: Scanned, removed: str) -> Row:
    """Accuracy where there are labels, and agreement with the plain model, in per cent."""
    labels = {image.id: image.label for image in plain.images}
    ours, theirs = found["predictions"], plain["predictions"]
    row: Row = {"images": len(plain.images)}
    if removed != PLAIN:
        same = ours.same(theirs)
        row |= Share(int(same.sum()), len(same)).row("agreement")
    if any(label >= 0 for label in labels.values()):
        right, before = ours.right(labels), theirs.right(labels)
        row |= Share(int(right.sum()), len(right)).row("top1")
        row |= {} if removed == PLAIN else {"lost_top1": 100 * float(before.mean() - right.mean())}
    return row


def _halves(similar: Array, plain: Array, block: int) -> Row:
    """Mean CKA of blocks before the one with blocks from it on, and within both, off the diagonal."""
    after = np.arange(len(similar)) >= block
    across = np.not_equal.outer(after, after)
    within = ~across & ~np.eye(len(similar), dtype=bool)
    return {
        "across": _mean(similar[across]),
        "within": _mean(similar[within]),
        "plain_across": _mean(plain[across]),
        "plain_within": _mean(plain[within]),
    }


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def draw(result: Result) -> dict[str, Figure]:
    """CKA of all blocks of each model, plain and with skips removed; and what answers are left, by block."""
    from vitscope.plots import Line, heat_maps, lines

    removed, figures = result.by_model("removed"), {}
    for model, values in result.by_model("cka").items():
        picked = sorted({round(1 + share * (len(values) - 2)) for share in SHOWN})
        titles = {place: f"without the skips of {removed[model][place]}" for place in picked}
        maps = {title: np.clip(values[place], 0, 1) for place, title in {0: "plain", **titles}.items()}
        stem = "cka" if len(removed) == 1 else f"cka.{file_name(model)}"
        figures[stem] = heat_maps(
            maps,
            x_label="block",
            y_label="block",
            value_label=f"CKA, {model}",
            value_range=(0, 1),
            origin="lower",
        )
    panels: dict[str, list[Line]] = {}
    for column, title in (("agreement", "Same answer as the plain model"), ("top1", "Right answer")):
        for model in removed:
            rows = [row for row in result.rows(model=model) if row["removed"] != PLAIN and column in row]
            if rows:
                x = [int(row["removed"].rpartition(".")[2]) for row in rows]
                bounds = [[row[f"{column}_{end}"] for row in rows] for end in ("low", "high")]
                panels.setdefault(title, []).append(Line(model, x, [row[column] for row in rows], *bounds))
    figures["answers"] = lines(panels, x_label="block without skips", y_label="images (%)", y_range=(0, 100))
    return figures


SKIP_REMOVAL = Study(
    name="skip_removal",
    question="What becomes of a model when a block loses its skip connections?",
    method=(
        "In one block after another, the stream becomes what the branches hand out, without what they were "
        "added to. The CKA of all blocks with one another tells whether the model falls into two parts; its "
        "answers are compared with those of the plain model. Nothing is trained."
    ),
    citation="Raghu et al. 2021, section 4, Figure 8 (arXiv 2108.08810); there, models trained without skips",
    run=run,
    draw=draw,
    needs=("logits",),
    caveats=(
        "This is another experiment than the paper's: its models are trained without the skips and lose "
        "about 4 % of accuracy; a model that was trained with them loses far more when they are taken away.",
        "The paper's claim is on the CKA: blocks before and after the one without skips are little alike. "
        "Compare across with plain_across: what is far apart in depth is less alike anyway.",
    ),
    published=(
        {
            "model": "ViT trained without the skips of a middle block",
            "removed": "blocks.7",
            "lost_top1": 4.0,
            "source": "Raghu et al. 2021, section 4, Figure 8: about 4 %",
        },
    ),
)
