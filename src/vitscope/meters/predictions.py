"""The class that a model puts first, of every image: to compare what it says under two conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

NONE = -1
"""The class of an image with logits that are not finite."""


@dataclass(frozen=True, eq=False)
class Predicted:
    """The first class of every image, in the order of ids.

    Attributes:
        ids: the images, 16 bytes each; an image that came twice is there twice.
        classes: that with the largest logit, the first of equal ones; `NONE` where a logit is not finite.
    """

    ids: UInt8[Array, "image 16"] = field(repr=False)
    classes: Int32[Array, " image"] = field(repr=False)

    def same(self, other: Predicted) -> Bool[Array, " image"]:
        """Of every image whether the two put the same class first; never where one has none.

        Raises:
            BadValue: the two have not seen the same images.
        """
        if not np.array_equal(self.ids, other.ids):
            raise BadValue("only what was said of the same images can be compared")
        found: Bool[Array, " image"] = (self.classes == other.classes) & (self.classes != NONE)
        return found

    def right(self, labels: Mapping[str, int]) -> Bool[Array, " image"]:
        """Of every labelled image whether its class is put first.

        Args:
            labels: class by image id, -1 where unknown.
        """
        true = np.array([labels[row.tobytes().hex()] for row in self.ids], np.int64)
        return np.asarray((self.classes == true)[true >= 0])


@dataclass(frozen=True)
class Predictions:
    """The class with the largest logit, of every image: 20 bytes each.

    Args:
        site: where the logits are read.
    """

    site: str = "logits"
    name = "predictions"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The logits."""
        return [sites.named(self.site)]

    def start(self, sites: Sequence[Site]) -> PredictionsState:
        """A state that has seen nothing."""
        return PredictionsState(sites[0])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> PredictionsState:
        """The state that `PredictionsState.arrays` described."""
        return PredictionsState(sites[0], [(arrays["ids"], arrays["classes"])])


_Seen = tuple[UInt8[Array, "_ 16"], Int32[Array, " _"]]


class PredictionsState:
    """Id and first class of every image."""

    def __init__(self, site: Site, seen: Sequence[_Seen] = ()) -> None:
        self.site, self.seen = site, list(seen)

    def read(self, reading: Reading) -> None:
        """Take in one batch of logits."""
        logits = reading.activations[:, 0].detach().float().cpu().numpy()
        ids = np.frombuffer(bytes.fromhex("".join(reading.batch.ids)), np.uint8).reshape(-1, 16)
        known = np.isfinite(logits).all(axis=1)
        self.seen.append((ids, np.where(known, logits.argmax(axis=1), NONE).astype(np.int32)))

    def merge(self, other: PredictionsState) -> PredictionsState:
        """What both have seen."""
        return PredictionsState(self.site, [*self.seen, *other.seen])

    def arrays(self) -> Arrays:
        """Everything, ordered by id and class: equal states have equal arrays."""
        ids = np.concatenate([np.zeros((0, 16), np.uint8), *(ids for ids, _ in self.seen)])
        classes = np.concatenate([np.zeros(0, np.int32), *(classes for _, classes in self.seen)])
        order = np.lexsort((classes, *ids.T[::-1]))
        return {"ids": ids[order], "classes": classes[order]}

    def result(self) -> Predicted:
        """The first classes."""
        found = self.arrays()
        return Predicted(found["ids"], found["classes"])
