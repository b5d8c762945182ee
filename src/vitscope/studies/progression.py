"""From edges to objects: dreams by depth, and what of the ladder can be measured (Ghiasi et al. 2022).

Rows with `part` "site", one for each site, and with `part` "trend", one for each measure. Arrays: `sites`
[site]; `units`, `status`, `spectral_slope`, `jpeg_bits`, `high_frequency` [site][unit]; `pictures`
[site][unit][n], the dream and then the best images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vitscope.atlas.commit import file_name
from vitscope.data.source import ImageSource
from vitscope.errors import BadValue, UnknownSite, Unsuited
from vitscope.meters.reading import Array
from vitscope.meters.topk import TopK
from vitscope.models.vision_model import Site, VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.plots import Line, lines, pictures
from vitscope.scan import scan
from vitscope.studies.appearance import Picture, as_text, from_text, jpeg_bits, roughness, spectral_slope
from vitscope.studies.depth import PATTERNS, depths, first_pattern, quartiles
from vitscope.studies.dreamt import Dreamt, drawn, dreams_of, short
from vitscope.studies.exemplars import views
from vitscope.studies.result import Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MEASURES = {"spectral_slope": spectral_slope, "jpeg_bits": jpeg_bits, "high_frequency": roughness}
"""What is measured of every dream, by its column."""
LABELS = {
    "spectral_slope": "spectral slope",
    "jpeg_bits": "JPEG (bits a pixel)",
    "high_frequency": "power above ¼ Nyquist (%)",
}
"""What the measures are called in figures."""
SHOWN = 6
"""Units of each site that have room in the figure."""


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = PATTERNS,
    units: int = 6,
    best: int = 1,
    recipe: str = "vitscope",
    steps: int = 64,
    copies: int = 0,
    seed: int = 0,
    keep: str = "",
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Dream of units drawn by lot at every depth, and measure the dreams.

    Args:
        models: the models; one without such sites is left out, with a note.
        source: the images, for the best of each unit; not read where `best` is 0.
        sites: patterns; of each model the first that matches is used.
        units: how many a site; a trend wants 64 or more.
        best: how many of the images with the largest mean are shown beside each dream.
        recipe: of the dreams; the paper's own is "ghiasi_2022".
        steps, copies: of the recipe; 0 leaves its own.
        seed: of the units and the dreams.
        keep: a folder for the dreams, so that a run that was stopped goes on; "" keeps none.
        batch_size: images a forward pass.
        on_progress: told how many dreams, or images, of a model are done.

    Raises:
        BadValue: no pattern, or a number out of range.
        Unsuited: no model has such sites.
    """
    if not sites or best < 0:
        raise BadValue("progression needs at least one pattern of sites, and best from 0 up")
    setting = short(recipe, steps=steps, copies=copies)
    notes: list[str] = [] if best else [f"{source.name} was not read: best is 0"]
    found: list[_Ladder] = []
    scanned: Scanned | None = None
    for name, model in models.items():
        try:
            pattern = first_pattern(model, sites)
        except UnknownSite:
            notes.append(f"{name} is left out: it has no sites like {' or '.join(sites)}")
            continue
        here = list(model.sites(pattern))
        wanted = {site.name: drawn(site, units=units, seed=seed) for site in here}
        told = partial(on_progress, f"{name}: dreams") if on_progress else None
        dreams = dreams_of(model, wanted, recipe=setting, seed=seed, keep=keep, on_progress=told)
        beside: Mapping[tuple[str, int], Sequence[Picture]] = {}
        if best:
            told = partial(on_progress, f"{name}: images") if on_progress else None
            meter = TopK(pattern, k=best, rank="mean")
            scanned = scan(model, source, [meter], batch_size=batch_size, on_progress=told)
            beside = _best(model, source, scanned, wanted)
        found.append(_Ladder(name, here, list(dreams.values()), beside))
    if not found:
        raise Unsuited(f"no model has sites like {' or '.join(sites)}")
    arrays: dict[str, dict[str, Array]] = {}
    for one in found:
        for array, values in one.arrays(best).items():
            arrays.setdefault(array, {})[one.name] = values
    return Findings(
        [{"model": one.name, **row} for one in found for row in one.rows()],
        arrays,
        images=len(scanned.images) if scanned else None,
        skipped=scanned.skipped if scanned else (),
        notes=notes,
    )


