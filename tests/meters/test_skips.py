"""Norm ratios and cosines against loops in float64, and the laws of a meter."""

import hashlib

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, UnknownSite
from vitscope.meters.reading import Reading
from vitscope.meters.skips import Skips
from vitscope.models.vision_model import TOKENS, Site
from vitscope.passes import read_batches
from vitscope.testing import tiny_vit

PAIR = ("base", "branch")
METER = Skips((PAIR,))
NAMES = ("norm_ratio", "cosine", "branch_cosine")


def batch_of(count, *, first=0):
    ids = tuple(hashlib.sha256(str(first + index).encode()).hexdigest()[:32] for index in range(count))
    pixels = torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(first))
    return ImageBatch(ids, ids, pixels, torch.zeros(count, dtype=torch.int64))


def sites_of(values, *, prefix=1):
    grid = (1, values.shape[1] - prefix)
    return [Site(name, name, TOKENS, values.shape[2], grid=grid, prefix_tokens=prefix) for name in PAIR]


def measured(base, branch, *, prefix=1, batches=1, turned=False):
    sites = sites_of(base, prefix=prefix)
    state = METER.start(sites)
    for one, other in zip(base.chunk(batches), branch.chunk(batches), strict=True):
        both = list(zip(sites, (one, other), strict=True))
        for site, values in both[::-1] if turned else both:
            values = values.clone()
            state.read(Reading(site, values, batch_of(len(values))))
            values.zero_()  # what later layers may do to it
    return state


def by_hand(base, branch):
    """Every statistic of every place, the mean over images, in plain loops."""
    found = np.zeros((3, base.shape[1]))
    for place in range(base.shape[1]):
        each = []
        for z, f in zip(base[:, place].double().numpy(), branch[:, place].double().numpy(), strict=True):
            norm = np.linalg.norm
            each.append((norm(z) / norm(f), z @ (z + f) / norm(z) / norm(z + f), z @ f / norm(z) / norm(f)))
        found[:, place] = np.mean(each, axis=0)
    return found


def vectors(images=5, places=4, units=7):
    draw = torch.Generator().manual_seed(3)
    return [torch.randn(images, places, units, generator=draw) for _ in range(2)]


@pytest.mark.parametrize("batches", [1, 2, 5])
@pytest.mark.parametrize("turned", [False, True])
def test_every_place_is_what_loops_give_however_batched_and_whichever_fires_first(batches, turned):
    base, branch = vectors()
    found = measured(base, branch, batches=batches, turned=turned).result()["branch"]
    for name, expected in zip(NAMES, by_hand(base, branch), strict=True):
        assert np.allclose(getattr(found, name), expected, rtol=1e-5)
        assert found.kinds(name) == pytest.approx((expected[0], expected[1:].mean()), rel=1e-5)


def test_a_branch_twice_as_long_halves_the_ratio_and_keeps_its_angle():
    base, branch = vectors()
    one, other = (measured(base, factor * branch).result()["branch"] for factor in (1, 2))
    assert np.allclose(one.norm_ratio, 2 * other.norm_ratio, rtol=1e-6)
    assert np.allclose(one.branch_cosine, other.branch_cosine, rtol=1e-5)
    assert (one.norm_ratio >= 0).all()


def test_a_branch_that_adds_nothing_has_an_infinite_ratio_and_no_angle():
    base, branch = vectors()
    branch[:, 2] = 0
    found = measured(base, branch).result()["branch"]
    assert found.norm_ratio[2] == np.inf
    assert found.cosine[2] == pytest.approx(1)
    assert np.isnan(found.branch_cosine[2])
    assert np.isfinite(found.norm_ratio[[0, 1, 3]]).all()
    assert found.kinds("norm_ratio")[1] == np.inf


def test_without_prefix_tokens_there_is_no_cls():
    base, branch = vectors()
    found = measured(base, branch, prefix=0).result()["branch"]
    cls, patches = found.kinds("norm_ratio")
    assert np.isnan(cls)
    assert patches == pytest.approx(by_hand(base, branch)[0].mean(), rel=1e-5)


def equal(one, other):
    return all(np.allclose(one.arrays()[name], other.arrays()[name], rtol=1e-12) for name in one.arrays())


def test_states_merge_in_any_order_and_are_files():
    a, b, c = (
        measured(*[part[where] for part in vectors()]) for where in (slice(2), slice(2, 3), slice(3, 5))
    )
    assert equal(a.merge(b).merge(c), c.merge(b.merge(a)))
    assert equal(a.merge(b).merge(c), measured(*vectors()))
    sites = sites_of(vectors()[0])
    assert equal(METER.load(sites, a.arrays()).merge(b), a.merge(b))
    empty = METER.start(sites)
    assert equal(empty.merge(a), a)
    assert np.isnan(empty.result()["branch"].norm_ratio).all()


def test_one_base_of_several_branches_is_read_with_each():
    """Parallel branches: attention and MLP are added to the same stream."""
    model, batch = tiny_vit(), batch_of(2)
    pairs = (("embed", "blocks.0.attn"), ("embed", "blocks.0.mlp"), ("blocks.0.mid", "blocks.0.mlp"))
    state = read_batches(model, [batch], [Skips(pairs[:2])])["skips"]
    alone = [read_batches(model, [batch], [Skips((pair,))])["skips"] for pair in pairs[:2]]
    for pair, one in zip(pairs, alone, strict=False):
        assert np.array_equal(state.result()[pair[1]].norm_ratio, one.result()[pair[1]].norm_ratio)
    assert state._held == {}
    assert state._open == set()


def test_pairs_that_cannot_be_added_are_refused():
    model = tiny_vit()
    with pytest.raises(BadValue, match="give at least one skip connection"):
        Skips(())
    with pytest.raises(BadValue, match=r"embed has 17 places x 24 units and blocks\.0\.ffn 17 x 96"):
        Skips((("embed", "blocks.0.ffn"),)).sites(model.sites)
    with pytest.raises(UnknownSite, match=r"no site 'blocks\.0\.atn'"):
        Skips((("embed", "blocks.0.atn"),)).sites(model.sites)
