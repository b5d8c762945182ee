"""The pages about many units: home, a model, a site, its map, comparing, health. All of it only reads.

Each is a function of the library and of names from its path, which are looked up and never become paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitscope.address import Address
from vitscope.atlas.read import SiteEntry
from vitscope.errors import AtlasError, NotBuilt, UnknownName
from vitscope.heat import colour_scale
from vitscope.viewer.charts import depth_chart, family_of
from vitscope.viewer.facts import DAMAGED, WAITING, UnitFacts, commonest
from vitscope.viewer.library import Answer, Library, page, picture
from vitscope.viewer.likeness import layout
from vitscope.viewer.shelf import UNITS_PER_PAGE, Volume, made_from, plain

DREAMS_PER_ROW = 12
"""Dreams of a site on the page of its model: one row of a laptop's window."""
DREAMS_PER_SITE = 128
"""Dreams shown above the units of a site."""


def home(library: Library, path: str) -> Answer:
    """The atlases and how far each is built, and the results of studies."""
    faces = {volume.slug: _face(volume) for volume in library.shelf}
    return page(library, path, "home.html", volumes=list(library.shelf), faces=faces)


def _face(volume: Volume) -> tuple[str, int | None]:
    """Whose units stand for an atlas: the last site that has some which can be read, and its first."""
    for entry in reversed(volume.sites):
        if entry.finished and (first := volume.facts.units(entry).first) is not None:
            return entry.name, first
    return "", None


def model(library: Library, path: str, *, atlas: str) -> Answer:
    """One atlas: what it is of, how far it is built, its sites one after another."""
    volume = library.volume(atlas)
    entries = volume.sites
    known = {entry.name: volume.facts.units(entry) for entry in entries}
    groups: dict[str, list[tuple[SiteEntry, UnitFacts]]] = {}
    for entry in entries:
        groups.setdefault(family_of(entry.name), []).append((entry, known[entry.name]))
    return page(
        library,
        path,
        "model.html",
        volume=volume,
        entries=entries,
        groups=groups,
        known=known,
        charts=_charts(known),
        dreamt={name: _dreamt(name, facts)[:DREAMS_PER_ROW] for name, facts in known.items()},
        facts=made_from(volume.atlas.manifest),
    )


def _charts(known: Mapping[str, UnitFacts]) -> list[Any]:
    dead = {
        name: facts.statuses["dead"] / readable if (readable := _readable(facts)) else None
        for name, facts in known.items()
    }
    told = (
        ("dead units", dead, "share of units that never respond", True),
        ("sparsity", _medians(known, "sparsity"), "median unit; near 1 responds rarely", False),
        ("peak", _medians(known, "peak"), "largest activation of the median unit", False),
        ("trust", _medians(known, "trust"), "median dream over the best image, both augmented", False),
    )
    made = [depth_chart(name, values, meaning=text, per_cent=share) for name, values, text, share in told]
    return [chart for chart in made if chart is not None]


def _readable(facts: UnitFacts) -> int:
    return sum(count for status, count in facts.statuses.items() if status not in (WAITING, DAMAGED))


def _medians(known: Mapping[str, UnitFacts], number: str) -> dict[str, float | None]:
    return {name: facts.median(number) for name, facts in known.items()}


def _dreamt(site: str, facts: UnitFacts) -> list[Address]:
    return [Address(site, int(unit)) for unit in np.flatnonzero(facts.dreams)]


def site(library: Library, path: str, *, atlas: str, site: str, page_number: str) -> Answer:
    """256 units of a site, as pictures."""
    volume = library.volume(atlas)
    entry = volume.site(site)
    number = _page_number(entry, page_number)
    facts = volume.facts.units(entry)
    first = (number - 1) * UNITS_PER_PAGE
    statuses = facts.status[first : first + UNITS_PER_PAGE]
    trouble = ""
    try:
        volume.facts.leaf(entry.name, number - 1)
    except AtlasError as error:
        trouble = str(error)
    return page(
        library,
        path,
        "site.html",
        status=503 if trouble else 200,
        volume=volume,
        entry=entry,
        page=number,
        statuses=statuses,
        trouble=trouble,
        facts=facts,
        dreamt=_dreamt(entry.name, facts)[:DREAMS_PER_SITE] if number == 1 else [],
        first=first,
        others=_beside([one.name for one in volume.sites], entry.name),
    )


def _page_number(entry: SiteEntry, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 9 and 1 <= int(text) <= entry.leaves):
        raise UnknownName(f"{entry.name} has the pages 1 to {entry.leaves}.")
    return int(text)


def _beside(names: Sequence[str], name: str) -> tuple[str | None, str | None]:
    at = list(names).index(name)
    return (names[at - 1] if at else None), (names[at + 1] if at + 1 < len(names) else None)


