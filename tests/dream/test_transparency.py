"""Transparency: slopes by pixel, summed over steps, and PNGs that show through."""

import pytest
import torch
from PIL import Image

from vitscope.dream import dream
from vitscope.dream.augment import Crops
from vitscope.dream.objectives import unit
from vitscope.dream.recipes import FEL_2023, GHIASI_2022, OLAH_2017
from vitscope.errors import BadValue
from vitscope.provenance import explain
from vitscope.tap import read
from vitscope.testing import tiny_cnn, tiny_vit

RECIPES = {
    "ghiasi_2022": GHIASI_2022.replace(steps=4, copies=3),
    "olah_2017": OLAH_2017.replace(steps=4),
    "fel_2023": FEL_2023.replace(steps=4, copies=3),
}


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_gives_one_of_the_size_of_the_picture(recipe):
    made = dream(tiny_vit(), unit("blocks.1.ffn:3"), recipe=recipe)
    assert made.transparency.shape == made.pixels.shape[1:]
    assert made.transparency.min() >= 0
    assert made.transparency.max() == 1


def test_one_step_is_the_slope_of_the_score_alone():
    """Without augmentation, and whatever the penalty: by finite differences of the score."""
    model = tiny_vit()
    recipe = GHIASI_2022.replace(steps=1, copies=1, augmentations=(), learning_rate=1e-12)
    made = dream(model, unit("blocks.1.ffn:3"), recipe=recipe)
    model.module.double()
    site = unit("blocks.1.ffn:3").sites(model)
    slopes = torch.zeros(3, 4)
    for channel in range(3):
        for column in range(4):
            ends = []
            for move in (-1e-4, 1e-4):
                pixels = made.pixels.double().clone()
                pixels[channel, 5, column] += move
                found = read(model, pixels[None], site)[site[0].name]
                ends.append(found[0, 1:, 3].mean().item())
            slopes[channel, column] = (ends[1] - ends[0]) / 2e-4
    expected = slopes.abs().sum(dim=0)
    found = made.transparency[5, :4]
    torch.testing.assert_close(found / found.sum(), expected / expected.sum(), rtol=2e-3, atol=0)


def test_pixels_out_of_sight_are_transparent():
    """A unit at one place of an early map sees only what lies about it."""
    place = dream(tiny_cnn(), unit("stages.0.0:3@0,0"), recipe=OLAH_2017.replace(steps=4, augmentations=()))
    assert place.transparency[-1, -1] == 0
    assert place.transparency[:16, :16].max() == 1


def test_crops_that_never_reach_the_corner_leave_it_transparent():
    recipe = FEL_2023.replace(
        steps=3, copies=2, crops=Crops(first=0.2, last=0.2, side_std=0.0, centre_std=0.01)
    )
    made = dream(tiny_vit(), unit("blocks.1.ffn:3"), recipe=recipe)
    assert made.transparency[0, 0] == 0
    assert made.transparency[36, 36] > 0


def test_a_png_shows_through(tmp_path):
    made = dream(tiny_vit(), unit("blocks.1.ffn:3"), recipe=RECIPES["ghiasi_2022"])
    path = made.save(tmp_path / "clear.png", alpha="transparency")
    assert explain(path) == made.provenance
    with Image.open(path) as image:
        assert image.mode == "RGBA"
        channels = torch.tensor(list(image.tobytes())).view(32, 32, 4)
    assert torch.equal(channels[..., :3].movedim(2, 0), (made.pixels * 255).round().long())
    full = sorted(made.transparency.flatten().tolist())[int(0.8 * 1023)]
    expected = (made.transparency / full).clamp(max=1)
    assert (channels[..., 3] / 255 - expected).abs().max() < 0.01
    assert (channels[..., 3] == 255).float().mean().item() == pytest.approx(0.2, abs=0.01)
    with Image.open(made.save(tmp_path / "plain.png")) as image:
        assert image.mode == "RGB"
    with pytest.raises(
        BadValue, match=r"no alpha 'transparent'\. Nearest: 'transparency'\. There are: opaque"
    ):
        made.save(tmp_path / "no.png", alpha="transparent")


def test_a_dream_whose_slopes_are_not_finite_has_none(tmp_path):
    model = tiny_vit()

    def spoil(_, __, output):
        return output * float("nan")

    model.module.blocks[0].register_forward_hook(spoil)
    made = dream(model, unit("blocks.1.ffn:3"), recipe=RECIPES["ghiasi_2022"])
    assert made.trust["status"] == "diverged"
    assert made.transparency is None
    with pytest.raises(BadValue, match="has no transparency: its slopes did not stay finite"):
        made.save(tmp_path / "no.png", alpha="transparency")
    assert made.save(tmp_path / "plain.png").exists()


def test_it_does_not_depend_on_batch_mates():
    model, recipe = tiny_vit(), RECIPES["ghiasi_2022"]
    alone = dream(model, unit("blocks.1.ffn:3"), recipe=recipe)
    among = dream(model, [unit(f"blocks.1.ffn:{n}") for n in (1, 3, 5)], recipe=recipe)[1]
    torch.testing.assert_close(alone.transparency, among.transparency, atol=1e-4, rtol=0)
