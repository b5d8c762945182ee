"""Where images come from: the protocol every source follows, and how its images become batches.

A source hands out raw bytes in a fixed order. Its shards are repeatable slices of that order: the unit of
work and of resuming. The identity of an image is the hash of its bytes, so the same picture under two names
is one image. A raw image may carry what is known of its foreground and what is to be done to its pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

SHARD_SIZE = 1024
"""Images a shard by default: about half a minute of one core, so that little is lost when a worker dies."""


def image_id(content: bytes) -> str:
    """The first 128 bits of the sha256 of a file's bytes, as 32 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()[:32]


@dataclass(frozen=True)
class Shard:
    """Images `start` to `stop` (exclusive) of a source, in its fixed order."""

    id: str
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@runtime_checkable
class Foreground(Protocol):
    """The foreground of one image, given by boxes or by a mask."""

    def inside(self, rows: int, columns: int) -> Bool[np.ndarray, "row column"]:
        """Which pixels of the decoded picture, of that size, belong to it.

        Raises:
            BadValue: it does not fit a picture of that size, or is damaged.
        """
        ...


@runtime_checkable
class Annotations(Protocol):
    """The foreground of some of a source's images."""

    name: str
    """Where they come from: "boxes.csv"."""
    fingerprint: str
    """Of their content and of how it is read."""

    def covers(self, path: str) -> bool:
        """Whether there is an annotation for the image of that path."""
        ...

    def foreground(self, path: str, *, label: str | None = None) -> Foreground | None:
        """What is known of the image of that path and class; None where there is no annotation.

        Raises:
            BadValue: the annotation is damaged, or two fit equally well.
        """
        ...

    def check(self, paths: Sequence[str], *, classes: Sequence[str] | None) -> None:
        """Refuse annotations that have nothing to do with these images.

        Raises:
            BadValue: they cover none of the paths, or name no class.
        """
        ...


@dataclass(frozen=True)
class Picture:
    """One image as it was decoded, upright and at its original size.

    Attributes:
        pixels: 0 to 255.
        foreground: which pixels belong to it; None where nothing is known of it.
        id: the identity of the image.
    """

    pixels: UInt8[np.ndarray, "row column rgb"]
    foreground: Bool[np.ndarray, "row column"] | None
    id: str


@dataclass(frozen=True)
class ImageBatch:
    """Decoded images, ready for interventions and `model.preprocess`.

    Attributes:
        ids: identity of each image.
        paths: its name within the source.
        pixels: in [0, 1], at the model's input size.
        labels: class index, -1 where unknown.
        foreground: the share of each pixel that belongs to the foreground, in [0, 1], cut and resized as the
            pixels were; NaN for an image without annotation; None where no image of the batch has one.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    pixels: Float[Tensor, "image rgb row column"]
    labels: Int[Tensor, " image"]
    foreground: Float[Tensor, "image row column"] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@runtime_checkable
class ViewIntervention(Protocol):
    """A change to the pixels that a model is shown. Frozen; its `repr` is its name in provenance."""

    def on_view(self, batch: ImageBatch) -> ImageBatch:
        """The batch, changed: another one, as others still use this. What becomes of an image does not
        depend on its batch mates."""
        ...


@runtime_checkable
class OriginalIntervention(Protocol):
    """A change to the decoded picture, before it is resized. Frozen; its `repr` is its name in provenance."""

    def on_original(self, picture: Picture) -> Picture:
        """The picture, changed: another one, as others still use this."""
        ...


ImageIntervention: TypeAlias = ViewIntervention | OriginalIntervention
"""A change to images: of the picture at its original size, or of the pixels a model is shown."""


@dataclass(frozen=True)
class RawImage:
    """One image as its source holds it.

    Attributes:
        path: its name within the source, "n01440764/tench.jpg"; JSON-safe text (bytes that are not UTF-8 are
            escaped as \\\\xNN).
        content: the file's bytes.
        label: index into the source's classes, or None.
        accept_truncated: its source accepts JPEGs that end early, completed with grey.
        foreground: what an annotation says of it; None where there is none.
        interventions: what its source does to the pixels once they are decoded, in order.
    """

    path: str
    content: bytes
    label: int | None = None
    accept_truncated: bool = False
    foreground: Foreground | None = None
    interventions: tuple[ImageIntervention, ...] = ()

    @property
    def id(self) -> str:
        """The image's identity: `image_id` of its bytes."""
        return image_id(self.content)


@dataclass(frozen=True)
class Skipped:
    """An image that could not be used, and why. Reasons are words such as "truncated"; detail is for
    people."""

    path: str
    reason: str
    detail: str = ""


def changed(path: str) -> Skipped:
    """What is said of an image whose file has other bytes than when it was scanned."""
    return Skipped(path, "changed", "other bytes than when it was scanned")


@runtime_checkable
class ImageSource(Protocol):
    """What a source must offer. `testing.SourceContract` tests it."""

    name: str
    """The text that opens it: "folder:photos"."""
    fingerprint: str
    """Equal for equal content in equal order, whatever the folder is called."""
    classes: tuple[str, ...] | None
    """Names of the labels, where the source has labels."""

    def __len__(self) -> int:
        """How many entries there are, readable or not."""
        ...

    def shards(self, size: int = SHARD_SIZE) -> tuple[Shard, ...]:
        """The whole source as consecutive shards of at most `size` entries; ids do not depend on other
        shards."""
        ...

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard in order. An entry that cannot be read is a `Skipped`, never an
        exception."""
        ...

    def find(self, path: str) -> RawImage | Skipped:
        """One entry by its name, for thumbnails and `look`."""
        ...

    def describe(self) -> dict[str, Any]:
        """Facts for provenance: name, number of entries, fingerprint, licence where known."""
        ...


def cut(count: int, size: int) -> tuple[Shard, ...]:
    """Consecutive shards of at most `size` of `count` entries, named by their bounds."""
    return tuple(
        Shard(f"{start:09d}-{min(start + size, count):09d}", start, min(start + size, count))
        for start in range(0, count, size)
    )
