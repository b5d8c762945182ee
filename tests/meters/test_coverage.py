"""How much of a view is foreground: by value, merged, and where nothing is known."""

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.meters.coverage import Coverage
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site, Sites

SITE = Site("logits", "head", "image unit", 3)


def read(foreground, ids):
    state = Coverage().start([SITE])
    count = len(ids)
    pixels, labels = torch.zeros(count, 3, 4, 4), torch.zeros(count, dtype=torch.int64)
    batch = ImageBatch(tuple(ids), tuple(ids), pixels, labels, foreground)
    state.read(Reading(SITE, torch.zeros(count, 1, 3), batch))
    return state


def test_the_mean_over_pixels_by_image(ids):
    names = sorted(ids(3))
    foreground = torch.rand(3, 4, 4)
    foreground[2, 1, 1] = torch.nan
    found = read(foreground, names).result()
    assert found.shares[:2] == pytest.approx(foreground[:2].double().mean((1, 2)).numpy(), rel=1e-12)
    assert np.isnan(found.shares[2])
    assert [row.tobytes().hex() for row in found.ids] == names
    assert np.isnan(read(None, names).result().shares).all()


def test_merging_and_loading(ids):
    foreground, names = torch.rand(5, 4, 4), ids(5)
    a, b = read(foreground[:2], names[:2]), read(foreground[2:], names[2:])
    whole = read(foreground, names).arrays()
    for merged in (a.merge(b), b.merge(a), Coverage().load([SITE], whole)):
        for name, array in merged.arrays().items():
            assert np.array_equal(array, whole[name]), name
    assert Coverage().sites(Sites([SITE])) == [SITE]
