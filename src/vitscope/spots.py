"""What a figure says where: the cells of its matrices, the points of its curves, its bars, with their values.

A page lays these over the drawing, so that pointing at it, or going over it by keys, tells names and numbers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

MOST = 6000
"""Cells and points of a figure that a page may hold: about 150 kB."""


def spots_of(figure: Figure) -> str:
    """The cells and points of a figure that was drawn, as JSON; "" where there are none, or too many.

    {"cells": [{"box": [left, top, width, height], "names": [of columns], "rows": [names], "told": text,
    "values": [[texts]]}], "points": [[x, y, text]]}, with places as shares of the width and height from the
    upper left corner.
    """
    axes = [place for place in figure.axes if not hasattr(place, "_colorbar")]
    several = len({place.get_title(loc="left") for place in axes}) > 1
    cells = [
        _cells(figure, place, image) for place in axes for image in place.get_images() if _is_matrix(image)
    ]
    points = [
        point
        for place in axes
        for point in _points(figure, place, several)
        if 0 <= min(point[:2]) <= max(point[:2]) <= 1
    ]
    count = len(points) + sum(len(one["rows"]) * len(one["names"]) for one in cells)
    if not 0 < count <= MOST:
        return ""
    return json.dumps({"cells": cells, "points": points}, ensure_ascii=False, separators=(",", ":"))


def _is_matrix(image: AxesImage) -> bool:
    values = image.get_array()
    return values is not None and values.ndim == 2 and image.axes is not None and image.axes.axison


def _cells(figure: Figure, place: Axes, image: AxesImage) -> dict[str, Any]:
    values: Any = np.ma.asarray(image.get_array())
    left, right, bottom, top = image.get_extent()
    (x0, y0), (x1, y1) = _shares(figure, place, [(left, top), (right, bottom)])
    down = _names(place.yaxis, _label(figure, "ylabel"), values.shape[0])
    texts = [["–" if np.ma.is_masked(value) else _number(value) for value in row] for row in values]
    if image.origin == "lower":  # the first row is the lowest
        down, texts = down[::-1], texts[::-1]
    return {
        "box": [round(share, 5) for share in (x0, y0, x1 - x0, y1 - y0)],
        "names": _names(place.xaxis, _label(figure, "xlabel"), values.shape[1]),
        "rows": down,
        "told": place.get_title(loc="left"),
        "values": texts,
    }


def _points(figure: Figure, place: Axes, several: bool) -> Iterator[tuple[float, float, str]]:
    title = f"{place.get_title(loc='left')} · " if several and place.get_title(loc="left") else ""
    across = _label(figure, "xlabel")
    for label, x, y in _series(place):
        shown = np.isfinite(x) & np.isfinite(y)
        shares = _shares(figure, place, np.stack([x, y], axis=1)[shown])
        for (left, top), at, value in zip(shares, x[shown], y[shown], strict=True):
            told = f"{title}{label}: " if label else title
            yield (
                round(left, 5),
                round(top, 5),
                f"{told}{_number(value)} at {across} {_number(at)}".replace("  ", " "),
            )
    names = [text.get_text() for text in place.get_xticklabels()]
    for bars in (one for one in place.containers if isinstance(one, BarContainer)):
        for index, bar in enumerate(bars):
            height = bar.get_height()
            if np.isfinite(height):
                ((left, top),) = _shares(
                    figure, place, [(bar.get_x() + bar.get_width() / 2, bar.get_y() + height)]
                )
                group = f" of {names[index]}" if len(names) == len(bars) else ""
                yield round(left, 5), round(top, 5), f"{title}{bars.get_label()}{group}: {_number(height)}"


def _series(place: Axes) -> Iterator[tuple[str, Any, Any]]:
    for line in place.get_lines():
        if line.get_transform() == place.transData and not str(line.get_label()).startswith("_"):
            x, y = (np.asarray(values, np.float64) for values in (line.get_xdata(), line.get_ydata()))
            yield str(line.get_label()), x, y
    for dots in place.collections:
        if isinstance(dots, PathCollection) and not str(dots.get_label()).startswith("_"):
            x, y = np.asarray(np.ma.filled(dots.get_offsets(), np.nan), np.float64).reshape(-1, 2).T
            yield str(dots.get_label()), x, y


def _shares(figure: Figure, place: Axes, data: Any) -> list[tuple[float, float]]:
    """Points of an axes as shares of the figure, from its upper left corner."""
    if not len(data):
        return []
    found = figure.transFigure.inverted().transform(place.transData.transform(np.asarray(data, np.float64)))
    return [(float(x), float(1 - y)) for x, y in found]


def _names(axis: Any, label: str, count: int) -> list[str]:
    """What stands, or would stand, at each row or column; what they are, where that is a mere number."""
    written = axis.get_major_formatter()
    told = [str(written(index, None)) or str(index) for index in range(count)]
    return [f"{label} {name}".strip() if name.isdigit() else name for name in told]


def _label(figure: Figure, which: str) -> str:
    """The first label of that kind: panels share theirs."""
    return next((text for place in figure.axes if (text := str(getattr(place, f"get_{which}")()))), "")


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
