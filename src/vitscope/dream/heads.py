"""Objectives inside attention: what one head hands on, and where it looks.

Heads are found through a block's sites and nothing else: `blocks.i.attn.heads` holds the context vectors head
by head, and `blocks.i.attn.pattern` knows how many heads there are and what their keys are.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from einops import einsum, rearrange
from jaxtyping import Bool
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations, Scores, widened
from vitscope.dream.objectives import Objective, of, without_unit
from vitscope.dream.readouts import Mean, Reading, read_places
from vitscope.dream.regions import places_of
from vitscope.errors import BadValue, UnknownAddress, UnknownSite, suggestion
from vitscope.models.vision_model import Keys, Site, VisionModel

PARTS = ("q", "k", "v", "heads", "pattern")
"""Sites inside one attention: any of them names the attention."""


@dataclass(frozen=True)
class Head:
    """The context vectors of one head: the mean over its units and over the grid, or over named places."""

    address: Address
    number: int
    where: str | None = None

    def resolve(self, model: VisionModel) -> Reading:
        """Find the head among the units of its site; `UnknownAddress` says how many heads there are."""
        site = attention_site(model, self.address.site, part="heads")
        heads = attention_site(model, self.address.site, part="pattern").heads
        _check(self.number, heads, site)
        if site.units % heads:
            raise BadValue(f"{site.name} has {site.units} units, which {heads} heads cannot share evenly")
        width = site.units // heads
        units = range(self.number * width, (self.number + 1) * width)
        return Mean(site, read_places(site, self.address, self.where), units)

    def __repr__(self) -> str:
        return f"head({self.address}, {self.number}{'' if self.where is None else f', {self.where}'})"


@dataclass(frozen=True)
class Weights:
    """How much attention one head pays from some places to others: the mean weight over their pairs."""

    address: Address
    number: int
    queries: str
    keys: str

    def resolve(self, model: VisionModel) -> Reading:
        """Find the head, the queries among the places of its pattern, and the keys among its keys."""
        site = attention_site(model, self.address.site, part="pattern")
        if site.keys is None:
            raise BadValue(f"{site.name} does not say what its keys are")
        _check(self.number, site.heads, site)
        pairs = _pairs(site, site.keys, self.queries, self.keys)
        return Attended(site, self.number, self.queries, self.keys, pairs)

    def __repr__(self) -> str:
        return f"attention({self.address}, {self.number}, {self.queries} -> {self.keys})"


@dataclass(frozen=True)
class Attended(Reading):
    """The mean weight of one head over some pairs of query and key.

    Attributes:
        number: the head.
        queries, keys: the regions that the pairs are of.
        pairs: which pairs count.
    """

    number: int
    queries: str
    keys: str
    pairs: Bool[Tensor, "query key"] = field(compare=False, repr=False)

    def read(self, activations: Activations) -> Scores:
        """The mean weight."""
        count = self.pairs.shape[1]
        weights = widened(activations[..., self.number * count : (self.number + 1) * count])
        counted = self.pairs.to(weights)
        total = einsum(weights, counted, "image query key, query key -> image")
        return total / counted.sum()


def head(block: str | Address, number: int, *, where: str | None = None) -> Objective:
    """What one head hands on: the mean over the units of its context vectors, before the output projection,
    and over the grid (Ghiasi et al. 2022, their code's head objective).

    Args:
        block: a block, its attention or any site inside that: "blocks.5", "blocks.5.attn", ...; with `@place`
            the head is read there.
        number: which head, from 0.
        where: a region to average over instead (`regions.places_of`).

    Raises:
        BadAddress: the text is not an address, or names a unit.

    >>> head("blocks.5", 2)
    head(blocks.5, 2)
    """
    return of(Head(without_unit(block, "a head has many units"), number, where))


def attention(block: str | Address, number: int, *, queries: str = "left", keys: str = "right") -> Objective:
    """How much one head attends from some places to others: the mean attention weight over all pairs of a
    query and a key.

    By default from the left half of the grid to the right half, as in the code of Ghiasi et al. 2022, which
    multiplies it by 10,000: `1e4 * attention("blocks.5", 2)`.

    Where keys are sub-sampled, `keys` names places of the keys' own, smaller grid. Where attention looks at
    windows, only pairs within one window exist and count.

    Args:
        block: a block, its attention or any site inside that.
        number: which head, from 0.
        queries, keys: regions: "cls", "center", "3,4", "grid", "prefix", "all", "left", "right", "top",
            "bottom" or a box "2:5,0:4" (`regions.places_of`).

    Raises:
        BadAddress: the text is not an address, or names a unit or a place.

    >>> attention("blocks.5", 2, queries="cls", keys="center")
    attention(blocks.5, 2, cls -> center)
    """
    address = without_unit(block, "attention is that of a head")
    if address.place is not None:
        raise BadValue(
            f"attention has queries and keys: write queries={address.place!r}, not {str(address)!r}"
        )
    return of(Weights(address, number, queries, keys))


def attention_site(model: VisionModel, name: str, *, part: str) -> Site:
    """The "heads" or the "pattern" of the attention that a name stands for: a block's, or one of its sites'.

    Raises:
        UnknownSite: there is none; what the model says about it and the nearest are named.
    """
    stem, _, last = name.rpartition(".")
    stems = [stem] if last in PARTS and stem else [name, f"{name}.attn"]
    known = [site.name for site in model.sites if site.name.rpartition(".")[2] == part]
    for asked in stems:
        if f"{asked}.{part}" in known:
            return model.sites.named(f"{asked}.{part}")
    wanted = f"{stems[-1]}.{part}"
    notes = "".join(f"\nNote: {note}" for note in model.sites.notes if stems[-1] in note)
    raise UnknownSite(
        f"no site {wanted!r} in {model.name}, which has {len(known)} of that kind."
        f"{suggestion(wanted, known)}{notes}"
    )


def _check(number: int, heads: int, site: Site) -> None:
    if not 0 <= number < heads:
        raise UnknownAddress(f"no head {number} at {site.name}: it has {heads} heads (0..{heads - 1})")


def _pairs(site: Site, keys: Keys, queries: str, seen: str) -> Bool[Tensor, "query key"]:
    """Which pairs of a query and one of its keys lie in two regions."""
    of_keys = replace(site, name=f"the keys of {site.name}", grid=keys.grid, prefix_tokens=keys.prefix_tokens)
    asking = torch.zeros(site.places, dtype=torch.bool)
    asking[list(places_of(site, queries))] = True
    wanted = torch.zeros(of_keys.places, dtype=torch.bool)
    wanted[list(places_of(of_keys, seen))] = True
    if keys.table is None:
        table = wanted.expand(site.places, -1)
    else:
        table = wanted[keys.table.clamp(min=0)] & (keys.table >= 0)
    pairs = rearrange(asking, "query -> query 1") & table
    if not pairs.any():
        raise UnknownAddress(
            f"no query of {queries!r} sees a key of {seen!r} at {site.name}: its keys lie in windows"
        )
    return pairs
