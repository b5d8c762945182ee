"""Foreground and background: the identities of Ghiasi et al.'s construction, fills, and the control."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitscope.data.foregrounds import Boxes
from vitscope.data.source import Picture
from vitscope.errors import BadValue
from vitscope.interventions.boxes import BLUR, drop_boxes, keep_boxes, random_box

CORNER = st.integers(-5, 40)
BOXES = st.lists(
    st.tuples(CORNER, CORNER, CORNER, CORNER).map(
        lambda box: (min(box[0], box[2]), min(box[1], box[3]), max(box[0], box[2]), max(box[1], box[3]))
    ),
    max_size=4,
)


def photo(rows=24, columns=30, seed=0):
    return np.random.default_rng(seed).integers(1, 256, (rows, columns, 3), dtype=np.uint8)


def picture(boxes, name="a" * 32, **size):
    pixels = photo(**size)
    corners = tuple(tuple(map(float, box)) for box in boxes)
    return Picture(pixels, Boxes(corners).inside(*pixels.shape[:2]), name)


@settings(max_examples=60, deadline=None)
@given(boxes=BOXES, kind=st.sampled_from(["given", "random"]))
def test_foreground_and_background_add_up_to_the_picture(boxes, kind):
    whole = picture(boxes)
    kept = keep_boxes(boxes=kind).on_original(whole).pixels
    dropped = drop_boxes(boxes=kind).on_original(whole).pixels
    assert np.array_equal(kept.astype(int) + dropped, whole.pixels)
    assert not (kept.astype(int) * dropped).any()


@settings(max_examples=40, deadline=None)
@given(boxes=BOXES)
def test_the_boxes_are_blackened_one_by_one(boxes):
    whole = picture(boxes)
    background = whole.pixels.copy()
    for left, top, right, bottom in boxes:
        for row in range(max(0, top), min(24, bottom)):
            for column in range(max(0, left), min(30, right)):
                background[row, column] = 0
    assert np.array_equal(drop_boxes().on_original(whole).pixels, background)
    assert np.array_equal(keep_boxes().on_original(whole).pixels, whole.pixels - background)


def test_a_box_of_everything_leaves_no_background_and_no_box_no_foreground():
    everything = picture([(0, 0, 30, 24)])
    assert not drop_boxes().on_original(everything).pixels.any()
    assert np.array_equal(keep_boxes().on_original(everything).pixels, everything.pixels)
    nothing = picture([])
    assert not keep_boxes().on_original(nothing).pixels.any()
    assert np.array_equal(drop_boxes().on_original(nothing).pixels, nothing.pixels)
    assert not keep_boxes(boxes="random").on_original(nothing).pixels.any()


def test_boxes_that_overlap_count_once():
    one, two = picture([(2, 2, 20, 20)]), picture([(2, 2, 20, 20), (5, 5, 12, 18), (2, 2, 20, 20)])
    assert np.array_equal(drop_boxes().on_original(one).pixels, drop_boxes().on_original(two).pixels)


def test_fills_leave_the_kept_side_alone():
    whole = picture([(3, 4, 20, 15)])
    inside = whole.foreground
    for fill in ("black", "mean", "blur"):
        kept = keep_boxes(fill=fill).on_original(whole).pixels
        assert np.array_equal(kept[inside], whole.pixels[inside])
        dropped = drop_boxes(fill=fill).on_original(whole).pixels
        assert np.array_equal(dropped[~inside], whole.pixels[~inside])
        assert np.array_equal(np.where(inside[..., None], dropped, kept)[0, 0], kept[0, 0])
    mean = keep_boxes(fill="mean").on_original(whole).pixels[~inside]
    assert (mean == np.rint(whole.pixels.reshape(-1, 3).mean(0))).all()


def test_a_blur_is_a_gaussian_of_a_sixteenth_of_the_shorter_side():
    rows, columns = 160, 200
    ramp = np.zeros((rows, columns, 3), np.uint8)
    ramp[:, 100:] = 200
    whole = Picture(ramp, np.zeros((rows, columns), bool), "a")
    found = keep_boxes(fill="blur").on_original(whole).pixels[80, :, 0].astype(float)
    reach = np.arange(-80, 81)
    weights = np.exp(-(reach**2) / (2 * (BLUR * rows) ** 2))
    padded = np.pad(ramp[80, :, 0].astype(float), 80, mode="edge")
    exact = np.convolve(padded, weights / weights.sum(), mode="valid")
    assert np.abs(found - exact).max() < 6  # Pillow adds up boxes: within 3 % of the step


@settings(max_examples=80, deadline=None)
@given(boxes=BOXES, seed=st.integers(0, 50))
def test_the_control_is_one_box_of_the_same_area(boxes, seed):
    inside = picture(boxes).foreground
    control = random_box(inside, seed=seed, name="a")
    assert control.sum() == inside.sum()
    if control.any():
        down, across = np.flatnonzero(control.any(1)), np.flatnonzero(control.any(0))
        height, width = np.ptp(down) + 1, np.ptp(across) + 1
        assert 0 <= height * width - control.sum() < height
        solid = control[down[0] : down[-1] + 1, across[0] : across[-1]]
        assert solid.all()
    assert np.array_equal(random_box(inside, seed=seed, name="a"), control)


def test_the_control_keeps_proportions_and_goes_everywhere():
    inside = np.zeros((40, 60), bool)
    inside[5:25, 10:20] = True  # 20 x 10
    seen = np.zeros((40, 60), int)
    for seed in range(300):
        control = random_box(inside, seed=seed, name="a")
        down, across = np.flatnonzero(control.any(1)), np.flatnonzero(control.any(0))
        assert (np.ptp(down) + 1, np.ptp(across) + 1) == (20, 10)
        seen += control
    for edge in (seen[0], seen[-1], seen[:, 0], seen[:, -1]):
        assert edge.any()
    assert not np.array_equal(random_box(inside, seed=0, name="a"), random_box(inside, seed=0, name="b"))


def test_an_image_of_which_nothing_is_known_is_refused():
    with pytest.raises(BadValue, match=r"keep_boxes\(fill='black'\) needs to know the foreground"):
        keep_boxes().on_original(Picture(photo(), None, "a"))


def test_their_names_make_them_again():
    for one in (keep_boxes(), drop_boxes(fill="blur"), keep_boxes(fill="mean", boxes="random", seed=4)):
        assert eval(repr(one)) == one


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadValue, match=r"no 'blurr' here\. Nearest: 'blur'\. There are: black, mean, blur"):
        keep_boxes(fill="blurr")
    with pytest.raises(BadValue, match=r"no 'rand' here\. Nearest: 'random'"):
        drop_boxes(boxes="rand")
