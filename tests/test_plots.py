"""What figures show: every value, interval and gap, on common scales."""

import numpy as np
import pytest

from vitscope.errors import BadValue
from vitscope.house import COLOURS, png
from vitscope.plots import Bars, Line, bars, heat_maps, lines, pictures


def colour_of(artist):
    from matplotlib.colors import to_hex

    return to_hex(artist.get_color())


def test_lines_show_points_bands_and_gaps():
    figure = lines(
        {
            "one": [
                Line("a", [1, 2, 3], [10, float("nan"), 30], [9, 9, 29], [11, 11, 31]),
                Line("b", [1], [5]),
            ],
            "two": [Line("b", [1, 2], [7, 8])],
        },
        x_label="radius",
        y_label="top-1 (%)",
        y_range=(0, 100),
        reference=50,
        ticks=[1, 2, 3],
    )
    first, second = figure.axes
    assert first.lines[0].get_xdata().tolist() == [1, 2, 3]
    assert np.isnan(first.lines[0].get_ydata()[1])
    assert len(first.collections) == 1
    assert colour_of(first.lines[1]) == colour_of(second.lines[0]) == COLOURS[1]
    assert first.get_ylim() == second.get_ylim() == (0, 100)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert first.get_xticks().tolist() == [1, 2, 3]
    assert len(png(figure)) > 1000


@pytest.mark.parametrize("kind", ["lines", "bars"])
def test_a_later_panel_with_larger_values_is_shown_whole(kind):
    if kind == "lines":
        panels = {"low": [Line("a", [0, 1], [1, 2])], "high": [Line("a", [0, 1], [5, 9])]}
        figure = lines(panels, x_label="x", y_label="y", y_range=(0, None))
    else:
        panels = {"low": [Bars("a", [1, 2])], "high": [Bars("a", [5, 9])]}
        figure = bars(panels, groups=["one", "two"], y_label="y")
    for place in figure.axes:
        assert place.get_ylim()[0] == 0
        assert place.get_ylim()[1] > 9


def test_a_series_without_values_keeps_its_axis():
    figure = lines(
        {"one": [Line("a", [4, 32], [float("nan")] * 2)]}, x_label="x", y_label="y", y_range=(0, 100)
    )
    low, high = figure.axes[0].get_xlim()
    assert low <= 4 < 32 <= high < 40
    assert len(png(figure)) > 1000


def test_one_series_needs_no_legend():
    figure = lines({"one": [Line("a", [1, 2], [3, 4])]}, x_label="x", y_label="y")
    assert figure.legends == []


def test_bars_show_values_intervals_and_what_is_published():
    figure = bars(
        {
            "top-1": [
                Bars("ours", [10.0, 20.0], [8.0, 19.0], [12.0, 23.0]),
                Bars("published", [11.0, float("nan")], published=True),
            ]
        },
        groups=["natural", "isolated"],
        y_label="top-1 (%)",
    )
    (place,) = figure.axes
    heights = [
        patch.get_height() for container in place.containers for patch in getattr(container, "patches", ())
    ]
    assert heights[:3] == [10.0, 20.0, 11.0]
    assert [label.get_text() for label in place.get_xticklabels()] == ["natural", "isolated"]
    assert place.get_ylim()[0] == 0
    (errors,) = [each for each in place.containers if hasattr(each, "has_yerr")]
    ends = [segment[:, 1].tolist() for segment in errors.lines[2][0].get_segments()]
    assert ends == [[8.0, 12.0], [19.0, 23.0]]
    assert len(png(figure)) > 1000


def test_every_series_has_a_bar_for_every_group():
    with pytest.raises(BadValue, match="ours: 1 values for 2 groups"):
        bars({"a": [Bars("ours", [1.0])]}, groups=["x", "y"], y_label="y")


def test_heat_maps_share_their_colours_and_leave_gaps():
    figure = heat_maps(
        {"a": np.array([[0.0, 0.5], [np.nan, 1.0]]), "b": np.full((3, 5), 0.25)},
        x_label="site",
        y_label="site",
        value_label="CKA",
        x_names={"a": ["p", "q"]},
        origin="lower",
    )
    one, other = figure.axes[0].images[0], figure.axes[1].images[0]
    assert one.norm is other.norm
    assert (one.norm.vmin, one.norm.vmax) == (0.0, 1.0)
    assert one.get_array().mask.tolist() == [[False, False], [True, False]]
    assert figure.axes[-1].get_ylabel() == "CKA"
    assert figure.axes[0].patches[0].zorder < one.zorder, "the hatching of gaps lies over the values"
    assert len(png(figure)) > 1000


def test_names_must_fit():
    with pytest.raises(BadValue, match="a: 2 names for 3 along the x axis"):
        heat_maps({"a": np.zeros((2, 3))}, x_label="x", y_label="y", value_label="v", x_names=["p", "q"])


def test_values_on_both_sides_of_zero_are_drawn_around_it():
    figure = heat_maps({"a": np.array([[-0.2, 0.9]])}, x_label="x", y_label="y", value_label="v")
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vcenter, norm.vmax) == (-0.9, 0.0, 0.9)


def test_a_map_without_finite_values_is_drawn_all_the_same():
    figure = heat_maps({"a": np.full((2, 2), np.nan)}, x_label="x", y_label="y", value_label="v")
    assert len(png(figure)) > 1000


def test_pictures_in_rows():
    figure = pictures(
        {"dream": [np.zeros((4, 4, 3))], "exemplars": [np.ones((4, 4, 3))] * 3}, columns=["0", "1", "2"]
    )
    assert [len(each.images) for each in figure.axes] == [1, 0, 0, 1, 1, 1]
    assert figure.axes[1].get_title() == "1"
    with pytest.raises(BadValue, match="no image"):
        pictures({"a": []})
