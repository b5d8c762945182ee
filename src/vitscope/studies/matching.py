"""Two groups of units compared at equal sharpness: in bins that both have members in."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from vitscope.meters.reading import Array
from vitscope.meters.share import CONFIDENCE
from vitscope.studies.effects import NOTHING, Effect

BINS = 5
"""Of equal numbers of units, both groups taken together."""


def matched_difference(
    ours: Float[Array, " our"],
    our_sharpness: Float[Array, " our"],
    theirs: Float[Array, " their"],
    their_sharpness: Float[Array, " their"],
) -> tuple[Effect, int]:
    """The mean of ours less the mean of theirs, at equal sharpness, and how many of ours were compared.

    Units are put into `BINS` bins by sharpness. The differences within bins are averaged by how many units
    the smaller side has there; bins with fewer than two on a side are left out. The interval is that of a
    normal distribution, variances being taken within bins. Units with a NaN take no part.
    """
    good = [
        np.isfinite(values) & np.isfinite(sharp)
        for values, sharp in ((ours, our_sharpness), (theirs, their_sharpness))
    ]
    pooled = np.concatenate([our_sharpness[good[0]], their_sharpness[good[1]]])
    if not len(pooled):
        return NOTHING, 0
    edges = np.quantile(pooled, np.arange(1, BINS) / BINS)
    our_bin, their_bin = (
        np.digitize(our_sharpness[good[0]], edges),
        np.digitize(their_sharpness[good[1]], edges),
    )
    weights, differences, variances, compared = [], [], [], 0
    for which in range(BINS):
        mine, other = ours[good[0]][our_bin == which], theirs[good[1]][their_bin == which]
        if min(len(mine), len(other)) < 2:
            continue
        weights.append(min(len(mine), len(other)))
        differences.append(mine.mean() - other.mean())
        variances.append(mine.var(ddof=1) / len(mine) + other.var(ddof=1) / len(other))
        compared += len(mine)
    return _weighted(np.array(weights), np.array(differences), np.array(variances)), compared


def _weighted(weights: Array, differences: Array, variances: Array) -> Effect:
    from scipy.stats import norm

    if not len(weights):
        return NOTHING
    share = weights / weights.sum()
    value = float((share * differences).sum())
    half = float(norm.ppf((1 + CONFIDENCE) / 2)) * math.sqrt(float((share**2 * variances).sum()))
    return Effect(value, value - half, value + half)
