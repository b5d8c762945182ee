"""How many of how many, with intervals: single, and compared image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from vitscope.meters.reading import Array

CONFIDENCE = 0.95
"""Of every interval."""
RESAMPLES = 2000
"""Of the paired bootstrap: the ends of its interval vary by about 2 % of its width."""


@dataclass(frozen=True)
class Share:
    """How many of how many, in per cent, with Wilson's interval of 95 %.

    Attributes:
        right: how many.
        images: of how many.
    """

    right: int
    images: int

    @property
    def value(self) -> float:
        """Per cent; NaN of none."""
        return 100 * self.right / self.images if self.images else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's score interval of 95 %, in per cent (Wilson 1927); (0, 100) of none."""
        from scipy.stats import binomtest

        if not self.images:
            return 0.0, 100.0
        found = binomtest(self.right, self.images).proportion_ci(CONFIDENCE, method="wilson")
        return 100 * float(found.low), 100 * float(found.high)

    def row(self, name: str) -> dict[str, float]:
        """Columns of a table: `name`, `name_low`, `name_high`."""
        low, high = self.interval
        return {name: self.value, f"{name}_low": low, f"{name}_high": high}


@dataclass(frozen=True)
class Ratio:
    """One share divided by another over the same images, in per cent, with a paired interval of 95 %."""

    value: float
    low: float
    high: float


def paired_ratio(ours: Bool[Array, " image"], theirs: Bool[Array, " image"], *, seed: int = 0) -> Ratio:
    """The share of images that are right in ours, divided by that in theirs, over the same images.

    The interval is a percentile bootstrap over images, both shares being taken of the same ones. All NaN
    where theirs has none.

    Args:
        ours, theirs: whether each image is right.
        seed: of the resampling.
    """
    if not theirs.any():
        return Ratio(float("nan"), float("nan"), float("nan"))
    cells = np.bincount(2 * ours.astype(np.int64) + theirs, minlength=4)
    draws = np.random.default_rng(seed).multinomial(len(ours), cells / len(ours), size=RESAMPLES)
    above, below = draws[:, 2] + draws[:, 3], draws[:, 1] + draws[:, 3]
    ratios = 100 * above[below > 0] / below[below > 0]
    low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Ratio(100 * float(ours.sum() / theirs.sum()), float(low), float(high))


def paired_p_value(ours: Bool[Array, " image"], theirs: Bool[Array, " image"]) -> float:
    """McNemar's exact test (McNemar 1947) over the same images; 1 where the two agree on every image."""
    from scipy.stats import binomtest

    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if not only_ours + only_theirs:
        return 1.0
    return float(binomtest(only_ours, only_ours + only_theirs).pvalue)
