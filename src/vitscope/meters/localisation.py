"""Where each unit fires in the images that excite it most: on how much of them, and whether on the object.

The measures make a sentence of Ghiasi et al. (2022, section 4.1) testable, that units are localised in all
layers but the last. Of a unit and an image, over the places that lie on the image:

    active share   exp(entropy of the map's positive part, as a distribution) / places: 1 where the unit is as
                   active everywhere, 1 / places where only one place is active
    AUC            how probably a place on the object has a larger value than a place beside it: 0.5 where
                   the map says nothing of the object. A place that is partly on the object counts on both
                   sides, by its share; equal values count half
    turned AUC     the same against the foreground turned by 180 degrees, which has its area, shape and
                   distance from the centre, but lies elsewhere: what chance gives

Which images count is decided for each unit: the `k` with its largest mean, as exemplars are ranked in the
paper, among those with a foreground that is neither nothing nor everything. Only these few maps are looked
at, so that all units of a model are measured in one pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8

from vitscope.data.foregrounds import shares
from vitscope.errors import BadValue
from vitscope.meters.board import ARRAYS, Board, arrays_of, tamed, together
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

MEASURES = ("active_share", "auc", "auc_turned")
"""What is measured of every map, in the order in which it is kept."""
LEAST = 1e-6
"""Of one place: a foreground, or a background, below that is none; rounding leaves less."""
AT_ONCE = 256
"""Maps measured together."""


@dataclass(frozen=True, eq=False)
class Localised:
    """The measures of one site's units over their exemplars, best first; NaN where there is none.

    Attributes:
        site: where they were read.
        value: the unit's mean over the places of the image, by which images are ranked.
        image: the 16 bytes of the image's id.
        active_share: in (0, 1]; NaN where the map is nowhere positive.
        auc: in [0, 1]; NaN where the map is the same everywhere.
        auc_turned: against the turned foreground.
    """

    site: Site
    value: Float[Array, "unit k"]
    image: UInt8[Array, "unit k 16"] = field(repr=False)
    active_share: Float[Array, "unit k"]
    auc: Float[Array, "unit k"]
    auc_turned: Float[Array, "unit k"]

    def of_units(self, measure: str) -> Float[Array, " unit"]:
        """The mean of a measure over each unit's exemplars; NaN where none has it."""
        values = getattr(self, measure)
        known = np.isfinite(values)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(known, values, 0).sum(axis=1) / known.sum(axis=1))


@dataclass(frozen=True)
class Localisation:
    """Where the units of the sites fire, over the images that excite each most.

    >>> scan(model, source, [Localisation("blocks.*.ffn")])["localisation"]   # doctest: +SKIP

    Args:
        pattern: which sites, as `model.sites(pattern)` reads it; those without places on the image are left
            out.
        k: how many images a unit, at least 1.

    Raises:
        BadValue: k below 1.
    """

    pattern: str = "blocks.*.ffn"
    k: int = field(default=10, kw_only=True)

    def __post_init__(self) -> None:
        if self.k < 1:
            raise BadValue(f"k is how many images a unit is measured on: at least 1, not {self.k}")

    @property
    def name(self) -> str:
        """ "localisation"."""
        return "localisation"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match the pattern and have more than one place on the image.

        Raises:
            BadValue: there are none.
        """
        found = [site for site in sites(self.pattern) if site.grid and site.grid != (1, 1)]
        if not found:
            raise BadValue(f"no site that matches {self.pattern!r} has several places on the image")
        return found

    def start(self, sites: Sequence[Site]) -> LocalisationState:
        """A state that has seen nothing."""
        return LocalisationState(self, {site.name: site for site in sites}, {})

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> LocalisationState:
        """The state that `LocalisationState.arrays` described."""
        state = self.start(sites)
        for name in state.sites:
            if f"{name}/value" in arrays:
                state.boards[name] = Board.load({what: arrays[f"{name}/{what}"] for what in ARRAYS})
        return state


class LocalisationState:
    """The best images so far, per site, with their measures. It does not grow with the images seen.

    A board's cells hold bytes; here those of the three measures, in float64.
    """

    def __init__(self, meter: Localisation, sites: Mapping[str, Site], boards: dict[str, Board]) -> None:
        self.meter, self.sites, self.boards = meter, sites, boards

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site; images without a usable foreground are passed over."""
        site = reading.site
        board = self.boards.get(site.name)
        if board is None:
            cells = 8 * len(MEASURES)
            board = self.boards[site.name] = Board.empty(reading.units, k=self.meter.k, cells=cells)
        inside = _inside(reading)
        off = ~(np.minimum(inside.sum(axis=1), (1 - inside).sum(axis=1)) > LEAST)  # NaN is off, too
        scores = reading.reduced().mean.astype(np.float32)
        scores[off] = np.nan
        words = np.frombuffer(bytes.fromhex("".join(reading.batch.ids)), ">u8").astype(np.uint64)
        images, units, slots = board.take_in(scores, words.reshape(-1, 2).T)
        for start in range(0, len(images), AT_ONCE):
            image, unit, slot = (one[start : start + AT_ONCE] for one in (images, units, slots))
            maps = tamed(reading.rows(image, unit, first=reading.prefix)).astype(np.float64)
            own = inside[image]
            found = np.stack([active_share(maps), *_soft_aucs(maps, np.stack([own, own[:, ::-1]]))], axis=1)
            board.map[unit, slot] = found.view(np.uint8)

    def merge(self, other: LocalisationState) -> LocalisationState:
        """The best of what both have seen; seeing the same twice changes nothing."""
        return LocalisationState(self.meter, self.sites, together(self.boards, other.boards))

    def arrays(self) -> Arrays:
        """Everything, as "<site>/<what>", best first: equal states have equal arrays."""
        return arrays_of(self.boards)

    def result(self) -> dict[str, Localised]:
        """The measures, by site."""
        return {name: _finished(self.sites[name], board) for name, board in self.boards.items()}


