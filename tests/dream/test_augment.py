"""Augmentations: their laws, identities, inverses and slopes, and random numbers keyed per unit."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.draws import generator
from vitscope.dream.augment import (
    Affine,
    ChannelNoise,
    ColourShift,
    Crops,
    Jitter,
    Moment,
    PixelNoise,
    Views,
    augment,
    whole,
)

MOMENT = Moment(step=3, steps=400, copies=4, size=(12, 16))
ALL = [
    Jitter(32),
    Jitter(5, shared=False),
    ColourShift(),
    ColourShift(form="paper"),
    ChannelNoise(),
    PixelNoise(0.1, 0.05),
    Affine((8, 4), (0.9, 1.1), (-10.0, 0.0, 10.0)),
]


def images(units: int = 2, *, size: tuple[int, int] = MOMENT.size) -> torch.Tensor:
    return torch.rand(units, 3, *size, dtype=torch.float64)


def apply(augmentation, pixels: torch.Tensor, *, texts: str = "ab", moment: Moment = MOMENT) -> torch.Tensor:
    sources = [generator(0, text, step=1) for text in texts]
    return augment(pixels, [augmentation], sources=sources, moment=moment).pixels


def test_numbers_are_keyed_by_seed_text_and_step():
    first = generator(0, "a", step=1).random(4).tolist()
    assert generator(0, "a", step=1).random(4).tolist() == first
    for other in (generator(1, "a", step=1), generator(0, "b", step=1), generator(0, "a", step=2)):
        assert other.random(4).tolist() != first


def test_the_numbers_stay_the_same_across_releases():
    """A change here changes every dream; it must be meant, and told in the change log."""
    assert generator(0, "blocks.5.ffn:40", step=1).integers(0, 1000, size=4).tolist() == [64, 104, 363, 534]


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_shape_and_batch_mates(augmentation):
    pixels = images(3)
    together = apply(augmentation, pixels, texts="abc")
    alone = apply(augmentation, pixels[1:2], texts="b")
    assert together.shape == (3, MOMENT.copies, 3, *MOMENT.size)
    assert torch.equal(together[1], alone[0])


@pytest.mark.parametrize("augmentation", ALL, ids=repr)
def test_slopes_equal_finite_differences(augmentation):
    """On a linear model: it reads a fixed weighting of the augmented pixels."""
    moment = replace(MOMENT, copies=2, size=(4, 5))
    weights = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    pixels = images(1, size=(4, 5)).requires_grad_()

    def model(given: torch.Tensor) -> torch.Tensor:
        return (apply(augmentation, given, texts="a", moment=moment)[0] * weights).sum()

    assert torch.autograd.gradcheck(model, pixels, eps=1e-6, atol=1e-6)


def test_without_strength_or_copies_nothing_changes():
    nothing = [
        ColourShift(0.0, 0.0),
        ChannelNoise(0.0),
        PixelNoise(0.0),
        Jitter(0),
        Affine((), (1.0,), (0.0,)),
    ]
    pixels = images()
    for chain in ([], nothing[:-1], nothing):
        sources = [generator(0, text, step=1) for text in "ab"]
        found = augment(pixels, chain, sources=sources, moment=replace(MOMENT, copies=1)).pixels
        torch.testing.assert_close(found[:, 0], pixels, atol=1e-12, rtol=0)


@settings(max_examples=30, deadline=None)
@given(down=st.integers(-32, 32), right=st.integers(-32, 32))
def test_a_roll_and_its_opposite_cancel(down: int, right: int):
    views = Views.of(torch.rand(1, 2, 3, 6, 7), 2)
    there = Jitter(32).apply(views, np.array([[[down, right]]]))
    assert torch.equal(Jitter(32).apply(there, np.array([[[-down, -right]]])).pixels, views.pixels)
    assert torch.equal(there.pixels[0, 0, 0, down % 6, right % 7], views.pixels[0, 0, 0, 0, 0])


def test_copies_share_one_roll_unless_told_otherwise():
    shared = apply(Jitter(32), images())
    assert all(torch.equal(shared[:, 0], shared[:, copy]) for copy in range(4))
    assert not torch.equal(shared[0, 0], apply(Jitter(32), images(), texts="ba")[0, 0])
    single = apply(Jitter(5, shared=False), images())
    assert not torch.equal(single[:, 0], single[:, 1])


def test_rolls_are_uniform_with_both_ends():
    drawn = [Jitter(2).draw(generator(0, "a", step=step), MOMENT)[0].tolist() for step in range(400)]
    for axis in (0, 1):
        values, counts = np.unique([shift[axis] for shift in drawn], return_counts=True)
        assert values.tolist() == [-2, -1, 0, 1, 2]
        assert counts.min() > 50


def test_colour_shifts_follow_both_forms():
    draws = np.array([[[[0.1, 0.2, 0.3], [2.0, 1.0, 0.5]]]])  # mu and sigma of one copy
    views = Views.of(torch.full((1, 1, 3, 1, 1), 0.5, dtype=torch.float64), 1)
    code = ColourShift(form="code").apply(views, draws).pixels.flatten().tolist()
    paper = ColourShift(form="paper").apply(views, draws).pixels.flatten().tolist()
    assert code == pytest.approx([0.2, 0.3, 0.4])
    assert paper == pytest.approx([1.1, 0.7, 0.55])


def test_the_law_of_colour_shifts():
    """E[1/sigma] = sinh(1) = 1.175; the code's offset -mu/sigma has mean 0 and reaches e."""
    drawn = ColourShift().draw(generator(0, "law", step=0), replace(MOMENT, copies=100_000))
    mu, sigma = drawn[:, 0], drawn[:, 1]
    assert (1 / sigma).mean() == pytest.approx(math.sinh(1), abs=0.005)
    assert np.log(sigma).min() >= -1
    assert np.log(sigma).max() <= 1
    offset = -mu / sigma
    assert offset.mean() == pytest.approx(0, abs=0.01)
    assert 2.6 < np.abs(offset).max() <= math.e
    assert (offset**2).mean() == pytest.approx(math.sinh(2) / 2 / 3, rel=0.02)  # E[mu^2] E[1/sigma^2]
    assert np.corrcoef(np.abs(offset).ravel(), (1 / sigma).ravel())[0, 1] > 0.4


