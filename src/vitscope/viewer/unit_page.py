"""The page of one unit: its dreams, the images that excite it, its numbers, the units that are like it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from vitscope.address import Address
from vitscope.atlas.read import Exemplar, SiteEntry, StoredDream, Unit
from vitscope.errors import AtlasError, UnknownAddress
from vitscope.heat import heat_map, shared_span
from vitscope.viewer.library import Answer, Library, page
from vitscope.viewer.likeness import Like, alike
from vitscope.viewer.pictures import histogram_chart, media_type
from vitscope.viewer.shelf import Volume, made_from

LIKE_SHOWN = 8
"""Units shown as being like this one."""
FINEST = 32
"""Rows and columns of a heat map within a page; finer ones show the maximum of each block."""
TRUST = {
    "robust": "its mean response to copies that were moved, scaled and recoloured",
    "start": "the response to the noise it was made from",
    "retried": "a first try left the finite numbers",
    "seeds": "how many seeds were dreamt; the most robust dream is shown",
    "spread": "standard deviation of the robust response over these seeds, relative to its mean",
    "natural_best": "the mean response to the image that excites this unit most",
    "natural_ratio": "the response to the dream, in units of that",
    "natural_percentile": "the share of images that the dream beats",
    "natural_robust": "the mean response to that image under the changes that gave `robust`",
    "path": "its way through earlier blocks: 0 like that of unrelated images, 1 like that of its best",
    "total_variation": "how rough the picture is",
    "high_frequency": "the share of its power above a quarter of the finest frequency",
    "narrow_from": "the step from which it was computed in bfloat16, its gradient agreeing with float32",
}
"""What the figures of trust of a dream mean."""
RANKINGS = {"max": "maximum", "mean": "mean"}
"""The two rankings as the page names them; the first is shown first."""


@dataclass(frozen=True)
class Shown:
    """An exemplar as the page shows it.

    Attributes:
        exemplar: what the atlas knows.
        heat: its patch map as a `data:` address, or "".
        row, column: where in the grid its largest value is; None where there is no such place.
    """

    exemplar: Exemplar
    heat: str
    row: int | None
    column: int | None


@dataclass(frozen=True)
class Ranking:
    """The exemplars by one ranking, and the values at both ends of their colours."""

    by: str
    name: str
    shown: Sequence[Shown]
    span: tuple[float, float]


def unit(library: Library, path: str, *, atlas: str, site: str, unit: str) -> Answer:
    """One unit: its dreams, its exemplars with their patch maps, its histogram and statistics."""
    volume = library.volume(atlas)
    entry = volume.site(site)
    if not (unit.isascii() and unit.isdigit()):
        raise UnknownAddress(f"{unit[:80]!r} is no unit of {entry.name}: it has 0 to {entry.units - 1}")
    found = volume.atlas[Address(entry.name, int(unit[:12]))]
    return page(
        library,
        path,
        "unit.html",
        volume=volume,
        unit=found,
        address=found.address,
        entry=entry,
        dreams=[(dream, _data(dream.image)) for dream in found.dreams],
        rankings=[_ranking("max", found.exemplars), _ranking("mean", found.by_mean)],
        classes=_classes(found.exemplars),
        chart=histogram_chart(
            found.histogram.edges,
            found.histogram.counts,
            marks=[exemplar.value for exemplar in found.exemplars],
            dream=_best(found.dreams),
        ),
        like=_alike(volume, entry, found),
        beside=volume.atlas.neighbours(found.address),
        meanings=TRUST,
        facts=made_from(volume.atlas.manifest),
        citation=_citation(volume, found),
    )


def _ranking(by: str, exemplars: Sequence[Exemplar]) -> Ranking:
    spans = [(e.map_low or 0.0, e.map_high or 0.0) for e in exemplars if e.map is not None]
    return Ranking(by, RANKINGS[by], [_shown(exemplar, spans) for exemplar in exemplars], shared_span(spans))


def _shown(exemplar: Exemplar, spans: Sequence[tuple[float, float]]) -> Shown:
    row, _, column = exemplar.place.partition(",")
    at = (int(row), int(column)) if row.isdigit() and column.isdigit() else (None, None)
    if exemplar.map is None:
        return Shown(exemplar, "", *at)
    own = (exemplar.map_low or 0.0, exemplar.map_high or 0.0)
    return Shown(exemplar, _data(heat_map(_coarse(exemplar.map), [own, *spans])), *at)


def _coarse(levels: UInt8[np.ndarray[Any, Any], "row column"]) -> UInt8[np.ndarray[Any, Any], "row column"]:
    """The map, or the maxima of its blocks where it is finer than a page needs."""
    step = -(-max(levels.shape) // FINEST)
    if step == 1:
        return levels
    rows, columns = (range(0, size, step) for size in levels.shape)
    blocks = np.maximum.reduceat(np.maximum.reduceat(levels, rows, axis=0), columns, axis=1)
    coarse: UInt8[np.ndarray[Any, Any], "row column"] = blocks
    return coarse


def _data(content: bytes) -> str:
    """A picture inside the page, so that a site with 40,000 units has one file for each and not twenty."""
    kind = media_type(content)
    if kind is None:
        raise AtlasError("the atlas holds something here that is not an image; it is not served")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _classes(exemplars: Sequence[Exemplar]) -> list[tuple[str, int, float]]:
    """The classes of the best images: name, how many, and their share of all that have a class."""
    counted = Counter(exemplar.label for exemplar in exemplars if exemplar.label)
    return [(name, count, count / counted.total()) for name, count in counted.most_common()]


def _best(dreams: Sequence[StoredDream]) -> float | None:
    return max((dream.score for dream in dreams if dream.score is not None), default=None)


def _alike(volume: Volume, entry: SiteEntry, found: Unit) -> list[Like]:
    """Units of the same site that the same images excite."""
    if not found.exemplars:
        return []
    return alike(volume.incidence(entry), found.address.unit or 0, count=LIKE_SHOWN)


def _citation(volume: Volume, found: Unit) -> str:
    """One line that says where this was seen, so that others can find it."""
    made = volume.atlas.manifest["provenance"]
    told = [
        f"Unit {found.address} of {made['model']} (weights {made['weights'][:19]})",
        f"over {volume.images:,} images of {volume.atlas.source} ({(made['source'] or '')[:19]})",
        f"atlas {volume.atlas.name} by vitscope {made['versions'].get('vitscope', '')}".strip(),
    ]
    return ", ".join(told) + "."
