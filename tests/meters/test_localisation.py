"""Where units fire, against slow re-implementations in float64 and scikit-learn; merge laws; odd images."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.localisation import Localisation, active_share, soft_auc
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import TOKENS, VECTOR, Site, Sites

LAWS = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
GRID = (2, 3)
SITE = Site("a.ffn", "a", TOKENS, 4, grid=GRID, prefix_tokens=1)
PER_PLACE = 4
"""Pixels along a side of a place."""


def read(values, foreground, ids, *, k=3, batch=4):
    """The state that has read images with these foregrounds, 2 x 3 places of 4 x 4 pixels each."""
    state = Localisation(k=k).start([SITE])
    for start in range(0, len(values), batch):
        some = tuple(ids[start : start + batch])
        pixels, labels = torch.zeros(len(some), 3, 8, 12), torch.zeros(len(some), dtype=torch.int64)
        known = None if foreground is None else foreground[start : start + batch]
        state.read(
            Reading(SITE, values[start : start + batch], ImageBatch(some, some, pixels, labels, known))
        )
    return state


def noise(count):
    return torch.randn(count, 1 + 6, 4)


def grounds(count):
    """Soft foregrounds: anything between 0 and 1 in every pixel."""
    return torch.rand(count, 8, 12)


def share_slowly(row):
    positive = [max(0.0, float(value)) for value in row]
    parts = [value / sum(positive) for value in positive if value > 0]
    return math.exp(-sum(part * math.log(part) for part in parts)) / len(row)


def auc_slowly(row, inside):
    """scikit-learn's, of places listed twice: as object and as surroundings, weighted by their shares."""
    truth = [1] * len(row) + [0] * len(row)
    weights = [*inside, *(1 - inside)]
    return roc_auc_score(truth, [*row, *row], sample_weight=weights)


def places_slowly(foreground):
    """The mean of each place's pixels, in raster order."""
    return np.array(
        [
            foreground[row * 4 : row * 4 + 4, column * 4 : column * 4 + 4].double().mean().item()
            for row in range(2)
            for column in range(3)
        ]
    )


MAPS = st.lists(st.lists(st.integers(-2, 3), min_size=6, max_size=6), min_size=1, max_size=4)
INSIDE = st.lists(st.sampled_from([0.0, 0.0, 1.0, 1.0, 0.25]), min_size=6, max_size=6)


@LAWS
@given(MAPS, INSIDE)
def test_the_soft_auc_is_that_of_scikit_learn(maps, inside):
    values, weights = np.array(maps, np.float64), np.array(inside)
    found = soft_auc(values, np.broadcast_to(weights, values.shape))
    for row, auc in zip(values, found, strict=True):
        if row.min() == row.max() or not 0 < weights.sum() < 6:
            assert np.isnan(auc)
        else:
            assert auc == pytest.approx(auc_slowly(row, weights), abs=1e-12)


def test_the_auc_of_hard_foregrounds_by_hand():
    maps = np.array([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [1.0, 1.0, 1.0, 2.0]])
    inside = np.array([[1.0, 0.0, 1.0, 0.0]] * 3)
    assert soft_auc(maps, inside).tolist() == [1.0, 0.25, 0.25]


@LAWS
@given(MAPS)
def test_active_shares_by_definition(maps):
    values = np.array(maps, np.float64)
    for row, found in zip(values, active_share(values), strict=True):
        if row.max() <= 0:
            assert np.isnan(found)
        else:
            assert found == pytest.approx(share_slowly(row), rel=1e-12)


def test_one_active_place_and_all_alike_are_the_ends():
    one, alike = np.eye(1, 196)[0], np.full(196, 1e30)
    assert active_share(np.stack([one, alike])) == pytest.approx([1 / 196, 1.0])
    assert active_share(np.full((1, 196), 3e38)) == pytest.approx(1.0)


def test_measures_equal_a_slow_re_implementation(ids):
    values, foreground = noise(10), grounds(10)
    names = ids(10)
    found = read(values, foreground, names).result()["a.ffn"]
    for unit in range(4):
        maps = values[:, 1:, unit].double().numpy()
        best = sorted(range(10), key=lambda image: -maps[image].mean())[:3]
        assert [row.tobytes().hex() for row in found.image[unit]] == [names[image] for image in best]
        for rank, image in enumerate(best):
            inside = places_slowly(foreground[image])
            assert found.value[unit, rank] == pytest.approx(maps[image].mean(), rel=1e-6, abs=1e-7)
            assert found.active_share[unit, rank] == pytest.approx(share_slowly(maps[image]), rel=1e-12)
            assert found.auc[unit, rank] == pytest.approx(auc_slowly(maps[image], inside), abs=1e-7)
            turned = auc_slowly(maps[image], inside.reshape(GRID)[::-1, ::-1].ravel())
            assert found.auc_turned[unit, rank] == pytest.approx(turned, abs=1e-7)
        assert found.of_units("auc")[unit] == pytest.approx(found.auc[unit].mean())