@pytest.mark.parametrize(("step", "deviation"), [(0, 0.4975), (198, 0.25), (398, 0.0), (399, 0.49875)])
def test_channel_noise_fades_and_wraps(step: int, deviation: float):
    """std 0.5 (398 - t) / 400, which wraps to 0.4988 at the last forward pass."""
    moment = replace(MOMENT, step=step, copies=10_000)
    assert ChannelNoise(0.5).deviation(moment) == pytest.approx(deviation)
    drawn = ChannelNoise(0.5).draw(generator(0, "law", step=step), moment)
    assert drawn.shape == (10_000, 3)
    assert drawn.std() == pytest.approx(deviation, rel=0.05)


def test_channel_noise_is_one_number_per_copy_and_channel():
    change = apply(ChannelNoise(), torch.zeros(2, 3, *MOMENT.size))
    assert torch.equal(change, change[..., :1, :1].expand_as(change))
    assert len(change[..., 0, 0].unique()) == 2 * 4 * 3


def test_pixel_noise_has_its_deviation_everywhere():
    moment = replace(MOMENT, copies=64)
    noise = apply(PixelNoise(1.0), torch.zeros(1, 3, *MOMENT.size), texts="a", moment=moment)
    assert noise.std().item() == pytest.approx(1, rel=0.02)
    both = apply(PixelNoise(0.08, 0.04), torch.zeros(1, 3, *MOMENT.size), texts="a", moment=moment)
    assert both.std().item() == pytest.approx(math.sqrt(0.08**2 + 0.04**2 / 3), rel=0.02)


def test_affine_shifts_by_whole_pixels():
    pixels = images(1)
    views = apply(Affine((8,), (1.0,), (0.0,)), pixels, texts="a", moment=replace(MOMENT, copies=16))
    draws = Affine((8,), (1.0,), (0.0,)).draw(generator(0, "a", step=1), replace(MOMENT, copies=16))
    padded = torch.nn.functional.pad(pixels[0], (4, 4, 4, 4), value=0.5)
    for view, drawn in zip(views[0], draws, strict=True):
        down, right = round(drawn[1, 2] * 12 / 2), round(drawn[0, 2] * 16 / 2)
        expected = padded[:, 4 + down : 16 + down, 4 + right : 20 + right]
        torch.testing.assert_close(view, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(9, 9), (8, 12)])
