"""What all interventions on images have in common."""

import dataclasses

import numpy as np
import pytest
import torch

from vitscope.data.source import ImageBatch, OriginalIntervention, Picture, ViewIntervention
from vitscope.interventions import images
from vitscope.interventions.images import (
    coarse,
    drop_boxes,
    drop_patches,
    high_pass,
    keep_boxes,
    low_pass,
    rotate,
    shift,
    shuffle_patches,
)

ON_VIEW = [
    coarse(9),
    low_pass(radius=4),
    high_pass(radius=4, shape="gaussian"),
    drop_patches(share=0.4, patch=4),
    drop_patches(share=0.5, patch=4, among="foreground", fill=0.5),
    shuffle_patches(patch=4, seed=2),
    rotate(33),
    rotate(-90),
    shift(3, -2),
    shift(3, -2, edge="black"),
]
ON_ORIGINAL = [
    keep_boxes(),
    drop_boxes(fill="mean"),
    keep_boxes(fill="blur", boxes="random", seed=1),
]


def batch(*names):
    draw = torch.Generator().manual_seed(0)
    pixels = torch.stack([torch.rand(3, 16, 16, generator=draw) for _ in "abc"])["abc".index(names[0]) :][
        : len(names)
    ]
    return ImageBatch(names, names, pixels, torch.zeros(len(names), dtype=torch.int64), pixels[:, 0].round())


@pytest.mark.parametrize("one", ON_VIEW, ids=repr)
def test_a_batch_of_three_equals_three_of_one(one):
    together = one.on_view(batch("a", "b", "c"))
    for place, name in enumerate("abc"):
        alone = one.on_view(batch(name))
        torch.testing.assert_close(alone.pixels[0], together.pixels[place], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.foreground[0], together.foreground[place], atol=1e-6, rtol=0)


@pytest.mark.parametrize("one", ON_VIEW, ids=repr)
def test_views_stay_pixels_and_the_batch_given_stays_as_it_was(one):
    given = batch("a", "b", "c")
    before = dataclasses.replace(given, pixels=given.pixels.clone(), foreground=given.foreground.clone())
    found = one.on_view(given)
    assert (found.ids, found.paths) == (given.ids, given.paths)
    assert torch.equal(found.labels, given.labels)
    for values, like in ((found.pixels, given.pixels), (found.foreground, given.foreground)):
        assert (values.shape, values.dtype) == (like.shape, like.dtype)
        assert values.min() >= 0
        assert values.max() <= 1
    assert not torch.equal(found.pixels, given.pixels)
    assert torch.equal(given.pixels, before.pixels)
    assert torch.equal(given.foreground, before.foreground)
    assert torch.equal(one.on_view(given).pixels, found.pixels)


@pytest.mark.parametrize("one", ON_ORIGINAL, ids=repr)
def test_pictures_stay_pictures(one):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
    inside = np.zeros((12, 20), bool)
    inside[2:7, 5:15] = True
    given = Picture(pixels.copy(), inside.copy(), "a")
    found = one.on_original(given)
    assert (found.pixels.shape, found.pixels.dtype, found.id) == (pixels.shape, np.uint8, "a")
    assert np.array_equal(given.pixels, pixels)
    assert np.array_equal(given.foreground, inside)
    assert np.array_equal(found.foreground, inside)
    assert not np.array_equal(found.pixels, pixels)


def test_each_belongs_to_one_stage_and_is_a_frozen_value_with_a_name():
    for one in (*ON_VIEW, *ON_ORIGINAL):
        assert isinstance(one, OriginalIntervention) == (one in ON_ORIGINAL)
        assert isinstance(one, ViewIntervention) == (one in ON_VIEW)
        assert hash(one) == hash(eval(repr(one)))
        with pytest.raises(dataclasses.FrozenInstanceError):
            one.seed = 1


def test_the_table_lists_them_all():
    assert {repr(one).partition("(")[0] for one in (*ON_VIEW, *ON_ORIGINAL)} == set(images.__all__)
