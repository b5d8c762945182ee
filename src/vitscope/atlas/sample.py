"""What a sample of the images says of every unit: images from its middle, random ones, units that are alike.

After the scan the model is shown `SAMPLED_IMAGES` images once more, the same for every unit: those whose
identity has the smallest hash, whatever the shards, their order and the worker. That costs the same for a
thousand images as for a million, and a scan nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray

from vitscope.atlas.leaf import AlikeRow, ExemplarRow, table_bytes
from vitscope.atlas.manifest import SiteLayout
from vitscope.atlas.rows import SHOWN, Images, ranked_rows
from vitscope.data.derived import Named
from vitscope.data.source import ImageSource, Shard
from vitscope.draws import key
from vitscope.meters.meter import Meter
from vitscope.meters.moments import SiteMoments
from vitscope.meters.typical import Drawn, Nearest
from vitscope.meters.unit_means import UnitMeans
from vitscope.models.incoming import incoming_weights
from vitscope.models.vision_model import VisionModel

Array = NDArray[Any]
SAMPLED_IMAGES = 256
"""Images of a sample: a correlation over them is off by 0.06 where there is none, and the nine nearest a
median lie within two per cent of it."""
SEED = 0
"""Of the lot that draws them."""
TYPICAL = ("middle", "random")
"""The rankings of a sample: nearest the unit's median, and by lot."""
ALIKE = 8
"""Units told as being like one, by each measure."""
FEWEST = 8
"""Images below which correlations say nothing."""
DIGITS = 6
"""Of a similarity: more would differ between machines, and so would the order of equal ones."""


def sample_of(images: Iterable[str]) -> list[str]:
    """The identities of the sample, in the order of their lots."""
    return sorted(set(images), key=lambda image: (key(SEED, image), image))[:SAMPLED_IMAGES]


def sample_source(source: ImageSource, facts: Mapping[str, Any]) -> tuple[ImageSource, Shard]:
    """The images of a sample as a source, and all of it as a shard.

    Args:
        source: where they come from.
        facts: the sample as `sample.json` holds it.
    """
    named = {image["path"]: image["image"] for image in facts["images"]}
    return Named(source, named, told=f"sample of {len(named)}"), Shard("sample", 0, len(named))


def sample_meters(moments: Mapping[str, SiteMoments], *, k: int) -> tuple[Meter, ...]:
    """What is measured over a sample, given what a scan found over all images."""
    targets = {name: medians(found.edges, found.histogram) for name, found in moments.items()}
    units = {name: range(len(found)) for name, found in moments.items()}
    return Nearest(targets, k=k), Drawn(tuple(targets), seed=SEED, k=k), UnitMeans(units)


def medians(edges: Float[Array, " edge"], histogram: Int[Array, "unit bin"]) -> Float[Array, " unit"]:
    """The median over images of each unit's maximum, from its histogram: as fine as a share of one bin."""
    left, right = np.array([edges[0], *edges]), np.array([*edges, edges[-1]])
    counts = histogram.astype(np.float64)
    half = counts.sum(axis=1) / 2
    after = np.cumsum(counts, axis=1)
    at = (after < half[:, None]).sum(axis=1).clip(max=len(left) - 1)
    rows = np.arange(len(counts))
    own = counts[rows, at]
    share = np.divide(half - (after[rows, at] - own), own, out=np.zeros_like(own), where=own > 0)
    found: Array = left[at] + share * (right[at] - left[at])
    return found


@dataclass(frozen=True)
class Sample:
    """What was found over a sample, as the files of leaves.

    Attributes:
        model: whose units these are.
        moments: of each site over all images.
        found: what each of `sample_meters` found, by its name and then by site.
        images: path and class of every image.
    """

    model: VisionModel
    moments: Mapping[str, SiteMoments]
    found: Mapping[str, Mapping[str, Any]]
    images: Images

    def files(self, site: SiteLayout, leaves: Iterable[int]) -> Iterator[tuple[int, dict[str, bytes]]]:
        """What the sample says of each of some leaves of a site."""
        vectors = self._vectors(site.name)
        for leaf in leaves:
            yield leaf, self._leaf(site, site.members(leaf), vectors)

    def _leaf(self, site: SiteLayout, units: range, vectors: Mapping[str, Array]) -> dict[str, bytes]:
        shown = [unit for unit in units if self.moments[site.name].status[unit] in SHOWN]
        found = {ranking: self.found[ranking].get(site.name) for ranking in TYPICAL}
        known = {ranking: exemplars for ranking, exemplars in found.items() if exemplars is not None}
        images = [row for unit in shown for row in ranked_rows(site, unit, known, self.images)]
        rows = [
            row for measure, directions in vectors.items() for row in alike_rows(measure, directions, units)
        ]
        return {
            "samples.parquet": table_bytes(images, of=ExemplarRow),
            "alike.parquet": table_bytes(sorted(rows, key=lambda row: row.unit), of=AlikeRow),
        }

    def _vectors(self, site: str) -> dict[str, Float[Array, "unit direction"]]:
        """By measure a vector of length 1 for each unit, or 0: products of two are how alike they are."""
        live = np.isin(self.moments[site].status, SHOWN)[:, None]
        means = self.found["unit_means"][site].values
        centred = np.nan_to_num(means - np.nanmean(means, axis=0)) if len(means) >= FEWEST else means[:0]
        weights = incoming_weights(self.model, self.model.sites.named(site))
        found = {"activation": np.where(live, centred.T, 0)}
        if weights is not None:
            found["weight"] = np.where(live, weights.double().numpy(), 0)
        return {measure: _directions(vectors) for measure, vectors in found.items()}


def _directions(vectors: Float[Array, "unit direction"]) -> Float[Array, "unit direction"]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: Array = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return found


def alike_rows(
    measure: str, vectors: Float[Array, "unit direction"], units: Sequence[int]
) -> Iterator[AlikeRow]:
    """The units most like some of a site, nearest first, ties by index; none that is not like it at all.

    Args:
        measure: its name.
        vectors: of every unit of the site a direction, of length 1 or 0.
        units: those asked for.
    """
    likeness = np.round(vectors[list(units)] @ vectors.T, DIGITS)
    for own, row in zip(units, likeness, strict=True):
        row[own] = 0
        order = np.argsort(-row, kind="stable")[:ALIKE]
        kept = [other for other in order.tolist() if row[other] > 0]
        yield from (AlikeRow(own, measure, rank, other, float(row[other])) for rank, other in enumerate(kept))
