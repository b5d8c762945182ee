"""Regions: which places their words name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscope.dream.regions import WORDS, places_of
from vitscope.errors import BadValue, UnknownAddress
from vitscope.models.vision_model import TOKENS, VECTOR, Site

SITE = Site("t", "", TOKENS, 4, (3, 4), prefix_tokens=2)


@pytest.mark.parametrize(
    ("region", "places"),
    [
        ("all", range(14)),
        ("grid", range(2, 14)),
        ("prefix", [0, 1]),
        ("cls", [0]),
        ("center", [2 + 1 * 4 + 2]),
        ("5", [7]),
        ("2,1", [11]),
        ("left", [2, 3, 6, 7, 10, 11]),
        ("right", [4, 5, 8, 9, 12, 13]),
        ("top", [2, 3, 4, 5]),
        ("bottom", [10, 11, 12, 13]),
        ("1:3,0:2", [6, 7, 10, 11]),
    ],
)
def test_by_hand_on_a_grid_of_3_by_4_behind_two_prefix_tokens(region, places):
    assert places_of(SITE, region) == tuple(places)


@given(rows=st.integers(1, 7), columns=st.integers(1, 7), prefix=st.integers(0, 2))
def test_halves_are_disjoint_equally_large_and_miss_at_most_the_middle(rows, columns, prefix):
    site = Site("t", "", TOKENS, 4, (rows, columns), prefix_tokens=prefix)
    for one, other, length in (("left", "right", columns), ("top", "bottom", rows)):
        if length == 1:
            with pytest.raises(UnknownAddress, match=f"no region '{one}' at t: it would hold no place"):
                places_of(site, one)
            continue
        halves = places_of(site, one), places_of(site, other)
        assert len(halves[0]) == len(halves[1]) == (length // 2) * rows * columns // length
        assert not set(halves[0]) & set(halves[1])
        assert set(halves[0]) | set(halves[1]) <= set(places_of(site, "grid"))
    whole = places_of(site, f"0:{rows},0:{columns}")
    assert whole == places_of(site, "grid")


def test_errors_name_the_nearest_and_the_grid():
    with pytest.raises(BadValue, match=r"no region 'lefft'. Nearest: 'left'. There are: all, grid"):
        places_of(SITE, "lefft")
    with pytest.raises(UnknownAddress, match="no region '0:9,0:2' at t: its grid is 3 x 4"):
        places_of(SITE, "0:9,0:2")
    with pytest.raises(UnknownAddress, match="no region '2:2,0:2' at t: it would hold no place"):
        places_of(SITE, "2:2,0:2")
    with pytest.raises(UnknownAddress, match="no place '9,9' at t: its grid is 3 x 4"):
        places_of(SITE, "9,9")
    vector = Site("v", "", VECTOR, 4)
    assert places_of(vector, "all") == (0,)
    for word in set(WORDS) - {"all", "center", "cls", "prefix"}:
        with pytest.raises(UnknownAddress, match=f"no region '{word}' at v: its places are not a grid"):
            places_of(vector, word)
    with pytest.raises(UnknownAddress, match="no region 'prefix' at v: it would hold no place"):
        places_of(vector, "prefix")
