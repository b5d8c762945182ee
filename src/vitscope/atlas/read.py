"""Reading an atlas: `Atlas.open(path)["blocks.5.ffn:40"]`. Nothing here writes.

Only whole leaves are seen, so an atlas can be read while it is built, from a read-only medium, and after it
was moved. What is damaged fails alone: its error names the leaf or the unit, everything else stays readable.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa

from vitscope.address import Address
from vitscope.atlas.leaf import (
    SAMPLED,
    AlikeRow,
    DreamRow,
    ExemplarRow,
    UnitRow,
    alike_table,
    digest,
    exemplar_table,
    exemplars_of,
    rows_of,
    unit_table,
)
from vitscope.atlas.manifest import LEAF_UNITS
from vitscope.atlas.store import ABSENT, Store
from vitscope.atlas.unit import (
    Exemplar,
    Histogram,
    Leaf,
    Sampled,
    SiteEntry,
    StoredDream,
    Unit,
    exemplar_of,
    sampled_of,
    statistics_of,
)
from vitscope.errors import AtlasError, BadAddress, UnknownAddress
from vitscope.notebook import Picture, card, pictures, sentence, table

LEAVES_KEPT = 16
"""Leaves that an open atlas keeps in memory, at about 2 MB each."""

MOST_SITES = 6
"""Whose overviews a notebook shows."""

__all__ = ["Atlas", "Exemplar", "Histogram", "Leaf", "SiteEntry", "StoredDream", "Unit", "UnitRow"]


class Atlas:
    """An atlas, opened for reading. `atlas["blocks.5.ffn:40"]` is a `Unit`.

    Args:
        store: its files; use `Atlas.open`.
    """

    def __init__(self, store: Store) -> None:
        self.path = store.root
        self._store = store
        self._complete = False
        self._leaf = lru_cache(maxsize=LEAVES_KEPT)(self._load)

    @classmethod
    def open(cls, path: str | Path) -> Atlas:
        """Open the atlas in a folder.

        Raises:
            AtlasError: there is none, or its manifest is damaged or newer than this version.
        """
        return cls(Store.open(path))

    @property
    def name(self) -> str:
        """The folder's name, without ".atlas"."""
        return self.path.resolve().name.removesuffix(".atlas")

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """`atlas.json` as plain values."""
        document: dict[str, Any] = json.loads(self._store.manifest.to_json())
        return document

    @property
    def model(self) -> str:
        """The name of the model, such as "timm:vit_tiny_patch16_224"."""
        return self._store.manifest.provenance.model

    @property
    def source(self) -> str:
        """The name of the source, such as "folder:photos"."""
        return str(self._store.manifest.source.get("name", ""))

    @property
    def complete(self) -> bool:
        """Whether every leaf is there."""
        self._complete = self._complete or all(
            self._store.fault(site.name, leaf) is None for site, leaf in self._store.leaves()
        )
        return self._complete

    @property
    def sites(self) -> tuple[SiteEntry, ...]:
        """The sites, in the order of the forward pass, with how far each is."""
        return tuple(
            SiteEntry(
                site.name,
                site.units,
                site.grid,
                site.prefix_tokens,
                site.leaves,
                sum(self._store.fault(site.name, leaf) is None for leaf in range(site.leaves)),
            )
            for site in self._store.manifest.sites
        )

    def leaf(self, site: str, index: int) -> Leaf:
        """The units `index * 256` and on of a site; kept in memory for a while.

        Raises:
            UnknownSite: the atlas does not hold this site.
            UnknownAddress: the site has no such leaf.
            AtlasError: the leaf is not built yet, or damaged.
        """
        self._check_leaf(site, index)
        return self._leaf(site, index)

    def _check_leaf(self, site: str, index: int) -> None:
        layout = self._store.layout(site)
        if not 0 <= index < layout.leaves:
            raise UnknownAddress(
                f"no leaf {index} at {site}: it has {layout.leaves} (0..{layout.leaves - 1})"
            )

    def _load(self, site: str, index: int) -> Leaf:
        try:
            units = unit_table(self._store.read_leaf(site, index, "units.parquet"))
            exemplars = exemplar_table(self._store.read_leaf(site, index, "exemplars.parquet"))
        except OSError as error:  # it was there a moment ago
            raise AtlasError(
                f"{self._store.leaf_name(site, index)} cannot be read: {error.strerror}"
            ) from error
        return Leaf(site, index, units, exemplars, self._samples(site, index))

    def _samples(self, site: str, index: int) -> tuple[pa.Table, pa.Table] | None:
        """What a sample says of a leaf; None where the atlas has none."""
        if self._store.fault(site, index, of=SAMPLED) == ABSENT:
            return None
        return (
            exemplar_table(self._store.read_leaf(site, index, "samples.parquet")),
            alike_table(self._store.read_leaf(site, index, "alike.parquet")),
        )

    def __getitem__(self, address: str | Address) -> Unit:
        """What the atlas knows of one unit. The place of an address plays no part.

        Raises:
            BadAddress: not an address, or one without a unit.
            UnknownSite: the atlas does not hold this site; the nearest is named.
            UnknownAddress: the site has no such unit.
            AtlasError: its leaf is not built yet, or damaged.
        """
        address = self._checked(Address.parse(address))
        unit = address.unit or 0
        leaf = self.leaf(address.site, unit // LEAF_UNITS)
        row = leaf.row(unit)
        found = exemplars_of(leaf.exemplars, unit)
        return Unit(
            address=Address(address.site, unit),
            status=row.status,
            statistics=statistics_of(row),
            histogram=Histogram(self._store.manifest.histogram_edges, row.histogram),
            exemplars=self._exemplars(address.site, found, "maximum"),
            by_mean=self._exemplars(address.site, found, "mean"),
            dreams=tuple(self._dream(address, dream) for dream in row.dreams),
            labels=row.labels,
            sampled=self._sampled(leaf, unit),
            thumbnail=self.thumbnail,
        )

    def _checked(self, address: Address) -> Address:
        layout = self._store.layout(address.site)
        if address.unit is None:
            raise BadAddress(f"{address} names no unit: say which, such as {address.site}:0")
        if address.unit >= layout.units:
            raise UnknownAddress(
                f"no unit {address.unit} at {address.site}: "
                f"it has {layout.units} units (0..{layout.units - 1})"
            )
        return address

    def _exemplars(self, site: str, rows: list[ExemplarRow], ranking: str) -> tuple[Exemplar, ...]:
        grid = self._store.layout(site).grid
        return tuple(exemplar_of(row, grid) for row in rows if row.ranking == ranking)

    def _sampled(self, leaf: Leaf, unit: int) -> Sampled | None:
        if leaf.samples is None:
            return None
        images, alike = leaf.samples
        likes = [AlikeRow(**record) for record in rows_of(alike, unit)]
        return sampled_of(exemplars_of(images, unit), likes, self._store.layout(leaf.site).grid)

    @property
    def sample(self) -> tuple[tuple[str, str, str | None], ...]:
        """The images of its sample: identity, name within the source, class. None in an older atlas.

        Raises:
            AtlasError: `sample.json` is damaged.
        """
        return self._store.sample()

    def _dream(self, address: Address, row: DreamRow) -> StoredDream:
        path = self._store.leaf_file(address.site, (address.unit or 0) // LEAF_UNITS, "pack")
        try:
            with path.open("rb") as pack:
                pack.seek(row.offset)
                image = pack.read(min(row.size, path.stat().st_size))
        except (OSError, ValueError) as error:
            raise AtlasError(
                f"{address} is damaged: its dream cannot be read from {path.name}: {error}"
            ) from error
        if digest(image) != row.sha256:
            raise AtlasError(
                f"{address} is damaged: its dream in {path.name} has other bytes than were written"
            )
        _check_webp(image, f"the dream of {address}")
        return StoredDream(row.recipe, row.seed, row.score, json.loads(row.trust), row.status, image)

    def sprite(self, site: str, index: int) -> bytes:
        """The overview of a leaf: a WebP of 16 x 16 tiles of 64 pixels, tile n for its n-th unit.

        A tile is the unit's first dream, or else its best exemplar, or else flat.

        Raises: as `leaf`.
        """
        self._check_leaf(site, index)
        return self._store.read_leaf(site, index, "sprite.webp")

    def thumbnail(self, image: str) -> bytes:
        """The WebP thumbnail of an exemplar, cropped as the model saw it.

        Raises:
            BadValue: not an image id.
            AtlasError: the atlas has no thumbnail of this image.
        """
        path = self._store.thumbnail_file(image)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise AtlasError(f"{self.name} has no thumbnail of image {image}: {error.strerror}") from error
        _check_webp(content, f"the thumbnail of {image}")
        return content

    def neighbours(self, address: str | Address) -> tuple[Address | None, Address | None]:
        """The units before and after one, in the order of sites and units; None at either end of the
        atlas."""
        address = self._checked(Address.parse(address))
        unit, names = address.unit or 0, list(self._store.sites)
        place = names.index(address.site)
        before = names[place - 1] if place else None
        after = names[place + 1] if place + 1 < len(names) else None
        previous = Address(address.site, unit - 1) if unit else None
        following = (
            Address(address.site, unit + 1) if unit + 1 < self._store.layout(address.site).units else None
        )
        if previous is None and before is not None:
            previous = Address(before, self._store.layout(before).units - 1)
        if following is None and after is not None:
            following = Address(after, 0)
        return previous, following

    def __repr__(self) -> str:
        units = sum(site.units for site in self._store.manifest.sites)
        where = f"{len(self._store.sites)} sites of {self.model} over {self.source}"
        return f"<Atlas {self.name}: {units} units at {where}>"

    def _repr_html_(self) -> str:
        told = {
            "model": self.model,
            "images": self.source,
            "state": "complete" if self.complete else "unfinished",
        }
        rows = ((site.name, site.units, site.leaves, site.finished) for site in self.sites)
        numbers = table(("site", "units", "leaves", "finished"), rows)
        return card(self.name, sentence(told), pictures(list(self._overviews())), numbers)

    def _overviews(self) -> Iterator[Picture]:
        """The first leaf of a few sites from the first to the last, as far as they can be read."""
        built = [site.name for site in self.sites if site.finished]
        for site in built[:: max(1, -(-len(built) // MOST_SITES))]:
            with suppress(AtlasError):
                yield Picture(self.sprite(site, 0), f"The first units of {site}", 224, [site])


def _check_webp(content: bytes, name: str) -> None:
    """Nothing but pictures leaves an atlas, whoever made it: a page may be served from what it holds."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP":
        raise AtlasError(f"{name} is damaged: not a WebP picture")