def test_affine_turns_and_scales_in_pixels(size: tuple[int, int]):
    """A quarter turn of a square patch of pixels about the centre, also where the image is not square."""
    pixels = torch.rand(1, 3, *size, dtype=torch.float64)
    moment = replace(MOMENT, copies=1, size=size)
    turned = apply(Affine((), (1.0,), (90.0,)), pixels, texts="a", moment=moment)[0, 0]
    rows, columns = size
    side = min(size)
    top, left = (rows - side) // 2, (columns - side) // 2
    middle = (slice(None), slice(top, top + side), slice(left, left + side))
    rotations = [torch.rot90(pixels[0][middle], turns, dims=(1, 2)) for turns in (1, 3)]
    assert any(torch.allclose(turned[middle], expected, atol=1e-9) for expected in rotations)
    flat = apply(Affine((), (2.0,), (0.0,)), torch.full_like(pixels, 0.9), texts="a", moment=moment)
    torch.testing.assert_close(flat, torch.full_like(flat, 0.9))
    small = apply(Affine((), (0.5,), (0.0,)), torch.full_like(pixels, 0.9), texts="a", moment=moment)
    assert small[..., 0, 0].unique().tolist() == pytest.approx([0.5])  # grey outside


def test_crops_cut_boxes_and_resize_them():
    canvas = torch.rand(1, 3, 20, 20, dtype=torch.float64)
    draws = np.array([[[0.5, 0.5, 1.0], [0.25, 0.75, 0.5], [0.0, 0.0, 1.0]]])
    views = Crops().cut(canvas, draws, size=(20, 20))
    torch.testing.assert_close(views[0, 0], canvas[0])
    quarter = Crops().cut(canvas, draws[:, 1:2], size=(10, 10))[0, 0]
    torch.testing.assert_close(quarter, canvas[0, :, 10:, :10])  # x 0.25, y 0.75: lower left
    assert (views[0, 2, :, :9, :9] == 0.5).all()  # grey outside
    torch.testing.assert_close(views[0, 2, :, 10:, 10:], canvas[0, :, :10, :10])


def test_crops_shrink_and_stay_square_shares_of_the_canvas():
    moment = Moment(0, 256, 5000, (8, 8))
    first = Crops().draw(generator(0, "a", step=0), moment)
    last = Crops().draw(generator(0, "a", step=0), replace(moment, step=255))
    assert first[:, 2].mean() == pytest.approx(0.5, abs=0.005)
    assert first[:, :2].mean() == pytest.approx(0.5, abs=0.005)
    assert first[:, :2].std() == pytest.approx(0.15, rel=0.05)
    assert last[:, 2].min() == 0.05
    assert Crops().side(replace(moment, step=255)) == pytest.approx(0.05)


def test_crops_of_a_larger_canvas_reach_the_size_of_the_model():
    sources = [generator(0, text, step=1) for text in "ab"]
    canvases = torch.rand(2, 3, 30, 37)
    views = augment(canvases, [PixelNoise(0.01)], sources=sources, moment=MOMENT, crops=Crops())
    assert views.pixels.shape == (2, 4, 3, *MOMENT.size)


def test_colours_compose_in_order_and_cost_one_image_a_unit():
    """Three changes of colour and a roll, against the same done one by one on every copy."""
    chain = [ColourShift(), Jitter(3), ChannelNoise(), ColourShift(form="paper")]
    pixels = images()
    views = augment(pixels, chain, sources=[generator(0, text, step=1) for text in "ab"], moment=MOMENT)
    assert views.base.shape == (2, 1, 3, *MOMENT.size)
    for unit, text in enumerate("ab"):
        source = generator(0, text, step=1)
        colour, roll, noise, paper = (each.draw(source, MOMENT) for each in chain)
        for copy in range(MOMENT.copies):
            expected = torch.roll(pixels[unit], tuple(roll[0]), dims=(-2, -1)).numpy()
            (mu, sigma), (shift, stretch) = colour[copy][..., None, None], paper[copy][..., None, None]
            expected = stretch * ((expected - mu) / sigma + noise[copy][..., None, None]) + shift
            assert np.abs(views.pixels[unit, copy].numpy() - expected).max() < 1e-12


def test_a_whole_canvas_is_resized_within_range():
    pixels = torch.rand(1, 3, 30, 40)
    assert whole(pixels, (30, 40)) is pixels
    small = whole(pixels, (12, 16))
    assert small.shape == (1, 3, 12, 16)
    assert 0 <= small.min() <= small.max() <= 1
    assert small.mean().item() == pytest.approx(pixels.mean().item(), abs=0.01)
