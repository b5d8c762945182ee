"""Salient patches: the fewest with most of the attention, or those on the object; drops among them."""

import numpy as np
import pytest
import torch

from vitscope.data.foregrounds import shares
from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue, Unsuited
from vitscope.interventions.images import drop_patches
from vitscope.interventions.salience import MASS, Attention, Salient, attended, attention_site
from vitscope.tap import read
from vitscope.testing.doubles import tiny_cnn, tiny_vit

NAMES = tuple(f"{index:032x}" for index in range(3))
PIXELS = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 0.9 + 0.05


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


def batch_of(foreground=None, pixels=PIXELS):
    return ImageBatch(NAMES, NAMES, pixels, torch.zeros(3).long(), foreground)


def mask():
    """The upper left quarter, a thin line that covers 1/8 of its patches, and nothing known."""
    found = torch.zeros(3, 32, 32)
    found[0, :16, :16] = 1
    found[1, 5] = 1
    found[2] = torch.nan
    return found


def patches(foreground):
    return shares(foreground.double(), (4, 4)) > 0.5


def test_attended_are_the_fewest_places_with_that_much():
    mass = torch.rand(5, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    for one, found in zip(mass, attended(mass), strict=True):
        count, values = int(found.sum()), one.flatten().sort(descending=True).values
        assert one[found].min() > one[~found].max()
        assert values[: count - 1].sum() < MASS * one.sum() <= values[:count].sum() + 1e-12


def test_attention_is_that_of_cls_in_the_last_block(vit):
    site = attention_site(vit)
    assert site.name == "blocks.2.attn.pattern"
    weights = read(vit, PIXELS, [site])[site.name].view(3, 17, 3, 17)
    attention = Attention(vit)
    for _ in range(2):  # the second time from memory
        found = attention.of(batch_of())
        torch.testing.assert_close(found, attended(weights[:, 0, :, 1:].mean(1).view(3, 4, 4).double()))
    marked = Salient(8, attention).on_view(batch_of()).foreground
    assert torch.equal(patches(marked).view(3, 4, 4), found)
    assert set(marked.unique().tolist()) == {0.0, 1.0}


def test_annotations_come_first_and_attention_where_there_are_none(vit):
    attention = Attention(vit)
    seen = attention.of(batch_of()).flatten(1)
    given = patches(Salient(8, attention).on_view(batch_of(mask())).foreground)
    assert given[0].view(4, 4).tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    assert not given[1].any()
    assert torch.equal(given[2], seen[2])
    always = patches(Salient(8, attention, always=True).on_view(batch_of(mask())).foreground)
    assert torch.equal(always, seen)


def test_salient_and_other_patches_are_disjoint_and_cover_the_view(vit):
    salient = Salient(8, Attention(vit))
    shown = salient.on_view(batch_of(mask()))
    gone = {
        among: (drop_patches(share=1, patch=8, among=among).on_view(shown).pixels == 0).all(1)
        for among in ("foreground", "background", "all")
    }
    assert not (gone["foreground"] & gone["background"]).any()
    assert (gone["foreground"] | gone["background"]).all()
    assert gone["all"].all()
    same = drop_patches(share=0, patch=8, among="foreground").on_view(shown)
    assert torch.equal(same.pixels, PIXELS)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8])
def test_exactly_so_many_of_the_patches_concerned_are_dropped(vit, share):
    shown = Salient(8, Attention(vit)).on_view(batch_of(mask()))
    salient = patches(shown.foreground)
    for among, concerned in (("foreground", salient), ("background", ~salient)):
        dropped = drop_patches(share=share, patch=8, among=among).on_view(shown).pixels == 0
        gone = shares(dropped.all(1).double(), (4, 4)) == 1
        assert gone.sum(1).tolist() == [
            int(np.floor(share * count + 1e-9)) for count in concerned.sum(1).tolist()
        ]
        assert not (gone & ~concerned).any()


def test_a_view_of_another_size_is_resized_for_the_model_that_looks(vit):
    large = torch.nn.functional.interpolate(PIXELS, (64, 64), mode="nearest")
    foreground = Salient(16, Attention(vit)).on_view(batch_of(pixels=large)).foreground
    assert foreground.shape == (3, 64, 64)
    small = torch.nn.functional.interpolate(large, (32, 32), mode="bilinear", antialias=True)
    assert torch.equal(patches(foreground), Attention(vit).of(batch_of(pixels=small)).flatten(1))


def test_what_cannot_be_told(vit):
    with pytest.raises(Unsuited, match="has no attention: give one such as vit_tiny_patch16_224"):
        Attention(tiny_cnn())
    with pytest.raises(BadValue, match="what is salient needs boxes, masks or a model with attention"):
        Salient(8, None).on_view(batch_of(mask()))
