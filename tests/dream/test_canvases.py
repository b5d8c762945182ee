"""Canvases: ranges, sizes, gradients, and their transforms re-derived naively."""

import numpy as np
import pytest
import torch

from vitscope.draws import generator
from vitscope.dream.canvases import FourierCanvas, MacoCanvas, PixelCanvas, magnitudes, natural_images

CANVASES = [PixelCanvas(), FourierCanvas(), MacoCanvas()]
SIZES = [(8, 8), (6, 10), (7, 9), (9, 6)]


def sources(*texts: str) -> list[np.random.Generator]:
    return [generator(0, text, step=0) for text in texts]


@pytest.mark.parametrize("canvas", CANVASES, ids=repr)
@pytest.mark.parametrize("size", SIZES)
def test_pixels_lie_between_0_and_1_and_have_slopes(canvas, size):
    parameters = canvas.start(sources("a", "b"), size).requires_grad_()
    pixels = canvas.to_pixels(parameters, size)
    assert pixels.shape == (2, 3, *size)
    assert 0 <= pixels.min() < pixels.max() <= 1
    (slope,) = torch.autograd.grad((pixels * torch.rand_like(pixels)).sum(), parameters)
    assert slope.isfinite().all()
    assert (slope != 0).any()


@pytest.mark.parametrize("canvas", CANVASES, ids=repr)
def test_a_canvas_does_not_depend_on_its_neighbours(canvas):
    together = canvas.to_pixels(canvas.start(sources("a", "b", "c"), (8, 12)), (8, 12))
    alone = canvas.to_pixels(canvas.start(sources("b"), (8, 12)), (8, 12))
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[1], together[0])


def test_pixels_start_uniform():
    start = PixelCanvas().start(sources("a"), (64, 64))
    assert start.mean().item() == pytest.approx(0.5, abs=0.01)
    assert start.var().item() == pytest.approx(1 / 12, abs=0.002)
    assert PixelCanvas().bounds == (0, 1)


@pytest.mark.parametrize("size", SIZES)
def test_fourier_equals_a_sum_of_waves(size):
    """By its definition in float64: inverse transform of scaled coefficients, colours, sigmoid."""
    canvas = FourierCanvas(deviation=0.5)
    parameters = canvas.start(sources("a"), size)
    rows, columns = size
    scaled = np.zeros((3, rows, columns // 2 + 1), dtype=complex)
    for r in range(rows):
        for c in range(columns // 2 + 1):
            frequency = np.hypot(min(r, rows - r) / rows, c / columns)
            scale = np.sqrt(rows * columns) / max(frequency, 1 / max(rows, columns))
            real, imaginary = parameters[0, :, :, r, c].double().numpy()
            scaled[:, r, c] = (real + 1j * imaginary) * scale
    image = np.fft.irfft2(scaled, s=size) / 4
    mixed = np.einsum("rc,cxy->rxy", natural_images().colours.double().numpy(), image)
    expected = 1 / (1 + np.exp(-mixed))
    np.testing.assert_allclose(canvas.to_pixels(parameters, size)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8), (12, 10)])
def test_maco_keeps_the_natural_magnitudes(size):
    """Undo sigmoid, colours and standardisation: the magnitudes are the table's but for one common factor."""
    pixels = MacoCanvas().to_pixels(MacoCanvas().start(sources("a"), size), size)[0].double()
    image = torch.einsum(
        "cr,rxy->cxy", torch.linalg.inv(natural_images().colours.double()), torch.logit(pixels)
    )
    spectrum = torch.fft.rfft2(image).abs()[
        :, 1 : size[0] // 2, 1 : size[1] // 2
    ]  # away from the real-valued edges
    ratio = spectrum / magnitudes(size)[:, 1 : size[0] // 2, 1 : size[1] // 2]
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-3, atol=0)


def test_maco_images_are_standardised_before_the_squash():
    pixels = MacoCanvas().to_pixels(MacoCanvas().start(sources("a"), (16, 16)), (16, 16))[0].double()
    image = torch.einsum(
        "cr,rxy->cxy", torch.linalg.inv(natural_images().colours.double()), torch.logit(pixels)
    )
    assert image.mean().item() == pytest.approx(0, abs=1e-4)
    assert image.std(correction=0).item() == pytest.approx(1, abs=1e-3)


def test_maco_only_turns_phases_so_a_constant_shift_of_all_phases_changes_nothing():
    phases = MacoCanvas().start(sources("a"), (8, 8))
    torch.testing.assert_close(
        MacoCanvas().to_pixels(phases + 3, (8, 8)), MacoCanvas().to_pixels(phases, (8, 8)), atol=1e-4, rtol=0
    )


def test_the_bundled_statistics_are_those_of_photographs():
    table = natural_images()
    assert table.magnitudes.shape == (3, 113, 113)
    assert (table.magnitudes > 0).all()
    along = table.magnitudes[0, 0]
    assert along[1] / along[10] == pytest.approx(10, rel=0.5)  # about 1 / frequency
    grey = table.colours[:, 0] / table.colours[:, 0].norm()
    torch.testing.assert_close(
        grey, torch.full((3,), 3**-0.5), atol=0.02, rtol=0
    )  # first grey, then blue against red
    assert table.colours.norm(dim=0).max().item() == pytest.approx(1)
    assert table.colours[0, 1] * table.colours[2, 1] < 0


@pytest.mark.parametrize("size", [(224, 224), (64, 64), (300, 448), (5, 7)])
def test_magnitudes_at_any_size(size):
    found = magnitudes(size)
    assert found.shape == (3, size[0], size[1] // 2 + 1)
    assert (found > 0).all()
    torch.testing.assert_close(found[:, 1:], found[:, 1:].flip(1))  # mirror images count alike
    if max(size) <= 224:
        torch.testing.assert_close(found[:, 1, 2], natural_images().magnitudes[:, 1, 2])
