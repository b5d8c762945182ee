"""Charts over the depth of a model: where dots lie, and when there is no chart."""

import math

import pytest

from vitscope.viewer.charts import HEIGHT, WIDTH, depth_chart, family_of


def chart_of(values, **settings):
    return depth_chart("peak", values, meaning="what it is", **settings)


def test_dots_stand_at_their_site_and_value():
    chart = chart_of({"blocks.0.ffn": 1.0, "blocks.1.ffn": None, "blocks.2.ffn": 4.0})
    (curve,) = chart.curves
    assert [dot.x for dot in curve.dots] == pytest.approx([WIDTH / 6, WIDTH * 5 / 6])
    assert [dot.y for dot in curve.dots] == pytest.approx([HEIGHT * 3 / 4, 0])
    assert [(tick.at, tick.text) for tick in chart.up] == [(HEIGHT, "0"), (0, "4")]
    assert curve.path == "M50.0 72.0 L250.0 0.0"


def test_each_family_has_its_own_curve():
    chart = chart_of({"blocks.0.ffn": 1.0, "blocks.0": 2.0, "blocks.1.ffn": 3.0})
    assert [(curve.family, len(curve.dots)) for curve in chart.curves] == [
        ("blocks.*.ffn", 2),
        ("blocks.*", 1),
    ]
    assert family_of("stages.1.2.branch") == "stages.*.*.branch"


def test_values_below_zero_have_their_place_and_shares_are_per_cent():
    chart = chart_of({"a": -1.0, "b": 1.0}, per_cent=True)
    assert [dot.text for dot in chart.curves[0].dots] == ["−100 %"]
    assert [tick.at for tick in chart.up] == [HEIGHT, 0]


@pytest.mark.parametrize("values", [{}, {"a": 1.0}, {"a": 1.0, "b": math.nan}, {"a": None, "b": None}])
def test_there_is_no_chart_of_fewer_than_two_values(values):
    assert chart_of(values) is None


def test_a_number_that_is_zero_everywhere_lies_on_the_axis():
    chart = chart_of({"a.0": 0.0, "a.1": 0.0})
    assert [dot.y for dot in chart.curves[0].dots] == [HEIGHT, HEIGHT]
