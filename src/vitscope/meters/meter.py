"""One mergeable measurement over a stream of images: the protocol every meter follows.

A meter is a frozen description of what to measure. `start` makes the small state that a scan feeds, site by
site, while the forward pass runs. States of different shards merge, in any order and grouping; a shard must
be counted once. A state is nothing but named arrays, so it is a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

from numpy.typing import NDArray

from vitscope.errors import UnknownSite
from vitscope.meters.reading import Reading
from vitscope.models.vision_model import Site, Sites

Arrays = dict[str, NDArray[Any]]
"""A state as named arrays. Names are "<site>/<what>" where they belong to one site."""

Own = TypeVar("Own")


@runtime_checkable
class State(Protocol):
    """What a meter has seen so far."""

    def read(self, reading: Reading) -> None:
        """Take in one batch at one site. The reading is only valid during the call."""
        ...

    def merge(self: Own, other: Own) -> Own:
        """A new state that has seen what both have seen. Commutative and associative; neither is changed."""
        ...

    def arrays(self) -> Arrays:
        """All of the state, as arrays."""
        ...

    def result(self) -> Any:
        """What the measurement found, for people: a frozen value, per site where that makes sense."""
        ...


@runtime_checkable
class Meter(Protocol):
    """What to measure. Frozen; its `repr` is its name in parts and in provenance."""

    @property
    def name(self) -> str:
        """A short word, unique within one scan: "topk_maximum", "moments"."""
        ...

    def sites(self, sites: Sites) -> Sequence[Site]:
        """Which of a model's sites it wants to read."""
        ...

    def start(self, sites: Sequence[Site]) -> State:
        """A state that has seen nothing."""
        ...

    def load(self, sites: Sequence[Site], arrays: Mapping[str, NDArray[Any]]) -> State:
        """The state that `State.arrays` described."""
        ...


def matching(sites: Sites, patterns: Sequence[str]) -> list[Site]:
    """The sites that match any of several patterns, which need not all match, in forward order.

    Raises:
        UnknownSite: none does.
    """
    found: dict[str, Site] = {}
    for pattern in patterns:
        try:
            found |= {site.name: site for site in sites(pattern)}
        except UnknownSite:
            continue
    order = {site.name: index for index, site in enumerate(sites)}
    chosen = sorted(found.values(), key=lambda site: order.get(site.name, len(order)))
    return chosen or list(sites(patterns[0]))
