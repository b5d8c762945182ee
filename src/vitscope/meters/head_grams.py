"""Gram matrices of single attention heads, from which those of any set of heads follow.

The Gram matrix of several heads side by side is the sum of theirs, so one pass serves all sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from einops import rearrange

from vitscope.errors import BadValue
from vitscope.meters.gathering import GRAM, GramState
from vitscope.meters.grams import LEAST, Grams
from vitscope.meters.reading import Array, Reading
from vitscope.models.vision_model import Site, Sites


@dataclass(frozen=True)
class HeadGrams:
    """The Gram matrices of every head's context vectors, over all places.

    >>> scan(model, source, [HeadGrams("blocks.0.attn.heads", heads=3)])["head_grams"]   # doctest: +SKIP

    Args:
        site: context vectors before the output projection, head by head.
        heads: how many heads there are: `heads` of the site of the attention weights.
        gram: images in a Gram batch; see `CKA`.

    Raises:
        BadValue: no head, or a Gram batch of fewer than four images.
    """

    site: str
    heads: int = field(kw_only=True)
    gram: int = field(default=GRAM, kw_only=True)
    name = "head_grams"

    def __post_init__(self) -> None:
        if self.heads < 1 or self.gram < LEAST:
            raise BadValue(f"heads is at least 1 and gram at least {LEAST}, not {self.heads} and {self.gram}")

    def sites(self, sites: Sites) -> Sequence[Site]:
        """The site.

        Raises:
            UnknownSite: there is none.
            BadValue: its units are no multiple of the heads.
        """
        found = sites.named(self.site)
        if found.units % self.heads:
            raise BadValue(f"{found.name} has {found.units} units, which {self.heads} heads cannot share")
        return [found]

    def start(self, sites: Sequence[Site]) -> HeadGramsState:
        """A state that has seen nothing."""
        return HeadGramsState(self, sites[0])

    def load(self, sites: Sequence[Site], arrays: Mapping[str, Array]) -> HeadGramsState:
        """The state that `HeadGramsState.arrays` described."""
        return self.start(sites).loaded(arrays)


class HeadGramsState(GramState):
    """The Gram matrices so far, of every head."""

    def __init__(self, meter: HeadGrams, site: Site) -> None:
        self.meter, self._site = meter, site
        size = site.places * site.units // meter.heads
        super().__init__({f"{site.name}/{head}": size for head in range(meter.heads)}, meter.gram)

    def fresh(self) -> HeadGramsState:
        """A state of the same meter that has seen nothing."""
        return HeadGramsState(self.meter, self._site)

    def read(self, reading: Reading) -> None:
        """Take in one batch. How images are batched in passes changes nothing."""
        values = reading.activations.detach().float().cpu()
        heads = rearrange(values, "image place (head one) -> head image (place one)", head=self.meter.heads)
        for head, features in enumerate(heads):
            name = f"{reading.site.name}/{head}"
            self.take(name, reading.batch.ids, np.ascontiguousarray(features.numpy()))


def of_sets(grams: Grams, sets: Sequence[Sequence[int]]) -> Grams:
    """The Gram matrices of sets of heads, each as if its heads stood side by side.

    Args:
        grams: of single heads.
        sets: which heads; each head at most once in a set.
    """
    chosen = np.array([[head in of for head in range(len(grams.sites))] for of in sets], np.float64)
    names = tuple("+".join(map(str, of)) for of in sets)
    values = tuple((chosen @ each).astype(np.float32) for each in grams.values)
    return Grams(names, grams.ids, values, grams.dropped)
