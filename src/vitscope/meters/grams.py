"""How alike two sites tell the same images apart, from their Gram matrices: CKA, and one measure beside it.

A Gram matrix holds the products of every two images' features, so two sites of any width, of one model or of
two, are compared image against image, and never place against place within one.

`Grams.cka` is the minibatch estimator of Nguyen, Raghu and Kornblith (2021, "Do Wide and Deep Networks Learn
the Same Things?", eq. 3), which Raghu et al. 2021 (section 2) use: the unbiased HSIC_1 of Song et al. (2012,
"Feature Selection via Dependence Maximization", eq. 5) of every batch, averaged before the ratio is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Float64

from vitscope.errors import BadValue
from vitscope.meters.reading import Array

LEAST = 4
"""Images that a batch must have: HSIC_1 divides by n (n - 3)."""
STEPS = 50
"""Of the search for a spatial median; with two images of 64 a hundred times as far out, 20 are enough."""
NEAREST = 1e-6
"""An image nearer to the median than this share of the farthest lies at it."""


@dataclass(frozen=True, eq=False)
class Similarity:
    """A measure between every two sites, with its uncertainty.

    Attributes:
        value: never clipped: an estimate may lie a little below 0 or above 1; NaN where there is none.
        without: the values without each of the batches; none of a single batch.
    """

    value: Float64[Array, "row column"]
    without: Float64[Array, "batch row column"] = field(repr=False)

    @property
    def error(self) -> Float64[Array, "row column"]:
        """The standard error of every value, by the jackknife over batches; NaN of a single batch."""
        return _jackknife(self.without)

    def estimate(self, of: Callable[[Float64[Array, "row column"]], float]) -> tuple[float, float]:
        """A number made of the values, and its standard error.

        >>> similarity.estimate(lambda values: values[:3, 9:].mean())   # doctest: +SKIP
        """
        without = np.array([[[of(values)]] for values in self.without]).reshape(-1, 1, 1)
        return float(of(self.value)), float(_jackknife(without)[0, 0])


@dataclass(frozen=True, eq=False)
class Grams:
    """The Gram matrices of some sites over the same batches of images.

    Attributes:
        sites: names, in forward order.
        ids: the images of every batch, "image 16", as bytes.
        values: of every batch, "site pair", the matrices of centred features: of each its upper triangle with
            the diagonal, row by row.
        dropped: images left out because fewer than four were left for a last batch.
    """

    sites: tuple[str, ...]
    ids: tuple[Array, ...] = field(repr=False)
    values: tuple[Array, ...] = field(repr=False)
    dropped: int = 0

    @property
    def images(self) -> int:
        """How many images were compared."""
        return sum(map(len, self.ids))

    def chosen(self, sites: Sequence[str]) -> Grams:
        """Those of some sites."""
        places = [self.sites.index(site) for site in sites]
        return Grams(tuple(sites), self.ids, tuple(rows[places] for rows in self.values), self.dropped)

    @property
    def repeated(self) -> int:
        """How many images come again within their batch: they are alike at every site."""
        return sum(len(ids) - len(np.unique(ids, axis=0)) for ids in self.ids)

    @property
    def status(self) -> dict[str, str]:
        """Of every site: "ok", "constant" (all images alike: no similarity exists) or "nan" (not finite)."""
        found = {}
        for index, site in enumerate(self.sites):
            rows = [batch[index] for batch in self.values]
            finite = all(np.isfinite(row).all() for row in rows)
            found[site] = ("ok" if any(row.any() for row in rows) else "constant") if finite else "nan"
        return found

    def cka(self, other: Grams | None = None, *, spherical: bool = False) -> Similarity:
        """Unbiased minibatch CKA of these sites with another's, or with one another.

        Args:
            other: those of the same images in the same batches, of any model; these again if not given.
            spherical: whether every image counts with length 1 as seen from the spatial median, so that no
                few images with extreme features decide the value (spatial signs: Locantore et al. 1999).

        Raises:
            BadValue: the two have not seen the same images, or there is no batch.
        """
        cross, here, there = [], [], []
        for batch, ours, theirs in self._beside(other):
            count, same = len(self.ids[batch]), theirs is ours
            rows = _centred(ours, spherical=spherical)
            columns = rows if same else _centred(theirs, spherical=spherical)
            product = 2 / (count * (count - 3)) * (rows @ columns.T)
            own = [2 / (count * (count - 3)) * np.einsum("sp,sp->s", each, each) for each in (rows, columns)]
            cross.append(product)
            here.append(product.diagonal() if same else own[0])
            there.append(product.diagonal() if same else own[1])
        return _ratio(np.stack(cross), np.stack(here), np.stack(there), self._weights)

    def neighbours(self, other: Grams | None = None, *, k: int = 10) -> Similarity:
        """Mutual k-nearest neighbours (Huh et al. 2024, "The Platonic Representation Hypothesis", app. A).

        The share of an image's k nearest within its batch that are the same at both sites, from 0 to 1; by
        chance k / (n - 1) of a batch of n. Distances are Euclidean, ties go to the earlier image. Batches of
        at most 2 k images tell little and are left out; NaN if none is left.

        Raises:
            BadValue: k is below 1, or as `cka`.
        """
        if k < 1:
            raise BadValue(f"k counts neighbours and is at least 1, not {k}")
        shares, weights = [], []
        for batch, ours, theirs in self._beside(other):
            if len(self.ids[batch]) > 2 * k:
                rows = _nearest(ours, k)
                columns = rows if theirs is ours else _nearest(theirs, k)
                shares.append(rows @ columns.T / (len(self.ids[batch]) * k))
                weights.append(len(self.ids[batch]))
        if not shares:
            nothing = np.full((len(self.sites), len((self if other is None else other).sites)), np.nan)
            return Similarity(nothing, nothing[None][:0])
        stacked = np.stack(shares)
        ones = [np.ones((len(shares), size)) for size in stacked.shape[1:]]
        return _ratio(stacked, ones[0], ones[1], np.array(weights, np.float64))

    @property
    def _weights(self) -> Float64[Array, " batch"]:
        """A short last batch counts by its images; equal batches count alike, as in the paper."""
        return np.array([len(ids) for ids in self.ids], np.float64)

    def _beside(self, other: Grams | None) -> Iterator[tuple[int, Array, Array]]:
        """Of every batch: which, our triangles, and theirs."""
        if not self.ids:
            raise BadValue(f"similarity needs at least {LEAST} images, and there are {self.dropped}")
        theirs = self if other is None else other
        same = len(self.ids) == len(theirs.ids) and all(map(np.array_equal, self.ids, theirs.ids))
        if not same:
            raise BadValue(
                f"similarity compares the same images in the same batches: these are {self.images} images in "
                f"{len(self.ids)} batches and {theirs.images} in {len(theirs.ids)}, or others"
            )
        for index, values in enumerate(self.values):
            yield index, values, values if theirs is self else theirs.values[index]


def squares(triangles: Float[Array, "site pair"]) -> Iterator[Float64[Array, "image image"]]:
    """The whole symmetric matrix of every site, in float64."""
    count = int((np.sqrt(8 * triangles.shape[1] + 1) - 1) / 2)
    upper = np.triu_indices(count)
    for triangle in triangles:
        square = np.zeros((count, count))
        square[upper] = triangle
        yield square + np.triu(square, 1).T


def u_centred(gram: Float64[Array, "image image"]) -> Float64[Array, "image image"]:
    """The matrix U-centred (Szekely and Rizzo 2014, definition 2): its diagonal, and every row's sum, is 0.

    HSIC_1 of two matrices is the sum of products of the entries of both, so centred, over n (n - 3).
    """
    count = len(gram)
    hollow = gram - np.diag(gram.diagonal())
    sums = hollow.sum(axis=0) / (count - 2)
    centred = hollow - sums - sums[:, None] + sums.sum() / (count - 1)
    np.fill_diagonal(centred, 0.0)
    return np.asarray(centred)


def _centred(triangles: Float[Array, "site pair"], *, spherical: bool) -> Float64[Array, "site above"]:
    """Above the diagonal, U-centred."""
    found = []
    for gram in squares(triangles):
        with np.errstate(invalid="ignore", over="ignore"):
            shaped = _signs(gram) if spherical else gram
            found.append(u_centred(shaped)[np.triu_indices(len(gram), 1)])
    return np.stack(found)


def _signs(gram: Float64[Array, "image image"]) -> Float64[Array, "image image"]:
    """Cosines of the images as seen from their spatial median; one that lies at it has none with any other.

    From the mean, which a few extreme images draw towards them, all others would look alike.
    """
    count = len(gram)
    if not (np.isfinite(gram).all() and gram.any()):
        return gram
    share = np.full(count, 1 / count)  # the median as a weighted mean of the images (Weiszfeld 1937)
    for _ in range(STEPS):
        along = gram @ share
        away = np.sqrt(np.maximum(gram.diagonal() - 2 * along + share @ along, 0))
        share = 1 / np.maximum(away, NEAREST * away.max())
        share /= share.sum()
    along = gram @ share
    seen = gram - along - along[:, None] + share @ along
    lengths = np.sqrt(np.maximum(seen.diagonal(), 0))
    inverse = np.divide(1.0, lengths, out=np.zeros_like(lengths), where=lengths > NEAREST * lengths.max())
    return np.asarray(seen * inverse * inverse[:, None])


def _nearest(triangles: Float[Array, "site pair"], k: int) -> Float64[Array, "site entry"]:
    """Of every two images whether the second is among the nearest of the first; NaN where none is nearer."""
    found = []
    for gram in squares(triangles):
        count = len(gram)
        with np.errstate(invalid="ignore"):
            away = gram.diagonal() - 2 * gram  # and the length of the row's own image, the same for all
        np.fill_diagonal(away, np.inf)
        near = np.argsort(away, axis=1, kind="stable")[:, :k]
        marked = np.zeros((count, count))
        np.put_along_axis(marked, near, 1.0, axis=1)
        found.append(marked.ravel() if np.isfinite(gram).all() and gram.any() else np.full(count**2, np.nan))
    return np.stack(found)


def _ratio(
    cross: Float64[Array, "batch row column"],
    here: Float64[Array, "batch row"],
    there: Float64[Array, "batch column"],
    weights: Float64[Array, " batch"],
) -> Similarity:
    """The ratio of averages over batches: of all, and of all but each."""
    terms = [np.einsum("b,b...->b...", weights, each) for each in (cross, here, there)]
    whole = [term.sum(axis=0) for term in terms]
    value = _divided(whole[0], whole[1], whole[2])
    without = [
        _divided(whole[0] - terms[0][batch], whole[1] - terms[1][batch], whole[2] - terms[2][batch])
        for batch in range(len(weights) if len(weights) > 1 else 0)
    ]
    return Similarity(value, np.array(without).reshape(-1, *value.shape))


def _jackknife(without: Float64[Array, "batch row column"]) -> Float64[Array, "row column"]:
    """Standard errors from the values without each batch (Efron and Tibshirani 1993, eq. 11.5)."""
    count = len(without)
    if count < 2:
        return np.full(without.shape[1:], np.nan)
    spread = np.square(without - without.mean(axis=0)).sum(axis=0)
    return np.asarray(np.sqrt(spread * (count - 1) / count))


def _divided(
    cross: Float64[Array, "row column"], here: Float64[Array, " row"], there: Float64[Array, " column"]
) -> Float64[Array, "row column"]:
    """NaN where a site has no positive HSIC with itself."""
    with np.errstate(invalid="ignore", divide="ignore"):
        below = np.sqrt(np.multiply.outer(here, there))
        exists = np.logical_and.outer(here > 0, there > 0) & np.isfinite(below)
        return np.where(exists, cross / below, np.nan)
