"""How far heads look: the mean attention distance of each, in pixels of the image, its entropy, and the mass
on prefix tokens (Raghu et al. 2021, section 4, Figure 3; the measure is that of Dosovitskiy et al. 2021).

Only queries that are patches count. Keys that do not lie on the image (CLS and other prefix tokens, the
padding of windows) are dropped, and what is left of each row is made to sum to one again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from vitscope.arrays import Activations
from vitscope.errors import BadValue
from vitscope.meters.attention import by_head
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

STATISTICS = ("distance", "entropy", "prefix_mass")
"""Of every head, in this order in a state."""
Size = tuple[int, int]
"""Rows and columns of the image, in pixels."""
MASKED = 1e-30
"""Weights below are those of masks: Swin adds -100 to the scores of places from the image's other end."""


@dataclass(frozen=True, eq=False)
class HeadDistances:
    """What the heads of one block do, averaged over the patches of an image and then over images.

    Attributes:
        site: where the weights were read.
        distance: in pixels of the image, from the centre of a patch to those of what it attends to.
        distance_error: standard error of the mean over images; NaN of fewer than two.
        entropy: of the renormalised rows, in bits: 2 to this power is how many keys a patch attends to.
        prefix_mass: the share of a patch's attention that goes to prefix tokens, 0 to 1.
        uniform: the distance if all keys on the image had the same weight, in pixels; in windows, without
            keys that no image's queries attend to, which are masked.
        images: how many images have a distance, of every head.
    """

    site: str
    distance: Float64[Array, " head"]
    distance_error: Float64[Array, " head"]
    entropy: Float64[Array, " head"]
    prefix_mass: Float64[Array, " head"]
    uniform: float
    images: Int64[Array, " head"] = field(repr=False)


@dataclass(frozen=True)
class AttentionDistance:
    """The mean attention distance of every head, with its entropy and its mass on prefix tokens.

    >>> scan(model, source, [AttentionDistance()])["attention_distance"]   # doctest: +SKIP

    Args:
        pattern: which sites; they hold attention weights.
        renormalised: whether rows are made to sum to one after prefix tokens and padding were dropped;
            without, attention to these counts as distance 0. Entropy is always that of renormalised rows.
    """

    pattern: str = "blocks.*.attn.pattern"
    renormalised: bool = field(default=True, kw_only=True)
    name = "attention_distance"

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites that match.

        Raises:
            UnknownSite: none does.
            BadValue: one of them holds no attention weights, or none between places on the image.
        """
        found = sites(self.pattern)
        for site in found:
            if site.keys is None or site.grid is None:
                raise BadValue(
                    f"{site.name} holds no attention weights between places on the image: "
                    "read sites such as blocks.0.attn.pattern"
                )
        return found

    def start(self, sites: Sequence[Site]) -> AttentionDistanceState:
        """A state that has seen nothing."""
        return AttentionDistanceState(self, sites)

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> AttentionDistanceState:
        """The state that `AttentionDistanceState.arrays` described."""
        state = self.start(sites)
        for site in sites:
            state.sums[site.name] = arrays[f"{site.name}/sums"].copy()
            if site.name in state.reached:
                state.reached[site.name] = arrays[f"{site.name}/reached"]
            size = tuple(arrays[f"{site.name}/size"].tolist())
            state.sizes |= {site.name: size} if any(size) else {}
        return state


class AttentionDistanceState:
    """Of every site: the number of images, their sum and their sum of squares, by statistic and head.

    Of windows also which keys any head attends to in any image.
    """

    def __init__(self, meter: AttentionDistance, sites: Sequence[Site]) -> None:
        self.meter = meter
        self.sizes: dict[str, Size] = {}
        self.sums = {site.name: np.zeros((3, len(STATISTICS), site.heads)) for site in sites}
        self.reached: dict[str, Bool[Array, "patch key"]] = {
            site.name: np.zeros((site.places - site.prefix_tokens, site.keys.count), bool)
            for site in sites
            if site.keys and site.keys.table is not None
        }
        self._sites = {site.name: site for site in sites}
        self._away: dict[str, Tensor] = {}

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site.

        Raises:
            BadValue: images of another size than before.
        """
        name, (rows, columns) = reading.site.name, reading.batch.pixels.shape[-2:]
        size = self.sizes.setdefault(name, (rows, columns))
        if size != (rows, columns):
            raise BadValue(f"distances are in pixels of images of {size}, and these are {(rows, columns)}")
        if name not in self._away:
            self._away[name] = distances(reading.site, size).to(reading.activations)
        weights = reading.activations.detach()
        found = statistics(reading.site, weights, away=self._away[name], renormalised=self.meter.renormalised)
        if name in self.reached:
            most = by_head(reading.site, weights)[:, :, reading.site.prefix_tokens :].amax((0, 1))
            self.reached[name] = self.reached[name] | (most >= MASKED).cpu().numpy()
        finite = np.isfinite(found)
        known = np.where(finite, found, 0.0)
        self.sums[name] += np.stack([finite, known, known**2]).sum(axis=1)

    def merge(self, other: AttentionDistanceState) -> AttentionDistanceState:
        """What both have seen.

        Raises:
            BadValue: they have seen images of different sizes.
        """
        for name, size in other.sizes.items():
            if self.sizes.get(name, size) != size:
                raise BadValue(f"distances are in pixels of images of {self.sizes[name]}, others of {size}")
        both = AttentionDistanceState(self.meter, list(self._sites.values()))
        both.sizes = {**self.sizes, **other.sizes}
        both.sums = {name: own + other.sums[name] for name, own in self.sums.items()}
        both.reached = {name: own | other.reached[name] for name, own in self.reached.items()}
        return both

    def arrays(self) -> Arrays:
        """Sums, keys reached, and the size of the images (0 x 0 where none was seen), as "<site>/<what>"."""
        found: Arrays = {f"{name}/reached": keys for name, keys in self.reached.items()}
        for name, sums in self.sums.items():
            found |= {f"{name}/sums": sums, f"{name}/size": np.array(self.sizes.get(name, (0, 0)))}
        return found

    def result(self) -> dict[str, HeadDistances]:
        """Of every site, by name, in forward order."""
        return {name: self._of(site) for name, site in self._sites.items()}

    def _of(self, site: Site) -> HeadDistances:
        count, total, squares = self.sums[site.name]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / count
            spread = np.maximum(squares - count * mean**2, 0) / (count - 1)
            error = np.where(count > 1, np.sqrt(spread / count), np.nan)
        named = dict(zip(STATISTICS, mean, strict=True))
        size, reached = self.sizes.get(site.name), self.reached.get(site.name)
        return HeadDistances(
            site.name,
            **named,
            distance_error=error[0],
            uniform=uniform_distance(site, size, reached=reached) if size else np.nan,
            images=count[0].astype(np.int64),
        )


