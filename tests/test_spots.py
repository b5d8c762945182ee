"""What figures tell where they are pointed at: cells, points and bars, with names, values and places."""

import json

import numpy as np
import pytest

from vitscope.house import png, svg
from vitscope.plots import Bars, Line, bars, heat_maps, lines, pictures
from vitscope.spots import spots_of


def drawn(figure):
    svg(figure)
    return json.loads(spots_of(figure))


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_cells_of_a_matrix_tell_their_names_and_values(origin):
    values = np.arange(6.0).reshape(2, 3)
    values[1, 2] = np.nan
    figure = heat_maps(
        {"CKA": values},
        x_label="x",
        y_label="y",
        value_label="CKA",
        origin=origin,
        x_names=["a", "b", "c"],
        y_names=["top", "low"],
    )
    (found,) = drawn(figure)["cells"]
    assert (found["told"], found["names"]) == ("CKA", ["a", "b", "c"])
    expected = {"top": ["0", "1", "2"], "low": ["3", "4", "–"]}
    assert dict(zip(found["rows"], found["values"], strict=True)) == expected
    assert found["rows"][0] == ("top" if origin == "upper" else "low")
    left, top, width, height = found["box"]
    place = figure.axes[0].get_position()
    assert (left, left + width) == pytest.approx((place.x0, place.x1), abs=1e-3)
    assert (1 - top, 1 - top - height) == pytest.approx((place.y1, place.y0), abs=1e-3)


def test_names_that_there_is_no_room_for_are_told_too():
    names = [f"blocks.{index}" for index in range(40)]
    figure = heat_maps(
        {"": np.zeros((40, 40))}, x_label="", y_label="", value_label="", x_names=names, y_names=names
    )
    (found,) = drawn(figure)["cells"]
    assert found["names"] == found["rows"] == names


def test_points_lie_where_they_are_drawn():
    figure = lines({"": [Line("ours", [0, 1, 2], [0.0, np.nan, -1.0])]}, x_label="block", y_label="accuracy")
    points = drawn(figure)["points"]
    assert [text for _, _, text in points] == ["ours: 0 at block 0", "ours: −1 at block 2"]
    pixels = figure.axes[0].transData.transform([(2, -1.0)])[0] / figure.bbox.size
    assert points[1][:2] == pytest.approx([pixels[0], 1 - pixels[1]], abs=1e-4)


def test_panels_and_bars_are_named():
    series = [Bars("ours", [0.5, 0.25]), Bars("theirs", [0.75, np.nan], published=True)]
    figure = bars({"one": series, "two": series}, groups=["cat", "dog"], y_label="share")
    told = [text for _, _, text in drawn(figure)["points"]]
    assert told[:3] == ["one · ours of cat: 0.5", "one · ours of dog: 0.25", "one · theirs of cat: 0.75"]
    assert told[3] == "two · ours of cat: 0.5"


def test_pictures_tell_nothing_and_neither_does_what_is_too_much():
    shown = pictures({"row": [np.zeros((4, 4))]})
    png(shown)
    assert spots_of(shown) == ""
    large = heat_maps({"": np.zeros((100, 100))}, x_label="", y_label="", value_label="")
    png(large)
    assert spots_of(large) == ""
