"""Does every layer but the last say where something is? How much of an image units fire on, and on what.

Rows, one for each site of each model, in the order of depth; arrays `active_share`, `auc` and `auc_turned`
[site][unit], the mean over each unit's exemplars, NaN beyond the units of a site and where there is no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from vitscope.data.source import ImageSource, Skipped
from vitscope.errors import BadValue
from vitscope.meters.localisation import MEASURES, Localisation, Localised
from vitscope.parts import BATCH_SIZE
from vitscope.scan import scan
from vitscope.studies.depth import DEPTH, PATTERNS, along, column, first_pattern, padded, quartiles
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vitscope.plots import Line


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = PATTERNS,
    k: int = 10,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Active share and AUC of every unit of every site, over its own best images; one pass a model.

    Args:
        models: the models.
        source: images with a foreground; those without are passed over.
        sites: patterns; of each model the first is used that it has sites for.
        k: how many images each unit is measured on, those with its largest mean (the paper shows 1 to 10).
        batch_size: images a forward pass.
        on_progress: told the model, how many images are done, and of how many.

    Raises:
        UnknownSite: a model has none of the sites.
        BadValue: k is below 1, or no image has a foreground that is neither nothing nor everything.
    """
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {measure: {} for measure in MEASURES}
    notes: list[str] = []
    images, skipped = 0, tuple[Skipped, ...]()
    for name, model in models.items():
        meter = Localisation(first_pattern(model, sites), k=k)
        told = partial(on_progress, name) if on_progress else None
        found = scan(model, source, [meter], batch_size=batch_size, on_progress=told)
        images, skipped = len(found.images), found.skipped
        every: list[Localised] = [
            found["localisation"][site.name]
            for site in meter.sites(model.sites)
            if site.name in found["localisation"]
        ]
        if not any(np.isfinite(one.value).any() for one in every):
            raise BadValue(
                f"no image of {source.name} has a foreground that is neither nothing nor everything of what "
                f"{name} is shown, so nothing can be said of where units fire"
            )
        rows = [_row(one) for one in every]
        table += [{"model": name, **row} for row in rows]
        for measure in MEASURES:
            arrays[measure][name] = padded([one.of_units(measure) for one in every])
        if len(rows) > 1:
            notes.append(f"{name}: {_last(rows)}")
    return Findings(table, arrays, images=images, skipped=skipped, notes=notes)


def _row(found: Localised) -> Row:
    share, auc, turned = (found.of_units(measure) for measure in MEASURES)
    rows, columns = found.site.grid or (1, 1)
    known = np.isfinite(found.value)
    return {
        "site": found.site.name,
        **quartiles("active_share", share),
        **quartiles("auc", auc),
        **quartiles("auc_distance", abs(auc - 0.5)),
        "auc_distance_turned": quartiles("turned", abs(turned - 0.5))["turned"],
        "units": int(np.isfinite(auc).sum()),
        "units_without": int((~np.isfinite(auc)).sum()),
        "places": rows * columns,
        "exemplars": len(np.unique(found.image[known], axis=0)),
    }


def _last(rows: Sequence[Row]) -> str:
    """The claim, in numbers: that the last layer differs from all before it."""
    *before, last = rows
    shares = [row["active_share"] for row in before]
    apart = [row["auc_distance"] for row in before]
    wider = "above" if last["active_share"] > max(shares) else "not above"
    nearer = "below" if last["auc_distance"] < min(apart) else "not below"
    return (
        f"at {last['site']} units are active on {last['active_share']:.2f} of the places (median), {wider} "
        f"all sites before it ({min(shares):.2f} to {max(shares):.2f}); its distance of the AUC from 0.5 is "
        f"{last['auc_distance']:.3f}, {nearer} all before it ({min(apart):.3f} to {max(apart):.3f})"
    )


def draw(result: Result) -> dict[str, Figure]:
    """Active share, distance of the AUC from 0.5 and AUC against depth, with the quartiles over units."""
    from vitscope.plots import lines

    y_label = "median of units, quartiles as band"
    share, auc, apart = (_series(result, name) for name in ("active_share", "auc", "auc_distance"))
    chance = _series(result, "auc_distance_turned")
    distances = {"AUC's distance from 0.5": apart, "The same, foreground turned": chance}
    return {
        "active_share": lines(
            {"Active share of places": share}, x_label=DEPTH, y_label=y_label, y_range=(0, 1)
        ),
        "auc_distance": lines(distances, x_label=DEPTH, y_label=y_label, y_range=(0, None)),
        "auc": lines({"AUC on the foreground": auc}, x_label=DEPTH, y_label=y_label, reference=0.5),
    }


def _series(result: Result, name: str) -> list[Line]:
    """A line for each model, with its quartiles where there are any."""
    from vitscope.plots import Line

    found = []
    for model in result.models:
        rows = result.rows(model=model)
        ends = [f"{name}_{end}" for end in ("q25", "q75")]
        bounds = [column(rows, end) if end in rows[0] else None for end in ends]
        found.append(Line(model, along(len(rows)), column(rows, name), *bounds))
    return found


LOCALISATION = Study(
    name="localisation",
    question="Does every layer but the last say where something is?",
    method=(
        "Every unit is measured on the images that excite it most: on which share of the places it is "
        "effectively active (exp of the entropy of its positive part), and how well its map tells the object "
        "from what surrounds it (area under the curve). The same foreground turned by 180 degrees says what "
        "chance gives."
    ),
    citation="Ghiasi et al. 2022, section 4.1 (arXiv 2212.06727)",
    run=run,
    draw=draw,
    needs=("foreground",),
    caveats=(
        "The paper makes the claim from pictures and an appendix we could not read; the two measures are "
        "ours, and there is no published number to compare with.",
        "The smallest active share is one place of the grid, so models with different grids compare in "
        "shape, not in level. Units that can be negative almost everywhere are compared by their positive "
        "part only.",
        "The AUC asks for the annotated object. A unit may be localised on something else: on grass, on an "
        "edge. Its AUC may then lie below 0.5, or at it.",
        "Exemplars are the best of the images given. With few images they are hardly what a unit looks for.",
        "Objects stand in the middle of pictures: a distance from 0.5 that the turned foreground reaches as "
        "well says nothing of objects.",
    ),
)
