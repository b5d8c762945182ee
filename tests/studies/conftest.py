"""What tests of studies share: small models, and folders of pictures drawn by lot."""

import numpy as np
import pytest
import torch
from PIL import Image

import vitscope as vs
from vitscope.testing import tiny_cnn, tiny_vit


@pytest.fixture(scope="module")
def vit():
    return tiny_vit()


@pytest.fixture(scope="module")
def cnn():
    return tiny_cnn()


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Makes a folder of so many pictures of noise."""

    def make(count, *, size=(32, 32)):
        folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
        for index in range(count):
            values = draw.integers(0, 256, (*size, 3), dtype=np.uint8)
            Image.fromarray(values).save(folder / f"{index:02}.png")
        return folder

    return make


@pytest.fixture(scope="module")
def masked():
    """Puts masks beside the pictures of a folder, one for each: the values of their pixels."""

    def make(folder, masks):
        (folder / "masks").mkdir()
        for index, values in enumerate(masks):
            Image.fromarray(values).save(folder / "masks" / f"{index:02}.png")
        return folder

    return make


@pytest.fixture(scope="module")
def images(folder):
    """The pictures of the module's folder as a source, with their labels where it has some."""
    labels = folder / "labels.csv"
    return vs.images(f"folder:{folder}", labels=labels if labels.exists() else None)


@pytest.fixture(scope="module")
def pixels(folder):
    """The same pictures in one tensor, 0 to 1."""
    values = np.stack([np.array(Image.open(file)) for file in sorted(folder.rglob("*.png"))])
    return torch.from_numpy(values).permute(0, 3, 1, 2) / 255
