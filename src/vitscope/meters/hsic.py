"""Similarity of sites (CKA): a meter that leaves their Gram matrices, to be compared with any others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange
from jaxtyping import Float32

from vitscope.errors import BadValue
from vitscope.meters.gathering import GRAM, GramState
from vitscope.meters.grams import LEAST
from vitscope.meters.meter import matching
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

WHOLE, MEAN = "places", "mean"


@dataclass(frozen=True)
class CKA:
    """Gram matrices of sites, from which CKA and other similarities follow: within a model and across models.

    >>> found = scan(model, source, [CKA("blocks.*")])["cka"]       # doctest: +SKIP
    >>> found.cka().value, found.cka().error, found.cka(other_models).value    # doctest: +SKIP

    A Gram batch never reaches beyond its shard: a scan in shards of a multiple of `gram` images equals a scan
    in one. A state grows by 2 `gram` bytes for every image and site.

    Args:
        pattern: which sites, as `model.sites(pattern)` reads it; of several patterns, those that match any.
        gram: images in a Gram batch; a shard's last may hold fewer, and is left out below four.
        features: "places" for all places and units, as in the paper; "mean" for the mean over the places
            that lie on the image; or one place, written as in an address: "cls", "center", "3,4".

    Raises:
        BadValue: no pattern, or a Gram batch of fewer than four images.
    """

    pattern: str | tuple[str, ...] = "blocks.*"
    gram: int = field(default=GRAM, kw_only=True)
    features: str = field(default=WHOLE, kw_only=True)
    name = "cka"

    def __post_init__(self) -> None:
        if self.gram < LEAST:
            raise BadValue(f"gram counts the images of a Gram batch and is at least {LEAST}, not {self.gram}")
        if not self.pattern:
            raise BadValue("cka needs at least one pattern of sites")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match.

        Raises:
            UnknownSite: none does.
            UnknownAddress: one of them has no such place as `features` names.
        """
        patterns = (self.pattern,) if isinstance(self.pattern, str) else self.pattern
        found = matching(sites, patterns)
        if self.features not in (WHOLE, MEAN):
            for site in found:
                site.place_index(self.features)
        return found

    def start(self, sites: Sequence[Site]) -> CKAState:
        """A state that has seen nothing."""
        return CKAState(self, sites)

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> CKAState:
        """The state that `CKAState.arrays` described."""
        return self.start(sites).loaded(arrays)


class CKAState(GramState):
    """The Gram matrices so far, of every site."""

    def __init__(self, meter: CKA, sites: Sequence[Site]) -> None:
        self.meter = meter
        self._sites, self._whole = sites, meter.features == WHOLE
        self._turned: dict[str, bool] = {}
        sizes = {site.name: site.units * (site.places if self._whole else 1) for site in sites}
        super().__init__(sizes, meter.gram)

    def fresh(self) -> CKAState:
        """A state of the same meter that has seen nothing."""
        return CKAState(self.meter, self._sites)

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site. How images are batched in passes changes nothing."""
        self.take(reading.site.name, reading.batch.ids, self._features(reading))

    def _features(self, reading: Reading) -> Float32[Array, "image feature"]:
        """Of every image, its features in one row. Their order is the same in every batch."""
        values, name = reading.activations.detach(), reading.site.name
        if self._whole:
            maps = self._turned.setdefault(name, not values.is_contiguous() and values.mT.is_contiguous())
            values = values.mT if maps else values
        elif self.meter.features == MEAN:
            values = values[:, reading.prefix :].double().mean(1, keepdim=True)
        else:
            values = values[:, reading.site.place_index(self.meter.features), None]
        rows: Array = rearrange(values.float().cpu(), "image one other -> image (one other)").numpy()
        return np.ascontiguousarray(rows)