@dataclass(frozen=True)
class _Ladder:
    """One model's dreams from its first site to its last."""

    name: str
    sites: Sequence[Site]
    dreams: Sequence[Sequence[Dreamt]]
    beside: Mapping[tuple[str, int], Sequence[Picture]] = field(repr=False)

    def rows(self) -> list[Row]:
        """One for each site, with medians and quartiles, then one for each measure, with its trend."""
        found: list[Row] = []
        values = self._measured()
        for place, (site, dreams) in enumerate(zip(self.sites, self.dreams, strict=True)):
            good = sum(dream.status == "ok" for dream in dreams)
            row = {"part": "site", "site": site.name, "depth": depths(len(self.sites))[place]}
            row |= {"units": good, "left_out": len(dreams) - good}
            for name in MEASURES:
                row |= quartiles(name, values[name][place])
            found.append(row)
        return found + [self._trend(name, values[name]) for name in MEASURES]

    def _trend(self, name: str, values: Array) -> Row:
        """Spearman's rank correlation with depth, over units, and over the medians of sites."""
        deep = np.array(depths(len(self.sites)))
        known = np.isfinite(values)
        medians = np.array([quartiles(name, of)[name] for of in values])
        there = np.isfinite(medians)
        rho, p = _spearman(np.broadcast_to(deep[:, None], values.shape)[known], values[known])
        of_medians, p_of_medians = _spearman(deep[there], medians[there])
        row = {"part": "trend", "measure": name, "units": int(known.sum()), "rho": rho, "p": p}
        return {**row, "rho_of_medians": of_medians, "p_of_medians": p_of_medians}

    def _measured(self) -> dict[str, Array]:
        """Of every dream that says something of its unit; NaN of the others."""
        return {
            name: self._table(partial(_if_good, measure), float("nan")) for name, measure in MEASURES.items()
        }

    def arrays(self, best: int) -> dict[str, Array]:
        """Per unit, and the pictures themselves, small."""

        def shown(dream: Dreamt) -> list[str]:
            every = [dream.pixels, *self.beside.get((dream.site, dream.unit), ())]
            return [as_text(one) for one in every] + [""] * (1 + best - len(every))

        return {
            "sites": np.array([site.name for site in self.sites]),
            "units": self._table(lambda dream: dream.unit, -1),
            "status": self._table(lambda dream: dream.status, ""),
            **self._measured(),
            "pictures": self._table(shown, [""] * (1 + best)),
        }

    def _table(self, value: Callable[[Dreamt], Any], missing: Any) -> Array:
        width = max(map(len, self.dreams))
        return np.array(
            [[value(dream) for dream in of] + [missing] * (width - len(of)) for of in self.dreams]
        )


def _best(
    model: VisionModel, source: ImageSource, scanned: Scanned, wanted: Mapping[str, Sequence[int]]
) -> dict[tuple[str, int], list[Picture]]:
    """What the model was shown of the best images of every unit."""
    paths = {image.id: image.path for image in scanned.images}
    names = {
        (site, unit): [paths[one.image] for one in scanned["topk_mean"][site].of(unit)]
        for site, units in wanted.items()
        for unit in units
    }
    shown = views(source, [path for of in names.values() for path in of], model.preprocessing)
    return {unit: [shown[path] for path in of if path in shown] for unit, of in names.items()}


def _if_good(measure: Callable[[Picture], float], dream: Dreamt) -> float:
    return measure(dream.pixels) if dream.status == "ok" else float("nan")


def _spearman(deep: Array, values: Array) -> tuple[float, float]:
    """Rank correlation and its two-sided p; NaN where one of them never changes, or of fewer than three."""
    from scipy.stats import spearmanr

    if len(values) < 3 or np.ptp(deep) == 0 or np.ptp(values) == 0:
        return float("nan"), float("nan")
    found = spearmanr(deep, values)
    return float(found.statistic), float(found.pvalue)


def draw(result: Result) -> dict[str, Figure]:
    """For each model its dreams by depth, with the best images beside; and every measure against depth."""
    names = list(result.by_model("pictures"))
    stems = {name: "pictures" if len(names) == 1 else f"pictures.{file_name(name)}" for name in names}
    return {**{stem: _grid(result, name) for name, stem in stems.items()}, **_curves(result)}


def _grid(result: Result, model: str) -> Figure:
    shown, sites, units = (result.by_model(name)[model] for name in ("pictures", "sites", "units"))
    rows = {}
    for site, of in zip(sites.tolist(), shown[:, :SHOWN], strict=True):
        rows[site] = [_or_blank(text) for text in of.ravel().tolist()]
    columns = ["dream", *["image"] * (shown.shape[2] - 1)] * min(SHOWN, units.shape[1])
    return pictures(rows, columns=columns if shown.shape[2] > 1 else ())


def _or_blank(text: str) -> Array:
    return from_text(text) if text else np.full((1, 1, 3), 255, np.uint8)


def _curves(result: Result) -> dict[str, Figure]:
    """Median and quartiles of each measure, by depth."""
    figures = {}
    for name, label in LABELS.items():
        series = []
        for model in result.by_model("sites"):
            rows = result.rows(model=model, part="site")
            low, middle, high = (
                [np.nan if row[one] is None else row[one] for row in rows]
                for one in (f"{name}_q25", name, f"{name}_q75")
            )
            series.append(Line(model, [row["depth"] for row in rows], middle, low, high))
        figures[name] = lines(
            {f"{label}: median and quartiles of dreams": series},
            x_label="depth (first site 0, last 1)",
            y_label=label,
            ticks=[0, 0.25, 0.5, 0.75, 1],
        )
    return figures


PROGRESSION = Study(
    name="progression",
    question="Do dreams become less like textures and more like objects with depth?",
    method=(
        "Units are drawn by lot at every site and dreamt with the same recipe; a figure shows them from the "
        "first site to the last, with the images that excite each most. Spectral slope, size as a JPEG and "
        "share of high frequencies of the dreams are correlated with depth."
    ),
    citation="Ghiasi et al. 2022, Figures 1 and 6 (arXiv 2212.06727)",
    run=run,
    draw=draw,
    caveats=(
        "The ladder from edges over textures and patterns to parts and objects is for the reader to see or "
        "not: no number here measures what a picture shows.",
        "A trend of slope or size says that dreams change with depth, not that they become objects.",
        "The recipe sets much of a dream's spectrum; only dreams of one recipe can be compared.",
        "p takes the units for independent. Those of one site are not quite; the correlation of the medians "
        "counts each site once, but has few points.",
        "Dead and diverged dreams are shown, but left out of the numbers and counted.",
    ),
)
