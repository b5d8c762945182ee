"""Means of some units in every image: by value, merge laws, and units that are not there."""

import numpy as np
import pytest
import torch

from vitscope.errors import BadValue, UnknownAddress, UnknownSite
from vitscope.meters.unit_means import UnitMeans
from vitscope.models.vision_model import TOKENS, Site, Sites

SITE = "a.ffn"
METER = UnitMeans({SITE: (4, 1)})


def test_means_over_places_without_the_prefix(feed, ids):
    values = torch.randn(7, 1 + 6, 5)
    names = ids(7)
    found = feed(METER, values, names, prefix=1).result()[SITE]
    expected = values[:, 1:].double().mean(1)[:, [4, 1]].numpy()
    assert found.units == (4, 1)
    assert found.of(names) == pytest.approx(expected, rel=1e-12)
    assert found.of([names[3], names[0], names[3]]) == pytest.approx(expected[[3, 0, 3]], rel=1e-12)


def test_what_is_not_finite_is_left_out(feed, ids):
    values = torch.ones(2, 4, 5)
    values[0, 0, 4], values[1, :, 4] = torch.inf, torch.nan
    found = feed(METER, values).result()[SITE].of(ids(2))
    assert found[0].tolist() == [1.0, 1.0]
    assert np.isnan(found[1, 0])
    assert found[1, 1] == 1.0


def test_batches_and_the_order_of_merging_do_not_matter(feed, ids):
    values, names = torch.randn(9, 4, 5), ids(9)
    whole = feed(METER, values, names, batch=9).arrays()
    a, b, c = (
        feed(METER, values[part], names[part], batch=2) for part in (slice(4), slice(4, 5), slice(5, 9))
    )
    for merged in (a.merge(b).merge(c), c.merge(a.merge(b)), b.merge(c.merge(a))):
        for name, array in merged.arrays().items():
            assert np.array_equal(array, whole[name]), name
    site = Site(SITE, "a", TOKENS, 5, grid=(2, 2))
    assert np.array_equal(METER.load([site], whole).result()[SITE].values, whole[f"{SITE}/values"])


def test_an_image_that_was_not_seen(feed, ids):
    found = feed(METER, torch.randn(2, 4, 5), ids(2)).result()[SITE]
    with pytest.raises(BadValue, match="was not seen, as 1 of 2 were not"):
        found.of([ids(2)[0], ids(3)[2]])


def test_units_and_sites_that_are_not_there():
    sites = Sites([Site(SITE, "a", TOKENS, 5, grid=(2, 2))])
    assert [site.name for site in METER.sites(sites)] == [SITE]
    with pytest.raises(UnknownAddress, match=r"a\.ffn has no unit 5: it has 5 \(0\.\.4\)"):
        UnitMeans({SITE: (5,)}).sites(sites)
    with pytest.raises(UnknownSite, match=r"Nearest: 'a\.ffn'"):
        UnitMeans({"a.fn": (0,)}).sites(sites)
    with pytest.raises(BadValue, match="at least one unit of one site"):
        UnitMeans({SITE: ()})
