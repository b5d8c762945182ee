"""Pictures: files, Pillow images and pixels as values, shown as the model's own transform shows them."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data.decode import view
from vitscope.dream.pictures import picture
from vitscope.errors import BadValue, MissingPath
from vitscope.models.vision_model import Preprocessing

LEVELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
PIXELS = torch.from_numpy(LEVELS.copy()).movedim(2, 0) / 255


def test_a_file_an_image_and_its_pixels_are_the_same_picture(tmp_path):
    Image.fromarray(LEVELS).save(tmp_path / "noise.png")
    made = [picture(tmp_path / "noise.png"), picture(str(tmp_path / "noise.png")), picture(PIXELS)]
    made.append(picture(Image.fromarray(LEVELS)))
    assert {repr(one) for one in made} == {f"image #{made[0].mark}"}
    assert len(set(made)) == 1
    assert torch.equal(made[0].pixels, PIXELS)
    assert picture(made[0]) is made[0]


def test_another_picture_has_another_mark():
    other = PIXELS.clone()
    other[0, 0, 0] = (other[0, 0, 0] + 0.1) % 1
    turned = PIXELS.reshape(3, 60, 40)
    assert len({picture(PIXELS).mark, picture(other).mark, picture(turned).mark}) == 3


@pytest.mark.parametrize("resize", [None, 36])
def test_it_is_shown_as_the_models_own_transform_shows_it(resize):
    facts = Preprocessing((32, 32), resize)
    expected = torch.from_numpy(view(Image.fromarray(LEVELS), facts).copy()).movedim(2, 0) / 255
    assert torch.equal(picture(PIXELS).fitted(facts)[0], expected)
    larger = picture(PIXELS).fitted(facts, (64, 64))[0]
    assert larger.shape == (3, 64, 64)
    small = torch.nn.functional.avg_pool2d(larger, 2)
    assert (small - expected).abs().mean() < 0.5 * (small.flip(2) - expected).abs().mean()


def test_pixels_of_the_right_size_are_left_alone():
    pixels = torch.rand(3, 32, 32)
    assert torch.equal(picture(pixels).fitted(Preprocessing((32, 32), 36))[0], pixels)


def test_errors(tmp_path):
    with pytest.raises(MissingPath, match=r"no such file: .*none\.png"):
        picture(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(BadValue, match=r"cannot read .*text\.png as an image: unreadable"):
        picture(tmp_path / "text.png")
    with pytest.raises(BadValue, match=r"pixels with axes 'rgb row column'; these have the shape \(2, 3"):
        picture(torch.rand(2, 3, 8, 8))
    with pytest.raises(BadValue, match=r"pixels lie in \[0, 1\]; these reach from 0 to 2"):
        picture(2 * torch.eye(8).expand(3, 8, 8))
    with pytest.raises(BadValue, match=r"pixels lie in \[0, 1\]; these reach from nan"):
        picture(torch.full((3, 8, 8), float("nan")))
    with pytest.raises(BadValue, match="a file, a Pillow image or a tensor, not int"):
        picture(3)
