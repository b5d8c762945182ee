"""Figures in the house style: colour-blind safe, readable in grey print, the same bytes every time.

Every function takes panels by title and draws them side by side on common scales: one panel is a figure,
several are small multiples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Shaped
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from vitscope.errors import BadValue
from vitscope.house import (
    COLOURS,
    DASHES,
    GROUND,
    HATCHES,
    INK,
    MARKS,
    MUTED,
    POLES,
    RAMP,
    Plot,
    house,
    panels_of,
)

Array = NDArray[Any]
INCHES_A_LETTER, INCHES_A_HANDLE = 0.075, 0.65
"""Width of a legend's letters, at 9 points, and of the line before them with the space around it."""
SQUARE = (3.5, 3.2)
"""Width and height of a panel with a heat map, in inches."""
Numbers: TypeAlias = Sequence[float | int] | Array
Names: TypeAlias = Sequence[str] | Mapping[str, Sequence[str]] | None
Bounds: TypeAlias = tuple[float | int | None, float | int | None]
"""Lower and upper end of an axis; None where the values decide."""


@dataclass(frozen=True)
class Line:
    """One series of a panel of `lines`.

    Attributes:
        label: its name; the same label has the same colour, dashes and mark in every panel.
        x, y: the points; a y that is not finite leaves a gap.
        low, high: bounds of an interval around y, drawn as a band.
    """

    label: str
    x: Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None


@dataclass(frozen=True)
class Bars:
    """One series of a panel of `bars`: a value for each of the panel's groups.

    Attributes:
        label: its name; the same label looks the same in every panel.
        values: one for each group; one that is not finite leaves a gap.
        low, high: bounds of an interval around each value.
        published: these are a paper's numbers: drawn as outlines.
    """

    label: str
    values: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    published: bool = False


def lines(
    panels: Mapping[str, Sequence[Line]],
    *,
    x_label: str,
    y_label: str,
    x_scale: Literal["linear", "log"] = "linear",
    y_range: Bounds = (None, None),
    reference: float | int | None = None,
    ticks: Numbers | None = None,
) -> Figure:
    """Curves with their intervals, a panel a title, on common scales.

    Args:
        panels: the series of each panel, by its title.
        x_label, y_label: what the axes are, with units.
        x_scale: of the horizontal axis.
        y_range: bounds of the vertical axis; None where the values decide.
        reference: a level to compare with, drawn as a thin line.
        ticks: where the horizontal axis is labelled.

    Raises:
        BadValue: there is no panel.
    """
    with house():
        figure, axes = panels_of(list(panels), x_label=x_label, y_label=y_label)
        looks = _looks(label.label for series in panels.values() for label in series)
        for place, series in zip(axes, panels.values(), strict=False):
            for line in series:
                _draw_line(place, line, looks[line.label], y_range)
            if reference is not None:
                place.axhline(reference, color=MUTED, linewidth=0.9, zorder=1)
            _scale_x(place, x_scale, ticks)
        axes[0].set_ylim(*y_range)  # all share it, and it ends the search for a scale
        _legend(figure, axes, len(looks))
    return figure


def bars(
    panels: Mapping[str, Sequence[Bars]],
    *,
    groups: Sequence[str],
    y_label: str,
    x_label: str = "",
    y_range: Bounds = (0, None),
) -> Figure:
    """Groups of bars with their intervals, a panel a title, on common scales.

    Args:
        panels: the series of each panel, by its title.
        groups: names of the groups: every series has a value for each.
        y_label, x_label: what the axes are, with units.
        y_range: bounds of the vertical axis; bars begin at 0 unless it says otherwise.

    Raises:
        BadValue: there is no panel, or a series has another number of values than there are groups.
    """
    for series in panels.values():
        for one in series:
            if len(one.values) != len(groups):
                raise BadValue(f"{one.label}: {len(one.values)} values for {len(groups)} groups")
    with house():
        figure, axes = panels_of(list(panels), x_label=x_label, y_label=y_label)
        looks = _looks(one.label for series in panels.values() for one in series)
        for place, series in zip(axes, panels.values(), strict=False):
            width = 0.8 / max(len(series), 1)
            for index, one in enumerate(series):
                left = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
                _draw_bars(place, one, left, width * 0.92, looks[one.label])
            turned = sum(map(len, groups)) > 44
            place.set_xticks(
                range(len(groups)), groups, rotation=25 if turned else 0, ha="right" if turned else "center"
            )
            place.tick_params(axis="x", length=0)
            place.grid(visible=False, axis="x")
        axes[0].set_ylim(*y_range)
        _legend(figure, axes, len(looks))
    return figure


