"""The objects of images: told apart by mask and boxes, and moved as the pixels are."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from vitscope.data import images
from vitscope.data.annotations import foregrounds
from vitscope.data.foregrounds import Boxes, Mask
from vitscope.data.objects import ObjectBatch, Objects, told_apart
from vitscope.data.source import Shard
from vitscope.data.stream import stream
from vitscope.interventions.images import rotate, shuffle_patches
from vitscope.models.vision_model import Preprocessing

SHOWN = Preprocessing((32, 32), 32)


def png(values):
    file = BytesIO()
    Image.fromarray(values).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three pictures, 64 x 64, that are red where one object lies and green where the other does."""
    folder, masks = (tmp_path_factory.mktemp(name) for name in ("pictures", "masks"))
    for index in range(3):
        values = np.zeros((64, 64), np.uint8)
        values[8 * index : 8 * index + 24, 4:30] = 7
        values[20:50, 34:60] = 9
        pixels = np.stack([values == 7, values == 9, np.zeros_like(values)], axis=2).astype(np.uint8) * 255
        Image.fromarray(pixels).save(folder / f"{index}.png")
        if index < 2:
            (masks / f"{index}.png").write_bytes(png(values))
    return images(f"folder:{folder}").annotated(foregrounds(masks=masks))


def read(source, *moves):
    objects = Objects(source, SHOWN)
    (batch,) = stream(source, Shard("all", 0, 3), SHOWN, batch_size=3, on_skip=lambda _: None)
    return objects.under(*moves).on_view(batch)


def test_objects_lie_where_the_pixels_show_them(source):
    batch = read(source)
    assert isinstance(batch, ObjectBatch)
    assert [len(maps) for maps in batch.objects] == [2, 2, 0]
    for pixels, maps in zip(batch.pixels, batch.objects[:2], strict=False):
        assert (maps / 255 - pixels[:2]).abs().mean() < 0.01  # another kernel at the edges


@pytest.mark.parametrize("move", [shuffle_patches(patch=8, seed=3), rotate(90), shuffle_patches(patch=4)])
def test_objects_move_with_the_pixels(source, move):
    plain, batch = read(source), read(source, move)
    assert batch.ids == plain.ids
    assert (batch.pixels != plain.pixels).any()
    for pixels, maps in zip(batch.pixels, batch.objects[:2], strict=False):
        assert (maps / 255 - pixels[:2]).abs().mean() < 0.01
    assert len(batch.objects[2]) == 0


def test_what_the_source_does_moves_the_objects_too(source):
    here = read(source.map(rotate(180)))
    for before, after in zip(read(source).objects[:2], here.objects[:2], strict=True):
        torch.testing.assert_close(after, before.flip(1, 2))


def test_boxes_are_told_apart_and_may_overlap():
    found = told_apart(Boxes(((0.0, 0.0, 3.0, 2.0), (2.0, 0.0, 4.0, 4.0))), 4, 5)
    assert [one.sum() for one in found] == [6, 8]
    assert (found[0] & found[1]).sum() == 2


def test_a_mask_is_told_apart_by_its_values_that_count():
    values = np.array([[0, 3], [5, 5]], np.uint8)
    found = told_apart(Mask("m.png", png(values)), 2, 2)
    assert [one.tolist() for one in found] == [
        [[False, True], [False, False]],
        [[False, False], [True, True]],
    ]
    assert len(told_apart(Mask("m.png", png(values), frozenset({3})), 2, 2)) == 1


def test_any_other_foreground_is_one_object():
    class Whole:
        def inside(self, rows, columns):
            return np.ones((rows, columns), bool)

    (found,) = told_apart(Whole(), 2, 3)
    assert found.shape == (2, 3)
