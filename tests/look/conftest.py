"""A small model, a photograph of noise, and an atlas of the model over a few such photographs."""

import numpy as np
import pytest
from PIL import Image

from vitscope.atlas.building import build
from vitscope.atlas.read import Atlas
from vitscope.data import images
from vitscope.dream.recipes import GHIASI_2022
from vitscope.look import look
from vitscope.testing import tiny_vit

QUICK = GHIASI_2022.replace(name="quick", steps=1, copies=1)


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Six pictures of noise, and one of another shape."""
    folder, draw = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for index in range(6):
        values = draw.integers(0, 40 * (index + 1), (32, 32, 3)).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    values = draw.integers(0, 256, (60, 90, 3)).astype(np.uint8)
    Image.fromarray(values).save(folder.parent / "dog & cat.jpg")
    return folder


@pytest.fixture(scope="session")
def photo(photos):
    return photos.parent / "dog & cat.jpg"


@pytest.fixture(scope="session")
def vit():
    return tiny_vit(reg_tokens=1)


@pytest.fixture(scope="session")
def atlas(vit, photos, tmp_path_factory):
    path = tmp_path_factory.mktemp("atlas") / "noise.atlas"
    build(vit, images(f"folder:{photos}"), sites="blocks.1.ffn", k=3, dreams=2, recipe=QUICK, out=path)
    return Atlas.open(path)


@pytest.fixture(scope="session")
def seen(vit, photo):
    return look(vit, photo, units=3, kinds=3)
