"""Vectors that are read off a site, against plain means over places and over cells of a coarser grid."""

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.meters.reading import Reading
from vitscope.meters.readouts import Readout, read_off, readings_of
from vitscope.models.vision_model import TOKENS, VECTOR, Site

LABELS = (7, 2, -1, 7, 5)
SITE = Site("blocks.0", "a", TOKENS, 6, grid=(4, 6), prefix_tokens=2)
POOLED = Site("pooled", "a", VECTOR, 6)


def reading_of(site, values):
    names = tuple("abcde")
    return Reading(site, values, ImageBatch(names, names, torch.zeros(5, 3, 1, 1), torch.tensor(LABELS)))


def test_every_reading_is_a_plain_mean():
    values = torch.randn(5, 2 + 24, 6)
    wide = values.double().numpy()
    maps = wide[:, 2:].reshape(5, 4, 6, 6)
    expected = {
        "cls": wide[:, 0],
        "patches": wide[:, 2:].mean(1),
        "all": wide.mean(1),
        "first": maps[:, :2, :2].mean((1, 2)),
        "0,0": maps[:, :2, :2].mean((1, 2)),
        "1,2": maps[:, 2:, 4:].mean((1, 2)),
    }
    readouts = [Readout("blocks.0", tokens, (2, 3)) for tokens in expected]
    other = Readout("blocks.1", "cls", (2, 3))
    found = list(read_off(reading_of(SITE, values), [other, *readouts], (2, 7)))
    assert [readout for readout, _, _ in found] == readouts
    for readout, vectors, columns in found:
        assert columns.tolist() == [1, 0, 1]
        assert np.allclose(vectors, expected[readout.tokens][[0, 1, 3]])
    ((_, own, _),) = read_off(reading_of(SITE, values), [Readout("blocks.0", "3,5", (4, 6))], (7,))
    assert np.array_equal(own, maps[[0, 3], 3, 5])


def test_which_readings_a_site_has():
    assert readings_of(SITE) == ("cls", "patches", "all", "first")
    assert readings_of(Site("stages.0.0", "a", TOKENS, 6, grid=(4, 6))) == ("patches", "first")
    assert readings_of(POOLED) == ("all",)
    assert Readout("a", "1,2", (2, 3)).cell == (1, 2)
    assert Readout("a", "first", (2, 3)).cell is None


@pytest.mark.parametrize("tokens", ["cls", "patches", "0,0"])
def test_what_a_site_does_not_have_is_an_error(tokens):
    reading = reading_of(POOLED, torch.randn(5, 1, 6))
    with pytest.raises(BadValue, match=f"pooled has no '{tokens}' to read off"):
        list(read_off(reading, [Readout("pooled", tokens, (1, 1))], (7,)))
