"""What tests of training share: small archives in the form of Tiny-ImageNet."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitscope.models import bundled


def write_archive(path: Path, *, split: str, count: int) -> None:
    """`count` random images of the first four classes, one colour range per class."""
    random = np.random.default_rng(0)
    with tarfile.open(path, "w:gz") as tar:
        for index in range(count):
            pixels = random.integers(0, 64, (64, 64, 3)) + 48 * (index % 4)
            stream = io.BytesIO()
            Image.fromarray(pixels.astype(np.uint8)).save(stream, "JPEG")
            wnid = bundled.CLASSES[index % 4].wnid
            member = tarfile.TarInfo(f"{split}/{wnid}/{split}_{index}.JPEG")
            member.size = stream.tell()
            stream.seek(0)
            tar.addfile(member, stream)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """archives(train, val) -> a folder with so many images of each split."""

    def make(train: int, val: int) -> Path:
        folder = tmp_path_factory.mktemp("data")
        write_archive(folder / "train.tar.gz", split="train", count=train)
        write_archive(folder / "val.tar.gz", split="val", count=val)
        return folder

    return make
