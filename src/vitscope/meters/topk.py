"""The images that excite each unit most, each with the place that did it and a map over the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
from einops import rearrange
from jaxtyping import Float32, Int32, Integer, UInt8

from vitscope.errors import BadValue
from vitscope.meters.board import ARRAYS, Board, arrays_of, quantised, tamed, together
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

AT_ONCE = 256
"""Maps drawn together: 256 of 14 x 14 places take 0.2 MB and stay in the processor's cache."""


@dataclass(frozen=True)
class Exemplar:
    """One image in a unit's top k.

    Attributes:
        image: the image's id, 32 hexadecimal digits.
        value: what it was ranked by.
        place: index of the place with the largest value, prefix tokens first; see `place_name`.
        patch_map: the unit over the image, 0 to 255 between `low` and `high`.
        low, high: the smallest and largest value on the map.
    """

    image: str
    value: float
    place: int
    patch_map: UInt8[Array, "row column"] = field(repr=False, compare=False)
    low: float
    high: float

    @property
    def values(self) -> Float32[Array, "row column"]:
        """The patch map in the unit's own scale, to within (high - low) / 510."""
        return (self.low + self.patch_map / 255 * (self.high - self.low)).astype(np.float32)


@dataclass(frozen=True)
class Exemplars:
    """The exemplars of a site's units as arrays, best first; of each unit only the first `count` rows count.

    Fields as in `Exemplar`; `image` holds the 16 bytes of the id.
    """

    site: Site
    count: Integer[Array, " unit"]
    value: Float32[Array, "unit k"]
    image: UInt8[Array, "unit k 16"]
    place: Int32[Array, "unit k"]
    map: UInt8[Array, "unit k row column"]
    low: Float32[Array, "unit k"]
    high: Float32[Array, "unit k"]

    def __len__(self) -> int:
        return len(self.count)

    def of(self, unit: int) -> tuple[Exemplar, ...]:
        """The exemplars of one unit, best first; fewer than k where fewer images were seen."""
        return tuple(
            Exemplar(
                image=self.image[unit, rank].tobytes().hex(),
                value=float(self.value[unit, rank]),
                place=int(self.place[unit, rank]),
                patch_map=self.map[unit, rank],
                low=float(self.low[unit, rank]),
                high=float(self.high[unit, rank]),
            )
            for rank in range(int(self.count[unit]))
        )


def place_name(site: Site, place: int) -> str:
    """The place of that index as an address writes it: "7,9" on a grid, "cls" for the first prefix token.

    A further prefix token, or a place of a site without a grid, is its plain index.
    """
    if site.grid is None:
        return str(place)
    if place < site.prefix_tokens:
        return "cls" if place == 0 else f"prefix {place}"
    row, column = divmod(place - site.prefix_tokens, site.grid[1])
    return f"{row},{column}"


@runtime_checkable
class Ranked(Protocol):
    """What decides which images of a unit are kept."""

    @property
    def k(self) -> int:
        """How many images a unit."""
        ...

    @property
    def prefix_included(self) -> bool:
        """Whether prefix tokens count among the places."""
        ...

    def scores(self, reading: Reading) -> Float32[Array, "image unit"]:
        """What images are ranked by: the largest are kept. What is not finite takes no part."""
        ...


