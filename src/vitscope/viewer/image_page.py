"""What an image excites, layer by layer: the exemplars of an atlas turned round."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitscope.address import Address
from vitscope.errors import AtlasError, UnknownName
from vitscope.viewer.library import Answer, Library, page
from vitscope.viewer.shelf import Volume, shelf_mark


@dataclass(frozen=True)
class Excited:
    """A unit among whose exemplars an image is: its rank and value, and the ranking."""

    unit: int
    rank: int
    value: float
    by: str


@dataclass(frozen=True)
class Pictured:
    """An image, and by site what it excites, the units that rank it highest first."""

    image: str
    name: str
    label: str | None
    sites: Sequence[tuple[str, Sequence[Excited]]]

    @property
    def units(self) -> int:
        """How many units it excites."""
        return sum(len(found) for _, found in self.sites)


class ImageIndex:
    """The exemplars of an atlas by image.

    Args:
        volume: the atlas; leaves that cannot be read are left out.
    """

    def __init__(self, volume: Volume) -> None:
        self.volume = volume
        self.sites = [entry.name for entry in volume.sites]
        parts = [volume.facts.exemplars(entry) for entry in volume.sites]
        image = np.concatenate([part.image for part in parts])
        order = np.argsort(image, kind="stable")
        self.image = image[order]
        sizes = [len(part.unit) for part in parts]
        self._site = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)[order]
        self._unit = np.concatenate([part.unit.astype(np.int32) for part in parts])[order]
        self._rank = np.concatenate([part.rank.astype(np.int16) for part in parts])[order]
        self._value = np.concatenate([part.value for part in parts])[order]
        self._maximum = np.concatenate([part.by_maximum for part in parts])[order]
        self._sample = {image.encode(): (name, label) for image, name, label in _sample(volume)}
        own = np.array(list(self._sample), dtype="S32")
        self.images = np.unique(np.concatenate([self.image, own]))
        """The identities of all images that are shown: exemplars, and those of the sample."""

    def marks(self) -> list[str]:
        """The beginnings of identities that have a page."""
        images = self.volume.images
        return sorted({shelf_mark(image.decode(), images) for image in self.images})

    def at(self, mark: str) -> Iterator[Pictured]:
        """The images whose identity begins with that."""
        start, stop = np.searchsorted(self.images, [mark.encode(), mark.encode() + b"g"])
        for image in self.images[start:stop]:
            yield self.of(image)

    def of(self, image: np.bytes_) -> Pictured:
        """One image that is there."""
        rows = np.arange(
            np.searchsorted(self.image, image, side="left"), np.searchsorted(self.image, image, side="right")
        )
        rows = rows[np.lexsort((self._unit[rows], ~self._maximum[rows], self._rank[rows], self._site[rows]))]
        sites: dict[str, dict[int, Excited]] = {}
        for row in rows.tolist():
            units = sites.setdefault(self.sites[self._site[row]], {})
            by = "max" if self._maximum[row] else "mean"
            units.setdefault(
                int(self._unit[row]),
                Excited(int(self._unit[row]), int(self._rank[row]), float(self._value[row]), by),
            )
        name, label = self._sample.get(bytes(image)) or self._told(image.decode(), rows)
        return Pictured(
            image.decode(), name, label, [(site, list(units.values())) for site, units in sites.items()]
        )

    def _told(self, image: str, rows: NDArray[np.int64]) -> tuple[str, str | None]:
        """The image's name in the source and its class, from the first of its rows that can be read."""
        for row in rows.tolist():
            address = Address(self.sites[self._site[row]], int(self._unit[row]))
            try:
                found = self.volume.atlas[address]
            except AtlasError:
                continue
            for exemplar in (*found.exemplars, *found.by_mean):
                if exemplar.image == image:
                    return exemplar.path, exemplar.label
        return "", None


def _sample(volume: Volume) -> Sequence[tuple[str, str, str | None]]:
    try:
        return volume.atlas.sample
    except AtlasError:
        return ()


def image(library: Library, path: str, *, atlas: str, mark: str) -> Answer:
    """The images whose identities begin alike, each with what it excites; an address ends in one of them."""
    volume = library.volume(atlas)
    found = list(index_of(volume).at(mark)) if mark == shelf_mark(mark, volume.images) else []
    if not found:
        raise UnknownName(f"No image of {volume.atlas.name} whose identity begins with {mark[:40]!r}.")
    return page(library, path, "image.html", volume=volume, images=found, mark=mark)


def index_of(volume: Volume) -> ImageIndex:
    """The index of an atlas; made again while the atlas grows."""
    finished = sum(entry.finished for entry in volume.sites)
    kept = volume.kept.get("images")
    if kept is None or kept[0] != finished:
        kept = volume.kept["images"] = (finished, ImageIndex(volume))
    index: ImageIndex = kept[1]
    return index
