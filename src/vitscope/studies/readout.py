"""Where can a model's answer be read, and off which tokens? CLS, averages, the first patch, by block.

Rows, one for each block and reading; arrays `top1`, `top5` [block][cls, patches, all, first] and `blocks`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import Unsuited
from vitscope.interventions.readouts import READINGS, read_out_early, readings_of, streams_of
from vitscope.meters.token_accuracy import TokenAccuracies, TokenAccuracy
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TOP = (1, 5)
LABELS = dict(zip(READINGS, ("CLS", "mean of the patches", "mean of all tokens", "first patch"), strict=True))
"""Readings, and what figures call them."""


def run(
    models: Models,
    source: ImageSource,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Accuracy of the model's own head at every block and reading, in one pass of each model.

    Args:
        models: the models; one whose head does not run on single tokens is left out, with a note.
        source: labelled images.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        Unsuited: no model has blocks off which its head can read an answer.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    last: Scanned | None = None
    for name, model in models.items():
        if not any(site.name == "logits" for site in model.sites):
            notes.append(f"{name} is left out: it has no logits")
            continue
        told = partial(on_progress, name) if on_progress else None
        variant = Variant("early", model=(read_out_early,))
        try:
            with read_out_early(model):
                streams = [site.name for site in streams_of(model)]
        except Unsuited as error:
            notes.append(f"{name} is left out: {error}")
            continue
        found = scan_variants(
            model, source, [variant], [TokenAccuracy(TOP)], batch_size=batch_size, on_progress=told
        )
        last = found["early"]
        rows = _rows(model, last["token_accuracy"])
        table += [{"model": name, **row} for row in rows]
        arrays.setdefault("blocks", {})[name] = np.array(streams)
        for k in TOP:
            arrays.setdefault(f"top{k}", {})[name] = _array(rows, streams, f"top{k}")
    if last is None:
        raise Unsuited(f"no model has blocks off which its head can read an answer. {'. '.join(notes)}")
    return Findings(table, arrays, images=len(last.images), skipped=last.skipped, notes=notes)


def _rows(model: VisionModel, found: TokenAccuracies) -> list[Row]:
    streams = streams_of(model)
    named = [(site.name, reading) for site in streams for reading in readings_of(streams[-1])]
    rows: list[Row] = []
    for which, (site, reading) in enumerate(named):
        shares: Row = {
            name: value for k in TOP for name, value in found.share(which, k=k).row(f"top{k}").items()
        }
        rows.append({"block": site, "reading": reading, **shares, "images": found.images})
    return rows


def _array(rows: list[Row], streams: list[str], column: str) -> Array:
    values = np.full((len(streams), len(READINGS)), np.nan)
    for row in rows:
        values[streams.index(row["block"]), READINGS.index(row["reading"])] = row[column]
    return values


def draw(result: Result) -> dict[str, Figure]:
    """Accuracy of every reading against depth, a panel for each model."""
    from vitscope.plots import Line, lines

    panels: dict[str, list[Line]] = {}
    for model in result.by_model("top1"):
        panels[model] = []
        for reading, label in LABELS.items():
            rows = result.rows(model=model, reading=reading)
            if rows:
                y, low, high = ([row[name] for row in rows] for name in ("top1", "top1_low", "top1_high"))
                panels[model].append(Line(label, np.arange(len(rows)), y, low, high))
    return {"readout": lines(panels, x_label="block", y_label="top-1 (%)", y_range=(0, 100))}


READOUT = Study(
    name="readout",
    question="Where can a model's answer be read, and off which tokens?",
    method=(
        "The stream after every block is put before the model's own final norm and head as if it were the "
        "last one: the CLS token, the mean of the patches, the mean of all tokens, or the first patch alone. "
        "Nothing is trained."
    ),
    citation="Raghu et al. 2021, section 5, Figures 10 and 11 (arXiv 2108.08810); there, with linear probes",
    run=run,
    draw=draw,
    needs=("labels", "logits"),
    caveats=(
        "The paper fits a linear probe at every layer. The model's own head is trained for the last block "
        "and one reading: what it cannot read in an early block may be there all the same.",
        "The paper finds that a model trained with CLS answers as well from pooled tokens until the last few "
        "layers, and that a model trained on the average can at last be read off its first token.",
        "Averages are of tokens after the final norm, where it runs on tokens: a few tokens of great length "
        "would otherwise rule them.",
    ),
)
