"""Accentuation: ascents that start from a natural image and stay near it."""

import pytest
import torch

from vitscope.dream import dream
from vitscope.dream.accentuation import accentuated
from vitscope.dream.canvases import FourierCanvas, FromPixels, MacoCanvas, PixelCanvas
from vitscope.dream.likeness import distance
from vitscope.dream.objectives import unit
from vitscope.dream.recipes import FEL_2023, GHIASI_2022, OLAH_2017
from vitscope.errors import BadAddress, BadValue
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

IMAGE = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)).repeat_interleave(8, 1)
IMAGE = IMAGE.repeat_interleave(8, 2)
SITES = {"vit": (tiny_vit, "blocks.1.ffn:3", "blocks.0"), "cnn": (tiny_cnn, "stages.1.0:3", "stages.0.0")}


@pytest.mark.parametrize("canvas", [PixelCanvas(), FourierCanvas(), FourierCanvas(decay=0.5)], ids=repr)
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 9), (9, 6)])
def test_a_canvas_shows_the_image_it_is_made_from(canvas, size):
    pixels = 0.01 + 0.98 * torch.rand(2, 3, *size)
    assert isinstance(canvas, FromPixels)
    shown = canvas.to_pixels(canvas.from_pixels(pixels), size)
    torch.testing.assert_close(shown, pixels, atol=1e-4, rtol=0)


def test_black_and_white_are_finite_on_a_fourier_canvas():
    pixels = (torch.rand(1, 3, 8, 8) > 0.5).float()
    parameters = FourierCanvas().from_pixels(pixels)
    assert parameters.isfinite().all()
    torch.testing.assert_close(FourierCanvas().to_pixels(parameters, (8, 8)), pixels, atol=0.0025, rtol=0)


@pytest.mark.parametrize("recipe", [GHIASI_2022, OLAH_2017])
def test_an_ascent_starts_from_the_image(recipe):
    model = tiny_vit()
    objective = unit("blocks.1.ffn:3").starting_from(IMAGE)
    assert objective.text.startswith("unit(blocks.1.ffn:3) starting from image #")
    made = dream(model, objective, recipe=recipe.replace(steps=1, learning_rate=1e-12))
    torch.testing.assert_close(made.pixels, IMAGE, atol=1e-4, rtol=0)
    shown = objective.score(model, read(model, IMAGE[None], objective.sites(model)))
    assert made.trust["start"] == pytest.approx(shown.item(), abs=1e-4)
    assert made.provenance.settings["address"] == objective.text


def test_not_every_canvas_can():
    assert not isinstance(MacoCanvas(), FromPixels)
    with pytest.raises(BadValue, match=r"recipe fel_2023 cannot start from image #.* a MacoCanvas cannot"):
        dream(tiny_vit(), unit("blocks.1.ffn:3").starting_from(IMAGE), recipe=FEL_2023)


@pytest.mark.parametrize("family", SITES)
def test_an_accentuated_image_excites_more_and_the_stronger_the_nearer(family):
    make, address, near = SITES[family]
    model, recipe = make(), OLAH_2017.replace(steps=20)
    asked = [accentuated(address, IMAGE, near=near, strength=strength) for strength in (0, 100)]
    plain = unit(address).score(model, read(model, IMAGE[None], unit(address).sites(model))).item()
    moved = []
    for made in dream(model, asked, recipe=recipe):
        found = read(model, made.pixels[None], [*unit(address).sites(model), model.site(near)])
        moved.append(distance(near, IMAGE).score(model, found).item())
        if not moved[1:]:
            assert unit(address).score(model, found).item() > plain + 1e-3
    assert moved[1] < 0.7 * moved[0]


def test_the_formula_and_the_errors():
    objective = accentuated("blocks.5.ffn:40", IMAGE, near="blocks.1", strength=2)
    mark = objective.begin.mark
    assert repr(objective) == (
        f"1.0*unit(blocks.5.ffn:40) - 2.0*distance(blocks.1, image #{mark}, relative) "
        f"starting from image #{mark}"
    )
    assert accentuated(unit("a:1"), IMAGE, near="b", strength=0) == unit("a:1").starting_from(IMAGE)
    with pytest.raises(BadValue, match="strength must be at least 0, not -1"):
        accentuated("a:1", IMAGE, near="b", strength=-1)
    with pytest.raises(BadAddress, match="names a site but no unit"):
        accentuated("a", IMAGE, near="b")
    with pytest.raises(BadValue, match=r"starts from one image, not from image #\w+ and image #\w+"):
        unit("a:1").starting_from(IMAGE) + unit("a:2").starting_from(IMAGE.flip(2))
    both = unit("a:1") + unit("a:2").starting_from(IMAGE)
    assert both == (unit("a:1") + unit("a:2")).starting_from(IMAGE)