def test_prefix_tokens_do_not_count(ids):
    values, foreground = noise(4), grounds(4)
    changed = values.clone()
    changed[:, 0] = 99.0
    one, other = (read(each, foreground, ids(4)).arrays() for each in (values, changed))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_images_without_a_foreground_or_with_nothing_else_are_passed_over(ids):
    foreground = grounds(5)
    foreground[0], foreground[1], foreground[2] = 0.0, 1.0, torch.nan
    names = ids(5)
    found = read(noise(5), foreground, names).result()["a.ffn"]
    for unit in range(4):
        assert {row.tobytes().hex() for row in found.image[unit][:2]} == set(names[3:])
    assert np.isnan(found.value[:, 2]).all()
    assert np.isnan(found.auc[:, 2]).all()
    assert np.isfinite(found.of_units("auc")).all()


def test_a_source_without_foregrounds_gives_no_values(ids):
    found = read(noise(5), None, ids(5)).result()["a.ffn"]
    assert np.isnan(found.value).all()
    assert np.isnan(found.of_units("active_share")).all()


def test_units_that_are_the_same_everywhere_have_no_auc(ids):
    values = noise(3)
    values[:, :, 1] = 0.0
    values[:, :, 2] = 0.7
    found = read(values, grounds(3), ids(3)).result()["a.ffn"]
    assert np.isnan(found.auc[[1, 2]]).all()
    assert np.isnan(found.active_share[1]).all()
    assert found.active_share[2] == pytest.approx(1.0)


def test_values_that_are_not_finite_count_as_the_lowest(ids):
    values = noise(1)
    values[0, 3, 0] = torch.nan
    tame = values.clone()
    tame[0, 3, 0] = values[0, [1, 2, 4, 5, 6], 0].min()
    foreground = grounds(1)
    one, other = (read(each, foreground, ids(1)).result()["a.ffn"] for each in (values, tame))
    assert one.auc[0, 0] == other.auc[0, 0]
    assert one.active_share[0, 0] == other.active_share[0, 0]


@LAWS
@given(
    levels=st.lists(st.integers(0, 7), min_size=3, max_size=20),
    cuts=st.tuples(st.integers(0, 20), st.integers(0, 20)),
)
def test_merging_is_commutative_associative_and_idempotent(ids, levels, cuts):
    """Many values tie, and images return in several shards."""
    draw = torch.Generator().manual_seed(0)
    table = torch.randint(0, 3, (8, 7, 4), generator=draw).float()
    foreground = torch.rand(8, 8, 12, generator=draw)
    low, high = sorted(min(cut, len(levels)) for cut in cuts)
    groups = [levels[:low], levels[low:high], levels[high:]]

    def state(group, batch=4):
        return read(table[group], foreground[group], [ids(8)[index] for index in group], batch=batch)

    def same(one, other):
        ours, theirs = one.arrays(), other.arrays()
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert np.array_equal(ours[name], theirs[name]), name

    whole = state(levels, batch=3)
    for one, two, three in itertools.permutations([state(group) for group in groups]):
        same(one.merge(two).merge(three), whole)
        same(one.merge(two.merge(three)), whole)
    same(whole.merge(whole), whole)


def test_batches_do_not_matter_and_arrays_load(ids):
    values, foreground = noise(12), grounds(12)
    whole = read(values, foreground, ids(12), batch=12)
    for batch in (1, 5):
        parts = read(values, foreground, ids(12), batch=batch)
        for name, array in whole.arrays().items():
            assert np.array_equal(array, parts.arrays()[name]), name
    again = Localisation(k=3).load([SITE], whole.arrays())
    assert np.array_equal(again.result()["a.ffn"].auc, whole.result()["a.ffn"].auc)


def test_only_sites_with_places_and_only_a_positive_k():
    sites = Sites([SITE, Site("b.ffn", "b", VECTOR, 4)])
    assert [site.name for site in Localisation("*.ffn").sites(sites)] == ["a.ffn"]
    with pytest.raises(BadValue, match=r"no site that matches 'b\.ffn' has several places on the image"):
        Localisation("b.ffn").sites(sites)
    with pytest.raises(BadValue, match="at least 1, not 0"):
        Localisation(k=0)
