"""The nearest class mean: a classifier that needs no head, only some images of every class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from vitscope.meters.reading import Array
from vitscope.meters.ridge import Sums


@dataclass(frozen=True, eq=False)
class NearestMean:
    """The class whose mean is nearest, of vectors that helped to make the means themselves.

    Distances are Euclidean over standardised units. Of its own class a vector meets the mean of the others
    only (Mensink et al. 2013, "Distance-Based Image Classification", section 3, leave-one-out here), so a
    class of one vector has none.

    Attributes:
        sums: of all vectors.
    """

    sums: Sums

    def distances(
        self, rows: Float[Array, "image unit"], columns: Int[Array, " image"]
    ) -> Float64[Array, "image class"]:
        """Squared distances to the mean of every class; infinite to one that has no other vector."""
        mean, spread, counts = self.sums.mean, self.sums.spread, self.sums.counts.astype(np.float64)
        vectors = (rows - mean) / spread
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (self.sums.totals / counts[:, None] - mean) / spread
            away = np.square(vectors).sum(axis=1)[:, None] - 2 * vectors @ means.T
            away += np.square(means).sum(axis=1)
            own = np.arange(len(rows)), columns
            away[own] *= np.square(
                counts[columns] / (counts[columns] - 1)
            )  # a mean without the vector itself
        return np.where(np.isnan(away), np.inf, away)

    def right(
        self, rows: Float[Array, "image unit"], columns: Int[Array, " image"]
    ) -> Bool[Array, "1 image"]:
        """Whether the mean of the others of a vector's class is the nearest, the first of equal ones."""
        return np.asarray((self.distances(rows, columns).argmin(axis=1) == columns)[None])
