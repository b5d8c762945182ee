"""Total variation against a naive float64 loop, and its values on noise."""

import math

import numpy as np
import pytest
import torch

from vitscope.dream.augment import Views
from vitscope.dream.penalties import TotalVariation, roughness, total_variation


def naive(images: torch.Tensor) -> list[float]:
    values = []
    for image in images.double().tolist():
        total = 0.0
        for channel in image:
            rows, columns = len(channel), len(channel[0])
            for down, right in ((1, 0), (0, 1), (1, 1), (1, -1)):
                squares = [
                    (channel[r + down][c + right] - channel[r][c]) ** 2
                    for r in range(rows - down)
                    for c in range(columns)
                    if 0 <= c + right < columns
                ]
                total += math.sqrt(sum(squares)) / len(image)
        values.append(total)
    return values


def naive_slope(images: torch.Tensor) -> torch.Tensor:
    """By torch's own derivatives, in float64."""
    x = images.double().requires_grad_()
    rows, columns = x.shape[-2:]
    total = x.new_zeros(())
    for down, right in ((1, 0), (0, 1), (1, 1), (1, -1)):
        here = x[..., : rows - down, max(0, -right) : columns - max(0, right)]
        there = x[..., down:, max(0, right) : columns + min(0, right)]
        total = total + (there - here).square().sum(dim=(-2, -1)).sqrt().sum()
    return torch.autograd.grad(total, x)[0]


def rolled(images: torch.Tensor, rolls: np.ndarray) -> torch.Tensor:
    """Every copy by itself: "unit copy rgb row column"."""
    copies = max(images.shape[1], rolls.shape[1])
    images = images.expand(-1, copies, -1, -1, -1)
    rolls = np.broadcast_to(rolls, (len(rolls), copies, 2))
    return torch.stack(
        [
            torch.stack([torch.roll(image, tuple(roll), (-2, -1)) for image, roll in zip(*unit, strict=True)])
            for unit in zip(images, rolls.tolist(), strict=True)
        ]
    )


UNROLLED = np.zeros((2, 1, 2), dtype=np.int64)


def test_its_slope_is_that_of_the_definition():
    images = torch.rand(2, 1, 3, 6, 9).requires_grad_()
    (found,) = torch.autograd.grad(roughness(images, UNROLLED).sum(), images)
    torch.testing.assert_close(found.double(), naive_slope(images.detach()), atol=1e-6, rtol=1e-5)
    weights = torch.rand(2, 1, 3)
    (weighed,) = torch.autograd.grad((roughness(images, UNROLLED) * weights).sum(), images)
    torch.testing.assert_close(weighed, found * weights[..., None, None])
    wide = images.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: roughness(x, UNROLLED), wide)


@pytest.mark.parametrize(("shared", "copies"), [(1, 3), (3, 1), (3, 3)])
def test_it_is_that_of_the_rolled_images(shared: int, copies: int):
    images = torch.rand(2, shared, 3, 6, 9, dtype=torch.float64).requires_grad_()
    rolls = np.random.default_rng(0).integers(-12, 13, size=(2, copies, 2))
    found = roughness(images, rolls)
    expected = [naive(unit) for unit in rolled(images.detach(), rolls)]
    torch.testing.assert_close(found.mean(dim=-1).tolist(), expected)
    (slope,) = torch.autograd.grad(found.sum(), images)
    other = images.detach().requires_grad_()
    (plain,) = torch.autograd.grad(rolled(other, rolls), other, naive_slope(rolled(images.detach(), rolls)))
    torch.testing.assert_close(slope, plain)


def test_a_flat_image_has_no_slope():
    flat = torch.full((2, 1, 3, 5, 5), 0.3).requires_grad_()
    (found,) = torch.autograd.grad(roughness(flat, UNROLLED).sum(), flat)
    assert torch.equal(found, torch.zeros_like(found))


def test_it_equals_the_loop():
    images = torch.rand(3, 3, 7, 10)
    torch.testing.assert_close(total_variation(images).tolist(), naive(images), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("side", "value"), [(384, 625.9), (224, 364.4)])
def test_uniform_noise_has_the_value_of_the_specification(side: int, value: float):
    theory = 2 * math.sqrt(side * (side - 1) / 6) + 2 * math.sqrt((side - 1) ** 2 / 6)
    found = (
        total_variation(torch.rand(8, 3, side, side, generator=torch.Generator().manual_seed(0)))
        .mean()
        .item()
    )
    assert found == pytest.approx(value, rel=2e-3)
    assert found == pytest.approx(theory, rel=2e-3)


def test_a_constant_image_pays_nothing_and_has_a_finite_slope():
    image = torch.full((1, 3, 5, 5), 0.3, requires_grad=True)
    price = total_variation(image).sum()
    (slope,) = torch.autograd.grad(price, image)
    assert price.item() == 0
    assert slope.isfinite().all()


def test_it_scales_with_contrast_and_ignores_brightness():
    image = torch.rand(2, 3, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(total_variation(-2.5 * image + 4), 2.5 * total_variation(image))


def test_each_image_pays_for_itself_by_weight():
    images = torch.rand(2, 4, 3, 6, 6)
    prices = TotalVariation(0.004).price(Views.of(images, 4))
    torch.testing.assert_close(prices[1], 0.004 * total_variation(images[1]))


def test_stretched_copies_pay_as_if_measured_one_by_one():
    colours = torch.randn(2, 2, 4, 3, dtype=torch.float64)
    views = Views.of(torch.rand(2, 1, 3, 6, 6, dtype=torch.float64), 4)
    views = views.coloured(gain=colours[0], offset=colours[1])
    prices = TotalVariation(0.5).price(views)
    for unit in range(2):
        torch.testing.assert_close(prices[unit], 0.5 * total_variation(views.pixels[unit]))
