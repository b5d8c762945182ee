"""Which units fire most in one picture, and where: against an atlas, or against the picture's own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from vitscope.address import Address
from vitscope.arrays import Activations
from vitscope.atlas.read import Atlas
from vitscope.atlas.unit import Unit
from vitscope.errors import BadValue
from vitscope.models.vision_model import Site, VisionModel

Array = NDArray[Any]
Values = Mapping[str, Activations]
"""The activations of one picture, by site."""


@dataclass(frozen=True, eq=False)
class Firing:
    """A unit that fires in the picture.

    Attributes:
        address: of the unit.
        value: its largest activation on the picture.
        place: where, "row,column".
        view: its activation at every place.
        height: how far `value` lies above the unit's mean over the picture, in standard deviations of all
            values of the site around their units' means.
        percentile: the share of the atlas's images in which the unit reaches less, in per cent; None without
            an atlas.
        known: what the atlas knows of it.
    """

    address: Address
    value: float
    place: str
    view: Float[Array, "row column"] = field(repr=False)
    height: float
    percentile: float | None = None
    known: Unit | None = field(default=None, repr=False)


def check(model: VisionModel, atlas: Atlas) -> None:
    """Refuse an atlas of another model.

    Raises:
        BadValue: its weights are not the model's.
    """
    theirs = atlas.manifest["provenance"]["weights"]
    if theirs != model.fingerprint:
        raise BadValue(
            f"the atlas {atlas.name} is of {atlas.model} with other weights ({theirs[:19]}) than these of "
            f"{model.name} ({model.fingerprint[:19]}): give the model that it was built of"
        )


def firing(
    sites: Sequence[Site], found: Values, *, count: int, atlas: Atlas | None = None
) -> tuple[Firing, ...]:
    """The units of each site that stand out most, best first.

    With an atlas those with the highest percentile, of equal ones those that exceed their best exemplar most;
    without, those with the greatest height.
    """
    return tuple(one for site in sites for one in _of_site(site, found, count=count, atlas=atlas))


def _of_site(site: Site, found: Values, *, count: int, atlas: Atlas | None) -> list[Firing]:
    values = found[site.name][0, site.prefix_tokens :].numpy()
    usable = np.isfinite(values).all(axis=0)
    values = np.where(usable, values, 0.0)
    peaks, means = values.max(axis=0), values.mean(axis=0)
    apart = float((values - means)[:, usable].std()) if usable.any() else 0.0
    heights = (peaks - means) / (apart or 1.0)
    shares: Array | None = None
    if atlas is None:
        rank = heights
    else:
        shares, excess = against(atlas, site.name, peaks)
        usable &= np.isfinite(shares)
        rank = np.argsort(np.lexsort((excess, shares))).astype(np.float64)
    best = np.argsort(-np.where(usable, rank, -np.inf), kind="stable")[: min(count, int(usable.sum()))]
    grid = site.grid or (1, 1)
    chosen = []
    for unit in best.tolist():
        view = values[:, unit].reshape(grid)
        row, column = np.unravel_index(int(view.argmax()), grid)
        address = Address(site.name, unit)
        chosen.append(
            Firing(
                address=address,
                value=float(peaks[unit]),
                place=f"{row},{column}",
                view=view,
                height=float(heights[unit]),
                percentile=None if shares is None else float(shares[unit]),
                known=None if atlas is None else atlas[address],
            )
        )
    return chosen


def against(
    atlas: Atlas, site: str, peaks: Float[Array, " unit"]
) -> tuple[Float[Array, " unit"], Float[Array, " unit"]]:
    """Of every unit of a site the percentile of a value among its maxima in the atlas's images, and the value
    in units of the best of these; NaN for units that are dead or constant.

    Images in the value's own bin of the histogram count half; bins are up to 17 % wide.

    Raises:
        AtlasError: a leaf is not built yet, or damaged.
    """
    edges = np.array(atlas.manifest["histogram_edges"])
    shares: list[Array] = []
    excess: list[Array] = []
    start = 0
    leaves = next(entry.leaves for entry in atlas.sites if entry.name == site)
    for index in range(leaves):
        table = atlas.leaf(site, index).table
        counts = np.array(table["histogram"].to_pylist(), np.float64)
        total = counts.sum(axis=1)
        alive = np.array([status == "ok" for status in table["status"].to_pylist()]) & (total > 0)
        own = peaks[start : start + len(counts)]
        start += len(counts)
        bins = np.searchsorted(edges, own, side="right")
        rows = np.arange(len(counts))
        below = np.cumsum(counts, axis=1)[rows, bins] - counts[rows, bins] / 2
        highest = np.array([row or np.nan for row in table["maximum"].to_pylist()], np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares.append(np.where(alive, 100 * below / total, np.nan))
            excess.append(np.where(alive, own / highest, np.nan))
    return np.concatenate(shares), np.concatenate(excess)
