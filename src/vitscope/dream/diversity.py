"""Several dreams of one objective that differ: a unit often looks for more than one thing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Tensor

from vitscope.address import Address
from vitscope.arrays import Activations, Scores, widened
from vitscope.dream.objectives import Objective, without_unit
from vitscope.dream.readouts import Reading, on_grid
from vitscope.errors import BadAddress, BadValue
from vitscope.models.vision_model import VisionModel

WEIGHT = 1.0
"""Of the mean cosine similarity. Ours, from 4 canvases of one unit of a ViT-Ti that reaches 1.2: at 1 their
similarity fell from 0.88 to 0.71 and the unit stayed at 1.2; at 2 it fell to 0.26, and the unit to 0.4.
"""

Grams: TypeAlias = Float[Tensor, "canvas copy unit other"]
"""How much any two units are active at the same places; of Frobenius norm 1."""


@dataclass(frozen=True)
class Alike(Reading):
    """How alike the activations of several canvases are.

    Attributes:
        count: how many canvases.
    """

    count: int

    @property
    def canvases(self) -> int:
        """How many canvases it compares."""
        return self.count

    def read(self, activations: Activations) -> Scores:
        """Of every image, the mean cosine similarity of its Gram matrix with those of the other canvases, the
        same copy of each. The images of one canvas are in a row.
        """
        places = rearrange(
            widened(on_grid(self.site, activations)),
            "(canvas copy) place unit -> canvas copy place unit",
            canvas=self.count,
        )
        grams = _normed(einsum(places, places, "c n place unit, c n place other -> c n unit other"))
        to_all = einsum(grams, grams.sum(dim=0), "canvas copy unit other, copy unit other -> canvas copy")
        to_itself = grams.square().sum(dim=(2, 3))
        alike = (to_all - to_itself) / (self.count - 1)
        return rearrange(alike, "canvas copy -> (canvas copy)")


@dataclass(frozen=True)
class Similarity:
    """How alike several canvases are at a site."""

    address: Address
    count: int

    def resolve(self, model: VisionModel) -> Reading:
        """Find the site."""
        return Alike(model.site(self.address), self.count)

    def __repr__(self) -> str:
        return f"similarity({self.address}, {self.count} canvases)"


class Diverse(Objective):
    """An objective with several canvases, each a dream of its own; it can be added and multiplied like any
    other.
    """

    def __radd__(self, other: Objective) -> Diverse:
        return self + other if isinstance(other, Objective) else NotImplemented

    def __rsub__(self, other: Objective) -> Diverse:
        return -self + other if isinstance(other, Objective) else NotImplemented


def diverse(
    objective: Objective, *, count: int = 4, weight: float | int = WEIGHT, site: str | Address | None = None
) -> Diverse:
    """Several dreams of one objective that differ: their canvases are climbed together and pushed apart.

    From every canvas's score is subtracted `weight` times its mean similarity with the others: the cosine
    similarity of the Gram matrices of their activations, that is of how much any two units are active at the
    same places, wherever these are (lucid `objectives.diversity`, which sums over the others). The traces of
    these dreams count what similarity costs; `score` and `robust` are those of each picture by itself.

    Args:
        objective: what all of them are to excite.
        count: how many dreams.
        weight: what similarity costs, in units of the objective; similarities lie in [0, 1].
        site: where they are to differ; None for where the objective looks first. Hidden layers suit; in late
            residual streams a few large units make all images alike.

    Raises:
        BadValue: `count` is less than 2, a weight is not finite, or the objective is diverse already.
        BadAddress: the site is no address, or names a unit.

    >>> diverse(unit("blocks.5.ffn:40"), count=3)
    1.0*unit(blocks.5.ffn:40) - 1.0*similarity(blocks.5.ffn, 3 canvases)
    """
    if count < 2:
        raise BadValue(f"count must be at least 2 for canvases to differ, not {count}")
    if not math.isfinite(weight):
        raise BadValue(f"an objective's weight must be finite, not {weight}")
    if isinstance(objective, Diverse):
        raise BadValue(f"{objective!r} is diverse already")
    address = without_unit(site, "canvases differ in all units of a site") if site else _first(objective)
    terms = (*objective.terms, (-float(weight), Similarity(Address(address.site), count)))
    return Diverse(terms, objective.begin)


def _first(objective: Objective) -> Address:
    address = getattr(objective.terms[0][1], "address", None)
    if not isinstance(address, Address):
        raise BadAddress(f"say where canvases of {objective!r} are to differ: site='blocks.5'")
    return address


def _normed(grams: Grams) -> Grams:
    norms = torch.linalg.vector_norm(grams, dim=(2, 3), keepdim=True)
    normed: Tensor = grams / norms.clamp(min=torch.finfo(norms.dtype).tiny)
    return normed
