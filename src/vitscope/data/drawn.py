"""A source in random order: what neighbours in a source have in common, such as their class, is spread."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import cached_property

from vitscope.data.derived import Derived
from vitscope.data.source import ImageSource, RawImage, Shard, Skipped
from vitscope.draws import generator


class Drawn(Derived):
    """All entries of a source, in an order drawn without replacement. Equal seeds draw equal orders.

    Args:
        source: the source; one that finds single entries quickly, as folders and tar files do.
        seed: of the order.
    """

    def __init__(self, source: ImageSource, *, seed: int = 0) -> None:
        super().__init__(source, [f"drawn with seed {seed}"])
        self._order: list[int] = generator(seed, "order of a source").permutation(len(source)).tolist()
        text = f"{source.fingerprint}\n{self._order}"
        self.fingerprint = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """The name of every entry, in the drawn order."""
        every = super().paths
        return tuple(every[place] for place in self._order)

    def read(self, shard: Shard) -> Iterator[RawImage | Skipped]:
        """The entries of a shard of the drawn order."""
        for place in self._order[shard.start : shard.stop]:
            yield from self._source.read(Shard(f"{shard.id}/{place}", place, place + 1))
