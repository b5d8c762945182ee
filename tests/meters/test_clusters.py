"""The meter of clusters: image by image it is `measured`, states merge, and artefacts are found."""

import numpy as np
import pytest
import torch

from vitscope.data.objects import ObjectBatch
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.clusters import COLUMNS, Clusters, artefacts
from vitscope.meters.grouping import NONE, measured, patch_objects
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site
from vitscope.testing.doubles import tiny_cnn

GRID = (4, 4)
SITE = Site("blocks.0", "blocks.0", "image token unit", 6, GRID, 1)
COUNT = 5


def maps(seed):
    """Two objects, a rectangle on each side, of a size that the seed says."""
    found = torch.zeros(2, 16, 16, dtype=torch.uint8)
    found[0, : 8 + 2 * seed, :8] = 255
    found[1, 4:, 8 : 12 + seed] = 255
    return found


TOKENS = torch.randn(COUNT, 17, 6, generator=torch.Generator().manual_seed(0))
TOKENS[0, 3] *= 100
OBJECTS = [maps(0), maps(1), maps(2), maps(3)[:1], maps(4)]  # the fourth image has one object only


def fed(meter, order=range(COUNT), *, batch=2):
    state = meter.start([SITE])
    order = list(order)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        ids = tuple(f"{index:032x}" for index in some)
        shown = ObjectBatch(
            ids,
            ids,
            torch.zeros(len(some), 3, 16, 16),
            torch.zeros(len(some)).long(),
            objects=tuple(OBJECTS[index] for index in some),
        )
        state.read(Reading(SITE, TOKENS[some], shown))
    return state


@pytest.mark.parametrize("patches", ["all", "ordinary"])
def test_each_image_is_measured_by_itself(patches):
    found = fed(Clusters(patches=patches)).result()["blocks.0"]
    assert [one.tobytes().hex() for one in found.ids] == [f"{index:032x}" for index in (0, 1, 2, 4)]
    for row, index in zip(found.values, (0, 1, 2, 4), strict=True):
        owners, values = patch_objects(OBJECTS[index], GRID), TOKENS[index, 1:].numpy()
        if patches == "ordinary" and index == 0:
            owners[2] = NONE
        np.testing.assert_allclose(row[:-1], measured(values, owners, GRID), atol=1e-9)
        assert row[-1] == (1 / 16 if index == 0 else 0)
    assert found.mean("purity") == pytest.approx(found.values[:, COLUMNS.index("purity")].mean())
    spread = found.values[:, COLUMNS.index("purity")].std(ddof=1)
    assert found.error("purity") == pytest.approx(spread / 2)


def test_states_merge_in_any_order_and_are_files():
    meter = Clusters()
    whole = fed(meter)
    one, other = fed(meter, (3, 0)), fed(meter, (4, 2, 1), batch=3)
    for state in (one.merge(other), other.merge(one), meter.load([SITE], whole.arrays())):
        for name, array in whole.arrays().items():
            np.testing.assert_array_equal(state.arrays()[name], array)


def test_an_artefact_is_far_longer_than_the_median():
    lengths = np.array([1.0, 1.0, 1.0, 4.9, 5.1])
    assert artefacts(lengths[:, None] * np.array([[0.6, 0.8]])).tolist() == [False] * 4 + [True]


def test_batches_without_objects_are_passed_over(feed):
    found = feed(Clusters("a.ffn"), np.zeros((3, 4, 2))).result()["a.ffn"]
    assert len(found.ids) == 0
    assert np.isnan(found.mean("purity"))
    assert np.isnan(found.error("purity"))


def test_sites_without_a_grid_are_left_out():
    sites = tiny_cnn().sites
    names = [site.name for site in Clusters("stages.*.*").sites(sites)]
    assert names[-1] == "stages.2.0"  # the last stage is 1 x 1
    with pytest.raises(Unsuited, match="no site that matches 'logits' has a grid of 2 to 784 places"):
        Clusters("logits").sites(sites)
    with pytest.raises(BadValue, match="patches are 'all' or the 'ordinary' ones, not 'some'"):
        Clusters(patches="some")
