"""The figures of the study `views`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vitscope.atlas.commit import file_name
from vitscope.studies.appearance import from_text
from vitscope.studies.depth import along, column
from vitscope.studies.result import Result
from vitscope.studies.view_levels import drawn_levels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDES = {
    "from_object": "at the object's patches",
    "from_object_turned": "the same, object turned",
    "from_background": "at the background's patches",
    "from_cls": "at CLS",
    "object_area": "the object's share of the image",
}
"""Columns -> what their lines are called."""
TOKENS = ("CLS", "background", "object")
"""Of the three rows of an image."""
ACROSS = 14
"""Principal components in a row."""


def draw(result: Result) -> dict[str, Figure]:
    """Whether flow keeps to the object, how far it reaches, whom filters serve, views and components."""
    made: dict[str, Figure] = {}
    followed = [model for model in result.models if result.rows(model=model, part="level")]
    if followed:
        made["object"] = _object(result, followed)
        made["reach"] = _reach(result, followed)
    if any(np.isfinite(one).any() for one in result.by_model("served").values()):
        made["served"] = _served(result)
    if "pictures" in result.arrays:
        for model, texts in result.by_model("pictures").items():
            made[_stem(result, "views", model)] = _views(result, model, texts)
    for model, texts in result.by_model("components").items():
        made[_stem(result, "components", model)] = _components(texts)
    return made


def _stem(result: Result, name: str, model: str) -> str:
    return name if len(result.models) == 1 else f"{name}.{file_name(model)}"


def _object(result: Result, models: list[str]) -> Figure:
    """How much of the flow came from the object, for tokens on it and beside it."""
    from vitscope.plots import Line, lines

    panels = {}
    for model in models:
        rows = result.rows(model=model, part="level")
        levels = column(rows, "level")
        panels[model] = [Line(label, levels, column(rows, name)) for name, label in SIDES.items()]
    return lines(
        panels, x_label="level (blocks passed)", y_label="share that came from the object", y_range=(0, 1)
    )


def _reach(result: Result, models: list[str]) -> Figure:
    """What a patch keeps of itself, and on how many patches it draws."""
    from vitscope.plots import Line, lines

    titles = {"own": "A patch's own share", "effective": "Share of patches it draws on"}
    panels = {}
    for name, title in titles.items():
        panels[title] = [
            Line(model, column(rows, "level"), column(rows, name))
            for model in models
            if (rows := result.rows(model=model, part="level"))
        ]
    return lines(panels, x_label="level (blocks passed)", y_label="share (0 to 1)", y_range=(0, 1))


def _served(result: Result) -> Figure:
    """Of every filter, in order, the share of images whose object it tells from the rest."""
    from vitscope.plots import Line, lines

    series = [
        Line(model, along(len(one)), 100 * np.sort(one)[::-1])
        for model, one in result.by_model("served").items()
    ]
    return lines(
        {"Images that a filter serves": series},
        x_label="filters, from the most useful on (%)",
        y_label="images (%)",
        y_range=(0, None),
    )


def _views(result: Result, model: str, texts: np.ndarray) -> Figure:
    """Each image through its best filter, at some levels: at CLS, in the background, on the object."""
    from vitscope.plots import pictures

    levels = len(result.rows(model=model, part="level"))
    paths = result.by_model("paths")[model]
    rows = {
        f"{str(paths[place // 3])[-16:]}\n{TOKENS[place % 3]}": [from_text(text) for text in row]
        for place, row in enumerate(texts.tolist())
    }
    return pictures(rows, columns=["image", "filter", *(f"level {level}" for level in drawn_levels(levels))])


def _components(texts: np.ndarray) -> Figure:
    """The principal components of the filters, row by row."""
    from vitscope.plots import pictures

    every = [from_text(text) for text in texts.tolist()]
    return pictures({f"{at + 1}": every[at : at + ACROSS] for at in range(0, len(every), ACROSS)})
