"""Which vector stands for an image at a site: CLS, an average over places, or one cell of a grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from einops import rearrange
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from vitscope.errors import BadValue
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

READINGS = ("cls", "patches", "all", "first")
"""CLS, the mean of the patches, the mean of all tokens, the first patch: the tokens an answer is read off."""


@dataclass(frozen=True)
class Readout:
    """One vector of every image.

    Attributes:
        site: the name of the site.
        tokens: one of `READINGS`, or "row,column", a cell of `grid`.
        grid: the places on the image are averaged to so many rows and columns before a cell is read, "first"
            included; where that is the site's own grid, a cell is a place.
    """

    site: str
    tokens: str
    grid: tuple[int, int]

    @property
    def name(self) -> str:
        """The site and the tokens, as in an address."""
        return f"{self.site}@{self.tokens}"

    @property
    def cell(self) -> tuple[int, int] | None:
        """Row and column of the one cell it names; None of all other readings."""
        row, comma, column = self.tokens.partition(",")
        return (int(row), int(column)) if comma else None


def readings_of(site: Site) -> tuple[str, ...]:
    """Those of `READINGS` that make sense at a site: without prefix tokens there is no CLS."""
    if not site.grid:
        return ("all",)
    return READINGS if site.prefix_tokens else ("patches", "first")


def sites_of(readouts: Iterable[Readout], sites: Sites) -> list[Site]:
    """The sites that readouts are of, each once.

    Raises:
        UnknownSite: there is no such site.
    """
    return [sites.named(name) for name in dict.fromkeys(readout.site for readout in readouts)]


def read_off(
    reading: Reading, readouts: Iterable[Readout], classes: Sequence[int]
) -> Iterator[tuple[Readout, Float64[Array, "image unit"], Int64[Array, " image"]]]:
    """Of every readout of this site its vectors, and the places of their labels among the classes.

    Images of other classes are left out.

    Raises:
        BadValue: the site has no such tokens.
    """
    places: Mapping[int, int] = {label: place for place, label in enumerate(classes)}
    columns = np.array([places.get(label, -1) for label in reading.batch.labels.tolist()], np.int64)
    known = columns >= 0
    values = reading.activations.detach().double()
    cells: dict[tuple[int, int], Tensor] = {}
    for readout in readouts:
        if readout.site == reading.site.name:
            vectors: Array = _vector(reading, values, readout, cells).cpu().numpy()
            yield readout, vectors[known], columns[known]


def _vector(
    reading: Reading,
    values: Float[Tensor, "image place unit"],
    readout: Readout,
    cells: dict[tuple[int, int], Tensor],
) -> Float[Tensor, "image unit"]:
    """One of the vectors; averaged grids are kept in `cells` for the next one."""
    if readout.tokens == "all":
        return values.mean(1)
    if not reading.site.grid or (readout.tokens == "cls" and not reading.prefix):
        raise BadValue(f"{reading.site.name} has no {readout.tokens!r} to read off")
    if readout.tokens == "cls":
        return values[:, 0]
    if readout.tokens == "patches":
        return values[:, reading.prefix :].mean(1)
    if readout.grid not in cells:
        cells[readout.grid] = _pooled(values[:, reading.prefix :], reading.site.grid, readout.grid)
    row, column = readout.cell or (0, 0)
    return cells[readout.grid][:, row, column]


def _pooled(
    patches: Float[Tensor, "image place unit"], own: tuple[int, int], grid: tuple[int, int]
) -> Float[Tensor, "image row column unit"]:
    """Averages over the cells of a coarser grid, as nearly equal as they can be."""
    maps = rearrange(patches, "image (row column) unit -> image unit row column", row=own[0])
    pooled = maps if own == grid else adaptive_avg_pool2d(maps, grid)
    return rearrange(pooled, "image unit row column -> image row column unit")