def statistics(
    site: Site, weights: Activations, *, away: Float[Tensor, "patch key"], renormalised: bool = True
) -> Float64[Array, "image statistic head"]:
    """Of every image and head: mean distance, entropy and prefix mass over the queries that are patches.

    A row without any weight on the image has neither distance nor entropy.
    """
    rows = by_head(site, weights)[:, :, site.prefix_tokens :]
    own, to_prefix, away = _parted(site, rows, away)
    mass = own.sum(-1)
    reach = (own * away).sum(-1)
    least = torch.finfo(own.dtype).tiny  # so that 0 log 0 is 0; `torch.special.entr` takes twice as long
    nats = mass.log() - own.clamp(min=least).log_().mul_(own).sum(-1) / mass
    distance = reach / mass if renormalised else reach
    return np.stack([_over_rows(one) for one in (distance, nats / np.log(2), to_prefix)], axis=1)


def _parted(
    site: Site, rows: Float[Tensor, "image head patch key"], away: Float[Tensor, "patch key"]
) -> tuple[
    Float[Tensor, "image head patch cell"], Float[Tensor, "image head patch"], Float[Tensor, "patch cell"]
]:
    """Weights on the image, the sum of those on prefix tokens, and how far away the former look.

    Where the keys of all queries are the same, which is common, nothing is copied.
    """
    if site.keys is None or site.keys.table is None:
        first = site.keys.prefix_tokens if site.keys else 0
        return rows[..., first:], rows[..., :first].sum(-1), away[:, first:]
    prefix = site.keys.prefix[site.prefix_tokens :].to(rows.device)
    on_prefix = (rows * prefix).sum(-1) if bool(prefix.any()) else rows.new_zeros(rows.shape[:-1])
    return torch.where(away >= 0, rows, 0), on_prefix, away.clamp(min=0)


def _over_rows(values: Float[Tensor, "image head patch"]) -> Float64[Array, "image head"]:
    """The mean over the rows that have a value; NaN where none has."""
    wide = values.double().cpu().numpy()
    finite = np.isfinite(wide)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(finite, wide, 0.0).sum(axis=-1) / finite.sum(axis=-1)
    return mean


def distances(site: Site, size: Size) -> Float[Tensor, "patch key"]:
    """From the centre of every patch to that of every key, in pixels; -1 where a key is not on the image.

    A grid is taken to cover the image: its cells are of one size, whatever lies behind them.

    Args:
        site: of attention weights.
        size: rows and columns of the image.

    Raises:
        BadValue: the site is no attention pattern.
    """
    if site.keys is None or site.grid is None:
        raise BadValue(f"{site.name} holds no attention weights between places on the image")
    patches, cells = _centres(site.grid, size), _centres(site.keys.grid, size)
    away = torch.cdist(patches, cells, compute_mode="donot_use_mm_for_euclid_dist")
    away = torch.nn.functional.pad(away, (site.keys.prefix_tokens, 0), value=-1.0)
    if site.keys.table is None:
        return away
    table = site.keys.table[site.prefix_tokens :].long().to(away.device)
    return torch.where(table >= 0, away.gather(1, table.clamp(min=0)), -1.0)


def uniform_distance(site: Site, size: Size, *, reached: Bool[Array, "patch key"] | None = None) -> float:
    """The mean attention distance of a head that gives all keys on the image the same weight, in pixels.

    Args:
        site: of attention weights.
        size: rows and columns of the image.
        reached: the keys that count; None for all.
    """
    away = distances(site, size)
    known: Bool[Tensor, "patch key"] = away >= 0
    if reached is not None:
        known &= torch.from_numpy(reached)
    rows = torch.where(known, away, 0.0).sum(-1) / known.sum(-1)
    return float(rows[known.any(-1)].mean())


def _centres(grid: tuple[int, int], size: Size) -> Float64[Tensor, "cell 2"]:
    """Of every cell in raster order: its row and its column, in pixels."""
    lines = [
        (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
        for count, length in zip(grid, size, strict=True)
    ]
    cells: Tensor = rearrange(
        torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1), "row column which -> (row column) which"
    )
    return cells
