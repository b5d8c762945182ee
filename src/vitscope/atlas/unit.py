"""What an atlas knows of a unit, as frozen values."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8
from numpy.typing import NDArray

from vitscope.address import Address
from vitscope.atlas.leaf import AlikeRow, ExemplarRow, UnitRow
from vitscope.atlas.manifest import LEAF_UNITS
from vitscope.errors import AtlasError
from vitscope.heat import heat_map
from vitscope.notebook import Picture, card, cell, pictures, sentence

MOST_DREAMS, MOST_EXEMPLARS = 3, 9
"""Of a unit in a notebook; a page of the viewer shows all."""


@dataclass(frozen=True)
class SiteEntry:
    """One site of an atlas: how many leaves it has, and how many of them are finished."""

    name: str
    units: int
    grid: tuple[int, int] | None
    prefix_tokens: int
    leaves: int
    finished: int


@dataclass(frozen=True)
class Histogram:
    """How often a unit had which value. Between two edges lies one bin; the first and the last bin are open.

    `counts` has one entry more than `edges`: below the first edge, between each two, above the last.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Exemplar:
    """An image that excites a unit.

    Attributes:
        rank: 0 is the best.
        image: identity of its bytes, 32 hexadecimal digits; `Atlas.thumbnail` takes it.
        path: its name within the source.
        label: the name of its class, or its number where classes have no names, or None.
        value: the activation it is ranked by.
        place: where in the image, "row,column" or "cls"; "" where the site has no places.
        map: the activation at every place of the grid, 0 for `map_low` to 255 for `map_high`; None without a
            grid.
        map_low, map_high: activations at both ends of the map.
    """

    rank: int
    image: str
    path: str
    label: str | None
    value: float
    place: str
    map: UInt8[NDArray[np.uint8], "row column"] | None = field(repr=False, compare=False)
    map_low: float | None
    map_high: float | None


@dataclass(frozen=True)
class Alike:
    """A unit of the same site that is like another one.

    Attributes:
        unit: index at the site.
        value: how alike they are, above 0 to 1.
    """

    unit: int
    value: float


