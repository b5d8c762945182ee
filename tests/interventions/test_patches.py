"""Patches dropped and shuffled: counts, disjoint sets, inverses, and nothing that depends on batch mates."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.interventions.patches import drop_patches, shuffle_patches
from vitscope.testing import tiny_vit

IDS = ("a" * 32, "b" * 32, "c" * 32)


def noise(count=3, side=24):
    return 0.1 + 0.9 * torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def blob(count=3, side=24):
    """A foreground that covers the upper left corner, cutting through patches."""
    found = torch.zeros(count, side, side)
    found[:, :13, :11] = 1
    return found


def batch_of(pixels, foreground=None):
    ids = IDS[: len(pixels)]
    return ImageBatch(ids, ids, pixels, torch.zeros(len(pixels), dtype=torch.int64), foreground)


def pieces(image, patch):
    """The patches of one image in raster order, cut by hand."""
    rows, columns = image.shape[1] // patch, image.shape[2] // patch
    return [
        image[:, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch]
        for r in range(rows)
        for c in range(columns)
    ]


@settings(max_examples=40, deadline=None)
@given(share=st.floats(0, 1), patch=st.sampled_from([2, 4, 8, 24]), seed=st.integers(0, 99))
def test_exactly_so_many_patches_are_dropped_and_the_others_stay(share, patch, seed):
    pixels = noise()
    found = drop_patches(share=share, patch=patch, seed=seed)(pixels, ids=IDS)
    for before, after in zip(pixels, found, strict=True):
        black = 0
        for one, other in zip(pieces(before, patch), pieces(after, patch), strict=True):
            assert other.eq(0).all() or torch.equal(one, other)
            black += bool(other.eq(0).all())
        assert black == int(share * (24 // patch) ** 2 + 1e-9)


def test_a_share_is_counted_as_people_count():
    dropped = drop_patches(share=0.29, patch=1)
    assert dropped.chosen(IDS, (10, 10)).sum(1).tolist() == [29, 29, 29]
    assert drop_patches(share=0.2, patch=16).chosen(IDS, (14, 14)).sum(1).tolist() == [39, 39, 39]


def test_no_share_is_the_identity_and_all_of_it_is_black():
    pixels = noise()
    assert torch.equal(drop_patches(share=0, patch=8)(pixels, ids=IDS), pixels)
    assert not drop_patches(share=1, patch=8)(pixels, ids=IDS).any()
    assert drop_patches(share=1, patch=8, fill=0.5)(pixels, ids=IDS).eq(0.5).all()


def test_a_larger_share_drops_the_same_patches_and_more():
    few = drop_patches(share=0.3, patch=1).chosen(IDS, (6, 6))
    many = drop_patches(share=0.6, patch=1).chosen(IDS, (6, 6))
    assert (few & ~many).sum() == 0


def test_foreground_and_background_are_disjoint_and_cover_all():
    foreground = blob()
    sides = [
        drop_patches(share=1, patch=4, among=side).chosen(IDS, (6, 6), foreground=foreground)
        for side in ("foreground", "background")
    ]
    assert torch.equal(sides[0], ~sides[1])
    for place, cell in enumerate(pieces(foreground[:1], 4)):
        assert sides[0][0, place] == (cell.double().mean() > 0.15)
    both = noise()
    for side in ("foreground", "background"):
        both = drop_patches(share=1, patch=4, among=side)(both, ids=IDS, foreground=foreground)
    assert not both.any()
    half = drop_patches(share=0.5, patch=4, among="foreground").chosen(IDS, (6, 6), foreground=foreground)
    assert half.sum(1).tolist() == [int(sides[0][0].sum()) // 2] * 3
    assert not (half & sides[1]).any()


def test_dropped_foreground_is_no_longer_there():
    batch = batch_of(noise(), blob())
    found = drop_patches(share=1, patch=4, among="foreground").on_view(batch)
    kept = ~found.pixels.eq(0).all(1)
    assert torch.equal(found.foreground, torch.where(kept, batch.foreground, 0.0))
    assert found.foreground.sum() < 0.2 * batch.foreground.sum()
    assert drop_patches(share=1, patch=4).on_view(batch_of(noise())).foreground is None


@pytest.mark.parametrize("intervention", [shuffle_patches(patch=4, seed=3), drop_patches(share=0.4, patch=4)])
def test_an_image_does_not_depend_on_its_batch_mates(intervention):
    pixels = noise()
    together = intervention(pixels, ids=IDS)
    for image, name in enumerate(IDS):
        alone = intervention(pixels[image : image + 1], ids=(name,))
        assert torch.equal(alone[0], together[image])
    backwards = intervention(pixels.flip(0), ids=IDS[::-1])
    assert torch.equal(backwards.flip(0), together)
    same = intervention(pixels[:1].expand(3, -1, -1, -1), ids=IDS)
    assert not torch.equal(same[0], same[1])


@settings(max_examples=25, deadline=None)
@given(patch=st.sampled_from([3, 4, 8, 12, 24]), seed=st.integers(0, 99))
def test_shuffling_has_an_inverse_and_loses_no_patch(patch, seed):
    pixels, shuffled = noise(), shuffle_patches(patch=patch, seed=seed)
    found = shuffled(pixels, ids=IDS)
    orders = shuffled.orders(IDS, (24 // patch) ** 2)
    for before, after, order in zip(pixels, found, orders, strict=True):
        sources, targets = pieces(before, patch), pieces(after, patch)
        assert sorted(order.tolist()) == list(range(len(sources)))
        for target, source in enumerate(order.tolist()):
            assert torch.equal(targets[target], sources[source])
        contents = [Counter(part.numpy().tobytes() for part in parts) for parts in (sources, targets)]
        assert contents[0] == contents[1]


def test_the_foreground_is_shuffled_with_the_pixels():
    pixels = noise()
    batch = batch_of(pixels, pixels[:, 1].clone())
    found = shuffle_patches(patch=8, seed=1).on_view(batch)
    assert torch.equal(found.foreground, found.pixels[:, 1])
    assert not torch.equal(found.pixels, pixels)


def test_without_positions_a_transformer_does_not_notice_the_order_of_patches():
    model = tiny_vit()
    with torch.no_grad():
        model.module.pos_embed.zero_()
        pixels = torch.rand(2, 3, 32, 32)
        before = model.module(model.preprocess(pixels))
        shuffled = shuffle_patches(patch=8, seed=5)(pixels, ids=IDS[:2])
        after = model.module(model.preprocess(shuffled))
    assert not torch.equal(pixels, shuffled)
    torch.testing.assert_close(after, before, atol=1e-4, rtol=0)


def test_their_names_make_them_again():
    for one in (
        drop_patches(share=0.5, patch=16, among="background", seed=2),
        shuffle_patches(patch=56, seed=7),
    ):
        assert eval(repr(one)) == one


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadValue, match="patches of 16 pixels do not tile a view of 24 x 24"):
        shuffle_patches(patch=16)(noise(), ids=IDS)
    with pytest.raises(BadValue, match="patches of 0 pixels do not tile"):
        drop_patches(share=0.5, patch=0)(noise(), ids=IDS)
    with pytest.raises(BadValue, match=r"share and fill must lie between 0 and 1, not 50 and 0\.0"):
        drop_patches(share=50, patch=8)
    with pytest.raises(BadValue, match=r"no patches 'foregrund'\. Nearest: 'foreground'"):
        drop_patches(share=0.5, patch=8, among="foregrund")
    unknown = blob()
    unknown[1] = torch.nan
    for foreground in (None, unknown):
        with pytest.raises(
            BadValue, match=r"among='foreground'.* needs to know the foreground of every image"
        ):
            drop_patches(share=1, patch=8, among="foreground").on_view(batch_of(noise(), foreground))
