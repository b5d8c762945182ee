"""What kind of model is each: how large, how deep, of which input, and how often right on these images?

Rows, one for each model. There are no arrays.
"""

from __future__ import annotations

import re
from functools import partial
from math import nan
from typing import TYPE_CHECKING

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue
from vitscope.meters.accuracy import Accuracy
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.scan import scan
from vitscope.studies.classifiers import NO_LOGITS
from vitscope.studies.result import Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study, label_notes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLOCK = re.compile(r"blocks\.\d+|stages\.\d+\.\d+")
"""What leaves a block, in the words of transformers and Mixers, and of CNNs."""
TOP = {"top1": "top-1", "top5": "top-5"}
"""Accuracies: columns, and what figures call them."""


def run(
    models: Models,
    source: ImageSource,
    *,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Facts of every model, and its accuracy where images have labels that number its logits.

    Args:
        models: the models.
        source: the images; without labels they are not read.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.
    """
    table: list[Row] = []
    notes: list[str] = []
    last: Scanned | None = None
    for name, model in models.items():
        table.append({"model": name, **_facts(model)})
        try:
            notes += _label_notes(name, model, source)
        except BadValue as error:
            notes.append(f"no accuracy of {name}: {error}")
            continue
        told = partial(on_progress, name) if on_progress else None
        last = scan(model, source, [Accuracy()], batch_size=batch_size, on_progress=told)
        found = last["accuracy"]
        table[-1] |= {**found.row(), "images": len(found)}
    return Findings(
        table,
        images=len(last.images) if last else None,
        skipped=last.skipped if last else (),
        notes=notes,
    )


def _facts(model: VisionModel) -> Row:
    names = {site.name: site for site in model.sites}
    rows, columns = model.preprocessing.size
    return {
        "parameters": sum(weight.numel() for weight in model.module.parameters()),
        "blocks": sum(bool(BLOCK.fullmatch(name)) for name in names),
        "sites": len(names),
        "input": f"{rows}x{columns}",
        "classes": names["logits"].units if "logits" in names else None,
    }


def _label_notes(name: str, model: VisionModel, source: ImageSource) -> list[str]:
    """What makes the labels doubtful.

    Raises:
        BadValue: there are none, the model has no logits, or the labels are not their numbers.
    """
    if source.classes is None:
        raise BadValue(f"{source.name} has no labels")
    units = next((site.units for site in model.sites if site.name == "logits"), 0)
    if not units:
        raise BadValue(NO_LOGITS)
    named = any(called.isdigit() or called in (model.classes or ()) for called in source.classes)
    if len(source.classes) < units and not named:
        raise BadValue(f"the {len(source.classes)} classes of {source.name} are none of its {units}")
    return label_notes({name: model}, source)


def draw(result: Result) -> dict[str, Figure]:
    """How often the models are right, where that is known, and how large they are."""
    from vitscope.plots import Bars, bars

    figures = {}
    if any("top1" in row for row in result.table):
        right = [
            Bars(
                row["model"],
                [row.get(name, nan) for name in TOP],
                [row.get(f"{name}_low", nan) for name in TOP],
                [row.get(f"{name}_high", nan) for name in TOP],
            )
            for row in result.table
        ]
        figures["accuracy"] = bars(
            {"Right answers": right}, groups=list(TOP.values()), y_label="images (%)", y_range=(0, 100)
        )
    sizes = [row["parameters"] / 1e6 for row in result.table]
    figures["parameters"] = bars(
        {"Size": [Bars("parameters", sizes)]}, groups=result.models, y_label="parameters (millions)"
    )
    return figures


OVERVIEW = Study(
    name="overview",
    question="What kind of models are these, and how often are they right?",
    method=(
        "Parameters, blocks, sites and the input are counted. Where the images have labels that number the "
        "model's logits, one pass tells its accuracy on them."
    ),
    citation="no paper: what a comparison begins with",
    run=run,
    draw=draw,
    caveats=(
        "Accuracy is that on these images, which a model may have been trained on. Compare it with a "
        "published one only where images, resize and crop are the same.",
    ),
)
