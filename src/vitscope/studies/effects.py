"""How far apart two groups lie: Cliff's delta with its interval, and how well a classifier parts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Shaped

from vitscope.meters.reading import Array
from vitscope.meters.share import CONFIDENCE, Share

FOLDS = 5
"""Parts of a cross-validation, where the smaller group has as many."""
EPSILON = 1e-9
"""Beside the estimate itself, where the equation of the interval has a root that is not meant."""


@dataclass(frozen=True)
class Effect:
    """A number with its interval of 95 %; all NaN where there is nothing to compare."""

    value: float
    low: float
    high: float

    def row(self, name: str) -> dict[str, float]:
        """Columns of a table: `name`, `name_low`, `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


NOTHING = Effect(math.nan, math.nan, math.nan)


def cliffs_delta(ours: Float[Array, " our"], theirs: Float[Array, " their"]) -> Effect:
    """How much more often one of ours exceeds one of theirs than the reverse, over all pairs (Cliff 1993).

    1: all of ours lie above all of theirs; 0: neither is larger. It is the rank-biserial correlation of the
    Mann-Whitney test. The interval is that of Newcombe 2006 (Statistics in Medicine 25, method 5), which
    stays honest for a few values and where groups do not overlap at all.
    """
    if not (len(ours) and len(theirs)):
        return NOTHING
    differences = np.sign(ours[:, None] - theirs[None])
    share = (1 + float(differences.mean())) / 2
    low = _bound(share, len(ours), len(theirs))
    high = 1 - _bound(1 - share, len(ours), len(theirs))
    return Effect(2 * share - 1, 2 * low - 1, 2 * high - 1)


def _bound(share: float, ours: int, theirs: int) -> float:
    """The lower end of the interval of the share of pairs that ours win."""
    from scipy.optimize import brentq

    if share <= EPSILON:
        return 0.0
    return float(brentq(partial(_excess, share, ours, theirs), 0.0, share - EPSILON))


def _excess(share: float, ours: int, theirs: int, at: float) -> float:
    """By how much the squared distance exceeds that of 95 %, if `at` were true."""
    from scipy.stats import norm

    z = float(norm.ppf((1 + CONFIDENCE) / 2))
    more = (ours + theirs) / 2 - 1
    variance = at * (1 - at) * (1 + more * ((1 - at) / (2 - at) + at / (1 + at))) / (ours * theirs)
    return (share - at) ** 2 - z**2 * variance


def average(effects: Sequence[Effect]) -> Effect:
    """The mean of independent effects; intervals are joined by adding squared distances (Zou and Donner
    2008). Those that are NaN take no part."""
    known = [effect for effect in effects if math.isfinite(effect.value)]
    if not known:
        return NOTHING
    value = sum(effect.value for effect in known) / len(known)
    below = math.sqrt(sum((effect.value - effect.low) ** 2 for effect in known)) / len(known)
    above = math.sqrt(sum((effect.high - effect.value) ** 2 for effect in known)) / len(known)
    return Effect(value, value - below, value + above)


def mean_of(values: Float[Array, " value"]) -> Effect:
    """The mean, with Student's interval; the interval is NaN for a single value."""
    from scipy.stats import t

    if not len(values):
        return NOTHING
    value = float(values.mean())
    if len(values) < 2:
        return Effect(value, math.nan, math.nan)
    half = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values)))
    return Effect(value, value - half, value + half)


def separability(
    features: Float[Array, "picture feature"], late: Bool[Array, " picture"], *, seed: int = 0
) -> Share:
    """How many pictures a linear classifier puts into the right one of two groups; each is judged by one that
    has not seen it.

    Logistic regression on standardised features with scikit-learn's own regularisation (C = 1), in a
    stratified cross-validation of `FOLDS` parts, or as many as the smaller group has members. Of none where
    that has fewer than two.

    Args:
        features: numbers of each picture.
        late: which of the two groups each belongs to.
        seed: of the parts.
    """
    folds = min(FOLDS, int(late.sum()), int((~late).sum()))
    if folds < 2:
        return Share(0, 0)
    said = _predicted(features, late, folds, seed)
    return Share(int((said == late).sum()), len(late))


def _predicted(features: Array, late: Array, folds: int, seed: int) -> Shaped[Array, " picture"]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed)
    said: Array = cross_val_predict(classifier, features, late, cv=parts)
    return said
