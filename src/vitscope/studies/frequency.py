"""How much of its accuracy a model keeps when fine or coarse detail is filtered away (Ghiasi et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from vitscope.data.source import ImageSource
from vitscope.errors import BadValue
from vitscope.interventions.filters import high_pass, low_pass
from vitscope.meters.accuracy import Accuracies, Accuracy
from vitscope.meters.reading import Array
from vitscope.meters.share import CONFIDENCE
from vitscope.models.vision_model import VisionModel
from vitscope.parts import BATCH_SIZE, Scanned
from vitscope.plots import Line, lines
from vitscope.studies.classifiers import classifiers
from vitscope.studies.depth import column
from vitscope.studies.result import Result, Row
from vitscope.studies.study import Findings, Models, OnProgress, Study
from vitscope.variants import Variant, scan_variants

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIRECTIONS = ("low", "high")
Curve = tuple[str, str]
"""Filter and direction."""
RADII = (4.0, 8.0, 16.0, 24.0, 32.0, 48.0, 64.0, 96.0, 112.0)
"""In cycles per image; half the side of a model's input is added for each model (our choice: the settings of
the paper's figure are not known)."""
RESAMPLES = 500
"""Resamplings of the images behind the interval of an area."""
AT_ONCE = 50
"""Of these, how many are held in memory together."""


def run(
    models: Models,
    source: ImageSource,
    *,
    radii: Sequence[float | int] = RADII,
    filters: Sequence[str] = ("disk",),
    directions: Sequence[str] = DIRECTIONS,
    seed: int = 0,
    batch_size: int = BATCH_SIZE,
    on_progress: OnProgress | None = None,
) -> Findings:
    """Accuracy under every filter, direction and radius, of each model.

    Args:
        models: the models.
        source: labelled images.
        radii: in cycles per image. Half the side of a model's input is added, and a radius beyond the corner
            of its spectrum, where nothing would be removed, is left out.
        filters: of "disk", "gaussian" and "square".
        directions: "low" keeps what lies inside the radius, "high" what lies outside.
        seed: of the resampling behind intervals.
        batch_size: images a forward pass.
        on_progress: told how many images of a model are done.

    Raises:
        BadValue: no radius, filter or direction, one that is negative or unknown, or images without labels.
    """
    if not (radii and filters and directions):
        raise BadValue("frequency needs at least one radius, one filter and one direction")
    for direction in directions:
        if direction not in DIRECTIONS:
            raise BadValue(f"no direction {direction!r}: a filter keeps 'low' or 'high' frequencies")
    curves = [(shape, direction) for shape in filters for direction in directions]
    asked, notes = classifiers(models)
    seen = {}
    for name, model in asked.items():
        variants = [Variant("plain")] + [
            _variant(curve, radius) for curve in curves for radius in radii_of(model, radii)
        ]
        told = partial(on_progress, name) if on_progress else None
        if told:
            told(0, len(source))
        seen[name] = scan_variants(
            model, source, variants, [Accuracy()], batch_size=batch_size, on_progress=told
        )
    reach = min(radii_of(model, radii)[-1] for model in asked.values())
    table: list[Row] = []
    areas: dict[Curve, dict[str, Array]] = {curve: {} for curve in curves}
    for name, model in asked.items():
        for curve in curves:
            rows, areas[curve][name] = _curve(
                seen[name], curve, radii_of(model, radii), reach=reach, seed=seed
            )
            table += [{"model": name, **row} for row in rows]
    first = next(iter(seen.values()))["plain"]
    notes += [*_never_right(seen), *_compared(areas, reach)]
    return Findings(table, images=len(first.images), skipped=first.skipped, notes=notes)


