"""From what the meters found to the rows of a leaf, and the choice of units to dream of. No disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from vitscope.atlas.leaf import DreamRow, ExemplarRow, UnitRow, digest
from vitscope.atlas.manifest import SiteLayout
from vitscope.meters.moments import SiteMoments
from vitscope.meters.topk import Exemplar, Exemplars

Ranking = Literal["maximum", "mean"]
RANKINGS: tuple[Ranking, ...] = ("maximum", "mean")
"""Both rankings of an atlas; the first is shown first."""
SHOWN = ("ok", "nan")
"""Statuses of units that have exemplars. Those of a dead or constant unit would be arbitrary."""

Images = Mapping[str, tuple[str, str | None]]
"""Identity of an image -> its path and the name of its class."""


def unit_row(moments: SiteMoments, unit: int, *, dreams: tuple[DreamRow, ...] = ()) -> UnitRow:
    """The statistics of one unit as a row."""
    found = moments.of(unit)
    return UnitRow(
        unit=unit,
        status=found.status,
        count=found.count,
        mean=found.mean,
        variance=found.variance,
        minimum=found.minimum,
        maximum=found.maximum,
        zeros=found.zeros,
        nan=found.nan,
        inf=found.infinite,
        histogram=found.histogram,
        dreams=dreams,
    )


def ranked_rows(
    site: SiteLayout, unit: int, found: Mapping[str, Exemplars], images: Images
) -> Iterator[ExemplarRow]:
    """The images of one unit, ranking by ranking, best first."""
    for ranking, exemplars in found.items():
        for rank, exemplar in enumerate(exemplars.of(unit)):
            yield _exemplar_row(site, unit, ranking, rank, exemplar, images)


def _exemplar_row(
    site: SiteLayout, unit: int, ranking: str, rank: int, exemplar: Exemplar, images: Images
) -> ExemplarRow:
    path, label = images[exemplar.image]
    gridded = site.grid is not None
    return ExemplarRow(
        unit=unit,
        ranking=ranking,
        rank=rank,
        image=exemplar.image,
        path=path,
        label=label,
        value=exemplar.value,
        place=site.place_name(exemplar.place),
        map_low=exemplar.low if gridded else None,
        map_high=exemplar.high if gridded else None,
        map=exemplar.patch_map.tobytes() if gridded else None,
    )


def pack(
    dreams: Mapping[int, Sequence[tuple[Mapping[str, str], bytes]]],
) -> tuple[bytes, dict[int, tuple[DreamRow, ...]]]:
    """The pack of a leaf, and the rows that point into it.

    Args:
        dreams: unit -> its dreams, each as facts (JSON text under "dream") and a WebP.
    """
    content = b""
    rows: dict[int, tuple[DreamRow, ...]] = {}
    for unit, found in sorted(dreams.items()):
        made = []
        for facts, picture in found:
            made.append(
                DreamRow(
                    **json.loads(facts["dream"]),
                    offset=len(content),
                    size=len(picture),
                    sha256=digest(picture),
                )
            )
            content += picture
        rows[unit] = tuple(made)
    return content, rows


def chosen(site: str, statuses: Sequence[str], *, count: int | Literal["all"], seed: int) -> list[int]:
    """The units of a site to dream of, in order: `count` of those with status "ok", or all of these.

    The live units are cut into `count` runs of equal length and a hash of seed, site and run picks one of
    each, so the choice is spread over the site, is the same on every machine, and differs between seeds.
    """
    live = [unit for unit, status in enumerate(statuses) if status == "ok"]
    if count == "all" or count >= len(live):
        return live
    runs = np.array_split(np.array(live, dtype=np.int64), count) if count else []
    return [int(run[_draw(f"{seed}:{site}:{number}", len(run))]) for number, run in enumerate(runs)]


def _draw(key: str, choices: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % choices
