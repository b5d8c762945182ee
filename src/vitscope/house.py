"""The house style of figures: colours, letters, marks, and figures as PNG and SVG.

Nothing here touches `pyplot`, so there is no global state and no window.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from cycler import cycler
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vitscope.errors import BadValue
from vitscope.provenance import TEXT_CHUNK, Provenance

INK, MUTED, RULE, GROUND = "#1b1d20", "#5d636c", "#dfdfda", "#ffffff"
COLOURS = ("#0f5fc2", "#e8850c", "#1b1d20", "#009e73", "#9b2d7f", "#e07fc0", "#b22222")
"""Of series, in order. Chosen so that any two differ under every kind of colour blindness; the test measures
it. Seven are what a reader can tell apart; a further series starts again with other marks."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (5, 1.5, 1, 1.5)), (0, (9, 2)))
MARKS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "|||", "---")
RAMP = "cividis"
"""Colour map of heat maps: made for colour-blind readers, its lightness only rises."""
POLES = "PuOr_r"
"""Colour map of values around zero: purple and orange, which every kind of colour blindness tells apart."""
PANEL = (4.6, 3.2)
"""Width and height of a panel, in inches."""
ACROSS = 3
"""Panels in one row, at most."""
RESOLUTION = 200
"""Dots an inch of a PNG."""
STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # it travels with matplotlib, so figures are alike on any machine
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=COLOURS),
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.7,
    "lines.markersize": 4.5,
    "hatch.linewidth": 0.6,
    "figure.facecolor": GROUND,
    "axes.facecolor": GROUND,
    "savefig.facecolor": GROUND,
    "svg.fonttype": "path",  # letters as outlines: no reader needs the font
    "svg.hashsalt": "vitscope",
}


class Plot(Figure):
    """A figure that shows itself in a notebook, whether or not `pyplot` is in use."""

    def _repr_png_(self) -> bytes:
        return png(self)


def house() -> AbstractContextManager[None]:
    """The house style, for as long as the `with` lasts; for figures of your own."""
    return rc_context(STYLE)  # type: ignore[arg-type]


def panels_of(
    titles: Sequence[str],
    *,
    x_label: str,
    y_label: str,
    panel: tuple[float, float] = PANEL,
    shared: bool = True,
) -> tuple[Figure, list[Axes]]:
    """A figure with one place for each title, labelled at its left and lower edge.

    Raises:
        BadValue: there is no title.
    """
    if not titles:
        raise BadValue("a figure needs at least one panel")
    across = 2 if len(titles) == 4 else min(len(titles), ACROSS)
    down = math.ceil(len(titles) / across)
    single = 1.25 if across == 1 else 1.0
    figure = Plot(figsize=(panel[0] * across * single, panel[1] * down * single), layout="constrained")
    grid = figure.subplots(down, across, squeeze=False, sharex=shared, sharey=shared)
    axes: list[Axes] = list(grid.flat)
    for spare in axes[len(titles) :]:
        spare.remove()
    for index, title in enumerate(titles):
        axes[index].set_title(title)
        if index % across == 0:
            axes[index].set_ylabel(y_label)
        if index + across >= len(titles):
            axes[index].set_xlabel(x_label)
            axes[index].tick_params(labelbottom=True)
    return figure, axes[: len(titles)]


def png(figure: Figure, provenance: Provenance | None = None) -> bytes:
    """The figure as a PNG that carries its provenance; the same figure is the same bytes."""
    facts = {TEXT_CHUNK: provenance.to_json()} if provenance else {}
    return _saved(figure, "png", {"Software": None, **facts})


def svg(figure: Figure, provenance: Provenance | None = None) -> bytes:
    """The figure as an SVG with letters as outlines, and its provenance as description; the same bytes."""
    facts = {"Description": provenance.to_json()} if provenance else {}
    return _saved(figure, "svg", {"Date": None, "Creator": None, **facts})


def thumbnail(figure: Figure, *, width: int) -> bytes:
    """The figure as a small PNG, so many pixels wide."""
    return _saved(figure, "png", {"Software": None}, dots=width / figure.get_figwidth())


def _saved(figure: Figure, kind: str, metadata: dict[str, Any], *, dots: float = RESOLUTION) -> bytes:
    file = io.BytesIO()
    with house():
        figure.savefig(file, format=kind, metadata=metadata, dpi=dots)
    return file.getvalue()
