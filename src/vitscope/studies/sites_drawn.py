"""The figure of `sites_compared`: dreams by kind of site, early and late, beside their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes

from vitscope.house import COLOURS, GROUND, INK, MARKS, MUTED, Plot, house
from vitscope.meters.reading import Array
from vitscope.studies.appearance import from_text
from vitscope.studies.result import Result, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 4
"""Dreams of each kind and end that have room."""
PICTURE = 0.85
"""Side of a dream, in inches."""
GAP, PANELS = 0.15, (3.2, 2.6)
"""Widths of the gap after a strip, and of the two panels, in dreams."""


def sites_figure(result: Result, model: str, *, ends: Sequence[str]) -> Figure:
    """Of one model: a row for each kind of site, with the first dreams of the early and of the late block,
    the share of high frequencies of every dream, and how well early and late are told apart.

    Args:
        result: of `sites_compared`.
        model: one of its models.
        ends: what the two blocks are called.
    """
    arrays = {name: result.by_model(name)[model] for name in ("kinds", "high_frequency", "dreams", "status")}
    kinds = arrays["kinds"].tolist()
    across = min(SHOWN, arrays["dreams"].shape[2])
    highest = max(1.0, float(np.nan_to_num(arrays["high_frequency"]).max()))
    ratios = [*[*[1.0] * across, GAP] * len(ends), *PANELS]
    with house():
        figure = Plot(figsize=(sum(ratios) * PICTURE + 0.8, len(kinds) * PICTURE + 1.3), layout="constrained")
        grid = figure.subplots(len(kinds), len(ratios), squeeze=False, width_ratios=ratios)
        for row, (kind, axes) in enumerate(zip(kinds, grid, strict=True)):
            for end in range(len(ends)):
                start = end * (across + 1)
                _strip(axes[start : start + across], arrays["dreams"][row, end], arrays["status"][row, end])
                axes[start + across].set_axis_off()
            axes[0].text(-0.1, 0.5, kind, transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
            _dots(axes[-2], arrays["high_frequency"][row], ends=ends)
            _shares(axes[-1], result.rows(model=model, part="kind", kind=kind))
            axes[-2].set_xlim(0, highest * 1.06)
            axes[-1].set_xlim(0, 103)
            for place in axes[-2:]:
                place.tick_params(labelbottom=row + 1 == len(kinds))
        _lettered(grid, _titles(result, model, ends), across=across)
        handles = [handle for place in grid[0][-2:] for handle in place.get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside lower right", ncols=len(handles), handlelength=1.6)
        figure.suptitle(model, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _titles(result: Result, model: str, ends: Sequence[str]) -> list[str]:
    """What stands above a strip: which block it is of."""
    first = result.rows(model=model, part="block")[0]["kind"]
    rows = {row["end"]: row for row in result.rows(model=model, part="block", kind=first)}
    return [f"{end}: {rows[end]['site'].removesuffix('.' + first)}" for end in ends]


def _lettered(grid: Array, titles: Sequence[str], *, across: int) -> None:
    for end, title in enumerate(titles):
        grid[0][end * (across + 1)].set_title(title, fontsize=8, fontweight="normal")
    grid[0][-2].set_title("high frequencies", fontsize=9)
    grid[0][-1].set_title("early told from late", fontsize=9)
    grid[-1][-2].set_xlabel("power above ¼ Nyquist (%)")
    grid[-1][-1].set_xlabel("right (%)")


def _strip(axes: Sequence[Axes] | Array, dreams: Array, status: Array) -> None:
    """The first dreams; one that is left out of the numbers is crossed out."""
    for place, text, said in zip(axes, dreams.tolist(), status.tolist(), strict=False):
        place.set_axis_off()
        if text:
            place.imshow(from_text(text), interpolation="nearest")
        if text and said != "ok":
            place.plot([0, 1], [0, 1], transform=place.transAxes, color=COLOURS[-1], linewidth=1.5)


def _dots(place: Axes, values: Array, *, ends: Sequence[str]) -> None:
    """A mark for every dream, early above late, and a line at each mean."""
    for which, end in enumerate(ends):
        known = values[which][np.isfinite(values[which])]
        place.plot(
            known,
            np.full(len(known), which),
            MARKS[which],
            color=COLOURS[which],
            markerfacecolor=GROUND if which else COLOURS[which],
            label=end,
        )
        if len(known):
            place.plot([known.mean()] * 2, [which - 0.35, which + 0.35], color=INK, linewidth=2)
    _bare(place)


def _shares(place: Axes, rows: Sequence[Row]) -> None:
    """Separability with its interval: by looks, and by the model's own vector where there is one."""
    columns = {"separability": "by its looks", "separability_own": "by the model"}
    for row in rows:
        for which, (column, label) in enumerate(columns.items()):
            value, low, high = (row.get(f"{column}{end}") for end in ("", "_low", "_high"))
            if value is None or low is None or high is None or not np.isfinite(value):
                continue
            place.errorbar(
                [value],
                [which],
                xerr=[[value - low], [high - value]],
                fmt=MARKS[2 + which],
                color=COLOURS[2 + which],
                markerfacecolor=GROUND if which else COLOURS[2 + which],
                label=label,
            )
    place.axvline(50, color=MUTED, linewidth=0.9)
    _bare(place)


def _bare(place: Axes) -> None:
    place.set_ylim(1.7, -0.7)
    place.set_yticks([])
    place.grid(visible=False, axis="y")
