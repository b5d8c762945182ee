"""Cluster measures: by hand, against a naive re-implementation, and the laws they keep."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

from vitscope.meters.grouping import (
    MEASURES,
    NONE,
    chance,
    cosine,
    mean_within,
    measured,
    neighbour_purity,
    patch_objects,
    reach,
)

GRID = (4, 5)


def named(values, objects, grid=GRID):
    return dict(zip(MEASURES, measured(values, objects, grid), strict=True))


def blobs(draw, *, away=(9.0, 9.0), spread=0.3):
    """Two objects on the left and the right of a grid, ten patches each."""
    objects = np.tile([0, 0, 1, 1, NONE], 4)
    objects[[4, 9]], objects[[14, 19]] = 0, 1
    middle = np.zeros((2, 6))
    middle[0, 0], middle[1, 1] = away
    return middle[np.maximum(objects, 0)] + draw.normal(0, spread, (20, 6)), objects


def slowly(values, objects):
    """The measures as their definitions say, pair by pair."""
    on = [place for place in range(len(objects)) if objects[place] != NONE]
    names = sorted({objects[place] for place in on})
    steps = []
    for name in names:
        own = [values[place] for place in on if objects[place] == name]
        far = [math.dist(one, other) for one, other in pairwise(own)]
        steps.append(sum(far) / len(far))
    eps = sum(steps) / len(steps)
    cluster = DBSCAN(eps=eps, min_samples=3).fit([values[place] for place in on]).labels_.tolist()
    kinds = [[on[i] for i in range(len(on)) if cluster[i] == kind] for kind in sorted({*cluster} - {-1})]

    def cos(one, other):
        a, b = values[one], values[other]
        return float(a @ b / math.sqrt((a @ a) * (b @ b)))

    def within(group):
        pairs = [cos(one, other) for i, one in enumerate(group) for other in group[i + 1 :]]
        return sum(pairs) / len(pairs)

    def silhouette():
        if len(kinds) < 2:
            return 0.0 if kinds else -1.0
        scores = []
        for kind in kinds:
            for one in kind:
                own = sum(1 - cos(one, other) for other in kind if other != one) / (len(kind) - 1)
                near = min(
                    sum(1 - cos(one, other) for other in group) / len(group)
                    for group in kinds
                    if group is not kind
                )
                scores.append((near - own) / max(near, own))
        return sum(scores) / len(scores)

    most = [max(names, key=lambda name, kind=kind: sum(objects[p] == name for p in kind)) for kind in kinds]
    hits = [sum(objects[p] == name for p in kind) for kind, name in zip(kinds, most, strict=True)]
    between = [cos(a, b) for a in on for b in on if objects[a] != objects[b]]
    return {
        "silhouette": silhouette(),
        "purity": sum(hits) / len(on),
        "in_cluster_cosine": sum(map(within, kinds)) / len(kinds) if kinds else -1.0,
        "in_object_cosine": sum(within([p for p in on if objects[p] == name]) for name in names) / len(names),
        "between_cosine": sum(between) / len(between),
        "unique_labels": len({*most}) / len(names),
        "clusters_per_object": len(kinds) / len(names),
        "noise": cluster.count(-1) / len(on),
    }


@pytest.mark.parametrize(("spread", "seed"), [(0.5, 0), (3.0, 1), (6.0, 2), (12.0, 3)])
def test_measures_equal_their_definitions(spread, seed):
    values, objects = blobs(np.random.default_rng(seed), spread=spread)
    found = named(values, objects)
    for measure, value in slowly(values, objects).items():
        assert found[measure] == pytest.approx(value, abs=1e-9), measure


def test_two_blobs_are_two_pure_clusters():
    """Eps is a mean step, so a patch at the rim may be noise; of patches that are alike none is."""
    found = named(*blobs(np.random.default_rng(0), spread=0.05))
    assert found["silhouette"] > 0.8
    assert found["neighbour_purity"] == 1
    values, objects = blobs(np.random.default_rng(0), spread=0.0)
    same = named(values, objects)
    assert (same["purity"], same["silhouette"], same["unique_labels"], same["noise"]) == (1, 1, 1, 0)


def test_one_blob_has_no_silhouette_and_half_the_purity():
    values, objects = blobs(np.random.default_rng(0), away=(0.0, 0.0), spread=0.0)
    found = named(values + 1.0, objects)
    assert (found["silhouette"], found["purity"], found["unique_labels"]) == (0, 0.5, 0.5)
    assert found["in_cluster_cosine"] == pytest.approx(1)
    assert found["noise"] == 0


def test_all_noise_takes_the_branches_below():
    """Two pairs far from one another: within eps, 1, each patch has one other, and a core needs two."""
    values = np.array([[0.0], [1.0], [50.0], [51.0]])
    found = named(values, np.array([0, 0, 1, 1]), (2, 2))
    assert (found["silhouette"], found["purity"], found["in_cluster_cosine"]) == (-1, 0, -1)
    assert (found["unique_labels"], found["clusters_per_object"], found["noise"]) == (0, 0, 1)


def test_rotating_the_features_or_renaming_the_objects_changes_nothing():
    draw = np.random.default_rng(4)
    values, objects = blobs(draw, spread=3.0)
    turn = np.linalg.qr(draw.normal(size=(6, 6)))[0]
    renamed = np.where(objects == NONE, NONE, 1 - objects)
    plain = measured(values, objects, GRID)
    np.testing.assert_allclose(measured(values @ turn, objects, GRID), plain, atol=1e-9)
    np.testing.assert_allclose(measured(values, renamed, GRID), plain, atol=1e-9)


def test_what_is_not_finite_has_no_measures():
    values, objects = blobs(np.random.default_rng(0))
    values[0, 0] = np.inf
    assert np.isnan(measured(values, objects, GRID)).all()


def test_reach_by_hand():
    points = np.array([[0.0], [1.0], [10.0], [3.0], [16.0]])
    assert reach(points, np.array([0, 0, 1, 0, 1])) == ((1 + 2) / 2 + 6) / 2
    assert reach(np.zeros((4, 1)), np.array([0, 0, 1, 1])) > 0


def test_cosines_of_nothing_are_zero_and_kinds_of_one_do_not_count():
    cosines = cosine(np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]))
    np.testing.assert_allclose(cosines, [[1, 0, 0.5**0.5], [0, 0, 0], [0.5**0.5, 0, 1]])
    assert mean_within(cosines, [np.array([0, 2]), np.array([1])]) == pytest.approx(0.5**0.5)
    assert mean_within(cosines, [np.array([1])]) == -1


def test_neighbours_by_hand():
    """On a line: the two nearest of each; patches equally far share what is left of the two."""
    points = np.array([[0.0], [1.0], [2.0], [10.0]])
    labels = np.array([0, 0, 1, 1])
    # 0: 1 and 2 -> one of two; 1: 0 and 2 -> one of two; 2: 1 and 0 -> none; 3: 2 and 1 -> one
    assert neighbour_purity(points, labels, k=2) == pytest.approx((0.5 + 0.5 + 0 + 0.5) / 4)
    # 1 has 0 and 2 equally far for one place: half of it is of its object
    assert neighbour_purity(points, labels, k=1) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert neighbour_purity(points, labels, k=9) == chance(labels) == 1 / 3


def test_patches_go_to_the_object_with_the_larger_share():
    maps = torch.zeros(3, 8, 8, dtype=torch.uint8)
    maps[0, :, :4] = 255
    maps[1, :, 3:] = 255  # half of the second column of patches is of both
    maps[2, 0, 0] = 255  # too small to count
    found = patch_objects(maps, (4, 4))
    assert found.reshape(4, 4).tolist() == [[0, 0, 1, 1]] * 4
    maps[1] = 0
    maps[1, :, 7] = 255  # half of a patch is enough
    assert patch_objects(maps, (4, 4)).reshape(4, 4).tolist() == [[0, 0, NONE, 1]] * 4
    maps[1, :, 7] = 100  # 0.2 of a patch is not, so the object has no patch
    assert patch_objects(maps, (4, 4)) is None
    assert patch_objects(maps[:1], (4, 4)) is None
