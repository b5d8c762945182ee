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
from vitscope.viewer.kept import kept_dreams
from vitscope.viewer.library import Answer, Library, page
from vitscope.viewer.likeness import alike
from vitscope.viewer.pictures import histogram_chart, media_type
from vitscope.viewer.shelf import Volume, made_from

LIKE_SHOWN = 8
"""Units shown as being like this one."""
FINEST = 32
"""Rows and columns of a heat map within a page; finer ones show the maximum of each block."""
TRUST = {
    "best": "the best image by mean, the same measure as the dream's score",
    "robust": "its mean response to copies that were moved, scaled and recoloured",
    "start": "the response to what it was made from",
    "second_start": "the best image beat a first dream, so another began from it; yes if this is that one",
    "retried": "a first try left the finite numbers",
    "seeds": "how many seeds were dreamt; the most robust dream is shown",
    "spread": "standard deviation of the robust response over these seeds, relative to its mean",
    "natural_ratio": "the response to the dream, in units of that",
    "natural_percentile": "the share of images that the dream beats",
    "natural_robust": "the mean response to that image under the changes that gave `robust`",
    "path": "its way through earlier blocks: 0 like that of unrelated images, 1 like that of its best",
    "total_variation": "how rough the picture is",
    "high_frequency": "the share of its power above a quarter of the finest frequency",
    "narrow_from": "the step from which it was computed in bfloat16, its gradient agreeing with float32",
}
"""What the figures of trust of a dream mean."""
UNTOLD = ("status", "path_by_site", "natural_best")
"""Of the trust of a dream what is no figure for a page, or stands there already: the best image."""


@dataclass(frozen=True)
class Kind:
    """A choice of images: its name in addresses and on its tab, the title above them, and what it means."""

    by: str
    name: str
    title: str
    meaning: str


BEST = "Images that excite it most"
KINDS = {
    kind.by: kind
    for kind in (
        Kind("max", "maximum", BEST, "ranked by the one place that responds most"),
        Kind("mean", "mean", BEST, "ranked by the average over all places"),
        Kind(
            "middle",
            "middle",
            "Images from its middle",
            "of a sample those nearest the unit's median: half of all images excite it more",
        ),
        Kind("random", "random", "Random images", "drawn by lot, the same for every unit"),
    )
}
"""The images as the page shows them; the first is shown first."""
MEASURES = {
    "activation": "correlation of their means over the images of a sample",
    "weight": "cosine of the weights by which they are fed",
    "exemplars": "best images that both have, of those of either",
}
"""How units are alike, and what the figure is."""


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
class Likeness:
    """The units that are like this one by one measure: their numbers and how alike they are."""

    measure: str
    meaning: str
    units: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Ranking:
    """The images of one kind, and the values at both ends of their colours."""

    kind: Kind
    shown: Sequence[Shown]
    span: tuple[float, float]


def unit(library: Library, path: str, *, atlas: str, site: str, unit: str) -> Answer:
    """One unit: its dreams, its exemplars with their patch maps, its histogram and statistics."""
    volume = library.volume(atlas)
    entry = volume.site(site)
    if not (unit.isascii() and unit.isdigit()):
        raise UnknownAddress(f"{unit[:80]!r} is no unit of {entry.name}: it has 0 to {entry.units - 1}")
    found = volume.atlas[Address(entry.name, int(unit[:12]))]
    kept = kept_dreams(volume.atlas, found.address)
    return page(
        library,
        path,
        "unit.html",
        volume=volume,
        unit=found,
        address=found.address,
        entry=entry,
        dreams=[(dream, _data(dream.image)) for dream in found.dreams],
        kept=[(dream, _data(dream.image)) for dream in kept],
        trust=_side_by_side([*found.dreams, *kept]),
        rankings=_rankings(found),
        classes=_classes(found.exemplars),
        chart=histogram_chart(
            found.histogram.edges,
            found.histogram.counts,
            marks=[exemplar.value for exemplar in found.exemplars],
            dream=_best(found.dreams or kept),
        ),
        likenesses=_likenesses(volume, entry, found),
        beside=volume.atlas.neighbours(found.address),
        meanings=TRUST,
        facts=made_from(volume.atlas.manifest),
        citation=_citation(volume, found),
    )


def _rankings(found: Unit) -> list[Ranking]:
    """The best images, and where the atlas has a sample those from the middle and random ones.

    The latter have the colours of the best, or a weak response would look like a strong one.
    """
    best = _spans(found.exemplars)
    made = [_ranking("max", found.exemplars, []), _ranking("mean", found.by_mean, [])]
    if found.sampled is not None and found.sampled.middle:
        made.append(_ranking("middle", found.sampled.middle, best))
        made.append(_ranking("random", found.sampled.random, best))
    return made


def _ranking(by: str, exemplars: Sequence[Exemplar], beside: Sequence[tuple[float, float]]) -> Ranking:
    spans = [*_spans(exemplars), *beside]
    return Ranking(KINDS[by], [_shown(exemplar, spans) for exemplar in exemplars], shared_span(spans))


def _spans(exemplars: Sequence[Exemplar]) -> list[tuple[float, float]]:
    return [(e.map_low or 0.0, e.map_high or 0.0) for e in exemplars if e.map is not None]


def _side_by_side(dreams: Sequence[StoredDream]) -> dict[str, list[Any]]:
    """Figures of trust by name, a value for each dream; those that none has are left out."""
    told = [
        {name: value for name, value in dream.trust.items() if _is_figure(name, value)} for dream in dreams
    ]
    names = [
        name
        for name in dict.fromkeys([*TRUST, *(name for one in told for name in one)])
        if any(name in one for one in told)
    ]
    return {name: [one.get(name) for one in told] for name in names}


def _is_figure(name: str, value: object) -> bool:
    return name not in UNTOLD and isinstance(value, (int, float)) and value is not False


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


def _likenesses(volume: Volume, entry: SiteEntry, found: Unit) -> list[Likeness]:
    """Units of the same site that are like this one, by each measure by which some are."""
    told: dict[str, list[tuple[int, float]]] = {}
    if found.sampled is not None:
        for measure, others in found.sampled.alike.items():
            told[measure] = [(other.unit, other.value) for other in others]
    if found.exemplars:
        likes = alike(volume.incidence(entry), found.address.unit or 0, count=LIKE_SHOWN)
        told["exemplars"] = [(like.unit, like.overlap) for like in likes]
    return [Likeness(name, text, told[name]) for name, text in MEASURES.items() if told.get(name)]


def _citation(volume: Volume, found: Unit) -> str:
    """One line that says where this was seen, so that others can find it."""
    made = volume.atlas.manifest["provenance"]
    told = [
        f"Unit {found.address} of {made['model']} (weights {made['weights'][:19]})",
        f"over {volume.images:,} images of {volume.atlas.source} ({(made['source'] or '')[:19]})",
        f"atlas {volume.atlas.name} by vitscope {made['versions'].get('vitscope', '')}".strip(),
    ]
    return ", ".join(told) + "."