def radii_of(model: VisionModel, radii: Sequence[float | int]) -> list[float]:
    """The radii that change something for this model's input, ascending, and half its shorter side."""
    rows, columns = model.preprocessing.size
    corner = float(np.hypot(rows // 2, columns // 2))
    return sorted({*(float(radius) for radius in radii if radius < corner), min(rows, columns) / 2})


def area_under(
    radii: Sequence[float | int], relative: Float[Array, "*draw radius"], *, reach: float | int
) -> Float[Array, "*draw"]:
    """Mean height of the curve from the first radius to `reach`, by the trapezoid rule; NaN of one point."""
    x = np.array(radii)
    within = x <= reach
    if within.sum() < 2:
        return np.full(relative.shape[:-1], np.nan)
    area = np.trapezoid(relative[..., within], x[within], axis=-1)
    return np.asarray(area / (x[within][-1] - x[within][0]))


def _variant(curve: Curve, radius: float) -> Variant:
    shape, direction = curve
    kept = low_pass if direction == "low" else high_pass
    return Variant(_name(curve, radius), images=(kept(radius=radius, shape=shape),))


def _name(curve: Curve, radius: float) -> str:
    return f"{curve[0]} {curve[1]} {radius:g}"


def _curve(
    seen: Mapping[str, Scanned], curve: Curve, radii: Sequence[float | int], *, reach: float | int, seed: int
) -> tuple[list[Row], Array]:
    """The rows of one curve, and the resampled areas under it."""
    plain: Accuracies = seen["plain"]["accuracy"]
    filtered: list[Accuracies] = [seen[_name(curve, radius)]["accuracy"] for radius in radii]
    right = np.stack([one.right() for one in (*filtered, plain)], axis=1)
    areas = _resampled(right, radii, reach=reach, seed=seed)
    total = right.sum(axis=0)
    whole = 100 * total[:-1] / total[-1] if total[-1] else np.full(len(radii), np.nan)
    low, high = _middle(areas)
    area = {"area": float(area_under(radii, whole, reach=reach)), "area_low": low, "area_high": high}
    rows = []
    for radius, one in zip(radii, filtered, strict=True):
        ratio = one.relative_to(plain, seed=seed)
        rows.append(
            {
                "filter": curve[0],
                "direction": curve[1],
                "radius": radius,
                **one.row(),
                "plain_top1": plain.share().value,
                "relative_top1": ratio.value,
                "relative_top1_low": ratio.low,
                "relative_top1_high": ratio.high,
                **area,
            }
        )
    return rows, areas


def _resampled(
    right: Bool[Array, "image column"], radii: Sequence[float | int], *, reach: float | int, seed: int
) -> Float[Array, " draw"]:
    """Areas over images drawn with replacement; equal seeds draw the same images for every model."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES // AT_ONCE):
        weights = draw.multinomial(len(right), np.full(len(right), 1 / len(right)), size=AT_ONCE)
        counts = weights.astype(np.float64) @ right
        with np.errstate(invalid="ignore", divide="ignore"):
            relative = 100 * counts[:, :-1] / counts[:, -1:]
        found.append(area_under(radii, relative, reach=reach))
    return np.concatenate(found)


def _middle(draws: Float[Array, " draw"]) -> tuple[float, float]:
    """The middle 95 % of what is finite; NaN where nothing is."""
    finite = draws[np.isfinite(draws)]
    if not finite.size:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _never_right(seen: Mapping[str, Mapping[str, Scanned]]) -> list[str]:
    """Models whose relative accuracy does not exist."""
    return [
        f"{name} is right on none of the images unfiltered: it has no relative accuracy"
        for name, of in seen.items()
        if not of["plain"]["accuracy"].share().right
    ]


def _compared(areas: Mapping[Curve, Mapping[str, Array]], reach: float | int) -> list[str]:
    """How much the area of the first model exceeds that of each other, over the same images."""
    notes = []
    for (shape, direction), of in areas.items():
        (first, ours), *others = of.items()
        for other, theirs in others:
            low, high = _middle(ours - theirs)
            if np.isfinite(low):
                notes.append(
                    f"{shape} {direction}-pass: the area under the relative curve, up to {reach:g} cycles "
                    f"per image, of {first} exceeds {other}'s by {low:+.1f} to {high:+.1f} points (95 %)"
                )
    return notes


def draw(result: Result) -> dict[str, Figure]:
    """Relative and absolute accuracy against the radius, a panel for every filter and direction."""
    return {
        "relative": _figure(
            result, ("relative_top1", "relative_top1_low", "relative_top1_high"), relative=True
        ),
        "top1": _figure(result, ("top1", "top1_low", "top1_high"), relative=False),
    }


def _figure(result: Result, columns: tuple[str, str, str], *, relative: bool) -> Figure:
    curves = dict.fromkeys((row["filter"], row["direction"]) for row in result.table)
    panels = {}
    for shape, direction in curves:
        series = []
        for model in result.models:
            rows = result.rows(model=model, filter=shape, direction=direction)
            y, low, high = (column(rows, name) for name in columns)
            series.append(Line(model, [row["radius"] for row in rows], y, low, high))
        panels[f"{direction}-pass, {shape}"] = series
    return lines(
        panels,
        x_label="radius of the filter (cycles per image)",
        y_label="top-1 relative to whole images (%)" if relative else "top-1 (%)",
        y_range=(0, None),
        reference=100 if relative else None,
    )


FREQUENCY = Study(
    name="frequency",
    question="How much of its accuracy does a model keep when fine, or coarse, detail is filtered away?",
    method=(
        "Every image is filtered in the Fourier domain, channel by channel, as the model is shown it: after "
        "resizing and cropping, before normalisation. Accuracy at each radius is compared with that of the "
        "same model on the same images unfiltered, so that models of different accuracy can be compared."
    ),
    citation="Ghiasi et al. 2022, effect of low-pass filtering on top-1 (arXiv 2212.06727)",
    run=run,
    draw=draw,
    needs=("labels", "logits"),
    caveats=(
        "The paper shows a figure, but neither its filter nor its radii: those here are our choice, and "
        "there is no published number to compare with.",
        "A disk whose radius is half the side of the image still removes the corners of the spectrum: it is "
        "not 'no filter'.",
        "A high-pass is shown around mid-grey, which no model was trained on: part of what it costs is that.",
        "Relative accuracy favours no model only where unfiltered accuracies are similar.",
    ),
)
