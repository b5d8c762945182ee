"""Histograms and numbers, against slow and plain calculations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.viewer.pictures import fact, figure, histogram_chart, media_type, number

EDGES = (0.0, 1.0, 2.0, 4.0, 8.0)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "image/webp"),
        (b"\x89PNG\r\n\x1a\n...", "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"<svg onload='alert(1)'/>", None),
        (b"<!doctype html><script>", None),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"", None),
    ],
)
def test_fault_075_only_raster_images_have_a_type(content, kind):
    assert media_type(content) == kind


def test_a_histogram_draws_what_was_counted_with_logarithmic_heights():
    counts = (0, 0, 9, 99, 0, 0)  # below 0, 0-1, 1-2, 2-4, 4-8, above
    chart = histogram_chart(EDGES, counts, width=400.0)
    assert [bar.title for bar in chart.bars] == ["1 to 2: 9", "2 to 4: 99"]
    first, second = chart.bars
    assert first.width == second.width == 100  # the two full bins and an empty one on each side
    assert first.x == 100
    assert second.x == 200
    assert first.height / second.height == pytest.approx(math.log1p(9) / math.log1p(99))
    assert all(bar.y + bar.height == pytest.approx(chart.height) for bar in chart.bars)


def test_marks_lie_where_their_value_lies_in_its_bin():
    chart = histogram_chart(EDGES, (0, 1, 1, 1, 1, 0), marks=[0.5, 3.0, 100.0, -100.0], width=600.0)
    assert [mark.at for mark in chart.marks] == [150, 350, 550, 50]


def test_open_bins_say_so():
    chart = histogram_chart(EDGES, (3, 0, 0, 0, 0, 4))
    assert [bar.title for bar in chart.bars] == ["below 0: 3", "8 and above: 4"]


@given(
    st.lists(st.integers(0, 10**9), min_size=6, max_size=6), st.lists(st.floats(allow_nan=False), max_size=9)
)
def test_everything_drawn_lies_inside_the_drawing(counts, marks):
    chart = histogram_chart(EDGES, counts, marks=marks)
    assert len(chart.bars) == sum(count > 0 for count in counts)
    for bar in chart.bars:
        assert -1e-6 <= bar.x <= bar.x + bar.width <= chart.width + 1e-6
        assert -1e-6 <= bar.y <= chart.height
    for at in [*(mark.at for mark in chart.marks), *(tick.at for tick in chart.across)]:
        assert -1e-6 <= at <= chart.width + 1e-6


def test_numbers_are_written_for_people():
    assert number(-0.1234) == "−0.123"
    assert number(12345.6) == "12,346"
    assert number(float("nan")) == "not finite"
    assert number(float("-inf")) == "−∞"
    assert [figure(value) for value in (5.1, 12.34, 123.4, 0.5, -2.0)] == [
        "5.10",
        "12.3",
        "123",
        "0.500",
        "−2.00",
    ]
    assert [fact(value) for value in (None, True, 1234, "a", 0.25)] == ["–", "yes", "1,234", "a", "0.25"]
