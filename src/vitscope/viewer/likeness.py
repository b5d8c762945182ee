"""Which units of a site are alike, by the images that excite them, and a map on which such units are close.

An atlas keeps neither activations nor weights; what it keeps is each unit's exemplars. So two units are alike
as far as the same images excite them. Nothing here knows an atlas: a matrix goes in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Like:
    """A unit that is like another one.

    Attributes:
        unit: index at the site.
        overlap: images that excite both over images that excite either, 0 to 1.
        common: images that excite both.
    """

    unit: int
    overlap: float
    common: int


def incidence(unit: NDArray[np.int64], image: NDArray[Any], *, units: int) -> sparse.csr_matrix:
    """A matrix of units x images: 1 where the image is among the unit's exemplars."""
    known, column = np.unique(image, return_inverse=True)
    matrix = sparse.csr_matrix(
        (np.ones(len(unit), np.float32), (unit, column.ravel())), shape=(units, max(1, len(known)))
    )
    matrix.data[:] = 1  # an image that is an exemplar by both rankings counts once
    return matrix


def alike(matrix: sparse.csr_matrix, unit: int, *, count: int) -> list[Like]:
    """The units that share most exemplars with one, best first; ties by index. None shares no image."""
    common = (matrix @ matrix[unit].T).toarray().ravel()
    sizes = np.asarray(matrix.sum(1)).ravel()
    either = sizes + sizes[unit] - common
    overlap = np.divide(common, either, out=np.zeros_like(common), where=either > 0)
    overlap[unit] = 0
    order = np.lexsort((np.arange(len(overlap)), -overlap))[:count]
    return [Like(int(at), float(overlap[at]), int(common[at])) for at in order if overlap[at] > 0]


def layout(matrix: sparse.csr_matrix) -> NDArray[np.int64]:
    """A cell (row, column) for each unit, every cell taken once, units with the same exemplars close.

    The two smoothest directions of the graph of common exemplars (Laplacian eigenmaps: Belkin and Niyogi
    2003) give each unit a point in the plane. Rows are filled by the one and sorted by the other, so that no
    space is wasted. Units without exemplars come last.
    """
    units = matrix.shape[0]
    columns = int(np.ceil(np.sqrt(units)))
    live = np.flatnonzero(np.asarray(matrix.sum(1)).ravel() > 0)
    rest = np.setdiff1d(np.arange(units), live)
    order = np.concatenate([_mosaic(_plane(matrix[live]), columns, live), rest])
    cells = np.empty((units, 2), np.int64)
    cells[order] = np.stack(np.divmod(np.arange(units), columns), axis=1)
    return cells


def _plane(matrix: sparse.csr_matrix) -> Floats:
    """A point for each row; rows that share columns lie close."""
    rows = matrix.shape[0]
    if rows < 4:
        return np.stack([np.arange(rows), np.zeros(rows)], axis=1).astype(np.float64)
    rare = np.asarray(1 / np.maximum(1, matrix.sum(0))).ravel()  # an image that excites all says nothing
    weighted = matrix @ sparse.diags(np.sqrt(rare))
    degree = np.asarray(weighted @ weighted.sum(0).T).ravel() + 1.0
    root = np.sqrt(degree)
    scaled = sparse.diags(1 / root) @ weighted

    def times(vector: Floats) -> Floats:
        """The normalised graph, every two units joined a little, so that it does not fall apart."""
        v = vector.ravel()
        product: Floats = scaled @ (scaled.T @ v) + (1 / root) * ((1 / root) @ v) / rows
        return product

    graph = LinearOperator((rows, rows), matvec=times, dtype=np.float64)
    _, vectors = eigsh(graph, k=3, which="LA", v0=np.ones(rows), tol=1e-4)
    points: Floats = vectors[:, [1, 0]] / root[:, None]  # without the last, on which all units agree
    return points * np.where(points[np.abs(points).argmax(0), [0, 1]] < 0, -1, 1)


def _mosaic(points: Floats, columns: int, names: NDArray[np.int64]) -> NDArray[np.int64]:
    """The names in reading order of a mosaic: rows of `columns` by the second axis, each by the first."""
    down = np.argsort(points[:, 1], kind="stable")
    rows = [down[start : start + columns] for start in range(0, len(down), columns)]
    return np.concatenate([names[row[np.argsort(points[row, 0], kind="stable")]] for row in rows] or [names])
