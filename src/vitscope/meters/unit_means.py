"""The mean activation of some units in every image: what one unit makes of one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64, UInt8

from vitscope.errors import BadValue, UnknownAddress
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites


@dataclass(frozen=True, eq=False)
class SiteMeans:
    """The means of some units of one site, image by image, in the order of ids.

    Attributes:
        units: which units.
        ids: the images, 16 bytes each; an image that came twice is there twice.
        values: the mean over the finite values of the places on the image; NaN where there is none.
    """

    units: tuple[int, ...]
    ids: UInt8[Array, "image 16"] = field(repr=False)
    values: Float64[Array, "image unit"] = field(repr=False)

    def of(self, images: Sequence[str]) -> Float[Array, "image unit"]:
        """The means in these images, by id, in their order.

        Raises:
            BadValue: one of them was not seen.
        """
        rows = {row.tobytes().hex(): place for place, row in enumerate(self.ids)}
        unseen = [image for image in images if image not in rows]
        if unseen:
            raise BadValue(f"the image {unseen[0]} was not seen, as {len(unseen)} of {len(images)} were not")
        found: Array = self.values[[rows[image] for image in images]]
        return found


@dataclass(frozen=True)
class UnitMeans:
    """The mean over the places on the image, of some units, for every image: 8 bytes for each of the two.

    >>> scan(model, source, [UnitMeans({"blocks.5.ffn": (40, 41)})])["unit_means"]   # doctest: +SKIP

    Args:
        units: which units of which sites.

    Raises:
        BadValue: no unit.
    """

    units: Mapping[str, Sequence[int]]

    def __post_init__(self) -> None:
        if not any(self.units.values()):
            raise BadValue("give at least one unit of one site")

    @property
    def name(self) -> str:
        """ "unit_means"."""
        return "unit_means"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites by name.

        Raises:
            UnknownSite, UnknownAddress: there is no such site or unit.
        """
        found = [sites.named(name) for name, units in self.units.items() if units]
        for site in found:
            for unit in self.units[site.name]:
                if not 0 <= unit < site.units:
                    raise UnknownAddress(
                        f"{site.name} has no unit {unit}: it has {site.units} (0..{site.units - 1})"
                    )
        return found

    def start(self, sites: Sequence[Site]) -> UnitMeansState:
        """A state that has seen nothing."""
        return UnitMeansState(self, {site.name: [] for site in sites})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> UnitMeansState:
        """The state that `UnitMeansState.arrays` described."""
        seen = {site.name: [(arrays[f"{site.name}/ids"], arrays[f"{site.name}/values"])] for site in sites}
        return UnitMeansState(self, seen)


_Seen = tuple[UInt8[Array, "_ 16"], Float64[Array, "_ _"]]
"""Batches differ in images, and sites in units."""


class UnitMeansState:
    """Ids and means of every image, by site."""

    def __init__(self, meter: UnitMeans, seen: dict[str, list[_Seen]]) -> None:
        self.meter, self.seen = meter, seen

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        chosen = list(self.meter.units[reading.site.name])
        ids = np.frombuffer(bytes.fromhex("".join(reading.batch.ids)), np.uint8).reshape(-1, 16)
        places = reading.activations[:, reading.prefix :, chosen].detach().double().cpu().numpy()
        finite = np.isfinite(places)
        with np.errstate(invalid="ignore"):
            means = np.where(finite, places, 0).sum(axis=1) / finite.sum(axis=1)
        self.seen[reading.site.name].append((ids, means))

    def merge(self, other: UnitMeansState) -> UnitMeansState:
        """What both have seen."""
        return UnitMeansState(
            self.meter, {site: [*own, *other.seen[site]] for site, own in self.seen.items()}
        )

    def arrays(self) -> Arrays:
        """Everything, as "<site>/<what>", ordered by id: equal states have equal arrays."""
        found: Arrays = {}
        for site, seen in self.seen.items():
            width = len(self.meter.units[site])
            ids = np.concatenate([np.zeros((0, 16), np.uint8), *(one[0] for one in seen)])
            values = np.concatenate([np.zeros((0, width)), *(one[1] for one in seen)])
            order = np.lexsort((*values.T[::-1], *ids.T[::-1]))
            found |= {f"{site}/ids": ids[order], f"{site}/values": values[order]}
        return found

    def result(self) -> dict[str, SiteMeans]:
        """The means, by site."""
        arrays = self.arrays()
        return {
            site: SiteMeans(tuple(self.meter.units[site]), arrays[f"{site}/ids"], arrays[f"{site}/values"])
            for site in self.seen
        }
