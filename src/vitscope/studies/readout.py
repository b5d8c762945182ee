"""Where can a model's answer be read, and off which tokens? CLS, averages, the first patch, by block.

Rows, one for each block and reading, `by` the model's own head; arrays `top1`, `top5` [block][cls, patches,
all, first] and `blocks`. Where the head of some model cannot read some block, also by class means, of all
models: further rows, and arrays `means_top1` and `means_blocks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import Unsuited
from vitscope.interventions.readouts import blocks_of, read_out_early, streams_of
from vitscope.meters.readout_accuracy import ReadoutShares
from vitscope.meters.readouts import READINGS, Readout, readings_of
from vitscope.meters.token_accuracy import TokenAccuracies, TokenAccuracy
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.class_means import class_means
from vitscope.studies.classifiers import NO_LOGITS, has_logits
from vitscope.studies.depth import column
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.scanner import scanner
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line

TOP = (1, 5)
LABELS = dict(zip(READINGS, ("CLS", "mean of the patches", "mean of all tokens", "first patch"), strict=True))
"""Readings, and what figures call them."""
HEAD, MEANS = "head", "class_means"
BY = {HEAD: "own head", MEANS: "nearest class mean"}
"""How an answer is read, and what figures call it."""
ARRAYS = {HEAD: "", MEANS: "means_"}
"""How the names of arrays begin."""


def run(
    models: Models,
    source: ImageSource,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Accuracy at every block and reading: of the model's own head in one pass, of class means in two more.

    Class means are read where some model's head cannot read all of its blocks; then of all models, to be
    compared.

    Args:
        models: the models.
        source: labelled images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        Unsuited: no model has blocks off which an answer can be read.
    """
    table: list[Row] = []
    notes: list[str] = []
    seen: list[Scanned] = []
    for name, model in models.items():
        why = _unreadable(model)
        if why:
            fate = "read by class means only" if blocks_of(model) else "left out"
            notes.append(f"{name} is {fate}: {why}")
            continue
        told = partial(on_progress, name) if on_progress else None
        variant, meter = Variant("early", model=(read_out_early,)), TokenAccuracy(TOP)
        seen.append(
            scan_variants(model, source, [variant], [meter], batch_size=batch_size, on_progress=told)["early"]
        )
        table += [{"model": name, **row} for row in _by_head(model, seen[-1]["token_accuracy"])]
    read = {(row["model"], row["block"]) for row in table}
    blocks = {name: blocks_of(model) for name, model in models.items()}
    if any((name, site.name) not in read for name, sites in blocks.items() for site in sites):
        for name in filter(blocks.get, models):
            scanned = scanner(name, models[name], batch_size=batch_size, on_progress=on_progress)
            found, last = class_means(scanned, source, blocks[name])
            seen.append(last)
            table += [{"model": name, **row} for row in _by_means(found)]
            notes += [] if found else [f"{name} has no class means: no class has two images"]
    if not table:
        raise Unsuited(f"no model has blocks off which an answer can be read. {'. '.join(notes)}")
    images, skipped = len(seen[-1].images), seen[-1].skipped
    return Findings(table, _arrays(table), images=images, skipped=skipped, notes=notes)


def _unreadable(model: VisionModel) -> str:
    """Why a model's own head reads none of its blocks; empty where it does."""
    if not has_logits(model):
        return NO_LOGITS
    try:
        with read_out_early(model):
            return ""
    except Unsuited as error:
        return str(error)


def _by_head(model: VisionModel, found: TokenAccuracies) -> list[Row]:
    streams = streams_of(model)
    named = [(site.name, reading) for site in streams for reading in readings_of(streams[-1])]
    rows: list[Row] = []
    for which, (site, reading) in enumerate(named):
        shares: Row = {
            name: value for k in TOP for name, value in found.share(which, k=k).row(f"top{k}").items()
        }
        rows.append({"block": site, "by": HEAD, "reading": reading, **shares, "images": found.images})
    return rows


def _by_means(found: Mapping[Readout, ReadoutShares]) -> list[Row]:
    return [
        {
            "block": readout.site,
            "by": MEANS,
            "reading": readout.tokens,
            **shares.share().row("top1"),
            "images": shares.images,
        }
        for readout, shares in found.items()
    ]


def _arrays(table: Sequence[Row]) -> dict[str, dict[str, Array]]:
    arrays: dict[str, dict[str, Array]] = {}
    for by, start in ARRAYS.items():
        for model in dict.fromkeys(row["model"] for row in table if row["by"] == by):
            rows = [row for row in table if (row["model"], row["by"]) == (model, by)]
            blocks = list(dict.fromkeys(row["block"] for row in rows))
            arrays.setdefault(f"{start}blocks", {})[model] = np.array(blocks)
            for name in [name for name in ("top1", "top5") if name in rows[0]]:
                values = np.full((len(blocks), len(READINGS)), np.nan)
                for row in rows:
                    values[blocks.index(row["block"]), READINGS.index(row["reading"])] = row[name]
                arrays.setdefault(f"{start}{name}", {})[model] = values
    return arrays


def draw(result: Result) -> dict[str, Figure]:
    """Accuracy of every reading against depth, a panel for each model and way to read."""
    from vitscope.plots import lines

    ways = [(by, model) for by in BY for model in result.models if result.rows(model=model, by=by)]
    several = len({by for by, _ in ways}) > 1
    panels = {f"{model}\n{BY[by]}" if several else model: _lines(result, model, by) for by, model in ways}
    return {"readout": lines(panels, x_label="block", y_label="top-1 (%)", y_range=(0, 100))}


def _lines(result: Result, model: str, by: str) -> list[Line]:
    """A line for each reading, along all blocks of the model that were read in any way."""
    from vitscope.plots import Line

    blocks = list(dict.fromkeys(row["block"] for row in reversed(result.rows(model=model))))[::-1]
    found = []
    for reading, label in LABELS.items():
        rows = result.rows(model=model, by=by, reading=reading)
        if rows:
            x = [blocks.index(row["block"]) for row in rows]
            found.append(Line(label, x, *(column(rows, name) for name in ("top1", "top1_low", "top1_high"))))
    return found


READOUT = Study(
    name="readout",
    question="Where can a model's answer be read, and off which tokens?",
    method=(
        "The stream after every block is put before the model's own final norm and head as if it were the "
        "last one: the CLS token, the mean of the patches, the mean of all tokens, or the first patch alone. "
        "Where a head cannot read all blocks, every model is also read by the nearest of its class means, in "
        "which the image itself has no part. Nothing is trained."
    ),
    citation="Raghu et al. 2021, section 5, Figures 10 and 11 (arXiv 2108.08810); there, with linear probes",
    run=run,
    draw=draw,
    needs=("labels",),
    caveats=(
        "The paper fits a linear probe at every layer, as the study probe does. The model's own head is "
        "trained for the last block and one reading: what it cannot read in an early block may be there all "
        "the same.",
        "The paper finds that a model trained with CLS answers as well from pooled tokens until the last few "
        "layers, and that a model trained on the average can at last be read off its first token.",
        "Averages are of tokens after the final norm, where it runs on tokens: a few tokens of great length "
        "would otherwise rule them. Class means are of tokens as a block hands them out, standardised unit "
        "by unit.",
        "The nearest class mean is one of the classes that occur in the images, a head's answer one of all "
        "that it knows: where images have few classes, the two do not compare.",
    ),
)
