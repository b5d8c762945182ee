"""Shares and their intervals against their formulas, and paired comparisons against a plain bootstrap."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.meters.share import Share, paired_p_value, paired_ratio


@pytest.mark.parametrize(("right", "images"), [(0, 10), (3, 10), (10, 10), (450, 725)])
def test_the_interval_is_wilsons(right, images):
    z, p = 1.959963984540054, right / images
    middle = (p + z * z / (2 * images)) / (1 + z * z / images)
    half = z / (1 + z * z / images) * math.sqrt(p * (1 - p) / images + z * z / (4 * images**2))
    low, high = Share(right, images).interval
    assert low == pytest.approx(100 * (middle - half), abs=1e-9)
    assert high == pytest.approx(100 * (middle + half), abs=1e-9)


def test_a_share_of_nothing():
    assert math.isnan(Share(0, 0).value)
    assert Share(0, 0).interval == (0.0, 100.0)


def test_a_row_of_a_table():
    row = Share(1, 4).row("top1")
    assert list(row) == ["top1", "top1_low", "top1_high"]
    assert row["top1"] == 25.0
    assert row["top1_low"] < 25 < row["top1_high"]


def test_the_paired_ratio_equals_a_bootstrap_over_images():
    draw = np.random.default_rng(3)
    theirs = draw.random(400) < 0.7
    ours = theirs & (draw.random(400) < 0.8)
    found = paired_ratio(ours, theirs)
    assert found.value == pytest.approx(100 * ours.sum() / theirs.sum())
    plain = [
        100 * ours[pick].sum() / theirs[pick].sum()
        for pick in (draw.integers(0, 400, 400) for _ in range(4000))
    ]
    low, high = np.quantile(plain, [0.025, 0.975])
    assert abs(found.low - low) < 0.5
    assert abs(found.high - high) < 0.5


def test_an_accuracy_compared_with_itself_loses_nothing_for_sure():
    same = np.array([True, False, True])
    ratio = paired_ratio(same, same)
    assert (ratio.value, ratio.low, ratio.high) == (100.0, 100.0, 100.0)


def test_a_ratio_to_nothing_is_not_a_number():
    ratio = paired_ratio(np.array([True]), np.array([False]))
    assert math.isnan(ratio.value)
    assert math.isnan(ratio.low)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_mcnemar_is_the_exact_sign_test(pairs):
    ours, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    one, other = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    total = one + other
    tail = sum(math.comb(total, index) for index in range(min(one, other) + 1)) / 2**total
    assert paired_p_value(ours, theirs) == pytest.approx(min(1.0, 2 * tail))
    assert paired_p_value(theirs, ours) == pytest.approx(paired_p_value(ours, theirs))
