"""How far does every attention head look? Distance in pixels, entropy, mass on CLS (Raghu et al. 2021).

Rows, one for each block with attention of each model; arrays `distance`, `distance_error`, `entropy` and
`prefix_mass` [block][head], NaN beyond the heads of a block, `uniform` [block] and `sites` [block].
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import UnknownSite
from vitscope.meters.attention_distance import AttentionDistance, HeadDistances
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.scan import scan
from vitscope.studies.depth import padded
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MEASURES = ("distance", "distance_error", "entropy", "prefix_mass")
"""Of every head."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: str = "blocks.*.attn.pattern",
    renormalised: bool = True,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """All heads of all blocks, in one pass of each model.

    Args:
        models: the models; one without attention is left out, with a note.
        source: the images.
        sites: which attention weights are read.
        renormalised: whether rows are made to sum to one after prefix tokens and padding were dropped (the
            paper does not say); without, attention to these counts as distance 0.
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes: list[str] = []
    last: Scanned | None = None
    meter = AttentionDistance(sites, renormalised=renormalised)
    for name, model in models.items():
        try:
            model.sites(sites)
        except UnknownSite:
            notes.append(f"{name} is left out: it has no attention weights ({sites})")
            continue
        told = partial(on_progress, name) if on_progress else None
        last = scan(model, source, [meter], batch_size=batch_size, on_progress=told)
        found: list[HeadDistances] = list(last["attention_distance"].values())
        table += [{"model": name, **_row(one)} for one in found]
        for array, values in _arrays(found).items():
            arrays.setdefault(array, {})[name] = values
        notes += [f"{name}: {note}" for note in _notes(found, len(last.images))]
    return Findings(
        table,
        arrays,
        images=len(last.images) if last else None,
        skipped=last.skipped if last else (),
        notes=notes,
    )


def _row(found: HeadDistances) -> Row:
    known = found.distance[np.isfinite(found.distance)]
    return {
        "site": found.site,
        "heads": len(found.distance),
        "distance": _mean(found.distance),
        "nearest": float(known.min()) if known.size else float("nan"),
        "farthest": float(known.max()) if known.size else float("nan"),
        "uniform": found.uniform,
        "entropy": _mean(found.entropy),
        "prefix_mass": _mean(found.prefix_mass),
    }


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _arrays(found: Sequence[HeadDistances]) -> dict[str, Array]:
    arrays = {measure: padded([getattr(one, measure) for one in found]) for measure in MEASURES}
    uniform = np.array([one.uniform for one in found])
    return {**arrays, "uniform": uniform, "sites": np.array([one.site for one in found])}


def _notes(found: Sequence[HeadDistances], images: int) -> list[str]:
    """The span of the first block's heads and of the last, and heads that have no distance."""
    notes = []
    if len(found) > 1:
        first, last = (_row(one) for one in (found[0], found[-1]))
        notes.append(
            f"heads of {first['site']} look {first['nearest']:.1f} to {first['farthest']:.1f} px far, "
            f"those of {last['site']} {last['nearest']:.1f} to {last['farthest']:.1f}; uniform attention "
            f"{first['uniform']:.1f} and {last['uniform']:.1f}"
        )
    for one in found:
        if (one.images < images).any():
            notes.append(
                f"{one.site}: a head has a distance in {int(one.images.min())} of {images} images only: in "
                "the others its weights are not finite, or all on prefix tokens"
            )
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """The heads of every block in order of distance; and by depth: distance, entropy, mass on the prefix."""
    from vitscope.house import house, panels_of

    distance, uniform = result.by_model("distance"), result.by_model("uniform")
    with house():
        heads, axes = panels_of(
            list(distance),
            x_label="heads of a block, in order of distance (%)",
            y_label="mean attention distance (px)",
        )
        for place, (name, values) in zip(axes, distance.items(), strict=True):
            _sorted_heads(place, values, uniform[name])
        axes[0].set_ylim(0, None)
        _depth_bar(heads, axes)
        depth, axes = panels_of(list(distance), x_label="block", y_label="mean attention distance (px)")
        for place, (name, values) in zip(axes, distance.items(), strict=True):
            _by_depth(place, values, uniform[name])
        axes[0].set_ylim(0, None)
        depth.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return {
        "distance": heads,
        "depth": depth,
        "entropy": _by_block(result, "entropy", "entropy of a patch's attention (bits)"),
        "prefix_mass": _by_block(result, "prefix_mass", "share of attention on prefix tokens", top=1.0),
    }