@dataclass(frozen=True)
class Sampled:
    """What a sample of the images says of a unit; see `vitscope.atlas.sample`.

    Attributes:
        middle: the images of the sample in which its maximum lies nearest its median over all images.
        random: images drawn by lot, the same for all units.
        alike: by measure the units most like it: "activation" (correlation of their means over the images of
            the sample), "weight" (cosine of their incoming weights, where the site is the output of a linear
            layer, as it is or after its activation function).
    """

    middle: tuple[Exemplar, ...] = ()
    random: tuple[Exemplar, ...] = ()
    alike: Mapping[str, tuple[Alike, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredDream:
    """A dream as an atlas keeps it; `image` is a WebP."""

    recipe: str
    seed: int
    score: float | None
    trust: dict[str, Any]
    status: str
    image: bytes = field(repr=False)


@dataclass(frozen=True)
class Unit:
    """Everything an atlas knows of one unit.

    Attributes:
        status: "ok", "dead" (all zero), "constant", "nan" or whatever `meters.moments` says.
        statistics: count, mean, variance, minimum, maximum, share of zeros, NaN and infinite counts.
        exemplars: ranked by the largest activation over places. None for a dead or constant unit.
        by_mean: ranked by the mean over places, as Ghiasi et al. 2022 do.
        sampled: images from its middle and random ones, units that are alike; None in an atlas that an older
            vitscope built: the same build again adds them.
        thumbnail: from the identity of an exemplar's image to its picture, as `Atlas.thumbnail`.
    """

    address: Address
    status: str
    statistics: dict[str, float | int | None]
    histogram: Histogram
    exemplars: tuple[Exemplar, ...]
    by_mean: tuple[Exemplar, ...]
    dreams: tuple[StoredDream, ...]
    labels: tuple[str, ...] = ()
    sampled: Sampled | None = None
    thumbnail: Callable[[str], bytes] | None = field(default=None, repr=False, compare=False)

    def describe(self) -> dict[str, Any]:
        """The JSON of `vitscope show`; numbers that are not finite are null."""
        return {
            "address": str(self.address),
            "status": self.status,
            "statistics": {name: _finite(value) for name, value in self.statistics.items()},
            "exemplars": list(map(_described, self.exemplars)),
            "sampled": None
            if self.sampled is None
            else {
                "middle": list(map(_described, self.sampled.middle)),
                "random": list(map(_described, self.sampled.random)),
                "alike": {
                    measure: [asdict(other) for other in others]
                    for measure, others in self.sampled.alike.items()
                },
            },
            "dreams": [
                {
                    "recipe": d.recipe,
                    "seed": d.seed,
                    "score": _finite(d.score),
                    "trust": d.trust,
                    "status": d.status,
                }
                for d in self.dreams
            ],
        }

    def _repr_html_(self) -> str:
        statistics = sentence(self.statistics)
        shown = [*self._dreams_shown(), *self._exemplars_shown()]
        return card(f"{self.address}: {self.status}", pictures(shown), statistics)

    def _dreams_shown(self) -> Iterator[Picture]:
        for dream in self.dreams[:MOST_DREAMS]:
            begun = "begun at its best image" if dream.trust.get("second_start") else ""
            told = f"dream by {dream.recipe}", f"score {cell(dream.score)}", f"seed {dream.seed}", begun
            yield Picture(dream.image, f"A picture synthesised to excite {self.address}", 224, told)

    def _exemplars_shown(self) -> Iterator[Picture]:
        """The exemplars under their patch maps, in colours that all share; those whose picture is there."""
        if self.thumbnail is None:
            return
        maps = [exemplar for exemplar in self.exemplars if exemplar.map is not None]
        spans = [(each.map_low or 0.0, each.map_high or 0.0) for each in maps]
        for each in self.exemplars[:MOST_EXEMPLARS]:
            own = (each.map_low or 0.0, each.map_high or 0.0)
            heat = None if each.map is None else heat_map(each.map, [own, *spans])
            told = f"{cell(each.value)}{each.place and f' @{each.place}'}", each.label or "", each.path
            with suppress(AtlasError):
                yield Picture(self.thumbnail(each.image), f"exemplar {each.rank + 1}", 112, told, heat)


@dataclass(frozen=True)
class Leaf:
    """256 units of one site, as read from the disk; `samples` are the two tables of a sample."""

    site: str
    index: int
    table: pa.Table = field(repr=False)
    exemplars: pa.Table = field(repr=False)
    samples: tuple[pa.Table, pa.Table] | None = field(default=None, repr=False)

    @cached_property
    def units(self) -> tuple[UnitRow, ...]:
        """Statistics of each unit, in order."""
        return tuple(UnitRow.from_record(record) for record in self.table.to_pylist())

    def row(self, unit: int) -> UnitRow:
        """The statistics of one unit, without making rows of the others."""
        found = self.table.slice(unit - self.index * LEAF_UNITS, 1).to_pylist()
        if not found or found[0]["unit"] != unit:
            raise AtlasError(f"{self.site}:{unit} is damaged: leaf {self.index:04d} does not hold it")
        return UnitRow.from_record(found[0])


def exemplar_of(row: ExemplarRow, grid: tuple[int, int] | None) -> Exemplar:
    """An exemplar from its row; `AtlasError` where its map does not fit the grid."""
    picture = None
    if row.map is not None and grid is not None:
        if len(row.map) != grid[0] * grid[1]:
            raise AtlasError(
                f"unit {row.unit} is damaged: a map of {len(row.map)} places for a grid of {grid}"
            )
        picture = np.frombuffer(row.map, np.uint8).reshape(grid)
    return Exemplar(
        row.rank, row.image, row.path, row.label, row.value, row.place, picture, row.map_low, row.map_high
    )


def sampled_of(
    images: Iterable[ExemplarRow], alike: Iterable[AlikeRow], grid: tuple[int, int] | None
) -> Sampled:
    """What a sample says of a unit, from its rows."""
    shown: dict[str, list[Exemplar]] = {"middle": [], "random": []}
    for row in images:
        if row.ranking in shown:
            shown[row.ranking].append(exemplar_of(row, grid))
    likes: dict[str, list[Alike]] = {}
    for one in alike:
        likes.setdefault(one.measure, []).append(Alike(one.other, one.value))
    middle, random = (tuple(found) for found in shown.values())
    return Sampled(middle, random, {measure: tuple(found) for measure, found in likes.items()})


def statistics_of(row: UnitRow) -> dict[str, float | int | None]:
    """The numbers of a row, by name."""
    names = ("count", "mean", "variance", "minimum", "maximum", "zeros", "nan", "inf")
    facts = asdict(row)
    return {name: facts[name] for name in names}


def _described(exemplar: Exemplar) -> dict[str, Any]:
    facts = {name: getattr(exemplar, name) for name in ("rank", "image", "path", "value", "place")}
    return {**facts, "value": _finite(exemplar.value)}


def _finite(value: float | int | None) -> float | int | None:
    return value if value is not None and math.isfinite(value) else None
