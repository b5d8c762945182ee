"""A few entries of a source are a source, and what is shown of them is what the model is shown."""

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.source import ImageSource
from vitscope.data.stream import stream
from vitscope.interventions.images import low_pass
from vitscope.models.vision_model import Preprocessing
from vitscope.studies.exemplars import Few, views

SHOWN = Preprocessing((16, 16), 18)


@pytest.fixture
def source(tmp_path):
    draw = np.random.default_rng(0)
    for index in range(5):
        pixels = draw.integers(0, 256, (20 + index, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
    (tmp_path / "5.png").write_bytes(b"no picture")
    return images(f"folder:{tmp_path}")


def test_views_are_what_a_model_is_shown(source):
    for of in (source, source.map(low_pass(radius=3))):
        (shard,) = of.shards()
        (batch,) = stream(of, shard, SHOWN, batch_size=9, on_skip=lambda _: None)
        found = views(of, ["3.png", "0.png", "3.png", "5.png"], SHOWN)
        assert sorted(found) == ["0.png", "3.png"]
        for path, shown in found.items():
            expected = batch.pixels[batch.paths.index(path)].permute(1, 2, 0) * 255
            assert (torch.from_numpy(shown.astype(np.float32)) - expected).abs().max() <= 0.5 + 1e-4


def test_a_few_entries_are_a_source(source):
    few = Few(source, ["4.png", "1.png"])
    assert isinstance(few, ImageSource)
    assert [entry.path for shard in few.shards(1) for entry in few.read(shard)] == ["4.png", "1.png"]
    assert few.find("1.png") == source.find("1.png")
    assert few.describe() == source.describe()


def test_no_path_is_no_view(source):
    assert views(source, [], SHOWN) == {}
