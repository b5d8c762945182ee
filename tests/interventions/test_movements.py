"""Rotations and shifts of a view, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vitscope.data.source import ImageBatch
from vitscope.errors import BadValue
from vitscope.interventions.movements import rotate, shift


def noise(*size):
    return torch.rand(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def naive_rotation(channel, degrees):
    """Each pixel looked up where it came from, by hand: counter-clockwise, bilinear, black outside."""
    rows, columns = channel.shape
    found = np.zeros_like(channel)
    turn = math.radians(degrees)
    for row in range(rows):
        for column in range(columns):
            up, right = (rows - 1) / 2 - row, column - (columns - 1) / 2
            right, up = (  # turned back, in the usual axes
                right * math.cos(turn) + up * math.sin(turn),
                -right * math.sin(turn) + up * math.cos(turn),
            )
            y, x = (rows - 1) / 2 - up, right + (columns - 1) / 2
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    if 0 <= r < rows and 0 <= c < columns:
                        found[row, column] += channel[r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return found


@pytest.mark.parametrize("size", [(9, 9), (8, 8), (6, 11)])
@pytest.mark.parametrize("degrees", [20, -50, 137.5])
def test_a_rotation_looks_every_pixel_up(size, degrees):
    pixels = noise(1, 2, *size)
    expected = np.stack([naive_rotation(channel.numpy(), degrees) for channel in pixels[0]])
    np.testing.assert_allclose(rotate(degrees)(pixels)[0], expected, atol=1e-6)


def test_right_angles_are_exact_and_agree_with_the_others():
    pixels = noise(2, 3, 8, 8)
    assert torch.equal(rotate(90)(pixels), pixels.rot90(1, (2, 3)))
    assert torch.equal(rotate(-270)(pixels), pixels.rot90(1, (2, 3)))
    assert torch.equal(rotate(360)(pixels), pixels)
    torch.testing.assert_close(rotate(90 + 1e-9)(pixels), rotate(90)(pixels), atol=1e-6, rtol=0)
    oblong = noise(1, 3, 4, 6)
    assert torch.equal(rotate(180)(oblong), oblong.flip(2, 3))
    assert rotate(90)(oblong).shape == oblong.shape


@given(rows=st.integers(-12, 12), columns=st.integers(-12, 12))
def test_a_shift_moves_every_pixel(rows, columns):
    pixels = noise(1, 1, 5, 7)
    wrapped, black = shift(rows, columns)(pixels), shift(rows, columns, edge="black")(pixels)
    for row in range(5):
        for column in range(7):
            source = row - rows, column - columns
            assert wrapped[0, 0, row, column] == pixels[0, 0, source[0] % 5, source[1] % 7]
            inside = 0 <= source[0] < 5 and 0 <= source[1] < 7
            assert black[0, 0, row, column] == (pixels[0, 0, source[0], source[1]] if inside else 0)
    assert torch.equal(shift(-rows, -columns)(wrapped), pixels)


def test_the_foreground_moves_along_and_the_unknown_stays_unknown():
    pixels = noise(2, 3, 8, 8)
    foreground = pixels[:, 0].clone()
    foreground[1] = torch.nan
    batch = ImageBatch(("a", "b"), ("1", "2"), pixels, torch.tensor([0, 1]), foreground)
    for one in (shift(2, -3), rotate(30)):
        found = one.on_view(batch)
        torch.testing.assert_close(found.foreground[0], found.pixels[0, 0])
        assert found.foreground[1].isnan().all()
    assert foreground[0].equal(pixels[0, 0])
    assert shift(1, 1).on_view(ImageBatch(("a",), ("1",), pixels[:1], torch.tensor([0]))).foreground is None


def test_their_names_make_them_again():
    for one in (rotate(20), shift(4, -8), shift(0, 1, edge="black")):
        assert eval(repr(one)) == one


def test_what_makes_no_sense_is_refused():
    with pytest.raises(BadValue, match="an angle must be a number of degrees, not nan"):
        rotate(math.nan)
    with pytest.raises(BadValue, match=r"no edge 'grey'\. There are: wrap, black\."):
        shift(1, 1, edge="grey")
