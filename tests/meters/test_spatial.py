"""CKA of places with pixels: every embedded patch finds its own, and rolled images roll the map."""

import numpy as np
import pytest
import torch
from torch import nn

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, Unsuited
from vitscope.meters.reading import Reading
from vitscope.meters.spatial import SpatialGrams, patch_of, patches_of, place_of
from vitscope.models.vision_model import Site
from vitscope.testing.doubles import tiny_cnn, tiny_vit

GRID = (3, 4)
SITE = Site("embed", "embed", "image token unit", 10, GRID, 1)
CELLS = list(np.ndindex(*GRID))


@pytest.fixture
def embed():
    return nn.Conv2d(3, 10, 4, 4).requires_grad_(False)


def fed(embed, pixels, shown=None, *, gram=256, batch=100):
    """The state that has read embedded patches, behind a token that has no pixels, of what was shown."""
    state = SpatialGrams("embed", gram=gram).start([SITE])
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch]
        ids = tuple(f"{index:032x}" for index in range(start, start + len(part)))
        tokens = torch.cat([torch.zeros(len(part), 1, 10), embed(part).flatten(2).mT], 1)
        seen = part if shown is None else shown[start : start + batch]
        state.read(Reading(SITE, tokens, ImageBatch(ids, ids, seen, torch.zeros(len(ids)).long())))
    return state


def maps(state):
    found = state.result()
    places, patches = (found.chosen([*map(of, CELLS)]) for of in (place_of, patch_of))
    return places.cka(patches).value


def test_every_place_of_embedded_patches_finds_its_own_pixels_and_no_others(embed):
    found = maps(fed(embed, torch.rand(1024, 3, 12, 16)))
    assert (found.argmax(axis=1) == np.arange(12)).all()
    off = found[~np.eye(12, dtype=bool)]
    assert np.abs(off).max() < 0.05
    assert found.diagonal().min() > 0.2


def test_rolling_the_pixels_by_a_patch_rolls_the_map(embed):
    pixels = torch.rand(64, 3, 12, 16)
    plain = maps(fed(embed, pixels, gram=64)).reshape(12, *GRID)
    rolled = maps(fed(embed, pixels, pixels.roll(4, dims=3), gram=64)).reshape(12, *GRID)
    np.testing.assert_allclose(rolled, np.roll(plain, 1, axis=2), atol=1e-6)


def test_one_place_against_the_definition_in_float64(embed):
    pixels = torch.rand(20, 3, 12, 16)
    pixels[:, :, 4:8] += torch.rand(20, 3, 1, 1)
    x = embed(pixels)[:, :, 1, 2].double()
    y = pixels[:, :, 4:8, 4:8].flatten(1).double()

    def hsic(a, b):
        k, l = ((each @ each.T).fill_diagonal_(0) for each in (a, b))  # noqa: E741
        return float((k * l).sum() + k.sum() * l.sum() / (19 * 18) - 2 * (k @ l).sum() / 18)

    truth = hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))
    found = maps(fed(embed, pixels, gram=20, batch=7))
    assert found[CELLS.index((1, 2)), CELLS.index((1, 1))] == pytest.approx(truth, abs=1e-6)


def test_states_merge_and_are_files(embed):
    pixels = torch.rand(32, 3, 12, 16)
    whole = fed(embed, pixels, gram=32, batch=5)
    again = SpatialGrams("embed", gram=32).load([SITE], whole.arrays())
    np.testing.assert_array_equal(maps(again), maps(whole))
    merged = again.merge(SpatialGrams("embed", gram=32).start([SITE]))
    np.testing.assert_array_equal(maps(merged), maps(whole))


def test_patches_lie_in_raster_order_and_a_rim_is_left_out():
    pixels = torch.arange(2 * 3 * 5 * 7).reshape(2, 3, 5, 7).float()
    found = patches_of(pixels, (2, 3))
    assert found.shape == (2, 6, 3 * 2 * 2)
    np.testing.assert_array_equal(found[1, 4], pixels[1, :, 2:4, 2:4].flatten())
    with pytest.raises(Unsuited, match="a grid of 6 x 7 is finer than an image of 5 x 7 pixels"):
        patches_of(pixels, (6, 7))


def test_what_has_no_grid_is_refused():
    with pytest.raises(Unsuited, match="logits has no grid of places on the image"):
        SpatialGrams("logits").sites(tiny_vit().sites)
    with pytest.raises(Unsuited, match=r"stages\.3\.0 has no grid"):
        SpatialGrams("stages.3.0").sites(tiny_cnn().sites)
    with pytest.raises(BadValue, match="at least 4, not 2"):
        SpatialGrams("blocks.0", gram=2)