def columns(library: Library, path: str, *, atlas: str, site: str) -> Answer:
    """Numbers of all units of a site, in columns, by which the grid is sorted and filtered."""
    del path
    volume = library.volume(atlas)
    entry = volume.site(site)
    facts = volume.facts.units(entry)
    exemplars = volume.facts.exemplars(entry)
    top, share = commonest(exemplars, entry.units)
    numbers = {**facts.numbers, "selectivity": share}
    document = {
        "atlas": volume.atlas.name,
        "site": entry.name,
        "units": entry.units,
        "status": facts.status,
        "dreams": facts.dreams.tolist(),
        **{name: _rounded(values) for name, values in numbers.items()},
        "classes": exemplars.classes,
        "class": top.tolist(),
        "labels": {str(unit): labels for unit, labels in enumerate(facts.labels) if labels},
    }
    return _json(document)


def _rounded(values: NDArray[np.float64]) -> list[float | None]:
    """Four digits; None where there is none. They sort the units, the units' pages have the exact ones."""
    return [float(f"{value:.4g}") if np.isfinite(value) else None for value in values.tolist()]


def _json(document: Any) -> Answer:
    text = json.dumps(plain(document), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return Answer(text.encode(), "application/json")


def leaf(library: Library, path: str, *, atlas: str, site: str, number: str) -> Answer:
    """What `vitscope show --json` prints, of 256 units."""
    del path
    volume = library.volume(atlas)
    entry = volume.site(site)
    index = _page_number(entry, number)
    units = range((index - 1) * UNITS_PER_PAGE, min(index * UNITS_PER_PAGE, entry.units))
    return _json([volume.atlas[Address(entry.name, unit)].describe() for unit in units])


def site_map(library: Library, path: str, *, atlas: str, site: str) -> Answer:
    """The units of a site laid out so that those which the same images excite are close."""
    volume = library.volume(atlas)
    entry = volume.site(site)
    matrix = volume.incidence(entry)
    order = np.lexsort(layout(matrix).T[::-1])
    facts = volume.facts.units(entry)
    return page(
        library,
        path,
        "map.html",
        volume=volume,
        entry=entry,
        order=order.tolist(),
        columns=int(np.ceil(np.sqrt(entry.units))),
        built=_readable(facts),
        others=_beside([one.name for one in volume.sites], entry.name),
    )


def compare(library: Library, path: str) -> Answer:
    """A page that puts two to four other pages side by side."""
    return page(library, path, "compare.html", volumes=list(library.shelf))


def health(library: Library, path: str, *, atlas: str) -> Answer:
    """What is missing, damaged or was skipped, and why."""
    volume = library.volume(atlas)
    known = {entry.name: (entry, volume.facts.units(entry)) for entry in volume.sites}
    return page(
        library,
        path,
        "health.html",
        volume=volume,
        known=known,
        odd={name: _odd(name, facts) for name, (_, facts) in known.items()},
        weak={name: np.flatnonzero(facts.weak).tolist() for name, (_, facts) in known.items()},
        runs=_runs(volume),
    )


def _odd(site: str, facts: UnitFacts) -> list[tuple[Address, str]]:
    """Units whose numbers were not all finite, or which never change."""
    usual = ("ok", "dead", WAITING, DAMAGED)
    return [(Address(site, at), status) for at, status in enumerate(facts.status) if status not in usual]


def _runs(volume: Volume) -> list[dict[str, Any]]:
    """The records of the runs that built it, newest first; one that cannot be read is left out."""
    found = []
    for path in sorted((volume.atlas.path / "runs").glob("*.json"), reverse=True):
        with suppress(OSError, ValueError):
            record = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(record, dict):
                found.append(record)
    return found


def sprite(library: Library, path: str, *, atlas: str, site: str, number: str) -> Answer:
    """The 16 x 16 tiles of one page of a site."""
    del path
    volume = library.volume(atlas)
    entry = volume.site(site)
    index = _page_number(entry, number)
    return picture(volume.atlas.sprite(entry.name, index - 1), volume.version)


def thumbnail(library: Library, path: str, *, atlas: str, image: str) -> Answer:
    """One image of the source, cropped as the model saw it."""
    del path
    volume = library.volume(atlas)
    return picture(volume.atlas.thumbnail(image), volume.version)


def sheet(library: Library, path: str, *, atlas: str, sheet_number: str) -> Answer:
    """The thumbnails of some images."""
    del path
    volume = library.volume(atlas)
    if volume.sheets is None or not (sheet_number.isascii() and sheet_number.isdigit()):
        raise UnknownName("There is no such sheet: every image is a file of its own here.")
    return picture(volume.sheets.sheet(volume.atlas, int(sheet_number[:12])), volume.version)


def scale(library: Library, path: str) -> Answer:
    """The legend of all heat maps."""
    del library, path
    return picture(colour_scale(), "1")


def trouble(library: Library, path: str, error: Exception) -> Answer:
    """What went wrong, as a page with links onward."""
    damaged = isinstance(error, AtlasError)
    reason = "Not built yet" if isinstance(error, NotBuilt) else "This part of the atlas cannot be read"
    parts = path.split("/")
    volume = library.shelf.get(parts[1]) if len(parts) > 1 and parts[0] == "a" else None
    return page(
        library,
        path,
        "trouble.html",
        status=503 if damaged else 404,
        title=reason if damaged else "Not found",
        message=str(error),
        volume=volume,
        volumes=list(library.shelf),
    )
