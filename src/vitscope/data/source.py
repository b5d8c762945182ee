"""Where images come from: the protocol every source follows, and how its images become batches.

A source hands out raw bytes in a fixed order. Its shards are repeatable slices of that order: the unit of
work and of resuming. The identity of an image is the hash of its bytes, so the same picture under two names
is one image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float, Int
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


@dataclass(frozen=True)
class RawImage:
    """One image as its source holds it.

    Attributes:
        path: its name within the source, "n01440764/tench.jpg"; JSON-safe text (bytes that are not UTF-8 are
            escaped as \\\\xNN).
        content: the file's bytes.
        label: index into the source's classes, or None.
        accept_truncated: its source accepts JPEGs that end early, completed with grey.
    """

    path: str
    content: bytes
    label: int | None = None
    accept_truncated: bool = False

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


@dataclass(frozen=True)
class ImageBatch:
    """Decoded images, ready for interventions and `model.preprocess`.

    Attributes:
        ids: identity of each image.
        paths: its name within the source.
        pixels: in [0, 1], at the model's input size.
        labels: class index, -1 where unknown.
    """

    ids: tuple[str, ...]
    paths: tuple[str, ...]
    pixels: Float[Tensor, "image rgb row column"]
    labels: Int[Tensor, " image"]

    def __len__(self) -> int:
        return len(self.ids)


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
