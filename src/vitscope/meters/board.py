"""The k best images of every unit of one site: which get in, in which slot, and how two boards merge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from einops import rearrange
from jaxtyping import Bool, Float32, Int32, UInt8, UInt64

from vitscope.meters.reading import Array

Ids = UInt64[Array, "2 *slot"]
"""Image ids, first words and then second words, big-endian: they order as their hexadecimal text does."""
NOBODY = np.iinfo(np.uint64).max
"""Both words of the id in a slot that no image has taken."""
LARGE = 1e30
"""Maps are scaled in float32 where neither values nor one over their range exceed this; else in float64."""
MARKS = 1 << 16
"""Remainders that tell new images from those a board may hold: after 512, one in 128 needs a closer look."""
ARRAYS = ("value", "image", "place", "map", "low", "high", "lowest", "highest")
"""The names of a board's arrays, as they are written."""


@dataclass
class Board:
    """The k slots of every unit of one site, in no order; fields as in `Exemplars`.

    `lowest` and `highest` are over all images and places, to know the units that never change.
    """

    value: Float32[Array, "unit k"]
    ids: Ids
    place: Int32[Array, "unit k"]
    map: UInt8[Array, "unit k cell"]
    low: Float32[Array, "unit k"]
    high: Float32[Array, "unit k"]
    lowest: Float32[Array, " unit"]
    highest: Float32[Array, " unit"]

    @classmethod
    def empty(cls, units: int, *, k: int, cells: int) -> Board:
        """A board that nobody is on, for maps of so many cells."""
        return cls(
            value=np.full((units, k), -np.inf, np.float32),
            ids=np.full((2, units, k), NOBODY, np.uint64),
            place=np.full((units, k), -1, np.int32),
            map=np.zeros((units, k, cells), np.uint8),
            low=np.zeros((units, k), np.float32),
            high=np.zeros((units, k), np.float32),
            lowest=np.full(units, np.inf, np.float32),
            highest=np.full(units, -np.inf, np.float32),
        )

    @classmethod
    def load(cls, arrays: Mapping[str, Array]) -> Board:
        """The board that `arrays` described."""
        own = {what: array.copy() for what, array in arrays.items() if what != "image"}
        words = np.ascontiguousarray(arrays["image"]).view(">u8").astype(np.uint64)
        return cls(ids=rearrange(words, "unit k word -> word unit k").copy(), **own)

    @cached_property
    def bar(self) -> Float32[Array, " unit"]:
        """The smallest value of each unit: what an image must reach to be taken in."""
        smallest: Array = self.value.min(axis=1)
        return smallest

    @cached_property
    def marked(self) -> Bool[Array, " mark"]:
        """Which remainders of first words may be here; most new images are known as new by this alone."""
        marked = np.zeros(MARKS, bool)
        marked[self.ids[0] % MARKS] = True
        return marked

    def take_in(self, scores: Float32[Array, "image unit"], words: Ids) -> tuple[Array, Array, Array]:
        """Give slots to the images that belong among the best; which image, in which unit, in which slot.

        Their places and maps are for the caller to fill in: only they need be looked at closely.
        """
        scores = self._without_repeats(scores, words)
        units = np.flatnonzero((scores >= self.bar).any(axis=0))
        k = self.value.shape[1]
        values = np.concatenate([self.value[units], scores[:, units].T], axis=1)
        order = np.argsort(-values, axis=1)  # NaN comes last, behind the -inf of empty slots
        last, next_one = (values[np.arange(len(units)), order[:, rank]] for rank in (k - 1, k))
        tied = np.flatnonzero((last == next_one) & (last > -np.inf))
        if len(tied):
            new = np.broadcast_to(words[:, None], (2, len(tied), words.shape[1]))
            first, second = np.concatenate([self.ids[:, units[tied]], new], axis=2)
            order[tied] = np.lexsort((second, first, -values[tied]), axis=1)
        self.bar[units] = last
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, order[:, :k], True, axis=1)
        row, slot = np.nonzero(~chosen[:, :k])  # as many slots are left as images come in, row by row
        image = np.nonzero(chosen[:, k:])[1]
        unit = units[row]
        self.value[unit, slot], self.ids[:, unit, slot] = scores[image, unit], words[:, image]
        nearby = np.argsort(image, kind="stable")
        return image[nearby], unit[nearby], slot[nearby]

    def _without_repeats(
        self, scores: Float32[Array, "image unit"], words: Ids
    ) -> Float32[Array, "image unit"]:
        """Scores in which an image counts once: NaN where there is none, or a better entry of the image."""
        scores = np.where(np.isfinite(scores), scores, np.nan)
        marks = words[0] % MARKS
        if len(set(marks.tolist())) < len(marks):
            for index, word in enumerate(words.T):
                for other in np.flatnonzero((word == words[:, :index].T).all(axis=1)):
                    first_wins = (scores[other] >= scores[index]) | np.isnan(scores[index])
                    scores[index, first_wins], scores[other, ~first_wins] = np.nan, np.nan
        for index in np.flatnonzero(self.marked[marks]).tolist():
            own = (self.ids == words[:, index, None, None]).all(axis=0)
            if own.any():
                held = np.where(own, self.value, -np.inf).max(axis=1)
                rises = scores[index] > held
                scores[index, ~rises] = np.nan
                self.value[own & rises[:, None]] = -np.inf
                self.blank()
        self.marked[marks] = True
        return scores

    def plus(self, other: Board) -> Board:
        """The best k of both; of an image that both hold, the better entry."""
        joined = {
            what: np.concatenate([getattr(self, what), getattr(other, what)], axis=1)
            for what in ("value", "place", "map", "low", "high")
        }
        joined["ids"] = np.concatenate([self.ids, other.ids], axis=2)
        first, second = joined["ids"]
        order = np.lexsort((joined["place"], -joined["value"], second, first), axis=1)
        by_id = np.take_along_axis(joined["ids"], order[None], axis=2)
        again = np.zeros(order.shape, bool)
        again[:, 1:] = (by_id[..., 1:] == by_id[..., :-1]).all(axis=0)
        repeated = np.zeros_like(again)
        np.put_along_axis(repeated, order, again, axis=1)
        joined["value"][repeated] = -np.inf
        merged = Board(
            **joined,
            lowest=np.minimum(self.lowest, other.lowest),
            highest=np.maximum(self.highest, other.highest),
        ).best(self.value.shape[1])
        merged.blank()
        return merged

    def blank(self) -> None:
        """Empty the slots that nobody holds, so that equal states have equal bytes."""
        free = self.value == -np.inf
        self.ids[:, free], self.place[free], self.map[free] = NOBODY, -1, 0
        self.low[free], self.high[free] = 0, 0

    def best(self, k: int) -> Board:
        """The k best entries of every unit, in order."""
        order = np.lexsort((self.ids[1], self.ids[0], -self.value), axis=1)[:, :k]
        deep = order[..., None]
        return Board(
            value=np.take_along_axis(self.value, order, axis=1),
            ids=np.take_along_axis(self.ids, order[None], axis=2),
            place=np.take_along_axis(self.place, order, axis=1),
            map=np.take_along_axis(self.map, deep, axis=1),
            low=np.take_along_axis(self.low, order, axis=1),
            high=np.take_along_axis(self.high, order, axis=1),
            lowest=self.lowest,
            highest=self.highest,
        )

    def arrays(self) -> dict[str, Array]:
        """Everything under the names of `ARRAYS`, best first; ids as 16 bytes."""
        best = self.best(self.value.shape[1])
        found = {what: getattr(best, what) for what in ARRAYS if what != "image"}
        words = rearrange(best.ids, "word unit k -> unit k word")
        return {**found, "image": np.ascontiguousarray(words, dtype=">u8").view(np.uint8)}


