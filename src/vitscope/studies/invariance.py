"""How much of its response a unit keeps when its own best image is turned or shifted (Ghiasi et al. 2022).

Rows, one for each `movement` ("rotation", "shift") of each site, in the order of depth. Arrays, for some
units of every site: `units` [site][n], which ones; `rotation_ratio` and `shift_ratio` [site][n], their own
ratios, NaN where a unit does not count; `rotation_curve` [site][angle] and `shift_curve` [site][shift], means
over units, of 0, 20, ... 340 degrees and of the 16 shifts (rows first: 0,0 0,4 0,8 0,12 4,0 ...).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from vitscope.data.derived import Mapped
from vitscope.data.source import ImageSource, Skipped
from vitscope.draws import generator
from vitscope.errors import BadValue
from vitscope.interventions.movements import rotate, shift
from vitscope.meters.meter import Meter
from vitscope.meters.moments import Moments
from vitscope.meters.share import CONFIDENCE, RESAMPLES
from vitscope.meters.topk import Exemplars, TopK
from vitscope.meters.unit_means import UnitMeans
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.scan import scan
from vitscope.studies.depth import DEPTH, PATTERNS, along, column, first_pattern, padded
from vitscope.studies.invariance_published import PUBLISHED
from vitscope.studies.result import Array, Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ANGLES = tuple(range(0, 360, 20))
"""Degrees: 18 rotations 20 degrees apart (authors' repository, it13)."""
SHIFTS = tuple(product((0, 4, 8, 12), repeat=2))
"""Rows and columns, in pixels: 16 shifts (authors' repository, it13, which moves channels for columns)."""
SHOWN = (-0.5, 1.5)
"""Of ratios in the figure: means over few units go far beyond where one hardly responds."""
MOVEMENTS: dict[str, Sequence[Any]] = {"rotation": ANGLES, "shift": SHIFTS}


def run(
    models: Models,
    source: ImageSource,
    *,
    sites: Sequence[str] = PATTERNS,
    units: int = 16,
    edge: str = "wrap",
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Response under 18 rotations and 16 shifts, of some units of every site.

    One pass over the images finds the best image of every unit. Each of these is then seen 33 times, so that
    this costs up to 33 x `units` x sites images: as much as 6,300 for a ViT of 12 blocks at 16 units.

    Args:
        models: the models.
        source: the images.
        sites: patterns; of each model the first is used that it has sites for.
        units: how many units of every site are drawn.
        edge: of shifts: "wrap" as in the authors' code, or "black".
        seed: of the draw of units and of resampling.
        batch_size: images a forward pass.
        on_progress: told the model and the pass, how many images are done, and of how many.

    Raises:
        UnknownSite: a model has none of the sites.
        BadValue: less than one unit, or there is no such edge.
    """
    if units < 1:
        raise BadValue(f"units is how many of every site are drawn: at least 1, not {units}")
    variants = [Variant("0")]
    variants += [Variant(_name("rotation", by), images=(rotate(by),)) for by in ANGLES[1:]]
    variants += [Variant(_name("shift", by), images=(shift(*by, edge=edge),)) for by in SHIFTS[1:]]
    table: list[Row] = []
    arrays: dict[str, dict[str, Array]] = {}
    images, skipped = 0, tuple[Skipped, ...]()
    for name, model in models.items():
        told = partial(_told, on_progress, name)
        found = _best(model, source, sites, units=units, seed=seed, batch_size=batch_size, told=told)
        images, skipped = len(found.scanned.images), found.scanned.skipped
        paths = found.paths
        moved = scan_variants(
            model,
            Mapped(source, ()).where(paths.__contains__),
            variants,
            [UnitMeans({best.site: best.units for best in found.sites})],
            batch_size=batch_size,
            on_progress=told("moved images"),
        )
        every = [_measured(best, moved) for best in found.sites]
        table += [{"model": name, **row} for one in every for row in _rows(one, seed=seed)]
        for array, values in _arrays(every).items():
            arrays.setdefault(array, {})[name] = values
    return Findings(table, arrays, images=images, skipped=skipped)


@dataclass(frozen=True)
class _Best:
    """Some units of one site, the image that excites each most, and what an average image gives."""

    site: str
    units: tuple[int, ...]
    images: tuple[str, ...]
    average: Float[Array, " unit"]


@dataclass(frozen=True)
class _Found:
    """The units of all sites, and the pass that found their images."""

    sites: tuple[_Best, ...]
    scanned: Scanned

    @property
    def paths(self) -> frozenset[str]:
        """One name in the source for each image that is the best of a unit."""
        wanted = {image for best in self.sites for image in best.images}
        names = {image.id: image.path for image in reversed(self.scanned.images) if image.id in wanted}
        return frozenset(names.values())


@dataclass(frozen=True)
class _Measured:
    """What units of one site make of their moved images; NaN where a unit does not count.

    Attributes:
        best: the units.
        plain: their means in their own images.
        ratios: of each movement, every step's mean divided by the plain one.
    """

    best: _Best
    plain: Float[Array, " unit"]
    ratios: dict[str, Float[Array, "unit step"]]


def _best(
    model: VisionModel,
    source: ImageSource,
    sites: Sequence[str],
    *,
    units: int,
    seed: int,
    batch_size: int,
    told: Callable[[str], Callable[[int, int], None] | None],
) -> _Found:
    """Draw units, and find the best image of each by its mean over places, as the paper ranks them."""
    pattern = first_pattern(model, sites)
    meters: list[Meter] = [TopK(pattern, k=1, rank="mean"), Moments(pattern)]
    scanned = scan(model, source, meters, batch_size=batch_size, on_progress=told("best images"))
    found = []
    for name, exemplars in scanned["topk_mean"].items():
        chosen = _drawn(exemplars, units=units, seed=seed)
        images = tuple(exemplars.image[unit, 0].tobytes().hex() for unit in chosen)
        average = scanned["moments"][name].mean[list(chosen)]
        if chosen:
            found.append(_Best(name, chosen, images, average))
    if not found:
        raise BadValue(f"no unit of {pattern!r} in {model.name} ever changes: there is nothing to measure")
    return _Found(tuple(found), scanned)


def _drawn(exemplars: Exemplars, *, units: int, seed: int) -> tuple[int, ...]:
    """Some units, ascending, without those that never change; which ones does not depend on the images."""
    order = generator(seed, exemplars.site.name).permutation(len(exemplars))[:units]
    return tuple(sorted(int(unit) for unit in order if exemplars.count[unit]))


def _measured(best: _Best, moved: dict[str, Scanned]) -> _Measured:
    def means(variant: str) -> Float[Array, " unit"]:
        return np.asarray(np.diagonal(moved[variant]["unit_means"][best.site].of(best.images)))

    plain = means("0")
    counts = np.where(plain > 0, plain, np.nan)
    ratios = {
        movement: np.stack([means(_name(movement, by)) / counts for by in steps], axis=1)
        for movement, steps in MOVEMENTS.items()
    }
    return _Measured(best, plain, ratios)


def _name(movement: str, by: Any) -> str:
    return f"{movement} {by}" if np.any(by) else "0"


def _rows(found: _Measured, *, seed: int) -> list[Row]:
    positive = found.plain > 0
    rows = []
    for movement, ratios in found.ratios.items():
        each = ratios.mean(axis=1)[positive]
        low, high = _interval(each, seed=seed)
        rows.append(
            {
                "site": found.best.site,
                "movement": movement,
                "ratio": _mean(each),
                "ratio_low": low,
                "ratio_high": high,
                "median_ratio": float(np.median(each)) if each.size else float("nan"),
                "average_image": _mean((found.best.average / found.plain)[positive]),
                "activation": _mean(found.plain[positive]),
                "units": int(positive.sum()),
                "units_without": int((~positive).sum()),
                "images": len(set(found.best.images)),
            }
        )
    return rows


def _interval(values: Float[Array, " unit"], *, seed: int) -> tuple[float, float]:
    """The interval of 95 % of a mean over units, by percentile bootstrap; NaN of fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    ends = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.quantile(values[draws].mean(axis=1), ends)
    return float(low), float(high)


def _mean(values: Float[Array, " unit"]) -> float:
    return float(values.mean()) if values.size else float("nan")


def _arrays(every: Sequence[_Measured]) -> dict[str, Array]:
    found = {"units": padded([np.array(one.best.units, np.float64) for one in every])}
    for movement in MOVEMENTS:
        ratios = [one.ratios[movement] for one in every]
        found[f"{movement}_ratio"] = padded([of.mean(axis=1) for of in ratios])
        found[f"{movement}_curve"] = np.array(
            [[_mean(step[np.isfinite(step)]) for step in of.T] for of in ratios]
        )
    return found


def _told(on_progress: OnProgress | None, name: str, stage: str) -> Callable[[int, int], None] | None:
    return partial(on_progress, f"{name}: {stage}") if on_progress else None


def draw(result: Result) -> dict[str, Figure]:
    """The ratio of every site against depth, with its interval; and against the angle, for every site."""
    from vitscope.plots import Line, heat_maps, lines

    titles = {"rotation": "18 rotations, 20° apart", "shift": "16 shifts, 0 to 12 px"}
    panels: dict[str, list[Line]] = {}
    for movement, title in titles.items():
        mean, median = (panels.setdefault(f"{title}: {of}", []) for of in ("mean", "median"))
        for model in result.models:
            rows = result.rows(model=model, movement=movement)
            depth = along(len(rows))
            ends = (column(rows, name) for name in ("ratio", "ratio_low", "ratio_high"))
            mean.append(Line(model, depth, *ends))
            median.append(Line(model, depth, column(rows, "median_ratio")))
        published = [row for row in result.published if row["movement"] == movement]
        mean.append(Line("published, ViT-B/16", along(len(published)), column(published, "ratio")))
    return {
        "ratio": lines(panels, x_label=DEPTH, y_label="share of the response", y_range=SHOWN),
        "rotation": heat_maps(
            result.by_model("rotation_curve"),
            x_label="rotation (degrees)",
            y_label="site, first to last",
            value_label="share of the response",
            value_range=(0, 1),
            origin="lower",
            x_names=[str(angle) for angle in ANGLES],
        ),
    }


INVARIANCE = Study(
    name="invariance",
    question="How much of its response does a unit keep when its own best image is turned or shifted?",
    method=(
        "For some units of every layer the image with the largest mean activation is shown under 18 "
        "rotations and under 16 small shifts. The mean activation over these, the unmoved image among them, "
        "is divided by that of the unmoved image; the ratios of units are averaged where that is positive."
    ),
    citation="Ghiasi et al. 2022, authors' repository, it13 (not in the paper)",
    run=run,
    draw=draw,
    caveats=(
        "An image is a unit's best for being the largest of many: any change lowers the response, and the "
        "more so the more images there are. What an average image gives stands beside each ratio.",
        "A turned image has black corners and is interpolated: part of what rotation costs is that.",
        "The published shifts were made along channels and rows, by a mistake in the authors' code, and for "
        "11 units a layer. Here they are along rows and columns; do not compare the two.",
        "A mean of ratios is at the mercy of units with hardly any response; the median stands beside it.",
    ),
    published=PUBLISHED,
)
