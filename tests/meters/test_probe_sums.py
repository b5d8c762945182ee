"""What probes are fitted to: the same fit from vectors and from sums, merged in any way, written and read."""

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.probe_sums import Evidence, ProbeSums
from vitscope.meters.reading import Reading
from vitscope.meters.readouts import Readout
from vitscope.meters.ridge import dual
from vitscope.models.vision_model import TOKENS, Site, Sites

UNITS = 6
SITE = Site("blocks.0", "a", TOKENS, UNITS, grid=(2, 2), prefix_tokens=1)
READOUTS = tuple(Readout("blocks.0", tokens, (2, 2)) for tokens in ("cls", "1,0"))
METER = ProbeSums(READOUTS, (0, 2, 5))
CLASSES = (0, 2, 5, 9)
"""The labels of the images; the last one does not count."""


def fed(values, *, first=0, batch=3):
    """The state that has read these images, whose labels go round."""
    state = METER.start([SITE])
    for start in range(0, len(values), batch):
        part = values[start : start + batch]
        labels = torch.tensor([CLASSES[(first + start + each) % 4] for each in range(len(part))])
        names = tuple(map(str, range(len(part))))
        state.read(Reading(SITE, part, ImageBatch(names, names, torch.zeros(len(part), 3, 1, 1), labels)))
    return state


def expected(values, place):
    kept = [image for image in range(len(values)) if image % 4 < 3]
    return dual(values[kept, place].numpy(), np.array([image % 4 for image in kept]), 3)


@pytest.mark.parametrize("images", [7, 40])
def test_the_fit_is_that_of_all_vectors_however_they_come(images):
    values = torch.randn(images, 5, UNITS)
    cut = images // 3
    whole = fed(values)
    merged = fed(values[cut:], first=cut, batch=5).merge(fed(values[:cut], batch=1))
    read = METER.load([SITE], merged.arrays())
    for state in (whole, merged, read):
        for readout, place in zip(READOUTS, (0, 3), strict=True):
            own = state.result()[readout]
            assert own.images == images - images // 4
            assert len(own.rows) <= UNITS
            assert (own.summed.images == 0) == (images == 7), "sums only where vectors are many"
            scores = own.ridge().scores(values[:, place].numpy(), 2.0)
            assert np.allclose(
                scores, expected(values, place).scores(values[:, place].numpy(), 2.0), atol=1e-5
            )


def test_equal_states_have_equal_arrays():
    values = torch.randn(6, 5, UNITS)
    one, other = fed(values[:4]), fed(values[4:], first=4)
    found, back = one.merge(other).arrays(), other.merge(one).arrays()
    assert all(np.array_equal(found[name], back[name]) for name in found)
    assert len(one.result()[READOUTS[0]].rows) == 3, "merging leaves both as they were"


def test_sites_are_found_by_name():
    assert METER.sites(Sites([SITE])) == [SITE]


def test_vectors_that_are_not_finite_teach_nothing():
    values = torch.randn(12, 5, UNITS)
    values[1, 0, 2] = torch.nan
    found = fed(values).result()
    assert [found[readout].images for readout in READOUTS] == [8, 9]
    assert np.isfinite(found[READOUTS[0]].ridge().scores(values[2:3, 0].numpy(), 1.0)).all()


def test_nothing_is_nothing_to_fit_to():
    with pytest.raises(BadValue, match="at least one labelled image whose activations are finite"):
        Evidence(4, 2).ridge()