def together(some: Mapping[str, Board], others: Mapping[str, Board]) -> dict[str, Board]:
    """The best of both, by site; what stands in both counts once."""
    both = dict(some)
    for site, board in others.items():
        both[site] = both[site].plus(board) if site in both else board
    return both


def arrays_of(boards: Mapping[str, Board]) -> dict[str, Array]:
    """All boards as "<site>/<what>", best first: equal boards have equal arrays."""
    return {
        f"{site}/{what}": array for site, board in boards.items() for what, array in board.arrays().items()
    }


def quantised(
    cells: Float32[Array, "unit cell"], low: Float32[Array, " unit"], high: Float32[Array, " unit"]
) -> UInt8[Array, "unit cell"]:
    """Each row as 0 to 255 between its lowest and highest value. `cells` is used up."""
    if not ((high < LARGE) & (low > -LARGE) & (high / 2 - low / 2 > 1 / LARGE)).all():
        cells = cells.astype(np.float64)
    span = high.astype(cells.dtype) - low
    scale = np.divide(255, span, out=np.zeros_like(span), where=span > 0)
    cells -= low[:, None]
    cells *= scale[:, None]
    cells += 0.5
    return cells.astype(np.uint8)


def tamed(cells: Float32[Array, "unit cell"]) -> Float32[Array, "unit cell"]:
    """What is not finite becomes the row's lowest finite value, or 0 where there is none."""
    finite = np.isfinite(cells)
    least = np.where(finite, cells, np.inf).min(axis=1, keepdims=True)
    return np.where(finite, cells, np.where(np.isfinite(least), least, 0))
