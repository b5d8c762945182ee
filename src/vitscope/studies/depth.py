"""What studies over depth share: which sites of a model are looked at, and numbers of units by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vitscope.errors import UnknownSite
from vitscope.models.vision_model import VisionModel
from vitscope.studies.result import Array, Row

PATTERNS = ("blocks.*.ffn", "stages.*.*")
"""The hidden layers of MLPs, whose units Ghiasi et al. 2022 (section 3) look at; of a CNN, which has none,
what its blocks hand out, after their last activation function."""
DEPTH = "depth: sites in order, first to last (%)"
"""What the axis of `along` is called."""


def first_pattern(model: VisionModel, patterns: Sequence[str]) -> str:
    """The first of the patterns that the model has sites for.

    Raises:
        UnknownSite: it has none for any of them.
    """
    for pattern in patterns:
        try:
            model.sites(pattern)
        except UnknownSite:
            continue
        return pattern
    asked = " or ".join(map(repr, patterns)) or "no pattern"
    raise UnknownSite(
        f"{model.name} has no site that matches {asked}. Give others with --set sites=PATTERN, of: "
        f"vitscope sites {model.name}"
    )


def padded(rows: Sequence[Array]) -> Float[Array, "site unit"]:
    """Numbers of the units of every site as one array, with NaN beyond the units that a site has."""
    found = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for place, row in enumerate(rows):
        found[place, : len(row)] = row
    return found


def along(sites: int) -> Float[Array, " site"]:
    """Where sites lie along the depth of a model, 0 to 100: models of different depth share an axis."""
    return np.linspace(0, 100, sites) if sites > 1 else np.full(sites, 100.0)


def depths(sites: int) -> list[float]:
    """How deep so many sites in order lie: 0 of the first, 1 of the last."""
    return [place / max(sites - 1, 1) for place in range(sites)]


def column(rows: Sequence[Row], name: str) -> Float[Array, " row"]:
    """A column of numbers as an array; NaN where a row has none."""
    return np.array([np.nan if row.get(name) is None else float(row[name]) for row in rows], np.float64)


def quartiles(name: str, values: Array) -> dict[str, Any]:
    """Columns of a table: the median of what is finite as `name`, and its quartiles; NaN of nothing."""
    finite = values[np.isfinite(values)]
    low, middle, high = np.quantile(finite, (0.25, 0.5, 0.75)) if finite.size else (np.nan,) * 3
    return {name: float(middle), f"{name}_q25": float(low), f"{name}_q75": float(high)}
