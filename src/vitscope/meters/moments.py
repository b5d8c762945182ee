"""Statistics of every unit over all places of all images: mean, variance, extremes, zeros, histogram, status.

Means and sums of squared deviations are kept in float64 and combined by the formula of Chan, Golub and
LeVeque (1979, "Updating formulae and a pairwise algorithm for computing sample variances"), which does not
cancel as a difference of large sums does. The histogram counts each image's maximum, the value by which
exemplars are ranked, so that exemplars lie on its axis; putting every place into a bin would take about as
long as the forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading, Reduced
from vitscope.models.vision_model import Site, Sites

BINS = 128
"""Bins between the outermost edges: far out each is 17 % wider than the last; an FFN unit fills about ten."""


def _edges() -> Float[Array, " edge"]:
    """Even steps of asinh(value / 0.1) from -1000 to 1000: linear near zero, logarithmic far out.

    Rounded to six digits, so that they are the same numbers on every machine.
    """
    steps = np.linspace(-1.0, 1.0, BINS + 1) * math.asinh(1000 / 0.1)
    return np.array([float(f"{0.1 * math.sinh(step):.6g}") for step in steps])


EDGES = _edges()
"""Fixed before any pass, so that histograms add up; the first bin lies below them, the last at or above."""


_STEP = 2 * math.asinh(1000 / 0.1) / BINS
_PADDED = np.array([-np.inf, *EDGES, np.inf])
_ONE = np.int32(1)


def _bins(values: Float[Array, "*image unit"]) -> Int[Array, "*image unit"]:
    """The bin of each value: `np.searchsorted(EDGES, values, side="right")` below infinity, but faster."""
    wide = values.astype(np.float64)
    guess = np.clip(np.floor(np.arcsinh(wide * 10) / _STEP), -BINS // 2 - 1, BINS // 2).astype(np.int64)
    guess += BINS // 2 + 1
    return guess + (wide >= _PADDED[guess + 1]) - (wide < _PADDED[guess])


@dataclass(frozen=True)
class UnitMoments:
    """The statistics of one unit; None where no finite value was seen.

    Attributes:
        status: "ok", "dead" (always zero), "constant" (always the same value) or "nan" (NaN was seen, or
            nothing finite was).
        count: finite values seen, over images and places.
        mean, variance: of these values (the variance divides by `count`).
        minimum, maximum: of these values.
        zeros: the share of these values that are exactly zero, 0 to 1.
        nan, infinite: values left out because they were not finite.
        histogram: images by the unit's maximum in them: below the first edge, between edges, above.
        edges: of the histogram; one fewer than it has bins.
    """

    status: str
    count: int
    mean: float | None
    variance: float | None
    minimum: float | None
    maximum: float | None
    zeros: float | None
    nan: int
    infinite: int
    histogram: tuple[int, ...]
    edges: tuple[float, ...]


@dataclass(frozen=True)
class SiteMoments:
    """The statistics of a site's units, as arrays; fields as in `UnitMoments`, NaN for None."""

    site: str
    status: Array
    count: Int[Array, " unit"]
    mean: Float[Array, " unit"]
    variance: Float[Array, " unit"]
    minimum: Float[Array, " unit"]
    maximum: Float[Array, " unit"]
    zeros: Float[Array, " unit"]
    nan: Int[Array, " unit"]
    infinite: Int[Array, " unit"]
    histogram: Int[Array, "unit bin"]
    edges: Float[Array, " edge"]

    def __len__(self) -> int:
        return len(self.count)

    def of(self, unit: int) -> UnitMoments:
        """The statistics of one unit, as plain numbers."""

        def number(value: Any) -> float | None:
            return float(value) if np.isfinite(value) else None

        return UnitMoments(
            status=str(self.status[unit]),
            count=int(self.count[unit]),
            mean=number(self.mean[unit]),
            variance=number(self.variance[unit]),
            minimum=number(self.minimum[unit]),
            maximum=number(self.maximum[unit]),
            zeros=number(self.zeros[unit]),
            nan=int(self.nan[unit]),
            infinite=int(self.infinite[unit]),
            histogram=tuple(self.histogram[unit].tolist()),
            edges=tuple(self.edges.tolist()),
        )


