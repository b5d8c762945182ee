"""The figures of the study `last_layer`: readings, the map of accuracies, sweeps over depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vitscope.studies.last_layer_published import B16, B32
from vitscope.studies.result import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Bars, Line

LABELS = {"isolation": "first k blocks separate", "dropping": "patches dropped after k blocks"}
"""The sweeps, and what figures call them."""


def draw(result: Result) -> dict[str, Figure]:
    """The readings as bars, the map of accuracies, and the sweeps over depth, beside what was published."""
    from vitscope.plots import bars, heat_maps, lines

    readings = list(dict.fromkeys(row["reading"] for row in result.table))
    figures = {
        "readings": bars(
            {model: _bars(result, model, readings) for model in result.models},
            groups=[reading.replace("_", " ") for reading in readings],
            y_label="accuracy (%)",
            y_range=(0, 100),
        )
    }
    if "accuracy_map" in result.arrays:
        figures["accuracy_map"] = heat_maps(
            result.by_model("accuracy_map"), x_label="column", y_label="row", value_label="top-1 accuracy (%)"
        )
    sweeps = {model: _lines(result, model) for model in result.models}
    sweeps = {model: found for model, found in sweeps.items() if found}
    if sweeps:
        sweeps |= {f"published: {name}": _published_lines(result, name) for name in (B16, B32)}
        figures["depths"] = lines(
            sweeps, x_label="k (blocks)", y_label="top-1 accuracy (%)", y_range=(0, 100)
        )
    return figures


def _bars(result: Result, model: str, readings: Sequence[str]) -> list[Bars]:
    """Top-1 and top-5 of a model, and the published top-1."""
    from vitscope.plots import Bars

    ours = [
        {row["reading"]: row for row in result.rows(model=model)}.get(reading, {}) for reading in readings
    ]
    found = []
    for k in (1, 5):
        columns = (f"top{k}", f"top{k}_low", f"top{k}_high")
        values, low, high = ([row.get(column, np.nan) for row in ours] for column in columns)
        found.append(Bars(f"top-{k}", values, low, high))
    told = {row["reading"]: row["top1"] for row in result.published if row["model"] == B16}
    values = [told.get(reading, np.nan) for reading in readings]
    return [*found, Bars("top-1 published, ViT-B/16 at 384 px", values, published=True)]


def _lines(result: Result, model: str) -> list[Line]:
    """Both sweeps of a model."""
    from vitscope.plots import Line

    arrays = {name: result.by_model(f"{name}_top1") for name in LABELS if f"{name}_top1" in result.arrays}
    return [
        Line(LABELS[name], np.arange(len(of[model])), of[model]) for name, of in arrays.items() if model in of
    ]


def _published_lines(result: Result, model: str) -> list[Line]:
    """The sweeps that were published of a model."""
    from vitscope.plots import Line

    points = {
        name: [row for row in result.published if (row["model"], row["reading"]) == (model, name)]
        for name in LABELS
    }
    return [
        Line(LABELS[name], [row["blocks"] for row in rows], [row["top1"] for row in rows])
        for name, rows in points.items()
        if rows
    ]
