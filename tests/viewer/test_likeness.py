"""Units that share exemplars, against sets; and a map on which they lie close."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.viewer.likeness import Like, alike, incidence, layout

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 12)), min_size=1, max_size=60)


def matrix_of(pairs, units=10):
    unit, image = (np.array(column) for column in zip(*pairs, strict=True))
    return incidence(unit.astype(np.int64), image.astype("S32"), units=units)


@given(PAIRS, st.integers(0, 9))
def test_overlap_is_that_of_the_sets_of_images(pairs, unit):
    sets = [{image for one, image in pairs if one == at} for at in range(10)]
    slow = [
        Like(at, len(sets[unit] & other) / len(sets[unit] | other), len(sets[unit] & other))
        for at, other in enumerate(sets)
        if at != unit and sets[unit] & other
    ]
    slow.sort(key=lambda like: (-like.overlap, like.unit))
    ours = alike(matrix_of(pairs), unit, count=4)
    assert [like.common for like in ours] == [like.common for like in slow[:4]]
    assert [like.overlap for like in ours] == pytest.approx([like.overlap for like in slow[:4]])


@given(PAIRS)
def test_a_map_gives_every_unit_a_cell_of_its_own(pairs):
    cells = layout(matrix_of(pairs))
    assert sorted(map(tuple, cells.tolist())) == [divmod(at, 4) for at in range(10)]


def test_a_map_is_the_same_every_time():
    draw = np.random.default_rng(0)
    pairs = list(zip(draw.integers(0, 100, 900).tolist(), draw.integers(0, 200, 900).tolist(), strict=True))
    assert (layout(matrix_of(pairs, 100)) == layout(matrix_of(pairs, 100))).all()


def test_units_that_the_same_images_excite_lie_close():
    """A ring of units: each shares images with those beside it alone."""
    units = 144
    pairs = [(unit, (unit * 3 + step) % (3 * units)) for unit in range(units) for step in range(9)]
    shuffled = np.random.default_rng(1).permutation(units)
    cells = layout(matrix_of([(int(shuffled[unit]), image) for unit, image in pairs], units))
    places = cells[shuffled]
    near = np.abs(places - np.roll(places, 1, axis=0)).max(1).mean()
    random = np.abs(places - places[np.random.default_rng(2).permutation(units)]).max(1).mean()
    assert near < random / 2
