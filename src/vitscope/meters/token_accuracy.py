"""How often the right class is among the first k, at each of several answers to an image: places, depths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange
from jaxtyping import Int64

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.ranking import Ranked, labelled, no_accuracy, ranks_of
from vitscope.meters.reading import Array, Reading
from vitscope.meters.share import Share
from vitscope.models.vision_model import Site


@dataclass(frozen=True, eq=False)
class TokenAccuracies:
    """What `TokenAccuracy` found.

    Attributes:
        top: the k that were asked for.
        right: of every k and every answer, in how many images the class was among its first k.
        images: how many labelled images were seen.
        unlabelled: images without a label, which do not count.
    """

    top: tuple[int, ...]
    right: Int64[Array, "k answer"] = field(repr=False)
    images: int
    unlabelled: int

    def __len__(self) -> int:
        return int(self.right.shape[1])

    def share(self, answer: int, *, k: int = 1) -> Share:
        """Of one answer, in how many images the class is among the first k.

        Raises:
            BadValue: k is none of those asked for.
        """
        return Share(int(self.right[self._row(k), answer]), self.images)

    def values(self, k: int = 1) -> Array:
        """Of every answer, in per cent.

        Raises:
            BadValue: k is none of those asked for.
        """
        return np.asarray(100.0 * self.right[self._row(k)] / self.images)

    def _row(self, k: int) -> int:
        if k not in self.top:
            raise BadValue(f"the first {k} were not counted, only the first {', '.join(map(str, self.top))}")
        return self.top.index(k)


@dataclass(frozen=True)
class TokenAccuracy(Ranked):
    """Accuracy of each answer, where a model hands out several rows an image, one after another.

    That is so inside `head_on_places` (one row for every token of the last layer, and one for the average of
    the patches), `isolation_depths` and `dropping_depths` (one for every depth); a plain model hands out one.
    Classes are ranked as `Accuracy` does. A row with a logit that is not finite is wrong.

    >>> with head_on_places(model):   # doctest: +SKIP
    ...     scan(model, source, [TokenAccuracy()])["token_accuracy"].values(k=1)

    Args:
        top: the k that count.
        site: where the logits are read.

    Raises:
        BadValue: no k, or one below 1.
    """

    @property
    def name(self) -> str:
        """ "token_accuracy"."""
        return "token_accuracy"

    def start(self, sites: Sequence[Site]) -> TokenAccuracyState:
        """A state that has seen nothing."""
        return TokenAccuracyState(self, sites[0])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> TokenAccuracyState:
        """The state that `TokenAccuracyState.arrays` described."""
        state = self.start(sites)
        state.right = arrays["right"].copy()
        state.images, state.unlabelled = (int(arrays[name]) for name in ("images", "unlabelled"))
        return state


class TokenAccuracyState:
    """Counts of right answers."""

    def __init__(self, meter: TokenAccuracy, site: Site) -> None:
        self.meter, self.site = meter, site
        self.images = self.unlabelled = 0
        self.right: Int64[Array, "k answer"] = np.zeros((len(meter.top), 0), np.int64)

    def read(self, reading: Reading) -> None:
        """Take in one batch of logits, as many rows an image as there are."""
        labels, logits = reading.batch.labels, reading.activations[:, 0]
        if len(logits) % len(labels):
            raise BadValue(f"{len(logits)} rows of logits are not as many for each of {len(labels)} images")
        known = labelled(labels, self.site)
        self.unlabelled += int((~known).sum())
        answers = rearrange(logits, "(image answer) unit -> image answer unit", image=len(labels))
        ranks = ranks_of(answers[known.to(logits.device)], labels[known].to(logits.device))
        right = np.stack([(ranks < k).sum(0).cpu().numpy() for k in self.meter.top])
        self.images += int(known.sum())
        self.right = _added(self.right, right)

    def merge(self, other: TokenAccuracyState) -> TokenAccuracyState:
        """What both have seen."""
        both = TokenAccuracyState(self.meter, self.site)
        both.images, both.unlabelled = self.images + other.images, self.unlabelled + other.unlabelled
        both.right = _added(self.right, other.right)
        return both

    def arrays(self) -> Arrays:
        """The counts."""
        images, unlabelled = np.array(self.images), np.array(self.unlabelled)
        return {"right": self.right, "images": images, "unlabelled": unlabelled}

    def result(self) -> TokenAccuracies:
        """Shares.

        Raises:
            BadValue: no image has a label.
        """
        if not self.images:
            raise no_accuracy(self.unlabelled)
        return TokenAccuracies(self.meter.top, self.right, self.images, self.unlabelled)


def _added(one: Array, other: Array) -> Array:
    """The sum of two counts; nothing has been counted yet where there are no answers."""
    if not one.shape[1] or not other.shape[1]:
        return np.asarray(one if one.shape[1] else other)
    if one.shape != other.shape:
        raise BadValue(f"{one.shape[1]} and {other.shape[1]} answers an image cannot be counted together")
    return np.asarray(one + other)
