"""Which units fire most: by their height in the picture, and against an atlas, each against a slow count."""

import numpy as np
import pytest
import torch

from vitscope.atlas.read import Atlas
from vitscope.data import images
from vitscope.data.stream import stream
from vitscope.errors import BadValue
from vitscope.look import look
from vitscope.look.units import against, firing
from vitscope.tap import read
from vitscope.testing import tiny_vit


def maxima(vit, photos):
    """The maximum over the places of the picture, of every image and unit."""
    site, source = vit.site("blocks.1.ffn"), images(f"folder:{photos}")
    batches = stream(source, source.shards()[0], vit.preprocessing, batch_size=6, on_skip=pytest.fail)
    with torch.no_grad():
        (values,) = [read(vit, batch.pixels, [site])[site.name][:, 2:].numpy() for batch in batches]
    return values.max(axis=1)


def test_heights_are_in_deviations_of_the_site(vit):
    site = vit.site("blocks.1.ffn")
    values = torch.randn(1, 18, 96, generator=torch.Generator().manual_seed(5))
    values[0, 2 + 6, 40] = 9
    values[0, 2 + 9, 7] = torch.nan
    found = firing([site], {site.name: values}, count=2)
    on = values[0, 2:].double().numpy()
    usable = [unit for unit in range(96) if unit != 7]
    apart = np.std([on[place, unit] - on[:, unit].mean() for unit in usable for place in range(16)])
    assert (str(found[0].address), found[0].place) == ("blocks.1.ffn:40", "1,2")
    assert found[0].height == pytest.approx((9 - on[:, 40].mean()) / apart, rel=1e-5)
    heights = {unit: (on[:, unit].max() - on[:, unit].mean()) / apart for unit in usable if unit != 40}
    assert found[1].address.unit == max(heights, key=heights.get)
    assert (found[0].percentile, found[0].known) == (None, None)


def test_percentiles_count_images_below_and_half_of_the_own_bin(vit, photos, atlas):
    tops = maxima(vit, photos)
    edges = np.array(atlas.manifest["histogram_edges"])
    peaks = np.quantile(tops, 0.7, axis=0).astype(np.float32)
    shares, excess = against(atlas, "blocks.1.ffn", peaks)
    for unit in (0, 17, 95):
        own = np.searchsorted(edges, peaks[unit], side="right")
        bins = [np.searchsorted(edges, value, side="right") for value in tops[:, unit]]
        counted = sum(one < own for one in bins) + sum(one == own for one in bins) / 2
        assert shares[unit] == pytest.approx(100 * counted / 6)
        assert excess[unit] == pytest.approx(peaks[unit] / tops[:, unit].max(), rel=1e-4)


def test_with_an_atlas_units_are_ranked_against_it(vit, photo, atlas):
    found = look(vit, photo, atlas=atlas, units=3)
    assert {one.address.site for one in found.units} == {"blocks.1.ffn"}
    shares = [one.percentile for one in found.units]
    assert shares == sorted(shares, reverse=True)
    assert found.units[0].known.address == found.units[0].address
    assert len(found.units[0].known.exemplars) == 3
    assert found.thumbnail(found.units[0].known.exemplars[0].image)[:4] == b"RIFF"
    assert found.thumbnail("0" * 32) is None
    assert Atlas.open(atlas.path).name == found.provenance.settings["atlas"]


def test_an_atlas_of_other_weights_is_refused(photo, atlas):
    other = tiny_vit(reg_tokens=1, seed=1)
    with pytest.raises(
        BadValue, match=r"the atlas noise is of .* with other weights \(sha256:.*give the model"
    ):
        look(other, photo, atlas=atlas.path)
