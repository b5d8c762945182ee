"""How deep the sites of a ladder lie."""

from __future__ import annotations


def depths(sites: int) -> list[float]:
    """Of so many sites, in order: 0 of the first, 1 of the last."""
    return [place / max(sites - 1, 1) for place in range(sites)]