def active_share(maps: Float[Array, "map place"]) -> Float[Array, " map"]:
    """The effective share of active places: exp(entropy of the positive part) / places; NaN of none."""
    from scipy.special import xlogy

    kept = np.maximum(maps.astype(np.float64), 0)
    total = kept.sum(axis=1, keepdims=True)
    parts = np.divide(kept, total, out=np.zeros_like(kept), where=total > 0)
    found = np.exp(-xlogy(parts, parts).sum(axis=1)) / maps.shape[1]
    return np.asarray(np.where(total[:, 0] > 0, found, np.nan))


def soft_auc(maps: Float[Array, "map place"], inside: Float[Array, "map place"]) -> Float[Array, " map"]:
    """The area under the curve of the map as a detector of the foreground.

    Args:
        maps: finite values.
        inside: of every place the share that is foreground, in [0, 1]. The place counts on both sides, by
            its shares, which is what `sklearn.metrics.roc_auc_score` gives of places listed twice with
            these weights.

    Returns:
        In [0, 1], equal values counting half; NaN where the map is the same everywhere, or one side is
        empty.
    """
    return np.asarray(_soft_aucs(maps, inside[None])[0])


def _soft_aucs(
    maps: Float[Array, "map place"], inside: Float[Array, "side map place"]
) -> Float[Array, "side map"]:
    """`soft_auc` against several foregrounds, for which the places are put in order once."""
    order = np.argsort(maps, axis=1)
    values, on = np.take_along_axis(maps, order, axis=1), np.take_along_axis(inside, order[None], axis=2)
    below = np.pad(np.cumsum(1 - on, axis=2), ((0, 0), (0, 0), (1, 0)))
    if (values[:, 1:] > values[:, :-1]).all():
        ranks = (below[..., :-1] + below[..., 1:]) / 2
    else:
        first, last = (ends[None] for ends in _runs(values))
        ranks = (np.take_along_axis(below, first, axis=2) + np.take_along_axis(below, last + 1, axis=2)) / 2
    one, other = on.sum(axis=2), (1 - on).sum(axis=2)
    usable = (values[:, 0] < values[:, -1]) & (one > LEAST) & (other > LEAST)
    pairs = np.where(usable, one * other, 1)
    return np.asarray(np.where(usable, (on * ranks).sum(axis=2) / pairs, np.nan))


def _runs(values: Float[Array, "map place"]) -> tuple[Shaped[Array, "map place"], Shaped[Array, "map place"]]:
    """Of every value in ascending order, where the run of values equal to it begins and ends."""
    count = values.shape[1]
    rises = np.ones((len(values), count + 1), bool)
    rises[:, 1:-1] = values[:, 1:] > values[:, :-1]
    places = np.arange(count)
    first = np.maximum.accumulate(np.where(rises[:, :-1], places, 0), axis=1)
    ends = np.where(rises[:, 1:], places, count - 1)[:, ::-1]
    return first, np.minimum.accumulate(ends, axis=1)[:, ::-1]


def _inside(reading: Reading) -> Float[Array, "image place"]:
    """The share of foreground in every place on the image; NaN where nothing is known of it."""
    foreground, grid = reading.batch.foreground, reading.site.grid or (1, 1)
    if foreground is None:
        return np.full((len(reading.batch), grid[0] * grid[1]), np.nan)
    found: Array = shares(foreground.to("cpu", torch.float64), grid).numpy()
    return found


def _finished(site: Site, board: Board) -> Localised:
    best = board.arrays()
    taken = best["value"] > -np.inf
    found = np.ascontiguousarray(best["map"]).view(np.float64)
    measures = [np.where(taken, found[..., which], np.nan) for which in range(len(MEASURES))]
    return Localised(
        site, np.where(taken, best["value"], np.nan).astype(np.float64), best["image"], *measures
    )
