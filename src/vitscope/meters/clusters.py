"""Whether the patches of an image fall into its objects, site by site, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from jaxtyping import Bool, Float, UInt8

from vitscope.data.objects import ObjectBatch
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.grouping import MEASURES, NONE, measured, patch_objects
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

FAR = 5.0
"""A patch whose norm is above so many times the median of its image is an artefact. Darcet et al. (2024,
"Vision Transformers Need Registers") find them about 10 times as long as others; the bound is ours."""
COLUMNS = (*MEASURES, "artefacts")
"""What is kept of every image: the measures, and the share of its patches that are artefacts."""
PERCENT = ("noise", "artefacts")
"""Of these, shares of patches that tables show in per cent."""
STREAMS = ("blocks.*", "stages.*.*")
"""What blocks hand out, before the last norm: what the authors' notebook reads, and its like in a CNN."""
CHOICES = ("all", "ordinary")
"""Which patches count."""
MOST = 784
"""Places that a site may have, 28 x 28: every two are compared."""


@dataclass(frozen=True, eq=False)
class Clustered:
    """The measures of one site.

    Attributes:
        site: where they were read.
        ids: the images that were used, 16 bytes each, in order; one that came twice is there twice.
        values: of every image, in the order of `COLUMNS`; NaN where activations are not finite.
    """

    site: Site
    ids: UInt8[Array, "image 16"] = field(repr=False)
    values: Float[Array, "image measure"] = field(repr=False)

    def of(self, measure: str) -> Float[Array, " image"]:
        """One measure of every image that has it."""
        found = self.values[:, COLUMNS.index(measure)]
        return np.asarray(found[np.isfinite(found)])

    def mean(self, measure: str) -> float:
        """Over images; NaN of none."""
        found = self.of(measure)
        return float(found.mean()) if found.size else float("nan")

    def error(self, measure: str) -> float:
        """The standard error of the mean; NaN of fewer than two images."""
        found = self.of(measure)
        return float(found.std(ddof=1)) / sqrt(found.size) if found.size > 1 else float("nan")

    def row(self) -> dict[str, float]:
        """Columns of a table: the mean of every measure."""
        return {name: (100 if name in PERCENT else 1) * self.mean(name) for name in COLUMNS}


@dataclass(frozen=True)
class Clusters:
    """Clusters of patches against objects (Nguyen et al. 2022). Batches must bring objects: `data.objects`.

    Images with fewer than two objects of some size are passed over: see `meters.grouping`.

    >>> scan_variants(model, source, [Variant("plain", images=(objects.under(),))], [Clusters("blocks.*")])
    ... # doctest: +SKIP

    Args:
        pattern: which sites, as `model.sites(pattern)` reads it; without those that have no grid on the image
            or more than 784 places.
        patches: "all", or the "ordinary" ones, without artefacts.

    Raises:
        BadValue: another word for `patches`.
    """

    pattern: str = "blocks.*"
    patches: str = field(default="all", kw_only=True)
    name = "clusters"

    def __post_init__(self) -> None:
        if self.patches not in CHOICES:
            raise BadValue(f"patches are 'all' or the 'ordinary' ones, not {self.patches!r}")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match.

        Raises:
            Unsuited: none of them has a grid of 2 to 784 places.
        """
        found = [
            site for site in sites(self.pattern) if site.grid and 1 < site.grid[0] * site.grid[1] <= MOST
        ]
        if not found:
            raise Unsuited(f"no site that matches {self.pattern!r} has a grid of 2 to {MOST} places")
        return found

    def start(self, sites: Sequence[Site]) -> ClustersState:
        """A state that has seen nothing."""
        return ClustersState(self, sites, {})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> ClustersState:
        """The state that `ClustersState.arrays` described."""
        names = [site.name for site in sites]
        return ClustersState(
            self, sites, {name: [(arrays[f"{name}/ids"], arrays[f"{name}/values"])] for name in names}
        )


_Seen = tuple[UInt8[Array, "_ 16"], Float[Array, "_ measure"]]


class ClustersState:
    """Id and measures of every image that is used, 112 bytes an image and site."""

    def __init__(self, meter: Clusters, sites: Sequence[Site], seen: Mapping[str, Sequence[_Seen]]) -> None:
        self.meter, self._sites = meter, sites
        self.seen = {site.name: list(seen.get(site.name, ())) for site in sites}

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        batch, grid = reading.batch, reading.site.grid or (1, 1)
        if not isinstance(batch, ObjectBatch):
            return
        patches = reading.activations.detach()[:, reading.prefix :].float().cpu().numpy()
        for name, objects, values in zip(batch.ids, batch.objects, patches, strict=True):
            owners = patch_objects(objects, grid)
            if owners is None:
                continue
            strange = artefacts(values)
            if self.meter.patches == "ordinary":
                owners = np.where(strange, NONE, owners)
            found = measured(values, owners, grid)
            row = np.append(found, strange.mean())
            self.seen[reading.site.name].append((_as_bytes(name), row[None]))

    def merge(self, other: ClustersState) -> ClustersState:
        """What both have seen."""
        both = {name: [*seen, *other.seen[name]] for name, seen in self.seen.items()}
        return ClustersState(self.meter, self._sites, both)

    def arrays(self) -> Arrays:
        """Everything, as "<site>/<what>", ordered by id: equal states have equal arrays."""
        found: Arrays = {}
        for name, seen in self.seen.items():
            ids = np.concatenate([np.zeros((0, 16), np.uint8), *(ids for ids, _ in seen)])
            values = np.concatenate([np.zeros((0, len(COLUMNS))), *(values for _, values in seen)])
            order = np.lexsort((*values.T, *ids.T[::-1]))
            found |= {f"{name}/ids": ids[order], f"{name}/values": values[order]}
        return found

    def result(self) -> dict[str, Clustered]:
        """The measures, by site."""
        arrays = self.arrays()
        return {
            site.name: Clustered(site, arrays[f"{site.name}/ids"], arrays[f"{site.name}/values"])
            for site in self._sites
        }


def artefacts(values: Float[Array, "place unit"]) -> Bool[Array, " place"]:
    """Which patches have a norm far above the median of their image."""
    lengths = np.linalg.norm(values.astype(np.float64), axis=1)
    return np.asarray(lengths > FAR * np.median(lengths))


def _as_bytes(name: str) -> UInt8[Array, "1 16"]:
    return np.frombuffer(bytes.fromhex(name), np.uint8)[None]