@dataclass(frozen=True)
class TopK:
    """The k images with the largest values of each unit, ranked by the maximum or by the mean over places.

    Order is total: value down, then image id up; an image fills one slot however often it is seen. Values
    that are not finite take no part (`Moments` counts them). Units that gave one and the same value
    everywhere have no exemplars: any choice would be arbitrary.

    >>> found = scan(model, source, [TopK("blocks.*.ffn", k=9)])   # doctest: +SKIP
    >>> found["topk_maximum"]["blocks.5.ffn"].of(40)[0].value      # doctest: +SKIP

    Args:
        pattern: which sites, as `model.sites(pattern)` reads it.
        k: how many images a unit, at least 1.
        rank: "maximum" over places, or "mean" over them as in Ghiasi et al. 2022.
        prefix_included: prefix tokens count among the places; by default only those that lie on the image do.

    Raises:
        BadValue: k below 1, or an unknown rank.
    """

    pattern: str = "blocks.*.ffn"
    k: int = field(default=9, kw_only=True)
    rank: str = field(default="maximum", kw_only=True)
    prefix_included: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadValue(f"k is how many images a unit keeps: at least 1, not {self.k}")
        if self.rank not in ("maximum", "mean"):
            raise BadValue(
                f"no rank {self.rank!r}: an image is ranked by its 'maximum' or its 'mean' over places"
            )

    @property
    def name(self) -> str:
        """ "topk_maximum" or "topk_mean"."""
        return f"topk_{self.rank}"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match the pattern."""
        return sites(self.pattern)

    def start(self, sites: Sequence[Site]) -> TopKState:
        """A state that has seen nothing."""
        return TopKState(self, {site.name: site for site in sites}, {})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> TopKState:
        """The state that `TopKState.arrays` described."""
        return loaded(self.start(sites), arrays)

    def scores(self, reading: Reading) -> Float32[Array, "image unit"]:
        """The maximum or the mean over places."""
        found = reading.reduced(prefix_included=self.prefix_included)
        return found.high if self.rank == "maximum" else found.mean.astype(np.float32)


Own = TypeVar("Own", bound="TopKState")


class TopKState:
    """The best so far, per site. Its size does not depend on how many images it has seen."""

    def __init__(self, meter: Ranked, sites: Mapping[str, Site], boards: dict[str, Board]) -> None:
        self.meter, self.sites, self.boards = meter, sites, boards

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        found = reading.reduced(prefix_included=self.meter.prefix_included)
        board = self.boards.get(reading.site.name)
        if board is None:
            grid = reading.activations.shape[1] - reading.prefix
            board = self.boards[reading.site.name] = Board.empty(reading.units, k=self.meter.k, cells=grid)
        scores = self.meter.scores(reading)
        first = 0 if self.meter.prefix_included else reading.prefix
        np.minimum(board.lowest, found.low.min(axis=0), out=board.lowest)
        np.maximum(board.highest, found.high.max(axis=0), out=board.highest)
        hexadecimal = "".join(reading.batch.ids)
        words = np.frombuffer(bytes.fromhex(hexadecimal), dtype=">u8").astype(np.uint64).reshape(-1, 2).T
        images, units, slots = board.take_in(scores, words)
        known = found.all_finite and first == reading.prefix  # the reductions are those of the maps
        for start in range(0, len(images), AT_ONCE):
            image, unit, slot = (one[start : start + AT_ONCE] for one in (images, units, slots))
            rows = reading.rows(image, unit, first=first)
            if known:
                low, high = found.low[image, unit], found.high[image, unit]
                board.place[unit, slot] = first + rows.argmax(axis=1)
            else:
                ranked = np.where(np.isfinite(rows), rows, -np.inf)
                board.place[unit, slot] = first + ranked.argmax(axis=1)
                rows = tamed(rows[:, reading.prefix - first :])
                low, high = rows.min(axis=1), rows.max(axis=1)
            board.map[unit, slot] = quantised(rows, low, high)
            board.low[unit, slot], board.high[unit, slot] = low, high

    def merge(self: Own, other: Own) -> Own:
        """The best of what both have seen; seeing the same twice changes nothing."""
        return type(self)(self.meter, self.sites, together(self.boards, other.boards))

    def arrays(self) -> Arrays:
        """Everything, as "<site>/<what>", best first: equal states have equal arrays."""
        return arrays_of(self.boards)

    def result(self) -> dict[str, Exemplars]:
        """The exemplars, by site."""
        return {name: _finished(self.sites[name], board) for name, board in self.boards.items()}


def loaded(state: Own, arrays: Mapping[str, Array]) -> Own:
    """A fresh state, filled with what its `arrays` described."""
    for name in state.sites:
        if f"{name}/value" in arrays:
            state.boards[name] = Board.load({what: arrays[f"{name}/{what}"] for what in ARRAYS})
    return state


def _finished(site: Site, board: Board) -> Exemplars:
    best = board.arrays()
    rows, columns = site.grid or (1, best["map"].shape[2])
    taken = best["value"] > -np.inf
    places = columns * rows
    same = (board.lowest == board.highest) & (taken[:, 1:].any(axis=1) | (places > 1) | (board.highest == 0))
    return Exemplars(
        site=site,
        count=np.where(same, 0, taken.sum(axis=1)),
        value=best["value"],
        image=best["image"],
        place=best["place"],
        map=rearrange(best["map"], "unit k (row column) -> unit k row column", row=rows),
        low=best["low"],
        high=best["high"],
    )