def _sorted_heads(place: Axes, distance: Array, uniform: Array) -> None:
    """A line for every block, coloured by depth."""
    from matplotlib import colormaps

    from vitscope.house import MARKS, RAMP

    for block, values in enumerate(distance):
        known = np.sort(values[np.isfinite(values)])
        colour = colormaps[RAMP](block / max(len(distance) - 1, 1))
        place.plot(
            np.linspace(0, 100, len(known)) if len(known) > 1 else [50.0] * len(known),
            known,
            MARKS[block % len(MARKS)] + "-",
            color=colour,
            markersize=3.5,
            linewidth=1.2,
            clip_on=False,
        )
    for level in sorted(set(np.round(uniform[np.isfinite(uniform)], 2).tolist())):
        _bound(place, level)
    place.set_xlim(-3, 103)


def _bound(place: Axes, level: float) -> None:
    """The line of uniform attention, with its number."""
    from vitscope.house import INK

    place.axhline(level, color=INK, linewidth=0.9, linestyle=(0, (4, 2)))
    place.annotate(
        f"uniform {level:.1f}",
        (1, level),
        xycoords=("axes fraction", "data"),
        ha="right",
        va="bottom",
        fontsize=7,
    )


def _depth_bar(figure: Figure, axes: Sequence[Axes]) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from vitscope.house import RAMP

    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 100), RAMP),
        ax=list(axes),
        label="depth of the block (%)",
        aspect=26,
        pad=0.02,
    )
    bar.set_ticks([0, 50, 100])


def _by_depth(place: Axes, distance: Array, uniform: Array) -> None:
    """A mark for every head of every block, their mean, and uniform attention."""
    from matplotlib.ticker import MaxNLocator

    from vitscope.house import COLOURS, INK

    bound: dict[str, Any] = {
        "color": INK,
        "linewidth": 0.9,
        "linestyle": (0, (4, 2)),
        "label": "uniform attention",
    }
    blocks = np.arange(len(distance))
    across = np.broadcast_to(blocks[:, None], distance.shape)
    place.plot(across.ravel(), distance.ravel(), "o", color=COLOURS[0], markersize=3.5, label="a head")
    place.plot(blocks, [_mean(row) for row in distance], "-", color=COLOURS[1], label="mean of the heads")
    place.step(blocks, uniform, where="mid", **bound)
    place.xaxis.set_major_locator(MaxNLocator(8, integer=True))


def _by_block(result: Result, column: str, y_label: str, *, top: float | None = None) -> Figure:
    """The mean over the heads of every block, a line for each model."""
    from vitscope.plots import Line, lines

    series = [
        Line(name, np.arange(len(values)), [_mean(row) for row in values])
        for name, values in result.by_model(column).items()
    ]
    return lines({"Mean of a block's heads": series}, x_label="block", y_label=y_label, y_range=(0, top))


ATTENTION_DISTANCE = Study(
    name="attention_distance",
    question="How far does every attention head look?",
    method=(
        "For every patch, the distances in pixels to all other patches are averaged under its attention "
        "weights, then over patches and images. CLS and other prefix tokens are dropped, rows made to sum to "
        "one again, and the mass that went to them is told beside."
    ),
    citation="Raghu et al. 2021, section 4, Figures 3, 4, C.5, C.6 (arXiv 2108.08810)",
    run=run,
    draw=draw,
    needs=("attention",),
    caveats=(
        "Attention of equal weights on 14 x 14 patches of 16 px has distance 116.5 px: a head that does not "
        "look at where things are lies there. A head is above only if all patches look at a few places near "
        "an edge, as upper heads of some models do. Compare models of other inputs by their share of it.",
        "The paper does not say what it does with CLS. Dropping it and renormalising takes a head that "
        "attends to CLS alone for whatever little it does beside; see prefix_mass.",
        "The paper reads models pre-trained on JFT-300M, which are not public, and 5,000 images.",
        "Inside windows a head cannot look beyond its window: uniform is the bound of each block.",
    ),
    published=(
        {
            "model": "ViT-L/16 (JFT-300M)",
            "site": "blocks.0.attn.pattern",
            "heads": 16,
            "nearest": 35.0,
            "farthest": 100.0,
            "source": "Raghu et al. 2021, Figure 5, read off its axis: subsets of heads, not single ones",
        },
        {
            "model": "ViT-H/14 (JFT-300M)",
            "site": "blocks.0.attn.pattern",
            "heads": 16,
            "nearest": 20.0,
            "farthest": 100.0,
            "source": "Raghu et al. 2021, Figure 5, read off its axis: subsets of heads, not single ones",
        },
    ),
)
