"""How often a classifier of each readout is right: probes with every strength, or nearest class means."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float64, Int64

from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.meters.readouts import Readout, read_off, sites_of
from vitscope.meters.share import Share
from vitscope.models.vision_model import Site, Sites

Judge = Callable[[Float64[Array, "image unit"], Int64[Array, " image"]], Bool[Array, "variant image"]]
"""From vectors and the places of their classes to whether each of some classifiers is right."""


@dataclass(frozen=True, eq=False)
class ReadoutShares:
    """What `ReadoutAccuracy` found for one readout.

    Attributes:
        right: of every variant of its classifier, in how many images it was right.
        images: how many images of the classes there were; one whose vector is not finite is never right.
    """

    right: Int64[Array, " variant"]
    images: int

    def share(self, variant: int = 0) -> Share:
        """Of one variant."""
        return Share(int(self.right[variant]), self.images)


@dataclass(frozen=True)
class ReadoutAccuracy:
    """The share of images that classifiers of readouts are right on.

    Args:
        judges: of every readout, its classifier in one or several variants.
        classes: the labels that count; images of others are passed over.
    """

    judges: Mapping[Readout, Judge] = field(repr=False)
    classes: tuple[int, ...] = field(repr=False)
    name = "readout_accuracy"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites of the readouts."""
        return sites_of(self.judges, sites)

    def start(self, sites: Sequence[Site]) -> ReadoutAccuracyState:  # noqa: ARG002 - as every meter
        """A state that has seen nothing."""
        return ReadoutAccuracyState(self)

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> ReadoutAccuracyState:
        """The state that `ReadoutAccuracyState.arrays` described."""
        state = self.start(sites)
        for readout in self.judges:
            state.right[readout], state.images[readout] = (
                arrays[f"{readout.name}/{what}"] for what in ("right", "images")
            )
        return state


class ReadoutAccuracyState:
    """Counts, by readout."""

    def __init__(self, meter: ReadoutAccuracy) -> None:
        self.meter = meter
        self.right: dict[Readout, Array] = dict.fromkeys(meter.judges, np.zeros((), np.int64))
        self.images: dict[Readout, Array] = dict.fromkeys(meter.judges, np.zeros((), np.int64))

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        for readout, vectors, columns in read_off(reading, self.meter.judges, self.meter.classes):
            finite = np.isfinite(vectors).all(axis=1)
            right = self.meter.judges[readout](vectors[finite], columns[finite])
            self.right[readout] = self.right[readout] + right.sum(axis=1)
            self.images[readout] = self.images[readout] + len(columns)

    def merge(self, other: ReadoutAccuracyState) -> ReadoutAccuracyState:
        """What both have seen."""
        both = ReadoutAccuracyState(self.meter)
        for readout in self.meter.judges:
            both.right[readout] = self.right[readout] + other.right[readout]
            both.images[readout] = self.images[readout] + other.images[readout]
        return both

    def arrays(self) -> Arrays:
        """The counts, as "<site>@<tokens>/<what>"."""
        found = {f"{readout.name}/right": np.asarray(right) for readout, right in self.right.items()}
        return found | {
            f"{readout.name}/images": np.asarray(images) for readout, images in self.images.items()
        }

    def result(self) -> dict[Readout, ReadoutShares]:
        """Shares, by readout."""
        return {
            readout: ReadoutShares(np.atleast_1d(right), int(self.images[readout]))
            for readout, right in self.right.items()
        }
