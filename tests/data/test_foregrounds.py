"""Boxes and masks as pixels, and their share in each place of a grid."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vitscope.data.foregrounds import Boxes, Mask, shares
from vitscope.errors import BadValue


def png(values, mode=None):
    file = io.BytesIO()
    Image.fromarray(values).convert(mode or Image.fromarray(values).mode).save(file, "PNG")
    return file.getvalue()


CORNER = st.floats(-3, 12, allow_nan=False)


@given(st.lists(st.tuples(CORNER, CORNER, CORNER, CORNER), max_size=3))
def test_a_pixel_belongs_where_a_box_touches_it(corners):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    found = Boxes(tuple(boxes)).inside(8, 10)
    for row in range(8):
        for column in range(10):
            touched = any(
                left < right and top < bottom and left < column + 1 and column < right
                and top < row + 1 and row < bottom
                for left, top, right, bottom in boxes
            )  # fmt: skip
            assert found[row, column] == touched


def test_boxes_without_extent_or_beyond_the_picture_have_no_pixel():
    assert not Boxes(((3.5, 1.0, 3.5, 6.0), (2.0, 4.0, 5.0, 4.0))).inside(8, 8).any()
    assert not Boxes(((-9.0, -9.0, -1.0, -1.0), (8.0, 0.0, 12.0, 8.0))).inside(8, 8).any()
    assert not Boxes(()).inside(8, 8).any()
    assert Boxes(((-5.0, -5.0, 1e300, 99.0),)).inside(8, 8).all()


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_a_mask_marks_by_value(mode):
    values = np.random.default_rng(0).integers(0, 5, (6, 9), dtype=np.uint8)
    if mode == "P":
        image = Image.fromarray(values, "L").copy()
        image.putpalette([200, 0, 0] * 256)
        file = io.BytesIO()
        image.save(file, "PNG")
        content = file.getvalue()
    else:
        content = png(values.astype(np.uint16) if mode == "I;16" else values)
    assert np.array_equal(Mask("a.png", content).inside(6, 9), values > 0)
    marked = Mask("a.png", content, frozenset({2, 4})).inside(6, 9)
    assert np.array_equal(marked, (values == 2) | (values == 4))


def test_a_mask_of_one_bit():
    values = np.random.default_rng(0).integers(0, 2, (6, 9)).astype(bool)
    assert np.array_equal(Mask("a.png", png(values)).inside(6, 9), values)


def test_masks_that_do_not_fit():
    content = png(np.zeros((6, 9), np.uint8))
    with pytest.raises(BadValue, match=r"the mask a\.png is 9 x 6, its image 6 x 9"):
        Mask("a.png", content).inside(9, 6)
    with pytest.raises(BadValue, match=r"the mask a\.png has the mode RGB, not one value a pixel"):
        Mask("a.png", png(np.zeros((6, 9), np.uint8), "RGB")).inside(6, 9)
    for damaged in (b"", b"<html>", content[:-20]):
        with pytest.raises(BadValue, match=r"the mask a\.png cannot be read"):
            Mask("a.png", damaged).inside(6, 9)


def test_fault_001_to_006_a_damaged_mask_is_an_error_and_never_half_a_mask():
    noise = np.random.default_rng(0).integers(0, 2, (60, 90), dtype=np.uint8)
    content = png(noise)
    for length in range(0, len(content) - 13, 61):  # without its last chunk, a PNG is whole
        with pytest.raises(BadValue, match="cannot be read"):
            Mask("a.png", content[:length]).inside(60, 90)


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (4, 6), (3, 4), (7, 5), (12, 12)])
def test_shares_are_means_over_places(grid):
    foreground = torch.rand(2, 8, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = shares(foreground, grid)
    fine = foreground.repeat_interleave(grid[0], 1).repeat_interleave(grid[1], 2)  # whole cells in each place
    for image in range(2):
        for row in range(grid[0]):
            for column in range(grid[1]):
                cell = fine[image, row * 8 : (row + 1) * 8, column * 12 : (column + 1) * 12]
                place = found[image, row * grid[1] + column]
                assert place.item() == pytest.approx(cell.mean().item(), abs=1e-12)
    torch.testing.assert_close(found.mean(1), foreground.mean((1, 2)))


def test_shares_of_the_unknown_are_unknown():
    foreground = torch.ones(2, 8, 8)
    foreground[1] = torch.nan
    found = shares(foreground, (2, 2))
    assert found[0].eq(1).all()
    assert found[1].isnan().all()
