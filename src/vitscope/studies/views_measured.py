"""Global views under dropped patches, measured along a scan: `views_dropped` says what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from vitscope.flow import rolled, spread
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites
from vitscope.studies.result import Row
from vitscope.studies.views_dropped import MEASURES, TOKENS, DroppedBatch, WholeImages, compared

IMAGE = "image"
"""At level 0, where a token is itself: the view of the whole image, every patch counting alike."""


@dataclass(frozen=True, eq=False)
class Compared:
    """The measures of every image, in the order of ids.

    Attributes:
        ids: the images, 16 bytes each.
        values: NaN where there is nothing to measure: no CLS, no patch of the object left.
    """

    ids: UInt8[Array, "image 16"] = field(repr=False)
    values: Float[Array, "image level token measure"] = field(repr=False)


@dataclass(frozen=True)
class DroppedViews:
    """The measures of `MEASURES` of every image. Batches must be a `DroppedBatch`.

    Attributes:
        images: what is known of them whole.
    """

    images: WholeImages
    name = "views"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The attention of all blocks."""
        return [sites.named(site.name) for site in self.images.sites]

    def start(self, sites: Sequence[Site]) -> DroppedViewsState:
        """A state that has seen nothing."""
        return DroppedViewsState(self, sites)

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> DroppedViewsState:
        """The state that `DroppedViewsState.arrays` described."""
        return DroppedViewsState(self, sites, [(arrays["ids"], arrays["values"])])


_Seen = tuple[UInt8[Array, "_ 16"], Float[Array, "_ level token measure"]]


class DroppedViewsState:
    """Id and measures of every image, 80 bytes a level. Within a pass it holds the attention of a batch."""

    def __init__(self, meter: DroppedViews, sites: Sequence[Site], seen: Sequence[_Seen] = ()) -> None:
        self.meter, self._sites, self.seen = meter, sites, list(seen)
        self._layers: list[Tensor] = []

    def read(self, reading: Reading) -> None:
        """Take in one batch at one block; the last one tells the views."""
        self._layers.append(spread(reading.site, reading.activations.detach()).mean(1))
        if len(self._layers) < len(self._sites):
            return
        flow, self._layers = rolled(self._layers)[self.meter.images.levels], []
        batch = reading.batch
        if isinstance(batch, DroppedBatch):
            ids = np.frombuffer(bytes.fromhex("".join(batch.ids)), np.uint8).reshape(-1, 16)
            self.seen.append((ids, compared(self.meter.images.filters, batch, flow)))

    def merge(self, other: DroppedViewsState) -> DroppedViewsState:
        """What both have seen."""
        return DroppedViewsState(self.meter, self._sites, [*self.seen, *other.seen])

    def arrays(self) -> Arrays:
        """Everything, ordered by id: equal states have equal arrays."""
        empty = np.zeros((0, len(self.meter.images.levels), len(TOKENS), len(MEASURES)))
        ids = np.concatenate([np.zeros((0, 16), np.uint8), *(ids for ids, _ in self.seen)])
        values = np.concatenate([empty, *(values for _, values in self.seen)])
        order = np.lexsort(ids.T[::-1])
        return {"ids": ids[order], "values": values[order]}

    def result(self) -> Compared:
        """The measures."""
        return Compared(**self.arrays())


def rows_of(found: Compared, levels: Sequence[int]) -> list[Row]:
    """A row for each level and token: means over images that have it, and their standard errors."""
    rows: list[Row] = []
    for place, level in enumerate(levels):
        for which, token in enumerate(TOKENS if level else (IMAGE,)):
            values = dict(zip(MEASURES, found.values[:, place, which].T, strict=True))
            values["auc_gain"] = values["auc"] - values["auc_turned"]
            row: Row = {"level": level, "token": token, "compared": int(np.isfinite(values["cosine"]).sum())}
            for name, one in values.items():
                row[name] = (100 if name.startswith("from_") else 1) * _mean(one)
                if name in ("cosine", "auc_gain"):
                    row[f"{name}_error"] = _error(one)
            if row["compared"]:
                rows.append(row)
    return rows


def _mean(values: Float[Array, " image"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else float("nan")


def _error(values: Float[Array, " image"]) -> float:
    known = values[np.isfinite(values)]
    return float(known.std(ddof=1) / np.sqrt(len(known))) if len(known) > 1 else float("nan")
