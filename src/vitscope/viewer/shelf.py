"""The atlases that a viewer shows: looked up by name, never by path, with the links between their pages."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import quote

import pyarrow.compute as pc

from vitscope.address import Address
from vitscope.atlas.read import Atlas, SiteEntry
from vitscope.atlas.store import ABSENT
from vitscope.errors import AtlasError, UnknownSite, suggestion

UNITS_PER_PAGE = 256
"""A page of a site is one leaf of the atlas, and one sprite of 16 x 16 tiles."""


@dataclass(frozen=True)
class Census:
    """How the units of one site are.

    Attributes:
        statuses: "ok", "dead", "constant", ... -> number of units.
        damaged: leaves that were written but cannot be read.
        waiting: leaves that are not built yet.
    """

    statuses: Mapping[str, int]
    damaged: int
    waiting: int

    @property
    def units(self) -> int:
        """Units that can be read."""
        return sum(self.statuses.values())

    @property
    def dead(self) -> float:
        """Share of the readable units that never respond, 0 to 1."""
        return self.statuses.get("dead", 0) / max(1, self.units)


@dataclass
class Volume:
    """One atlas with the name it has in addresses of pages."""

    slug: str
    atlas: Atlas
    _statuses: dict[tuple[str, int], Counter[str]] = field(default_factory=dict)
    _dreamt: dict[tuple[str, int], tuple[Address, ...]] = field(default_factory=dict)

    @cached_property
    def version(self) -> str:
        """Changes whenever the atlas is made otherwise, so that browsers may keep pictures for ever."""
        text = json.dumps(self.atlas.manifest, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def aspect(self) -> float:
        """Height over width of what the model was shown, and so of thumbnails and dreams."""
        rows, columns = self.atlas.manifest["provenance"]["preprocessing"].get("size", (1, 1))
        return float(rows / columns)

    def site(self, name: str) -> SiteEntry:
        """The entry of a site.

        Raises:
            UnknownSite: the atlas does not hold it; the message names the nearest.
        """
        for entry in self.atlas.sites:
            if entry.name == name:
                return entry
        known = [entry.name for entry in self.atlas.sites]
        raise UnknownSite(
            f"no site {name!r} in {self.atlas.name} ({len(known)} sites).{suggestion(name, known)}"
        )

    def census(self, entry: SiteEntry) -> Census:
        """Count the units of a site by status; leaves that cannot be read are counted, not raised."""
        statuses: Counter[str] = Counter()
        faults: list[str] = []
        for leaf in range(entry.leaves):
            try:
                statuses.update(self._counted(entry.name, leaf))
            except AtlasError as error:
                faults.append(str(error))
        waiting = sum(ABSENT in fault for fault in faults)
        return Census(statuses, len(faults) - waiting, waiting)

    def _counted(self, site: str, leaf: int) -> Counter[str]:
        """Statuses in one leaf. A leaf never changes, so it is read once."""
        if (site, leaf) not in self._statuses:
            self._statuses[site, leaf] = Counter(self.atlas.leaf(site, leaf).table["status"].to_pylist())
        return self._statuses[site, leaf]

    def dreamt(self, entry: SiteEntry) -> list[Address]:
        """The units of a site that have dreams, as far as its leaves can be read."""
        found: list[Address] = []
        for leaf in range(entry.leaves):
            with suppress(AtlasError):
                found += self._dreamt_in(entry.name, leaf)
        return found

    def _dreamt_in(self, site: str, leaf: int) -> tuple[Address, ...]:
        """Units with dreams in one leaf. A leaf never changes, so it is read once."""
        if (site, leaf) not in self._dreamt:
            table = self.atlas.leaf(site, leaf).table
            dreams = pc.greater(pc.list_value_length(table["dreams"]), 0)
            units = table.filter(dreams)["unit"].to_pylist()
            self._dreamt[site, leaf] = tuple(Address(site, unit) for unit in units)
        return self._dreamt[site, leaf]

    def to(self, *parts: object, **query: object) -> str:
        """The address of one of this atlas's pages, every part escaped; `None` in the query is left out."""
        path = "/".join(quote(str(part), safe=":,.~@") for part in ("a", self.slug, *parts))
        kept = [f"{key}={quote(str(value), safe='')}" for key, value in query.items() if value is not None]
        return f"/{path}" + ("?" + "&".join(kept) if kept else "")

    def picture(self, *parts: object) -> str:
        """The address of a picture; it changes with the atlas."""
        return self.to(*parts, v=self.version)

    def unit(self, address: Address | str, *, by: str | None = None) -> str:
        """The address of a unit's page; the place of an address is left out."""
        return self.to("unit", address, by=by if by == "mean" else None)

    def page(self, address: Address) -> str:
        """The address of the page of a site on which a unit stands."""
        page = (address.unit or 0) // UNITS_PER_PAGE
        return self.to("site", address.site, page=page + 1 if page else None) + f"#u{address.unit or 0}"


class Shelf:
    """Volumes by name, in the order given. Atlases of the same name are numbered: "demo", "demo-2"."""

    def __init__(self, atlases: Sequence[Atlas]) -> None:
        self._volumes: dict[str, Volume] = {}
        for atlas in atlases:
            slug = base = re.sub(r"[^a-z0-9._-]+", "-", atlas.name.lower()).strip("-.") or "atlas"
            count = 1
            while slug in self._volumes:
                count += 1
                slug = f"{base}-{count}"
            self._volumes[slug] = Volume(slug, atlas)

    def get(self, slug: str) -> Volume | None:
        """The volume of that name, or None."""
        return self._volumes.get(slug)

    def __iter__(self) -> Iterator[Volume]:
        return iter(self._volumes.values())

    def __len__(self) -> int:
        return len(self._volumes)


def plain(value: Any) -> Any:
    """A value as strict JSON: what is not finite becomes null, tuples become lists, keys become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float) and not (value == value and abs(value) != float("inf")):
        return None
    return value


def made_from(manifest: Mapping[str, Any]) -> dict[str, str]:
    """How an atlas was made, as a short table; the whole manifest is behind /api/."""
    made = manifest["provenance"]
    seen = made["preprocessing"]
    found = {
        "model": made["model"],
        "weights": made["weights"],
        "input": f"{seen['size'][0]} × {seen['size'][1]} pixels, {seen['interpolation']}"
        if "size" in seen
        else "",
        "images": f"{manifest['images']:,} of {manifest['source'].get('name', '')}",
        "licence": _licence(manifest["source"].get("licence")),
        "source fingerprint": made["source"] or "",
        "exemplars": f"{manifest['k']} a unit and ranking",
        "dreams": _dreams(manifest["dreams"]),
        "made with": ", ".join(f"{name} {version}" for name, version in made["versions"].items()),
    }
    return {name: text for name, text in found.items() if text}


def _licence(licence: str | Mapping[str, str] | None) -> str:
    """One licence, or one for each part of the source."""
    if isinstance(licence, Mapping):
        return "; ".join(f"{name}: {text}" for name, text in licence.items())
    return licence or ""


def _dreams(plan: Mapping[str, Any] | None) -> str:
    if not plan:
        return "none"
    recipe = plan["recipe"]
    named = f"{recipe['name']} ({recipe['citation']})" if isinstance(recipe, Mapping) else recipe
    return f"{plan['count']} a site by {named}, seed {plan['seed']}"
