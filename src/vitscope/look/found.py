"""What was found in one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from PIL import Image

from vitscope.look.glance import Groups, Guess, Head, Reach
from vitscope.look.units import Firing
from vitscope.provenance import Provenance


@dataclass(frozen=True, eq=False)
class Found:
    """One picture, as a model sees it.

    Attributes:
        picture: what the model was shown, in twice the pixels or more.
        guesses: the first classes of its answer, with their probabilities.
        heads: where each head of every block looks; none of a model without attention.
        rollout: attention rolled out to the input, block by block; none where it cannot be.
        units: those that fire most, site by site, best first.
        groups: places that are alike, site by site.
        notes: what a reader must know: parts that were left out and why, artefacts.
        provenance: how it was made.
        thumbnail: an exemplar's picture by its identity, as WebP; None where there is none.
    """

    picture: Image.Image = field(repr=False)
    guesses: tuple[Guess, ...]
    heads: tuple[Head, ...] = field(repr=False)
    rollout: tuple[Reach, ...] = field(repr=False)
    units: tuple[Firing, ...] = field(repr=False)
    groups: tuple[Groups, ...] = field(repr=False)
    notes: tuple[str, ...]
    provenance: Provenance = field(repr=False)
    thumbnail: Callable[[str], bytes | None] = field(default=lambda _: None, repr=False)

    @property
    def image(self) -> str:
        """The name of the picture's file."""
        return str(self.provenance.settings["image"])


def by_site(found: Sequence[Any]) -> list[tuple[str, list[Any]]]:
    """What was found in groups of one site, in order."""
    named: Iterable[tuple[str, Any]] = groupby(found, key=site_of)
    return [(site, list(of)) for site, of in named]


def site_of(one: Any) -> str:
    """Where something was found."""
    return str(one.address.site if isinstance(one, Firing) else one.site)