def heat_maps(
    panels: Mapping[str, Shaped[Array, "row column"]],
    *,
    x_label: str,
    y_label: str,
    value_label: str,
    value_range: Bounds = (None, None),
    origin: Literal["upper", "lower"] = "upper",
    x_names: Names = None,
    y_names: Names = None,
) -> Figure:
    """Matrices as colours, a panel a title, on one scale of values.

    Values on both sides of zero are drawn around a white zero; what is not finite is hatched.

    Args:
        panels: a matrix for each title; they may differ in shape.
        x_label, y_label: what columns and rows are.
        value_label: what the values are, with units.
        value_range: bounds of the colours; None where the values decide.
        origin: where the first row is; "lower" for depth, "upper" for images.
        x_names, y_names: of columns and rows, of all panels alike or by title; shown as there is room.

    Raises:
        BadValue: there is no panel, or one has another number of rows or columns than names.
    """
    with house(), rc_context({"axes.grid": False, "axes.spines.top": True, "axes.spines.right": True}):
        figure, axes = panels_of(list(panels), x_label=x_label, y_label=y_label, panel=SQUARE, shared=False)
        norm, ramp = _scale(panels.values(), value_range)
        drawn = None
        for place, (title, values) in zip(axes, panels.items(), strict=False):
            place.add_patch(_ground(values.shape))
            drawn = place.imshow(
                np.ma.masked_invalid(values.astype(np.float64)),
                norm=norm,
                cmap=ramp,
                origin=origin,
                interpolation="nearest",
                aspect="equal" if 0.4 < values.shape[0] / max(values.shape[1], 1) < 2.5 else "auto",
            )
            _named_axis(place.xaxis, x_names, title, values.shape[1])
            _named_axis(place.yaxis, y_names, title, values.shape[0])
        if drawn is not None:
            figure.colorbar(drawn, ax=axes, label=value_label, shrink=0.85, aspect=26, pad=0.02)
    return figure


def pictures(
    rows: Mapping[str, Sequence[Shaped[Array, "_ _ *rgb"]]], *, columns: Sequence[str] = ()
) -> Figure:
    """Images in rows and columns, without axes: of dreams beside exemplars, for instance.

    Args:
        rows: the images of each row, by its title; in [0, 1], or bytes; rows may differ in length.
        columns: titles of the columns.

    Raises:
        BadValue: there is no image.
    """
    across = max((len(row) for row in rows.values()), default=0)
    if not across:
        raise BadValue("there is no image to show")
    with house():
        figure = Plot(figsize=(1.2 * across + 0.9, 1.2 * len(rows) + 0.4), layout="constrained")
        axes = figure.subplots(len(rows), across, squeeze=False)
        for height, (title, images) in enumerate(rows.items()):
            for place in axes[height]:
                place.set_axis_off()
            for place, image in zip(axes[height], images, strict=False):
                place.imshow(image, interpolation="nearest", vmin=0, cmap="gray")
            axes[height][0].text(
                -0.08, 0.5, title, transform=axes[height][0].transAxes, ha="right", va="center", fontsize=8
            )
        for place, title in zip(axes[0], columns, strict=False):
            place.set_title(title, fontsize=8, loc="center", fontweight="normal")
    return figure


def _looks(labels: Any) -> dict[str, int]:
    """The place of each label among the looks: the same in every panel."""
    return {label: index for index, label in enumerate(dict.fromkeys(labels))}