@dataclass(frozen=True)
class Moments:
    """Count, mean, variance, extremes, share of zeros, NaN and infinity counts, and a histogram, per unit.

    >>> found = scan(model, source, [Moments("blocks.*.ffn")])  # doctest: +SKIP
    >>> found["moments"]["blocks.5.ffn"].of(40).mean            # doctest: +SKIP

    Args:
        pattern: which sites, as `model.sites(pattern)` reads it.
        prefix_included: prefix tokens count among the places; by default only those that lie on the image do.
    """

    pattern: str = "blocks.*.ffn"
    prefix_included: bool = False
    name = "moments"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match the pattern."""
        return sites(self.pattern)

    def start(self, sites: Sequence[Site]) -> MomentsState:
        """A state that has seen nothing."""
        return MomentsState(self, {site.name: site for site in sites}, {})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> MomentsState:
        """The state that `MomentsState.arrays` described.

        Raises:
            BadValue: the histograms were counted between other edges.
        """
        if "edges" in arrays and not np.array_equal(arrays["edges"], EDGES):
            raise BadValue(f"a histogram of {len(arrays['edges'])} other edges cannot be added to this one")
        state = self.start(sites)
        for name in state.sites:
            if f"{name}/count" in arrays:
                state.sums[name] = _Sums(**{what: arrays[f"{name}/{what}"].copy() for what in _FIELDS})
        return state


@dataclass
class _Sums:
    """What is kept for one site."""

    count: Int[Array, " unit"]
    mean: Float[Array, " unit"]
    spread: Float[Array, " unit"]
    low: Float[Array, " unit"]
    high: Float[Array, " unit"]
    zeros: Int[Array, " unit"]
    nan: Int[Array, " unit"]
    infinite: Int[Array, " unit"]
    histogram: Int[Array, "unit bin"]

    @classmethod
    def empty(cls, units: int) -> _Sums:
        return cls(
            count=np.zeros(units, np.int64),
            mean=np.zeros(units),
            spread=np.zeros(units),
            low=np.full(units, np.inf, np.float32),
            high=np.full(units, -np.inf, np.float32),
            zeros=np.zeros(units, np.int64),
            nan=np.zeros(units, np.int64),
            infinite=np.zeros(units, np.int64),
            histogram=np.zeros((units, BINS + 2), np.int32),
        )

    def add(self, found: Reduced) -> None:
        """Take in a batch, in place; image by image where rounding would show how it was batched."""
        images, units = found.count.shape
        for image in range(images):
            here, there = self.count.astype(np.float64), found.count[image].astype(np.float64)
            mean = found.mean[image] if found.count[image].all() else np.nan_to_num(found.mean[image])
            self.count += found.count[image]
            some = np.maximum(self.count, 1)
            self.spread += found.spread[image] + here * there / some * (self.mean - mean) ** 2
            self.mean = (here * self.mean + there * mean) / some
        np.minimum(self.low, found.low.min(axis=0), out=self.low)
        np.maximum(self.high, found.high.max(axis=0), out=self.high)
        self.zeros += found.zeros.sum(axis=0)
        self.nan += found.nan.sum(axis=0)
        self.infinite += found.infinite.sum(axis=0)
        cells = _bins(found.high) + np.arange(units) * (BINS + 2)
        np.add.at(self.histogram.reshape(-1), cells[found.count > 0], _ONE)

    def plus(self, other: _Sums) -> _Sums:
        """Both together (Chan et al. 1979, eq. 2.1); symmetric in its two sides to the last bit."""
        count = self.count + other.count
        some = np.maximum(count, 1)
        here, there = self.count.astype(np.float64), other.count.astype(np.float64)
        return _Sums(
            count,
            (here * self.mean + there * other.mean) / some,
            self.spread + other.spread + here * there / some * (self.mean - other.mean) ** 2,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
            self.zeros + other.zeros,
            self.nan + other.nan,
            self.infinite + other.infinite,
            self.histogram + other.histogram,
        )


_FIELDS = tuple(_Sums.__dataclass_fields__)


class MomentsState:
    """The sums so far, per site. Its size does not depend on how many images it has seen."""

    def __init__(self, meter: Moments, sites: Mapping[str, Site], sums: dict[str, _Sums]) -> None:
        self.meter, self.sites, self.sums = meter, sites, sums

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site. Batches of any size give the same sums to the last bit."""
        sums = self.sums.get(reading.site.name)
        if sums is None:
            sums = self.sums[reading.site.name] = _Sums.empty(reading.units)
        sums.add(reading.reduced(prefix_included=self.meter.prefix_included))

    def merge(self, other: MomentsState) -> MomentsState:
        """What both have seen."""
        both = dict(self.sums)
        for name, sums in other.sums.items():
            both[name] = both[name].plus(sums) if name in both else sums
        return MomentsState(self.meter, self.sites, both)

    def arrays(self) -> Arrays:
        """Everything, as "<site>/<what>", and the edges."""
        found: Arrays = {"edges": EDGES}
        for name, sums in self.sums.items():
            found |= {f"{name}/{what}": getattr(sums, what) for what in _FIELDS}
        return found

    def result(self) -> dict[str, SiteMoments]:
        """The statistics, by site."""
        return {name: _finished(name, sums) for name, sums in self.sums.items()}


def _finished(site: str, sums: _Sums) -> SiteMoments:
    seen = sums.count > 0
    some = np.maximum(sums.count, 1)
    same = seen & (sums.low == sums.high)
    status = np.full(len(seen), "ok", dtype="<U8")
    status[same & (sums.count > 1)] = "constant"
    status[same & (sums.high == 0)] = "dead"
    status[(sums.nan > 0) | ~seen] = "nan"
    return SiteMoments(
        site=site,
        status=status,
        count=sums.count,
        mean=np.where(seen, sums.mean, np.nan),
        variance=np.where(seen, sums.spread / some, np.nan),
        minimum=np.where(seen, sums.low, np.nan),
        maximum=np.where(seen, sums.high, np.nan),
        zeros=np.where(seen, sums.zeros / some, np.nan),
        nan=sums.nan,
        infinite=sums.infinite,
        histogram=sums.histogram,
        edges=EDGES,
    )
