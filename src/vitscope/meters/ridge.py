"""Ridge regression of classes on vectors, from sums that merge, as few-shot probes are fitted.

The recipe is that of big_vision's `fewshot_lsr.py`, which Raghu et al. 2021 (section 6) follow: vectors are
standardised, a constant of 100 is appended as a nearly free bias, targets are +1 for the class and -1 for
all others, and the matrix of the smaller side is decomposed once for all strengths. As standardised vectors
have mean zero, the constant stands apart and needs no column of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int64

from vitscope.meters.reading import Array

CONSTANT = 100.0
"""The column that stands for the bias (fewshot_lsr.py, `BIAS_CONSTANT`)."""
FLOOR = 1e-5
"""Added to standard deviations (fewshot_lsr.py, `_precompute_cache`)."""


@dataclass(frozen=True, eq=False)
class Sums:
    """What a regression of classes needs to know of the vectors it is fitted to. Two of them merge.

    Attributes:
        counts: how many vectors each class has.
        totals: the sum of each class's vectors.
        scatter: X^T X of all vectors less their mean, so that a large mean costs no digits.
    """

    counts: Int64[Array, " class"]
    totals: Float64[Array, "class unit"] = field(repr=False)
    scatter: Float64[Array, "unit unit"] = field(repr=False)

    @classmethod
    def of(cls, rows: Float[Array, "image unit"], columns: Int[Array, " image"], classes: int) -> Sums:
        """The sums of some vectors, whose classes are numbers from 0."""
        wide = rows.astype(np.float64)
        totals = np.zeros((classes, rows.shape[1]))
        np.add.at(totals, columns, wide)
        centred = wide - wide.mean(axis=0) if len(wide) else wide
        return cls(np.bincount(columns, minlength=classes), totals, centred.T @ centred)

    @property
    def images(self) -> int:
        """How many vectors there are."""
        return int(self.counts.sum())

    @property
    def mean(self) -> Float64[Array, " unit"]:
        """Over all vectors; zero of none."""
        return np.asarray(self.totals.sum(axis=0) / max(self.images, 1))

    @property
    def spread(self) -> Float64[Array, " unit"]:
        """What units are divided by: their standard deviation over the vectors, and `FLOOR`."""
        return np.asarray(np.sqrt(self.scatter.diagonal() / max(self.images, 1)) + FLOOR)

    def plus(self, other: Sums) -> Sums:
        """The sums of both (Chan et al. 1979, "Updating Formulae", eq. 2.1, with vectors for numbers)."""
        apart = self.mean - other.mean
        both = self.images + other.images
        weight = self.images * other.images / max(both, 1)
        scatter = self.scatter + other.scatter + weight * np.outer(apart, apart)
        return Sums(self.counts + other.counts, self.totals + other.totals, scatter)


@dataclass(frozen=True, eq=False)
class Ridge:
    """A fit, ready for every strength: the regression's matrix is in the basis in which it is diagonal.

    Attributes:
        mean, spread: of the vectors it was fitted to: units are standardised by them.
        basis: from standardised units to directions.
        energy: what a strength is added to, of each direction.
        targets: what each direction says of each class.
        counts: how many vectors each class had.
    """

    mean: Float64[Array, " unit"] = field(repr=False)
    spread: Float64[Array, " unit"] = field(repr=False)
    basis: Float64[Array, "unit direction"] = field(repr=False)
    energy: Float64[Array, " direction"] = field(repr=False)
    targets: Float64[Array, "direction class"] = field(repr=False)
    counts: Int64[Array, " class"]

    def scores(self, rows: Float[Array, "image unit"], strength: float) -> Float64[Array, "image class"]:
        """What the fit with one strength above 0 says of vectors: the class with the largest score is it."""
        return self._scores(self._directions(rows), strength)

    def right(
        self, rows: Float[Array, "image unit"], columns: Int[Array, " image"], strengths: Sequence[float]
    ) -> Bool[Array, "strength image"]:
        """With each strength, whether a vector's class gets the largest score, the first of equal ones."""
        directions = self._directions(rows)
        return np.stack([self._scores(directions, each).argmax(axis=1) == columns for each in strengths])

    def _directions(self, rows: Float[Array, "image unit"]) -> Float64[Array, "image direction"]:
        return np.asarray((rows - self.mean) / self.spread @ self.basis)

    def _scores(
        self, directions: Float64[Array, "image direction"], strength: float
    ) -> Float64[Array, "image class"]:
        images, pull = self.counts.sum(), CONSTANT**2
        bias = pull * (2 * self.counts - images) / (pull * images + strength)
        return np.asarray((directions / (self.energy + strength)) @ self.targets + bias)


def primal(sums: Sums) -> Ridge:
    """(Z^T Z + a I)^-1 Z^T Y from sums: what it costs depends on the units, not on the images."""
    mean, spread = sums.mean, sums.spread
    energy, basis = np.linalg.eigh(sums.scatter / np.outer(spread, spread))
    own = (sums.totals - sums.counts[:, None] * mean) / spread
    products = 2 * own - own.sum(axis=0)  # Z^T Y, with +1 for a class's own and -1 for the others
    return Ridge(mean, spread, basis, np.maximum(energy, 0), basis.T @ products.T, sums.counts)


def dual(rows: Float[Array, "image unit"], columns: Int[Array, " image"], classes: int) -> Ridge:
    """Z^T (Z Z^T + a I)^-1 Y from the vectors: the same, and cheaper where they are fewer than the units."""
    wide = rows.astype(np.float64)
    mean, spread = wide.mean(axis=0), wide.std(axis=0) + FLOOR
    standard = (wide - mean) / spread
    energy, turned = np.linalg.eigh(standard @ standard.T)
    signs = 2.0 * (columns[:, None] == np.arange(classes)) - 1
    counts = np.bincount(columns, minlength=classes)
    return Ridge(mean, spread, standard.T @ turned, np.maximum(energy, 0), turned.T @ signs, counts)