def _draw_line(place: Axes, line: Line, look: int, y_range: Bounds) -> None:
    colour = COLOURS[look % len(COLOURS)]
    low, high = (
        far if bound is None else bound for far, bound in zip((-np.inf, np.inf), y_range, strict=True)
    )
    y = np.array(line.y, np.float64)
    place.plot(
        line.x,
        line.y,
        label=line.label,
        color=colour,
        linestyle=DASHES[look % len(DASHES)],
        marker=MARKS[look % len(MARKS)],
        markerfacecolor=GROUND if look % 2 else colour,
        clip_on=bool(((y < low) | (y > high)).any()),  # a mark on the very edge is shown whole
    )
    place.update_datalim([(x, 0.0) for x in line.x], updatey=False)  # a series without values has a place too
    if line.low is not None and line.high is not None:
        place.fill_between(line.x, line.low, line.high, color=colour, alpha=0.16, linewidth=0)


def _draw_bars(place: Axes, one: Bars, left: Array, width: float, look: int) -> None:
    colour = COLOURS[look % len(COLOURS)]
    values = np.array(one.values, np.float64)
    errors = None
    if one.low is not None and one.high is not None:
        bounds = np.stack([values - np.array(one.low), np.array(one.high) - values])
        errors = np.nan_to_num(np.maximum(bounds, 0))
    place.bar(
        left,
        values,
        width,
        label=one.label,
        color=GROUND if one.published else colour,
        edgecolor=colour if one.published else GROUND,
        linewidth=1.4 if one.published else 0.6,
        hatch=HATCHES[look % len(HATCHES)],
        yerr=errors,
        error_kw={"ecolor": INK, "elinewidth": 1.0, "capsize": 2.5},
    )


def _scale_x(place: Axes, scale: str, ticks: Numbers | None) -> None:
    place.set_xscale(scale)
    if ticks is not None:
        place.set_xticks(list(ticks))
        place.xaxis.set_minor_locator(NullLocator())
        place.xaxis.set_major_formatter(ScalarFormatter())
    elif scale == "linear":
        place.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10], integer=True))


def _legend(figure: Figure, axes: Sequence[Axes], count: int) -> None:
    """One legend for all panels, below them; none where there is nothing to tell apart."""
    if count < 2:
        return
    known: dict[str, Any] = {}
    for place in axes:
        for handle, label in zip(*place.get_legend_handles_labels(), strict=True):
            known.setdefault(label, handle)
    widest = max(map(len, known))
    across = max(
        1, min(len(known), int(figure.get_figwidth() / (INCHES_A_LETTER * widest + INCHES_A_HANDLE)))
    )
    figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=across)


def _scale(panels: Any, value_range: Bounds) -> tuple[Normalize, str]:
    finite = np.concatenate([values[np.isfinite(values.astype(np.float64))].ravel() for values in panels])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    low = low if value_range[0] is None else value_range[0]
    high = high if value_range[1] is None else value_range[1]
    if low < 0 < high:
        far = max(-low, high)
        return TwoSlopeNorm(0.0, -far, far), POLES
    return Normalize(low, high if high > low else low + 1), RAMP


def _ground(shape: tuple[int, ...]) -> Rectangle:
    """What shows through where a value is not finite."""
    return Rectangle(
        (-0.5, -0.5),
        shape[1],
        shape[0],
        facecolor=GROUND,
        edgecolor=MUTED,
        hatch="////",
        linewidth=0,
        zorder=-1,
    )


def _named_axis(axis: Any, given: Names, title: str, count: int) -> None:
    names = given.get(title) if isinstance(given, Mapping) else given
    if names is None:
        axis.set_major_locator(MaxNLocator(8, integer=True))
        return
    if len(names) != count:
        raise BadValue(f"{title}: {len(names)} names for {count} along the {axis.axis_name} axis")
    step = max(1, math.ceil(count / 14))
    axis.set_major_locator(FixedLocator(range(0, count, step)))
    axis.set_major_formatter(FuncFormatter(lambda at, _: names[round(at)] if 0 <= round(at) < count else ""))
    if axis.axis_name == "x" and max(map(len, names), default=0) > 3:
        axis.set_tick_params(rotation=90)
