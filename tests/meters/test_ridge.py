"""Ridge regression against a plain solution with the constant as a column, and what its limits must be."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.meters.ridge import Sums, dual, primal

CLASSES = 4


def plain(rows, columns, strength, others):
    """Scores of others by the normal equations, as fewshot_lsr.py sets them up."""
    mean, spread = rows.mean(0), rows.std(0) + 1e-5
    fitted, asked = (
        np.pad((x - mean) / spread, ((0, 0), (0, 1)), constant_values=100.0) for x in (rows, others)
    )
    signs = np.array([[1.0 if column == each else -1.0 for each in range(CLASSES)] for column in columns])
    square = fitted.T @ fitted + strength * np.eye(fitted.shape[1])
    return asked @ np.linalg.solve(square, fitted.T @ signs)


def drawn(images, units, *, seed=0):
    draw = np.random.default_rng(seed)
    columns = draw.integers(0, CLASSES, images)
    return draw.normal(size=(images, units)) * draw.uniform(0.1, 3, units) + 5, columns


@pytest.mark.parametrize("strength", [2.0**-10, 1.0, 2.0**10, 2.0**20])
@pytest.mark.parametrize(("images", "units"), [(40, 7), (12, 30)])
def test_scores_are_those_of_the_normal_equations(images, units, strength):
    rows, columns = drawn(images, units)
    others = np.random.default_rng(1).normal(size=(9, units)) + 5
    expected = plain(rows, columns, strength, others)
    for ridge in (primal(Sums.of(rows, columns, CLASSES)), dual(rows, columns, CLASSES)):
        assert np.allclose(ridge.scores(others, strength), expected, rtol=1e-7, atol=1e-9)
        right = ridge.right(others, np.zeros(9, np.int64), (strength, 1e6))
        assert np.array_equal(right[0], expected.argmax(1) == 0)


@pytest.mark.parametrize(("images", "units"), [(40, 7), (12, 30), (20, 20)])
def test_primal_equals_dual(images, units):
    rows, columns = drawn(images, units, seed=2)
    one, other = primal(Sums.of(rows, columns, CLASSES)), dual(rows, columns, CLASSES)
    for strength in (0.01, 1.0, 100.0):
        assert np.abs(one.scores(rows, strength) - other.scores(rows, strength)).max() < 1e-8


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=0, max_size=4))
def test_sums_of_any_parts_are_those_of_the_whole(cuts):
    rows, columns = drawn(30, 5, seed=3)
    rows = rows + 1e5  # a large mean costs no digits
    parts = [
        Sums.of(*part, CLASSES)
        for part in zip(np.split(rows, sorted(cuts)), np.split(columns, sorted(cuts)), strict=True)
    ]
    whole, forth, back = Sums.of(rows, columns, CLASSES), parts[0], parts[-1]
    for part in parts[1:]:
        forth = forth.plus(part)
    for part in parts[-2::-1]:
        back = part.plus(back)
    for found in (forth, back):
        assert np.array_equal(found.counts, np.bincount(columns, minlength=CLASSES))
        assert np.allclose(found.totals, whole.totals, rtol=1e-12)
        assert np.allclose(found.scatter, np.cov(rows.T, bias=True) * 30, rtol=1e-8, atol=1e-7)
    assert np.allclose(whole.spread, rows.std(0) + 1e-5)


def test_an_endless_strength_predicts_the_same_of_every_image():
    rows, columns = drawn(40, 7)
    scores = primal(Sums.of(rows, columns, CLASSES)).scores(rows, 1e30)
    assert np.ptp(scores, axis=0).max() < 1e-20


def test_classes_that_a_plane_separates_are_all_told_apart():
    draw = np.random.default_rng(0)
    columns = np.arange(200) % CLASSES
    rows = draw.normal(size=(200, 10)) + 20 * np.eye(10)[columns]
    ridge = primal(Sums.of(rows[:100], columns[:100], CLASSES))
    assert ridge.right(rows[100:], columns[100:], (1.0,)).all()


def test_labels_by_lot_teach_nothing():
    draw = np.random.default_rng(0)
    columns = draw.permutation(np.arange(2000) % CLASSES)
    rows = draw.normal(size=(2000, 10)) + np.eye(10)[np.arange(2000) % CLASSES]
    ridge = primal(Sums.of(rows[:1000], columns[:1000], CLASSES))
    right = ridge.right(rows[1000:], columns[1000:], (1.0,)).mean()
    assert abs(right - 1 / CLASSES) < 4 * np.sqrt(0.25 * 0.75 / 1000)


def test_a_unit_that_never_changes_says_nothing():
    rows, columns = drawn(40, 7)
    padded = np.concatenate([rows, np.full((40, 1), 3.0)], axis=1)
    one, other = (primal(Sums.of(each, columns, CLASSES)) for each in (rows, padded))
    assert np.allclose(one.scores(rows, 1.0), other.scores(padded, 1.0), atol=1e-9)
