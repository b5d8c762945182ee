"""Differences at equal sharpness, against loops over bins."""

import math

import numpy as np
import pytest

from vitscope.studies.matching import BINS, matched_difference


def slowly(ours, our_sharp, theirs, their_sharp):
    edges = np.quantile([*our_sharp, *their_sharp], [n / BINS for n in range(1, BINS)])
    total = value = variance = compared = 0
    parts = []
    for which in range(BINS):
        mine = [a for a, sharp in zip(ours, our_sharp, strict=True) if sum(sharp >= edges) == which]
        other = [a for a, sharp in zip(theirs, their_sharp, strict=True) if sum(sharp >= edges) == which]
        if len(mine) > 1 and len(other) > 1:
            weight = min(len(mine), len(other))
            spread = np.var(mine, ddof=1) / len(mine) + np.var(other, ddof=1) / len(other)
            parts.append((weight, np.mean(mine) - np.mean(other), spread))
            total, compared = total + weight, compared + len(mine)
    for weight, difference, spread in parts:
        value += weight / total * difference
        variance += (weight / total) ** 2 * spread
    half = 1.959963984540054 * math.sqrt(variance)
    return (value, value - half, value + half), compared


def test_the_difference_equals_a_loop_over_bins():
    draw = np.random.default_rng(0)
    groups = [draw.normal(size=size) for size in (37, 37, 52, 52)]
    found, compared = matched_difference(*groups)
    expected, how_many = slowly(*groups)
    assert (found.value, found.low, found.high) == pytest.approx(expected)
    assert compared == how_many


def test_sharpness_alone_makes_no_difference():
    """Two groups of different sharpness, whose values depend on sharpness and on nothing else."""
    draw = np.random.default_rng(1)
    ours, theirs = draw.uniform(0, 2, 4000), draw.uniform(1, 3, 4000)
    plain = ours.mean() - theirs.mean()
    found, _ = matched_difference(ours, ours, theirs, theirs)
    assert plain == pytest.approx(-1, abs=0.05)
    assert abs(found.value) < 0.2


def test_units_without_a_number_take_no_part():
    draw = np.random.default_rng(2)
    groups = [draw.normal(size=30) for _ in range(4)]
    more = [np.append(groups[0], math.nan), np.append(groups[1], 0.0), *groups[2:]]
    assert matched_difference(*more) == matched_difference(*groups)


def test_groups_that_share_no_bin():
    ours, theirs = np.arange(6.0), np.arange(6.0)
    found, compared = matched_difference(ours[:1], ours[:1], theirs, theirs + 100)
    assert math.isnan(found.value)
    assert compared == 0
    nothing, _ = matched_difference(np.array([]), np.array([]), np.array([]), np.array([]))
    assert math.isnan(nothing.low)
