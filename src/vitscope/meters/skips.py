"""How much of a stream goes past a branch: norms and angles of what is skipped and what is added.

Raghu et al. 2021 (section 4, Figures 7, E.1, E.2): z is what stands on the skip connection, f(z) what the
branch hands out before the two are added, layer scale included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from vitscope.errors import BadValue
from vitscope.meters.meter import Arrays
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites

STATISTICS = ("norm_ratio", "cosine", "branch_cosine")
"""Of every place, in this order in a state."""
KINDS = ("cls", "patches")
"""Of places: the first prefix token, and the mean over those on the image."""


@dataclass(frozen=True, eq=False)
class Skipping:
    """What one skip connection carries beside its branch, averaged over images.

    Attributes:
        base, branch: names of the sites.
        prefix_tokens: how many places come before those on the image.
        norm_ratio: of every place, the mean of |z| / |f(z)|; infinite where a branch adds nothing.
        cosine: of every place, the mean of cos(z, z + f(z)).
        branch_cosine: of every place, the mean of cos(z, f(z)).
    """

    base: str
    branch: str
    prefix_tokens: int
    norm_ratio: Float64[Array, " place"]
    cosine: Float64[Array, " place"]
    branch_cosine: Float64[Array, " place"]

    def kinds(self, statistic: str) -> tuple[float, float]:
        """At CLS, and the mean over the places on the image; NaN of what there is not."""
        values = getattr(self, statistic)
        patches = values[self.prefix_tokens :]
        patches = patches[~np.isnan(patches)]
        cls = float(values[0]) if self.prefix_tokens else float("nan")
        return cls, float(patches.mean()) if patches.size else float("nan")


@dataclass(frozen=True)
class Skips:
    """Norm ratios and cosines of skip connections, at every place.

    >>> scan(model, source, [Skips((("embed", "blocks.0.attn"),))])["skips"]   # doctest: +SKIP

    Args:
        pairs: names of the sites of each skip connection: what is skipped, and what the branch adds to it.

    Raises:
        BadValue: no pair.
    """

    pairs: tuple[tuple[str, str], ...]
    name = "skips"

    def __post_init__(self) -> None:
        if not self.pairs:
            raise BadValue("give at least one skip connection: a site that is skipped and one that is added")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The sites of all pairs.

        Raises:
            UnknownSite: there is no such site.
            BadValue: the two of a pair differ in their places or units, and cannot be added.
        """
        for pair in self.pairs:
            base, branch = map(sites.named, pair)
            if (base.places, base.units) != (branch.places, branch.units):
                raise BadValue(
                    f"{base.name} has {base.places} places x {base.units} units and {branch.name} "
                    f"{branch.places} x {branch.units}: the one cannot be added to the other"
                )
        return [sites.named(name) for name in dict.fromkeys(name for pair in self.pairs for name in pair)]

    def start(self, sites: Sequence[Site]) -> SkipsState:
        """A state that has seen nothing."""
        return SkipsState(self, sites)

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> SkipsState:
        """The state that `SkipsState.arrays` described."""
        state = self.start(sites)
        state.sums = {pair: arrays[f"{pair[1]}/sums"].copy() for pair in self.pairs}
        return state


class SkipsState:
    """Of every skip connection: images that count, and sums, by statistic and place.

    Within a pass it holds one side of a connection until the other fires.
    """

    def __init__(self, meter: Skips, sites: Sequence[Site]) -> None:
        self.meter = meter
        self._sites = {site.name: site for site in sites}
        self.sums = {
            pair: np.zeros((2, len(STATISTICS), self._sites[pair[1]].places)) for pair in meter.pairs
        }
        self._held: dict[str, Tensor] = {}
        self._open: set[tuple[str, str]] = set()

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site."""
        name = reading.site.name
        self._open |= {pair for pair in self.meter.pairs if name in pair} if name not in self._held else set()
        self._held[name] = reading.activations.detach().float().clone()
        for pair in [pair for pair in self._open if {*pair} <= self._held.keys()]:
            self._open.remove(pair)
            found = statistics(*(self._held[side] for side in pair))
            known = ~np.isnan(found)
            self.sums[pair] += np.stack([known, np.where(known, found, 0.0)]).sum(axis=1)
        waited_for = {side for pair in self._open for side in pair}
        self._held = {side: held for side, held in self._held.items() if side in waited_for}

    def merge(self, other: SkipsState) -> SkipsState:
        """What both have seen."""
        both = SkipsState(self.meter, list(self._sites.values()))
        both.sums = {pair: own + other.sums[pair] for pair, own in self.sums.items()}
        return both

    def arrays(self) -> Arrays:
        """Counts and sums, as "<branch>/sums"."""
        return {f"{branch}/sums": sums for (_, branch), sums in self.sums.items()}

    def result(self) -> dict[str, Skipping]:
        """Of every skip connection, by the name of its branch, in the order in which they were given."""
        found = {}
        for (base, branch), (count, total) in self.sums.items():
            with np.errstate(invalid="ignore", divide="ignore"):
                means = dict(zip(STATISTICS, total / count, strict=True))
            site = self._sites[branch]
            prefix = max(site.prefix_tokens, self._sites[base].prefix_tokens) if site.grid else 0
            found[branch] = Skipping(base, branch, prefix, **means)
        return found


def statistics(
    base: Float[Tensor, "image place unit"], branch: Float[Tensor, "image place unit"]
) -> Float64[Array, "image statistic place"]:
    """|z| / |f|, cos(z, z + f) and cos(z, f) of every image and place; NaN where a vector is zero."""
    norms = [torch.linalg.vector_norm(each, dim=-1) for each in (base, branch, base + branch)]
    along = (base * branch).sum(-1).double()
    skipped, added, total = (each.double() for each in norms)
    cosine = (base * (base + branch)).sum(-1).double() / (skipped * total)
    found = torch.stack([skipped / added, cosine, along / (skipped * added)], dim=1)
    values: Array = found.cpu().numpy()
    return values
