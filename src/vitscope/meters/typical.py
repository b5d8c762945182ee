"""Images that do not excite a unit most: those in its middle, and some that were drawn by lot.

What excites a unit most shows the upper end of its range alone; these show what it does to the rest.
Both meters are boards as those of `TopK` are; only what an image is ranked by differs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float, Float32

from vitscope.draws import key
from vitscope.meters.reading import Array, Reading
from vitscope.meters.topk import Exemplars, TopKState, loaded
from vitscope.models.vision_model import Site, Sites


@dataclass(frozen=True)
class _Typical(ABC):
    """What both are but for the sites and the ranking."""

    k: int = field(default=9, kw_only=True)
    prefix_included = False

    def start(self, sites: Sequence[Site]) -> TypicalState:
        """A state that has seen nothing."""
        return TypicalState(self, {site.name: site for site in sites}, {})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> TypicalState:
        """The state that `arrays` described."""
        return loaded(self.start(sites), arrays)

    @abstractmethod
    def scores(self, reading: Reading) -> Float32[Array, "image unit"]:
        """What images are ranked by."""


@dataclass(frozen=True)
class Nearest(_Typical):
    """The k images whose maximum over places lies nearest a value of each unit, such as its median.

    Args:
        targets: the value of every unit, by site.
        k: how many images a unit.
    """

    targets: Mapping[str, Float[Array, " unit"]] = field(repr=False, compare=False)
    name = "middle"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that have values."""
        return [sites.named(name) for name in self.targets]

    def scores(self, reading: Reading) -> Float32[Array, "image unit"]:
        """The distance from the value, negative."""
        apart = np.abs(reading.reduced().high - self.targets[reading.site.name])
        scores: Array = (-apart).astype(np.float32)
        return scores


@dataclass(frozen=True)
class Drawn(_Typical):
    """k images by lot: those whose identity has the smallest hash with the seed. The same for every unit.

    Args:
        names: the sites.
        seed: of the lot.
        k: how many images.
    """

    names: tuple[str, ...]
    seed: int = field(default=0, kw_only=True)
    name = "random"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites of these names."""
        return [sites.named(name) for name in self.names]

    def scores(self, reading: Reading) -> Float32[Array, "image unit"]:
        """The lot of each image, 0 to -1; NaN where a unit gave no finite value."""
        lots = np.array([-key(self.seed, image) / 2**128 for image in reading.batch.ids], np.float32)
        high = reading.reduced().high
        return np.where(np.isfinite(high), lots[:, None], np.nan).astype(np.float32)


class TypicalState(TopKState):
    """As that of `TopK`; `value` of a result is the maximum over places, whatever an image was ranked by."""

    def result(self) -> dict[str, Exemplars]:
        """The images, by site: of every unit, also of one that never changed among them."""
        return {
            name: replace(found, value=found.high, count=(found.value > -np.inf).sum(axis=1))
            for name, found in super().result().items()
        }
