"""What a model sees of an image: equal to the models' own transforms, for odd sizes too."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.conftest import VIT_TINY, noise, smooth

from vitscope.data.decode import decode, view
from vitscope.models.vision_model import Preprocessing

RESNET18 = Preprocessing(size=(224, 224), resize=256, interpolation="bilinear")


ODD_SIZES = [(500, 375), (375, 500), (256, 256), (1, 1), (40, 1), (1, 40), (224, 1000), (333, 251), (7, 300)]


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 10_000), (10_000, 1), (2, 20_000)])
def test_fault_011_strips_give_a_crop(size):
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    strip = np.broadcast_to(ramp[:, None] if size[1] > size[0] else ramp[None], size[::-1])
    found = view(Image.fromarray(strip.copy()).convert("RGB"), VIT_TINY)
    assert found.shape == (224, 224, 3)
    assert np.abs(found.mean(axis=(0, 1)) - 127.5).max() <= 1


def timm_view(image: Image.Image, *, size: int, crop_pct: float, interpolation: str):
    from timm.data.transforms_factory import create_transform

    shown = create_transform(size, crop_pct=crop_pct, interpolation=interpolation, normalize=False)
    return shown(image).permute(1, 2, 0).numpy()


def torchvision_view(image: Image.Image):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    shown = ImageClassification(
        crop_size=224,
        resize_size=256,
        mean=(0, 0, 0),
        std=(1, 1, 1),
        interpolation=InterpolationMode.BILINEAR,
    )
    return (shown(image) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", ODD_SIZES)
def test_the_view_is_the_one_of_timm_and_torchvision(size):
    for image in (noise(*size), smooth(*size)):
        expected = timm_view(image, size=224, crop_pct=224 / 248, interpolation="bicubic")
        assert np.array_equal(view(image, VIT_TINY), expected)
        assert np.array_equal(view(image, RESNET18), torchvision_view(image))


@pytest.mark.parametrize("size", [(50, 90), (31, 31), (64, 40)])
def test_a_crop_larger_than_the_image_is_padded_as_torchvision_pads(size):
    from torchvision.transforms import CenterCrop, Compose, Resize

    image = noise(*size)
    expected = Compose([Resize(33), CenterCrop(48)])(image)
    asked = Preprocessing(size=(48, 48), resize=33, interpolation="bilinear")
    assert np.array_equal(view(image, asked), np.asarray(expected))


def test_no_resize_length_means_squash():
    image = smooth(50, 90)
    asked = Preprocessing(size=(32, 24), resize=None, interpolation="bicubic")
    assert np.array_equal(view(image, asked), np.asarray(image.resize((24, 32), Image.Resampling.BICUBIC)))


def test_a_strip_too_long_to_be_resized_whole_is_close_to_what_that_would_give(monkeypatch):
    image = smooth(30, 3000)
    for asked in (VIT_TINY, Preprocessing(size=(48, 48), resize=33, interpolation="bilinear")):
        whole = view(image, asked).astype(int)
        monkeypatch.setattr("vitscope.data.decode.WHOLE", 10)
        assert np.abs(view(image, asked) - whole).max() <= 2
        monkeypatch.undo()


@pytest.mark.real
def test_the_view_of_real_images_is_the_one_of_timm_and_torchvision(shared):
    for path in sorted((shared / "imagenet1k-sample").glob("*/*"))[::40]:
        image = decode(path.read_bytes()).image
        expected = timm_view(image, size=224, crop_pct=224 / 248, interpolation="bicubic")
        assert np.array_equal(view(image, VIT_TINY), expected), path
        assert np.array_equal(view(image, RESNET18), torchvision_view(image)), path
