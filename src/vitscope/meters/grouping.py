"""How well the patches of one image fall into its objects: clusters and cosines (Nguyen et al. 2022).

Every rule stands as in the authors' notebook of cluster metrics (https://github.com/byM1902/ViT_visualization)
unless said otherwise. A patch belongs to one object or to none, -1; only those of objects are looked at.

    silhouette            of the clusters, by cosine; 0 of one cluster, -1 of none
    purity                patches in a cluster whose most frequent object they are of; noise counts against it
    in_cluster_cosine     mean cosine of two patches of a cluster, mean over clusters; -1 of none
    in_object_cosine      the same over the true objects: no clustering is involved
    between_cosine        the mean cosine of two patches of different objects (not theirs)
    unique_labels         different most frequent objects of clusters, as a share of the objects
    clusters_per_object   clusters / objects
    noise                 patches in no cluster, as a share
    neighbour_purity      how many of a patch's nearest patches are of its object, as a share (not theirs)
    neighbour_chance      the same of patches taken at random
    neighbour_place       the same by nearness in the image alone: what neighbours share by lying there
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, UInt8
from sklearn.cluster import DBSCAN
from sklearn.metrics import silhouette_score
from torch import Tensor

from vitscope.data.foregrounds import shares
from vitscope.meters.reading import Array

MEASURES = (
    "silhouette",
    "purity",
    "in_cluster_cosine",
    "in_object_cosine",
    "between_cosine",
    "unique_labels",
    "clusters_per_object",
    "noise",
    "neighbour_purity",
    "neighbour_chance",
    "neighbour_place",
)
LARGE = 0.14**2
"""Objects on a smaller share of the view do not count (authors' notebook)."""
COVERED = 0.4
"""A patch belongs to an object that covers at least this share of it (authors' notebook)."""
LEAST_PATCHES, LEAST_OBJECTS = 3, 2
"""An image is used where every object that counts has so many patches, and there are so many objects."""
CORE = 3
"""Patches within eps, itself among them, that make a patch the core of a cluster (authors' notebook)."""
NEIGHBOURS = 5
"""Nearest patches that are looked at: our choice."""
NONE = -1
"""The object of a patch of none, and the cluster of noise."""


def patch_objects(
    objects: UInt8[Tensor, "object row column"], grid: tuple[int, int]
) -> Int[Array, " place"] | None:
    """Which object each place of a grid belongs to, -1 for none; None for an image that is not used.

    Where two objects cover enough of a place the larger share has it, and of equal ones the first. (The
    authors add up the numbers of both, which makes a third object of them.)
    """
    maps = objects.double() / 255
    maps = maps[maps.mean((1, 2)) > LARGE]
    if len(maps) < LEAST_OBJECTS:
        return None
    covered = shares(maps, grid).numpy()
    found = np.where(covered.max(axis=0) >= COVERED, covered.argmax(axis=0), NONE)
    counts = np.bincount(found[found != NONE], minlength=len(maps))
    return found if counts.min() >= LEAST_PATCHES else None


def measured(
    values: Float[Array, "place unit"], objects: Int[Array, " place"], grid: tuple[int, int]
) -> Float[Array, " measure"]:
    """All measures of one image at one site, in the order of `MEASURES`; NaN where values are not finite.

    Args:
        values: of every place of the grid, in raster order.
        objects: which object each belongs to, -1 for none. At least two places belong to one.
        grid: rows and columns.
    """
    on = objects != NONE
    points, labels = values[on].astype(np.float64), objects[on]
    if not np.isfinite(points).all():
        return np.full(len(MEASURES), np.nan)
    names, labels = np.unique(labels, return_inverse=True)
    cosines = cosine(points)
    clusters = clustered(points, labels)
    kinds = [np.flatnonzero(clusters == one) for one in range(clusters.max() + 1)]
    most = [np.bincount(labels[kind]) for kind in kinds]
    where = np.argwhere(on.reshape(grid)).astype(np.float64)
    other = np.not_equal.outer(labels, labels)
    return np.array(
        [
            _silhouette(cosines, clusters),
            sum(counts.max() for counts in most) / len(labels),
            mean_within(cosines, kinds),
            mean_within(cosines, [np.flatnonzero(labels == one) for one in range(len(names))]),
            cosines[other].mean() if len(names) > 1 else np.nan,
            len({int(counts.argmax()) for counts in most}) / len(names),
            len(kinds) / len(names),
            (clusters == NONE).mean(),
            neighbour_purity(points, labels),
            chance(labels),
            neighbour_purity(where, labels),
        ]
    )


def clustered(points: Float[Array, "place unit"], labels: Int[Array, " place"]) -> Int[Array, " place"]:
    """The cluster of every patch by DBSCAN (Ester et al. 1996), Euclidean; -1 for noise."""
    found: Array = DBSCAN(eps=reach(points, labels), min_samples=CORE).fit_predict(points)
    return found


def reach(points: Float[Array, "place unit"], labels: Int[Array, " place"]) -> float:
    """Eps: the mean distance of an object's patches that follow one another in raster order, mean over
    objects. It knows the objects."""
    steps = []
    for one in np.unique(labels):
        own = points[labels == one]
        if len(own) > 1:
            steps.append(np.linalg.norm(np.diff(own, axis=0), axis=1).mean())
    return max(float(np.mean(steps)) if steps else 0.0, np.finfo(np.float64).tiny)


def cosine(points: Float[Array, "place unit"]) -> Float[Array, "place place"]:
    """Of every two; 0 with a vector of no length."""
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    directions = np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)
    return np.asarray(directions @ directions.T)


def mean_within(cosines: Float[Array, "place place"], kinds: list[Int[Array, " _"]]) -> float:
    """The mean over kinds of the mean cosine of two of a kind; -1 where no kind has two."""
    means = [
        cosines[np.ix_(kind, kind)][np.triu_indices(len(kind), 1)].mean() for kind in kinds if len(kind) > 1
    ]
    return float(np.mean(means)) if means else -1.0


def chance(labels: Int[Array, " place"]) -> float:
    """How probably two different patches, taken at random, are of one object."""
    sizes = np.unique(labels, return_counts=True)[1]
    return float((sizes * (sizes - 1)).sum() / (len(labels) * (len(labels) - 1)))


def neighbour_purity(
    points: Float[Array, "place unit"], labels: Int[Array, " place"], *, k: int = NEIGHBOURS
) -> float:
    """Of every patch the share of its k nearest that are of its object, mean over patches.

    Where several lie equally far at the border of the k, each counts by its part.
    """
    lengths = np.square(points).sum(axis=1)
    away = lengths[:, None] + lengths - 2 * points @ points.T
    np.fill_diagonal(away, np.inf)
    k = min(k, len(points) - 1)
    border = np.partition(away, k - 1, axis=1)[:, k - 1 : k]
    slack = 1e-12 * lengths.max()
    within, on = away < border - slack, abs(away - border) <= slack
    part = (k - within.sum(axis=1, keepdims=True)) / on.sum(axis=1, keepdims=True)
    same = np.equal.outer(labels, labels)
    return float(((within + part * on) * same).sum() / (k * len(points)))


def _silhouette(cosines: Float[Array, "place place"], clusters: Int[Array, " place"]) -> float:
    taken = np.flatnonzero(clusters != NONE)
    count = len(np.unique(clusters[taken]))
    if count < 2:
        return 0.0 if count else -1.0
    away = np.clip(1 - cosines[np.ix_(taken, taken)], 0, None)
    np.fill_diagonal(away, 0.0)
    return float(silhouette_score(away, clusters[taken], metric="precomputed"))
