"""A source in random order: the contract of sources, and the same images in another order."""

import numpy as np
import pytest
from PIL import Image

from vitscope.data import images
from vitscope.data.drawn import Drawn
from vitscope.testing import SourceContract


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos")
    for index in range(12):
        Image.fromarray(np.full((8, 8, 3), 20 * index, np.uint8)).save(path / f"{index:02d}.png")
    return images(f"folder:{path}")


class TestDrawn(SourceContract):
    @pytest.fixture
    def source(self, folder):
        return Drawn(folder, seed=3)


def test_every_image_once_in_an_order_of_the_seed(folder):
    drawn, again, other = Drawn(folder, seed=3), Drawn(folder, seed=3), Drawn(folder, seed=4)
    assert sorted(drawn.paths) == list(folder.paths)
    assert drawn.paths == again.paths
    assert drawn.fingerprint == again.fingerprint
    assert len({drawn.paths, other.paths, folder.paths}) == 3
    assert len({drawn.fingerprint, other.fingerprint, folder.fingerprint}) == 3
    (shard,) = drawn.shards()
    assert tuple(entry.path for entry in drawn.read(shard)) == drawn.paths
