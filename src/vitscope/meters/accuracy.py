"""How often the right class is among a model's first k, with intervals, and image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Int32, UInt8

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.ranking import Ranked, labelled, no_accuracy, ranks_of
from vitscope.meters.reading import Array, Reading
from vitscope.meters.share import Ratio, Share, paired_p_value, paired_ratio
from vitscope.models.vision_model import Site


@dataclass(frozen=True, eq=False)
class Accuracies:
    """What `Accuracy` found: of every labelled image the rank of its class, in the order of ids.

    Attributes:
        top: the k that were asked for.
        ids: the images, 16 bytes each; an image that came twice counts twice.
        labels: the right class.
        ranks: how many classes come before it; 0 where the model is right. `NEVER` where a logit of the
            image is not finite.
        unlabelled: images without a label, which do not count.
    """

    top: tuple[int, ...]
    ids: UInt8[Array, "image 16"] = field(repr=False)
    labels: Int32[Array, " image"] = field(repr=False)
    ranks: Int32[Array, " image"] = field(repr=False)
    unlabelled: int

    def __len__(self) -> int:
        return len(self.ranks)

    def right(self, k: int = 1) -> Bool[Array, " image"]:
        """Of every image whether its class is among the first k.

        Raises:
            BadValue: k is below 1.
        """
        if k < 1:
            raise BadValue(f"the first k classes: k is at least 1, not {k}")
        found: Bool[Array, " image"] = self.ranks < k
        return found

    def share(self, k: int = 1) -> Share:
        """How many images have their class among the first k."""
        return Share(int(self.right(k).sum()), len(self))

    def row(self) -> dict[str, float]:
        """Columns of a table, of every k asked for: `top1`, `top1_low`, `top1_high`, ..., in per cent."""
        return {name: value for k in self.top for name, value in self.share(k).row(f"top{k}").items()}

    def relative_to(self, other: Accuracies, *, k: int = 1, seed: int = 0) -> Ratio:
        """This accuracy as a share of another's over the same images, 100 where nothing was lost.

        The interval is a percentile bootstrap over images, both accuracies being taken of the same ones. NaN
        where the other is never right.

        Raises:
            BadValue: the two have not seen the same images.
        """
        self._check_paired(other)
        return paired_ratio(self.right(k), other.right(k), seed=seed)

    def p_value(self, other: Accuracies, *, k: int = 1) -> float:
        """McNemar's exact test: whether one of the two gets more images right that the other does not.

        1 where they agree on every image.

        Raises:
            BadValue: the two have not seen the same images.
        """
        self._check_paired(other)
        return paired_p_value(self.right(k), other.right(k))

    def _check_paired(self, other: Accuracies) -> None:
        if not (np.array_equal(self.ids, other.ids) and np.array_equal(self.labels, other.labels)):
            raise BadValue(
                f"only the same images can be compared one by one: these are {len(self)} and {len(other)} "
                "images that differ"
            )


@dataclass(frozen=True)
class Accuracy(Ranked):
    """The share of images whose class is among the model's first k.

    Classes are ranked by logit, equal ones by index, so that the first is what `argmax` gives. Images without
    a label do not count. An image with logits that are not finite is never right.

    >>> scan(model, source, [Accuracy()])["accuracy"].share(1).value   # doctest: +SKIP

    Args:
        top: the k that a table shows.
        site: where the logits are read.

    Raises:
        BadValue: no k, or one below 1.
    """

    @property
    def name(self) -> str:
        """ "accuracy"."""
        return "accuracy"

    def start(self, sites: Sequence[Site]) -> AccuracyState:
        """A state that has seen nothing."""
        return AccuracyState(self, sites[0])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> AccuracyState:
        """The state that `AccuracyState.arrays` described."""
        state = self.start(sites)
        state.unlabelled = int(arrays["unlabelled"])
        state.seen = [(arrays["ids"], arrays["labels"], arrays["ranks"])]
        return state


_Seen = tuple[UInt8[Array, "image 16"], Int32[Array, " image"], Int32[Array, " image"]]


class AccuracyState:
    """Id, label and rank of every labelled image: 24 bytes each."""

    def __init__(self, meter: Accuracy, site: Site) -> None:
        self.meter, self.site = meter, site
        self.unlabelled = 0
        self.seen: list[_Seen] = []

    def read(self, reading: Reading) -> None:
        """Take in one batch of logits."""
        labels = reading.batch.labels
        known = labelled(labels, self.site)
        self.unlabelled += int((~known).sum())
        logits, places = reading.activations[:, :1], known.to(reading.activations.device)
        ranks = ranks_of(logits[places], labels.to(logits.device)[places])[:, 0]
        ids = np.frombuffer(bytes.fromhex("".join(reading.batch.ids)), np.uint8).reshape(-1, 16)
        self.seen.append((ids[known.numpy()], labels[known].int().numpy(), ranks.cpu().numpy()))

    def merge(self, other: AccuracyState) -> AccuracyState:
        """What both have seen."""
        both = AccuracyState(self.meter, self.site)
        both.unlabelled = self.unlabelled + other.unlabelled
        both.seen = [*self.seen, *other.seen]
        return both

    def arrays(self) -> Arrays:
        """Everything, ordered by id, label and rank: equal states have equal arrays."""
        ids = np.concatenate([np.zeros((0, 16), np.uint8), *(seen[0] for seen in self.seen)])
        labels, ranks = (
            np.concatenate([np.zeros(0, np.int32), *(seen[what] for seen in self.seen)]) for what in (1, 2)
        )
        order = np.lexsort((ranks, labels, *ids.T[::-1]))
        return {
            "ids": ids[order],
            "labels": labels[order],
            "ranks": ranks[order],
            "unlabelled": np.array(self.unlabelled),
        }

    def result(self) -> Accuracies:
        """Ranks and shares.

        Raises:
            BadValue: no image has a label.
        """
        found = self.arrays()
        if not len(found["ranks"]):
            raise no_accuracy(self.unlabelled)
        return Accuracies(self.meter.top, found["ids"], found["labels"], found["ranks"], self.unlabelled)
