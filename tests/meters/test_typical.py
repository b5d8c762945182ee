"""Images nearest a value, and images by lot: by full sorts, merged, and of units that never change."""

import numpy as np
import torch

from vitscope.draws import key
from vitscope.meters.typical import Drawn, Nearest

SITE = "a.ffn"
TARGETS = np.array([0.5, 1.0, -2.0, 0.0, 9.0])


def test_the_nearest_images_in_the_order_of_their_distance(feed, ids):
    values, names = torch.randn(9, 6, 5), ids(9)
    meter = Nearest({SITE: TARGETS}, k=4)
    whole = feed(meter, values, names)
    merged = feed(meter, values[5:], names[5:]).merge(feed(meter, values[:5], names[:5]))
    found = whole.result()[SITE]
    peaks = values.amax(1).numpy()
    for unit in range(5):
        order = sorted(range(9), key=lambda at: (abs(peaks[at, unit] - TARGETS[unit]), names[at]))[:4]
        assert [one.image for one in found.of(unit)] == [names[at] for at in order]
        assert [one.value for one in found.of(unit)] == [peaks[at, unit] for at in order]
        assert merged.result()[SITE].of(unit) == found.of(unit)


def test_a_lot_is_the_same_for_every_unit_also_for_one_that_never_changes(feed, ids):
    values, names = torch.randn(9, 6, 5), ids(9)
    values[..., 3] = 0
    values[2, :, 1] = torch.nan
    found = feed(Drawn((SITE,), seed=7, k=4), values, names).result()[SITE]
    lots = sorted(names, key=lambda name: key(7, name))
    for unit in range(5):
        known = [name for name in lots if unit != 1 or name != names[2]][:4]
        assert [one.image for one in found.of(unit)] == known
    assert [one.value for one in found.of(3)] == [0.0] * 4
