"""What do units of several models look for at the same relative depth? Dreams side by side.

Rows, one for each model and depth. Arrays: `sites` [depth]; `units`, `status`, `high_frequency` and `dreams`
[depth][unit].
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, UnknownSite, Unsuited
from vitscope.meters.reading import Array
from vitscope.models.vision_model import Site, VisionModel
from vitscope.plots import pictures
from vitscope.studies.appearance import as_text, from_text, roughness
from vitscope.studies.depth import PATTERNS, first_pattern, quartiles
from vitscope.studies.depth import depths as depths_of
from vitscope.studies.dreamt import Dreamt, drawn, dreams_of, short
from vitscope.studies.result import Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = 6
"""Dreams of a site that have room in the figure."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = PATTERNS,
    depths: Sequence[float] = (0.2, 0.5, 0.8),
    units: int = 4,
    recipe: str = "olah_2017:short",
    steps: int = 0,
    copies: int = 0,
    seed: int = 0,
    keep: str = "",
    on_progress: OnProgress | None = None,
) -> Findings:
    """Dream of units drawn by lot, of every model at the same relative depths and by the same recipe.

    Args:
        models: the models; one without such sites is left out, with a note.
        source: images, which are not read.
        sites: patterns; of each model the first that matches is used.
        depths: from 0, the first of these sites, to 1, the last; of each model the nearest site is taken.
        units: how many a site.
        recipe: of the dreams.
        steps, copies: of the recipe; 0 leaves its own.
        seed: of the units and the dreams.
        keep: a folder for the dreams, so that a run that was stopped goes on; "" keeps none.
        on_progress: told how many dreams of a model are done.

    Raises:
        BadValue: no depth, one outside 0 to 1, or fewer than one unit.
        Unsuited: no model has such sites.
    """
    if not depths or not all(0 <= depth <= 1 for depth in depths):
        raise BadValue(f"depths lie between 0 and 1: {', '.join(map(str, depths)) or 'none'} do not")
    setting = short(recipe, steps=steps, copies=copies)
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    notes = [f"{source.name} was not read: dreams need no images"]
    for name, model in models.items():
        try:
            chosen = _nearest(model, sites, depths)
        except UnknownSite:
            notes.append(f"{name} is left out: it has no sites like {' or '.join(sites)}")
            continue
        wanted = {site.name: drawn(site, units=units, seed=seed) for site, _ in chosen}
        told = partial(on_progress, name) if on_progress else None
        found = dreams_of(model, wanted, recipe=setting, seed=seed, keep=keep, on_progress=told)
        rows = [found[site.name] for site, _ in chosen]
        for depth, (site, lies), dreams in zip(depths, chosen, rows, strict=True):
            table.append({"model": name, "depth": depth, "site": site.name, "lies": lies, **_row(dreams)})
        for array, values in _arrays(rows).items():
            arrays.setdefault(array, {})[name] = values
    if not table:
        raise Unsuited(f"no model has sites like {' or '.join(sites)}")
    return Findings(table, arrays, notes=notes)


def _nearest(
    model: VisionModel, patterns: Sequence[str], depths: Sequence[float]
) -> list[tuple[Site, float]]:
    """Of every depth the nearest site, and where that lies."""
    every = list(model.sites(first_pattern(model, patterns)))
    lie = depths_of(len(every))
    places = [int(np.abs(np.array(lie) - depth).argmin()) for depth in depths]
    return [(every[place], lie[place]) for place in places]


def _row(dreams: Sequence[Dreamt]) -> Row:
    good = int(sum(dream.status == "ok" for dream in dreams))
    counts = {"units": good, "left_out": len(dreams) - good}
    return {**counts, **quartiles("high_frequency", np.array([_rough(dream) for dream in dreams]))}


def _rough(dream: Dreamt) -> float:
    return roughness(dream.pixels) if dream.status == "ok" else float("nan")


def _arrays(rows: Sequence[Sequence[Dreamt]]) -> dict[str, Array]:
    width = max(map(len, rows))

    def table(value: Callable[[Dreamt], Any], missing: Any) -> Array:
        return np.array([[*map(value, row), *[missing] * (width - len(row))] for row in rows])

    return {
        "sites": np.array([row[0].site for row in rows]),
        "units": table(lambda dream: dream.unit, -1),
        "status": table(lambda dream: dream.status, ""),
        "high_frequency": table(_rough, np.nan),
        "dreams": table(lambda dream: as_text(dream.pixels), ""),
    }


def draw(result: Result) -> dict[str, Figure]:
    """The dreams of every depth in a row, a strip for each model."""
    shown, sites = result.by_model("dreams"), result.by_model("sites")
    strips = {model: min(SHOWN, dreams.shape[1]) for model, dreams in shown.items()}
    rows = {}
    for place, depth in enumerate(dict.fromkeys(row["depth"] for row in result.table)):
        title = "\n".join([f"{depth:.0%} deep", *(str(of[place]) for of in sites.values())])
        rows[title] = [
            _or_blank(text) for model, count in strips.items() for text in (*shown[model][place, :count], "")
        ][:-1]
    columns = [title for model, count in strips.items() for title in (_short(model), *[""] * count)]
    return {"dreams": pictures(rows, columns=columns[:-1])}


def _or_blank(text: str) -> Array:
    return from_text(text) if text else np.full((1, 1, 3), 255, np.uint8)


def _short(model: str) -> str:
    """Without the library a model comes from: there is little room over a strip."""
    return model.partition(":")[2] or model


MATCHED_DREAMS = Study(
    name="matched_dreams",
    question="What do units of these models look for at the same relative depth?",
    method=(
        "At every depth, units of each model's nearest site are drawn by lot and dreamt with the same recipe "
        "and seed. The figure has a strip for each model; the table tells the share of high frequencies."
    ),
    citation="Ghiasi et al. 2022, Figures 1 and 6 (arXiv 2212.06727), one model at a time",
    run=run,
    draw=draw,
    caveats=(
        "A few units drawn by lot are an impression. For a trend, ask `progression` with more of them.",
        "The same relative depth is not the same function, nor the same receptive field.",
        "A dream shows something that excites a unit, found by one recipe, not what the unit is for.",
        "Dead and diverged dreams are shown, but left out of the numbers and counted.",
    ),
)
