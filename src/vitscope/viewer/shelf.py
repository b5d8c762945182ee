"""The atlases that a viewer shows: looked up by name, never by path, with the links between their pages."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import quote

from scipy.sparse import csr_matrix

from vitscope.address import Address
from vitscope.atlas.read import Atlas, SiteEntry
from vitscope.atlas.store import Store
from vitscope.errors import UnknownSite, suggestion
from vitscope.viewer.facts import Facts
from vitscope.viewer.likeness import incidence
from vitscope.viewer.sheets import Sheets, Tile

UNITS_PER_PAGE = 256
"""A page of a site is one leaf of the atlas, and one sprite of 16 x 16 tiles."""
SITES_KEPT = 16
"""Sites whose common exemplars stay in memory, about 0.5 MB each."""


@dataclass
class Volume:
    """One atlas with the name it has in addresses of pages.

    Attributes:
        slug: that name.
        atlas: what is shown.
        kept: what pages keep of it, by their names.
        sheets: where thumbnails lie, if each is not a file of its own.
    """

    slug: str
    atlas: Atlas
    kept: dict[str, Any] = field(default_factory=dict)
    sheets: Sheets | None = None
    _sites: tuple[SiteEntry, ...] = ()

    @property
    def sites(self) -> tuple[SiteEntry, ...]:
        """The sites of the atlas; looked at only once when all of it is built, as it never changes then."""
        if not self._sites or any(entry.finished < entry.leaves for entry in self._sites):
            self._sites = self.atlas.sites
        return self._sites

    @cached_property
    def facts(self) -> Facts:
        """What is known of all units of a site at once."""
        return Facts(Store.open(self.atlas.path))

    def incidence(self, entry: SiteEntry) -> csr_matrix:
        """Units x images of a site: which images are among which unit's exemplars; kept for a few sites."""
        return self._incidence(entry.name, entry.units, entry.finished)

    @cached_property
    def _incidence(self) -> Callable[[str, int, int], csr_matrix]:
        return lru_cache(maxsize=SITES_KEPT)(self._incidence_of)

    def _incidence_of(self, name: str, units: int, finished: int) -> csr_matrix:
        del finished  # with it a site that grows is read again
        found = self.facts.exemplars(self.site(name))
        return incidence(found.unit, found.image, units=units)

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
        for entry in self.sites:
            if entry.name == name:
                return entry
        known = [entry.name for entry in self.sites]
        raise UnknownSite(
            f"no site {name!r} in {self.atlas.name} ({len(known)} sites).{suggestion(name, known)}"
        )

    def to(self, *parts: object) -> str:
        """Where a file of this atlas lies, from the home page: every part escaped."""
        return "/".join(quote(str(part), safe=":,.~@") for part in ("a", self.slug, *parts))

    def picture(self, *parts: object) -> str:
        """Where a picture lies; its address changes with the atlas."""
        return f"{self.to(*parts)}?v={self.version}"

    def thumbnail(self, image: str) -> tuple[str, Tile | None]:
        """Where the thumbnail of an image lies, and at which tile of it."""
        if self.sheets is None:
            return self.picture("thumbnail", f"{image}.webp"), None
        tile = self.sheets.tile(image)
        return self.picture("sheet", f"{tile.number}.webp"), tile

    @property
    def home(self) -> str:
        """The page of the model."""
        return self.to("index.html")

    def unit(self, address: Address | str) -> str:
        """The page of a unit; the place of an address is left out."""
        address = Address.parse(address)
        return self.to("unit", address.site, f"{address.unit or 0}.html")

    def grid(self, site: str, page: int = 1) -> str:
        """A page of a site: 256 units."""
        return self.to("site", site, f"{page}.html")

    def page(self, address: Address) -> str:
        """The page of a site on which a unit stands, at its place."""
        unit = address.unit or 0
        return f"{self.grid(address.site, unit // UNITS_PER_PAGE + 1)}#u{unit}"

    def image(self, image: str) -> str:
        """The page that says what an image excites, at its place."""
        return f"{self.to('image', f'{shelf_mark(image, self.images)}.html')}#{image}"

    @property
    def images(self) -> int:
        """How many images the atlas was made from."""
        return int(self.atlas.manifest["images"])


def shelf_mark(image: str, images: int) -> str:
    """The first digits of an image's identity: images that share them share a page.

    A page for every image would be too many files for a static host, so there are as many digits as leave a
    page about 16 images, and at most 4,096 pages.
    """
    digits = next((digits for digits in range(1, 3) if images <= 16 ** (digits + 1)), 3)
    return image[:digits]


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
    recipes = [plan["recipe"], *plan.get("beside", ())]
    named = " and ".join(
        f"{recipe['name']} ({recipe['citation']})" if isinstance(recipe, Mapping) else recipe
        for recipe in recipes
    )
    each = f"{plan['count']} a site" if plan["count"] != "all" else "all units"
    repeats = f"{plan['repeats']} of a unit by each, from " if "repeats" in plan else ""
    return f"{each} by {named}, {repeats}seed {plan['seed']}"
