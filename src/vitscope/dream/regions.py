"""Some places of a site, in words: the whole grid, a half of it, a box, one place."""

from __future__ import annotations

import re

from vitscope.errors import BadValue, UnknownAddress, suggestion
from vitscope.models.vision_model import Site

WORDS = ("all", "grid", "prefix", "left", "right", "top", "bottom", "center", "cls")
"""Names of regions. Two more ways: a place as in addresses ("7", "3,4") and a box ("2:5,0:4")."""

_PLACE = re.compile(r"\d+(,\d+)?")
_BOX = re.compile(r"(\d+):(\d+),(\d+):(\d+)")


def places_of(site: Site, region: str) -> tuple[int, ...]:
    """The indices of a region among the places of a site, in order.

    "all" places, the "grid" without prefix tokens, the "prefix" tokens alone, "left", "right", "top" and
    "bottom" halves of the grid (the middle of an odd number belongs to neither), a box of rows and columns
    "2:5,0:4", whose ends are left out, or one place as addresses name it.

    Raises:
        BadValue: the text is none of these; the nearest is named.
        UnknownAddress: the site has no such places.
    """
    if region in ("center", "cls") or _PLACE.fullmatch(region):
        return (site.place_index(region),)
    box = _BOX.fullmatch(region)
    if region not in WORDS and not box:
        raise BadValue(
            f"no region {region!r}.{suggestion(region, WORDS)} There are: {', '.join(WORDS)}, "
            'a place such as "3,4", and a box of rows and columns such as "2:5,0:4".'
        )
    if region == "all":
        return tuple(range(site.places))
    if region == "prefix":
        return _some(site, region, range(site.prefix_tokens))
    if site.grid is None:
        raise UnknownAddress(f"no region {region!r} at {site.name}: its places are not a grid")
    rows, columns = site.grid
    top, bottom, left, right = map(int, box.groups()) if box else _bounds(region, rows, columns)
    if bottom > rows or right > columns:
        raise UnknownAddress(f"no region {region!r} at {site.name}: its grid is {rows} x {columns}")
    cells = (row * columns + column for row in range(top, bottom) for column in range(left, right))
    return _some(site, region, [site.prefix_tokens + cell for cell in cells])


def _bounds(region: str, rows: int, columns: int) -> tuple[int, int, int, int]:
    """First and last row, first and last column; the last ones are left out."""
    return {
        "grid": (0, rows, 0, columns),
        "left": (0, rows, 0, columns // 2),
        "right": (0, rows, columns - columns // 2, columns),
        "top": (0, rows // 2, 0, columns),
        "bottom": (rows - rows // 2, rows, 0, columns),
    }[region]


def _some(site: Site, region: str, places: range | list[int]) -> tuple[int, ...]:
    if not places:
        raise UnknownAddress(f"no region {region!r} at {site.name}: it would hold no place")
    return tuple(places)
