"""Nearest class means against a loop that leaves every vector out of its own mean."""

import numpy as np

from vitscope.meters.nearest_mean import NearestMean
from vitscope.meters.ridge import Sums


def test_distances_are_to_means_without_the_vector_itself():
    draw = np.random.default_rng(0)
    columns = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 3])
    rows = draw.normal(size=(10, 5)) * [1, 2, 3, 4, 5] + 7 + columns[:, None] * [1, 0, 1, 0, 0]
    judge = NearestMean(Sums.of(rows, columns, 5))
    found, vectors = judge.distances(rows, columns), rows / (rows.std(0) + 1e-5)
    for image in range(10):
        for each in range(5):
            members = [other for other in range(10) if columns[other] == each and other != image]
            if members:
                away = np.square(vectors[image] - vectors[members].mean(0)).sum()
                assert np.isclose(found[image, each], away)
            else:
                assert np.isinf(found[image, each])
    assert np.array_equal(judge.right(rows, columns)[0], found.argmin(1) == columns)
    assert not judge.right(rows, columns)[0, -1], "the only vector of a class has no mean to be near to"


def test_classes_far_apart_are_told_apart_and_labels_by_lot_are_not():
    draw = np.random.default_rng(0)
    columns = np.arange(600) % 3
    rows = draw.normal(size=(600, 8)) + 9 * np.eye(8)[columns]
    assert NearestMean(Sums.of(rows, columns, 3)).right(rows, columns).all()
    mixed = draw.permutation(columns)
    share = NearestMean(Sums.of(rows, mixed, 3)).right(rows, mixed).mean()
    assert abs(share - 1 / 3) < 4 * np.sqrt(2 / 9 / 600)
