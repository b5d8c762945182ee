"""Heat maps, against slow and plain calculations."""

import io

import numpy as np
from matplotlib import colormaps
from PIL import Image

from vitscope.heat import colour_scale, heat_map, shared_span


def pixels(content):
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_heat_map_has_one_pixel_a_place_and_rises_in_opacity():
    levels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    picture = pixels(heat_map(levels, [(0.0, 2.0)]))
    assert picture.shape == (3, 4, 4)
    opacity = picture[..., 3].ravel().astype(int)
    assert opacity[0] == 0
    assert (np.diff(opacity) >= 0).all()
    assert opacity[-1] > 180


def test_maps_on_one_page_share_one_scale():
    levels = np.array([[0, 255]], np.uint8)
    strong = pixels(heat_map(levels, [(0.0, 4.0), (0.0, 4.0), (0.0, 2.0)]))
    weak = pixels(heat_map(levels, [(0.0, 2.0), (0.0, 4.0), (0.0, 2.0)]))
    scale = pixels(colour_scale())[0]
    assert strong[0, 1].tolist() == scale[255].tolist()
    assert weak[0, 1].tolist() == scale[128].tolist()  # 2 is half of 4


def test_a_map_without_any_difference_is_transparent():
    assert pixels(heat_map(np.zeros((2, 2), np.uint8), [(1.5, 1.5)]))[..., 3].max() == 0


def test_the_colours_are_those_of_inferno():
    table = colormaps["inferno"](np.linspace(0.12, 0.98, 256))[:, :3] * 255
    assert np.abs(pixels(colour_scale())[0, :, :3] - table).max() < 8


def test_the_shared_span_leaves_out_what_is_not_finite():
    assert shared_span([(-1.0, 2.0), (float("nan"), float("inf")), (0.5, 3.0)]) == (-1.0, 3.0)
    assert shared_span([]) == (0.0, 0.0)
