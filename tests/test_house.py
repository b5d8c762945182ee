"""The house style: colours that everyone can tell apart, marks for grey print, the same bytes every time."""

import io
import itertools
import json

import numpy as np
import pytest
from matplotlib import rcParams
from PIL import Image

from vitscope.errors import BadValue
from vitscope.house import COLOURS, DASHES, GROUND, MARKS, RAMP, STYLE, Plot, house, panels_of, png, svg
from vitscope.plots import Line, lines
from vitscope.provenance import Provenance

SIMULATED = {  # Machado, Oliveira and Fernandes 2009, table of matrices at severity 1, linear RGB
    "none": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
MADE = Provenance("study", "a", "sha256:1", {}, settings={"radius": 4}, versions={})


def linear(colour):
    levels = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    root = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def contrast(colour, ground):
    light, dark = sorted(float(np.array([0.2126, 0.7152, 0.0722]) @ linear(c)) for c in (colour, ground))[
        ::-1
    ]
    return (light + 0.05) / (dark + 0.05)


def a_figure():
    return lines({"a": [Line("x", [1, 2], [3, 4], [2, 3], [4, 5])]}, x_label="radius", y_label="top-1")


@pytest.mark.parametrize("sight", SIMULATED)
def test_any_two_colours_differ_under_every_kind_of_colour_blindness(sight):
    seen = [lab(SIMULATED[sight] @ linear(colour)) for colour in COLOURS]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 20


def test_every_colour_stands_out_from_the_ground():
    assert min(contrast(colour, GROUND) for colour in COLOURS) > 2.5


def test_series_differ_in_grey_print():
    count = len(COLOURS)
    looks = {(DASHES[index % len(DASHES)], MARKS[index % len(MARKS)], index % 2) for index in range(count)}
    assert len(looks) == count


def test_the_ramp_only_gets_lighter():
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    lightness = [lab(linear(to_hex(colormaps[RAMP](step))))[0] for step in range(0, 256, 8)]
    assert (np.diff(lightness) > 0).all()


def test_the_same_figure_is_the_same_bytes():
    assert png(a_figure(), MADE) == png(a_figure(), MADE)
    assert svg(a_figure(), MADE) == svg(a_figure(), MADE)


def test_figures_carry_their_provenance():
    with Image.open(io.BytesIO(png(a_figure(), MADE))) as picture:
        assert Provenance.from_json(picture.info["vitscope"]) == MADE
    text = svg(a_figure(), MADE).decode()
    assert json.dumps("sha256:1")[1:-1] in text
    assert "vitscope" not in svg(a_figure()).decode().split("<metadata>")[0]


def test_letters_are_outlines_so_that_no_reader_needs_the_font():
    text = svg(a_figure()).decode()
    assert "<text" not in text
    assert "font-family" not in text


def test_the_style_ends_with_the_with():
    before = dict(rcParams)
    with house():
        assert rcParams["svg.fonttype"] == STYLE["svg.fonttype"]
    a_figure()
    assert dict(rcParams) == before


def test_a_figure_shows_itself_without_pyplot():
    import sys

    figure = a_figure()
    assert isinstance(figure, Plot)
    assert figure._repr_png_()[:4] == b"\x89PNG"
    assert "matplotlib.pyplot" not in sys.modules or figure.canvas.manager is None


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3))]
)
def test_panels_are_labelled_at_the_left_and_below(count, shape):
    with house():
        figure, axes = panels_of([f"t{index}" for index in range(count)], x_label="x", y_label="y")
    assert len(axes) == len(figure.axes) == count
    assert axes[0].get_gridspec().get_geometry() == shape
    assert [bool(each.get_ylabel()) for each in axes] == [index % shape[1] == 0 for index in range(count)]
    assert [bool(each.get_xlabel()) for each in axes] == [index + shape[1] >= count for index in range(count)]


def test_a_figure_needs_a_panel():
    with pytest.raises(BadValue, match="at least one panel"):
        panels_of([], x_label="x", y_label="y")
