"""Effect sizes against loops over pairs, intervals against a search by hand, and a classifier's folds."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.studies.effects import NOTHING, Effect, average, cliffs_delta, mean_of, separability

Z = 1.959963984540054
some = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=9).map(np.array)


def slowly(ours, theirs):
    return sum(np.sign(a - b) for a in ours for b in theirs) / (len(ours) * len(theirs))


def by_search(ours, theirs):
    """The ends of Newcombe's interval: the outermost shares whose own spread still reaches the estimate."""
    m, n = len(ours), len(theirs)
    share, more = (1 + slowly(ours, theirs)) / 2, (m + n) / 2 - 1
    at = np.linspace(0, 1, 200_001)
    variance = at * (1 - at) * (1 + more * ((1 - at) / (2 - at) + at / (1 + at))) / (m * n)
    inside = at[np.abs(at - share) <= Z * np.sqrt(variance) + 1e-12]
    return 2 * inside.min() - 1, 2 * inside.max() - 1


@settings(deadline=None)  # scipy is imported by the first
@given(some, some)
def test_the_delta_equals_a_loop_over_pairs(ours, theirs):
    found = cliffs_delta(ours, theirs)
    assert found.value == pytest.approx(slowly(ours, theirs))
    assert -1 <= found.low <= found.value <= found.high <= 1
    turned = cliffs_delta(theirs, ours)
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low))


@pytest.mark.parametrize("shift", [-3.0, 0.0, 0.5, 9.0])
def test_its_interval_equals_a_search(shift):
    draw = np.random.default_rng(1)
    ours, theirs = draw.normal(size=6) + shift, draw.normal(size=8)
    found = cliffs_delta(ours, theirs)
    assert (found.low, found.high) == pytest.approx(by_search(ours, theirs), abs=1e-4)


def test_groups_that_do_not_overlap_still_have_an_interval():
    found = cliffs_delta(np.array([5.0, 6, 7]), np.array([1.0, 2, 3]))
    assert (found.value, found.high) == (1.0, 1.0)
    assert -1 < found.low < 0.9


def test_the_interval_covers_the_truth():
    """Of normal numbers one deviation apart the delta is 2 Phi(1 / sqrt 2) - 1."""
    draw, truth = np.random.default_rng(0), math.erf(0.5)
    hits = [
        found.low <= truth <= found.high
        for found in (cliffs_delta(draw.normal(size=10) + 1, draw.normal(size=10)) for _ in range(300))
    ]
    assert np.mean(hits) > 0.92


def test_nothing_to_compare():
    assert all(map(math.isnan, vars(cliffs_delta(np.array([]), np.array([1.0]))).values()))
    assert all(map(math.isnan, vars(average([NOTHING])).values()))
    assert mean_of(np.array([])) is NOTHING


def test_the_average_of_effects_by_hand():
    found = average([Effect(0.2, 0.1, 0.5), Effect(0.6, 0.2, 0.7), NOTHING])
    assert found.value == pytest.approx(0.4)
    assert found.low == pytest.approx(0.4 - math.hypot(0.1, 0.4) / 2)
    assert found.high == pytest.approx(0.4 + math.hypot(0.3, 0.1) / 2)


def test_a_mean_with_students_interval():
    found = mean_of(np.array([1.0, 2.0, 3.0, 4.0]))
    half = 3.182446305284263 * math.sqrt(5 / 3) / 2  # t of 3 degrees of freedom
    assert (found.value, found.low, found.high) == pytest.approx((2.5, 2.5 - half, 2.5 + half))
    single = mean_of(np.array([7.0]))
    assert single.value == 7
    assert math.isnan(single.low)


def test_what_differs_is_told_apart_and_what_does_not_is_not():
    draw = np.random.default_rng(0)
    late = np.arange(40) < 20
    noise = draw.normal(size=(40, 5))
    assert separability(noise + 8.0 * late[:, None], late).value == 100
    assert 20 < separability(noise, late).value < 80


def test_separability_equals_folds_by_hand():
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    draw = np.random.default_rng(5)
    late = np.arange(14) < 6
    values = draw.normal(size=(14, 3)) * 4 + late[:, None]
    right = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(values, late):
        mean, spread = values[train].mean(axis=0), values[train].std(axis=0)
        classifier = LogisticRegression(max_iter=1000).fit((values[train] - mean) / spread, late[train])
        right += (classifier.predict((values[test] - mean) / spread) == late[test]).sum()
    found = separability(values, late, seed=3)
    assert (found.right, found.images) == (right, 14)


@pytest.mark.parametrize("late", [[True] * 4, [True, False, False], []])
def test_groups_too_small_to_be_learnt(late):
    found = separability(np.zeros((len(late), 2)), np.array(late, dtype=bool))
    assert (found.right, found.images) == (0, 0)
