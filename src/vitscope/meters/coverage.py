"""How much of what a model is shown is foreground, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, UInt8

from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites


@dataclass(frozen=True, eq=False)
class Covered:
    """The share of each image's view that is foreground, in [0, 1], in the order of ids.

    Attributes:
        ids: the images, 16 bytes each; an image that came twice is there twice.
        shares: NaN where nothing is known of the foreground.
    """

    ids: UInt8[Array, "image 16"] = field(repr=False)
    shares: Float64[Array, " image"] = field(repr=False)


@dataclass(frozen=True)
class Coverage:
    """How much of each image, as cut and resized for the model, is foreground: 24 bytes an image.

    >>> scan(model, source, [Coverage()])["coverage"].shares.mean()   # doctest: +SKIP

    Args:
        site: any site that every pass reaches; nothing of it is used.
    """

    site: str = field(default="logits", kw_only=True)

    @property
    def name(self) -> str:
        """ "coverage"."""
        return "coverage"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The site."""
        return [sites.named(self.site)]

    def start(self, sites: Sequence[Site]) -> CoverageState:
        """A state that has seen nothing."""
        return CoverageState([(np.zeros((0, 16), np.uint8), np.zeros(0)) for _ in sites])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> CoverageState:
        """The state that `CoverageState.arrays` described."""
        return CoverageState([(arrays["ids"], arrays["shares"]) for _ in sites])


class CoverageState:
    """Id and share of every image."""

    def __init__(self, seen: list[tuple[UInt8[Array, "_ 16"], Float64[Array, " _"]]]) -> None:
        self.seen = seen

    def read(self, reading: Reading) -> None:
        """Take in one batch."""
        foreground = reading.batch.foreground
        if foreground is None:
            found = np.full(len(reading.batch), np.nan)
        else:
            found = foreground.detach().double().cpu().numpy().mean(axis=(1, 2))
        ids = np.frombuffer(bytes.fromhex("".join(reading.batch.ids)), np.uint8).reshape(-1, 16)
        self.seen.append((ids, found))

    def merge(self, other: CoverageState) -> CoverageState:
        """What both have seen."""
        return CoverageState([*self.seen, *other.seen])

    def arrays(self) -> Arrays:
        """Everything, ordered by id: equal states have equal arrays."""
        ids, found = (np.concatenate([seen[what] for seen in self.seen]) for what in (0, 1))
        order = np.lexsort((found, *ids.T[::-1]))
        return {"ids": ids[order], "shares": found[order]}

    def result(self) -> Covered:
        """The shares, image by image."""
        return Covered(**self.arrays())
